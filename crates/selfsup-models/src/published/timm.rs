//! timm's `config.json`.

use super::{Problem, Said, Shorter, channels, crop_pct, field, filter, pixels};
use crate::{CropMode, Interpolation};
use serde_json::Value;

pub(super) fn read(json: &Value) -> Result<Option<Said>, Problem> {
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
