//! Encoders from weight files, whoever wrote them.
//!
//! A file that this library wrote says its architecture and how images are prepared. Of another the names say the convention
//! ([`crate::names`]), the tensors' shapes the architecture, and images are prepared as ImageNet's usually are.

use crate::arch::{ARCHS, Arch, arch};
use crate::backbone::{Backbone, Network};
use crate::convert::backbone;
use crate::encoder::{Colors, Encoder, Preprocessing};
use crate::names::Account;
use crate::params::ParamBuilder;
use crate::positions;
use crate::weights::{self, WeightFile};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Mean and standard deviation of ImageNet's channels, by which nearly all published weights expect images to be normalised.
const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// What a file does not say, or says wrongly.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The architecture's name; otherwise the file's metadata or its tensors say it.
    pub arch: Option<String>,
    /// The convention's name; otherwise the tensors' names say it.
    pub names: Option<String>,
    /// How images are prepared; otherwise as the file says or, of another's, at the architecture's usual size with ImageNet's mean and
    /// deviation.
    pub preprocessing: Option<Preprocessing>,
}

/// An encoder, and what became of its file's tensors.
#[derive(Debug)]
pub struct Loaded {
    /// The encoder.
    pub encoder: Encoder,
    /// Of each tensor of the file, whether it was used or dropped.
    pub account: Account,
    /// The file's metadata.
    pub metadata: BTreeMap<String, String>,
}

impl Loaded {
    /// Whether the file says its architecture and how images are prepared, as this library's do.
    pub fn says_itself(&self) -> bool {
        says_itself(&self.metadata)
    }
}

fn says_itself(metadata: &BTreeMap<String, String>) -> bool {
    // Others write an architecture too, but not how images are prepared.
    metadata.contains_key("arch") && metadata.contains_key("image_size")
}

/// Reads an encoder from a file of any format of [`crate::weights`] and any convention of [`crate::names`].
///
/// # Errors
/// Those of [`weights::read`]; names of no known convention; tensors that are left over, missing, of another shape or not finite, each
/// by name; tensors that fit no architecture, or several.
pub fn load_file(path: &Path, options: &LoadOptions, device: &Device) -> Result<Loaded> {
    let file = weights::read(path, device)?;
    let (mut found, account) = backbone(&file, options.names.as_deref())?;
    let WeightFile { tensors, metadata } = file;
    for theirs in account.backbone.values() {
        check_finite(path, theirs, &tensors[theirs])?;
    }
    let own = own(path, &metadata)?;
    let arch = match (&options.arch, &own) {
        (Some(name), _) => arch(name)?,
        (None, Some((arch, _))) => arch,
        (None, None) => arch_of(path, &found)?,
    };
    if let (Network::Vit(vit), Some(embedding)) = (&arch.config, found.get_mut("pos_embed"))
        && embedding.rank() == 3
    {
        *embedding = positions::resample(embedding, vit.image_size / vit.patch)?;
    }
    let preprocessing = match (&options.preprocessing, own) {
        (Some(given), _) => given.clone(),
        (None, Some((_, own))) => own,
        (None, None) => Preprocessing::rgb(arch.image_size, IMAGENET.0, IMAGENET.1),
    };
    let encoder = Encoder::blank(arch, preprocessing, device)?;
    let what = format!("{} (names of {})", arch.name, account.convention.name);
    let left = account.left.iter().map(|name| (name.clone(), tensors[name].clone()));
    found.extend(left);
    encoder.params().load_file(&found, &what)?;
    Ok(Loaded { encoder, account, metadata })
}

/// What this library's files say of themselves: the architecture, and how images are prepared.
fn own(path: &Path, metadata: &BTreeMap<String, String>) -> Result<Option<(&'static Arch, Preprocessing)>> {
    if !says_itself(metadata) {
        return Ok(None);
    }
    let field = |field: &'static str| {
        metadata.get(field).ok_or_else(|| Error::Metadata {
            path: path.to_owned(),
            field,
            problem: "missing; was this file written by selfsup?".into(),
        })
    };
    let preprocessing = Preprocessing {
        image_size: parse(path, "image_size", field("image_size")?)?,
        mean: parse(path, "mean", field("mean")?)?,
        std: parse(path, "std", field("std")?)?,
        colors: match metadata.get("colors") {
            Some(text) => parse(path, "colors", text)?,
            None => Colors::Rgb,
        },
    };
    Ok(Some((arch(field("arch")?)?, preprocessing)))
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, field: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::Metadata {
        path: path.to_owned(),
        field,
        problem: format!("not readable (`{text}`): {e}"),
    })
}

fn check_finite(path: &Path, name: &str, tensor: &Tensor) -> Result<()> {
    if !tensor.dtype().is_float() {
        return Ok(());
    }
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    match values.iter().filter(|v| !v.is_finite()).count() {
        0 => Ok(()),
        count => Err(Error::NotFinite { path: path.to_owned(), name: name.to_owned(), count }),
    }
}

/// The architecture that has the most of the tensors, by name and shape, if one alone has.
fn arch_of(path: &Path, tensors: &HashMap<String, Tensor>) -> Result<&'static Arch> {
    let fail = |problem: String| Error::Arch { path: path.to_owned(), problem };
    let mut scores = Vec::new();
    for arch in ARCHS {
        let build = ParamBuilder::shapes();
        Backbone::new(&arch.config, &build)?;
        scores.push((fitting(&build.file_shapes(), tensors), arch));
    }
    let most = scores.iter().map(|(score, _)| *score).max().unwrap_or_default();
    let best: Vec<&'static Arch> =
        scores.into_iter().filter(|(score, _)| *score == most).map(|(_, arch)| arch).collect();
    match best[..] {
        [arch] => Ok(arch),
        _ if most == 0 => Err(fail("its tensors have the shapes of no architecture here".into())),
        _ => {
            let names: Vec<&str> = best.iter().map(|arch| arch.name).collect();
            Err(fail(format!("its tensors are those of {}; say which by --arch", names.join(" and of "))))
        }
    }
}

/// How many tensors are there with the shape that the model has, less those that it lacks.
fn fitting(shapes: &[(String, Vec<usize>)], tensors: &HashMap<String, Tensor>) -> usize {
    let fits = |name: &str, shape: &[usize]| tensors.get(name).is_some_and(|there| there.dims() == shape);
    let count = shapes.iter().filter(|(name, shape)| fits(name, shape)).count();
    // Of a smaller network all tensors may stand in a larger one's file.
    count.saturating_sub(tensors.len().abs_diff(shapes.len()))
}
