//! Encoders and projection heads, initialised from a seed, saved under torchvision's names.
//!
//! Images are NHWC from the decoder to the last pooling layer, and so are the weights in memory; files hold
//! OIHW convolutions under torchvision's names, so PyTorch reads ours and we read its.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use selfsup_models::{Encoder, Mode, Preprocessing, arch};
//!
//! # fn main() -> selfsup_models::Result<()> {
//! let preprocessing = Preprocessing::rgb(32, [0.5; 3], [0.25; 3]);
//! let encoder = Encoder::untrained(arch("resnet10-narrow-cifar")?, preprocessing, 0, &Device::Cpu)?;
//! let images = Tensor::zeros((2, 32, 32, 3), DType::U8, &Device::Cpu)?;
//! let features = encoder.forward(&images, Mode::Eval)?;
//! assert_eq!(features.dims(), [2, encoder.feature_dim()]);
//! # Ok(())
//! # }
//! ```
//!
//! | file | subject |
//! |---|---|
//! | [`arch`](fn@arch) | the architectures by name |
//! | [`Encoder`] | a backbone with weights and input preparation, to and from a file |
//! | [`resnet`], [`vit`], [`convnet`] | residual networks, vision transformers, AlexNet and VGG |
//! | [`Projector`], [`Decoder`] | the heads that training adds and probing drops |
//! | [`params`] | named tensors and seeded first values |
//! | [`fn@load`], [`load_file`], [`names`] | encoders from the weight files of others, by the names that they give their tensors |
//! | [`Classifier`] | the layer behind the features that such a file ends with |
//! | [`convert`](fn@convert) | from one convention's names to another's |
//! | [`hub`] | from the Hugging Face hub (feature `hub`, which is on) |
//! | [`publish`] | encoders as timm and transformers load them |
//! | [`weights`] | safetensors files, what `torch.save` writes, and Keras models as TensorFlow.js ships them |

#![deny(unsafe_code)]

mod adaptive_pool;
mod arch;
mod backbone;
mod classifier;
mod convert;
pub mod convnet;
mod decoder;
mod encoder;
mod error;
#[cfg(feature = "hub")]
pub mod hub;
mod init;
mod keras;
mod layers;
mod load;
pub mod names;
pub mod params;
mod positions;
mod preprocessing;
mod projector;
pub mod publish;
mod published;
pub mod resnet;
pub mod vit;
pub mod weights;
mod which_arch;

pub use arch::{ARCHS, Arch, arch, nearest};
pub use backbone::{Backbone, Layer, Network};
pub use classifier::Classifier;
pub use convert::{convert, convert_file};
pub use decoder::{Decoder, halving_widths};
pub use encoder::Encoder;
pub use error::{Error, Result};
pub use init::Init;
pub use layers::{BatchNorm, Conv, ConvNorm, ConvTranspose, LayerNorm, Linear, Mode};
pub use load::{LoadOptions, Loaded, load, load_file, locate};
pub use positions::resample as resample_positions;
pub use preprocessing::{Colors, CropMode, Interpolation, Preprocessing};
pub use projector::{HeadNorm, Projector, ProjectorConfig};
