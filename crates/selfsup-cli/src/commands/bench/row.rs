//! A row of a study: a pretraining in a process of its own, then probes. What is done is not done again.

use super::child::{self, Interrupts};
use super::column::{self, Column, Origin, Top1};
use super::study::{Row, Run};
use crate::commands::probe::Parts;
use crate::destination;
use crate::failure::{Failure, Result};
use crate::frozen::ExtractArgs;
use crate::output;
use crate::progress::Progress;
use crate::source::SourceName;
use anyhow::{Context, anyhow, bail};
use candle_core::{Device, Tensor};
use selfsup_data::Source;
use selfsup_models::params::ParamBuilder;
use selfsup_models::{Encoder, LoadOptions, Mode, Projector, load_file, weights};
use selfsup_probe::{Features, FinetuneConfig, Frozen, finetune};
use selfsup_train::{MethodConfig, PretrainConfig, RunFolder, metrics};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Training on labels: the usual recipe of small images, 128 a step, SGD at 0.1, decay 5e-4.
const SUPERVISED_BATCH: usize = 128;
const SUPERVISED_LR: f64 = 0.1;
const SUPERVISED_DECAY: f64 = 5e-4;
/// What training took, in the encoder's metadata: the row may be measured again.
const SECONDS: &str = "seconds";

/// What a row with one seed has come to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The row.
    pub row: String,
    /// The seed of the training and of the probes.
    pub seed: u64,
    /// Top-1 accuracy of each measure, in 0…1.
    pub top1: Top1,
    /// The same of the embeddings behind the head.
    pub behind_head: Option<Top1>,
    /// Views of the full side that training has seen, smaller ones by their area; 0 without training.
    pub views: u64,
    /// Seconds of training; 0 without.
    pub seconds: f64,
    /// The most memory that the training process had in use, where the system says.
    pub peak_bytes: Option<u64>,
    /// SHA-256 of the resolved configuration.
    pub config_sha256: String,
    /// The transfer columns' images, by the columns' names for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub transfer: BTreeMap<String, String>,
}

/// Other data.
pub struct Transfer {
    /// In the columns' names.
    pub name: String,
    /// As the command names them.
    pub source: String,
    /// The labelled parts.
    pub parts: Parts,
}

/// How rows are run.
pub struct Setting<'a> {
    /// The study's folder.
    pub out: &'a Path,
    /// The labelled parts.
    pub data: &'a Parts,
    /// Layers before the end, by the names of the columns that are measured behind them.
    pub layers: &'a [String],
    /// How features are computed.
    pub extract: &'a ExtractArgs,
    /// Other data that columns are measured on.
    pub transfer: &'a [Transfer],
    /// What is measured.
    pub columns: &'a [Column],
    /// Whether embeddings are measured too.
    pub embeddings: bool,
    /// What ends a training before its time.
    pub interrupts: &'a Interrupts,
}

impl Setting<'_> {
    /// The outcome of a row that is done already, with these settings.
    pub fn done(&self, row: &Row, config: &PretrainConfig) -> Result<Option<Outcome>> {
        let path = self.result(row, config.seed);
        let Some(outcome) = kept(&path)? else { return Ok(None) };
        if outcome.config_sha256 != config.sha256() {
            let why = "holds a row of other settings; give another --out, or delete its folder";
            return Err(Failure::Usage(anyhow!("{} {why}", path.display())));
        }
        // A column that was not asked for then is measured now, and one of other images that were called the same again.
        let measured = self.columns.iter().all(|column| outcome.top1.contains_key(&column.key()));
        let same = |then: &String, now: &str| SourceName::of(then).is_where(&SourceName::of(now));
        let on_these = self
            .transfer
            .iter()
            .all(|of| outcome.transfer.get(&of.name).is_none_or(|then| same(then, &of.source)));
        Ok((measured && on_these).then_some(outcome))
    }

    /// Runs a row, from its checkpoint if there is one.
    pub fn run(&self, row: &Row, config: &PretrainConfig) -> Result<Outcome> {
        let folder = self.folder(row, config.seed);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let trained = self.trained(row, config, &folder)?;
        let frozen = &trained.frozen;
        let (train, test) = self.data.features(frozen, self.extract, &row.name)?;
        let classes = self.data.classes();
        let of = |train: &Features, test: &Features| {
            column::of_features(self.columns, &Origin::End, train, test, classes, config.seed)
        };
        let mut top1 = of(&train, &test)?;
        let behind_head = match &trained.run {
            Some(run) if self.embeddings => {
                let head = Head::load(run)?;
                Some(of(&head.apply(&train)?, &head.apply(&test)?)?)
            }
            _ => None,
        };
        drop((train, test));
        top1.extend(column::of_weights(self.columns, frozen, self.data, config.workers, config.seed)?);
        top1.extend(self.behind_layers(row, config, frozen)?);
        for Transfer { name, parts, .. } in self.transfer {
            let (train, test) = parts.features(frozen, self.extract, &format!("{}: {name}", row.name))?;
            let (from, classes) = (Origin::Transfer(name.clone()), parts.classes());
            top1.extend(column::of_features(self.columns, &from, &train, &test, classes, config.seed)?);
        }
        let Trained { views, seconds, mut peak_bytes, .. } = trained;
        // A run that is only measured again takes less memory than it took.
        let path = self.result(row, config.seed);
        peak_bytes = peak_bytes.max(kept(&path)?.and_then(|before| before.peak_bytes));
        let outcome = Outcome {
            row: row.name.clone(),
            seed: config.seed,
            top1,
            behind_head,
            views,
            seconds,
            peak_bytes,
            config_sha256: config.sha256(),
            transfer: self.transfer.iter().map(|of| (of.name.clone(), of.source.clone())).collect(),
        };
        let json = serde_json::to_string_pretty(&outcome)? + "\n";
        destination::write(&path, |path| Ok(std::fs::write(path, json)?))?;
        Ok(outcome)
    }

    /// The columns of layers; pixels have none.
    fn behind_layers(&self, row: &Row, config: &PretrainConfig, frozen: &Frozen) -> Result<Top1> {
        let mut top1 = Top1::new();
        let Frozen::Encoder(encoder) = frozen else {
            let of_layers = self.columns.iter().filter(|column| matches!(column.from, Origin::Layer(_)));
            return Ok(of_layers.map(|column| (column.key(), None)).collect());
        };
        for name in self.layers {
            let layer = encoder.arch().config.layer(name)?;
            let what = format!("{}: {name}", row.name);
            let (train, test) = self.data.layer_features(encoder, layer, self.extract, &what)?;
            let (from, classes) = (Origin::Layer(name.clone()), self.data.classes());
            top1.extend(column::of_features(self.columns, &from, &train, &test, classes, config.seed)?);
        }
        Ok(top1)
    }

    fn folder(&self, row: &Row, seed: u64) -> PathBuf {
        self.out.join("rows").join(&row.name).join(format!("seed-{seed}"))
    }

    fn result(&self, row: &Row, seed: u64) -> PathBuf {
        self.folder(row, seed).join("result.json")
    }

    /// The row's encoder, trained if it is to be.
    fn trained(&self, row: &Row, config: &PretrainConfig, folder: &Path) -> Result<Trained> {
        let untrained = |frozen| Trained { frozen, run: None, views: 0, seconds: 0.0, peak_bytes: None };
        let device = selfsup_train::device(&config.device)?;
        match &row.run {
            Run::Pixels => Ok(untrained(Frozen::Pixels { image_size: config.image_size as u32 })),
            Run::Untrained => Ok(untrained(Frozen::Encoder(config.encoder(&device)?))),
            Run::Supervised => self.supervised(config, folder, &device),
            Run::Train { method, .. } => {
                let run = folder.join("run");
                let peak_bytes = train(method, config, folder, &run, self.extract.quiet, self.interrupts)?;
                let encoder = Encoder::load(&run.join("encoder.safetensors"), &device)?;
                let records = metrics::read(&run.join("metrics.jsonl"))?;
                let steps = records.last().map_or(0, |record| record.step);
                // By the records, so that a run that was cut has all of its time.
                let mut before = 0;
                let mut seconds = 0.0;
                for record in &records {
                    let images = record.step.saturating_sub(before) * config.batch_size as u64;
                    seconds += images as f64 / record.samples_per_s;
                    before = record.step;
                }
                let views =
                    config.method.views(config.image_size) * (steps * config.batch_size as u64) as f64;
                let frozen = Frozen::Encoder(encoder);
                Ok(Trained { frozen, run: Some(run), views: views.round() as u64, seconds, peak_bytes })
            }
        }
    }

    /// The encoder trained on all labels, on as many views as a pretraining of this configuration; from its file if it is there.
    fn supervised(&self, config: &PretrainConfig, folder: &Path, device: &Device) -> Result<Trained> {
        let path = folder.join("encoder.safetensors");
        let train = self.data.train();
        let batch = SUPERVISED_BATCH.min(train.len());
        let per_epoch = train.len().div_ceil(batch);
        let images = 2 * config
            .steps
            .map_or(config.epochs * train.len() as u64, |steps| steps * config.batch_size as u64);
        let steps = (images as usize).div_ceil(batch).max(1);
        let finetune = FinetuneConfig {
            epochs: (steps / per_epoch).max(1),
            min_steps: steps,
            batch_size: batch,
            backbone_lr: SUPERVISED_LR,
            head_lr: SUPERVISED_LR,
            weight_decay: SUPERVISED_DECAY,
            workers: config.workers,
            ..FinetuneConfig::default()
        };
        let start = Instant::now();
        let (encoder, seconds) = if path.exists() {
            let loaded = load_file(&path, &LoadOptions::default(), device)?;
            let seconds = loaded.metadata.get(SECONDS).and_then(|seconds| seconds.parse().ok());
            (loaded.encoder, seconds.unwrap_or_default())
        } else {
            let total = finetune.steps(train.len()) as u64;
            let mut bar = Progress::new("supervised", total, 0, self.extract.quiet);
            let mut done = 0;
            let mut stepped = || {
                done += 1;
                bar.at(done, || "steps".into());
            };
            let (classes, seed) = (self.data.classes().len(), config.seed);
            let labelled = finetune::labelled(train);
            let tuned =
                finetune::fit(&config.encoder(device)?, &labelled, classes, &finetune, seed, &mut stepped)?;
            bar.finish();
            let seconds = start.elapsed().as_secs_f64();
            let said = [("method", "supervised".to_owned()), (SECONDS, seconds.to_string())];
            tuned.encoder.save(&path, &said.map(|(key, value)| (key.to_owned(), value)).into())?;
            (tuned.encoder, seconds)
        };
        let views = (finetune.steps(train.len()) * batch) as u64;
        Ok(Trained { frozen: Frozen::Encoder(encoder), run: None, views, seconds, peak_bytes: None })
    }
}

/// A row's outcome, if there is one; one that is damaged is as good as none.
fn kept(path: &Path) -> Result<Option<Outcome>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(anyhow!("{}: {error}", path.display()).into()),
    };
    match serde_json::from_str(&text) {
        Ok(outcome) => Ok(Some(outcome)),
        Err(error) => {
            output::say(format_args!("{} is damaged ({error}); measured again", path.display()));
            Ok(None)
        }
    }
}

/// An encoder, and what its training took.
struct Trained {
    frozen: Frozen,
    /// The run's folder, of a pretraining.
    run: Option<PathBuf>,
    views: u64,
    seconds: f64,
    peak_bytes: Option<u64>,
}

/// Pretrains in a process of its own, whose memory is the row's alone, and returns its peak. A run that was cut off goes on.
fn train(
    method: &str,
    config: &PretrainConfig,
    folder: &Path,
    run: &Path,
    quiet: bool,
    interrupts: &Interrupts,
) -> Result<Option<u64>> {
    let settings = folder.join("settings.toml");
    std::fs::write(&settings, config.to_toml())
        .with_context(|| format!("cannot write {}", settings.display()))?;
    child::wait_until_free(run)?;
    let begun = run.join("checkpoint.safetensors").exists();
    if !begun && run.exists() {
        std::fs::remove_dir_all(run).with_context(|| format!("cannot clear {}", run.display()))?;
    }
    let arguments = |command: &mut Command| {
        match begun {
            true => command.arg("--resume").arg(run),
            false => command.arg("--config").arg(&settings).arg("--out").arg(run),
        };
        if quiet {
            command.arg("--quiet");
        }
    };
    child::pretrain(method, arguments, interrupts)
}

/// A run's projector.
struct Head {
    projector: Projector,
    dim: usize,
}

impl Head {
    fn load(run: &Path) -> anyhow::Result<Self> {
        let (folder, config) = RunFolder::open(run)?;
        let MethodConfig::SimClr(method) = &config.method else {
            bail!("{} has no head that is measured", config.method.name());
        };
        let feature_dim = selfsup_models::arch(&config.arch)?.config.feature_dim();
        let build = ParamBuilder::new(0, &Device::Cpu);
        let projector = Projector::new(feature_dim, &method.projector, &build.part("projector"))?;
        let file = weights::read(&folder.checkpoint(), &Device::Cpu)?;
        let own = file.tensors.into_iter().filter_map(|(name, t)| {
            let name = name.strip_prefix("model.")?;
            name.starts_with("projector.").then(|| (name.to_owned(), t))
        });
        build.finish().load_file(&own.collect(), "the projector")?;
        Ok(Self { projector, dim: method.projector.embedding_dim(feature_dim) })
    }

    /// The embeddings of features, row by row.
    fn apply(&self, features: &Features) -> anyhow::Result<Features> {
        let n = features.labels.len();
        let x = Tensor::from_slice(&features.values, (n, features.dim), &Device::Cpu)?;
        let values = self.projector.forward(&x, Mode::Eval)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(Features { values, dim: self.dim, ..features.clone() })
    }
}
