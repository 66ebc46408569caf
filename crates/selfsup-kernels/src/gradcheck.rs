//! Analytic gradients against central finite differences.
//!
//! For a function f of some tensors and fixed random coefficients r, the scalar L = Σ r·f is differentiated in two
//! ways: by `backward()`, and number by number as (L(x + h) − L(x − h))/2h with L summed in f64. A custom
//! operation whose backward pass is wrong in one place is found with the place.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use selfsup_kernels::gradcheck::GradCheck;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let x = Tensor::new(&[[0.3f64, -1.2], [2.0, 0.7]], &Device::Cpu)?;
//! GradCheck::f64().check(&[x.clone()], |t| selfsup_kernels::log_softmax(&t[0]))?;
//! // A function that cuts its gradient is caught.
//! assert!(GradCheck::f64().check(&[x], |t| t[0].detach().sqr()).is_err());
//! # Ok(())
//! # }
//! ```

use candle_core::{DType, Tensor, Var};
use std::fmt::Display;

/// Why gradients are not what they should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The two gradients differ, or one is not finite.
    #[error(
        "input {input}, index {index:?}: backward gives {analytic:e}, finite differences {numeric:e} (allowed difference {allowed:e})"
    )]
    Mismatch {
        /// Which input.
        input: usize,
        /// Where it is worst.
        index: Vec<usize>,
        /// backward()'s gradient there.
        analytic: f64,
        /// The difference quotient there.
        numeric: f64,
        /// How much they may differ there.
        allowed: f64,
    },
    /// backward() gave an input no gradient.
    #[error("input {input} has no gradient: it is cut, or the function does not use it")]
    Missing {
        /// Which input.
        input: usize,
    },
    /// The function failed.
    #[error("the function failed: {0}")]
    Function(String),
    /// candle failed, or an input is neither f32 nor f64 on the CPU.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Step and tolerances. Where the function has a kink (ReLU, maximum), keep inputs farther from it than the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradCheck {
    /// h, for inputs of about unit size.
    pub step: f64,
    /// Allowed difference relative to the number itself and to the root mean square of the input's gradient.
    pub relative: f64,
    /// Allowed difference besides.
    pub absolute: f64,
}

impl GradCheck {
    /// For f64 inputs: h = 10⁻⁵ gives about ten digits, of which six are asked.
    pub fn f64() -> Self {
        Self { step: 1e-5, relative: 1e-6, absolute: 1e-8 }
    }

    /// For f32 inputs: h = 10⁻² gives about four digits of smooth functions, of which two are asked. Weak: take
    /// [`GradCheck::f64`] where the function can.
    pub fn f32() -> Self {
        Self { step: 1e-2, relative: 1e-2, absolute: 1e-3 }
    }

    /// Checks f's gradients to every number of every input (f32 or f64, on the CPU).
    ///
    /// f gets the inputs as variables and returns a tensor of any shape. It must be deterministic.
    ///
    /// # Errors
    /// The first input with a wrong, missing or non-finite gradient.
    pub fn check<E: Display>(
        &self,
        inputs: &[Tensor],
        f: impl Fn(&[Tensor]) -> Result<Tensor, E>,
    ) -> Result<(), Failure> {
        let call = |inputs: &[Tensor]| f(inputs).map_err(|e| Failure::Function(e.to_string()));
        let vars = inputs
            .iter()
            .map(|t| Var::from_tensor(&t.contiguous()?))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let y = call(&tensors)?;
        let coefficients = coefficients(y.elem_count());
        let r = Tensor::from_slice(&coefficients, y.shape(), y.device())?.to_dtype(y.dtype())?;
        // What L uses must be what backward() saw, rounded to the dtype.
        let coefficients = values(&r)?;
        let gradients = (&y * &r)?.sum_all()?.backward()?;
        let loss = |inputs: &[Tensor]| -> Result<f64, Failure> {
            Ok(values(&call(inputs)?)?.iter().zip(&coefficients).map(|(y, r)| y * r).sum())
        };
        let detached: Vec<Tensor> = tensors.iter().map(Tensor::detach).collect();
        for (input, tensor) in tensors.iter().enumerate() {
            let analytic = values(gradients.get(tensor).ok_or(Failure::Missing { input })?)?;
            let original = values(tensor)?;
            let mut numeric = Vec::with_capacity(original.len());
            for i in 0..original.len() {
                // The quotient's divisor is the difference of the inputs after rounding to their dtype.
                let at = |shift: f64| -> Result<(f64, f64), Failure> {
                    let mut moved = original.clone();
                    moved[i] += shift;
                    let moved =
                        Tensor::from_vec(moved, tensor.shape(), tensor.device())?.to_dtype(tensor.dtype())?;
                    let mut all = detached.clone();
                    all[input] = moved;
                    Ok((values(&all[input])?[i], loss(&all)?))
                };
                let ((above, loss_above), (below, loss_below)) = (at(self.step)?, at(-self.step)?);
                numeric.push((loss_above - loss_below) / (above - below));
            }
            self.compare(input, tensor.dims(), &analytic, &numeric)?;
        }
        Ok(())
    }

    fn compare(
        &self,
        input: usize,
        dims: &[usize],
        analytic: &[f64],
        numeric: &[f64],
    ) -> Result<(), Failure> {
        let rms = (numeric.iter().map(|g| g * g).sum::<f64>() / numeric.len() as f64).sqrt();
        let allowed = |numeric: f64| self.absolute + self.relative * (numeric.abs() + rms);
        let excess = |i: usize| {
            let excess = (analytic[i] - numeric[i]).abs() / allowed(numeric[i]);
            if excess.is_nan() { f64::INFINITY } else { excess }
        };
        let worst = (0..numeric.len()).max_by(|&a, &b| excess(a).total_cmp(&excess(b)));
        match worst {
            Some(i) if excess(i) > 1.0 => Err(Failure::Mismatch {
                input,
                index: unravel(i, dims),
                analytic: analytic[i],
                numeric: numeric[i],
                allowed: allowed(numeric[i]),
            }),
            _ => Ok(()),
        }
    }
}

/// A tensor's numbers.
fn values(tensor: &Tensor) -> candle_core::Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// Numbers of both signs and of sizes in ½…1½, by the fractional parts of multiples of the golden ratio.
fn coefficients(count: usize) -> Vec<f64> {
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    (1..=count)
        .map(|i| {
            let u = (i as f64 * golden).fract();
            if i % 3 == 0 { -0.5 - u } else { 0.5 + u }
        })
        .collect()
}

/// The index of the i-th number in row-major order.
fn unravel(mut i: usize, dims: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = dims
        .iter()
        .rev()
        .map(|&d| {
            let at = i % d;
            i /= d;
            at
        })
        .collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use candle_core::{CpuStorage, CustomOp1, Layout, Shape};

    /// x², whose gradient is wrong at one place, by a factor.
    struct Square(f64);

    impl CustomOp1 for Square {
        fn name(&self) -> &'static str {
            "square"
        }
        fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
            let y = x.as_slice::<f64>()?.iter().map(|v| v * v).collect();
            Ok((CpuStorage::F64(y), layout.shape().clone()))
        }
        fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
            let mut factor = vec![2.0; x.elem_count()];
            factor[7] *= self.0;
            let factor = Tensor::from_vec(factor, x.shape(), x.device())?;
            Ok(Some((x * grad)?.mul(&factor)?))
        }
    }

    fn check(factor: f64) -> Result<(), Failure> {
        GradCheck::f64().check(&[random((3, 4), 1)], |t| t[0].apply_op1(Square(factor)))
    }

    #[test]
    fn a_right_gradient_passes() {
        check(1.0).unwrap();
        GradCheck::f32().check(&[random((3, 4), 1).to_dtype(DType::F32).unwrap()], |t| t[0].sqr()).unwrap();
    }

    #[test]
    fn a_wrong_or_nan_gradient_is_found_with_its_place() {
        for factor in [1.001, 0.0, f64::NAN, f64::INFINITY] {
            match check(factor) {
                Err(Failure::Mismatch { input: 0, index, .. }) => {
                    assert_eq!(index, [1, 3], "factor {factor}")
                }
                other => panic!("factor {factor}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_missing_gradient_and_a_failure_are_told_apart() {
        let x = [random(3, 1), random(3, 2)];
        let missing = GradCheck::f64().check(&x, |t| &t[0] * t[1].detach());
        assert!(matches!(missing, Err(Failure::Missing { input: 1 })), "{missing:?}");
        let failed = GradCheck::f64().check(&x, |t| t[0].reshape(5));
        assert!(matches!(failed, Err(Failure::Function(_))), "{failed:?}");
    }
}
