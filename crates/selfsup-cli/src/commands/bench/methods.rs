//! Many methods under one protocol: the same encoder, the same images, as many views or as much time, the same probes.
//!
//! Beside them stand the pixels, the untrained encoder, and one that was trained on the labels.

use super::child::{self, Interrupts};
use super::column::{Column, Measure, Origin};
use super::study::{Place, Question, Row, Run};
use crate::commands::pretrain::known_method;
use crate::destination;
use crate::failure::{self, Failure, Result};
use anyhow::{Context, anyhow};
use selfsup_train::{METHODS, PretrainConfig, metrics};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use toml::{Table, Value};

/// Steps by which a method's speed is measured, the first of which are left out.
const TIMED_STEPS: u64 = 40;
/// What was measured of it, in the bench's folder.
const RATES: &str = "rates.json";
const CLAIM: &str = "What each method's features are worth, with the same encoder, images and budget.";

/// How long each method trains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// As many views as so many passes over the images have with two views each.
    Passes(u64),
    /// So many minutes on this machine.
    Minutes(f64),
}

/// The methods of a list on the command line; `all` is every one.
pub fn named(list: &[String]) -> Result<Vec<&'static str>> {
    let mut names = Vec::new();
    for name in list {
        if name == "all" {
            names.extend(METHODS.iter().map(|method| method.name));
            continue;
        }
        known_method(name)?;
        names.extend(METHODS.iter().map(|method| method.name).filter(|known| known == name));
    }
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    Ok(names)
}

/// The table's rows and columns.
pub fn question(names: &[&'static str], layers: &[String], transfer: &[String]) -> Question {
    let row = |name: &str, run| Row { name: name.into(), place: Place::Rank, run };
    let mut rows = vec![
        row("pixels", Run::Pixels),
        row("untrained", Run::Untrained),
        row("supervised", Run::Supervised),
    ];
    rows.extend(names.iter().map(|name| row(name, Run::Train { method: name, settings: Table::new() })));
    let own = [Measure::Knn, Measure::Linear, Measure::Few(10), Measure::Few(100), Measure::Finetuned(100)];
    let mut columns = own.map(Column::from).to_vec();
    let layers = layers.iter().cloned().map(Origin::Layer);
    for from in layers.chain(transfer.iter().cloned().map(Origin::Transfer)) {
        columns.extend([Measure::Knn, Measure::Linear].map(|measure| Column { measure, from: from.clone() }));
    }
    Question { name: "methods", claim: CLAIM, axis: "top-1, %", rows, columns, embeddings: false }
}

/// What every run gets over its method's defaults: these fit runs of their own length, so that all go along a cosine here, with a tenth
/// for the warm-up.
pub fn schedule(epochs: f64) -> Table {
    let cosine = Table::from_iter([
        ("name".to_owned(), Value::from("cosine")),
        ("warmup_epochs".to_owned(), Value::from(0.1 * epochs)),
        ("final_factor".to_owned(), Value::from(0.0)),
    ]);
    Table::from_iter([("schedule".to_owned(), Value::Table(cosine))])
}

/// Steps of a run.
pub fn steps(budget: Budget, config: &PretrainConfig, images: usize, rates: &mut Rates<'_>) -> Result<u64> {
    let steps = match budget {
        Budget::Passes(passes) => {
            let views = 2.0 * passes as f64 * images as f64;
            (views / (config.method.views(config.image_size) * config.batch_size as f64)) as u64
        }
        Budget::Minutes(minutes) => {
            (60.0 * minutes * rates.images_per_s(config)? / config.batch_size as f64) as u64
        }
    };
    Ok(steps.max(1))
}

/// Images a second of each configuration, measured once and kept in the bench's folder, so that a run that goes on has the same steps.
pub struct Rates<'a> {
    out: &'a Path,
    known: BTreeMap<String, f64>,
    /// What could not be measured, which is not tried again for the next seed.
    failed: BTreeMap<String, String>,
    interrupts: &'a Interrupts,
}

impl<'a> Rates<'a> {
    /// Those of a folder.
    pub fn open(out: &'a Path, interrupts: &'a Interrupts) -> Result<Self> {
        let path = out.join(RATES);
        let known = match std::fs::read_to_string(&path) {
            Ok(text) => {
                serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(Failure::Usage(anyhow!("{}: {error}", path.display()))),
        };
        Ok(Self { out, known, failed: BTreeMap::new(), interrupts })
    }

    fn images_per_s(&mut self, config: &PretrainConfig) -> Result<f64> {
        // The seed changes no speed.
        let key =
            format!("{}-{}", config.method.name(), PretrainConfig { seed: 0, ..config.clone() }.sha256());
        if let Some(rate) = self.known.get(&key) {
            return Ok(*rate);
        }
        if let Some(why) = self.failed.get(&key) {
            return Err(anyhow!("{why}").into());
        }
        std::fs::create_dir_all(self.out).with_context(|| format!("cannot make {}", self.out.display()))?;
        let folder = tempfile::tempdir_in(self.out).context("cannot make a folder")?;
        let short =
            PretrainConfig { steps: Some(TIMED_STEPS), log_every_steps: TIMED_STEPS / 2, ..config.clone() };
        let (settings, run) = (folder.path().join("settings.toml"), folder.path().join("run"));
        std::fs::write(&settings, short.to_toml()).context("cannot write the settings")?;
        let arguments = |command: &mut Command| {
            command.arg("--quiet").arg("--config").arg(&settings).arg("--out").arg(&run);
        };
        match child::pretrain(config.method.name(), arguments, self.interrupts) {
            Ok(_) => {}
            Err(Failure::Work(error)) => {
                let why = format!("{} could not be timed: {}", config.method.name(), failure::line(&error));
                self.failed.insert(key, why.clone());
                return Err(anyhow!("{why}").into());
            }
            Err(other) => return Err(other),
        }
        let rate =
            metrics::read(&run.join("metrics.jsonl"))?.last().map_or(1.0, |record| record.samples_per_s);
        self.known.insert(key, rate);
        let json = serde_json::to_string_pretty(&self.known)? + "\n";
        destination::write(&self.out.join(RATES), |path| Ok(std::fs::write(path, json)?))?;
        Ok(rate)
    }
}
