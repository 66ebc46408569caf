//! An affine map with an activation: y = act(x·Wᵀ + b), one operation, as in PyTorch's `Linear`.
//!
//! Dimension letters: n rows (the product of x's leading dimensions), c features in, k features out. With z = x·Wᵀ + b
//! and dz = dy·act'(z), the gradients are dx = dz·W, dW = dzᵀ·x and db = Σ dz over the rows.

mod cpu;

use crate::element::{View, on_fast_path, slice, with_element};
use crate::gelu::{self, Gelu};
use crate::{Result, check, relu};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Shape, Tensor, WithDType};
use std::sync::OnceLock;

const OP: &str = "linear";

/// What follows an affine map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// max(z, 0), with gradient 0 at 0.
    Relu,
    /// One of the Gaussian error linear units.
    Gelu(Gelu),
}

/// x `[.., c]`, weight `[k, c]` as in PyTorch, bias `[k]` → `[.., k]`. Gradients: x, weight and bias, each only where a
/// variable is behind it.
///
/// Bias and activation are applied to a tile of the product while it lies in the cache. GELU keeps z for the backward
/// pass, ReLU needs y alone.
///
/// # Errors
/// A scalar, an empty tensor, an integer dtype, weight or bias of another shape, dtype or device.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
    check::float(OP, x)?;
    let Some(&c) = x.dims().last() else {
        return Err(check::shape_error(OP, "x of [.., c]", x));
    };
    check::not_empty(OP, x)?;
    check::like(OP, "weight", x, weight)?;
    let k = match *weight.dims() {
        [k, width] if k > 0 && width == c => k,
        _ => return Err(check::shape_error(OP, format!("weight of [k, {c}] with k ≥ 1"), weight)),
    };
    if let Some(bias) = bias {
        check::like(OP, "bias", x, bias)?;
        if bias.dims() != [k] {
            return Err(check::shape_error(OP, format!("bias of [{k}], the weight's rows"), bias));
        }
    }
    if !on_fast_path(x) {
        return reference(x, weight, bias, activation);
    }
    let tracked = [Some(x), Some(weight), bias].into_iter().flatten().any(Tensor::track_op);
    let op = Linear { c, k, activation, keep: tracked, kept: OnceLock::new() };
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    Ok(match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op)?,
        None => x.apply_op2(&weight, op)?,
    })
}

/// The same in candle's operations. On the CPU, bf16 and f16 run in f32.
fn reference(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
    let dtype = x.dtype();
    let widened = x.device().is_cpu() && dtype != DType::F64;
    let wide = |t: &Tensor| if widened { t.to_dtype(DType::F32) } else { Ok(t.clone()) };
    let (k, c) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    shape[x.rank() - 1] = k;
    let mut z = wide(x)?.reshape(((), c))?.matmul(&wide(weight)?.t()?)?;
    if let Some(bias) = bias {
        z = z.broadcast_add(&wide(bias)?)?;
    }
    let y = match activation {
        Activation::None => z,
        Activation::Relu => relu::reference(&z)?,
        Activation::Gelu(kind) => gelu::reference(&z, kind)?,
    };
    Ok(y.reshape(shape)?.to_dtype(dtype)?)
}

struct Linear {
    c: usize,
    k: usize,
    activation: Activation,
    /// Whether a backward pass may come, so that z is worth its memory.
    keep: bool,
    /// GELU's z.
    kept: OnceLock<CpuStorage>,
}

/// The gradients of x, weight and bias.
type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl Linear {
    fn forward(
        &self,
        (x, x_layout): (&CpuStorage, &Layout),
        (weight, weight_layout): (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut shape = x_layout.dims().to_vec();
        shape[x_layout.dims().len() - 1] = self.k;
        let y = with_element!(x.dtype(), T => {
            let bias = bias.map(|(bias, layout)| slice::<T>(bias, layout)).transpose()?;
            let (x, weight) = (slice::<T>(x, x_layout)?, slice(weight, weight_layout)?);
            let (y, z) = cpu::forward(x, weight, bias, self.c, self.activation, self.keep);
            if let Some(z) = z {
                self.kept.get_or_init(|| T::to_cpu_storage_owned(z));
            }
            T::to_cpu_storage_owned(y)
        });
        Ok((y, Shape::from(shape)))
    }

    fn backward(&self, [x, weight, y, grad]: [&Tensor; 4], bias: bool) -> candle_core::Result<Gradients> {
        let grad = grad.contiguous()?;
        let views = [View::new(x)?, View::new(weight)?, View::new(y)?, View::new(&grad)?];
        with_element!(x.dtype(), T => {
            let gate = match (self.activation, self.kept.get()) {
                (Activation::None, _) => None,
                (_, Some(z)) => Some(T::cpu_storage_as_slice(z)?),
                (_, None) => Some(views[2].as_slice()?),
            };
            let (dz, sums) = cpu::activation_backward::<T>(views[3].as_slice()?, gate, self.activation, self.k, bias);
            let like = |values: Vec<T>, other: &Tensor| Tensor::from_vec(values, other.shape(), other.device());
            let dx = match x.track_op() {
                true => Some(like(cpu::input_backward(&dz, views[1].as_slice()?, self.c), x)?),
                false => None,
            };
            let dweight = match weight.track_op() {
                true => Some(like(cpu::weight_backward(&dz, views[0].as_slice()?, self.c), weight)?),
                false => None,
            };
            let dbias = match bias {
                true => Some(Tensor::from_vec(sums, self.k, x.device())?),
                false => None,
            };
            Ok((dx, dweight, dbias))
        })
    }
}

impl CustomOp2 for Linear {
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
        self.forward((x, x_layout), (weight, weight_layout), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dweight, _) = self.backward([x, weight, y, grad], false)?;
        Ok((dx, dweight))
    }
}

impl CustomOp3 for Linear {
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
        self.forward((x, x_layout), (weight, weight_layout), Some((bias, bias_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Gradients> {
        self.backward([x, weight, y, grad], bias.track_op())
    }
}

#[cfg(test)]
mod tests;
