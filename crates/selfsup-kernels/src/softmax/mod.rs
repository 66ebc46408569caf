//! The softmax over the last dimension and its logarithm, with the gradients that candle_nn's fast softmax cuts.
//!
//! With m = max x and s = Σ_j exp(x_j − m):
//!
//! ```text
//! softmax      y_i = exp(x_i − m)/s          dx_i = y_i·(dy_i − Σ_j dy_j·y_j)
//! log-softmax  y_i = x_i − m − ln s          dx_i = dy_i − exp(y_i)·Σ_j dy_j
//! ```

mod cpu;

use crate::element::{View, on_fast_path, slice, with_element};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, D, Layout, Shape, Tensor, WithDType};

/// exp(xᵢ)/Σ exp(xⱼ): x `[.., d]` → the same shape. Any finite logits give finite results; −∞ is a class that is
/// masked out, with probability 0. A row of nothing else gives NaN. Gradient: x.
///
/// # Errors
/// A scalar, an empty tensor, an integer dtype.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    apply(Softmax { log: false }, x)
}

/// xᵢ − ln Σ exp(xⱼ): x `[.., d]` → the same shape. Any finite logits give finite results; −∞ is a class that is
/// masked out. Gradient: x.
///
/// # Errors
/// A scalar, an empty tensor, an integer dtype.
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    apply(Softmax { log: true }, x)
}

fn apply(op: Softmax, x: &Tensor) -> Result<Tensor> {
    check::float(op.name(), x)?;
    if x.rank() == 0 {
        return Err(check::shape_error(op.name(), "x of [.., d]", x));
    }
    check::not_empty(op.name(), x)?;
    if !on_fast_path(x) {
        return reference(&op, x);
    }
    Ok(x.contiguous()?.apply_op1(op)?)
}

/// The same in candle's operations.
fn reference(op: &Softmax, x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    let exp = shifted.exp()?;
    let sum = exp.sum_keepdim(D::Minus1)?;
    Ok(if op.log { shifted.broadcast_sub(&sum.log()?)? } else { exp.broadcast_div(&sum)? })
}

struct Softmax {
    /// Whether the logarithm is taken.
    log: bool,
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let d = layout.dims()[layout.dims().len() - 1];
        let y = with_element!(x.dtype(), T => {
            let x = slice::<T>(x, layout)?;
            T::to_cpu_storage_owned(if self.log { cpu::log_softmax(x, d) } else { cpu::softmax(x, d) })
        });
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let d = x.dim(D::Minus1)?;
        let grad = grad.contiguous()?;
        let (y, grad) = (View::new(y)?, View::new(&grad)?);
        with_element!(x.dtype(), T => {
            let (y, dy) = (y.as_slice::<T>()?, grad.as_slice()?);
            let dx = if self.log { cpu::log_softmax_backward(y, dy, d) } else { cpu::softmax_backward(y, dy, d) };
            Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
        })
    }
}

#[cfg(test)]
mod tests;
