//! What `selfsup embed` writes as safetensors: features, labels and ids, and by what they were made, so that other images can be compared
//! with them.

use crate::commands::embed::EmbedArgs;
use crate::frozen::{Channels, ExtractArgs};
use anyhow::{Context, Result, anyhow};
use candle_core::{DType, Device, Tensor};
use selfsup_data::Dataset;
use selfsup_models::weights::{self, WeightFile};
use selfsup_models::{Preprocessing, arch};
use selfsup_probe::{Features, Frozen};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// A larger side is no input; a transformer's positions for it would fill the memory.
const MOST_SIDE: usize = 4096;

/// A label's number where the source has none.
const NO_LABEL: i64 = -1;

/// An embedded source.
pub struct Index {
    /// As it was named.
    pub encoder: String,
    /// Of its weights; pixels have none.
    pub encoder_sha256: Option<String>,
    /// What the source is called.
    pub data: String,
    pub classes: Vec<String>,
    pub features: Features,
    made: Made,
}

/// By what network, and of what images: equal weights alone do not make equal features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Made {
    by: By,
    /// As the command said, for a file of another and for `random:ARCH`.
    names: Option<String>,
    seed: u64,
}

/// An encoder, but for its weights, or the pixels themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum By {
    Encoder { arch: String, preprocessing: Preprocessing },
    Pixels { image_size: usize },
}

impl Index {
    /// Of what `embed` made.
    pub fn of(args: &EmbedArgs, frozen: &Frozen, data: &Dataset, features: Features) -> Result<Self> {
        let ExtractArgs { names, seed, .. } = &args.extract;
        Ok(Self {
            encoder: args.encoder.clone(),
            encoder_sha256: sha256(frozen)?,
            data: args.data.clone(),
            classes: data.classes().to_vec(),
            features,
            made: Made { by: By::of(frozen), names: names.clone(), seed: *seed },
        })
    }

    /// Writes `features` f32 `[n, d]`, `labels` i64 `[n]` (−1 = none) and `ids`, the bytes of a JSON list (metadata can't be that long), the
    /// rest as metadata.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (values, labels) = tensors(&self.features)?;
        let mut metadata = BTreeMap::from([
            ("encoder".to_owned(), self.encoder.clone()),
            ("data".to_owned(), self.data.clone()),
            ("classes".to_owned(), serde_json::to_string(&self.classes)?),
            ("made".to_owned(), serde_json::to_string(&self.made)?),
        ]);
        if let Some(sha256) = &self.encoder_sha256 {
            metadata.insert("encoder_sha256".to_owned(), sha256.clone());
        }
        let ids = serde_json::to_vec(&self.features.ids)?;
        let length = ids.len();
        let ids = Tensor::from_vec(ids, length, &Device::Cpu)?;
        let tensors = [("features", values), ("labels", labels), ("ids", ids)];
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        Ok(weights::write(path, &WeightFile { tensors, metadata })?)
    }

    /// Reads one.
    pub fn open(path: &Path) -> Result<Self> {
        let no = |what: &str| anyhow!("{} is no index: {what}; `selfsup embed` writes one", path.display());
        if path.extension().is_some_and(|e| e == "npy") {
            return Err(no("only features embedded to .safetensors say by what they were made"));
        }
        let WeightFile { tensors, metadata } =
            weights::read(path, &Device::Cpu).with_context(|| no("it cannot be read").to_string())?;
        let text = |field: &str| metadata.get(field).ok_or_else(|| no(&format!("it has no `{field}`")));
        let [Some(values), Some(labels), Some(ids)] =
            ["features", "labels", "ids"].map(|name| tensors.get(name))
        else {
            return Err(no("it has not features, labels and ids"));
        };
        let ids: Vec<u8> = ids.to_vec1().map_err(|_| no("its ids are damaged"))?;
        let ids: Vec<String> = serde_json::from_slice(&ids).map_err(|_| no("its ids are damaged"))?;
        let classes: Vec<String> =
            serde_json::from_str(text("classes")?).map_err(|_| no("its classes are damaged"))?;
        let made: Made = serde_json::from_str(text("made")?).map_err(|_| no("how it was made is damaged"))?;
        let (n, dim) = values.dims2().map_err(|_| no("its features are no rows"))?;
        if ids.len() != n || labels.dims() != [n] || n == 0 || dim == 0 {
            return Err(no("ids, labels and features are not of as many images"));
        }
        // Before anything is built by it.
        let (width, side) = match &made.by {
            By::Encoder { arch: name, preprocessing } => {
                let arch = arch(name).map_err(|e| no(&e.to_string()))?;
                (arch.config.feature_dim(), preprocessing.image_size)
            }
            By::Pixels { image_size } => (image_size.saturating_pow(2).saturating_mul(3), *image_size),
        };
        if width != dim || !(1..=MOST_SIDE).contains(&side) {
            return Err(no("its features are not what it says they were made by"));
        }
        let labels: Vec<i64> = labels.to_dtype(DType::I64)?.to_vec1()?;
        let label = |label: i64| match label {
            NO_LABEL => Ok(None),
            label => match u32::try_from(label) {
                Ok(label) if (label as usize) < classes.len() => Ok(Some(label)),
                _ => Err(no("it has a label of no class")),
            },
        };
        let labels = labels.into_iter().map(label).collect::<Result<_>>()?;
        let values: Vec<f32> = values.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(no(&format!("the features of `{}` are not finite", ids[at / dim])));
        }
        Ok(Self {
            encoder: text("encoder")?.clone(),
            encoder_sha256: metadata.get("encoder_sha256").cloned(),
            data: text("data")?.clone(),
            classes,
            features: Features { values, dim, labels, ids, ..Features::default() },
            made,
        })
    }

    /// How `encoder` turns other images into such features; what the index says holds, whatever a file says.
    pub fn extract(&self, encoder: &str, device: &str, quiet: bool) -> ExtractArgs {
        let Made { by, names, seed } = self.made.clone();
        let mut args = ExtractArgs { seed, ..ExtractArgs::new(device, 0, quiet) };
        match by {
            By::Pixels { image_size } => args.image_size = Some(image_size as u64),
            By::Encoder { arch, preprocessing } => {
                let Preprocessing { image_size, resize, interpolation, crop_mode, mean, std, .. } =
                    preprocessing;
                args.image_size = Some(image_size as u64);
                if encoder != "pixels" && !encoder.starts_with("random:") {
                    (args.arch, args.names) = (Some(arch), names);
                    (args.mean, args.std) = (Some(Channels(mean)), Some(Channels(std)));
                    args.resize = Some(resize as u64);
                    args.interpolation = Some(interpolation.into());
                    args.crop_mode = Some(crop_mode.into());
                }
            }
        }
        args
    }

    /// Whether such features are what `frozen` makes.
    pub fn is_made_by(&self, frozen: &Frozen) -> Result<bool> {
        Ok(By::of(frozen) == self.made.by && sha256(frozen)? == self.encoder_sha256)
    }
}

impl By {
    fn of(frozen: &Frozen) -> Self {
        match frozen {
            Frozen::Pixels { image_size } => By::Pixels { image_size: *image_size as usize },
            Frozen::Encoder(encoder) => By::Encoder {
                arch: encoder.arch().name.to_owned(),
                preprocessing: encoder.preprocessing().clone(),
            },
        }
    }
}

/// Features `[n, d]` f32 and labels `[n]` i64.
pub fn tensors(features: &Features) -> Result<(Tensor, Tensor)> {
    let n = features.len();
    let values = Tensor::from_slice(&features.values, (n, features.dim), &Device::Cpu)?;
    let labels: Vec<i64> = features.labels.iter().map(|l| l.map_or(NO_LABEL, i64::from)).collect();
    Ok((values, Tensor::from_vec(labels, n, &Device::Cpu)?))
}

/// The hash of an encoder's weights.
fn sha256(frozen: &Frozen) -> Result<Option<String>> {
    match frozen {
        Frozen::Encoder(encoder) => Ok(Some(encoder.params().sha256()?)),
        Frozen::Pixels { .. } => Ok(None),
    }
}
