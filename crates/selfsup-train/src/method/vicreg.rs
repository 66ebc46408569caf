//! VICReg: two views' embeddings are near each other, vary enough in each number, and do not vary together.
//!
//! Bardes, Ponce & LeCun 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
//! arXiv:2105.04906, algorithm 1.

use super::branch::Branch;
use super::{
    Method, MethodInfo, Metrics, Prepare, Progress, Settings, Sizes, StepOutput, TwoViews, validate_views,
};
use crate::{Error, Result};
use candle_core::Tensor;
use selfsup_augment::Pipeline;
use selfsup_models::params::Params;
use selfsup_models::{Encoder, Mode, ProjectorConfig};
use selfsup_objectives::VicRegWeights;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(super) const INFO: MethodInfo = MethodInfo {
    name: "vicreg",
    title: "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
    paper: "Bardes, Ponce, LeCun, arXiv:2105.04906",
    year: 2022,
    idea: "two views' embeddings are near each other, vary enough in each number, and do not vary together",
};

/// VICReg's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VicRegConfig {
    /// λ of eq. 6, the weight of the distance between the views: 25 in the paper.
    pub invariance: f64,
    /// μ, of what varies too little: 25 in the paper.
    pub variance: f64,
    /// ν, of what varies together: 1 in the paper.
    pub covariance: f64,
    /// The head: three layers of 8192 in the paper, the first two normalised.
    pub projector: ProjectorConfig,
    /// Both views are drawn from it, independently. The paper's two views have unlike chances of blur and solarisation.
    pub augmentation: Pipeline,
}

impl VicRegConfig {
    fn weights(&self) -> VicRegWeights {
        let Self { invariance, variance, covariance, .. } = *self;
        VicRegWeights { invariance, variance, covariance }
    }
}

impl Settings for VicRegConfig {
    fn validate(&self, sizes: Sizes) -> Result<()> {
        self.weights().validate().map_err(|e| Error::Config(format!("method.{e}")))?;
        self.projector.validate()?;
        validate_views(&self.augmentation, sizes.image)
    }

    fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        Ok(Arc::new(TwoViews(self.augmentation.clone())))
    }

    fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>> {
        Ok(Box::new(VicReg::new(self, encoder, seed)?))
    }
}

/// VICReg with its model.
pub struct VicReg {
    weights: VicRegWeights,
    prepare: Arc<dyn Prepare>,
    branch: Branch,
}

impl VicReg {
    /// Puts a projector, drawn from `seed`, on an encoder.
    pub fn new(config: &VicRegConfig, encoder: Encoder, seed: u64) -> Result<Self> {
        let branch = Branch::new(encoder, &config.projector, seed)?;
        Ok(Self { weights: config.weights(), prepare: config.prepare()?, branch })
    }
}

impl Method for VicReg {
    fn prepare(&self) -> Arc<dyn Prepare> {
        self.prepare.clone()
    }

    fn step(&mut self, views: &[Tensor], _at: Progress) -> Result<StepOutput> {
        let z1 = self.branch.forward(&views[0], Mode::Train, 1)?;
        let z2 = self.branch.forward(&views[1], Mode::Train, 1)?;
        let loss = selfsup_objectives::vicreg(&z1, &z2, self.weights)?;
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
