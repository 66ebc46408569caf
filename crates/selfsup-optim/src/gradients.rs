//! Checks of the gradients before a step: there, finite, not too long.

use crate::error::ensure;
use crate::norm::sum_of_squares;
use crate::{Error, Param, Result};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Storage, Tensor};

/// Fails with the names of the parameters that the loss does not reach, or else of those whose gradient holds
/// NaN or infinity. Worth a call after the first backward pass of a run: a gradient that is cut off is
/// otherwise a layer that silently never learns.
pub fn check_gradients(grads: &GradStore, params: &[Param]) -> Result<()> {
    let missing = named(params.iter().filter(|p| grads.get(&p.var).is_none()));
    if !missing.is_empty() {
        return Err(Error::MissingGradients(missing));
    }
    let mut bad = Vec::new();
    for param in params {
        if let Some(grad) = grads.get(&param.var)
            && !is_finite(grad)?
        {
            bad.push(param.name.clone());
        }
    }
    if bad.is_empty() { Ok(()) } else { Err(Error::NonFiniteGradients(bad)) }
}

/// Scales all gradients by max/‖g‖ if their common norm ‖g‖ = √ΣΣ g² is more than `max`, and returns the norm
/// before. The sum runs in f64 and in a fixed order (f32 on devices other than the CPU).
///
/// `torch.nn.utils.clip_grad_norm_` divides by ‖g‖ + 1e-6, so it ends a little below `max`. A norm that is not
/// finite is an error that names the tensors, as no scaling mends it; then nothing has changed, neither when a
/// gradient is missing.
pub fn clip_grad_norm(grads: &mut GradStore, params: &[Param], max: f64) -> Result<f64> {
    ensure(max.is_finite() && max > 0.0, "the largest gradient norm", "finite and more than 0", max)?;
    let missing = named(params.iter().filter(|p| grads.get(&p.var).is_none()));
    if !missing.is_empty() {
        return Err(Error::MissingGradients(missing));
    }
    let mut sum = 0.0;
    for grad in params.iter().filter_map(|p| grads.get(&p.var)) {
        sum += sum_of_squares(grad)?;
    }
    let norm = sum.sqrt();
    if !norm.is_finite() {
        check_gradients(grads, params)?;
        // Each element is finite and the sum is not: only devices that sum in f32 come here.
        return Err(Error::NonFiniteGradients(named(params.iter())));
    }
    if norm > max {
        for param in params {
            if let Some(grad) = grads.get(&param.var) {
                let scaled = (grad * (max / norm))?;
                grads.insert(&param.var, scaled);
            }
        }
    }
    Ok(norm)
}

fn named<'a>(params: impl Iterator<Item = &'a Param>) -> Vec<String> {
    params.map(|p| p.name.clone()).collect()
}

fn is_finite(x: &Tensor) -> Result<bool> {
    let x = x.contiguous()?;
    {
        let (storage, layout) = x.storage_and_layout();
        if let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
            (&*storage, layout.contiguous_offsets())
        {
            return Ok(values[start..end].iter().all(|x| x.is_finite()));
        }
    }
    // 0·x is 0 for every finite x and NaN for the others.
    let zero = (x * 0.0)?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    Ok(zero == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn setup(dtype: DType) -> (Vec<Param>, GradStore) {
        // Gradients 3 and (4, 12): norm 13.
        let make = |name: &str, grad: &[f64]| {
            let var = Var::zeros(grad.len(), dtype, &Device::Cpu).unwrap();
            let grad = Tensor::new(grad, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            (Param { name: name.into(), var }, grad)
        };
        let (a, ga) = make("a", &[3.0]);
        let (b, gb) = make("b", &[4.0, 12.0]);
        let mut grads = a.var.as_tensor().sum_all().unwrap().backward().unwrap();
        grads.insert(&a.var, ga);
        grads.insert(&b.var, gb);
        (vec![a, b], grads)
    }

    fn grad(grads: &GradStore, p: &Param) -> Vec<f64> {
        grads.get(&p.var).unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn clipping_keeps_the_direction() {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let (params, mut grads) = setup(dtype);
            assert_eq!(clip_grad_norm(&mut grads, &params, 13.0).unwrap(), 13.0);
            assert_eq!(grad(&grads, &params[1]), [4.0, 12.0]);
            assert_eq!(clip_grad_norm(&mut grads, &params, 6.5).unwrap(), 13.0);
            assert_eq!(grad(&grads, &params[0]), [1.5]);
            assert_eq!(grad(&grads, &params[1]), [2.0, 6.0]);
        }
    }

    #[test]
    fn the_norm_neither_overflows_nor_vanishes_in_f32() {
        let (params, mut grads) = setup(DType::F32);
        for scale in [1e25, 1e-25f32] {
            grads.insert(&params[0].var, Tensor::new(&[3.0 * scale], &Device::Cpu).unwrap());
            grads.insert(&params[1].var, Tensor::new(&[4.0 * scale, 12.0 * scale], &Device::Cpu).unwrap());
            let norm = clip_grad_norm(&mut grads, &params, f64::MAX).unwrap();
            assert!((norm / f64::from(scale) - 13.0).abs() < 1e-5, "{norm}");
        }
    }

    #[test]
    fn what_is_not_finite_is_named() {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                let (params, mut grads) = setup(dtype);
                check_gradients(&grads, &params).unwrap();
                let g = Tensor::new(&[1.0, bad], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                grads.insert(&params[1].var, g);
                for error in [
                    check_gradients(&grads, &params).unwrap_err(),
                    clip_grad_norm(&mut grads, &params, 1.0).unwrap_err(),
                ] {
                    assert_eq!(error.to_string(), "the gradient is not finite for `b`");
                }
                assert_eq!(grad(&grads, &params[0]), [3.0], "nothing was scaled");
            }
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let (params, mut grads) = setup(DType::F32);
        grads.remove(&params[0].var);
        let error = clip_grad_norm(&mut grads, &params, 1.0).unwrap_err().to_string();
        assert_eq!(error, "no gradient for `a`");
        for max in [0.0, -1.0, f64::NAN] {
            assert!(clip_grad_norm(&mut grads, &params, max).is_err(), "{max}");
        }
    }
}
