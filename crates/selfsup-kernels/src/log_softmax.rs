//! The logarithm of the softmax over the last dimension, and its gradient, which candle_nn's fast softmax cuts.
//!
//! With m = max x, y_i = x_i − m − ln Σ_j exp(x_j − m), and dx_i = dy_i − exp(y_i)·Σ_j dy_j.

use crate::element::{Element, View, on_fast_path, slice, with_element};
use crate::simd::vectorized;
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, D, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

const OP: &str = "log_softmax";

/// x `[.., d]` → the same shape. Any finite logits give finite results; −∞ is a class that is masked out.
/// Gradient: x.
///
/// # Errors
/// A scalar, an empty tensor, an integer dtype.
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    check::float(OP, x)?;
    if x.rank() == 0 {
        return Err(check::shape_error(OP, "x of [.., d]", x));
    }
    check::not_empty(OP, x)?;
    if !on_fast_path(x) {
        return reference(x);
    }
    Ok(x.contiguous()?.apply_op1(LogSoftmax)?)
}

/// The same in candle's operations.
fn reference(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    let lse = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    Ok(shifted.broadcast_sub(&lse)?)
}

struct LogSoftmax;

impl CustomOp1 for LogSoftmax {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let d = layout.dims()[layout.dims().len() - 1];
        let y = with_element!(x.dtype(), T => T::to_cpu_storage_owned(forward::<T>(slice(x, layout)?, d)));
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let d = x.dim(D::Minus1)?;
        let grad = grad.contiguous()?;
        let (y, grad) = (View::new(y)?, View::new(&grad)?);
        with_element!(x.dtype(), T => {
            Tensor::from_vec(backward::<T>(y.as_slice()?, grad.as_slice()?, d), x.shape(), x.device()).map(Some)
        })
    }
}

/// Sums and maxima run in this many lanes, so that they vectorise and do not depend on the vectors' width.
const LANES: usize = 16;
/// Numbers summed in T before the sum goes to f64.
const BLOCK: usize = 64 * LANES;

fn forward<T: Element>(x: &[T], d: usize) -> Vec<T> {
    let mut y = vec![T::ZERO; x.len()];
    y.par_chunks_mut(d).zip(x.par_chunks(d)).for_each(|(y, x)| {
        vectorized(
            #[inline(always)]
            || {
                let max = max(x);
                let mut sum = 0.0;
                for (y, x) in y.chunks_mut(BLOCK).zip(x.chunks(BLOCK)) {
                    for (y, x) in y.iter_mut().zip(x) {
                        *y = *x - max;
                    }
                    sum += sum_by(
                        y,
                        #[inline(always)]
                        |y| y.exp_nonpositive(),
                    );
                }
                let ln = T::from_f64(sum.ln());
                for y in y.iter_mut() {
                    *y -= ln;
                }
            },
        );
    });
    y
}

fn backward<T: Element>(y: &[T], dy: &[T], d: usize) -> Vec<T> {
    let mut dx = vec![T::ZERO; y.len()];
    dx.par_chunks_mut(d).zip(y.par_chunks(d)).zip(dy.par_chunks(d)).for_each(|((dx, y), dy)| {
        vectorized(
            #[inline(always)]
            || {
                let mut sum = 0.0;
                for dy in dy.chunks(BLOCK) {
                    sum += sum_by(
                        dy,
                        #[inline(always)]
                        |dy| dy,
                    );
                }
                let sum = T::from_f64(sum);
                for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                    *dx = *dy - y.exp_nonpositive() * sum;
                }
            },
        );
    });
    dx
}

/// Σ f(x) over a block.
#[inline(always)]
fn sum_by<T: Element>(x: &[T], f: impl Fn(T) -> T) -> f64 {
    let mut lanes = [T::ZERO; LANES];
    let chunks = x.chunks_exact(LANES);
    for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = f(*x);
    }
    for x in chunks {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane += f(*x);
        }
    }
    lanes.iter().map(|lane| lane.to_f64()).sum()
}

/// The largest number. NaN is passed over: it reaches the result by its own exponential.
#[inline(always)]
fn max<T: Element>(x: &[T]) -> T {
    let mut lanes = [x[0]; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(x[0], |a, b| if *b > a { *b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::GradCheck;
    use crate::testing::{assert_close, assert_same_bits, random, values, with_threads};
    use candle_core::{DType, Device, Var};

    /// x − ln Σ exp x in f64, which unit-sized logits allow.
    fn naive(x: &Tensor) -> Tensor {
        let d = x.dim(D::Minus1).unwrap();
        let y: Vec<f64> = values(x)
            .chunks(d)
            .flat_map(|row| {
                let lse = row.iter().map(|v| v.exp()).sum::<f64>().ln();
                row.iter().map(move |v| v - lse).collect::<Vec<_>>()
            })
            .collect();
        Tensor::from_vec(y, x.shape(), x.device()).unwrap()
    }

    #[test]
    fn values_are_those_of_the_formula() {
        for shape in [&[7][..], &[3, 5], &[4, 1], &[2, 3, 101], &[5, 2048]] {
            let x = (random(shape, 1) * 10.0).unwrap();
            assert_close(&log_softmax(&x).unwrap(), &naive(&x), 1e-13);
            assert_close(&reference(&x).unwrap(), &naive(&x), 1e-13);
            let x = x.to_dtype(DType::F32).unwrap();
            assert_close(&log_softmax(&x).unwrap(), &naive(&x), 1e-6);
        }
        let view = random((6, 5), 2).t().unwrap();
        assert_close(&log_softmax(&view).unwrap(), &naive(&view), 1e-13);
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        GradCheck::f64().check(&[random((4, 7), 1)], |t| log_softmax(&t[0])).unwrap();
        GradCheck::f64().check(&[random((4, 7), 1)], |t| log_softmax(&t[0].t().unwrap())).unwrap();
        GradCheck::f64().check(&[random((4, 7), 1)], |t| reference(&t[0])).unwrap();
    }

    #[test]
    fn extreme_logits_give_finite_results() {
        let x = Var::new(
            &[[1e4f32, -1e4, 0.0], [3e38, 3e38, -3e38], [0.0, f32::NEG_INFINITY, 0.0]],
            &Device::Cpu,
        )
        .unwrap();
        let y = log_softmax(&x).unwrap();
        let ln2 = -std::f64::consts::LN_2;
        let rows = values(&y);
        assert_eq!(rows[..3], [0.0, -2e4, -1e4]);
        assert!((rows[3] - ln2).abs() < 1e-7 && rows[5] < -3e38);
        assert_eq!(rows[7], f64::NEG_INFINITY);
        // Only the largest class's, as the loss of a classifier takes.
        let grads = y.narrow(1, 0, 1).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(values(grads.get(&x).unwrap()), [0.0, 0.0, 0.0, 0.5, -0.5, 0.0, 0.5, 0.0, -0.5]);
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let x = random((301, 77), 1).to_dtype(DType::F32).unwrap();
        let run = || log_softmax(&x).unwrap();
        assert_same_bits(&with_threads(1, run), &with_threads(3, run));
    }

    #[test]
    fn scalars_and_empty_tensors_are_refused() {
        let scalar = Tensor::new(1f32, &Device::Cpu).unwrap();
        assert!(log_softmax(&scalar).unwrap_err().to_string().contains("[.., d]"));
        let empty = Tensor::zeros((3, 0), DType::F32, &Device::Cpu).unwrap();
        assert!(log_softmax(&empty).unwrap_err().to_string().contains("at least 1"));
    }
}
