//! Rotation: the network says by how many quarter turns an image was rotated.
//!
//! Gidaris, Singh & Komodakis 2018, "Unsupervised Representation Learning by Predicting Image Rotations", arXiv:1803.07728, eq. 1 to
//! 3. All four rotations of an image are in the batch (§3.1; with one of them at random the paper's features were worse), and the
//! turns move whole pixels, so that no interpolation tells them. What augments an image comes before it is turned.

use super::classifier::Classifier;
use super::{
    Batch, Example, Method, MethodInfo, Metrics, Prepare, Progress, Settings, Sizes, StepOutput,
    validate_views,
};
use crate::{Error, Result};
use candle_core::Tensor;
use image::{RgbImage, imageops};
use rand_chacha::ChaCha8Rng;
use selfsup_augment::Pipeline;
use selfsup_models::params::Params;
use selfsup_models::{Encoder, Mode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(super) const INFO: MethodInfo = MethodInfo {
    name: "rotation",
    title: "Unsupervised Representation Learning by Predicting Image Rotations",
    paper: "Gidaris, Singh, Komodakis, arXiv:1803.07728",
    year: 2018,
    idea: "says by how many quarter turns an image was rotated",
};

const TURNS: [&str; 4] = ["0°", "90°", "180°", "270°"];

/// Rotation's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationConfig {
    /// What happens to an image before it is turned.
    pub augmentation: Pipeline,
}

impl Settings for RotationConfig {
    fn views(&self, _image: usize) -> f64 {
        TURNS.len() as f64
    }

    fn validate(&self, sizes: Sizes) -> Result<()> {
        validate_views(&self.augmentation, sizes.image)?;
        match sizes.image {
            0 | 1 => Err(Error::Config(
                "a turn changes nothing in images of 1 pixel; image_size must be at least 2".into(),
            )),
            _ => Ok(()),
        }
    }

    fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        Ok(Arc::new(FourTurns(self.augmentation.clone())))
    }

    fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>> {
        Ok(Box::new(Rotation::new(self, encoder, seed)?))
    }
}

/// One view, turned clockwise by 0, 1, 2 and 3 quarters.
struct FourTurns(Pipeline);

impl Prepare for FourTurns {
    fn view_names(&self) -> &[&'static str] {
        &TURNS
    }

    fn prepare(&self, image: &RgbImage, rng: &dyn Fn(u64) -> ChaCha8Rng) -> Result<Example> {
        let view = self.0.apply(image, &mut rng(0))?;
        let turned = [imageops::rotate90(&view), imageops::rotate180(&view), imageops::rotate270(&view)];
        let mut views = vec![view];
        views.extend(turned);
        Ok(views.into())
    }
}

/// Rotation with its model.
pub struct Rotation {
    prepare: Arc<dyn Prepare>,
    encoder: Encoder,
    classifier: Classifier,
}

impl Rotation {
    /// Puts a linear classifier of the four turns, drawn from `seed`, on an encoder.
    pub fn new(config: &RotationConfig, encoder: Encoder, seed: u64) -> Result<Self> {
        let classifier = Classifier::new(encoder.feature_dim(), &[], TURNS.len(), encoder.device(), seed)?;
        Ok(Self { prepare: config.prepare()?, encoder, classifier })
    }
}

impl Method for Rotation {
    fn prepare(&self) -> Arc<dyn Prepare> {
        self.prepare.clone()
    }

    fn step(&mut self, Batch { views, .. }: &Batch, _at: Progress) -> Result<StepOutput> {
        let n = views[0].dim(0)?;
        let features = self.encoder.forward(&Tensor::cat(views, 0)?, Mode::Train)?;
        let turns: Vec<u32> = (0..views.len() as u32).flat_map(|turn| vec![turn; n]).collect();
        let turns = Tensor::from_vec(turns, views.len() * n, self.encoder.device())?;
        let logits = self.classifier.forward(&features, Mode::Train)?;
        let loss = selfsup_objectives::cross_entropy(&logits, &turns)?;
        let logits = logits.detach();
        let metrics: Metrics =
            Box::new(move || Ok(vec![("rotation_top1", selfsup_objectives::accuracy(&logits, &turns)?)]));
        Ok(StepOutput { loss, embeddings: features.narrow(0, 0, n)?.detach(), metrics })
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    fn tensors(&self) -> Params {
        self.classifier.tensors_with(&self.encoder)
    }
}
