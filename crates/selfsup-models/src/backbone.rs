//! What stands before the head: a network of one of the families.

use crate::arch::nearest;
use crate::convnet::{ConvNet, ConvNetConfig};
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
    /// A plain convolutional network.
    ConvNet(ConvNetConfig),
}

impl Network {
    /// The width d of the features.
    pub const fn feature_dim(&self) -> usize {
        match self {
            Network::ResNet(config) => config.feature_dim(),
            Network::Vit(config) => config.width,
            Network::ConvNet(config) => config.feature_dim(),
        }
    }

    /// The layers in order, by name and channels, see [`ResNet::layers`], [`VisionTransformer::layers`] and [`ConvNet::layers`].
    pub fn layers(&self) -> Vec<(String, usize)> {
        match self {
            Network::ResNet(config) => ResNet::layers(config),
            Network::Vit(config) => VisionTransformer::layers(config),
            Network::ConvNet(config) => ConvNet::layers(config),
        }
    }

    /// The layer of a name: one of [`Network::layers`], or the beginning of one up to a dot or an underscore (`layer2`, `conv2`), which
    /// means the last of these. An unknown name is an error that says the nearest.
    pub fn layer(&self, name: &str) -> Result<Layer> {
        let layers = self.layers();
        let is = |layer: &str| {
            layer.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '_']))
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

    /// The layer whose map [`Backbone::last_map`] gives: the last one, of a plain convolutional network its last convolution.
    pub fn last_layer(&self) -> Layer {
        let layers = self.layers();
        let place = match self {
            Network::ResNet(_) | Network::Vit(_) => layers.len() - 1,
            Network::ConvNet(config) => config.convolutions.len() - 1,
        };
        Layer { place, channels: layers[place].1 }
    }

    /// Side of the map behind a layer, of square images of a side that fits.
    pub fn map_side(&self, layer: Layer, image_side: usize) -> usize {
        match self {
            Network::ResNet(config) => ResNet::map_side(config, layer.place, image_side),
            Network::Vit(VitConfig { patch, .. }) => image_side / patch,
            Network::ConvNet(config) => ConvNet::map_side(config, layer.place, image_side),
        }
    }

    /// The same for square images of this side, in pixels: a vision transformer has a positional embedding for each of their patches.
    pub fn for_images(self, side: usize) -> Self {
        match self {
            Network::Vit(config) => Network::Vit(VitConfig { image_size: side, ..config }),
            network => network,
        }
    }

    /// Fails unless square images of this side fit.
    pub fn check_side(&self, side: usize) -> Result<()> {
        match self {
            Network::Vit(VitConfig { patch, .. }) if !side.is_multiple_of(*patch) => {
                Err(Error::Patch { patch: *patch, side })
            }
            Network::ConvNet(config) => config.check_side(side),
            _ => Ok(()),
        }
    }

    /// Fails unless every tensor has a part in [`Backbone::last_map`], so that what is trained by the map alone is trained whole. Of a
    /// plain convolutional network fc6 and fc7 have none.
    pub fn check_map(&self) -> Result<()> {
        match self {
            Network::ResNet(_) | Network::Vit(_) => Ok(()),
            Network::ConvNet(_) => Err(Error::NotInMap),
        }
    }

    /// Fails unless it trains in this dtype: F32, and residual networks in BF16.
    pub fn check_train_dtype(&self, dtype: DType) -> Result<()> {
        match (self, dtype) {
            (_, DType::F32) | (Network::ResNet(_), DType::BF16) => Ok(()),
            (Network::Vit(_), DType::BF16) => Err(Error::VitDType(dtype)),
            (Network::ConvNet(_), DType::BF16) => Err(Error::ConvNetDType(dtype)),
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
    /// A plain convolutional network.
    ConvNet(ConvNet),
}

impl Backbone {
    /// Declares every tensor.
    pub fn new(network: &Network, build: &ParamBuilder) -> Result<Self> {
        Ok(match network {
            Network::ResNet(config) => Self::ResNet(ResNet::new(config, build)?),
            Network::Vit(config) => Self::Vit(VisionTransformer::new(config, build)?),
            Network::ConvNet(config) => Self::ConvNet(ConvNet::new(config, build)?),
        })
    }

    /// Fixes what evaluation would compute from the weights alone, each time anew. From then on it does not follow them.
    pub(crate) fn fix(&mut self) -> Result<()> {
        match self {
            Self::ResNet(network) => network.fix(),
            Self::ConvNet(_) | Self::Vit(_) => Ok(()),
        }
    }

    /// Images, normalised, to features. `groups` are those of [`ResNet::forward`]; a transformer has no batch statistics.
    pub fn forward(&self, x: &Tensor, mode: Mode, groups: usize) -> Result<Tensor> {
        match self {
            Self::ResNet(network) => network.forward(x, mode, groups),
            Self::Vit(network) => network.forward(x, mode),
            Self::ConvNet(network) => network.forward(x, mode, groups),
        }
    }

    /// Images, normalised, to what stands behind some layers of this network, ascending: `[n, h, w, c]` f32 each.
    pub fn maps(&self, x: &Tensor, mode: Mode, groups: usize, layers: &[Layer]) -> Result<Vec<Tensor>> {
        let at: Vec<usize> = layers.iter().map(|layer| layer.place).collect();
        match self {
            Self::ResNet(network) => network.maps(x, mode, groups, &at),
            Self::Vit(network) => network.maps(x, mode, &at),
            Self::ConvNet(network) => network.maps(x, mode, groups, &at),
        }
    }

    /// Images, normalised, to the map `[n, h, w, c]` f32 that a decoder reads: what a residual network's features are the mean of, a
    /// transformer's patches behind its last normalisation, what stands behind a plain convolutional network's last convolution. But for
    /// the latter's fc6 and fc7, every tensor of the network has a part in it.
    pub fn last_map(&self, x: &Tensor, mode: Mode, groups: usize) -> Result<Tensor> {
        match self {
            Self::ResNet(network) => network.last_map(x, mode, groups),
            Self::Vit(network) => network.last_map(x, mode),
            Self::ConvNet(network) => network.last_map(x, mode, groups),
        }
    }
}
