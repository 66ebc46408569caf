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
//! | [`resnet`], [`vit`] | residual networks, vision transformers |
//! | [`Projector`], [`Decoder`] | the heads that training adds and probing drops |
//! | [`params`] | named tensors and seeded first values |
//! | [`load_file`], [`names`] | encoders from the weight files of others, by the names that they give their tensors |
//! | [`convert`](fn@convert) | from one convention's names to another's |
//! | [`weights`] | safetensors files, and what `torch.save` writes |

#![deny(unsafe_code)]

mod arch;
mod backbone;
mod convert;
mod decoder;
mod encoder;
mod error;
mod init;
mod layers;
mod load;
pub mod names;
pub mod params;
mod positions;
mod projector;
pub mod resnet;
pub mod vit;
pub mod weights;

pub use arch::{ARCHS, Arch, arch, nearest};
pub use backbone::{Backbone, Layer, Network};
pub use convert::convert;
pub use decoder::{Decoder, halving_widths};
pub use encoder::{Colors, Encoder, Preprocessing};
pub use error::{Error, Result};
pub use init::Init;
pub use layers::{BatchNorm, Conv, ConvNorm, ConvTranspose, LayerNorm, Linear, Mode};
pub use load::{LoadOptions, Loaded, load_file};
pub use positions::resample as resample_positions;
pub use projector::{HeadNorm, Projector, ProjectorConfig};
