//! The projection head: features → the embeddings that the loss compares.

use crate::layers::{BatchNorm, Linear, Mode};
use crate::{Error, Result, params::ParamBuilder};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// A projector's shape.
///
/// SimCLR's default is one hidden layer as wide as the features and 128 outputs (Chen et al. 2020, §2.1). Without a layer the
/// embeddings are the features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectorConfig {
    /// Linear layers: 0 is no head, 1 a linear one, 2 an MLP with one hidden layer.
    pub layers: usize,
    /// Width of the hidden layers; 0 takes the features' own.
    pub hidden_dim: usize,
    /// Width of the embeddings.
    pub out_dim: usize,
    /// Where batch normalisation follows a linear layer (before the ReLU in the hidden ones).
    pub batch_norm: HeadNorm,
}

/// Which linear layers of a head batch normalisation follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadNorm {
    /// No one.
    None,
    /// The hidden ones.
    Hidden,
    /// The hidden ones and the last.
    All,
}

impl Default for ProjectorConfig {
    fn default() -> Self {
        Self { layers: 2, hidden_dim: 0, out_dim: 128, batch_norm: HeadNorm::All }
    }
}

impl ProjectorConfig {
    /// The width of the embeddings must be positive, where there is a head.
    pub fn validate(&self) -> Result<()> {
        if self.layers > 0 && self.out_dim == 0 {
            return Err(Error::Size { name: "projector.out_dim", expected: "at least 1", got: 0 });
        }
        Ok(())
    }

    /// The width of the embeddings of features of width `feature_dim`.
    pub fn embedding_dim(&self, feature_dim: usize) -> usize {
        if self.layers == 0 { feature_dim } else { self.out_dim }
    }
}

/// Linear layers with ReLU between them: features `[n, d]` → embeddings `[n, out_dim]`.
#[derive(Debug, Clone)]
pub struct Projector {
    layers: Vec<(Linear, Option<BatchNorm>)>,
}

impl Projector {
    /// Declares `0.weight`, `0.bn.weight`, … A linear layer has a bias only where no normalisation follows
    /// to cancel it.
    pub fn new(feature_dim: usize, config: &ProjectorConfig, build: &ParamBuilder) -> Result<Self> {
        config.validate()?;
        let hidden = if config.hidden_dim == 0 { feature_dim } else { config.hidden_dim };
        let mut layers = Vec::with_capacity(config.layers);
        let mut c = feature_dim;
        for i in 0..config.layers {
            let k = if i + 1 == config.layers { config.out_dim } else { hidden };
            let build = build.part(i);
            let normalised = match config.batch_norm {
                HeadNorm::None => false,
                HeadNorm::Hidden => i + 1 < config.layers,
                HeadNorm::All => true,
            };
            let linear = Linear::new(c, k, !normalised, &build)?;
            let bn = normalised.then(|| BatchNorm::new(k, &build.part("bn"))).transpose()?;
            layers.push((linear, bn));
            c = k;
        }
        Ok(Self { layers })
    }

    /// Applies the head. The embeddings are not normalised: the loss does that.
    pub fn forward(&self, features: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = features.clone();
        for (i, (linear, bn)) in self.layers.iter().enumerate() {
            let relu = i + 1 != self.layers.len();
            x = linear.forward(&x, mode)?;
            x = match bn {
                Some(bn) => bn.forward(&x, None, relu, mode)?,
                None if relu => selfsup_kernels::relu(&x)?,
                None => x,
            };
        }
        Ok(x)
    }
}
