//! What stands before the head: a network of one of the families.

use crate::arch::nearest;
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

    /// The layers in order, by name and channels, see [`ResNet::layers`] and [`VisionTransformer::layers`].
    pub fn layers(&self) -> Vec<(String, usize)> {
        match self {
            Network::ResNet(config) => ResNet::layers(config),
            Network::Vit(config) => VisionTransformer::layers(config),
        }
    }

    /// The layer of a name: one of [`Network::layers`], or the beginning of one up to a dot (`layer2`), which means the last
    /// of these. An unknown name is an error that says the nearest.
    pub fn layer(&self, name: &str) -> Result<Layer> {
        let layers = self.layers();
        let is = |layer: &str| {
            layer.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        match layers.iter().rposition(|(layer, _)| is(layer)) {
            Some(place) => Ok(Layer { place, channels: layers[place].1 }),
            None => {
                let nearest = nearest(name, layers.iter().map(|(layer, _)| &layer[..]));
                let known = layers.into_iter().map(|(layer, _)| layer).collect();
                Err(Error::UnknownLayer { name: name.to_owned(), nearest, known })
            }
        }
    }

    /// The layer before the features.
    pub fn last_layer(&self) -> Layer {
        Layer { place: self.layers().len() - 1, channels: self.feature_dim() }
    }

    /// Side of the map behind a layer, of square images of a side that fits.
    pub fn map_side(&self, layer: Layer, image_side: usize) -> usize {
        match self {
            Network::ResNet(config) => ResNet::map_side(config, layer.place, image_side),
            Network::Vit(VitConfig { patch, .. }) => image_side / patch,
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

/// A place in a network, see [`Network::layer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layer {
    place: usize,
    channels: usize,
}

impl Layer {
    /// Channels c behind it.
    pub fn channels(self) -> usize {
        self.channels
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

    /// Images, normalised, to what stands behind some layers of this network, ascending: `[n, h, w, c]` f32 each.
    pub fn maps(&self, x: &Tensor, mode: Mode, groups: usize, layers: &[Layer]) -> Result<Vec<Tensor>> {
        let at: Vec<usize> = layers.iter().map(|layer| layer.place).collect();
        match self {
            Self::ResNet(network) => network.maps(x, mode, groups, &at),
            Self::Vit(network) => network.maps(x, mode, &at),
        }
    }

    /// Images, normalised, to the map `[n, h, w, c]` f32 that a decoder reads: what a residual network's features are the mean of, a
    /// transformer's patches behind its last normalisation. Every tensor of the network has a part in it.
    pub fn last_map(&self, x: &Tensor, mode: Mode, groups: usize) -> Result<Tensor> {
        match self {
            Self::ResNet(network) => network.last_map(x, mode, groups),
            Self::Vit(network) => network.last_map(x, mode),
        }
    }
}
