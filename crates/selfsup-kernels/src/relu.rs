//! The rectifier y = max(x, 0), with gradient 0 at 0, as in PyTorch (candle's own has 1 there).

use crate::element::{Element, View, on_fast_path, slice, with_element};
use crate::simd::vectorized;
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

/// Numbers in a task.
const TASK: usize = 32 * 1024;

/// max(x, 0) for any shape; NaN stays NaN. Gradient: dy where y > 0 (or is NaN), 0 elsewhere.
///
/// # Errors
/// An integer dtype.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    check::float("relu", x)?;
    if !on_fast_path(x) {
        return reference(x);
    }
    Ok(x.contiguous()?.apply_op1(Relu)?)
}

/// The same in candle's operations. A product with a mask would make NaN of −∞ · 0.
pub(crate) fn reference(x: &Tensor) -> Result<Tensor> {
    Ok(x.le(0.0)?.where_cond(&x.zeros_like()?, x)?)
}

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = with_element!(x.dtype(), T => {
            let x = slice::<T>(x, layout)?;
            T::to_cpu_storage_owned(pass(x, x))
        });
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (y, grad) = (View::new(y)?, View::new(&grad)?);
        with_element!(x.dtype(), T => {
            Tensor::from_vec(pass::<T>(y.as_slice()?, grad.as_slice()?), x.shape(), x.device()).map(Some)
        })
    }
}

/// `values` where `gate` > 0 or is NaN, else 0.
fn pass<T: Element>(gate: &[T], values: &[T]) -> Vec<T> {
    let mut out = vec![T::ZERO; values.len()];
    out.par_chunks_mut(TASK).zip(gate.par_chunks(TASK)).zip(values.par_chunks(TASK)).for_each(
        |((out, gate), values)| {
            vectorized(
                #[inline(always)]
                || {
                    for ((out, gate), value) in out.iter_mut().zip(gate).zip(values) {
                        *out = if *gate <= T::ZERO { T::ZERO } else { *value };
                    }
                },
            );
        },
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::GradCheck;
    use crate::testing::{assert_same_bits, random, values};
    use candle_core::{DType, Device, Var};

    #[test]
    fn the_gradient_is_0_at_0() {
        for f in [relu, reference] {
            let x =
                Var::new(&[-1f32, 0.0, -0.0, 2.0, f32::NEG_INFINITY, f32::INFINITY], &Device::Cpu).unwrap();
            let y = f(&x).unwrap();
            assert_eq!(values(&y), [0.0, 0.0, 0.0, 2.0, 0.0, f64::INFINITY]);
            let grads = y.sum_all().unwrap().backward().unwrap();
            assert_eq!(values(grads.get(&x).unwrap()), [0.0, 0.0, 0.0, 1.0, 0.0, 1.0]);
            assert!(values(&f(&Tensor::new(f32::NAN, &Device::Cpu).unwrap()).unwrap())[0].is_nan());
        }
    }

    #[test]
    fn any_size_and_layout() {
        let x = random((3, 40_001), 1).t().unwrap();
        assert_same_bits(&relu(&x).unwrap(), &reference(&x.contiguous().unwrap()).unwrap());
        GradCheck::f64().check(&[random((3, 5), 2)], |t| relu(&t[0].t().unwrap())).unwrap();
    }

    #[test]
    fn integers_are_refused() {
        let x = Tensor::zeros(3, DType::U8, &Device::Cpu).unwrap();
        assert!(relu(&x).unwrap_err().to_string().contains("U8"));
    }
}
