//! Two-dimensional max pooling of NHWC images, with the gradient that candle's has wrong.
//!
//! y[n, i, j, c] = max over 0 ≤ a, b < kernel of x[n, i·s + a − p, j·s + b − p, c], places outside the image left
//! out. The gradient goes to the place of the maximum; among equals to the first in row-major order, and a NaN is
//! larger than any number (the last NaN of several), as in PyTorch.

mod cpu;
mod reference;

use crate::element::{View, slice};
use crate::stored::{is_stored, with_stored};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, WithDType};

const OP: &str = "max_pool2d";

/// The sizes of one pooling.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    out_h: usize,
    out_w: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
}

/// x `[n, h, w, c]` → `[n, h', w', c]`, h' = ⌊(h + 2p − kernel)/s⌋ + 1. Gradient: x.
///
/// # Errors
/// Other than four dimensions, one of them 0, an integer dtype, a kernel of 0 or larger than the padded image, a
/// stride of 0, a padding above half the kernel.
pub fn max_pool2d(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    check::float(OP, x)?;
    let [n, h, w, c] = check::nhwc(OP, x)?;
    for (name, value) in [("kernel", kernel), ("stride", stride)] {
        if value == 0 {
            return Err(check::parameter_error(OP, name, "at least 1", value));
        }
    }
    // A window beyond it could see no pixel.
    if padding > kernel / 2 {
        return Err(check::parameter_error(OP, "padding", "at most half the kernel", padding));
    }
    let side = |size: usize| Some((size + 2 * padding).checked_sub(kernel)? / stride + 1);
    let (Some(out_h), Some(out_w)) = (side(h), side(w)) else {
        return Err(check::shape_error(
            OP,
            format!("an image of at least {kernel} pixels a side, padded"),
            x,
        ));
    };
    let geometry = Geometry { n, h, w, c, out_h, out_w, kernel, stride, padding };
    if !is_stored(x) {
        return reference::max_pool2d(x, &geometry);
    }
    Ok(x.contiguous()?.apply_op1(MaxPool2d(geometry))?)
}

impl Geometry {
    /// The window of an output row or column i: the part of the image that it sees along a side of `size`.
    #[inline(always)]
    fn window(&self, i: usize, size: usize) -> std::ops::Range<usize> {
        let start = i * self.stride;
        start.saturating_sub(self.padding)..(start + self.kernel - self.padding).min(size)
    }
}

struct MaxPool2d(Geometry);

impl CustomOp1 for MaxPool2d {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let g = &self.0;
        let y =
            with_stored!(x.dtype(), T => T::to_cpu_storage_owned(cpu::forward::<T>(g, slice(x, layout)?)));
        Ok((y, Shape::from((g.n, g.out_h, g.out_w, g.c))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (view, grad) = (View::new(x)?, View::new(&grad)?);
        with_stored!(x.dtype(), T => {
            let dx = cpu::backward::<T>(&self.0, view.as_slice()?, grad.as_slice()?);
            Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
        })
    }
}

#[cfg(test)]
mod tests;
