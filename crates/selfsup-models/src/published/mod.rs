//! What stands beside published weights: how images are prepared for them, and, by [`network`], what their network computes.
//!
//! `preprocessor_config.json` is transformers' (`image_mean`, `image_std`, `size`, `crop_size` or `crop_pct`, `resample`, `rescale_factor`),
//! `config.json` timm's (`pretrained_cfg` with `mean`, `std`, `input_size`, `crop_pct`, `interpolation`), of which transformers' own
//! `config.json` has nothing. A field that is `null` says as much as one that is not there, but for what is done: transformers writes
//! `"do_center_crop": null` for what is not. Where timm's says no `crop_pct` or `interpolation`, timm takes .875 and bicubic.

pub(crate) mod network;
mod timm;
mod transformers;

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
    for (name, read) in [("preprocessor_config.json", transformers::read as Reader), (CONFIG, timm::read)] {
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

/// What transformers and timm call what they say of a model.
const CONFIG: &str = "config.json";

/// A larger side is no encoder's input: a transformer's positions for it would fill the memory.
const MOST: u64 = 4096;

/// A field, and what is wrong with it.
type Problem = (&'static str, String);
type Reader = fn(&Value) -> std::result::Result<Option<Said>, Problem>;

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

/// A field that says something.
fn field<'a>(json: &'a Value, name: &str) -> Option<&'a Value> {
    json.get(name).filter(|value| !value.is_null())
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
mod tests;
