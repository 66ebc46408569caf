//! The Gaussian error linear unit (Hendrycks & Gimpel 2016, arXiv:1606.08415, §2) and its two approximations.
//!
//! ```text
//! exact  y = x·Φ(x)                        dy/dx = Φ(x) + x·exp(−x²/2)/√(2π)
//! tanh   y = x·σ(s), s = 2√(2/π)·(x + 0.044715·x³)      dy/dx = σ(s) + x·s'·σ(s)·σ(−s)
//! quick  y = x·σ(s), s = 1.702·x                        likewise
//! ```
//!
//! Φ is the standard normal distribution's function, ½·(1 + erf(x/√2)), and σ the logistic function; ½·(1 + tanh u) is
//! σ(2u).

mod normal;

use crate::element::{Element, View, on_fast_path, slice, with_element};
use crate::output::in_chunks;
use crate::simd::vectorized;
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor, WithDType};
use normal::Normal;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, PI};

const OP: &str = "gelu";
/// Numbers in a task: what it reads and writes stays in the first-level cache from step to step.
const TASK: usize = 4 * 1024;
/// The cube's factor in the tanh approximation.
const CUBE: f64 = 0.044715;
/// QuickGELU's factor.
const QUICK: f64 = 1.702;

/// Which function a GELU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gelu {
    /// x·Φ(x), PyTorch's default: vision transformers.
    #[default]
    Exact,
    /// ½x(1 + tanh(√(2/π)(x + 0.044715x³))), PyTorch's `approximate="tanh"`: at most 5·10⁻⁴ off.
    Tanh,
    /// x·σ(1.702x), "QuickGELU": at most 0.02 off. CLIP's first models.
    Quick,
}

/// GELU of each number of x, of any shape. Gradient: x.
///
/// Relative errors are a few units in the last place for every x, also far below 0, where ½(1 + erf) has lost its
/// digits. −∞ gives 0, the limit; NaN stays NaN.
///
/// # Errors
/// An integer dtype.
pub fn gelu(x: &Tensor, kind: Gelu) -> Result<Tensor> {
    check::float(OP, x)?;
    if !on_fast_path(x) {
        return reference(x, kind);
    }
    Ok(x.contiguous()?.apply_op1(GeluOp(kind))?)
}

/// The same in candle's operations, in f32 where x is narrower; ½(1 + erf) as it is, and NaN for −∞.
pub(crate) fn reference(x: &Tensor, kind: Gelu) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(if dtype == DType::F64 { dtype } else { DType::F32 })?;
    let unit = match kind {
        Gelu::Exact => (&x * FRAC_1_SQRT_2)?.erf()?,
        Gelu::Tanh => ((&x + ((&x * x.sqr()?)? * CUBE)?)? * FRAC_2_PI.sqrt())?.tanh()?,
        Gelu::Quick => (&x * (QUICK / 2.0))?.tanh()?,
    };
    Ok((x * ((unit + 1.0)? * 0.5)?)?.to_dtype(dtype)?)
}

struct GeluOp(Gelu);

impl CustomOp1 for GeluOp {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = with_element!(x.dtype(), T => {
            let x = slice::<T>(x, layout)?;
            let (y, _) = in_chunks(x.len(), TASK, |at, y: &mut [T]| {
                y.copy_from_slice(&x[at..at + y.len()]);
                forward(y, self.0);
            });
            T::to_cpu_storage_owned(y)
        });
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (view, grad) = (View::new(x)?, View::new(&grad)?);
        with_element!(x.dtype(), T => {
            let (data, dy) = (view.as_slice::<T>()?, grad.as_slice::<T>()?);
            let (dx, _) = in_chunks(data.len(), TASK, |at, dx: &mut [T]| {
                let range = at..at + dx.len();
                dx.copy_from_slice(&dy[range.clone()]);
                backward(dx, &data[range], self.0);
            });
            Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
        })
    }
}

/// The numbers that the CPU code of GELU knows.
pub(crate) trait Activated: Normal {}
impl<T: Normal> Activated for T {}

/// x ← y, in place.
pub(crate) fn forward<T: Activated>(x: &mut [T], kind: Gelu) {
    /// x times its gate. Where the gate is 0, x may be −∞.
    #[inline(always)]
    fn each<T: Element>(x: &mut [T], gate: impl Fn(T) -> (T, T)) {
        for x in x.iter_mut() {
            let (gate, _) = gate(*x);
            *x = if gate == T::ZERO { T::ZERO } else { *x * gate };
        }
    }
    vectorized(
        #[inline(always)]
        || match kind {
            Gelu::Exact => each(
                x,
                #[inline(always)]
                |x| exact(x),
            ),
            Gelu::Tanh => each(
                x,
                #[inline(always)]
                |x| tanh(x),
            ),
            Gelu::Quick => each(
                x,
                #[inline(always)]
                |x| quick(x),
            ),
        },
    );
}

/// d ← d·dy/dx, in place.
pub(crate) fn backward<T: Activated>(d: &mut [T], x: &[T], kind: Gelu) {
    #[inline(always)]
    fn each<T: Element>(d: &mut [T], x: &[T], gate: impl Fn(T) -> (T, T)) {
        for (d, x) in d.iter_mut().zip(x) {
            let (gate, slope) = gate(*x);
            *d *= gate + slope;
        }
    }
    vectorized(
        #[inline(always)]
        || match kind {
            Gelu::Exact => each(
                d,
                x,
                #[inline(always)]
                |x| exact(x),
            ),
            Gelu::Tanh => each(
                d,
                x,
                #[inline(always)]
                |x| tanh(x),
            ),
            Gelu::Quick => each(
                d,
                x,
                #[inline(always)]
                |x| quick(x),
            ),
        },
    );
}

/// Φ(x) and x·Φ'(x).
#[inline(always)]
fn exact<T: Activated>(x: T) -> (T, T) {
    let (cdf, exp, bounded) = x.normal();
    (cdf, bounded * exp * T::from_f64(1.0 / (2.0 * PI).sqrt()))
}

/// σ(s) and x·s'·σ(s)·σ(−s) of the tanh approximation. Beyond ±30 they are as there: 0 or 1, and 0.
#[inline(always)]
fn tanh<T: Element>(x: T) -> (T, T) {
    let x = bounded(x, 30.0);
    let (slope, cube) = (T::from_f64(2.0 * FRAC_2_PI.sqrt()), T::from_f64(CUBE));
    let square = cube * x * x;
    let (gate, product) = logistic(slope * (x + square * x));
    (gate, product * x * slope * (T::ONE + square + square + square))
}

/// σ(s) and x·s'·σ(s)·σ(−s) of QuickGELU. Beyond ±600 they are as there.
#[inline(always)]
fn quick<T: Element>(x: T) -> (T, T) {
    let s = T::from_f64(QUICK) * bounded(x, 600.0);
    let (gate, product) = logistic(s);
    (gate, product * s)
}

/// σ(s) and σ(s)·σ(−s).
#[inline(always)]
fn logistic<T: Element>(s: T) -> (T, T) {
    let exp = (if s < T::ZERO { s } else { -s }).exp_fused(T::ZERO);
    let above = T::ONE / (T::ONE + exp);
    let below = exp * above;
    (if s < T::ZERO { below } else { above }, above * below)
}

/// x within ±bound; NaN stays NaN.
#[inline(always)]
fn bounded<T: Element>(x: T, bound: f64) -> T {
    let bound = T::from_f64(bound);
    let x = if x > bound { bound } else { x };
    if x < -bound { -bound } else { x }
}

#[cfg(test)]
mod tests;
