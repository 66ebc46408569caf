//! NT-Xent, the loss of SimCLR (Chen, Kornblith, Norouzi & Hinton 2020, eq. 1 and algorithm 1).
//!
//! Letters: n images, d embedding width, τ temperature.

use crate::embeddings::check_pair;
use crate::{Error, Result};
use candle_core::Tensor;
pub use selfsup_kernels::info_nce::MIN_TEMPERATURE;

/// Normalised, temperature-scaled cross-entropy of two views of n images.
///
/// `z1`, `z2`: `[n, d]`, floating-point, not normalised; rows i are views of one image. With all 2n rows
/// scaled to length 1 (a row of zeros stays zeros) and j the other view of i's image:
///
/// ```text
/// s(i, k) = zᵢ·zₖ / τ
/// loss    = 1/(2n) Σᵢ [ log Σ_{k ≠ i} exp s(i, k) − s(i, j) ]
/// ```
///
/// The sum holds the positive and the 2n − 2 negatives; the anchor itself is out before the maximum is taken.
/// The mean runs over all 2n anchors, as in the paper and in lightly (code that sums the two halves' means
/// gives twice this). The result is a scalar: f64 for f64 input, otherwise computed and returned in f32.
/// Gradients reach `z1` and `z2`; a row of zeros gets none (PyTorch's `normalize` would send it 1e12 times the
/// gradient). For n = 1 the positive is the only candidate, so loss and gradient are 0.
///
/// On the CPU the 2n × 2n similarities are never held: see [`selfsup_kernels::info_nce`].
///
/// Errors: shapes or dtypes that differ, n or d of 0, a temperature that [`validate_temperature`] refuses.
pub fn nt_xent(z1: &Tensor, z2: &Tensor, temperature: f64) -> Result<Tensor> {
    check_pair(z1, z2)?;
    validate_temperature(temperature)?;
    Ok(selfsup_kernels::info_nce::nt_xent(&Tensor::cat(&[z1, z2], 0)?, temperature)?)
}

/// Fails unless the temperature is finite and at least [`MIN_TEMPERATURE`].
pub fn validate_temperature(temperature: f64) -> Result<()> {
    if temperature.is_finite() && temperature >= MIN_TEMPERATURE {
        return Ok(());
    }
    Err(Error::Value { name: "temperature", expected: "finite and at least 1e-6", got: temperature })
}
