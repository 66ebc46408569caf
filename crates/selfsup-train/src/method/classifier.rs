//! The head of the methods that classify: hidden layers, normalised, with ReLU, and a linear layer to the classes' logits.

use crate::Result;
use candle_core::{Device, Tensor};
use selfsup_models::params::{NamedTensor, ParamBuilder, Params};
use selfsup_models::{BatchNorm, Encoder, Linear, Mode};

/// Features `[n, d]` → logits `[n, classes]`.
pub(super) struct Classifier {
    hidden: Vec<(Linear, BatchNorm)>,
    last: Linear,
    params: Params,
}

impl Classifier {
    /// Draws the layers, of the widths of `hidden`, from `seed`.
    pub fn new(
        feature_dim: usize,
        hidden: &[usize],
        classes: usize,
        device: &Device,
        seed: u64,
    ) -> Result<Self> {
        let build = ParamBuilder::new(seed, device);
        let part = build.part("classifier");
        let mut width = feature_dim;
        let mut layers = Vec::with_capacity(hidden.len());
        for (i, &next) in hidden.iter().enumerate() {
            let part = part.part(i);
            // The normalisation would take a bias away.
            layers.push((Linear::new(width, next, false, &part)?, BatchNorm::new(next, &part.part("bn"))?));
            width = next;
        }
        let last = Linear::new(width, classes, true, &part.part(hidden.len()))?;
        Ok(Self { hidden: layers, last, params: build.finish() })
    }

    pub fn forward(&self, features: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = features.clone();
        for (linear, norm) in &self.hidden {
            x = norm.forward(&linear.forward(&x, mode)?, None, true, mode)?;
        }
        Ok(self.last.forward(&x, mode)?)
    }

    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Its tensors after an encoder's, all trainable.
    pub fn tensors_with(&self, encoder: &Encoder) -> Params {
        let mut all = encoder_tensors(encoder);
        all.extend(self.params.iter().cloned());
        all.into()
    }
}

/// An encoder's tensors under the names that every method gives them in a checkpoint.
pub(super) fn encoder_tensors(encoder: &Encoder) -> Vec<NamedTensor> {
    let named = |t: &NamedTensor| NamedTensor { name: format!("encoder.{}", t.name), ..t.clone() };
    encoder.params().iter().map(named).collect()
}
