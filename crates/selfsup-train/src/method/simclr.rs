//! SimCLR: two augmented views of an image attract each other and repel every other view of the batch.
//!
//! Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
//! arXiv:2002.05709, algorithm 1. The embeddings z = g(f(x)) enter the NT-Xent loss (eq. 1); after training g
//! is thrown away and f is the encoder. Both views pass through the network as one batch of 2n, as in the
//! paper: batch normalisation sees them together.

use super::{Method, MethodInfo, Metrics, Prepare, StepOutput, validate_views};
use crate::{Error, Result};
use candle_core::Tensor;
use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use selfsup_augment::Pipeline;
use selfsup_models::params::{NamedTensor, ParamBuilder, Params};
use selfsup_models::{Encoder, Mode, Projector, ProjectorConfig};
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

impl SimClrConfig {
    pub(super) fn validate(&self, image_size: usize) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            let got = self.temperature;
            return Err(Error::Config(format!("method.temperature must be positive, got {got}")));
        }
        self.projector.validate()?;
        validate_views(&self.augmentation, image_size)
    }

    pub(super) fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        Ok(Arc::new(TwoViews(self.augmentation.clone())))
    }
}

/// Draws two views of an image from one pipeline.
struct TwoViews(Pipeline);

impl Prepare for TwoViews {
    fn view_names(&self) -> &[&'static str] {
        &["view 1", "view 2"]
    }

    fn prepare(&self, image: &RgbImage, rng: &dyn Fn(u64) -> ChaCha8Rng) -> Result<Vec<RgbImage>> {
        (0..2).map(|v| Ok(self.0.apply(image, &mut rng(v))?)).collect()
    }
}

/// SimCLR with its model.
pub struct SimClr {
    temperature: f64,
    prepare: Arc<dyn Prepare>,
    encoder: Encoder,
    projector: Projector,
    projector_params: Params,
}

impl SimClr {
    /// Puts a projector, drawn from `seed`, on an encoder.
    pub fn new(config: &SimClrConfig, encoder: Encoder, seed: u64) -> Result<Self> {
        config.validate(encoder.preprocessing().image_size)?;
        let build = ParamBuilder::new(seed, encoder.device());
        let projector = Projector::new(encoder.feature_dim(), &config.projector, &build.part("projector"))?;
        Ok(Self {
            temperature: config.temperature,
            prepare: config.prepare()?,
            encoder,
            projector,
            projector_params: build.finish(),
        })
    }
}

impl Method for SimClr {
    fn prepare(&self) -> Arc<dyn Prepare> {
        self.prepare.clone()
    }

    fn step(&mut self, views: &[Tensor]) -> Result<StepOutput> {
        let n = views[0].dim(0)?;
        let features = self.encoder.forward(&Tensor::cat(views, 0)?, Mode::Train)?;
        let embeddings = self.projector.forward(&features, Mode::Train)?;
        let (z1, z2) = (embeddings.narrow(0, 0, n)?, embeddings.narrow(0, n, n)?);
        let loss = selfsup_objectives::nt_xent(&z1, &z2, self.temperature)?;
        let (z1, z2) = (z1.detach(), z2.detach());
        let metrics: Metrics = Box::new(move || {
            Ok(vec![("contrastive_top1", selfsup_objectives::contrastive_accuracy(&z1, &z2)?)])
        });
        Ok(StepOutput { loss, embeddings: embeddings.detach(), metrics })
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    fn tensors(&self) -> Params {
        let encoder = self
            .encoder
            .params()
            .iter()
            .map(|t| NamedTensor { name: format!("encoder.{}", t.name), ..t.clone() });
        encoder.chain(self.projector_params.iter().cloned()).collect::<Vec<_>>().into()
    }
}
