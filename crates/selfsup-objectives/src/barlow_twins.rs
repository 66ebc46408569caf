//! Barlow Twins (Zbontar, Jing, Misra, LeCun & Deny 2021, arXiv:2103.03230, eq. 1 and 2).
//!
//! Letters: n images, d embedding width, λ the weight of what is off the diagonal.

use crate::embeddings::check_batch;
use crate::{Error, Result};
use candle_core::{D, Tensor};

/// Added to variances, as the authors' batch normalisation does.
const EPS: f64 = 1e-5;

/// How far the two views' embeddings are from being alike in each number and unalike between numbers.
///
/// `z1`, `z2`: `[n, d]`, floating-point; rows i are views of one image. With each column shifted and scaled to mean 0 and
/// (biased) variance 1 over the batch, ẑ:
///
/// ```text
/// C    = ẑ1ᵀ ẑ2 / n                                    [d, d]
/// loss = Σᵢ (1 − Cᵢᵢ)² + λ Σ_{i ≠ j} Cᵢⱼ²
/// ```
///
/// As in the authors' code, whose λ is 0.0051. (lightly 1.5's default λ is 0.005.) Gradients reach both views. A scalar of the inputs'
/// dtype.
///
/// Errors: shapes or dtypes that differ, fewer than two rows, d of 0, a λ that is negative or not finite.
pub fn barlow_twins(z1: &Tensor, z2: &Tensor, lambda: f64) -> Result<Tensor> {
    let (n, d) = check_batch(z1, z2)?;
    if !(lambda.is_finite() && lambda >= 0.0) {
        return Err(Error::Value { name: "lambda", expected: "finite and 0 or more", got: lambda });
    }
    let standard = |z: &Tensor| -> Result<Tensor> {
        let centred = z.broadcast_sub(&z.mean_keepdim(0)?)?;
        let std = (centred.sqr()?.mean_keepdim(0)? + EPS)?.sqrt()?;
        Ok(centred.broadcast_div(&std)?)
    };
    let c = (standard(z1)?.t()?.contiguous()?.matmul(&standard(z2)?)? / n as f64)?;
    let diagonal = Tensor::eye(d, z1.dtype(), z1.device())?;
    // The identity picks the diagonal: 1 and λ are the weights of (C − I)².
    let weights = ((&diagonal * (1.0 - lambda))? + lambda)?;
    Ok(((c - diagonal)?.sqr()? * weights)?.sum((D::Minus2, D::Minus1))?)
}
