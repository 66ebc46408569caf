//! BYOL: a predictor of one view's embedding looks for what a slowly moving copy of the network makes of the other view.
//!
//! Grill et al. 2020, "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", arXiv:2006.07733, §3.1 and
//! algorithm 1. The loss is the squared distance of the unit vectors, 2 − 2·cos, in both directions, summed (eq. 2). After each
//! update the copy moves: ξ ← τ·ξ + (1 − τ)·θ, τ going to 1 by half a cosine.

use super::branch::{Branch, Head, momentum_at};
use super::two_views::TwoViews;
use super::{
    Batch, Method, MethodInfo, Metrics, Prepare, Progress, Settings, Sizes, StepOutput, validate_views,
};
use crate::{Error, Result};
use selfsup_augment::Pipeline;
use selfsup_models::params::Params;
use selfsup_models::{Encoder, Mode, ProjectorConfig};
use selfsup_objectives::negative_cosine;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(super) const INFO: MethodInfo = MethodInfo {
    name: "byol",
    title: "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning",
    paper: "Grill et al., arXiv:2006.07733",
    year: 2020,
    idea: "a predictor of one view's embedding looks for the other's, made by a slowly moving copy of the network",
};

/// BYOL's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByolConfig {
    /// τ of eq. 1: the share of the target network that stays at a step, at first. The paper's is 0.996.
    pub momentum: f64,
    /// Whether it goes to 1 over the run.
    pub momentum_ramp: bool,
    /// g: in the paper a normalised hidden layer of 4096 and 256 outputs.
    pub projector: ProjectorConfig,
    /// Width of the predictor's hidden layer: 4096 in the paper. 0 takes the embeddings' own width.
    pub predictor_hidden_dim: usize,
    /// Both views are drawn from it, independently. The paper's two views have unlike chances of blur and solarisation.
    pub augmentation: Pipeline,
}

impl Settings for ByolConfig {
    fn validate(&self, sizes: Sizes) -> Result<()> {
        if !(0.0..=1.0).contains(&self.momentum) {
            return Err(Error::Config(format!("method.momentum must be in 0…1, got {}", self.momentum)));
        }
        self.projector.validate()?;
        validate_views(&self.augmentation, sizes.image)
    }

    fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        Ok(Arc::new(TwoViews(self.augmentation.clone())))
    }

    fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>> {
        Ok(Box::new(Byol::new(self, encoder, seed)?))
    }
}

/// BYOL with its model and the model's slow copy.
pub struct Byol {
    config: ByolConfig,
    prepare: Arc<dyn Prepare>,
    online: Branch,
    predictor: Head,
    target: Branch,
}

impl Byol {
    /// Puts a projector and a predictor, drawn from `seed`, on an encoder; copies encoder and projector.
    pub fn new(config: &ByolConfig, encoder: Encoder, seed: u64) -> Result<Self> {
        let online = Branch::new(encoder, &config.projector, seed)?;
        let predictor = Head::predictor(&online, config.predictor_hidden_dim, seed)?;
        let target = online.copy()?;
        Ok(Self { prepare: config.prepare()?, config: config.clone(), online, predictor, target })
    }
}

impl Method for Byol {
    fn prepare(&self) -> Arc<dyn Prepare> {
        self.prepare.clone()
    }

    fn step(&mut self, Batch { views, .. }: &Batch, at: Progress) -> Result<StepOutput> {
        let z1 = self.online.forward(&views[0], Mode::Train, 1)?;
        let z2 = self.online.forward(&views[1], Mode::Train, 1)?;
        let target = |view| self.target.forward(view, Mode::TrainNoGrad, 1);
        let (t1, t2) = (target(&views[0])?, target(&views[1])?);
        let p1 = self.predictor.forward(&z1, Mode::Train)?;
        let p2 = self.predictor.forward(&z2, Mode::Train)?;
        // 2 + 2·D in each direction.
        let loss = (((negative_cosine(&p1, &t2)? + negative_cosine(&p2, &t1)?)? * 2.0)? + 4.0)?;
        let momentum = momentum_at(self.config.momentum, self.config.momentum_ramp, at);
        let metrics: Metrics = Box::new(move || Ok(vec![("momentum", momentum)]));
        Ok(StepOutput { loss, embeddings: z1.detach(), metrics })
    }

    fn after_update(&mut self, at: Progress) -> Result<()> {
        let momentum = momentum_at(self.config.momentum, self.config.momentum_ramp, at);
        self.target.follow(&self.online, momentum)
    }

    fn encoder(&self) -> &Encoder {
        &self.online.encoder
    }

    fn tensors(&self) -> Params {
        let mut all = self.online.tensors("", true);
        all.extend(self.predictor.params().iter().cloned());
        all.extend(self.target.tensors("target_", false));
        all.into()
    }
}
