//! Encoders from weight files, whoever wrote them.
//!
//! A file that this library wrote says its architecture and how images are prepared. Of another the names say the convention
//! ([`crate::names`]), the tensors' shapes the architecture, and the configuration beside it how images are prepared: where there is none,
//! as ImageNet's usually are, and Keras's as its own are ([`crate::keras`]).

use crate::arch::{Arch, arch};
use crate::backbone::Network;
use crate::classifier::Classifier;
use crate::convert::backbone;
use crate::encoder::Encoder;
use crate::keras;
use crate::names::{Account, Framework};
use crate::positions;
use crate::preprocessing::{Colors, CropMode, Interpolation, Preprocessing};
use crate::published;
use crate::weights::{self, WeightFile};
use crate::which_arch::{Told, arch_of};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// How images are prepared where nobody says it: by mean and standard deviation of ImageNet's channels, as nearly all published weights
/// expect.
fn usual(arch: &Arch) -> Preprocessing {
    Preprocessing::rgb(arch.image_size, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
}

/// The same for a vision transformer whose positions are of images of another side.
pub(crate) fn usual_of(arch: &Arch, tensors: &HashMap<String, Tensor>) -> Preprocessing {
    let usual = usual(arch);
    let (Network::Vit(vit), Some(positions)) = (&arch.config, tensors.get("pos_embed")) else { return usual };
    match positions.dims() {
        &[_, tokens, _] => usual.at(vit.patch * tokens.saturating_sub(1).isqrt().max(1)),
        _ => usual,
    }
}

/// What a file does not say, or says wrongly.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadOptions {
    /// The architecture's name; otherwise the file's metadata or its tensors say it.
    pub arch: Option<String>,
    /// The convention's name; otherwise the tensors' names say it.
    pub names: Option<String>,
    /// Side of the input, in pixels; otherwise as the file says or, of another's, `preprocessor_config.json` or timm's `config.json` beside
    /// it, or else the architecture's usual one.
    pub image_size: Option<usize>,
    /// The shorter side that images are resized to, in pixels; otherwise as said there, in proportion to the input's side, or else that side.
    pub resize: Option<usize>,
    /// The filter of that resizing; otherwise as said there, or else bilinear.
    pub interpolation: Option<Interpolation>,
    /// Whether that resizing keeps an image's proportions; otherwise as said there, or else it does.
    pub crop_mode: Option<CropMode>,
    /// Mean of each channel, in 0…1; otherwise as said there, or else ImageNet's or, by Keras's names, that of Keras's "caffe mode".
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of each channel, in 0…1; otherwise likewise.
    pub std: Option<[f32; 3]>,
}

/// An encoder, and what became of its file's tensors.
#[derive(Debug)]
pub struct Loaded {
    /// The encoder.
    pub encoder: Encoder,
    /// The file's own classifier of the encoder's features, if it has one of their width: a linear layer by the convention's name for it.
    /// Whether what it tells apart are classes, a file does not say.
    pub head: Option<Classifier>,
    /// Of each tensor of the file, whether it was used or dropped.
    pub account: Account,
    /// The file's metadata.
    pub metadata: BTreeMap<String, String>,
    /// What else the configuration beside the file says of how images are prepared, and is not followed: other sides, another filter than
    /// those of [`Interpolation`].
    pub not_followed: Vec<String>,
    /// Who says how images are prepared: the file, the configuration beside it, or Keras by the names; `None` where nobody does.
    pub prepared_by: Option<String>,
    /// Why the hub was not asked and the cache served, and what that may lack, if [`load`] had to do without the hub
    /// (`hub::Fetched::notice`).
    pub notice: Option<String>,
}

impl Loaded {
    /// Whether the file says its architecture and how images are prepared, as this library's do.
    pub fn says_itself(&self) -> bool {
        says_itself(&self.metadata)
    }
}

pub(crate) fn says_itself(metadata: &BTreeMap<String, String>) -> bool {
    // Others write an architecture too, but not how images are prepared.
    metadata.contains_key("arch") && metadata.contains_key("image_size")
}

/// Reads an encoder: a run folder, a folder as `save_pretrained` writes it, a weight file, or `hf:OWNER/NAME[@REVISION][:FILE]`, which is
/// fetched as the environment says ([`crate::hub::Hub::from_env`]).
///
/// ```no_run
/// # use candle_core::{Device, Tensor};
/// # use selfsup_models::Mode;
/// # fn main() -> selfsup_models::Result<()> {
/// let encoder = selfsup_models::load("hf:timm/resnet18.a1_in1k")?.encoder;
/// let side = encoder.preprocessing().image_size;
/// let images = Tensor::zeros((1, side, side, 3), candle_core::DType::U8, &Device::Cpu)?;
/// println!("{:?}", encoder.forward(&images, Mode::Eval)?.dims());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`locate`] and [`load_file`].
pub fn load(what: &str) -> Result<Loaded> {
    let (path, notice) = located(what)?;
    Ok(Loaded { notice, ..load_file(&path, &LoadOptions::default(), &Device::Cpu)? })
}

/// The weight file that a text means, as [`load`] takes it, on this machine. Whether the hub was asked for it only [`load`] says, and
/// [`crate::hub::Hub::fetch`].
///
/// # Errors
/// [`Error::NoEncoder`] if there is none; those of [`crate::hub::Hub::fetch`].
pub fn locate(what: &str) -> Result<PathBuf> {
    Ok(located(what)?.0)
}

/// The same with what there is to say of it.
fn located(what: &str) -> Result<(PathBuf, Option<String>)> {
    if what.starts_with("hf:") {
        #[cfg(feature = "hub")]
        return crate::hub::Hub::from_env()
            .fetch(&what.parse()?)
            .map(|fetched| (fetched.path, fetched.notice));
        #[cfg(not(feature = "hub"))]
        return Err(Error::NoEncoder {
            what: what.to_owned(),
            why: "built without the feature `hub`".into(),
        });
    }
    let path = Path::new(what);
    if path.is_file() {
        return Ok((path.to_owned(), None));
    }
    let mut inside = FOLDERS.iter().map(|name| path.join(name));
    inside.find(|path| path.is_file()).map(|path| (path, None)).ok_or_else(|| {
        let why = if path.is_dir() {
            format!("the folder has none of {}", FOLDERS.join(", "))
        } else {
            "there is nothing".into()
        };
        Error::NoEncoder { what: what.to_owned(), why }
    })
}

/// Weights in a folder: a run's, those of `save_pretrained`, and those of TensorFlow.js.
const FOLDERS: &[&str] = &[
    "encoder.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.json",
];

/// Reads an encoder from a file of any format of [`crate::weights`] and any convention of [`crate::names`].
///
/// By the names of Keras's residual networks (convention `keras`) the numbers are adapted, exactly but for rounding, so that the encoder is
/// an ordinary one: kernels are transposed; biases of convolutions and the normalisations' ε, which the topology says, go into the running
/// statistics; the first convolution sees RGB; images are prepared in Keras's "caffe mode", as published weights by these names expect;
/// bottlenecks have their stride where the topology says. A network of these names that was trained on images prepared otherwise is read
/// wrongly.
///
/// # Errors
/// Those of [`weights::read`]; names of no known convention; tensors that are left over, missing, of another shape or not finite, each
/// by name; tensors that fit no architecture, or several.
pub fn load_file(path: &Path, options: &LoadOptions, device: &Device) -> Result<Loaded> {
    let file = weights::read(path, device)?;
    let (mut found, mut account) = backbone(&file, options.names.as_deref()).map_err(|e| e.of(path))?;
    let WeightFile { tensors, metadata } = file;
    for (ours, theirs) in &account.backbone {
        check_numbers(path, theirs, &tensors[theirs], ours.ends_with("running_var"))?;
    }
    let is_keras = account.convention.framework == Framework::Keras;
    let own = own(path, &metadata)?;
    let arch = match (&options.arch, &own) {
        (Some(name), _) => arch(name)?,
        (None, Some((arch, _))) => arch,
        (None, None) => {
            let fail = |problem| Error::Arch { path: path.to_owned(), problem };
            let said = published::network::beside(path)?;
            let told = Told::by(&account, &metadata).and(&said);
            let arch = arch_of(&found, &account, told).map_err(fail)?;
            said.check(arch).map_err(fail)?;
            arch
        }
    };
    let mut not_followed = Vec::new();
    let (mut preprocessing, prepared_by) = match own {
        Some((_, own)) => (own, Some("the file".to_owned())),
        None => {
            let said = published::beside(path)?.unwrap_or_default();
            let (usual, usual_by) = match is_keras {
                true => (keras::preprocessing(arch.image_size), Some("keras.applications".to_owned())),
                false => (usual_of(arch, &found), None),
            };
            let preprocessing = said.or(usual);
            not_followed = said.not_followed;
            (preprocessing, if said.by.is_empty() { usual_by } else { Some(said.by) })
        }
    };
    if let Some(image_size) = options.image_size {
        preprocessing = preprocessing.at(image_size);
    }
    preprocessing.resize = options.resize.unwrap_or(preprocessing.resize);
    preprocessing.interpolation = options.interpolation.unwrap_or(preprocessing.interpolation);
    preprocessing.crop_mode = options.crop_mode.unwrap_or(preprocessing.crop_mode);
    preprocessing.mean = options.mean.unwrap_or(preprocessing.mean);
    preprocessing.std = options.std.unwrap_or(preprocessing.std);
    arch.config.check_side(preprocessing.image_size)?;
    if let (Network::Vit(vit), Some(embedding)) = (&arch.config, found.get_mut("pos_embed"))
        && embedding.rank() == 3
    {
        *embedding = positions::resample(embedding, preprocessing.image_size / vit.patch)?;
    }
    let encoder = Encoder::blank(arch, preprocessing, device)?;
    let what = format!("{} ({}, by the names of {})", arch.name, path.display(), account.convention.name);
    let left = account.left.iter().map(|name| (name.clone(), tensors[name].clone()));
    found.extend(left);
    encoder.params().load_file(&found, &what)?;
    let head = match Classifier::of(&account, &tensors, encoder.feature_dim())? {
        Some((head, names)) => {
            for name in &names {
                check_numbers(path, name, &tensors[name], false)?;
            }
            account.dropped.retain(|name| !names.contains(name));
            account.head = names.into();
            Some(head)
        }
        None => None,
    };
    Ok(Loaded { encoder, head, account, metadata, not_followed, prepared_by, notice: None })
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
    let image_size = parse(path, "image_size", field("image_size")?)?;
    let preprocessing = Preprocessing {
        image_size,
        resize: parse_or(path, "resize", metadata, image_size)?,
        interpolation: parse_or(path, "interpolation", metadata, Interpolation::Bilinear)?,
        crop_mode: parse_or(path, "crop_mode", metadata, CropMode::Center)?,
        mean: parse(path, "mean", field("mean")?)?,
        std: parse(path, "std", field("std")?)?,
        colors: parse_or(path, "colors", metadata, Colors::Rgb)?,
    };
    Ok(Some((arch(field("arch")?)?, preprocessing)))
}

/// A field that is not written where it says the usual.
fn parse_or<T: serde::de::DeserializeOwned>(
    path: &Path,
    field: &'static str,
    metadata: &BTreeMap<String, String>,
    usual: T,
) -> Result<T> {
    metadata.get(field).map_or(Ok(usual), |text| parse(path, field, text))
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, field: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::Metadata {
        path: path.to_owned(),
        field,
        problem: format!("not readable (`{text}`): {e}"),
    })
}

/// Weights are floats and finite, variances besides not negative.
fn check_numbers(path: &Path, name: &str, tensor: &Tensor, variance: bool) -> Result<()> {
    let fail = |problem| Err(Error::WeightFile { path: path.to_owned(), problem });
    if !matches!(tensor.dtype(), DType::F64 | DType::F32 | DType::F16 | DType::BF16) {
        let dtype = tensor.dtype().as_str();
        return fail(format!(
            "`{name}` holds {dtype}, which weights are not; what they stand for the file does not say"
        ));
    }
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    match values.iter().filter(|v| !v.is_finite()).count() {
        0 if variance && values.iter().any(|v| *v < 0.0) => fail(format!("`{name}` has negative variances")),
        0 => Ok(()),
        count => Err(Error::NotFinite { path: path.to_owned(), name: name.to_owned(), count }),
    }
}
