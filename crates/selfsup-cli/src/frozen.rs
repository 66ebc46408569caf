//! An ENCODER of the command line: a run folder, a weight file, ours or another's, here or on the hub, `random:ARCH` or `pixels`.

use crate::failure::{Failure, OrUsage, Result};
use crate::output;
use crate::progress::Progress;
use crate::table::plain;
use anyhow::anyhow;
use candle_core::Device;
use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use selfsup_data::{Dataset, Source};
use selfsup_models::hub::{Hub, HubSpec};
use selfsup_models::names::Account;
use selfsup_models::{
    CropMode, Encoder, Error, Interpolation, Layer, LoadOptions, Loaded, Preprocessing, arch, load_file,
    locate, weights,
};
use selfsup_probe::{ExtractConfig, Features, Frozen, extract, extract_layers};
use selfsup_train::Normalization;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// How features are computed: `probe` and `embed`.
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// Images a forward pass
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    pub batch_size: u64,
    /// Side of the input, for encoders that do not say theirs (random:ARCH, pixels, the weight files of others)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub image_size: Option<u64>,
    /// The shorter side that images are resized to before the central square of --image-size is taken, for weight files of others [default:
    /// as the configuration beside them says, or --image-size]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=16_384))]
    pub resize: Option<u64>,
    /// The filter of that resizing [default: as the configuration says, or bilinear]
    #[arg(long, value_enum, value_name = "FILTER")]
    pub interpolation: Option<Filter>,
    /// What is resized [default: as the configuration says, or center]
    #[arg(long, value_enum, value_name = "MODE")]
    pub crop_mode: Option<Crop>,
    /// Architecture of another's weight file, if its tensors are those of several
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// Whose names another's weight file has [default: whose fit best]: torchvision, timm, moco, dino, vissl, …
    #[arg(long, value_name = "CONVENTION")]
    pub names: Option<String>,
    /// Mean of each channel in 0…1, for weight files of others [default: as the configuration beside them says, or ImageNet's]
    #[arg(long, value_name = "R,G,B", value_parser = channels)]
    pub mean: Option<Channels>,
    /// Standard deviation of each channel in 0…1, likewise
    #[arg(long, value_name = "R,G,B", value_parser = deviations)]
    pub std: Option<Channels>,
    /// Seed of random:ARCH
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// auto, cpu, cuda, cuda:I or metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// Threads that decode
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub workers: usize,
    /// End at the first image that cannot be decoded, instead of leaving it out
    #[arg(long)]
    pub strict: bool,
    /// No progress on stderr
    #[arg(long)]
    pub quiet: bool,
}

impl ExtractArgs {
    /// What a run's own settings make of it.
    pub fn new(device: &str, workers: usize, quiet: bool) -> Self {
        let device = device.to_owned();
        Self {
            batch_size: 256,
            image_size: None,
            resize: None,
            interpolation: None,
            crop_mode: None,
            arch: None,
            names: None,
            mean: None,
            std: None,
            seed: 0,
            device,
            workers,
            strict: false,
            quiet,
        }
    }
}

/// A filter that resizes, antialiased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Filter {
    /// A triangle
    Bilinear,
    /// Keys' cubic
    Bicubic,
}

impl From<Interpolation> for Filter {
    fn from(interpolation: Interpolation) -> Self {
        match interpolation {
            Interpolation::Bilinear => Filter::Bilinear,
            Interpolation::Bicubic => Filter::Bicubic,
        }
    }
}

/// What is resized of an image that is not square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Crop {
    /// The shorter side, in proportion
    Center,
    /// Both sides, to a square
    Squash,
}

impl From<CropMode> for Crop {
    fn from(mode: CropMode) -> Self {
        match mode {
            CropMode::Center => Crop::Center,
            CropMode::Squash => Crop::Squash,
        }
    }
}

/// A number for each colour channel.
#[derive(Debug, Clone, Copy)]
pub struct Channels(pub [f32; 3]);

/// Side of `pixels` where `--image-size` does not say: more would make the probe's features too many.
pub const PIXELS_IMAGE_SIZE: u32 = 32;

/// Three numbers a pixel of every image must fit into memory.
const MOST_PIXELS_SIZE: u32 = 512;

/// Opens an ENCODER. What does not exist or cannot be read is a usage error.
pub fn open(text: &str, args: &ExtractArgs) -> Result<Frozen> {
    open_as(text, args, false)
}

/// The same; with `told`, a file that says itself how images are prepared is told otherwise.
pub fn open_as(text: &str, args: &ExtractArgs, told: bool) -> Result<Frozen> {
    let device = selfsup_train::device(&args.device).or_usage()?;
    let image_size = args.image_size.map(u32::try_from).transpose().or_usage()?;
    let of_files = args.arch.is_some()
        || args.names.is_some()
        || args.mean.is_some()
        || args.std.is_some()
        || args.resize.is_some()
        || args.interpolation.is_some()
        || args.crop_mode.is_some();
    if (text == "pixels" || text.starts_with("random:")) && of_files {
        let why = format!(
            "--arch, --names, --resize, --interpolation, --crop-mode, --mean and --std are for weight files, not for `{text}`"
        );
        return Err(Failure::Usage(anyhow!(why)));
    }
    if text == "pixels" {
        let image_size = image_size.unwrap_or(PIXELS_IMAGE_SIZE);
        if image_size > MOST_PIXELS_SIZE {
            let why = format!(
                "pixels are features of images of at most {MOST_PIXELS_SIZE} pixels a side, got {image_size}"
            );
            return Err(Failure::Usage(anyhow!(why)));
        }
        return Ok(Frozen::Pixels { image_size });
    }
    if let Some(name) = text.strip_prefix("random:") {
        let arch = arch(name).or_usage()?;
        let Normalization { mean, std } = Normalization::IMAGENET;
        let preprocessing = Preprocessing::rgb(image_size.map_or(arch.image_size, |n| n as usize), mean, std);
        return Ok(Frozen::Encoder(Encoder::untrained(arch, preprocessing, args.seed, &device).or_usage()?));
    }
    Ok(Frozen::Encoder(load(text, args, &device, told)?))
}

/// Loads the encoder of a run folder, a file or the hub, and says what was found in a file that does not say it itself.
fn load(text: &str, args: &ExtractArgs, device: &Device, told: bool) -> Result<Encoder> {
    let path = file(text, args.quiet)?;
    let ExtractArgs { arch, names, image_size, resize, interpolation, crop_mode, mean, std, .. } = args;
    let pixels = |side: &Option<u64>| side.map(usize::try_from).transpose().or_usage();
    let options = LoadOptions {
        arch: arch.clone(),
        names: names.clone(),
        image_size: pixels(image_size)?,
        resize: pixels(resize)?,
        interpolation: interpolation.map(|filter| match filter {
            Filter::Bilinear => Interpolation::Bilinear,
            Filter::Bicubic => Interpolation::Bicubic,
        }),
        crop_mode: crop_mode.map(|mode| match mode {
            Crop::Center => CropMode::Center,
            Crop::Squash => CropMode::Squash,
        }),
        mean: mean.map(|three| three.0),
        std: std.map(|three| three.0),
    };
    let (mean_said, std_said) = (mean.is_some(), std.is_some());
    let loaded = load_file(&path, &options, device).or_usage()?;
    if loaded.says_itself() {
        if !told && options != LoadOptions::default() {
            let why = "--arch, --names, --image-size, --resize, --interpolation, --crop-mode, --mean and --std are for what does not say its own, as this encoder does";
            return Err(Failure::Usage(anyhow!(why)));
        }
        return Ok(loaded.encoder);
    }
    if !args.quiet {
        let Loaded { encoder, account, prepared_by, not_followed, .. } = &loaded;
        let Preprocessing { image_size, resize, interpolation, crop_mode, mean, std: deviation, .. } =
            encoder.preprocessing();
        let cut = match (resize == image_size, crop_mode) {
            (true, CropMode::Center) => String::new(),
            (false, CropMode::Center) => format!(" of {resize}"),
            (true, CropMode::Squash) => ", squashed to a square".into(),
            (false, CropMode::Squash) => format!(" of {resize}, squashed to a square"),
        };
        let filter = match interpolation {
            Interpolation::Bilinear => "",
            Interpolation::Bicubic => ", resized bicubically",
        };
        let by = match (prepared_by, mean_said, std_said) {
            (_, true, true) => "by --mean and --std".to_owned(),
            (Some(by), false, false) => format!("as {by} says"),
            (None, false, false) => "as ImageNet's usually are, since nothing says how".to_owned(),
            (by, ..) => {
                let (flag, rest) = if mean_said { ("--mean", "std") } else { ("--std", "mean") };
                format!("by {flag}, with the {rest} of {}", by.as_deref().unwrap_or("ImageNet"))
            }
        };
        output::say(format_args!(
            "{text}: {} by the names of {}{}: {} tensors used, {}; images of {image_size} pixels{cut}{filter}, normalised {by} (mean {}, std {})",
            encoder.arch().name,
            account.convention.name,
            if account.prefix.is_empty() { String::new() } else { format!(" under `{}`", account.prefix) },
            account.backbone.len(),
            dropped(account),
            short(mean),
            short(deviation),
        ));
        if !not_followed.is_empty() {
            output::say(format_args!(
                "{text}: {} says besides: {}; here {} resized to {resize} pixels{}, and the central square taken",
                prepared_by.as_deref().unwrap_or_default(),
                not_followed.join(", "),
                if *crop_mode == CropMode::Center { "the shorter side is" } else { "both sides are" },
                filter.replace(", resized", ""),
            ));
        }
    }
    Ok(loaded.encoder)
}

/// How many tensors were dropped, and what they were.
pub fn dropped(account: &Account) -> String {
    let kinds: Vec<String> =
        account.dropped_kinds().into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    match kinds[..] {
        [] => "none dropped".into(),
        _ => format!("{} dropped ({})", account.dropped.len() + account.head.len(), kinds.join(", ")),
    }
}

/// Three numbers to three digits.
fn short(three: &[f32; 3]) -> String {
    three.map(|value| format!("{}", (f64::from(value) * 1e4).round() / 1e4)).join(" ")
}

/// The weight file that a text means: itself, a folder's, or a model's on the hub.
pub fn file(text: &str, quiet: bool) -> Result<PathBuf> {
    if text.starts_with(HubSpec::SCHEME) {
        return fetched(&text.parse().or_usage()?, quiet);
    }
    locate(text).map_err(|error| match error {
        Error::NoEncoder { why, .. } => {
            // As the browser's address has it, or with other letters.
            let address = ["https://huggingface.co/", "https://hf.co/", "HF:", "hf.co/"];
            let repo = address.iter().find_map(|before| text.strip_prefix(before)).unwrap_or(text);
            let hub = format!("{}{repo}", HubSpec::SCHEME);
            let hint = match !Path::new(text).exists() && repo.contains('/') && hub.parse::<HubSpec>().is_ok() {
                true => format!(" (is it `{hub}`?)"),
                false => String::new(),
            };
            Failure::Usage(anyhow!(
                "no encoder at `{text}`: {why}{hint}; expected a run folder, a weight file, hf:OWNER/NAME, random:ARCH or pixels"
            ))
        }
        other => Failure::Usage(other.into()),
    })
}

/// The files that an ENCODER lies in, of those that are not the hub's.
pub fn files(text: &str) -> Vec<PathBuf> {
    if text == "pixels" || text.starts_with("random:") || text.starts_with(HubSpec::SCHEME) {
        return Vec::new();
    }
    let Ok(path) = locate(text) else { return Vec::new() };
    let shards = weights::shards(&path).ok().flatten().unwrap_or_default();
    let mut files: Vec<PathBuf> = shards.into_iter().map(|shard| path.with_file_name(shard)).collect();
    files.push(path);
    files
}

/// A model's weights on this machine, fetched with progress. What the network or the hub does is not the user's mistake.
fn fetched(spec: &HubSpec, quiet: bool) -> Result<PathBuf> {
    let bar: Mutex<Option<(String, Progress)>> = Mutex::new(None);
    let hub = Hub::from_env().on_progress(move |transfer| {
        let mut bar = bar.lock().expect("nobody panics with it");
        if bar.as_ref().is_none_or(|(file, _)| file != transfer.file) {
            let progress = Progress::of(transfer.file, transfer.total, transfer.done, quiet);
            *bar = Some((transfer.file.to_owned(), progress));
        }
        if let Some((_, progress)) = bar.as_mut() {
            progress.at(transfer.done, || format!("bytes, {}", HumanBytes(transfer.done)));
            if Some(transfer.done) == transfer.total {
                progress.finish();
            }
        }
    });
    let fetched = hub.fetch(spec)?;
    // No progress, but what the features may depend on.
    if let Some(notice) = fetched.notice {
        output::say(notice);
    }
    Ok(fetched.path)
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
    let config =
        ExtractConfig { batch_size: args.batch_size as usize, workers: args.workers, strict: args.strict };
    let mut progress = Progress::new(what, data.len() as u64, 0, args.quiet);
    let mut all = extract(&config, &mut |done| progress.at(done as u64, || "images".into()))?;
    all.iter_mut().for_each(|features| features.source = data.name().to_owned());
    progress.finish();
    say_skipped(&all[0].skipped);
    Ok(all)
}

/// Says which files of a source are images that are not read: without them a telephone's folder may be nearly empty.
pub fn say_not_read(data: &Dataset) {
    if let Some(text) = data.not_read() {
        output::say(format_args!("{}: {text}", data.name()));
    }
}

/// Names images that were left out, and why.
pub fn say_skipped(skipped: &[(String, String)]) {
    for (id, why) in skipped {
        output::say(format_args!("skipped {}: {}", plain(id), why.trim_end()));
    }
}

fn channels(text: &str) -> std::result::Result<Channels, String> {
    let numbers: std::result::Result<Vec<f32>, _> =
        text.split(',').map(|number| number.trim().parse()).collect();
    match numbers.map(<[f32; 3]>::try_from) {
        Ok(Ok(three)) if three.iter().all(|v| (0.0..=1.0).contains(v)) => Ok(Channels(three)),
        _ => Err("expected three numbers in 0…1, as in 0.5,0.5,0.5 (of levels 0…255, divided by 255)".into()),
    }
}

fn deviations(text: &str) -> std::result::Result<Channels, String> {
    channels(text).and_then(|three| match three.0.iter().all(|v| *v > 0.0) {
        true => Ok(three),
        false => Err("expected three numbers above 0, as in 0.25,0.25,0.25".into()),
    })
}
