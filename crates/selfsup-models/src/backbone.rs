//! What stands before the head: a network of one of the families.

use crate::layers::Mode;
use crate::resnet::{ResNet, ResNetConfig};
use crate::vit::{VisionTransformer, VitConfig};
use crate::{Error, Result, params::ParamBuilder};
use candle_core::Tensor;

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

    /// Fails unless square images of this side fit.
    pub fn check_side(&self, side: usize) -> Result<()> {
        match self {
            Self::Vit(network) if !side.is_multiple_of(network.patch()) => {
                Err(Error::Patch { patch: network.patch(), side })
            }
            _ => Ok(()),
        }
    }
}
