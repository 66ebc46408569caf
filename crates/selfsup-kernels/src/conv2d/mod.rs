//! Two-dimensional convolution (cross-correlation, as in every deep-learning library) of NHWC images.
//!
//! Dimension letters: n batch, h height, w width, c channels in, k channels out, s stride, p padding,
//! d dilation, g groups. With h' = ⌊(h + 2p − d·(kh − 1) − 1)/s⌋ + 1, and w' alike,
//!
//! y[n, i, j, k] = Σ_{a, b, c} x[n, i·s + a·d − p, j·s + b·d − p, c] · weight[a, b, c, k],
//!
//! the sum going over the c/g channels of k's group, x being 0 outside the image.

mod bfloat;
pub(crate) mod cpu;
#[cfg(feature = "cudnn")]
mod cuda;
mod depthwise;
mod depthwise_weight;
mod few_pixels;
mod fixed;
mod geometry;
mod microkernel;
mod number;
mod packed;
mod products;
mod reference;
mod taps;
mod transposed;
mod weight_gradient;
mod winograd;

use crate::element::{View, slice};
use crate::stored::{is_stored, with_stored};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};
pub use fixed::FixedConv2d;
pub(crate) use geometry::Geometry;
pub(crate) use number::Number;
pub use transposed::conv_transpose2d;

const OP: &str = "conv2d";

/// The parameters of a convolution, the same for height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Pixels from one window to the next; at least 1.
    pub stride: usize,
    /// Zero pixels added on each side.
    pub padding: usize,
    /// Pixels from one tap of the kernel to the next; at least 1.
    pub dilation: usize,
    /// Groups of channels that do not see each other; must divide c and k. g = c is a depthwise convolution.
    pub groups: usize,
}

impl Default for Conv2dConfig {
    /// Stride 1, no padding, dilation 1, one group.
    fn default() -> Self {
        Self { stride: 1, padding: 0, dilation: 1, groups: 1 }
    }
}

/// What is done to a convolution's sums while they are still in registers: y = act(sum + bias + residual).
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added to each pixel, `[k]`.
    pub bias: Option<&'a Tensor>,
    /// Added, of y's shape.
    pub residual: Option<&'a Tensor>,
    /// Whether act is ReLU, whose gradient at 0 is 0, or nothing.
    pub relu: bool,
}

impl Epilogue<'_> {
    /// The same as operations of their own.
    fn apply(self, sum: &Tensor) -> Result<Tensor> {
        let mut y = sum.clone();
        if let Some(bias) = self.bias {
            y = y.broadcast_add(bias)?;
        }
        if let Some(residual) = self.residual {
            y = (y + residual)?;
        }
        if self.relu { crate::relu(&y) } else { Ok(y) }
    }
}

/// Convolves x `[n, h, w, c]` with weight `[kh, kw, c/g, k]` to `[n, h', w', k]`.
///
/// The weight is PyTorch's OIHW weight permuted by (2, 3, 1, 0). Gradients: x and weight. With the `cudnn` feature
/// f32, f16 and bf16 run by cuDNN on a CUDA device, sums and f32's products in f32 without TF32; this has not yet
/// been run on a GPU.
///
/// On the CPU, 3×3 convolutions of stride 1 with at least 16 channels in and out go by Winograd's minimal filtering
/// (Lavin & Gray 2016), whose rounding errors are up to three times the plain sum's; there an infinity in x makes NaN
/// of the up to four outputs of its 2×2 tile.
///
/// bf16 on the CPU is summed in f32 (the weight's gradient over the whole batch) and rounded once, to the nearest even.
/// A processor with AVX512-BF16 takes products of at least 16 channels of a group, in and out, by pairs, in plain sums, and
/// bf16 numbers below 2⁻¹²⁶, the subnormal ones, for 0; elsewhere f32's convolution is rounded.
///
/// # Errors
/// Shapes that do not fit each other or the groups, a kernel larger than the padded image, a stride, dilation
/// or group count of 0, tensors of different dtypes or devices.
pub fn conv2d(x: &Tensor, weight: &Tensor, config: Conv2dConfig) -> Result<Tensor> {
    conv2d_with(x, weight, Epilogue::default(), config)
}

/// [`conv2d`], then bias, residual and ReLU in the same pass.
///
/// With g = dy where act passes it and 0 elsewhere, the gradients are dbias = Σ g over pixels, dresidual = g, and
/// those of x and weight from g.
///
/// # Errors
/// Those of [`conv2d`], a bias that is not `[k]`, a residual that has not y's shape.
pub fn conv2d_with(
    x: &Tensor,
    weight: &Tensor,
    epilogue: Epilogue<'_>,
    config: Conv2dConfig,
) -> Result<Tensor> {
    let geometry = checked(x, weight, epilogue, config)?;
    let Epilogue { bias, residual, relu } = epilogue;
    #[cfg(feature = "cudnn")]
    if cuda::takes(x, weight, &geometry) {
        return epilogue.apply(&cuda::conv2d(x, weight, &geometry)?);
    }
    if !is_stored(x) {
        return epilogue.apply(&reference::conv2d(x, weight, &geometry)?);
    }
    // candle's custom ops take at most three tensors: the bias comes behind the weight.
    let params = match bias {
        Some(bias) => Tensor::cat(&[&weight.flatten_all()?, bias], 0)?,
        None => weight.contiguous()?,
    };
    let op = Conv2d { geometry, bias: bias.is_some(), relu };
    let x = x.contiguous()?;
    Ok(match residual {
        Some(residual) => x.apply_op3(&params, &residual.contiguous()?, op)?,
        None => x.apply_op2(&params, op)?,
    })
}

/// The sizes, if all tensors fit each other.
fn checked(x: &Tensor, weight: &Tensor, epilogue: Epilogue<'_>, config: Conv2dConfig) -> Result<Geometry> {
    check::float(OP, x)?;
    check::like(OP, "weight", x, weight)?;
    let geometry = Geometry::new(x, weight, config)?;
    let Epilogue { bias, residual, .. } = epilogue;
    if let Some(bias) = bias {
        check::like(OP, "bias", x, bias)?;
        if bias.dims() != [geometry.k] {
            return Err(check::shape_error(OP, format!("bias of [{}], y's channels", geometry.k), bias));
        }
    }
    if let Some(residual) = residual {
        check::like(OP, "residual", x, residual)?;
        if residual.dims() != geometry.output_shape().dims() {
            let expected = format!("residual of y's shape {:?}", geometry.output_shape().dims());
            return Err(check::shape_error(OP, expected, residual));
        }
    }
    Ok(geometry)
}

struct Conv2d {
    geometry: Geometry,
    bias: bool,
    relu: bool,
}

impl Conv2d {
    fn forward<T: Number>(&self, x: &[T], params: &[T], residual: Option<&[T]>) -> CpuStorage {
        let (weight, bias) = params.split_at(self.geometry.weights());
        let finish = cpu::Finish { bias: self.bias.then_some(bias), residual, relu: self.relu };
        T::to_cpu_storage_owned(T::forward(&self.geometry, x, weight, finish))
    }

    /// The gradients of those of x, weight and bias, and residual that lead to a variable: images do not, and
    /// theirs would be half of the first layer's work.
    fn backward<T: Number>(
        &self,
        [x, params, y, dy]: [&Tensor; 4],
        residual: Option<&Tensor>,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let g = &self.geometry;
        let dy = dy.contiguous()?;
        let gated = if self.relu {
            let (y, dy) = (View::new(y)?, View::new(&dy)?);
            let gated = cpu::gated::<T>(y.as_slice()?, dy.as_slice()?);
            Some(Tensor::from_vec(gated, g.output_shape(), x.device())?)
        } else {
            None
        };
        let dy = gated.unwrap_or(dy);
        let view = View::new(&dy)?;
        let grad = view.as_slice::<T>()?;
        let (x_view, params_view) = (View::new(x)?, View::new(params)?);
        let dx = x.track_op().then(|| -> candle_core::Result<_> {
            let weight = &params_view.as_slice::<T>()?[..g.weights()];
            Tensor::from_vec(T::backward_input(g, grad, weight), x.shape(), x.device())
        });
        let dparams = params.track_op().then(|| -> candle_core::Result<_> {
            let mut dparams = T::backward_weight(g, x_view.as_slice()?, grad);
            if self.bias {
                dparams.extend(cpu::column_sums(grad, g.k));
            }
            Tensor::from_vec(T::narrowed(dparams.into()).into_owned(), params.shape(), x.device())
        });
        let dresidual = residual.is_some_and(Tensor::track_op).then(|| dy.clone());
        Ok((dx.transpose()?, dparams.transpose()?, dresidual))
    }
}

impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        params: &CpuStorage,
        params_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = with_stored!(x.dtype(), T => {
            self.forward::<T>(slice(x, x_layout)?, slice(params, params_layout)?, None)
        });
        Ok((y, self.geometry.output_shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        params: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dparams, _) = with_stored!(x.dtype(), T => self.backward::<T>([x, params, y, dy], None))?;
        Ok((dx, dparams))
    }
}

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        params: &CpuStorage,
        params_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = with_stored!(x.dtype(), T => {
            let residual = slice::<T>(residual, residual_layout)?;
            self.forward(slice(x, x_layout)?, slice(params, params_layout)?, Some(residual))
        });
        Ok((y, self.geometry.output_shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        params: &Tensor,
        residual: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        with_stored!(x.dtype(), T => self.backward::<T>([x, params, y, dy], Some(residual)))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_bf16;
#[cfg(test)]
mod tests_golden;
#[cfg(test)]
mod tests_paths;
