//! The projection head: features → the embeddings that the loss compares.

use crate::layers::{BatchNorm, Linear, Mode};
use crate::{Error, Result, params::ParamBuilder};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// A projector's shape.
///
/// SimCLR's default is one hidden layer as wide as the features and 128 outputs (Chen et al. 2020, §2.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectorConfig {
    /// Linear layers: 1 is a linear head, 2 an MLP with one hidden layer.
    pub layers: usize,
    /// Width of the hidden layers; 0 takes the features' own.
    pub hidden_dim: usize,
    /// Width of the embeddings.
    pub out_dim: usize,
    /// Batch normalisation after each linear layer, the last too (before the ReLU in the hidden ones).
    pub batch_norm: bool,
}

impl Default for ProjectorConfig {
    fn default() -> Self {
        Self { layers: 2, hidden_dim: 0, out_dim: 128, batch_norm: true }
    }
}

impl ProjectorConfig {
    /// Every width and the number of layers must be positive (a `hidden_dim` of 0 has a meaning).
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [("projector.layers", self.layers), ("projector.out_dim", self.out_dim)] {
            if value == 0 {
                return Err(Error::Size { name, expected: "at least 1", got: value });
            }
        }
        Ok(())
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
            let linear = Linear::new(c, k, !config.batch_norm, &build)?;
            let bn = config.batch_norm.then(|| BatchNorm::new(k, &build.part("bn"))).transpose()?;
            layers.push((linear, bn));
            c = k;
        }
        Ok(Self { layers })
    }

    /// Applies the head. The embeddings are not normalised: the loss does that.
    pub fn forward(&self, features: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = features.clone();
        let last = self.layers.len() - 1;
        for (i, (linear, bn)) in self.layers.iter().enumerate() {
            let relu = i != last;
            x = linear.forward(&x)?;
            x = match bn {
                Some(bn) => bn.forward(&x, None, relu, mode)?,
                None if relu => selfsup_kernels::relu(&x)?,
                None => x,
            };
        }
        Ok(x)
    }
}
