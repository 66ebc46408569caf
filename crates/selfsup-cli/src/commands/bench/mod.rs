//! `selfsup bench`: many runs under one protocol, row by row, and their table.

mod plot;
mod report;
mod row;
pub mod study;

use crate::args::{BenchArgs, ExtractArgs};
use crate::commands::pretrain::layers;
use crate::commands::probe::Parts;
use crate::failure::{Failure, OrUsage, Result};
use crate::output;
use anyhow::{Context, anyhow};
use report::Report;
use row::Setting;
use selfsup_data::{OpenOptions, open_labelled_parts};
use selfsup_train::PretrainConfig;
use study::{Row, Run};
use toml::{Table, Value};

/// Runs the command.
pub fn run(args: BenchArgs) -> Result {
    let study = args.study;
    let base =
        |method: &'static str| -> anyhow::Result<PretrainConfig> { resolve(&args, method, &Table::new()) };
    let rows: Vec<Row> = study
        .rows(&base)
        .or_usage()?
        .into_iter()
        .filter(|row| args.only.is_empty() || args.only.iter().any(|name| row.name.contains(name)))
        .collect();
    if rows.is_empty() {
        return Err(Failure::Usage(anyhow!("no row's name contains any of {:?}", args.only)));
    }
    // Every configuration is checked before the first row is run.
    let mut plan = Vec::new();
    for seed in 0..args.seeds {
        for row in &rows {
            plan.push((row, config(&args, row, seed).or_usage()?));
        }
    }
    if args.dry_run {
        for (row, config) in plan.iter().take(rows.len()) {
            output::print_line(format!("# {}\n{}", row.name, config.to_toml()))?;
        }
        return Ok(());
    }
    let data = Parts::from(open_labelled_parts(&args.data, None, &OpenOptions::default()).or_usage()?);
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make {}", args.out.display()))
        .or_usage()?;
    let extract = ExtractArgs::new(&args.device, args.workers, args.quiet);
    let setting =
        Setting { out: &args.out, data: &data, extract: &extract, embeddings: study.measures_embeddings() };
    let mut report =
        Report::new(study, &args.data, rows.iter().map(|row| (row.name.clone(), row.place)).collect());
    let mut left = Vec::new();
    for (row, config) in plan {
        match setting.done(row, &config)? {
            Some(outcome) => report.add(outcome),
            None => left.push((row, config)),
        }
    }
    let total = left.len();
    for (i, (row, config)) in left.into_iter().enumerate() {
        output::say(format_args!("[{}/{total}] {} with seed {}", i + 1, row.name, config.seed));
        match setting.run(row, &config) {
            Ok(outcome) => report.add(outcome),
            Err(Failure::Interrupted(text)) => return Err(Failure::Interrupted(text)),
            Err(Failure::Work(error) | Failure::Usage(error)) => {
                output::say(format_args!("{} with seed {} failed: {error:#}", row.name, config.seed));
                report.fail(&row.name, config.seed, format!("{error:#}"));
            }
        }
        report.write(&args.out)?;
    }
    report.write(&args.out)?;
    output::print(report.table())?;
    match report.failures() {
        0 => Ok(()),
        n => Err(anyhow!("{n} of the rows failed; the same command tries them again").into()),
    }
}

/// A row's resolved configuration.
fn config(args: &BenchArgs, row: &Row, seed: u64) -> anyhow::Result<PretrainConfig> {
    let (method, mut settings) = match &row.run {
        Run::Train { method, settings } => (*method, settings.clone()),
        Run::Pixels | Run::Untrained => ("simclr", Table::new()),
    };
    let seed = i64::try_from(seed).context("--seeds is too large")?;
    settings.insert("seed".into(), seed.into());
    resolve(args, method, &settings)
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
