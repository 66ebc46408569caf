//! `selfsup pretrain`: resolve the configuration, train, probe.

use crate::closing_table::ClosingTable;
use crate::failure::{self, Failure, OrUsage, Result};
use crate::frozen;
use crate::output;
use crate::progress::Progress;
use crate::table::render;
use anyhow::{Context, anyhow};
use clap::Args;
use selfsup_data::{Dataset, OpenOptions, Part, Source};
use selfsup_train::{
    Event, METHODS, Outcome, PretrainConfig, RunFolder, Trainer, nearest, parse_setting, read_settings,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use toml::{Table, Value};

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
    /// For a program that starts this one: stops, as if interrupted, when stdin ends, and tells on stdout why it failed
    #[arg(long, hide = true)]
    pub child: bool,
}

/// Runs the command.
pub fn run(args: PretrainArgs) -> Result {
    let child = args.child;
    let result = pretrain(args);
    match &result {
        Err(Failure::Work(error)) if child => tell(error, 1),
        Err(Failure::Usage(error)) if child => tell(error, 2),
        _ => result,
    }
}

/// Tells who started the program, and nobody else.
fn tell(error: &anyhow::Error, status: u8) -> Result {
    output::print_line(failure::line(error))?;
    Err(Failure::Told(status))
}

fn pretrain(args: PretrainArgs) -> Result {
    known_method(&args.method)?;
    let config = resolve(&args).or_usage()?;
    let data = open(&config).or_usage()?;
    describe(&config, &data, args.quiet);
    let folder = || args.out.clone().unwrap_or_else(|| free_folder(&args.method));
    if args.dry_run {
        match &args.resume {
            Some(folder) => Trainer::check_resume(&config, &data, folder).or_usage()?,
            None => Trainer::check(&config, &data, &folder()).or_usage()?,
        }
        output::print(config.to_toml())?;
        return Ok(());
    }
    let mut trainer = match &args.resume {
        Some(folder) => Trainer::resume(config, data, folder).or_usage()?,
        None => Trainer::create(config, data, &folder()).or_usage()?,
    };
    warn_of_a_long_warm_up(&trainer);
    train(&mut trainer, &args)?;
    if !args.no_probe {
        let config = trainer.config();
        let table = ClosingTable::measure(trainer.encoder(), config, &config.data, args.quiet)?;
        if let Some(table) = table {
            output::print(render(&table.text()))?;
            table.save(trainer.folder().path())?;
        }
    }
    Ok(())
}

/// An unknown method is a usage error that names the nearest.
pub fn known_method(name: &str) -> Result {
    if METHODS.iter().any(|m| m.name == name) {
        return Ok(());
    }
    let hint = nearest(name, METHODS.iter().map(|m| m.name));
    let hint = hint.map_or_else(|| "`selfsup methods` lists them".into(), |n| format!("did you mean `{n}`?"));
    Err(Failure::Usage(anyhow!("unknown method `{name}`; {hint}")))
}

/// The layers of settings, weakest first: `--config`, then flags, then `--set`.
pub fn layers(config: Option<&Path>, flags: Table, settings: &[String]) -> anyhow::Result<Vec<Table>> {
    let mut layers = Vec::new();
    if let Some(path) = config {
        layers.push(read_settings(path)?);
    }
    layers.push(flags);
    for setting in settings {
        layers.push(parse_setting(setting)?);
    }
    Ok(layers)
}

fn resolve(args: &PretrainArgs) -> anyhow::Result<PretrainConfig> {
    let flags = flags(args)?;
    let layers = match &args.resume {
        Some(folder) => {
            let (_, config) = RunFolder::open(folder)?;
            let mut layers = vec![config.to_toml().parse::<Table>()?];
            layers.extend(self::layers(None, flags, &args.settings)?);
            layers
        }
        None => layers(args.config.as_deref(), flags, &args.settings)?,
    };
    Ok(PretrainConfig::resolve(&args.method, &layers)?)
}

fn flags(args: &PretrainArgs) -> anyhow::Result<Table> {
    let mut table = Table::new();
    let texts =
        [("data", &args.data), ("arch", &args.arch), ("device", &args.device), ("dtype", &args.dtype)];
    for (key, value) in texts {
        if let Some(value) = value {
            table.insert(key.into(), value.clone().into());
        }
    }
    let numbers = [
        ("epochs", args.epochs),
        ("steps", args.steps),
        ("batch_size", args.batch_size),
        ("image_size", args.image_size),
        ("seed", args.seed),
        ("workers", args.workers),
    ];
    for (key, value) in numbers {
        if let Some(value) = value {
            table.insert(
                key.into(),
                i64::try_from(value).with_context(|| format!("--{key} is too large"))?.into(),
            );
        }
    }
    if let Some(lr) = args.lr {
        table.insert("optimizer".into(), Value::Table(Table::from_iter([("lr".to_owned(), lr.into())])));
    }
    if args.strict {
        table.insert("strict".into(), true.into());
    }
    Ok(table)
}

/// The part to pretrain on: `train` where the source has parts, everything otherwise.
fn open(config: &PretrainConfig) -> anyhow::Result<Arc<Dataset>> {
    let options = OpenOptions { part: Part::Train, strict: config.strict, ..OpenOptions::default() };
    let data = selfsup_data::open(&config.data, &options)?;
    frozen::say_not_read(&data);
    Ok(Arc::new(data))
}

fn describe(config: &PretrainConfig, data: &Dataset, quiet: bool) {
    if !quiet {
        output::say(format_args!(
            "{} on {} images of {}: {} at {} px, batches of {}",
            config.method.name(),
            data.len(),
            config.data,
            config.arch,
            config.image_size,
            config.batch_size
        ));
    }
}

/// Such a run is legal, the beginning of a longer one, but seldom meant.
fn warn_of_a_long_warm_up(trainer: &Trainer) {
    let length = (trainer.total_steps(), trainer.steps_per_epoch());
    if let Err(error) = trainer.config().schedule.check_length(length.0, length.1) {
        output::say(format_args!("warning: {error}; the full learning rate is never reached"));
    }
}

/// `runs/METHOD-N` with the least N from 1 that is not taken.
fn free_folder(method: &str) -> PathBuf {
    (1u32..)
        .map(|n| PathBuf::from(format!("runs/{method}-{n}")))
        .find(|p| !p.exists())
        .expect("numbers suffice")
}

fn train(trainer: &mut Trainer, args: &PretrainArgs) -> Result {
    let quiet = args.quiet;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second one ends the program at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    if args.child {
        stop_with_stdin(stop.clone());
    }
    let folder = trainer.folder().path().to_owned();
    let method = trainer.config().method.name();
    let total = trainer.total_steps();
    let mut progress = Progress::new(method, total, trainer.step(), quiet);
    let mut speed = 0.0;
    let outcome = trainer.run(&stop, &mut |event| match event {
        // The last one is logged, with the speed of the last ones.
        Event::Step { step, loss, .. } if step < total => {
            progress.at(step, || format!("loss {loss:.3}, {speed:.0} images/s,"))
        }
        Event::Logged(record) => {
            speed = record.samples_per_s;
            if record.step == total {
                progress.at(total, || format!("loss {:.3}, {speed:.0} images/s,", record.loss));
            }
        }
        Event::Skipped { id, why } => progress.say(&format!("skipped {id}: {why}")),
        _ => {}
    });
    progress.finish();
    match outcome? {
        Outcome::Interrupted { step } => {
            let folder = folder.display();
            let go_on = match args.child {
                true => String::new(),
                false => format!("; go on with: selfsup pretrain {method} --resume {folder}"),
            };
            Err(Failure::Interrupted(format!("interrupted after step {step} of {total}{go_on}")))
        }
        Outcome::Finished => {
            if !quiet {
                output::say(format_args!("the run is in {}", folder.display()));
            }
            Ok(())
        }
    }
}

/// What started this program holds the other end for as long as it lives.
fn stop_with_stdin(stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        // An error ends it as well.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        stop.store(true, Ordering::Relaxed);
    });
}
