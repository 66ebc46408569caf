//! How far a predicted picture is from the true one, and the adversary's part.
//!
//! Pathak, Krähenbühl, Donahue, Darrell & Efros 2016, "Context Encoders: Feature Learning by Inpainting", arXiv:1604.07379, eq. 1 and
//! 2; the adversarial loss is that of Goodfellow et al. 2014 (arXiv:1406.2661).

use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// Weighted mean of squared differences, Σ w·(x − y)² over the count of numbers whose weight w is above 0.
///
/// `predicted`, `truth`: one shape and float dtype; `weights`: broadcastable to it, at least 0. A scalar; the gradient reaches
/// `predicted` (and `truth`, if it has a graph).
///
/// # Errors
/// Shapes that do not fit, no weight above 0.
pub fn weighted_l2(predicted: &Tensor, truth: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let weights = checked(predicted, truth, weights)?;
    let count = weights.gt(0f64)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
    if count == 0.0 {
        return Err(Error::Value { name: "the number of weights above 0", expected: "at least 1", got: 0.0 });
    }
    Ok((((predicted - truth)?.sqr()? * weights)?.sum_all()? / count)?)
}

/// Peak signal-to-noise ratio in dB, 10·log₁₀(peak²/mean squared difference), over the numbers whose weight is above 0; infinite for
/// equal pictures. `peak` is the largest difference that there can be.
///
/// # Errors
/// Those of [`weighted_l2`].
pub fn psnr(predicted: &Tensor, truth: &Tensor, weights: &Tensor, peak: f64) -> Result<f64> {
    let seen = weights.gt(0f64)?.to_dtype(predicted.dtype())?;
    let error = weighted_l2(&predicted.detach(), &truth.detach(), &seen)?;
    Ok(10.0 * (peak * peak / f64::from(error.to_dtype(DType::F32)?.to_scalar::<f32>()?)).log10())
}

/// Binary cross-entropy of logits of any shape with one answer for all: the mean of log(1 + exp(∓z)), of −z for `true`, of z for `false`.
///
/// # Errors
/// An integer dtype.
pub fn binary_cross_entropy(logits: &Tensor, answer: bool) -> Result<Tensor> {
    if !logits.dtype().is_float() {
        let expected = "floating-point numbers".into();
        return Err(Error::DType { what: "logits", expected, got: logits.dtype() });
    }
    let z = if answer { logits.neg()? } else { logits.clone() };
    // log(1 + exp z) without overflow.
    Ok((selfsup_kernels::relu(&z)? + (z.abs()?.neg()?.exp()? + 1.0)?.log()?)?.mean_all()?)
}

fn checked(predicted: &Tensor, truth: &Tensor, weights: &Tensor) -> Result<Tensor> {
    if truth.dims() != predicted.dims() {
        let expected = format!("{:?} as the prediction", predicted.dims());
        return Err(Error::Shape { what: "truth", expected, got: truth.dims().to_vec() });
    }
    weights.to_dtype(predicted.dtype())?.broadcast_as(predicted.shape()).map_err(|_| Error::Shape {
        what: "weights",
        expected: format!("broadcastable to {:?}", predicted.dims()),
        got: weights.dims().to_vec(),
    })
}
