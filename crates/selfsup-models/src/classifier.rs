//! The classifier that a published network ends with: the layer behind the features, which an encoder is without.
//!
//! Dimension letters: n batch, d features.

use crate::names::{Account, Framework};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use selfsup_kernels::Activation;
use std::collections::HashMap;

/// A linear layer from features to classes: logits = x·Wᵀ + b.
#[derive(Debug, Clone)]
pub struct Classifier {
    weight: Tensor,
    bias: Tensor,
}

impl Classifier {
    /// Of a weight `[classes, d]` and a bias `[classes]`, which become f32.
    ///
    /// # Errors
    /// Other shapes.
    pub fn new(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        match (weight.dims(), bias.dims()) {
            (&[classes, _], &[biases]) if classes == biases => Ok(Self {
                weight: weight.to_dtype(DType::F32)?.contiguous()?,
                bias: bias.to_dtype(DType::F32)?.contiguous()?,
            }),
            (weight, bias) => Err(Error::Mismatch {
                what: "a classifier".into(),
                problems: format!("its weight has shape {weight:?}, its bias {bias:?}"),
            }),
        }
    }

    /// The file's own, if it has one of that many features: by the convention's names, among what was dropped.
    pub(crate) fn of(
        account: &Account,
        tensors: &HashMap<String, Tensor>,
        feature_dim: usize,
    ) -> Result<Option<(Self, [String; 2])>> {
        // These stand between an encoder's features and the classifier.
        const BETWEEN: [&str; 2] = ["pre_logits.", "fc_norm."];
        let behind = |name: &String| name.strip_prefix(&account.prefix[..]).unwrap_or_default().to_owned();
        if account.dropped.iter().any(|name| BETWEEN.iter().any(|part| behind(name).starts_with(part))) {
            return Ok(None);
        }
        for [weight, bias] in account.convention.classifiers {
            for prefix in [&account.prefix[..], ""] {
                let names = [format!("{prefix}{weight}"), format!("{prefix}{bias}")];
                if !names.iter().all(|name| account.dropped.contains(name)) {
                    continue;
                }
                let [mut weight, bias] = names.each_ref().map(|name| tensors[name].clone());
                if account.convention.framework == Framework::Keras && weight.rank() == 2 {
                    weight = weight.t()?;
                }
                if weight.dims().get(1) == Some(&feature_dim)
                    && let Ok(classifier) = Self::new(&weight, &bias)
                {
                    return Ok(Some((classifier, names)));
                }
            }
        }
        Ok(None)
    }

    /// The weight `[classes, d]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias `[classes]`.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// How many classes it tells apart.
    pub fn classes(&self) -> usize {
        self.bias.elem_count()
    }

    /// Features `[n, d]` f32 → logits `[n, classes]` f32. Their softmax is the classes' probabilities.
    pub fn forward(&self, features: &Tensor) -> Result<Tensor> {
        Ok(selfsup_kernels::linear(features, &self.weight, Some(&self.bias), Activation::None)?)
    }
}
