//! A run's configuration: the defaults of a method on a kind of data, a file over them, single settings over
//! that. What comes out is complete: `config.toml` of a run folder repeats the run.

use crate::method::{MethodConfig, Sizes};
use crate::{Error, Result, defaults};
use candle_core::{DType, Device};
use selfsup_models::{Encoder, Preprocessing};
use selfsup_optim::{OptimizerConfig, Schedule};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Everything that decides a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// Where the images come from: a source as `selfsup_data::open` reads it.
    pub data: String,
    /// The encoder's architecture.
    pub arch: String,
    /// Side of the square views, in pixels.
    pub image_size: usize,
    /// Images (not views) a step.
    pub batch_size: usize,
    /// Passes over the data.
    pub epochs: u64,
    /// Steps in all; when given, `epochs` does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Decides weights, order and augmentation.
    pub seed: u64,
    /// `auto`, `cpu`, `cuda`, `cuda:I` or `metal`.
    pub device: String,
    /// What training keeps the encoder's activations in: `f32` or `bf16`. Weights stay f32.
    pub dtype: String,
    /// Threads that decode and augment. The result does not depend on it.
    pub workers: usize,
    /// Whether an image that cannot be decoded ends the run; otherwise it is skipped and named once.
    pub strict: bool,
    /// Whether most images may be smaller than the views, which then show enlarged pixels.
    pub allow_small_images: bool,
    /// Steps between two records of the metrics.
    pub log_every_steps: u64,
    /// Steps between two writes of the checkpoint; the last step writes one too.
    pub checkpoint_every_steps: u64,
    /// Steps between checkpoints that are kept beside the last one; 0 keeps none.
    pub keep_every_steps: u64,
    /// Largest norm of the gradient, beyond which it is scaled down; 0 is no limit.
    pub clip_grad_norm: f64,
    /// The channels' mean and standard deviation.
    pub normalization: Normalization,
    /// The method and its settings.
    pub method: MethodConfig,
    /// The optimiser and its settings.
    pub optimizer: OptimizerConfig,
    /// The learning rate over time, as factors of the optimiser's.
    pub schedule: Schedule,
}

/// x = (u8/255 − mean)/std a channel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Mean of red, green, blue in 0…1.
    pub mean: [f32; 3],
    /// Standard deviation of red, green, blue in 0…1.
    pub std: [f32; 3],
}

impl Normalization {
    /// ImageNet's, as torchvision's models use it.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    /// Of CIFAR-10's training part.
    pub const CIFAR10: Self = Self { mean: [0.4914, 0.4822, 0.4465], std: [0.247, 0.2435, 0.2616] };
    /// Of Fashion-MNIST's training part.
    pub const FASHION_MNIST: Self = Self { mean: [0.286; 3], std: [0.353; 3] };
}

impl PretrainConfig {
    /// The defaults of `method` for the data that `layers` name, with the layers put over them in order. A
    /// layer is a part of a configuration as TOML; `data` and `image_size` in it also choose among defaults.
    pub fn resolve(method: &str, layers: &[Table]) -> Result<Self> {
        let last = |key: &str| layers.iter().rev().find_map(|layer| layer.get(key));
        let data = last("data").and_then(Value::as_str).unwrap_or(defaults::DATA);
        let image_size = last("image_size").and_then(Value::as_integer).and_then(|n| usize::try_from(n).ok());
        let base = defaults::config(method, data, image_size)?;
        let mut merged = to_table(&base);
        let over = layers.iter().rev().fold(Table::new(), |over, layer| {
            let mut joined = layer.clone();
            merge(&mut joined, &over);
            joined
        });
        change_optimizer(&mut merged, &over)?;
        let base = merged.clone();
        merge(&mut merged, &over);
        let mut config: Self = Value::Table(merged).try_into().map_err(|e: toml::de::Error| {
            let (setting, what) = (culprit(&base, &over, &e), with_nearest(e.message()));
            Error::Config(setting.map_or_else(|| what.clone(), |setting| format!("{setting}: {what}")))
        })?;
        if config.method.name() != method {
            let named = config.method.name();
            return Err(Error::Config(format!(
                "the command names the method `{method}`, the configuration `{named}`"
            )));
        }
        config.method.settle()?;
        config.validate()?;
        Ok(config)
    }

    /// Reads a complete configuration.
    pub fn from_toml(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| Error::Config(with_nearest(&e.to_string())))
    }

    /// The complete configuration as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration is a table of plain values")
    }

    /// The same as the folder of a run keeps it: a file that it names is called as it is called there. And that file: where it lies now,
    /// and its name there.
    pub fn kept(&self) -> (Self, Option<(PathBuf, &'static str)>) {
        let mut kept = self.clone();
        let file = kept.method.file_mut().map(|(path, name)| (std::mem::replace(path, name.into()), name));
        (kept, file)
    }

    /// SHA-256 of [`PretrainConfig::to_toml`], in hexadecimal; where a file lies does not change it.
    pub fn sha256(&self) -> String {
        let text = self.kept().0.to_toml();
        Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Checks every value; the error names the first wrong one.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("image_size", self.image_size as u64),
            ("batch_size", self.batch_size as u64),
            ("epochs", self.epochs),
            ("steps", self.steps.unwrap_or(1)),
            ("log_every_steps", self.log_every_steps),
            ("checkpoint_every_steps", self.checkpoint_every_steps),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(Error::Config(format!("{name} must be at least 1, got 0")));
            }
        }
        if self.batch_size < 2 {
            return Err(Error::Config(
                "batch_size must be at least 2: a single image has no negatives, and no statistics to be normalised by"
                    .into(),
            ));
        }
        if self.seed > i64::MAX as u64 {
            return Err(Error::Config(format!("seed must be at most {}, got {}", i64::MAX, self.seed)));
        }
        if !(self.clip_grad_norm >= 0.0 && self.clip_grad_norm.is_finite()) {
            let got = self.clip_grad_norm;
            return Err(Error::Config(format!("clip_grad_norm must be 0 (no limit) or more, got {got}")));
        }
        let Normalization { mean, std } = self.normalization;
        if !mean.iter().all(|m| m.is_finite()) || !std.iter().all(|s| s.is_finite() && *s > 0.0) {
            return Err(Error::Config("normalization: mean must be finite and std positive".into()));
        }
        let network = &selfsup_models::arch(&self.arch)?.config;
        network.check_side(self.image_size)?;
        network.check_train_dtype(self.train_dtype()?)?;
        self.method.validate(Sizes { image: self.image_size, batch: self.batch_size, network })?;
        self.optimizer.validate()?;
        self.schedule.validate()?;
        Ok(())
    }

    /// Fails where there are fewer images than a batch takes.
    pub fn check_batch(&self, images: usize) -> Result<()> {
        if images >= self.batch_size {
            return Ok(());
        }
        Err(Error::Config(format!(
            "batch_size is {}, but `{}` has {images} images to train on; a batch takes each image once: give a smaller batch_size \
             (--batch-size, or --set batch_size=N)",
            self.batch_size, self.data
        )))
    }

    /// [`PretrainConfig::dtype`] as candle has it.
    pub fn train_dtype(&self) -> Result<DType> {
        match &self.dtype[..] {
            "f32" => Ok(DType::F32),
            "bf16" => Ok(DType::BF16),
            other => Err(Error::Config(format!("dtype must be `f32` or `bf16`, got `{other}`"))),
        }
    }

    /// How the encoder's input is prepared.
    pub fn preprocessing(&self) -> Preprocessing {
        let Normalization { mean, std } = self.normalization;
        Preprocessing { colors: self.method.colors(), ..Preprocessing::rgb(self.image_size, mean, std) }
    }

    /// The untrained encoder that a run of this begins with.
    pub fn encoder(&self, device: &Device) -> Result<Encoder> {
        let arch = selfsup_models::arch(&self.arch)?;
        let encoder = Encoder::untrained(arch, self.preprocessing(), self.seed, device)?;
        Ok(encoder.with_train_dtype(self.train_dtype()?)?)
    }

    /// Whether a run of `old` may go on as this one: length, place and cadence may differ, nothing that
    /// decides the numbers. The error names every setting that must stay.
    pub fn check_resumable_from(&self, old: &Self) -> Result<()> {
        const FREE: &[&str] = &[
            "data",
            "epochs",
            "steps",
            "device",
            "workers",
            "strict",
            "allow_small_images",
            "log_every_steps",
            "checkpoint_every_steps",
            "keep_every_steps",
        ];
        // A file's hash tells whether it is the same.
        let (mut new, mut old) = (to_table(&self.kept().0), to_table(&old.kept().0));
        for key in FREE {
            new.remove(*key);
            old.remove(*key);
        }
        let mut changed = Vec::new();
        differences("", &Value::Table(old), &Value::Table(new), &mut changed);
        if changed.is_empty() {
            return Ok(());
        }
        Err(Error::Config(format!("a resumed run keeps its settings, but {}", changed.join(", "))))
    }
}

/// A layer from a file; the path of a file that it names is from its own folder.
pub fn read_settings(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let wrong = |e: toml::de::Error| Error::Config(format!("{}: {}", path.display(), e.message()));
    let mut layer = text.parse::<Table>().map_err(wrong)?;
    let method = layer.get_mut("method").and_then(Value::as_table_mut);
    if let Some(Value::String(file)) = method.and_then(|method| method.get_mut("permutation_file")) {
        let joined = path.parent().unwrap_or(Path::new("")).join(&*file);
        *file = joined.into_os_string().into_string().map_err(|joined| {
            Error::Config(format!("{}: the path of {joined:?} is not UTF-8", path.display()))
        })?;
    }
    Ok(layer)
}

/// Parses `KEY=VALUE` with a dotted key into a layer. A value that is no TOML value is a string.
pub fn parse_setting(setting: &str) -> Result<Table> {
    let (key, value) = setting
        .split_once('=')
        .filter(|(key, _)| !key.trim().is_empty())
        .ok_or_else(|| Error::Config(format!("`{setting}` is not of the form KEY=VALUE")))?;
    let value = format!("v = {}", value.trim())
        .parse::<Table>()
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(value.trim().to_owned()));
    let mut parts = key.trim().rsplit('.');
    let mut layer = Table::from_iter([(parts.next().unwrap_or_default().to_owned(), value)]);
    for part in parts {
        layer = Table::from_iter([(part.to_owned(), Value::Table(layer))]);
    }
    Ok(layer)
}

fn to_table(config: &PretrainConfig) -> Table {
    Table::try_from(config).expect("a configuration is a table of plain values")
}

/// Puts `over` on `base`, table by table. A table whose `name` changes is replaced: the settings of one
/// schedule mean nothing to another.
fn merge(base: &mut Table, over: &Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Table(old)), Value::Table(new)) if !renamed(old, new) => merge(old, new),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The first setting of `over` that is alone enough for an error, which does not name it.
fn culprit(base: &Table, over: &Table, error: &toml::de::Error) -> Option<String> {
    let wrong = |layer: &Table| {
        let mut merged = base.clone();
        merge(&mut merged, layer);
        let read: std::result::Result<PretrainConfig, _> = Value::Table(merged).try_into();
        read.is_err_and(|alone| alone.message() == error.message())
    };
    let settings = single_settings(over);
    settings.into_iter().find(|(_, layer)| wrong(layer)).map(|(path, _)| path)
}

/// Every setting of a layer as a layer of its own, by its dotted key.
fn single_settings(layer: &Table) -> Vec<(String, Table)> {
    let mut settings = Vec::new();
    for (key, value) in layer {
        match value {
            Value::Table(inner) => {
                settings.extend(single_settings(inner).into_iter().map(|(path, inner)| {
                    (format!("{key}.{path}"), Table::from_iter([(key.clone(), Value::Table(inner))]))
                }))
            }
            _ => settings.push((key.clone(), Table::from_iter([(key.clone(), value.clone())]))),
        }
    }
    settings
}

/// Whether both tables have a `name`, and not the same.
fn renamed(old: &Table, new: &Table) -> bool {
    matches!((old.get("name"), new.get("name")), (Some(old), Some(new)) if old != new)
}

/// If `over` names another optimiser than `base`, `base` gets that one with its own defaults. No default fits its
/// learning rate, which depends on the method and the batch.
fn change_optimizer(base: &mut Table, over: &Table) -> Result<()> {
    let table = |of: &Table| of.get("optimizer").and_then(Value::as_table).cloned().unwrap_or_default();
    let (old, new) = (table(base), table(over));
    let name = new.get("name").and_then(Value::as_str);
    let Some(config) = name.and_then(|name| OptimizerConfig::named(name, 1.0)) else { return Ok(()) };
    if !renamed(&old, &new) {
        return Ok(());
    }
    if !new.contains_key("lr") {
        let (old, new) = (old["name"].as_str().unwrap_or_default(), config.name());
        return Err(Error::Config(format!(
            "optimizer.name is `{new}` in place of `{old}`, whose learning rate does not suit it; give optimizer.lr \
             (or --lr) too"
        )));
    }
    base.insert("optimizer".into(), Value::try_from(config).expect("plain values"));
    Ok(())
}

/// Paths at which two values differ, each with both values.
fn differences(path: &str, old: &Value, new: &Value, out: &mut Vec<String>) {
    match (old, new) {
        (Value::Table(a), Value::Table(b)) => {
            let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let none = Value::String("(none)".into());
                differences(&path, a.get(key).unwrap_or(&none), b.get(key).unwrap_or(&none), out);
            }
        }
        _ if old == new => {}
        _ => out.push(format!("`{path}` was {old} and is {new}")),
    }
}

/// Adds the nearest known name to serde's "unknown field `x`, expected one of `a`, `b`".
fn with_nearest(message: &str) -> String {
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let nearest = match names.split_first() {
        Some((unknown, known)) if message.contains("unknown ") => {
            crate::nearest(unknown, known.iter().copied())
        }
        _ => None,
    };
    let message = message.trim_end();
    match nearest {
        Some(name) => format!("{message}; did you mean `{name}`?"),
        None => message.to_owned(),
    }
}
