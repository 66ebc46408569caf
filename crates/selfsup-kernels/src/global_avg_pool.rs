//! The mean over an image's pixels: y[n, c] = 1/(h·w) Σ_{i, j} x[n, i, j, c].

use crate::element::{Element, View, on_fast_path, slice, with_element};
use crate::simd::vectorized;
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

const OP: &str = "global_avg_pool";

/// x `[n, h, w, c]` → `[n, c]`. Gradient: dy/(h·w) to each pixel.
///
/// # Errors
/// Other than four dimensions, one of them 0, an integer dtype.
pub fn global_avg_pool(x: &Tensor) -> Result<Tensor> {
    check::float(OP, x)?;
    check::nhwc(OP, x)?;
    if !on_fast_path(x) {
        return reference(x);
    }
    Ok(x.contiguous()?.apply_op1(GlobalAvgPool)?)
}

/// The same in candle's operations.
fn reference(x: &Tensor) -> Result<Tensor> {
    Ok(x.mean((1, 2))?)
}

struct GlobalAvgPool;

impl CustomOp1 for GlobalAvgPool {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (n, h, w, c) = layout.shape().dims4()?;
        let y = with_element!(x.dtype(), T => T::to_cpu_storage_owned(forward::<T>(slice(x, layout)?, n, h * w, c)));
        Ok((y, Shape::from((n, c))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (_, h, w, c) = x.dims4()?;
        let grad = grad.contiguous()?;
        let grad = View::new(&grad)?;
        let dx = with_element!(x.dtype(), T => {
            Tensor::from_vec(backward::<T>(grad.as_slice()?, h * w, c), x.shape(), x.device())
        });
        dx.map(Some)
    }
}

fn forward<T: Element>(x: &[T], n: usize, pixels: usize, c: usize) -> Vec<T> {
    let share = T::from_f64(1.0 / pixels as f64);
    let mut y = vec![T::ZERO; n * c];
    y.par_chunks_mut(c).zip(x.par_chunks(pixels * c)).for_each(|(y, x)| {
        vectorized(
            #[inline(always)]
            || {
                for pixel in x.chunks_exact(c) {
                    for (y, x) in y.iter_mut().zip(pixel) {
                        *y += *x;
                    }
                }
                for y in y.iter_mut() {
                    *y *= share;
                }
            },
        );
    });
    y
}

fn backward<T: Element>(dy: &[T], pixels: usize, c: usize) -> Vec<T> {
    let share = T::from_f64(1.0 / pixels as f64);
    let mut dx = vec![T::ZERO; dy.len() * pixels];
    dx.par_chunks_mut(pixels * c).zip(dy.par_chunks(c)).for_each(|(dx, dy)| {
        vectorized(
            #[inline(always)]
            || {
                for pixel in dx.chunks_exact_mut(c) {
                    for (dx, dy) in pixel.iter_mut().zip(dy) {
                        *dx = *dy * share;
                    }
                }
            },
        );
    });
    dx
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::GradCheck;
    use crate::testing::{assert_close, random, random_f32};

    #[test]
    fn values_are_those_of_the_reference() {
        for shape in [[1, 1, 1, 1], [3, 7, 5, 33]] {
            let x = random(&shape, 1);
            assert_close(&global_avg_pool(&x).unwrap(), &reference(&x).unwrap(), 1e-14);
            let view = random(&[shape[0], shape[3], shape[1], shape[2]], 2).permute((0, 2, 3, 1)).unwrap();
            assert_close(&global_avg_pool(&view).unwrap(), &reference(&view).unwrap(), 1e-14);
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        GradCheck::f64().check(&[random((2, 3, 4, 5), 1)], |t| global_avg_pool(&t[0])).unwrap();
    }

    #[test]
    fn other_ranks_are_refused() {
        assert!(global_avg_pool(&random_f32((3, 4), 1)).unwrap_err().to_string().contains("[n, h, w, c]"));
        assert!(
            global_avg_pool(&random_f32((3, 0, 4, 1), 1)).unwrap_err().to_string().contains("at least 1")
        );
    }
}
