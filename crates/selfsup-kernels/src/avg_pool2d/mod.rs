//! Two-dimensional average pooling of NHWC images, as `torch.nn.functional.avg_pool2d`.
//!
//! y[n, i, j, c] = 1/m(i, j) Σ over 0 ≤ a, b < kernel of x[n, i·s + a − p, j·s + b − p, c], places outside the image
//! left out. m(i, j) is kernel² where the padding counts, and else the number of places inside. The gradient is the
//! same sum the other way: each pixel gets dy/m of every window that it is in.

mod cpu;

use crate::element::{View, on_fast_path, slice, with_element};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor, WithDType};
use std::ops::Range;

const OP: &str = "avg_pool2d";

/// How windows lie on the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AvgPool2dConfig {
    /// Side of a window; at least 1.
    pub kernel: usize,
    /// Distance from one window to the next; at least 1. Below the kernel, windows overlap.
    pub stride: usize,
    /// Zeros around the image on each side; at most half the kernel.
    pub padding: usize,
    /// Whether zeros of the padding count in a window's mean.
    pub count_include_pad: bool,
}

impl AvgPool2dConfig {
    /// Windows side by side, as PyTorch's defaults: the stride is the kernel, no padding (which would count).
    pub fn new(kernel: usize) -> Self {
        Self { kernel, stride: kernel, padding: 0, count_include_pad: true }
    }
}

/// x `[n, h, w, c]` → `[n, h', w', c]`, h' = ⌊(h + 2p − kernel)/s⌋ + 1. Gradient: x.
///
/// # Errors
/// Other than four dimensions, one of them 0, an integer dtype, a kernel of 0 or larger than the padded image, a
/// stride of 0, a padding above half the kernel.
pub fn avg_pool2d(x: &Tensor, config: AvgPool2dConfig) -> Result<Tensor> {
    check::float(OP, x)?;
    let [n, h, w, c] = check::nhwc(OP, x)?;
    let AvgPool2dConfig { kernel, stride, padding, .. } = config;
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
        let expected = format!("an image of at least {kernel} pixels a side, padded");
        return Err(check::shape_error(OP, expected, x));
    };
    let geometry = Geometry { n, h, w, c, out_h, out_w, config };
    if !on_fast_path(x) {
        return reference(x, &geometry);
    }
    Ok(x.contiguous()?.apply_op1(AvgPool2d(geometry))?)
}

/// The sizes of one pooling.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    out_h: usize,
    out_w: usize,
    config: AvgPool2dConfig,
}

impl Geometry {
    /// The part of a side of `size` that window i sees.
    #[inline(always)]
    fn window(&self, i: usize, size: usize) -> Range<usize> {
        let AvgPool2dConfig { kernel, stride, padding, .. } = self.config;
        let start = i * stride;
        start.saturating_sub(padding)..(start + kernel - padding).min(size)
    }

    /// The windows, of `out` along a side, that see place i.
    #[inline(always)]
    fn windows_at(&self, i: usize, out: usize) -> Range<usize> {
        let AvgPool2dConfig { kernel, stride, padding, .. } = self.config;
        (i + padding + 1).saturating_sub(kernel).div_ceil(stride)..((i + padding) / stride + 1).min(out)
    }

    /// What window i's sum along a side of `size` is multiplied by: m(i, j) is a product of the two sides' counts.
    #[inline(always)]
    fn share(&self, i: usize, size: usize) -> f64 {
        let AvgPool2dConfig { kernel, count_include_pad, .. } = self.config;
        1.0 / if count_include_pad { kernel } else { self.window(i, size).len() } as f64
    }
}

/// The same in candle's operations: a product with a matrix of shares along each side. bf16 and f16 run in f32.
fn reference(x: &Tensor, g: &Geometry) -> Result<Tensor> {
    let dtype = x.dtype();
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let matrix = |out: usize, size: usize| -> candle_core::Result<Tensor> {
        let mut shares = vec![0f64; out * size];
        for i in 0..out {
            shares[i * size..][g.window(i, size)].fill(g.share(i, size));
        }
        Tensor::from_vec(shares, (1, out, size), x.device())?.to_dtype(wide)
    };
    let rows = x.to_dtype(wide)?.reshape((g.n, g.h, g.w * g.c))?;
    let rows = matrix(g.out_h, g.h)?.broadcast_matmul(&rows)?.reshape((g.n * g.out_h, g.w, g.c))?;
    let y = matrix(g.out_w, g.w)?.broadcast_matmul(&rows)?;
    Ok(y.reshape((g.n, g.out_h, g.out_w, g.c))?.to_dtype(dtype)?)
}

struct AvgPool2d(Geometry);

impl CustomOp1 for AvgPool2d {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let g = &self.0;
        let y =
            with_element!(x.dtype(), T => T::to_cpu_storage_owned(cpu::forward::<T>(g, slice(x, layout)?)));
        Ok((y, Shape::from((g.n, g.out_h, g.out_w, g.c))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let grad = View::new(&grad)?;
        with_element!(x.dtype(), T => {
            Tensor::from_vec(cpu::backward::<T>(&self.0, grad.as_slice()?), x.shape(), x.device()).map(Some)
        })
    }
}

#[cfg(test)]
mod tests;
