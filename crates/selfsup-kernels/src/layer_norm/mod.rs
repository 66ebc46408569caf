//! Layer normalisation over the last dimension (Ba, Kiros & Hinton 2016, arXiv:1607.06450, eq. 4).
//!
//! Dimension letters: c numbers a row. For each row, with μ and σ² its mean and biased variance and s = 1/√(σ² + ε),
//!
//! ```text
//! x̂ = (x − μ)·s        y = x̂·γ + β
//! dγ = Σ dy·x̂          dβ = Σ dy          (over the rows)
//! dx = s·(g − mean(g) − x̂·mean(g·x̂)),     g = dy·γ, means over the row
//! ```

mod cpu;

use crate::element::{View, on_fast_path, slice, with_element};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Shape, Tensor, WithDType};

const OP: &str = "layer_norm";

/// Normalises each row of x `[.., c]`; weight γ and bias β `[c]`. Gradients: x, weight and bias.
///
/// Variances are summed as differences from the row's mean, whose rounding is corrected, so that a mean far above the
/// deviation does no harm. A row of equal numbers gives β. Any c from 1.
///
/// # Errors
/// A scalar, an empty tensor, an integer dtype, weight or bias of another shape, dtype or device, ε ≤ 0.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    check::float(OP, x)?;
    let Some(&c) = x.dims().last() else {
        return Err(check::shape_error(OP, "x of [.., c]", x));
    };
    check::not_empty(OP, x)?;
    for (name, tensor) in [("weight", weight), ("bias", bias)] {
        check::like(OP, name, x, tensor)?;
        if tensor.dims() != [c] {
            return Err(check::shape_error(OP, format!("{name} of [{c}], x's last dimension"), tensor));
        }
    }
    check::eps(OP, eps)?;
    if !on_fast_path(x) {
        return reference(x, weight, bias, eps);
    }
    Ok(x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, LayerNorm { eps })?)
}

/// The same in candle's operations, in f32 where x is narrower.
fn reference(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let x = x.to_dtype(wide)?;
    let difference = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let std = (difference.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let y = difference.broadcast_div(&std)?.broadcast_mul(&weight.to_dtype(wide)?)?;
    Ok(y.broadcast_add(&bias.to_dtype(wide)?)?.to_dtype(dtype)?)
}

struct LayerNorm {
    eps: f64,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = with_element!(x.dtype(), T => {
            let (weight, bias) = (slice::<T>(weight, weight_layout)?, slice(bias, bias_layout)?);
            T::to_cpu_storage_owned(cpu::forward(slice(x, x_layout)?, weight, bias, self.eps))
        });
        Ok((y, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let views = [View::new(x)?, View::new(weight)?, View::new(&grad)?];
        let (dx, dweight, dbias) = with_element!(x.dtype(), T => {
            let (x_data, dy) = (views[0].as_slice::<T>()?, views[2].as_slice()?);
            let (dx, dweight, dbias) = cpu::backward(x_data, views[1].as_slice()?, dy, self.eps);
            let channels = |d: Vec<f64>| {
                Tensor::from_vec(d.into_iter().map(T::from_f64).collect::<Vec<T>>(), weight.shape(), x.device())
            };
            (Tensor::from_vec(dx, x.shape(), x.device())?, channels(dweight)?, channels(dbias)?)
        });
        // A gradient that leads to no variable would be added to zeros for nothing.
        let tracked = |tensor: &Tensor, gradient| tensor.track_op().then_some(gradient);
        Ok((tracked(x, dx), tracked(weight, dweight), tracked(bias, dbias)))
    }
}

#[cfg(test)]
mod tests;
