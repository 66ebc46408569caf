//! Barlow Twins: the two views' embeddings, each number standardised over the batch, have the identity as their cross-correlation.
//!
//! Zbontar, Jing, Misra, LeCun & Deny 2021, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", arXiv:2103.03230,
//! algorithm 1.

use super::two_views::{Joint, Loss, TwoViews};
use super::{Method, MethodInfo, Prepare, Settings, Sizes, validate_views};
use crate::{Error, Result};
use selfsup_augment::Pipeline;
use selfsup_models::{Encoder, ProjectorConfig};
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
        let lambda = self.lambda;
        let loss: Loss = Box::new(move |z1, z2| Ok(selfsup_objectives::barlow_twins(z1, z2, lambda)?));
        Ok(Box::new(Joint::new(&self.augmentation, &self.projector, encoder, seed, loss)?))
    }
}
