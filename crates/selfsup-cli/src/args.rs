//! The command line's grammar.

use crate::commands::bench::study::Study;
use clap::{Args, Parser, Subcommand, ValueEnum};
use selfsup_probe::FinetuneConfig;
use std::path::PathBuf;

/// Pretrain an image encoder without labels, then measure what its features are worth.
#[derive(Debug, Parser)]
#[command(name = "selfsup", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pretrain an encoder on unlabelled images; ends with the probe's table where the data has labels
    Pretrain(PretrainArgs),
    /// Measure an encoder's frozen features: kNN and linear probes, with all labels or few
    Probe(ProbeArgs),
    /// Compare methods, or answer a study's question: many pretrainings under one protocol, with their table and picture
    Bench(BenchArgs),
    /// Write an encoder's features of every image to a file
    Embed(EmbedArgs),
    /// Say what is inside an encoder, a weight file or a run folder
    Inspect(InspectArgs),
    /// List the methods that can be trained
    Methods(JsonArgs),
    /// List the architectures
    Archs(JsonArgs),
    /// Say what a data source holds: counts, classes, sizes, what cannot be read and why
    Data(DataArgs),
    /// Draw what a method sees of some images
    Show(ShowArgs),
    /// Write one self-contained page about runs: curves, probes, neighbours, the embedding, filters
    Report(ReportArgs),
    /// Colour images with the model of a colorization run
    Colorize(ColorizeArgs),
    /// Write a weight file under another convention's names
    Convert(ConvertArgs),
    /// Print the orders of nine tiles that the jigsaw task tells apart
    Permutations(PermutationsArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `pretrain`
#[derive(Debug, Args)]
pub struct PretrainArgs {
    /// The method (`selfsup methods` lists them)
    pub method: String,
    /// Images: a folder, cifar10:DIR, idx:DIR, a manifest .csv/.jsonl, or fashion-mnist (shipped, the default)
    #[arg(long, value_name = "SRC")]
    pub data: Option<String>,
    /// The encoder's architecture (`selfsup archs` lists them)
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// Passes over the data
    #[arg(long, value_name = "N")]
    pub epochs: Option<u64>,
    /// Steps in all, in place of epochs
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Images a step
    #[arg(long, value_name = "N")]
    pub batch_size: Option<u64>,
    /// Side of the square views, in pixels
    #[arg(long, value_name = "N")]
    pub image_size: Option<u64>,
    /// The optimiser's learning rate
    #[arg(long, value_name = "X")]
    pub lr: Option<f64>,
    /// Decides weights, order and augmentation [default: 0]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// auto, cpu, cuda, cuda:I or metal [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// What training multiplies in: f32, or bf16, for processors with AVX512-BF16; weights stay f32
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<String>,
    /// Threads that decode and augment; the result does not depend on it
    #[arg(long, value_name = "N")]
    pub workers: Option<u64>,
    /// The run's folder [default: runs/METHOD-N, the next free N]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Settings as TOML, such as a run's config.toml; flags and --set come on top
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// One setting, such as method.temperature=0.2; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// Go on with the run of this folder from its checkpoint
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "config"])]
    pub resume: Option<PathBuf>,
    /// End at the first image that cannot be decoded, instead of leaving it out
    #[arg(long)]
    pub strict: bool,
    /// Check everything, print the resolved configuration and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not probe at the end
    #[arg(long)]
    pub no_probe: bool,
    /// No progress on stderr
    #[arg(long)]
    pub quiet: bool,
}

/// `bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A question that runs of a few methods answer
    #[arg(long, value_enum, value_name = "NAME", required_unless_present = "methods")]
    pub study: Option<Study>,
    /// Methods to compare under one protocol, or `all`
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with = "study")]
    pub methods: Vec<String>,
    /// With --methods: a layer before the last, behind which features are probed too; may be given again
    #[arg(long, value_name = "NAME")]
    pub layer: Vec<String>,
    /// With --methods: other labelled images, on which the features are probed too; may be given again
    #[arg(long, value_name = "SRC")]
    pub transfer: Vec<String>,
    /// With --methods: so many minutes of training each, in place of as many views
    #[arg(long, value_name = "M", conflicts_with_all = ["epochs", "dry_run"], value_parser = minutes)]
    pub budget_minutes: Option<f64>,
    /// Labelled images: trained on without their labels, probed with them
    #[arg(long, value_name = "SRC", default_value = "fashion-mnist")]
    pub data: String,
    /// The study's folder; rows that it holds already are not run again
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The encoder's architecture [default: the method's for the data]
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// Passes over the data of each row [default: the method's for the data]; with --methods, as many views as so many passes with two
    /// views of each image have, smaller ones by their area [default: 4]
    #[arg(long, value_name = "N")]
    pub epochs: Option<u64>,
    /// Each row is run so often, with seeds from 0 on
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Only rows whose name contains this; may be given again
    #[arg(long, value_name = "TEXT")]
    pub only: Vec<String>,
    /// auto, cpu, cuda, cuda:I or metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// What training multiplies in: f32 or bf16
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<String>,
    /// Threads that decode and augment
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub workers: usize,
    /// One setting of every row, such as method.temperature=0.2; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// Check everything, print each row's configuration and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// No progress on stderr
    #[arg(long)]
    pub quiet: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if minutes > 0.0 && f64::is_finite(minutes) => Ok(minutes),
        _ => Err("expected a number above 0".into()),
    }
}

/// What to fit on the features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Weighted nearest neighbours
    Knn,
    /// Multinomial logistic regression
    Linear,
    /// All weights trained on the labels
    Finetune,
}

/// Protocols by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// 1 % of the labels: linear and fine-tuned
    #[value(name = "semi-1")]
    Semi1,
    /// 10 % of the labels: linear and fine-tuned
    #[value(name = "semi-10")]
    Semi10,
}

/// How many labels a class: a number, a share, or all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Labels {
    /// Every label of the training part.
    All,
    /// So many of each class.
    PerClass(usize),
    /// So many percent of all, equally many of each class.
    Percent(f64),
}

impl std::str::FromStr for Labels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        if let Some(percent) = text.strip_suffix('%') {
            return match percent.trim().parse() {
                Ok(p) if p > 0.0 && p <= 100.0 => Ok(Self::Percent(p)),
                _ => Err("expected a share above 0 % and up to 100 %".into()),
            };
        }
        match text.parse() {
            Ok(n) if n > 0 => Ok(Self::PerClass(n)),
            _ => Err("expected `all`, a number of at least 1, or a share such as `1%`".into()),
        }
    }
}

/// `probe`
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// A run folder, a weight file (ours, or what others publish), random:ARCH, or pixels
    pub encoder: String,
    /// Labelled images to fit on
    #[arg(long, value_name = "SRC", default_value = "fashion-mnist")]
    pub data: String,
    /// Labelled images to measure on [default: the test part of --data]
    #[arg(long, value_name = "SRC")]
    pub test: Option<String>,
    /// What to fit; may be given again [default: knn and linear]
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',')]
    pub kind: Vec<Kind>,
    /// `all`, a number, or a share (1%) of all labels, equally many of each class; may be given again [default: all]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub labels_per_class: Vec<Labels>,
    /// Features from behind this layer, the mean over its pixels, in place of the encoder's end; `all`, or several, are compared
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub layer: Vec<String>,
    /// A protocol by name, in place of --kind and --labels-per-class
    #[arg(long, value_enum, value_name = "NAME", conflicts_with_all = ["kind", "labels_per_class"])]
    pub preset: Option<Preset>,
    /// Epochs of fine-tuning
    #[arg(long, value_name = "N", default_value_t = FinetuneConfig::default().epochs)]
    pub finetune_epochs: usize,
    /// Peak learning rate of the encoder in fine-tuning
    #[arg(long, value_name = "X", default_value_t = FinetuneConfig::default().backbone_lr)]
    pub backbone_lr: f64,
    /// Peak learning rate of the head in fine-tuning
    #[arg(long, value_name = "X", default_value_t = FinetuneConfig::default().head_lr)]
    pub head_lr: f64,
    /// Draws of few labels, each with its own seed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Neighbours of the kNN probe
    #[arg(long, value_name = "K", default_value_t = selfsup_probe::knn::DEFAULT_K)]
    pub k: usize,
    /// Temperature of the kNN probe's votes
    #[arg(long, value_name = "T", default_value_t = selfsup_probe::knn::DEFAULT_TEMPERATURE)]
    pub temperature: f64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub extract: ExtractArgs,
    /// One JSON document on stdout
    #[arg(long)]
    pub json: bool,
}

/// How features are computed: `probe` and `embed`.
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// Images a forward pass
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    pub batch_size: u64,
    /// Side of the input, for encoders that do not say theirs (random:ARCH, pixels, the weight files of others)
    #[arg(long, value_name = "N")]
    pub image_size: Option<u64>,
    /// Architecture of another's weight file, if its tensors are those of several
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// Whose names another's weight file has [default: whose fit best]: torchvision, timm, moco, dino, vissl, …
    #[arg(long, value_name = "CONVENTION")]
    pub names: Option<String>,
    /// Seed of random:ARCH
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// auto, cpu, cuda, cuda:I or metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// Threads that decode
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub workers: usize,
    /// No progress on stderr
    #[arg(long)]
    pub quiet: bool,
}

impl ExtractArgs {
    /// What a run's own settings make of it.
    pub fn new(device: &str, workers: usize, quiet: bool) -> Self {
        let device = device.to_owned();
        Self { batch_size: 256, image_size: None, arch: None, names: None, seed: 0, device, workers, quiet }
    }
}

/// `embed`
#[derive(Debug, Args)]
pub struct EmbedArgs {
    /// A run folder, a weight file (ours, or what others publish), random:ARCH, or pixels
    pub encoder: String,
    /// The images
    #[arg(long, value_name = "SRC")]
    pub data: String,
    /// FILE.safetensors or FILE.npy (then labels and ids stand beside it)
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub extract: ExtractArgs,
}

/// `inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A run folder, a .safetensors file, or random:ARCH
    pub what: String,
    /// One JSON document on stdout
    #[arg(long)]
    pub json: bool,
}

/// `data`
#[derive(Debug, Args)]
pub struct DataArgs {
    /// The source
    pub source: String,
    /// One JSON document on stdout
    #[arg(long)]
    pub json: bool,
}

/// `methods` and `archs`
#[derive(Debug, Args)]
pub struct JsonArgs {
    /// One JSON document on stdout
    #[arg(long)]
    pub json: bool,
}

/// `show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The method
    pub method: String,
    /// The images
    #[arg(long, value_name = "SRC")]
    pub data: Option<String>,
    /// The picture
    #[arg(long, value_name = "FILE.png")]
    pub out: PathBuf,
    /// A run of the method: what its model makes of the images is drawn too
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "settings", "image_size"])]
    pub run: Option<PathBuf>,
    /// How many images, each a row
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub images: u64,
    /// How many draws of each image
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=16))]
    pub draws: u64,
    /// Side of the square views, in pixels
    #[arg(long, value_name = "N")]
    pub image_size: Option<u64>,
    /// Decides the images and the draws
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Settings as TOML; --set comes on top
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// One setting; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

/// `colorize`
#[derive(Debug, Args)]
pub struct ColorizeArgs {
    /// The folder of a colorization run
    pub run: PathBuf,
    /// Image files, and folders of images; of coloured ones only the lightness is looked at
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// Where the coloured images go, as PNG
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Sharpens the predicted distributions before their mean is taken [default: the run's]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// auto, cpu, cuda, cuda:I or metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// No progress on stderr
    #[arg(long)]
    pub quiet: bool,
}

/// `convert`
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// A run folder or a weight file, of any convention
    pub from: String,
    /// FILE.safetensors
    pub to: PathBuf,
    /// The names that it gets: timm (for residual networks also torchvision's), moco, dino, vissl, hf-resnet, …
    #[arg(long, value_name = "CONVENTION", default_value = "timm")]
    pub names: String,
    /// The names that it has [default: those that fit best]
    #[arg(long, value_name = "CONVENTION")]
    pub from_names: Option<String>,
}

/// `permutations`
#[derive(Debug, Args)]
pub struct PermutationsArgs {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub count: usize,
    /// A file in place of stdout
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `report`
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Run folders
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The page
    #[arg(long, value_name = "FILE.html")]
    pub out: PathBuf,
    /// Labelled images to probe with [default: the first run's, where they have labels]
    #[arg(long, value_name = "SRC")]
    pub data: Option<String>,
    /// auto, cpu, cuda, cuda:I or metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// No progress on stderr
    #[arg(long)]
    pub quiet: bool,
}
