//! Vectors to unit length: y = x/max(‖x‖₂, ε) over the last dimension, without the NaN of sqrt's gradient at 0.
//!
//! Where ‖x‖ > ε, dx = (dy − y·⟨y, dy⟩)/‖x‖. Below, the divisor is the constant ε, so dx = dy/ε. At x = 0 the
//! gradient is 0: a vector without direction must not send 1/ε times a gradient into the network (PyTorch's
//! `normalize` does).

use crate::element::{Element, View, on_fast_path, slice, with_element};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, D, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

const OP: &str = "l2_normalize";

/// x `[.., d]` → the same shape, each vector of length 1 (0 stays 0). Gradient: x.
///
/// Squares are summed in f64, so that neither large nor small vectors lose their length.
///
/// # Errors
/// A scalar, an empty tensor, an integer dtype, ε ≤ 0.
pub fn l2_normalize(x: &Tensor, eps: f64) -> Result<Tensor> {
    check::float(OP, x)?;
    if x.rank() == 0 {
        return Err(check::shape_error(OP, "x of [.., d]", x));
    }
    check::not_empty(OP, x)?;
    if !(eps > 0.0 && eps.is_finite()) {
        return Err(check::parameter_error(OP, "eps", "above 0 and finite", eps));
    }
    if !on_fast_path(x) {
        return reference(x, eps);
    }
    Ok(x.contiguous()?.apply_op1(L2Normalize { eps })?)
}

/// The same in candle's operations. A zero vector's norm is replaced by 1 before the square root, and the vector
/// by itself without gradient.
fn reference(x: &Tensor, eps: f64) -> Result<Tensor> {
    let square = x.sqr()?.sum_keepdim(D::Minus1)?;
    let zero = square.eq(0.0)?;
    let norm = zero.where_cond(&square.ones_like()?, &square)?.sqrt()?;
    let short = norm.le(eps)?;
    let norm = short.where_cond(&(norm.zeros_like()? + eps)?, &norm)?;
    let y = x.broadcast_div(&norm)?;
    Ok(zero.broadcast_as(x.shape())?.where_cond(&x.detach(), &y)?)
}

struct L2Normalize {
    eps: f64,
}

impl CustomOp1 for L2Normalize {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let d = layout.dims()[layout.dims().len() - 1];
        let y = with_element!(x.dtype(), T => {
            T::to_cpu_storage_owned(forward::<T>(slice(x, layout)?, d, self.eps))
        });
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let d = x.dim(D::Minus1)?;
        let grad = grad.contiguous()?;
        let views = [View::new(x)?, View::new(y)?, View::new(&grad)?];
        with_element!(x.dtype(), T => {
            let dx = backward::<T>(views[0].as_slice()?, views[1].as_slice()?, views[2].as_slice()?, d, self.eps);
            Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
        })
    }
}

fn dot<T: Element>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64()).sum()
}

fn forward<T: Element>(x: &[T], d: usize, eps: f64) -> Vec<T> {
    let mut y = vec![T::ZERO; x.len()];
    y.par_chunks_mut(d).zip(x.par_chunks(d)).for_each(|(y, x)| {
        let scale = 1.0 / dot(x, x).sqrt().max(eps);
        for (y, x) in y.iter_mut().zip(x) {
            *y = T::from_f64(x.to_f64() * scale);
        }
    });
    y
}

fn backward<T: Element>(x: &[T], y: &[T], dy: &[T], d: usize, eps: f64) -> Vec<T> {
    let mut dx = vec![T::ZERO; x.len()];
    let rows = x.par_chunks(d).zip(y.par_chunks(d)).zip(dy.par_chunks(d));
    dx.par_chunks_mut(d).zip(rows).for_each(|(dx, ((x, y), dy))| {
        let norm = dot(x, x).sqrt();
        if norm == 0.0 {
            return;
        }
        let along = if norm > eps { dot(y, dy) } else { 0.0 };
        let scale = 1.0 / norm.max(eps);
        for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
            *dx = T::from_f64((dy.to_f64() - y.to_f64() * along) * scale);
        }
    });
    dx
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::GradCheck;
    use crate::testing::{assert_close, random, values};
    use candle_core::{DType, Device, Var};

    const EPS: f64 = 1e-12;

    #[test]
    fn lengths_are_1_and_directions_stay() {
        let x = random((5, 3, 17), 1);
        for y in [l2_normalize(&x, EPS).unwrap(), reference(&x, EPS).unwrap()] {
            for (x, y) in values(&x).chunks(17).zip(values(&y).chunks(17)) {
                let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt();
                for (x, y) in x.iter().zip(y) {
                    assert!((x / norm - y).abs() < 1e-14);
                }
            }
        }
        let view = random((17, 4), 2).t().unwrap();
        assert_close(&l2_normalize(&view, EPS).unwrap(), &reference(&view, EPS).unwrap(), 1e-14);
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let x = random((4, 6), 1);
        for eps in [EPS, 0.5, 10.0] {
            // 0.5 lies below all lengths here; 10 above, where the divisor is constant.
            GradCheck::f64().check(std::slice::from_ref(&x), |t| l2_normalize(&t[0], eps)).unwrap();
            GradCheck::f64().check(std::slice::from_ref(&x), |t| reference(&t[0], eps)).unwrap();
        }
    }

    #[test]
    fn a_zero_vector_stays_zero_and_gets_no_gradient() {
        for f in [l2_normalize, reference] {
            let x = Var::new(&[[0f32, 0.0, 0.0], [3.0, 0.0, 4.0]], &Device::Cpu).unwrap();
            let y = f(&x, EPS).unwrap();
            assert_close(&y, &Tensor::new(&[[0f32, 0.0, 0.0], [0.6, 0.0, 0.8]], &Device::Cpu).unwrap(), 1e-7);
            let grads = y.sum_all().unwrap().backward().unwrap();
            // Second row: (1 − 1.4·y)/5.
            let expected = Tensor::new(&[[0f32, 0.0, 0.0], [0.032, 0.2, -0.024]], &Device::Cpu).unwrap();
            assert_close(grads.get(&x).unwrap(), &expected, 1e-7);
        }
    }

    #[test]
    fn large_and_small_vectors_keep_their_length() {
        let x = Tensor::new(&[[3e30f32, 4e30], [3e-11, 4e-11]], &Device::Cpu).unwrap();
        let expected = Tensor::new(&[[0.6f32, 0.8], [0.6, 0.8]], &Device::Cpu).unwrap();
        assert_close(&l2_normalize(&x, EPS).unwrap(), &expected, 1e-6);
    }

    #[test]
    fn bad_parameters_are_refused() {
        let x = random((2, 3), 1);
        for eps in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(l2_normalize(&x, eps).unwrap_err().to_string().contains("eps"));
        }
        let bytes = x.to_dtype(DType::U8).unwrap();
        assert!(l2_normalize(&bytes, EPS).unwrap_err().to_string().contains("U8"));
    }
}
