//! What a pretraining method is: `prepare` makes an example of one image, `step` makes a loss of a batch.
//!
//! A method adds a file here, a variant to [`MethodConfig`] and a row to [`METHODS`]; the loop does not
//! change.

mod simclr;

pub use simclr::{SimClr, SimClrConfig};

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
    fn step(&mut self, views: &[Tensor]) -> Result<StepOutput>;

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
}

impl MethodConfig {
    /// The name, as on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            MethodConfig::SimClr(_) => "simclr",
        }
    }

    /// Checks every setting; the error names the first wrong one. `image_size` is the side that the views must
    /// have.
    pub fn validate(&self, image_size: usize) -> Result<()> {
        match self {
            MethodConfig::SimClr(config) => config.validate(image_size),
        }
    }

    /// The worker threads' half alone, for looking at what the method sees.
    pub fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        match self {
            MethodConfig::SimClr(config) => config.prepare(),
        }
    }

    /// The method with a freshly drawn model.
    pub fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>> {
        Ok(match self {
            MethodConfig::SimClr(config) => Box::new(SimClr::new(config, encoder, seed)?),
        })
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
pub const METHODS: &[MethodInfo] = &[simclr::INFO];

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
