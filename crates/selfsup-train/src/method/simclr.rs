//! SimCLR: two augmented views of an image attract each other and repel every other view of the batch.
//!
//! Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
//! arXiv:2002.05709, algorithm 1. The embeddings z = g(f(x)) enter the NT-Xent loss (eq. 1); after training g
//! is thrown away and f is the encoder. Both views pass through the network as one batch of 2n, as in the
//! paper: batch normalisation sees them together.

use super::branch::Branch;
use super::two_views::TwoViews;
use super::{
    Batch, Method, MethodInfo, Metrics, Prepare, Progress, Settings, Sizes, StepOutput, validate_views,
};
use crate::{Error, Result};
use candle_core::Tensor;
use selfsup_augment::Pipeline;
use selfsup_models::params::Params;
use selfsup_models::{Encoder, Mode, ProjectorConfig};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(super) const INFO: MethodInfo = MethodInfo {
    name: "simclr",
    title: "A Simple Framework for Contrastive Learning of Visual Representations",
    paper: "Chen, Kornblith, Norouzi, Hinton, arXiv:2002.05709",
    year: 2020,
    idea: "two augmented views of one image attract, the other images of the batch repel",
};

/// SimCLR's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimClrConfig {
    /// τ of eq. 1. The paper's best is 0.1 on ImageNet (table 5) and 0.5 on CIFAR-10 (B.9).
    pub temperature: f64,
    /// The head g.
    pub projector: ProjectorConfig,
    /// Both views are drawn from it, independently.
    pub augmentation: Pipeline,
}

impl Settings for SimClrConfig {
    fn validate(&self, sizes: Sizes) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            let got = self.temperature;
            return Err(Error::Config(format!("method.temperature must be positive, got {got}")));
        }
        self.projector.validate()?;
        validate_views(&self.augmentation, sizes.image)
    }

    fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        Ok(Arc::new(TwoViews(self.augmentation.clone())))
    }

    fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>> {
        Ok(Box::new(SimClr::new(self, encoder, seed)?))
    }
}

/// SimCLR with its model.
pub struct SimClr {
    temperature: f64,
    prepare: Arc<dyn Prepare>,
    branch: Branch,
}

impl SimClr {
    /// Puts a projector, drawn from `seed`, on an encoder.
    pub fn new(config: &SimClrConfig, encoder: Encoder, seed: u64) -> Result<Self> {
        Ok(Self {
            temperature: config.temperature,
            prepare: config.prepare()?,
            branch: Branch::new(encoder, &config.projector, seed)?,
        })
    }
}

impl Method for SimClr {
    fn prepare(&self) -> Arc<dyn Prepare> {
        self.prepare.clone()
    }

    fn step(&mut self, Batch { views, .. }: &Batch, _at: Progress) -> Result<StepOutput> {
        let n = views[0].dim(0)?;
        let embeddings = self.branch.forward(&Tensor::cat(views, 0)?, Mode::Train, 1)?;
        let (z1, z2) = (embeddings.narrow(0, 0, n)?, embeddings.narrow(0, n, n)?);
        let loss = selfsup_objectives::nt_xent(&z1, &z2, self.temperature)?;
        let (z1, z2) = (z1.detach(), z2.detach());
        let metrics: Metrics = Box::new(move || {
            Ok(vec![("contrastive_top1", selfsup_objectives::contrastive_accuracy(&z1, &z2)?)])
        });
        Ok(StepOutput { loss, embeddings: embeddings.detach(), metrics })
    }

    fn encoder(&self) -> &Encoder {
        &self.branch.encoder
    }

    fn tensors(&self) -> Params {
        self.branch.tensors("", true).into()
    }
}
