//! Two-dimensional convolution (cross-correlation, as in every deep-learning library) of NHWC images.
//!
//! Dimension letters: n batch, h height, w width, c channels in, k channels out, s stride, p padding,
//! d dilation, g groups. With h' = ⌊(h + 2p − d·(kh − 1) − 1)/s⌋ + 1, and w' alike,
//!
//! y[n, i, j, k] = Σ_{a, b, c} x[n, i·s + a·d − p, j·s + b·d − p, c] · weight[a, b, c, k],
//!
//! the sum going over the c/g channels of k's group, x being 0 outside the image.

mod cpu;
mod depthwise;
mod geometry;
mod microkernel;
mod products;
mod reference;
mod taps;
mod weight_gradient;
mod winograd;

use crate::element::{Element, View, on_fast_path, slice, with_element};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor, WithDType};
use geometry::Geometry;
use pulp::Arch;

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

/// Convolves x `[n, h, w, c]` with weight `[kh, kw, c/g, k]` to `[n, h', w', k]`.
///
/// The weight is PyTorch's OIHW weight permuted by (2, 3, 1, 0). Gradients: x and weight.
///
/// # Errors
/// Shapes that do not fit each other or the groups, a kernel larger than the padded image, a stride, dilation
/// or group count of 0, tensors of different dtypes or devices.
pub fn conv2d(x: &Tensor, weight: &Tensor, config: Conv2dConfig) -> Result<Tensor> {
    check::float(OP, x)?;
    check::like(OP, "weight", x, weight)?;
    let geometry = Geometry::new(x, weight, config)?;
    if !on_fast_path(x) {
        return reference::conv2d(x, weight, &geometry);
    }
    Ok(x.contiguous()?.apply_op2(&weight.contiguous()?, Conv2d(geometry))?)
}

struct Conv2d(Geometry);

impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = with_element!(x.dtype(), T => {
            let y = cpu::forward::<T>(Arch::new(), &self.0, slice(x, x_layout)?, slice(weight, weight_layout)?);
            T::to_cpu_storage_owned(y)
        });
        Ok((y, self.0.output_shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        with_element!(x.dtype(), T => gradients::<T>(&self.0, x, weight, &grad))
    }
}

/// The gradients of those of x and weight that lead to a variable: images do not, and theirs would be half of
/// the first layer's work.
fn gradients<T: Element>(
    geometry: &Geometry,
    x: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
    let grad = View::new(grad)?;
    let grad = grad.as_slice::<T>()?;
    let dx = if x.track_op() {
        let view = View::new(weight)?;
        let dx = cpu::backward_input(Arch::new(), geometry, grad, view.as_slice()?);
        Some(Tensor::from_vec(dx, x.shape(), x.device())?)
    } else {
        None
    };
    let dweight = if weight.track_op() {
        let view = View::new(x)?;
        let dweight = cpu::backward_weight(Arch::new(), geometry, view.as_slice()?, grad);
        Some(Tensor::from_vec(dweight, weight.shape(), weight.device())?)
    } else {
        None
    };
    Ok((dx, dweight))
}

#[cfg(test)]
mod tests;
