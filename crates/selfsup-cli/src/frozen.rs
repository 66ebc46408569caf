//! An ENCODER of the command line: a run folder, an encoder file, `random:ARCH` or `pixels`.

use crate::args::ExtractArgs;
use crate::failure::{Failure, OrUsage, Result};
use crate::output;
use crate::progress::Progress;
use anyhow::anyhow;
use candle_core::Device;
use selfsup_data::{Dataset, Source};
use selfsup_models::{Encoder, Layer, Preprocessing, arch};
use selfsup_probe::{ExtractConfig, Features, Frozen, extract, extract_layers};
use selfsup_train::Normalization;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Side of `pixels` where `--image-size` does not say: more would make the probe's features too many.
pub const PIXELS_IMAGE_SIZE: u32 = 32;

/// Opens an ENCODER. What does not exist or cannot be read is a usage error.
pub fn open(text: &str, args: &ExtractArgs) -> Result<Frozen> {
    let device = selfsup_train::device(&args.device).or_usage()?;
    let image_size = args.image_size.map(u32::try_from).transpose().or_usage()?;
    if text == "pixels" {
        return Ok(Frozen::Pixels { image_size: image_size.unwrap_or(PIXELS_IMAGE_SIZE) });
    }
    if let Some(name) = text.strip_prefix("random:") {
        let arch = arch(name).or_usage()?;
        let Normalization { mean, std } = Normalization::IMAGENET;
        let preprocessing = Preprocessing::rgb(image_size.map_or(arch.image_size, |n| n as usize), mean, std);
        return Ok(Frozen::Encoder(Encoder::untrained(arch, preprocessing, args.seed, &device).or_usage()?));
    }
    if image_size.is_some() {
        let why = "--image-size is for random:ARCH and pixels; a trained encoder says its own";
        return Err(Failure::Usage(anyhow!(why)));
    }
    Ok(Frozen::Encoder(load(text, &device)?))
}

/// Loads the encoder of a run folder or a file.
pub fn load(text: &str, device: &Device) -> Result<Encoder> {
    Encoder::load(&file(text)?, device).or_usage()
}

/// The weight file that a path means: itself, or a run folder's `encoder.safetensors`.
pub fn file(text: &str) -> Result<PathBuf> {
    let path = Path::new(text);
    let path = if path.is_dir() { path.join("encoder.safetensors") } else { path.to_owned() };
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::Usage(anyhow!(
        "no encoder at `{text}`: expected a run folder, an encoder.safetensors, random:ARCH or pixels"
    )))
}

/// The features of every image, with progress.
pub fn features(frozen: &Frozen, data: &Arc<Dataset>, args: &ExtractArgs, what: &str) -> Result<Features> {
    let all = with_progress(data, args, what, |config, progress| {
        Ok(vec![extract(frozen, data.clone(), config, progress)?])
    })?;
    Ok(all.into_iter().next().expect("one"))
}

/// The same behind several layers, ascending.
pub fn layer_features(
    encoder: &Encoder,
    layers: &[Layer],
    data: &Arc<Dataset>,
    args: &ExtractArgs,
    what: &str,
) -> Result<Vec<Features>> {
    with_progress(data, args, what, |config, progress| {
        extract_layers(encoder, layers, data.clone(), config, progress)
    })
}

fn with_progress(
    data: &Dataset,
    args: &ExtractArgs,
    what: &str,
    extract: impl FnOnce(&ExtractConfig, &mut dyn FnMut(usize)) -> selfsup_probe::Result<Vec<Features>>,
) -> Result<Vec<Features>> {
    let config = ExtractConfig { batch_size: args.batch_size as usize, workers: args.workers, strict: false };
    let mut progress = Progress::new(what, data.len() as u64, 0, args.quiet);
    let mut all = extract(&config, &mut |done| progress.at(done as u64, || "images".into()))?;
    all.iter_mut().for_each(|features| features.source = data.name().to_owned());
    progress.finish();
    for (id, why) in &all[0].skipped {
        output::say(format_args!("skipped {id}: {why}"));
    }
    Ok(all)
}
