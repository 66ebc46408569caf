//! SimSiam: each view's embedding, through a predictor, approaches the other's, which takes no gradient. No negatives, no momentum
//! encoder.
//!
//! Chen & He 2021, "Exploring Simple Siamese Representation Learning", arXiv:2011.10566, algorithm 1. The loss is
//! ½·D(p1, z2) + ½·D(p2, z1) with D the negative cosine (eq. 2), z detached in both. The authors keep the predictor's learning
//! rate fixed while the others' falls; here it falls with them.

use super::branch::{Branch, Head};
use super::two_views::TwoViews;
use super::{
    Batch, Method, MethodInfo, Metrics, Prepare, Progress, Settings, Sizes, StepOutput, validate_views,
};
use crate::Result;
use selfsup_augment::Pipeline;
use selfsup_models::params::Params;
use selfsup_models::{Encoder, Mode, ProjectorConfig};
use selfsup_objectives::negative_cosine;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(super) const INFO: MethodInfo = MethodInfo {
    name: "simsiam",
    title: "Exploring Simple Siamese Representation Learning",
    paper: "Chen, He, arXiv:2011.10566",
    year: 2021,
    idea: "a predictor of one view's embedding looks for the other's, which stands still",
};

/// SimSiam's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimSiamConfig {
    /// f's head. The paper's has three layers of 2048, normalised all.
    pub projector: ProjectorConfig,
    /// Width of the predictor's hidden layer, a bottleneck: 512 in the paper. 0 takes the embeddings' own width.
    pub predictor_hidden_dim: usize,
    /// Both views are drawn from it, independently.
    pub augmentation: Pipeline,
}

impl Settings for SimSiamConfig {
    fn validate(&self, sizes: Sizes) -> Result<()> {
        self.projector.validate()?;
        validate_views(&self.augmentation, sizes.image)
    }

    fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        Ok(Arc::new(TwoViews(self.augmentation.clone())))
    }

    fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>> {
        Ok(Box::new(SimSiam::new(self, encoder, seed)?))
    }
}

/// SimSiam with its model.
pub struct SimSiam {
    prepare: Arc<dyn Prepare>,
    branch: Branch,
    predictor: Head,
}

impl SimSiam {
    /// Puts a projector and a predictor, drawn from `seed`, on an encoder.
    pub fn new(config: &SimSiamConfig, encoder: Encoder, seed: u64) -> Result<Self> {
        let branch = Branch::new(encoder, &config.projector, seed)?;
        let predictor = Head::predictor(&branch, config.predictor_hidden_dim, seed)?;
        Ok(Self { prepare: config.prepare()?, branch, predictor })
    }
}

impl Method for SimSiam {
    fn prepare(&self) -> Arc<dyn Prepare> {
        self.prepare.clone()
    }

    fn step(&mut self, Batch { views, .. }: &Batch, _at: Progress) -> Result<StepOutput> {
        let z1 = self.branch.forward(&views[0], Mode::Train, 1)?;
        let z2 = self.branch.forward(&views[1], Mode::Train, 1)?;
        let p1 = self.predictor.forward(&z1, Mode::Train)?;
        let p2 = self.predictor.forward(&z2, Mode::Train)?;
        let (z1, z2) = (z1.detach(), z2.detach());
        let loss = ((negative_cosine(&p1, &z2)? + negative_cosine(&p2, &z1)?)? * 0.5)?;
        let metrics: Metrics = Box::new(|| Ok(Vec::new()));
        Ok(StepOutput { loss, embeddings: z1, metrics })
    }

    fn encoder(&self) -> &Encoder {
        &self.branch.encoder
    }

    fn tensors(&self) -> Params {
        let mut all = self.branch.tensors("", true);
        all.extend(self.predictor.params().iter().cloned());
        all.into()
    }
}
