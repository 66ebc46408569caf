//! `selfsup bench`: many runs under one protocol, row by row, and their table.

mod child;
mod column;
mod methods;
mod plot;
mod report;
mod row;
pub mod study;

use crate::commands::pretrain::layers;
use crate::commands::probe::Parts;
use crate::failure::{self, Failure, OrUsage, Result};
use crate::frozen::ExtractArgs;
use crate::output;
use anyhow::{Context, anyhow};
use child::Interrupts;
use clap::Args;
use methods::{Budget, Rates};
use report::Report;
use row::{Setting, Transfer};
use selfsup_data::{OpenOptions, Source, open_labelled_parts};
use selfsup_train::PretrainConfig;
use std::path::PathBuf;
use study::Study;
use study::{Question, Row, Run};
use toml::{Table, Value};

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

/// Passes over the images of each method, where the command does not say.
const DEFAULT_PASSES: u64 = 4;

/// Runs the command.
pub fn run(args: BenchArgs) -> Result {
    check_settings(&args).or_usage()?;
    let mut question = ask(&args)?;
    question.rows.retain(|row| args.only.is_empty() || args.only.iter().any(|name| row.name.contains(name)));
    if question.rows.is_empty() {
        return Err(Failure::Usage(anyhow!("no row's name contains any of {:?}", args.only)));
    }
    let open = |source: &str| open_labelled_parts(source, None, &OpenOptions::default()).or_usage();
    let data = Parts::from(open(&args.data)?);
    let names = transfer_names(&args).or_usage()?;
    let mut transfer = Vec::new();
    for (name, source) in names.into_iter().zip(&args.transfer) {
        transfer.push(Transfer { name, source: source.clone(), parts: Parts::from(open(source)?) });
    }
    // Every configuration is checked before the first row is run.
    let interrupts = Interrupts::watch()?;
    let mut rates = Rates::open(&args.out, &interrupts)?;
    let mut plan = Vec::new();
    let mut impossible = Vec::new();
    for seed in 0..args.seeds {
        for row in &question.rows {
            match config(&args, row, seed, &data, &mut rates) {
                Ok(config) => plan.push((row.clone(), config)),
                // Too few images for its batch, or its speed could not be measured: this row's failure alone.
                Err(Failure::Work(error)) => impossible.push((row.name.clone(), seed, error)),
                Err(error) => return Err(error),
            }
        }
    }
    // One encoder has all of them.
    for (_, config) in plan.iter().take(1) {
        let network = &selfsup_models::arch(&config.arch).or_usage()?.config;
        for name in &args.layer {
            network.layer(name).or_usage()?;
        }
    }
    if args.dry_run {
        for (row, config) in plan.iter().filter(|(_, config)| config.seed == 0) {
            output::print_line(format!("# {}\n{}", row.name, config.to_toml()))?;
        }
        for (row, _, why) in impossible.iter().filter(|(_, seed, _)| *seed == 0) {
            output::say(format_args!("{row} cannot be run: {}", failure::line(why)));
        }
        return match impossible.is_empty() {
            true => Ok(()),
            false => Err(Failure::Usage(anyhow!("there are rows that cannot be run"))),
        };
    }
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make {}", args.out.display()))
        .or_usage()?;
    let extract = ExtractArgs::new(&args.device, args.workers, args.quiet);
    let columns = question.columns.clone();
    let setting = Setting {
        out: &args.out,
        data: &data,
        layers: &args.layer,
        extract: &extract,
        transfer: &transfer,
        columns: &columns,
        embeddings: question.embeddings,
        interrupts: &interrupts,
    };
    let mut report = Report::new(question, &args.data);
    let hopeless = impossible.len();
    for (name, seed, error) in impossible {
        failed(&mut report, &name, seed, &error);
    }
    let mut left = Vec::new();
    for (row, config) in plan {
        match setting.done(&row, &config)? {
            Some(outcome) => report.add(outcome),
            None => left.push((row, config)),
        }
    }
    let total = left.len();
    for (i, (row, config)) in left.into_iter().enumerate() {
        output::say(format_args!("[{}/{total}] {} with seed {}", i + 1, row.name, config.seed));
        match setting.run(&row, &config) {
            Ok(outcome) => report.add(outcome),
            Err(Failure::Work(error) | Failure::Usage(error)) => {
                failed(&mut report, &row.name, config.seed, &error);
            }
            Err(ended) => return Err(ended),
        }
        report.write(&args.out)?;
    }
    report.write(&args.out)?;
    output::print(report.table())?;
    match report.failures() {
        0 => Ok(()),
        n if n == hopeless => Err(anyhow!("{n} of the rows failed").into()),
        n => Err(anyhow!("{n} of the rows failed; the same command tries them again").into()),
    }
}

fn failed(report: &mut Report, row: &str, seed: u64, error: &anyhow::Error) {
    let why = failure::line(error);
    output::say(format_args!("{row} with seed {seed} failed: {why}"));
    report.fail(row, seed, why);
}

fn ask(args: &BenchArgs) -> Result<Question> {
    match args.study {
        Some(study) => {
            for (flag, given) in [
                ("--layer", !args.layer.is_empty()),
                ("--transfer", !args.transfer.is_empty()),
                ("--budget-minutes", args.budget_minutes.is_some()),
            ] {
                if given {
                    return Err(Failure::Usage(anyhow!("{flag} is for --methods")));
                }
            }
            let base = |method: &'static str| resolve(args, method, &Table::new());
            study.question(&base).or_usage()
        }
        None => {
            let transfer = transfer_names(args).or_usage()?;
            Ok(methods::question(&methods::named(&args.methods)?, &args.layer, &transfer))
        }
    }
}

/// What the transfer's columns are called: `cifar10` of `cifar10:package`, otherwise the last part, `sketches` of `data/sketches`.
fn transfer_names(args: &BenchArgs) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::<String>::new();
    for source in &args.transfer {
        let name = match source.split_once(':') {
            Some((scheme @ "cifar10", _)) => scheme,
            _ => source.rsplit(['/', ':']).find(|part| !part.is_empty()).unwrap_or(source),
        };
        if names.iter().any(|known| known == name) {
            return Err(anyhow!("two sources of --transfer are called {name:?}"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// What the protocol decides for all rows cannot be set for one.
fn check_settings(args: &BenchArgs) -> anyhow::Result<()> {
    let methods: &[_] = match args.study {
        Some(_) => &[],
        None => &[
            ("steps", "--epochs or --budget-minutes says how long"),
            ("epochs", "--epochs or --budget-minutes says how long"),
            ("schedule", "every method's learning rate goes along a cosine"),
        ],
    };
    for setting in &args.settings {
        let key = setting.split(['=', '.']).next().unwrap_or_default().trim();
        let known = methods.iter().chain(&[("seed", "the rows have seeds 0, 1, …, as many as --seeds")]);
        if let Some((_, why)) = known.into_iter().find(|(own, _)| *own == key) {
            return Err(anyhow!("--set {key} has no effect here: {why}"));
        }
    }
    Ok(())
}

/// A row's resolved configuration.
fn config(
    args: &BenchArgs,
    row: &Row,
    seed: u64,
    data: &Parts,
    rates: &mut Rates<'_>,
) -> Result<PretrainConfig> {
    let (method, mut settings) = match &row.run {
        Run::Train { method, settings } => (*method, settings.clone()),
        Run::Pixels | Run::Untrained | Run::Supervised => ("simclr", Table::new()),
    };
    settings.insert("seed".into(), i64::try_from(seed).context("--seeds is too large").or_usage()?.into());
    if args.study.is_none() && args.arch.is_none() {
        // One encoder for all.
        settings.insert("arch".into(), resolve(args, "simclr", &Table::new()).or_usage()?.arch.into());
    }
    let config = resolve(args, method, &settings).or_usage()?;
    let images = data.train().len();
    if matches!(row.run, Run::Train { .. }) {
        config.check_batch(images)?;
    }
    if args.study.is_some() {
        return Ok(config);
    }
    let budget = match args.budget_minutes {
        Some(minutes) => Budget::Minutes(minutes),
        None => Budget::Passes(args.epochs.unwrap_or(DEFAULT_PASSES)),
    };
    let steps = methods::steps(budget, &config, images, rates)?;
    settings.insert("steps".into(), i64::try_from(steps).context("too many steps").or_usage()?.into());
    settings.extend(methods::schedule(steps as f64 * config.batch_size as f64 / images as f64));
    resolve(args, method, &settings).or_usage()
}

/// A method's defaults with the command's settings, and a row's over them.
fn resolve(args: &BenchArgs, method: &'static str, over: &Table) -> anyhow::Result<PretrainConfig> {
    let mut flags = Table::new();
    flags.insert("data".into(), args.data.clone().into());
    let texts = [("arch", &args.arch), ("dtype", &args.dtype)];
    for (key, value) in texts {
        if let Some(value) = value {
            flags.insert(key.into(), value.clone().into());
        }
    }
    flags.insert("device".into(), args.device.clone().into());
    flags.insert("workers".into(), Value::Integer(args.workers as i64));
    if let Some(epochs) = args.epochs {
        flags.insert("epochs".into(), i64::try_from(epochs).context("--epochs is too large")?.into());
    }
    let mut layers = layers(None, flags, &args.settings)?;
    layers.push(over.clone());
    let config = PretrainConfig::resolve(method, &layers)?;
    // The defaults' warm-up is for their own length: in a shorter run it takes a tenth, unless it was asked for.
    let warmup = 0.1 * config.epochs as f64;
    let asked = layers.iter().any(|layer| layer.contains_key("schedule"));
    if args.epochs.is_none() || asked || config.schedule.warmup_epochs() <= warmup {
        return Ok(config);
    }
    let schedule = Table::from_iter([("warmup_epochs".to_owned(), warmup.into())]);
    layers.push(Table::from_iter([("schedule".to_owned(), Value::Table(schedule))]));
    Ok(PretrainConfig::resolve(method, &layers)?)
}

fn minutes(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(minutes) if minutes > 0.0 && f64::is_finite(minutes) => Ok(minutes),
        _ => Err("expected a number above 0".into()),
    }
}
