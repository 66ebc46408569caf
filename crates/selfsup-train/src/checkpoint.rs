//! Checkpoints: everything that a run needs to go on as if it had not stopped.
//!
//! One safetensors file: `model.NAME` for every tensor of the method, running statistics included,
//! `optimizer.NAME` for the optimiser's state, `WHOSE_optimizer.NAME` for that of a method's own, and in the metadata the number of steps done and the resolved
//! configuration. Randomness is counter-based, so there is no generator to save: step and seed say it all.

use crate::method::Method;
use crate::{Error, PretrainConfig, Result};
use candle_core::{DType, Tensor};
use selfsup_data::{Dataset, Source};
use selfsup_models::weights::{self, WeightFile};
use selfsup_optim::Optimizer;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

const KIND: &str = "selfsup checkpoint";

/// How far a run is, and on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position<'a> {
    /// Steps done.
    pub step: u64,
    /// What it is trained on.
    pub images: &'a Images,
}

/// The images of a run, so that one is not taken up with others: an epoch's order is by their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    count: usize,
    /// SHA-256 of their ids, in order.
    sha256: String,
}

impl Images {
    /// Those of a source.
    pub fn of(data: &Dataset) -> Self {
        let mut hash = Sha256::new();
        for sample in data.samples() {
            hash.update((sample.id.len() as u64).to_le_bytes());
            hash.update(sample.id.as_bytes());
        }
        let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { count: data.len(), sha256 }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// Writes the state at a position. The old file stays until the new one is whole. Weights that are not finite
/// are an error: the last good checkpoint is worth more.
pub fn save(
    path: &Path,
    at: Position<'_>,
    config: &PretrainConfig,
    method: &dyn Method,
    optimizer: &dyn Optimizer,
) -> Result<()> {
    let mut file = WeightFile::default();
    let mut broken = Vec::new();
    for t in method.tensors().iter() {
        if !all_finite(t.var.as_tensor())? {
            broken.push(t.name.clone());
        }
        file.tensors.insert(format!("model.{}", t.name), t.layout.to_file(t.var.as_tensor())?);
    }
    if !broken.is_empty() {
        return Err(Error::NonFiniteWeights { step: at.step, names: broken });
    }
    for (name, tensor) in optimizer.state()? {
        file.tensors.insert(format!("optimizer.{name}"), tensor);
    }
    for (own, optimizer) in method.optimizers() {
        for (name, tensor) in optimizer.state()? {
            file.tensors.insert(format!("{own}_optimizer.{name}"), tensor);
        }
    }
    for (key, value) in [
        ("kind", KIND.to_owned()),
        ("step", at.step.to_string()),
        ("samples", at.images.count.to_string()),
        ("samples_sha256", at.images.sha256.clone()),
        ("config", config.kept().0.to_toml()),
        ("config_sha256", config.sha256()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ] {
        file.metadata.insert(key.into(), value);
    }
    Ok(weights::write(path, &file)?)
}

/// Sets method and optimiser from a file and returns the number of steps done. Tensors that do not fit this
/// configuration's model are an error that names them; so is data of another size or with other images.
pub fn load(
    path: &Path,
    images: &Images,
    config: &PretrainConfig,
    method: &mut dyn Method,
    optimizer: &mut dyn Optimizer,
) -> Result<u64> {
    let fail = |why: String| Error::Checkpoint { path: path.to_owned(), why };
    let device = method.encoder().device();
    let file = weights::read(path, device).map_err(|e| fail(e.to_string()))?;
    if file.metadata.get("kind").map(String::as_str) != Some(KIND) {
        return Err(fail("this is not a checkpoint of selfsup".into()));
    }
    let field = |name: &str| {
        file.metadata.get(name).ok_or_else(|| fail(format!("the metadata field `{name}` is missing")))
    };
    let number = |name: &str| -> Result<u64> {
        let text = field(name)?;
        text.parse().map_err(|_| fail(format!("the metadata field `{name}` is not a number: `{text}`")))
    };
    let step = number("step")?;
    let trained_on = number("samples")?;
    if trained_on != images.count as u64 {
        return Err(fail(format!(
            "the run was trained on {trained_on} images, but `{}` has {}",
            config.data, images.count
        )));
    }
    // Earlier versions did not write it.
    if file.metadata.get("samples_sha256").is_some_and(|sha256| *sha256 != images.sha256) {
        return Err(fail(format!(
            "the run was trained on other images than those of `{}`: as many, but not the same names in the same order",
            config.data
        )));
    }
    config.check_resumable_from(&PretrainConfig::from_toml(field("config")?)?)?;

    let mut model = HashMap::new();
    let mut state = HashMap::new();
    let mut own: HashMap<String, HashMap<String, Tensor>> =
        method.optimizers().iter().map(|(own, _)| ((*own).to_owned(), HashMap::new())).collect();
    for (name, tensor) in file.tensors {
        match name.split_once('.') {
            Some(("model", name)) => model.insert(name.to_owned(), tensor),
            Some(("optimizer", name)) => state.insert(name.to_owned(), tensor),
            Some((optimizer, rest)) if own.contains_key(of_own(optimizer)) => {
                own.get_mut(of_own(optimizer)).expect("looked up").insert(rest.to_owned(), tensor)
            }
            _ => return Err(fail(format!("the tensor `{name}` is foreign"))),
        };
    }
    method.tensors().load_file(&model, &config.arch).map_err(|e| fail(e.to_string()))?;
    optimizer.load_state(&state).map_err(|e| fail(e.to_string()))?;
    for (name, optimizer) in method.optimizers_mut() {
        optimizer.load_state(&own[name]).map_err(|e| fail(e.to_string()))?;
    }
    Ok(step)
}

/// The name in `NAME_optimizer`.
fn of_own(part: &str) -> &str {
    part.strip_suffix("_optimizer").unwrap_or_default()
}

/// Sets a method's tensors from a checkpoint, for looking at the model: nothing is checked but that they fit.
///
/// # Errors
/// A file that is no checkpoint, or one of another model.
pub fn load_model(path: &Path, method: &mut dyn Method) -> Result<()> {
    let fail = |why: String| Error::Checkpoint { path: path.to_owned(), why };
    let file = weights::read(path, method.encoder().device()).map_err(|e| fail(e.to_string()))?;
    let own =
        file.tensors.into_iter().filter_map(|(name, t)| Some((name.strip_prefix("model.")?.to_owned(), t)));
    method.tensors().load_file(&own.collect(), "the run's model").map_err(|e| fail(e.to_string()))
}

/// Whether no number is infinite or NaN: x − x is 0 for a finite x and NaN for any other.
fn all_finite(tensor: &Tensor) -> Result<bool> {
    Ok(tensor.sub(tensor)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()? == 0.0)
}
