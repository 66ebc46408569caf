//! VICReg: variance, invariance, covariance (Bardes, Ponce & LeCun 2022, arXiv:2105.04906, eq. 1 to 6).
//!
//! Letters: n images, d embedding width.

use crate::embeddings::check_batch;
use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// Added to variances (eq. 1).
const EPS: f64 = 1e-4;

/// The weights of the three terms: λ, μ and ν of eq. 6.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VicRegWeights {
    /// λ, of the distance between the views.
    pub invariance: f64,
    /// μ, of columns that vary too little.
    pub variance: f64,
    /// ν, of columns that vary together.
    pub covariance: f64,
}

impl Default for VicRegWeights {
    /// 25, 25 and 1 (§4.2).
    fn default() -> Self {
        Self { invariance: 25.0, variance: 25.0, covariance: 1.0 }
    }
}

/// The three terms of the loss, weighted.
///
/// `z1`, `z2`: `[n, d]`, floating-point; rows i are views of one image. With variance and covariance over the batch, divided by
/// n − 1:
///
/// ```text
/// s(z1, z2) = 1/(n·d) Σ (z1 − z2)²
/// v(z)      = 1/d Σⱼ max(0, 1 − √(Var zⱼ + 10⁻⁴))
/// c(z)      = 1/d Σ_{i ≠ j} Cov(zᵢ, zⱼ)²
/// loss      = λ·s + μ·(v(z1) + v(z2))/2 + ν·(c(z1) + c(z2))
/// ```
///
/// This is the authors' code, whose s is the mean over all numbers and whose v is halved; eq. 5 and 6 have the sum over a row's
/// numbers and no half. Gradients reach both views. A scalar of the inputs' dtype.
///
/// Errors: shapes or dtypes that differ, fewer than two rows, d of 0, a weight that is negative or not finite.
pub fn vicreg(z1: &Tensor, z2: &Tensor, weights: VicRegWeights) -> Result<Tensor> {
    let (n, d) = check_batch(z1, z2)?;
    weights.validate()?;
    let VicRegWeights { invariance, variance, covariance } = weights;
    let off_diagonal = (1.0 - Tensor::eye(d, DType::F64, z1.device())?)?.to_dtype(z1.dtype())?;
    let terms = |z: &Tensor| -> Result<(Tensor, Tensor)> {
        let centred = z.broadcast_sub(&z.mean_keepdim(0)?)?;
        let var = (centred.sqr()?.sum(0)? / (n - 1) as f64)?;
        let missing = selfsup_kernels::relu(&(1.0 - (var + EPS)?.sqrt()?)?)?;
        let cov = (centred.t()?.contiguous()?.matmul(&centred)? / (n - 1) as f64)?;
        let together = ((cov.sqr()? * &off_diagonal)?.sum_all()? / d as f64)?;
        Ok((missing.mean_all()?, together))
    };
    let ((v1, c1), (v2, c2)) = (terms(z1)?, terms(z2)?);
    let distance = (z1 - z2)?.sqr()?.mean_all()?;
    let loss = ((distance * invariance)? + ((v1 + v2)? * (variance / 2.0))?)?;
    Ok((loss + ((c1 + c2)? * covariance)?)?)
}

impl VicRegWeights {
    /// Fails unless every weight is finite and 0 or more.
    pub fn validate(&self) -> Result<()> {
        let named =
            [("invariance", self.invariance), ("variance", self.variance), ("covariance", self.covariance)];
        for (name, got) in named {
            if !(got.is_finite() && got >= 0.0) {
                return Err(Error::Value { name, expected: "finite and 0 or more", got });
            }
        }
        Ok(())
    }
}
