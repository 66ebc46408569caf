//! Barlow Twins: the two views' embeddings, each number standardised over the batch, have the identity as their cross-correlation.
//!
//! Zbontar, Jing, Misra, LeCun & Deny 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", arXiv:2103.03230,
//! algorithm 1.

use super::branch::Branch;
use super::{
    Method, MethodInfo, Metrics, Prepare, Progress, Settings, Sizes, StepOutput, TwoViews, validate_views,
};
use crate::{Error, Result};
use candle_core::Tensor;
use selfsup_augment::Pipeline;
use selfsup_models::params::Params;
use selfsup_models::{Encoder, Mode, ProjectorConfig};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(super) const INFO: MethodInfo = MethodInfo {
    name: "barlow-twins",
    title: "Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
    paper: "Zbontar, Jing, Misra, LeCun, Deny, arXiv:2103.03230",
    year: 2021,
    idea: "each number of an embedding agrees between two views, and with no other number",
};

/// Barlow Twins' settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BarlowTwinsConfig {
    /// λ of eq. 1: the weight of what is off the diagonal. The authors' code has 0.0051.
    pub lambda: f64,
    /// The head: three layers of 8192 in the paper, the first two normalised.
    pub projector: ProjectorConfig,
    /// Both views are drawn from it, independently. The paper's two views have unlike chances of blur and solarisation.
    pub augmentation: Pipeline,
}

impl Settings for BarlowTwinsConfig {
    fn validate(&self, sizes: Sizes) -> Result<()> {
        if !(self.lambda.is_finite() && self.lambda >= 0.0) {
            let got = self.lambda;
            return Err(Error::Config(format!("method.lambda must be finite and 0 or more, got {got}")));
        }
        self.projector.validate()?;
        validate_views(&self.augmentation, sizes.image)
    }

    fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        Ok(Arc::new(TwoViews(self.augmentation.clone())))
    }

    fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>> {
        Ok(Box::new(BarlowTwins::new(self, encoder, seed)?))
    }
}

/// Barlow Twins with its model.
pub struct BarlowTwins {
    lambda: f64,
    prepare: Arc<dyn Prepare>,
    branch: Branch,
}

impl BarlowTwins {
    /// Puts a projector, drawn from `seed`, on an encoder.
    pub fn new(config: &BarlowTwinsConfig, encoder: Encoder, seed: u64) -> Result<Self> {
        let branch = Branch::new(encoder, &config.projector, seed)?;
        Ok(Self { lambda: config.lambda, prepare: config.prepare()?, branch })
    }
}

impl Method for BarlowTwins {
    fn prepare(&self) -> Arc<dyn Prepare> {
        self.prepare.clone()
    }

    fn step(&mut self, views: &[Tensor], _at: Progress) -> Result<StepOutput> {
        let z1 = self.branch.forward(&views[0], Mode::Train, 1)?;
        let z2 = self.branch.forward(&views[1], Mode::Train, 1)?;
        let loss = selfsup_objectives::barlow_twins(&z1, &z2, self.lambda)?;
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
