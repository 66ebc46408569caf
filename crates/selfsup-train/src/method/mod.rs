//! What a pretraining method is: `prepare` makes an example of one image, `step` makes a loss of a batch.
//!
//! A method adds a file here, a variant to [`MethodConfig`] and a row to [`METHODS`]; the loop does not
//! change.

mod barlow_twins;
mod branch;
mod byol;
mod dino;
mod moco;
mod simclr;
mod simsiam;
mod two_views;
mod vicreg;

pub use barlow_twins::BarlowTwinsConfig;
pub use byol::{Byol, ByolConfig};
pub use dino::{Dino, DinoConfig};
pub use moco::{Moco, MocoConfig};
pub use simclr::{SimClr, SimClrConfig};
pub use simsiam::{SimSiam, SimSiamConfig};
pub use vicreg::VicRegConfig;

use crate::{Error, Result};
use candle_core::Tensor;
use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use selfsup_augment::Pipeline;
use selfsup_models::Encoder;
use selfsup_models::params::Params;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The worker threads' half: one image to the views that the method wants of it.
pub trait Prepare: Send + Sync {
    /// The names of the views, in order; their number is the same for every image.
    fn view_names(&self) -> &[&'static str];

    /// Makes the views. `rng(v)` is the generator of view v of this sample in this epoch: nothing else may be
    /// drawn from, so that a view does not depend on the worker or the order.
    fn prepare(&self, image: &RgbImage, rng: &dyn Fn(u64) -> ChaCha8Rng) -> Result<Vec<RgbImage>>;
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Steps done before this one.
    pub step: u64,
    /// Steps in all.
    pub total: u64,
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

    /// One batch to a loss. `views[v]` is u8 `[n, h, w, 3]`, view v of the n samples.
    fn step(&mut self, views: &[Tensor], at: Progress) -> Result<StepOutput>;

    /// Called when the optimiser has moved the weights by the step's gradients: what follows them moves here, such as a
    /// momentum encoder or a queue. `at` is the step's own.
    fn after_update(&mut self, _at: Progress) -> Result<()> {
        Ok(())
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
}

/// A method's settings.
trait Settings {
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

    /// Checks every setting; the error names the first wrong one.
    pub(crate) fn validate(&self, sizes: Sizes) -> Result<()> {
        self.parts().1.validate(sizes)
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

/// Collates examples: view v of every sample, one contiguous u8 tensor `[n, h, w, 3]` on the device.
pub(crate) fn collate(examples: &[Vec<RgbImage>], device: &candle_core::Device) -> Result<Vec<Tensor>> {
    let views = examples.first().map_or(0, Vec::len);
    (0..views)
        .map(|v| {
            let (w, h) = examples[0][v].dimensions();
            let (w, h) = (w as usize, h as usize);
            let mut bytes = Vec::with_capacity(examples.len() * h * w * 3);
            for example in examples {
                bytes.extend_from_slice(example[v].as_raw());
            }
            Ok(Tensor::from_vec(bytes, (examples.len(), h, w, 3), device)?)
        })
        .collect()
}
