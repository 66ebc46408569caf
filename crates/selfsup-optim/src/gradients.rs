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
