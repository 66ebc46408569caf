//! Keras models as TensorFlow.js ships them: `model.json`, and shards of numbers beside it.
//!
//! `weightsManifest` is a list of groups: the bytes of a group's shards, joined, are its weights one behind the other, row-major and
//! little-endian (tfjs-core, `io/types.ts`: `WeightsManifestConfig`). Tensors keep Keras's names and layout here; what these mean for an
//! encoder is [`crate::names`]' and [`crate::keras`]' subject. Of the topology those facts become metadata that numbers do not say.

use super::numbers::{Kind, tensor_of};
use super::pickle::Problem;
use super::{Map, WeightFile, beside, map};
use crate::{Error, Result};
use candle_core::Device;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

/// Metadata: every epsilon that a batch normalisation of the topology has, ascending as texts.
pub const EPSILON: &str = "batch_norm_epsilon";
/// Metadata: the names of the topology's convolutions whose stride is not 1.
pub const STRIDED: &str = "strided_layers";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Model {
    weights_manifest: Vec<Group>,
    #[serde(default)]
    model_topology: Value,
    format: Option<String>,
    generated_by: Option<String>,
    converted_by: Option<String>,
}

/// Weights, and the shards that hold them.
#[derive(Deserialize)]
struct Group {
    paths: Vec<String>,
    weights: Vec<Weight>,
}

#[derive(Deserialize)]
struct Weight {
    name: String,
    shape: Vec<i64>,
    dtype: String,
    quantization: Option<Value>,
}

impl Weight {
    /// Its shape and length in bytes.
    fn size(&self) -> std::result::Result<(Vec<usize>, usize), Problem> {
        let Self { name, shape, dtype, quantization } = self;
        if let Some(how) = quantization {
            let to = how.get("dtype").and_then(Value::as_str).unwrap_or("?");
            return Err(format!("`{name}` is quantised to {to}; only whole float32 weights are read"));
        }
        if dtype != "float32" {
            return Err(format!("`{name}` is of {dtype}; only float32 weights are read"));
        }
        if let Some(size) = shape.iter().find(|size| **size < 1) {
            return Err(format!("`{name}` has a size of {size}"));
        }
        let large = || format!("`{name}` of shape {shape:?} is too large");
        let sizes: Option<Vec<usize>> = shape.iter().map(|&size| usize::try_from(size).ok()).collect();
        let sizes = sizes.ok_or_else(large)?;
        let bytes = sizes.iter().try_fold(Kind::F32.width(), |n, &size| n.checked_mul(size));
        Ok((sizes, bytes.ok_or_else(large)?))
    }
}

/// Reads the model of a `model.json`, whose bytes are given.
///
/// # Errors
/// JSON of another form; a weight that is quantised, not float32, named twice or of an impossible size; a shard that is not a file beside
/// it, missing, named twice, or shorter or longer than its weights.
pub fn read(path: &Path, bytes: &[u8], device: &Device) -> Result<WeightFile> {
    let fail = |problem: Problem| Error::WeightFile { path: path.to_owned(), problem };
    let model: Model =
        serde_json::from_slice(bytes).map_err(|e| fail(format!("not a model.json of Keras: {e}")))?;
    let (mut names, mut shards) = (HashSet::new(), HashSet::new());
    let mut tensors = HashMap::new();
    for group in &model.weights_manifest {
        let mut sizes = Vec::with_capacity(group.weights.len());
        for weight in &group.weights {
            if !names.insert(&weight.name) {
                return Err(fail(format!("it has two weights `{}`", weight.name)));
            }
            sizes.push(weight.size().map_err(fail)?);
        }
        let mut maps = Vec::with_capacity(group.paths.len());
        for shard in &group.paths {
            if !shards.insert(shard) {
                return Err(fail(format!("it names the shard `{shard}` twice")));
            }
            maps.push(map(&beside(path, shard)?)?);
        }
        check_lengths(group, &sizes, &maps).map_err(fail)?;
        let mut joined = Joined { next: maps.iter(), rest: &[] };
        for (weight, (shape, length)) in group.weights.iter().zip(sizes) {
            let tensor = tensor_of(&joined.take(length), Kind::F32, &shape, device);
            let tensor = tensor.map_err(|e| fail(format!("`{}`: {e}", weight.name)))?;
            tensors.insert(weight.name.clone(), tensor);
        }
    }
    Ok(WeightFile { tensors, metadata: metadata(&model) })
}

/// Whether the shards hold the group's weights and nothing else.
fn check_lengths(
    group: &Group,
    sizes: &[(Vec<usize>, usize)],
    maps: &[Map],
) -> std::result::Result<(), Problem> {
    let there: usize = maps.iter().map(|map| map.len()).sum();
    let shards = || group.paths.iter().map(|shard| format!("`{shard}`")).collect::<Vec<_>>().join(", ");
    let mut end = 0usize;
    for (weight, (_, length)) in group.weights.iter().zip(sizes) {
        end = end
            .checked_add(*length)
            .filter(|end| *end <= there)
            .ok_or_else(|| format!("`{}` ends beyond the {there} bytes of {}", weight.name, shards()))?;
    }
    if end == there {
        return Ok(());
    }
    Err(format!("its weights have {end} bytes, {} have {there}", shards()))
}

/// The bytes of several shards one behind the other.
struct Joined<'a> {
    next: std::slice::Iter<'a, Map>,
    rest: &'a [u8],
}

impl Joined<'_> {
    /// The next bytes, fewer at the end.
    fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        loop {
            let (some, rest) = self.rest.split_at(self.rest.len().min(length - bytes.len()));
            bytes.extend_from_slice(some);
            self.rest = rest;
            if bytes.len() == length {
                return bytes;
            }
            match self.next.next() {
                Some(map) => self.rest = map,
                None => return bytes,
            }
        }
    }
}

fn metadata(model: &Model) -> BTreeMap<String, String> {
    let said = [
        ("format", &model.format),
        ("generated_by", &model.generated_by),
        ("converted_by", &model.converted_by),
    ];
    let said = said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
    let mut layers = Layers::default();
    layers.add(&model.model_topology);
    let more = [(EPSILON, layers.epsilons), (STRIDED, layers.strided)];
    let more = more.into_iter().filter(|(_, texts)| !texts.is_empty());
    said.chain(more.map(|(key, texts)| (key.to_owned(), texts.into_iter().collect::<Vec<_>>().join(" "))))
        .collect()
}

/// What a topology says of its layers.
#[derive(Default)]
struct Layers {
    epsilons: BTreeSet<String>,
    strided: BTreeSet<String>,
}

impl Layers {
    /// Takes in the layers below a value: models may lie in models. The parser bounds the depth.
    fn add(&mut self, topology: &Value) {
        match topology {
            Value::Array(items) => items.iter().for_each(|item| self.add(item)),
            Value::Object(fields) => {
                if let (Some(class), Some(config)) = (fields.get("class_name"), fields.get("config")) {
                    self.add_layer(class.as_str().unwrap_or_default(), config);
                }
                fields.values().for_each(|field| self.add(field));
            }
            _ => {}
        }
    }

    fn add_layer(&mut self, class: &str, config: &Value) {
        if class.starts_with("BatchNormalization") {
            let epsilon = config.get("epsilon").and_then(Value::as_f64);
            self.epsilons.insert(epsilon.map_or_else(|| "unsaid".to_owned(), |epsilon| epsilon.to_string()));
        }
        if class == "Conv2D"
            && let Some(strides) = config.get("strides").and_then(Value::as_array)
            && strides.iter().any(|stride| stride.as_f64() != Some(1.0))
            && let Some(name) = config.get("name").and_then(Value::as_str)
        {
            self.strided.insert(name.to_owned());
        }
    }
}
