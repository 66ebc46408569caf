//! Two views of an image: how they are drawn, and the methods that are a loss of their embeddings and nothing more.

use super::branch::Branch;
use super::{Batch, Example, Method, Metrics, Prepare, Progress, StepOutput};
use crate::Result;
use candle_core::Tensor;
use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use selfsup_augment::Pipeline;
use selfsup_models::params::Params;
use selfsup_models::{Encoder, Mode, ProjectorConfig};
use std::sync::Arc;

/// Draws two views of an image from one pipeline.
pub(super) struct TwoViews(pub Pipeline);

impl Prepare for TwoViews {
    fn view_names(&self) -> &[&'static str] {
        &["view 1", "view 2"]
    }

    fn prepare(&self, image: &RgbImage, rng: &dyn Fn(u64) -> ChaCha8Rng) -> Result<Example> {
        let views = (0..2).map(|v| Ok(self.0.apply(image, &mut rng(v))?));
        Ok(views.collect::<Result<Vec<_>>>()?.into())
    }
}

/// A loss of the two views' embeddings `[n, d]`.
pub(super) type Loss = Box<dyn Fn(&Tensor, &Tensor) -> Result<Tensor>>;

/// A loss of the two views' embeddings, each view normalised by its own statistics.
pub(super) struct Joint {
    prepare: Arc<dyn Prepare>,
    branch: Branch,
    loss: Loss,
}

impl Joint {
    /// Puts a projector, drawn from `seed`, on an encoder.
    pub fn new(
        augmentation: &Pipeline,
        projector: &ProjectorConfig,
        encoder: Encoder,
        seed: u64,
        loss: Loss,
    ) -> Result<Self> {
        let prepare = Arc::new(TwoViews(augmentation.clone()));
        Ok(Self { prepare, branch: Branch::new(encoder, projector, seed)?, loss })
    }
}

impl Method for Joint {
    fn prepare(&self) -> Arc<dyn Prepare> {
        self.prepare.clone()
    }

    fn step(&mut self, Batch { views, .. }: &Batch, _at: Progress) -> Result<StepOutput> {
        let z1 = self.branch.forward(&views[0], Mode::Train, 1)?;
        let z2 = self.branch.forward(&views[1], Mode::Train, 1)?;
        let loss = (self.loss)(&z1, &z2)?;
        let metrics: Metrics = Box::new(|| Ok(Vec::new()));
        Ok(StepOutput { loss, embeddings: z1.detach(), metrics })
    }

    fn encoder(&self) -> &Encoder {
        &self.branch.encoder
    }

    fn tensors(&self) -> Params {
        self.branch.tensors("", true).into()
    }
}
