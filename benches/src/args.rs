//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use serde::Serialize;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

/// selfsup beside PyTorch on one machine.
#[derive(Debug, Parser)]
#[command(name = "selfsup-bench", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure ours and PyTorch's in turn, and report ratios, minima, medians and a roofline.
    Compare(CompareArgs),
    /// Fail if a fast path is not clearly faster than the plain one. Needs no Python.
    Guard(GuardArgs),
    /// Pretrain with ours and with lightly in turn: kNN accuracy against wall time.
    Race(RaceArgs),
}

/// How PyTorch runs the same work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    /// Operation by operation.
    Eager,
    /// Through torch.compile; where that could change anything.
    Compiled,
}

impl Peer {
    /// Its name on the command line, in the protocol and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Eager => "eager",
            Peer::Compiled => "compiled",
        }
    }
}

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Only cases whose name contains this; `*` stands for anything. May be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub only: Vec<String>,
    /// Rounds a case; in each, every side runs once.
    #[arg(long, default_value = "7")]
    pub rounds: NonZeroUsize,
    /// Seconds that a side's turn lasts at least, if one iteration does not last longer.
    #[arg(long, default_value = "0.2", value_parser = seconds)]
    pub seconds: f64,
    /// Threads of each side; the machine's cores if not given.
    #[arg(long)]
    pub threads: Option<NonZeroUsize>,
    /// The Python that has torch.
    #[arg(long, default_value = "python3", value_name = "PATH")]
    pub python: PathBuf,
    /// What ours is compared with.
    #[arg(long, value_delimiter = ',', default_value = "eager,compiled")]
    pub peers: Vec<Peer>,
    /// Without PyTorch: only our times and the machine's peak.
    #[arg(long)]
    pub ours_only: bool,
    /// Where compare.json and roofline.svg go.
    #[arg(long, default_value = "target/compare", value_name = "DIR")]
    pub out: PathBuf,
    /// Write the table as Markdown: between the file's `<!-- compare:begin -->` and `<!-- compare:end -->`, if it has
    /// them.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Seconds after which PyTorch's answer is given up.
    #[arg(long, default_value = "600", value_parser = value_parser!(u64).range(1..))]
    pub timeout: u64,
    /// Print the cases' names and stop.
    #[arg(long)]
    pub list: bool,
}

/// Options of `guard`.
#[derive(Debug, Args)]
pub struct GuardArgs {
    /// Rounds a check; the shortest time of each side counts.
    #[arg(long, default_value = "5")]
    pub rounds: NonZeroUsize,
}

/// Options of `race`.
#[derive(Debug, Args)]
pub struct RaceArgs {
    /// Labelled images, all of one size.
    #[arg(long, value_name = "SRC")]
    pub data: String,
    /// Where the runs, race.md, race.json and race.svg go; what is done there is not done again.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What is trained.
    #[arg(long, value_delimiter = ',', default_value = "simclr,moco-v2")]
    pub methods: Vec<String>,
    /// The encoder: resnet10-mini or resnet18-cifar.
    #[arg(long, default_value = "resnet10-mini")]
    pub arch: String,
    /// Passes over the images.
    #[arg(long, default_value = "4", value_parser = value_parser!(u64).range(1..))]
    pub epochs: u64,
    /// Runs of each side of each method.
    #[arg(long, default_value = "3", value_parser = value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Points of a curve.
    #[arg(long, default_value = "4")]
    pub checkpoints: NonZeroU64,
    /// A setting over the defaults of both sides, as `selfsup pretrain --set` takes it. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// The Python that has torch and lightly.
    #[arg(long, default_value = "python3", value_name = "PATH")]
    pub python: PathBuf,
    /// Our program; the one beside this if not given.
    #[arg(long, value_name = "PATH")]
    pub selfsup: Option<PathBuf>,
}

impl RaceArgs {
    /// Our program, which must be there.
    pub fn selfsup(&self) -> anyhow::Result<PathBuf> {
        let path = match &self.selfsup {
            Some(path) => path.clone(),
            None => {
                std::env::current_exe()?.with_file_name(format!("selfsup{}", std::env::consts::EXE_SUFFIX))
            }
        };
        if !path.is_file() {
            let build = "cargo build --release -p selfsup-cli";
            return Err(Usage(format!("no program at {}; `{build}` makes it", path.display())).into());
        }
        Ok(path)
    }
}

/// An error of the user's: status 2.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(seconds),
        _ => Err("expected a number of seconds, 0 or more".into()),
    }
}
