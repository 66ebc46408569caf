//! An ENCODER of the command line: a run folder, a weight file, ours or another's, `random:ARCH` or `pixels`.

use crate::args::ExtractArgs;
use crate::failure::{Failure, OrUsage, Result};
use crate::output;
use crate::progress::Progress;
use anyhow::anyhow;
use candle_core::Device;
use selfsup_data::{Dataset, Source};
use selfsup_models::{Encoder, Layer, LoadOptions, Loaded, Preprocessing, arch, load_file};
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
    if (text == "pixels" || text.starts_with("random:")) && (args.arch.is_some() || args.names.is_some()) {
        return Err(Failure::Usage(anyhow!("--arch and --names are for weight files, not for `{text}`")));
    }
    if text == "pixels" {
        return Ok(Frozen::Pixels { image_size: image_size.unwrap_or(PIXELS_IMAGE_SIZE) });
    }
    if let Some(name) = text.strip_prefix("random:") {
        let arch = arch(name).or_usage()?;
        let Normalization { mean, std } = Normalization::IMAGENET;
        let preprocessing = Preprocessing::rgb(image_size.map_or(arch.image_size, |n| n as usize), mean, std);
        return Ok(Frozen::Encoder(Encoder::untrained(arch, preprocessing, args.seed, &device).or_usage()?));
    }
    Ok(Frozen::Encoder(load(text, args, &device)?))
}

/// Loads the encoder of a run folder or a file, and says what was found in a file that does not say it itself.
fn load(text: &str, args: &ExtractArgs, device: &Device) -> Result<Encoder> {
    let path = file(text)?;
    let ExtractArgs { arch, names, image_size, .. } = args;
    let options = LoadOptions { arch: arch.clone(), names: names.clone(), preprocessing: None };
    let mut loaded = load_file(&path, &options, device).or_usage()?;
    if loaded.says_itself() {
        if arch.is_some() || names.is_some() || image_size.is_some() {
            let why =
                "--arch, --names and --image-size are for what does not say its own, as this encoder does";
            return Err(Failure::Usage(anyhow!(why)));
        }
        return Ok(loaded.encoder);
    }
    if let Some(side) = image_size {
        let said = loaded.encoder.preprocessing().clone();
        let preprocessing = Preprocessing { image_size: usize::try_from(*side).or_usage()?, ..said };
        let options = LoadOptions { preprocessing: Some(preprocessing), ..options };
        loaded = load_file(&path, &options, device).or_usage()?;
    }
    if !args.quiet {
        let Loaded { encoder, account, .. } = &loaded;
        output::say(format_args!(
            "{text}: {} by the names of {}{}: {} tensors used, {} dropped; images of {} pixels, normalised as ImageNet's",
            encoder.arch().name,
            account.convention.name,
            if account.prefix.is_empty() { String::new() } else { format!(" under `{}`", account.prefix) },
            account.backbone.len(),
            account.dropped.len(),
            encoder.preprocessing().image_size,
        ));
    }
    Ok(loaded.encoder)
}

/// The weight file that a path means: itself, or a run folder's `encoder.safetensors`.
pub fn file(text: &str) -> Result<PathBuf> {
    let path = Path::new(text);
    let path = if path.is_dir() { path.join("encoder.safetensors") } else { path.to_owned() };
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::Usage(anyhow!(
        "no encoder at `{text}`: expected a run folder, a weight file, random:ARCH or pixels"
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
