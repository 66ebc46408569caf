//! VICReg: two views' embeddings are near each other, vary enough in each number, and do not vary together.
//!
//! Bardes, Ponce & LeCun 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
//! arXiv:2105.04906, algorithm 1.

use super::two_views::{Joint, Loss, TwoViews};
use super::{Method, MethodInfo, Prepare, Settings, Sizes, validate_views};
use crate::{Error, Result};
use selfsup_augment::Pipeline;
use selfsup_models::{Encoder, ProjectorConfig};
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
        let weights = self.weights();
        let loss: Loss = Box::new(move |z1, z2| Ok(selfsup_objectives::vicreg(z1, z2, weights)?));
        Ok(Box::new(Joint::new(&self.augmentation, &self.projector, encoder, seed, loss)?))
    }
}
