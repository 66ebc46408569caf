//! What stands before the head: a network of one of the families.

use crate::layers::Mode;
use crate::resnet::{ResNet, ResNetConfig};
use crate::vit::{VisionTransformer, VitConfig};
use crate::{Error, Result, params::ParamBuilder};
use candle_core::{DType, Tensor};

/// A network's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// A residual network.
    ResNet(ResNetConfig),
    /// A vision transformer.
    Vit(VitConfig),
}

impl Network {
    /// The width d of the features.
    pub const fn feature_dim(&self) -> usize {
        match self {
            Network::ResNet(config) => config.feature_dim(),
            Network::Vit(config) => config.width,
        }
    }

    /// Fails unless square images of this side fit.
    pub fn check_side(&self, side: usize) -> Result<()> {
        match self {
            Network::Vit(VitConfig { patch, .. }) if !side.is_multiple_of(*patch) => {
                Err(Error::Patch { patch: *patch, side })
            }
            _ => Ok(()),
        }
    }

    /// Fails unless it trains in this dtype: F32, and residual networks in BF16.
    pub fn check_train_dtype(&self, dtype: DType) -> Result<()> {
        match (self, dtype) {
            (_, DType::F32) | (Network::ResNet(_), DType::BF16) => Ok(()),
            (Network::Vit(_), DType::BF16) => Err(Error::VitDType(dtype)),
            _ => Err(Error::TrainDType(dtype)),
        }
    }
}

/// A network with its weights: `[n, h, w, 3]` → features `[n, d]`.
#[derive(Debug, Clone)]
pub enum Backbone {
    /// A residual network.
    ResNet(ResNet),
    /// A vision transformer.
    Vit(VisionTransformer),
}

impl Backbone {
    /// Declares every tensor.
    pub fn new(network: &Network, build: &ParamBuilder) -> Result<Self> {
        Ok(match network {
            Network::ResNet(config) => Self::ResNet(ResNet::new(config, build)?),
            Network::Vit(config) => Self::Vit(VisionTransformer::new(config, build)?),
        })
    }

    /// Images, normalised, to features. `groups` are those of [`ResNet::forward`]; a transformer has no batch statistics.
    pub fn forward(&self, x: &Tensor, mode: Mode, groups: usize) -> Result<Tensor> {
        match self {
            Self::ResNet(network) => network.forward(x, mode, groups),
            Self::Vit(network) => network.forward(x, mode),
        }
    }
}
