//! Differentiable tensor operations that candle lacks, or has slow or wrong.
//!
//! Images are NHWC: `[n, h, w, c]`. Every operation takes any layout (a view that is not contiguous is copied
//! first), checks shapes, dtypes and parameters before it works, and has a gradient for each tensor that needs
//! one. On the CPU, f32 and f64 run in code of this crate, and bf16 in [`conv2d`], [`max_pool2d`] and
//! [`residual_blocks_train`]; other devices and dtypes run in
//! candle's own operations, which are also the tests' oracle. Features add code for CUDA: `cuda` for [`info_nce`], `cudnn` for
//! [`conv2d`]. Results have the same bits for any number of threads.
//!
//! With the feature `metal`, the fused losses of [`info_nce`] have kernels for Apple GPUs; all else runs in candle's
//! operations there. **No Apple GPU has run these kernels yet.** The tests compile the shader as C++, launch it by the
//! crate's own launch code with every GPU thread as a fiber on the CPU, and hold loss and gradients against f64; what
//! they cannot show is that Metal's compiler takes the shader, that candle's encoder is used rightly, or its speed.
//!
//! ```
//! use candle_core::{DType, Device, Tensor, Var};
//! use selfsup_kernels::{BatchNormConfig, Conv2dConfig, batch_norm_train, conv2d, global_avg_pool};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let images = Tensor::rand(0f32, 1.0, (4, 32, 32, 3), &Device::Cpu)?;
//! let weight = Var::randn(0f32, 0.1, (3, 3, 3, 16), &Device::Cpu)?;
//! let (gamma, beta) = (Var::ones(16, DType::F32, &Device::Cpu)?, Var::zeros(16, DType::F32, &Device::Cpu)?);
//!
//! let x = conv2d(&images, &weight, Conv2dConfig { stride: 2, padding: 1, ..Default::default() })?;
//! let x = batch_norm_train(&x, &gamma, &beta, None, BatchNormConfig { relu: true, ..Default::default() })?.y;
//! let features = global_avg_pool(&x)?;
//! assert_eq!(features.dims(), [4, 16]);
//!
//! let gradients = features.sum_all()?.backward()?;
//! assert_eq!(gradients.get(&weight).expect("the weight has a gradient").dims(), [3, 3, 3, 16]);
//! # Ok(())
//! # }
//! ```

mod avg_pool2d;
mod batch_norm;
mod check;
mod conv2d;
mod element;
mod error;
mod gelu;
mod global_avg_pool;
pub mod gradcheck;
pub mod info_nce;
mod l2_normalize;
mod lab;
mod lanes;
mod layer_norm;
mod linear;
mod matmul;
mod max_pool2d;
mod normalize_u8;
mod output;
mod relu;
mod residual;
mod resize_bilinear;
mod scratch;
mod simd;
mod softmax;
mod stored;
#[cfg(test)]
mod testing;
mod ties;

pub use avg_pool2d::{AvgPool2dConfig, avg_pool2d};
pub use batch_norm::{BatchNormConfig, BatchNormOutput, batch_norm_eval, batch_norm_train};
pub use conv2d::{Conv2dConfig, Epilogue, FixedConv2d, conv_transpose2d, conv2d, conv2d_with};
pub use error::{Error, Result};
pub use gelu::{Gelu, gelu};
pub use global_avg_pool::global_avg_pool;
pub use l2_normalize::l2_normalize;
pub use lab::{lab_to_rgb, rgb_to_lab};
pub use layer_norm::layer_norm;
pub use linear::{Activation, linear};
pub use max_pool2d::max_pool2d;
pub use normalize_u8::normalize_u8;
pub use relu::relu;
pub use residual::{
    ConvNorm, LayerStatistics, ResidualBlock, ResidualOutput, Shortcut, residual_blocks_train,
};
pub use resize_bilinear::resize_bilinear;
pub use softmax::{log_softmax, softmax};
