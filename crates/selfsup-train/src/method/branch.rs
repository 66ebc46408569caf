//! An encoder with its head, which most methods have one or two of, how one follows another, and predictors.

use super::Progress;
use crate::Result;
use candle_core::Tensor;
use selfsup_models::params::{NamedTensor, ParamBuilder, Params};
use selfsup_models::{Encoder, HeadNorm, Mode, Projector, ProjectorConfig};
use selfsup_optim::momentum_update;

/// f and g: views to embeddings.
pub(super) struct Branch {
    pub encoder: Encoder,
    head: Head,
}

/// A head with its tensors.
pub(super) struct Head {
    config: ProjectorConfig,
    feature_dim: usize,
    projector: Projector,
    params: Params,
}

impl Head {
    /// Draws a head for inputs of width `feature_dim` from `seed`; its tensors' names begin with `name`.
    pub fn new(
        name: &str,
        config: &ProjectorConfig,
        feature_dim: usize,
        encoder: &Encoder,
        seed: u64,
    ) -> Result<Self> {
        let build = ParamBuilder::new(seed, encoder.device());
        let projector = Projector::new(feature_dim, config, &build.part(name))?;
        Ok(Self { config: config.clone(), feature_dim, projector, params: build.finish() })
    }

    /// A predictor of a branch's embeddings: an MLP with one normalised hidden layer, as wide out as in.
    pub fn predictor(branch: &Branch, hidden_dim: usize, seed: u64) -> Result<Self> {
        let width = branch.embedding_dim();
        let config = ProjectorConfig { layers: 2, hidden_dim, out_dim: width, batch_norm: HeadNorm::Hidden };
        Self::new("predictor", &config, width, &branch.encoder, seed)
    }

    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(self.projector.forward(x, mode)?)
    }

    pub fn params(&self) -> &Params {
        &self.params
    }
}

impl Branch {
    /// Puts a head, drawn from `seed`, on an encoder.
    pub fn new(encoder: Encoder, config: &ProjectorConfig, seed: u64) -> Result<Self> {
        let head = Head::new("projector", config, encoder.feature_dim(), &encoder, seed)?;
        Ok(Self { encoder, head })
    }

    /// Another branch with the same values, in memory of its own.
    pub fn copy(&self) -> Result<Self> {
        let encoder = self.encoder.copy()?;
        let head = Head::new("projector", &self.head.config, self.head.feature_dim, &encoder, 0)?;
        for (to, from) in head.params.iter().zip(self.head.params.iter()) {
            to.var.set(&from.var.as_detached_tensor())?;
        }
        Ok(Self { encoder, head })
    }

    /// The width of the embeddings.
    pub fn embedding_dim(&self) -> usize {
        self.head.config.embedding_dim(self.head.feature_dim)
    }

    /// Embeddings `[n, d]` of a view u8 `[n, h, w, 3]`, whose encoder normalises it in `groups` ([`Encoder::forward_in_groups`]).
    pub fn forward(&self, view: &Tensor, mode: Mode, groups: usize) -> Result<Tensor> {
        self.head.forward(&self.encoder.forward_in_groups(view, mode, groups)?, mode)
    }

    /// Moves every trainable tensor towards `fast`'s: running statistics are each branch's own.
    pub fn follow(&self, fast: &Self, momentum: f64) -> Result<()> {
        let heads = self.head.params.trainable().zip(fast.head.params.trainable());
        let encoders = self.encoder.params().trainable().zip(fast.encoder.params().trainable());
        for (slow, fast) in encoders.chain(heads) {
            momentum_update(&slow.var, &fast.var, momentum)?;
        }
        Ok(())
    }

    /// The tensors, as `{prefix}encoder.…` and `{prefix}projector.…`, for the optimiser or, of a branch that follows, not.
    pub fn tensors(&self, prefix: &'static str, trainable: bool) -> Vec<NamedTensor> {
        let named = |part: &'static str, t: &NamedTensor| NamedTensor {
            name: format!("{prefix}{part}{}", t.name),
            trainable: trainable && t.trainable,
            ..t.clone()
        };
        let encoder = self.encoder.params().iter().map(|t| named("encoder.", t));
        encoder.chain(self.head.params.iter().map(|t| named("", t))).collect()
    }
}

/// A momentum that goes to 1 over the run by half a cosine, or stays (Grill et al. 2020, §3.1): 1 − (1 − m)·(cos(πt/T) + 1)/2.
pub(super) fn momentum_at(momentum: f64, ramp: bool, at: Progress) -> f64 {
    if !ramp {
        return momentum;
    }
    1.0 - (1.0 - momentum) * ((std::f64::consts::PI * at.fraction()).cos() + 1.0) / 2.0
}
