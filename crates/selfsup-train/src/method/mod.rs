//! What a pretraining method is: `prepare` makes an example of one image, `step` makes a loss of a batch.
//!
//! A method adds a file here, a variant to [`MethodConfig`] and a row to [`METHODS`]; the loop does not
//! change.

mod barlow_twins;
mod branch;
mod byol;
mod classifier;
mod colorization;
mod dino;
mod inpainting;
mod jigsaw;
mod moco;
mod relative_patch;
mod rotation;
mod simclr;
mod simsiam;
mod two_views;
mod vicreg;

pub use barlow_twins::BarlowTwinsConfig;
pub use byol::{Byol, ByolConfig};
pub use colorization::{Colorization, ColorizationConfig};
pub use dino::{Dino, DinoConfig};
pub use inpainting::{Hole, Inpainting, InpaintingConfig};
pub use jigsaw::{Jigsaw, JigsawConfig, normalize_each};
pub use moco::{Moco, MocoConfig};
pub use relative_patch::{ColorGuard, RelativePatch, RelativePatchConfig, normalize_patches};
pub use rotation::{Rotation, RotationConfig};
pub use simclr::{SimClr, SimClrConfig};
pub use simsiam::{SimSiam, SimSiamConfig};
pub use vicreg::VicRegConfig;

use crate::{Error, Result};
use candle_core::Tensor;
use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use selfsup_augment::Pipeline;
use selfsup_data::Dataset;
use selfsup_models::params::Params;
use selfsup_models::{Colors, Encoder, Network};
use selfsup_optim::Optimizer;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// What is made of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// What the network sees, and pictures that it is held against.
    pub views: Vec<RgbImage>,
    /// What the network has to find out about the views, such as a class.
    pub targets: Vec<u32>,
}

impl From<Vec<RgbImage>> for Example {
    fn from(views: Vec<RgbImage>) -> Self {
        Self { views, targets: Vec::new() }
    }
}

/// Examples together, on a device.
#[derive(Debug, Clone)]
pub struct Batch {
    /// u8 `[n, h, w, 3]` each: view v of the n samples.
    pub views: Vec<Tensor>,
    /// u32 `[n]` each: target t of the n samples.
    pub targets: Vec<Tensor>,
}

impl From<Vec<Tensor>> for Batch {
    fn from(views: Vec<Tensor>) -> Self {
        Self { views, targets: Vec::new() }
    }
}

impl<const V: usize> From<[Tensor; V]> for Batch {
    fn from(views: [Tensor; V]) -> Self {
        Vec::from(views).into()
    }
}

/// The worker threads' half: one image to what the method wants of it.
pub trait Prepare: Send + Sync {
    /// The names of the views, in order; their number is the same for every image.
    fn view_names(&self) -> &[&'static str];

    /// Makes an example. `rng(v)` is the generator of view v of this sample in this epoch: nothing else may be
    /// drawn from, so that a view does not depend on the worker or the order.
    fn prepare(&self, image: &RgbImage, rng: &dyn Fn(u64) -> ChaCha8Rng) -> Result<Example>;

    /// Pictures of an example by name, for looking at: its views, and what is to be found out about them.
    fn pictures(&self, example: &Example) -> Result<Vec<(&'static str, RgbImage)>> {
        Ok(self.view_names().iter().copied().zip(example.views.iter().cloned()).collect())
    }
}

/// Pictures of one size in three rows of three, some of the nine places left white.
fn nine(places: [Option<&RgbImage>; 9]) -> RgbImage {
    const PAPER: image::Rgb<u8> = image::Rgb([255; 3]);
    let (width, height) = places.iter().flatten().next().map_or((1, 1), |picture| picture.dimensions());
    let gap = 1 + width / 32;
    let mut whole = RgbImage::from_pixel(3 * width + 2 * gap, 3 * height + 2 * gap, PAPER);
    for (i, picture) in places.iter().enumerate() {
        if let Some(picture) = picture {
            let (x, y) = (i as u32 % 3 * (width + gap), i as u32 / 3 * (height + gap));
            image::imageops::replace(&mut whole, *picture, i64::from(x), i64::from(y));
        }
    }
    whole
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Steps done before this one.
    pub step: u64,
    /// Steps in all.
    pub total: u64,
    /// The learning rate of this step, for what a method trains by an optimiser of its own.
    pub lr: f64,
}

impl Progress {
    /// The share of the run that lies behind, in 0…1.
    pub fn fraction(self) -> f64 {
        self.step as f64 / self.total.max(1) as f64
    }
}

/// The method's own values of a step, by name: computed only where they are logged, and only of a finite loss.
pub type Metrics = Box<dyn FnOnce() -> Result<Vec<(&'static str, f64)>>>;

/// What a step hands to the loop.
pub struct StepOutput {
    /// The scalar to minimise.
    pub loss: Tensor,
    /// Embeddings `[n, d]` of the batch, by which the loop watches for collapse.
    pub embeddings: Tensor,
    /// The method's own values.
    pub metrics: Metrics,
}

/// The device's half, with the model and whatever else the method keeps.
pub trait Method {
    /// The worker threads' half.
    fn prepare(&self) -> Arc<dyn Prepare>;

    /// One batch to a loss.
    fn step(&mut self, batch: &Batch, at: Progress) -> Result<StepOutput>;

    /// Called when the optimiser has moved the weights by the step's gradients: what follows them moves here, such as a
    /// momentum encoder or a queue. `at` is the step's own.
    fn after_update(&mut self, _at: Progress) -> Result<()> {
        Ok(())
    }

    /// Optimisers of the method's own, by name, whose state a checkpoint must hold: an adversary's, say.
    fn optimizers(&self) -> Vec<(&'static str, &dyn Optimizer)> {
        Vec::new()
    }

    /// The same, to take up a state.
    fn optimizers_mut(&mut self) -> Vec<(&'static str, &mut dyn Optimizer)> {
        Vec::new()
    }

    /// Looks at the data before the first step of a new run: what is measured is in [`Method::tensors`], so that a run that goes on
    /// finds it there.
    fn measure(&mut self, _data: &Dataset) -> Result<()> {
        Ok(())
    }

    /// What the model as it stands makes of a batch: pictures u8 `[n, h, w, 3]` by name. None of methods that make no pictures.
    fn pictures(&self, _batch: &Batch) -> Result<Vec<(&'static str, Tensor)>> {
        Ok(Vec::new())
    }

    /// The encoder that all this is for.
    fn encoder(&self) -> &Encoder;

    /// Everything that the optimiser moves or a checkpoint must hold, under unique names.
    fn tensors(&self) -> Params;
}

/// A method with its own settings: the `[method]` table of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name")]
#[non_exhaustive]
pub enum MethodConfig {
    /// [`Rotation`].
    #[serde(rename = "rotation")]
    Rotation(RotationConfig),
    /// [`RelativePatch`].
    #[serde(rename = "relative-patch")]
    RelativePatch(RelativePatchConfig),
    /// [`Jigsaw`].
    #[serde(rename = "jigsaw")]
    Jigsaw(JigsawConfig),
    /// [`Inpainting`].
    #[serde(rename = "inpainting")]
    Inpainting(InpaintingConfig),
    /// [`Colorization`].
    #[serde(rename = "colorization")]
    Colorization(ColorizationConfig),
    /// [`SimClr`].
    #[serde(rename = "simclr")]
    SimClr(SimClrConfig),
    /// [`Moco`] as first published.
    #[serde(rename = "moco-v1")]
    MocoV1(MocoConfig),
    /// [`Moco`] with the settings of its second version.
    #[serde(rename = "moco-v2")]
    MocoV2(MocoConfig),
    /// [`Byol`].
    #[serde(rename = "byol")]
    Byol(ByolConfig),
    /// [`SimSiam`].
    #[serde(rename = "simsiam")]
    SimSiam(SimSiamConfig),
    /// Barlow Twins.
    #[serde(rename = "barlow-twins")]
    BarlowTwins(BarlowTwinsConfig),
    /// VICReg.
    #[serde(rename = "vicreg")]
    VicReg(VicRegConfig),
    /// [`Dino`].
    #[serde(rename = "dino")]
    Dino(DinoConfig),
}

/// The sizes that settings must fit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Side of the square views, in pixels.
    pub image: usize,
    /// Images of a step.
    pub batch: usize,
    /// The encoder's.
    pub network: &'static Network,
}

impl Sizes {
    /// Fails unless the encoder can see pictures of a side that a setting says.
    fn part(&self, setting: &str, side: u32) -> Result<()> {
        let wrong = |e| Error::Config(format!("method.{setting}: {e}"));
        self.network.check_side(side as usize).map_err(wrong)
    }
}

/// A method's settings.
trait Settings {
    /// What of an image's colours the encoder is to see.
    fn colors(&self) -> Colors {
        Colors::Rgb
    }
    /// How many views of an image of side `image` a step draws: two, of most methods. Smaller pictures count by their area, as the
    /// work of the encoder does.
    fn views(&self, _image: usize) -> f64 {
        2.0
    }
    /// Checks every setting; the error names the first wrong one.
    fn validate(&self, sizes: Sizes) -> Result<()>;
    /// The worker threads' half.
    fn prepare(&self) -> Result<Arc<dyn Prepare>>;
    /// The method with a freshly drawn head and whatever else it keeps.
    fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>>;
}

impl MethodConfig {
    fn parts(&self) -> (&'static MethodInfo, &dyn Settings) {
        match self {
            MethodConfig::Rotation(config) => (&rotation::INFO, config),
            MethodConfig::RelativePatch(config) => (&relative_patch::INFO, config),
            MethodConfig::Jigsaw(config) => (&jigsaw::INFO, config),
            MethodConfig::Inpainting(config) => (&inpainting::INFO, config),
            MethodConfig::Colorization(config) => (&colorization::INFO, config),
            MethodConfig::SimClr(config) => (&simclr::INFO, config),
            MethodConfig::MocoV1(config) => (&moco::V1, config),
            MethodConfig::MocoV2(config) => (&moco::V2, config),
            MethodConfig::Byol(config) => (&byol::INFO, config),
            MethodConfig::SimSiam(config) => (&simsiam::INFO, config),
            MethodConfig::BarlowTwins(config) => (&barlow_twins::INFO, config),
            MethodConfig::VicReg(config) => (&vicreg::INFO, config),
            MethodConfig::Dino(config) => (&dino::INFO, config),
        }
    }

    /// The name, as on the command line.
    pub fn name(&self) -> &'static str {
        self.parts().0.name
    }

    /// The place of a file that the settings name, if they name one, and what the folder of a run keeps that file as.
    pub(crate) fn file_mut(&mut self) -> Option<(&mut PathBuf, &'static str)> {
        match self {
            MethodConfig::Jigsaw(config) => Some((config.permutation_file.as_mut()?, jigsaw::KEPT_AS)),
            _ => None,
        }
    }

    /// Fills in what follows from files, so that the resolved configuration says it.
    pub(crate) fn settle(&mut self) -> Result<()> {
        match self {
            MethodConfig::Jigsaw(config) => config.settle(),
            _ => Ok(()),
        }
    }

    /// Checks every setting; the error names the first wrong one.
    pub(crate) fn validate(&self, sizes: Sizes) -> Result<()> {
        self.parts().1.validate(sizes)
    }

    /// What of an image's colours the encoder is to see.
    pub fn colors(&self) -> Colors {
        self.parts().1.colors()
    }

    /// How many views of an image of side `image` a step draws; patches, tiles and local crops count by their area.
    pub fn views(&self, image: usize) -> f64 {
        self.parts().1.views(image)
    }

    /// The worker threads' half alone, for looking at what the method sees.
    pub fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        self.parts().1.prepare()
    }

    /// The method with a freshly drawn head on an encoder.
    pub fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>> {
        self.parts().1.build(encoder, seed)
    }
}

/// A line of `selfsup methods`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MethodInfo {
    /// The name on the command line.
    pub name: &'static str,
    /// The paper's title.
    pub title: &'static str,
    /// Authors and identifier.
    pub paper: &'static str,
    /// The year.
    pub year: u16,
    /// What it learns by, in a sentence.
    pub idea: &'static str,
}

/// Every method that can be trained.
pub const METHODS: &[MethodInfo] = &[
    rotation::INFO,
    relative_patch::INFO,
    jigsaw::INFO,
    inpainting::INFO,
    colorization::INFO,
    simclr::INFO,
    moco::V1,
    moco::V2,
    byol::INFO,
    simsiam::INFO,
    barlow_twins::INFO,
    vicreg::INFO,
    dino::INFO,
];

/// An augmentation must end in views of the encoder's input size.
fn validate_views(augmentation: &Pipeline, image_size: usize) -> Result<()> {
    augmentation.validate()?;
    match augmentation.output_size() {
        Some(side) if side as usize == image_size => Ok(()),
        Some(side) => Err(Error::Config(format!(
            "method.augmentation makes views of {side} pixels, but image_size is {image_size}"
        ))),
        None => Err(Error::Config(format!(
            "method.augmentation has no transform that fixes the views' size; end it in, say, a \
             random_resized_crop or a center_crop of {image_size} pixels"
        ))),
    }
}

/// `count` pictures of side `side` in views of side `image`.
fn by_area(count: usize, side: u32, image: usize) -> f64 {
    count as f64 * (f64::from(side) / image as f64).powi(2)
}

/// One contiguous tensor on the device for each view, and for each target.
pub fn collate(examples: &[Example], device: &candle_core::Device) -> Result<Batch> {
    let (views, targets) = examples.first().map_or((0, 0), |e| (e.views.len(), e.targets.len()));
    let view = |v: usize| {
        let (w, h) = examples[0].views[v].dimensions();
        let (w, h) = (w as usize, h as usize);
        let mut bytes = Vec::with_capacity(examples.len() * h * w * 3);
        for example in examples {
            bytes.extend_from_slice(example.views[v].as_raw());
        }
        Ok(Tensor::from_vec(bytes, (examples.len(), h, w, 3), device)?)
    };
    let target = |t: usize| {
        let values: Vec<u32> = examples.iter().map(|example| example.targets[t]).collect();
        Ok(Tensor::from_vec(values, examples.len(), device)?)
    };
    Ok(Batch {
        views: (0..views).map(view).collect::<Result<_>>()?,
        targets: (0..targets).map(target).collect::<Result<_>>()?,
    })
}
