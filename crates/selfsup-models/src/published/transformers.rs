//! transformers' `preprocessor_config.json`.

use super::{Problem, Said, Shorter, channels, crop_pct, field, filter, pixels};
use crate::CropMode;
use serde_json::Value;

pub(super) fn read(json: &Value) -> Result<Option<Said>, Problem> {
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

/// The side of square images: a number, `[height, width]`, or an object of sides by name.
fn side(json: &Value, name: &'static str) -> Result<Option<usize>, Problem> {
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
