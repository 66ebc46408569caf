//! What stands beside published weights: how images are prepared for them.
//!
//! `preprocessor_config.json` is transformers' (`image_mean`, `image_std`, `size`, `crop_size` or `crop_pct`, `resample`, `rescale_factor`),
//! `config.json` timm's (`pretrained_cfg` with `mean`, `std`, `input_size`, `crop_pct`, `interpolation`), of which transformers' own
//! `config.json` has nothing. A field that is `null` says as much as one that is not there, but for what is done: transformers writes
//! `"do_center_crop": null` for what is not. Where timm's says no `crop_pct` or `interpolation`, timm takes .875 and bicubic.

use crate::{CropMode, Error, Interpolation, Preprocessing, Result};
use serde_json::Value;
use std::path::Path;

/// How images are prepared, as far as a file says so.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Said {
    /// The file's name.
    pub by: String,
    pub image_size: Option<usize>,
    pub shorter: Option<Shorter>,
    pub interpolation: Option<Interpolation>,
    pub crop_mode: Option<CropMode>,
    pub mean: Option<[f32; 3]>,
    pub std: Option<[f32; 3]>,
    /// What else it says, which is not followed.
    pub not_followed: Vec<String>,
}

/// The side, the shorter one if not both, that images are resized to before their central square is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Shorter {
    Pixels(usize),
    /// The square's side is this share of it.
    CropPct(f64),
}

impl Said {
    /// What is said, and what is usual where nothing is.
    pub(crate) fn or(&self, usual: Preprocessing) -> Preprocessing {
        let usual = self.image_size.map(|side| usual.at(side)).unwrap_or(usual);
        let resize = match self.shorter {
            Some(Shorter::Pixels(side)) => side,
            Some(Shorter::CropPct(share)) => (usual.image_size as f64 / share).floor() as usize,
            None => usual.resize,
        };
        Preprocessing {
            resize,
            interpolation: self.interpolation.unwrap_or(usual.interpolation),
            crop_mode: self.crop_mode.unwrap_or(usual.crop_mode),
            mean: self.mean.unwrap_or(usual.mean),
            std: self.std.unwrap_or(usual.std),
            ..usual
        }
    }
}

/// What the folder of a weight file says; `None` if it says nothing.
///
/// # Errors
/// [`Error::Metadata`] for what cannot be understood, [`Error::Io`] for what cannot be read.
pub(crate) fn beside(weights: &Path) -> Result<Option<Said>> {
    let folder = weights.parent().unwrap_or(Path::new("."));
    for (name, read) in [("preprocessor_config.json", transformers as Reader), ("config.json", timm)] {
        let path = folder.join(name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(Error::Io { path, source }),
        };
        // Another program's `config.json` may lie there too.
        let Ok(json) = serde_json::from_str::<Value>(&text) else { continue };
        let said = read(&json).map_err(|(field, problem)| Error::Metadata { path, field, problem })?;
        if let Some(said) = said {
            return Ok(Some(Said { by: name.to_owned(), ..said }));
        }
    }
    Ok(None)
}

/// A larger side is no encoder's input: a transformer's positions for it would fill the memory.
const MOST: u64 = 4096;

/// A field, and what is wrong with it.
type Problem = (&'static str, String);
type Reader = fn(&Value) -> std::result::Result<Option<Said>, Problem>;

fn transformers(json: &Value) -> std::result::Result<Option<Said>, Problem> {
    if ["image_mean", "size", "crop_size"].iter().all(|name| field(json, name).is_none()) {
        return Ok(None);
    }
    let done = |name: &str| json.get(name).is_none_or(|done| done.as_bool().unwrap_or(!done.is_null()));
    let (mean, std) = if done("do_normalize") {
        (channels(json, "image_mean")?, channels(json, "image_std")?)
    } else {
        (Some([0.0; 3]), Some([1.0; 3]))
    };
    // Numbers of 0…1 are what `mean` and `std` are of here; another scale is a factor of both.
    let scale = match (done("do_rescale"), field(json, "rescale_factor")) {
        (false, _) => 255.0,
        (true, None) => 1.0,
        (true, Some(factor)) => {
            scale(factor).ok_or_else(|| ("rescale_factor", format!("no number above 0: {factor}")))?
        }
    };
    let scaled = |values: Option<[f32; 3]>| values.map(|values| values.map(|value| value / scale));
    let crop = if done("do_center_crop") { side(json, "crop_size")? } else { None };
    let image_size = crop.map_or_else(|| side(json, "size"), |crop| Ok(Some(crop)))?;
    let mut said = Said { image_size, mean: scaled(mean), std: scaled(std), ..Said::default() };
    for more in ["do_flip_channel_order", "do_pad"] {
        if field(json, more).is_some_and(|more| *more == Value::Bool(true)) {
            said.not_followed.push(format!("{more} true"));
        }
    }
    if !done("do_resize") {
        said.not_followed.push("do_resize false".into());
        return Ok(Some(said));
    }
    let (interpolation, other) = filter(json, "resample");
    said.interpolation = interpolation;
    said.not_followed.extend(other);
    let Some(size) = field(json, "size") else { return Ok(Some(said)) };
    let crop_mode = crop_mode_of(json, size);
    match (crop_mode, side(json, "size").ok().flatten(), image_size, crop_pct(json)?) {
        // ConvNext's processor, which residual networks have too.
        (Some(CropMode::Center), Some(side), _, Some(share)) if crop.is_none() => {
            let crops = side < CONVNEXT_CROPS_BELOW;
            said.shorter = Some(if crops { Shorter::CropPct(share) } else { Shorter::Pixels(side) });
            said.crop_mode = Some(if crops { CropMode::Center } else { CropMode::Squash });
        }
        (Some(_), Some(side), Some(square), None) if side >= square => {
            said.shorter = Some(Shorter::Pixels(side));
            said.crop_mode = crop_mode;
        }
        _ => said.not_followed.push(format!("size {size}")),
    }
    Ok(Some(said))
}

/// From this side on transformers' `ConvNextImageProcessor` resizes to squares, and crops nothing.
const CONVNEXT_CROPS_BELOW: usize = 384;

/// Whether a size is that of the shorter side or of both; `None` if it is neither.
fn crop_mode_of(json: &Value, size: &Value) -> Option<CropMode> {
    if size.is_number() {
        return Some(if is_number_shorter_side(json) { CropMode::Center } else { CropMode::Squash });
    }
    match ["shortest_edge", "longest_edge"].map(|name| field(size, name).is_some()) {
        [true, false] => Some(CropMode::Center),
        [false, false] => Some(CropMode::Squash),
        _ => None,
    }
}

/// Whether a number is the shorter side, as by these processors (`default_to_square = False` in transformers), or both, as by all others,
/// which ViT's and DeiT's are among.
fn is_number_shorter_side(json: &Value) -> bool {
    const SHORTER: [&str; 7] = ["Bit", "CLIP", "ConvNext", "Levit", "MobileNet", "MobileViT", "PoolFormer"];
    let processor =
        ["image_processor_type", "feature_extractor_type"].into_iter().find_map(|name| field(json, name));
    processor.and_then(Value::as_str).is_none_or(|name| SHORTER.iter().any(|prefix| name.starts_with(prefix)))
}

/// The filter of a resize, or what else is said of it: PIL's numbers, or a name.
fn filter(json: &Value, name: &str) -> (Option<Interpolation>, Option<String>) {
    let Some(value) = field(json, name) else { return (None, None) };
    match (value.as_u64(), value.as_str()) {
        (Some(2), _) | (_, Some("bilinear")) => (Some(Interpolation::Bilinear), None),
        (Some(3), _) | (_, Some("bicubic")) => (Some(Interpolation::Bicubic), None),
        _ => (None, Some(format!("{name} {value}"))),
    }
}

/// A share of what was resized. Less than a quarter nobody sees; it would make images larger than any memory.
fn crop_pct(json: &Value) -> std::result::Result<Option<f64>, Problem> {
    let Some(value) = field(json, "crop_pct") else { return Ok(None) };
    let share = value.as_f64().filter(|share| (0.25..=1.0).contains(share));
    share.map(Some).ok_or_else(|| ("crop_pct", format!("no share from 0.25 to 1: {value}")))
}

fn timm(json: &Value) -> std::result::Result<Option<Said>, Problem> {
    // Files of before 2023 have the fields at the top; others' files that lie there may have some of them, of another meaning.
    let json = match field(json, "pretrained_cfg") {
        Some(config) => config,
        None if field(json, "architecture").and(field(json, "input_size")).is_some() => json,
        None => return Ok(None),
    };
    if field(json, "mean").is_none() && field(json, "input_size").is_none() {
        return Ok(None);
    }
    let image_size = match field(json, "input_size") {
        None => None,
        Some(sides) => match sides.as_array().map(Vec::as_slice) {
            Some([_, height, width]) if height == width => Some(pixels("input_size", height)?),
            _ => return Err(("input_size", format!("not [channels, side, side]: {sides}"))),
        },
    };
    let (interpolation, other) = filter(json, "interpolation");
    let (crop_mode, other_mode) = match field(json, "crop_mode").map(|mode| (mode, mode.as_str())) {
        None | Some((_, Some("center"))) => (CropMode::Center, None),
        Some((_, Some("squash"))) => (CropMode::Squash, None),
        Some((mode, _)) => (CropMode::Center, Some(format!("crop_mode {mode}"))),
    };
    let other = other.into_iter().chain(other_mode);
    Ok(Some(Said {
        image_size,
        shorter: Some(Shorter::CropPct(crop_pct(json)?.unwrap_or(TIMMS.0))),
        interpolation: Some(interpolation.unwrap_or(TIMMS.1)),
        crop_mode: Some(crop_mode),
        mean: channels(json, "mean")?,
        std: channels(json, "std")?,
        not_followed: other.collect(),
        ..Said::default()
    }))
}

/// What timm takes where its configuration says no share and no filter (`timm.data.DEFAULT_CROP_PCT`, `resolve_data_config`).
const TIMMS: (f64, Interpolation) = (0.875, Interpolation::Bicubic);

/// A field that says something.
fn field<'a>(json: &'a Value, name: &str) -> Option<&'a Value> {
    json.get(name).filter(|value| !value.is_null())
}

/// The side of square images: a number, `[height, width]`, or an object of sides by name.
fn side(json: &Value, name: &'static str) -> std::result::Result<Option<usize>, Problem> {
    let Some(value) = field(json, name) else { return Ok(None) };
    let square = |height: &Value, width: &Value| match height == width {
        true => pixels(name, height).map(Some),
        false => Err((name, format!("not square: {height} by {width}"))),
    };
    match value {
        Value::Array(sides) => match &sides[..] {
            [height, width] => square(height, width),
            _ => Err((name, format!("not [height, width]: {value}"))),
        },
        Value::Object(_) => match ["height", "width", "shortest_edge"].map(|side| field(value, side)) {
            [Some(height), Some(width), _] => square(height, width),
            sides => sides.into_iter().flatten().next().map(|side| pixels(name, side)).transpose(),
        },
        side => pixels(name, side).map(Some),
    }
}

/// What a factor makes of 255: finite, and above 0.
fn scale(factor: &Value) -> Option<f32> {
    let white = (factor.as_f64()? * 255.0) as f32;
    (white.is_finite() && white > 0.0).then_some(white)
}

/// Three finite numbers; a deviation is above 0.
fn channels(json: &Value, name: &'static str) -> std::result::Result<Option<[f32; 3]>, Problem> {
    let Some(value) = field(json, name) else { return Ok(None) };
    let numbers: Option<Vec<f32>> =
        value.as_array().and_then(|list| list.iter().map(|v| v.as_f64().map(|v| v as f32)).collect());
    let three: Option<[f32; 3]> = numbers.and_then(|numbers| numbers.try_into().ok());
    let least = if name.ends_with("std") { f32::MIN_POSITIVE } else { f32::MIN };
    match three.filter(|three| three.iter().all(|v| v.is_finite() && *v >= least)) {
        Some(three) => Ok(Some(three)),
        None => Err((name, format!("not three numbers of colour channels: {value}"))),
    }
}

fn pixels(name: &'static str, value: &Value) -> std::result::Result<usize, Problem> {
    value
        .as_u64()
        .filter(|side| (1..=MOST).contains(side))
        .map(|side| side as usize)
        .ok_or_else(|| (name, format!("no side in pixels: {value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(files: &[(&str, &str)]) -> Result<Option<Said>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        beside(&folder.path().join("model.safetensors"))
    }

    #[test]
    fn transformers_files_are_read() {
        let vit = r#"{"do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.25],
            "rescale_factor": 0.00392156862745098, "size": {"height": 224, "width": 224}}"#;
        let got = said(&[("preprocessor_config.json", vit), ("config.json", "{}")]).unwrap().unwrap();
        let by = "preprocessor_config.json".to_owned();
        let mean = Some([0.5; 3]);
        let expected = Said {
            by,
            image_size: Some(224),
            shorter: Some(Shorter::Pixels(224)),
            crop_mode: Some(CropMode::Squash),
            mean,
            std: Some([0.5, 0.5, 0.25]),
            ..Said::default()
        };
        assert_eq!(got, expected);
        // Older ones: a number, and a crop; images of -1…1 by their factor; none of it done.
        let crop = r#"{"size": 256, "crop_size": {"height": 224, "width": 224}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}"#;
        assert_eq!(said(&[("preprocessor_config.json", crop)]).unwrap().unwrap().image_size, Some(224));
        let scaled = r#"{"size": {"shortest_edge": 96}, "image_mean": [1, 1, 1], "image_std": [1, 1, 1], "rescale_factor": 0.00784313725490196}"#;
        let got = said(&[("preprocessor_config.json", scaled)]).unwrap().unwrap();
        assert_eq!((got.image_size, got.mean, got.std), (Some(96), mean, Some([0.5; 3])));
        let none = r#"{"size": 96, "do_normalize": false, "image_mean": [9, 9, 9]}"#;
        let got = said(&[("preprocessor_config.json", none)]).unwrap().unwrap();
        assert_eq!((got.mean, got.std), (Some([0.0; 3]), Some([1.0; 3])));
    }

    #[test]
    fn what_is_null_says_nothing_and_is_not_done() {
        let read = |text: &str| said(&[("preprocessor_config.json", text)]).unwrap();
        // As transformers' fast processors are saved.
        let fast = r#"{"crop_size": null, "do_center_crop": null, "do_normalize": true, "do_rescale": true, "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.25, 0.25, 0.25], "rescale_factor": 0.00392156862745098,
            "size": {"height": 224, "width": 224, "shortest_edge": null}}"#;
        let got = read(fast).unwrap();
        assert_eq!((got.image_size, got.mean, got.std), (Some(224), Some([0.5; 3]), Some([0.25; 3])));
        // A crop that is not done has no say, nor has a mean that is not subtracted.
        let undone = r#"{"size": 96, "crop_size": 64, "do_center_crop": null, "do_normalize": null, "image_mean": [0.5, 0.5, 0.5],
            "image_std": null}"#;
        let got = read(undone).unwrap();
        assert_eq!((got.image_size, got.mean, got.std), (Some(96), Some([0.0; 3]), Some([1.0; 3])));
        let bytes = r#"{"size": [32, 32], "do_rescale": null, "image_mean": [51, 51, 51], "image_std": [255, 255, 255]}"#;
        let got = read(bytes).unwrap();
        assert_eq!((got.image_size, got.mean, got.std), (Some(32), Some([0.2; 3]), Some([1.0; 3])));
        let absent = r#"{"size": 32, "image_mean": null, "image_std": null, "rescale_factor": null}"#;
        let got = read(absent).unwrap();
        assert_eq!((got.image_size, got.mean, got.std), (Some(32), None, None));
        assert_eq!(read(r#"{"size": null, "image_mean": null}"#), None);
        let timm = r#"{"pretrained_cfg": {"input_size": null, "mean": [0.4, 0.5, 0.6], "std": null}}"#;
        let got = said(&[("config.json", timm)]).unwrap().unwrap();
        assert_eq!((got.image_size, got.mean, got.std), (None, Some([0.4, 0.5, 0.6]), None));
        assert_eq!(said(&[("config.json", r#"{"pretrained_cfg": null}"#)]).unwrap(), None);
    }

    #[test]
    fn timms_files_are_read() {
        let new = r#"{"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 288, 288], "mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3]}}"#;
        let got = said(&[("config.json", new)]).unwrap().unwrap();
        let (mean, std) = (Some([0.4, 0.5, 0.6]), Some([0.1, 0.2, 0.3]));
        let expected = Said {
            by: "config.json".into(),
            image_size: Some(288),
            mean,
            std,
            shorter: Some(Shorter::CropPct(0.875)),
            interpolation: Some(Interpolation::Bicubic),
            crop_mode: Some(CropMode::Center),
            not_followed: vec![],
        };
        assert_eq!(got, expected);
        let old = r#"{"architecture": "resnet18", "input_size": [3, 96, 96], "mean": [0.4, 0.5, 0.6]}"#;
        let got = said(&[("config.json", old)]).unwrap().unwrap();
        assert_eq!((got.image_size, got.mean, got.std), (Some(96), mean, None));
        // What others call so says nothing.
        for other in [
            r#"{"mean": 0.5, "lr": 1}"#,
            r#"{"input_size": 784, "hidden": 10}"#,
            r#"{"architecture": "mlp", "mean": 0.5}"#,
        ] {
            assert_eq!(said(&[("config.json", other)]).unwrap(), None, "{other}");
        }
        assert_eq!(
            said(&[("config.json", r#"{"model_type": "resnet", "hidden_sizes": [1]}"#)]).unwrap(),
            None
        );
        assert_eq!(said(&[("config.json", "not JSON at all")]).unwrap(), None);
        assert_eq!(said(&[]).unwrap(), None);
    }

    #[test]
    fn what_is_not_followed_is_named() {
        let not = |name: &str, text: &str| said(&[(name, text)]).unwrap().unwrap().not_followed;
        let timm =
            r#"{"pretrained_cfg": {"mean": [0, 0, 0], "interpolation": "lanczos", "crop_mode": "border"}}"#;
        assert_eq!(not("config.json", timm), [r#"interpolation "lanczos""#, r#"crop_mode "border""#]);
        for (text, words) in [
            (r#"{"size": 9, "do_resize": false}"#, "do_resize false"),
            (r#"{"size": 9, "resample": 1}"#, "resample 1"),
            // Which of two shares; a square of what is smaller; a side that the longer one limits.
            (
                r#"{"size": {"height": 384, "width": 384}, "crop_pct": 0.875}"#,
                r#"size {"height":384,"width":384}"#,
            ),
            (
                r#"{"size": {"shortest_edge": 256}, "crop_size": 224, "crop_pct": 0.875}"#,
                r#"size {"shortest_edge":256}"#,
            ),
            (r#"{"size": 200, "crop_size": 224}"#, "size 200"),
            (r#"{"size": 9, "do_flip_channel_order": true}"#, "do_flip_channel_order true"),
            (
                r#"{"size": {"shortest_edge": 224, "longest_edge": 256}}"#,
                r#"size {"longest_edge":256,"shortest_edge":224}"#,
            ),
        ] {
            assert_eq!(not("preprocessor_config.json", text), [words], "{text}");
        }
    }

    #[test]
    fn what_images_are_cut_from_is_followed() {
        use Interpolation::{Bicubic, Bilinear};
        let usual = Preprocessing::rgb(32, [0.5; 3], [0.25; 3]);
        for (name, text, expected) in [
            ("config.json", r#"{"pretrained_cfg": {"mean": [0, 0, 0]}}"#, (32, 36, Bicubic)),
            ("config.json", r#"{"pretrained_cfg": {"input_size": [3, 224, 224]}}"#, (224, 256, Bicubic)),
            (
                "config.json",
                r#"{"pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bilinear", "crop_mode": "center"}}"#,
                (224, 235, Bilinear),
            ),
            (
                "config.json",
                r#"{"pretrained_cfg": {"input_size": [3, 288, 288], "crop_pct": 1.0}}"#,
                (288, 288, Bicubic),
            ),
            (
                "preprocessor_config.json",
                r#"{"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3}"#,
                (224, 256, Bicubic),
            ),
            (
                "preprocessor_config.json",
                r#"{"size": 256, "crop_size": 224, "resample": 2}"#,
                (224, 256, Bilinear),
            ),
            // ConvNext's, which transformers' residual networks have.
            (
                "preprocessor_config.json",
                r#"{"size": 224, "crop_pct": 0.875, "resample": 3}"#,
                (224, 256, Bicubic),
            ),
            ("preprocessor_config.json", r#"{"size": 96}"#, (96, 96, Bilinear)),
            (
                "preprocessor_config.json",
                r#"{"size": {"shortest_edge": 256}, "do_center_crop": null}"#,
                (256, 256, Bilinear),
            ),
        ] {
            let said = said(&[(name, text)]).unwrap().unwrap();
            let Preprocessing { image_size, resize, interpolation, .. } = said.or(usual.clone());
            assert_eq!((image_size, resize, interpolation), expected, "{text}");
            assert!(said.not_followed.is_empty(), "{text}: {:?}", said.not_followed);
        }
    }

    #[test]
    fn what_is_resized_to_a_square_is_followed() {
        use CropMode::{Center, Squash};
        let usual = Preprocessing::rgb(32, [0.5; 3], [0.25; 3]);
        for (name, text, expected) in [
            (
                "config.json",
                r#"{"pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.875, "crop_mode": "squash"}}"#,
                (224, 256, Squash),
            ),
            ("config.json", r#"{"pretrained_cfg": {"input_size": [3, 224, 224]}}"#, (224, 256, Center)),
            ("preprocessor_config.json", r#"{"size": {"height": 96, "width": 96}}"#, (96, 96, Squash)),
            ("preprocessor_config.json", r#"{"size": [96, 96]}"#, (96, 96, Squash)),
            (
                "preprocessor_config.json",
                r#"{"size": {"height": 256, "width": 256}, "crop_size": 224}"#,
                (224, 256, Squash),
            ),
            // ConvNext's, where it crops no more.
            (
                "preprocessor_config.json",
                r#"{"size": {"shortest_edge": 384}, "crop_pct": 0.875}"#,
                (384, 384, Squash),
            ),
            // A number means what the processor takes it for.
            (
                "preprocessor_config.json",
                r#"{"size": 96, "feature_extractor_type": "ViTFeatureExtractor"}"#,
                (96, 96, Squash),
            ),
            (
                "preprocessor_config.json",
                r#"{"size": 256, "crop_size": 224, "image_processor_type": "DeiTImageProcessor"}"#,
                (224, 256, Squash),
            ),
            (
                "preprocessor_config.json",
                r#"{"size": 256, "crop_size": 224, "image_processor_type": "BitImageProcessor"}"#,
                (224, 256, Center),
            ),
            (
                "preprocessor_config.json",
                r#"{"size": 224, "crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor"}"#,
                (224, 256, Center),
            ),
            ("preprocessor_config.json", r#"{"size": 256, "crop_size": 224}"#, (224, 256, Center)),
        ] {
            let said = said(&[(name, text)]).unwrap().unwrap();
            let Preprocessing { image_size, resize, crop_mode, .. } = said.or(usual.clone());
            assert_eq!((image_size, resize, crop_mode), expected, "{text}");
            assert!(said.not_followed.is_empty(), "{text}: {:?}", said.not_followed);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        const TIMM: &str = "config.json";
        const TRANSFORMERS: &str = "preprocessor_config.json";
        for (name, text, field) in [
            (TIMM, r#"{"pretrained_cfg": {"mean": [0.5, 0.5], "std": [1, 1, 1]}}"#, "mean"),
            (TIMM, r#"{"pretrained_cfg": {"mean": [0, 0, 0], "std": [0, 1, 1]}}"#, "std"),
            (TIMM, r#"{"pretrained_cfg": {"mean": [0, 0, 0], "input_size": [3, 224, 160]}}"#, "input_size"),
            (TIMM, r#"{"pretrained_cfg": {"mean": [0, 0, 0], "input_size": [3, 0, 0]}}"#, "input_size"),
            (TIMM, r#"{"architecture": "vit", "input_size": 224}"#, "input_size"),
            (TIMM, r#"{"pretrained_cfg": {"mean": [0, 0, 0], "crop_pct": 1e-9}}"#, "crop_pct"),
            (TIMM, r#"{"pretrained_cfg": {"mean": [0, 0, 0], "crop_pct": 1.5}}"#, "crop_pct"),
            (TRANSFORMERS, r#"{"size": 224, "crop_pct": "all"}"#, "crop_pct"),
            (TRANSFORMERS, r#"{"size": {"height": 224, "width": 160}}"#, "size"),
            (TRANSFORMERS, r#"{"size": [224, 160]}"#, "size"),
            (TRANSFORMERS, r#"{"size": [224]}"#, "size"),
            (TRANSFORMERS, r#"{"size": -1}"#, "size"),
            (TRANSFORMERS, r#"{"size": 4097}"#, "size"),
            (TRANSFORMERS, r#"{"size": 9, "image_mean": "none"}"#, "image_mean"),
            (TRANSFORMERS, r#"{"size": 9, "rescale_factor": 0}"#, "rescale_factor"),
            (TRANSFORMERS, r#"{"size": 9, "rescale_factor": -0.1}"#, "rescale_factor"),
            (TRANSFORMERS, r#"{"size": 9, "rescale_factor": 1e300}"#, "rescale_factor"),
            (TRANSFORMERS, r#"{"size": 9, "rescale_factor": "1/255"}"#, "rescale_factor"),
        ] {
            let error = said(&[(name, text)]).unwrap_err().to_string();
            assert!(error.contains(field) && error.contains(name), "{error}");
        }
    }
}
