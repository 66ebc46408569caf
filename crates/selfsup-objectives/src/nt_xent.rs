//! NT-Xent, the loss of SimCLR (Chen, Kornblith, Norouzi & Hinton 2020, eq. 1 and algorithm 1).
//!
//! Letters: n images, d embedding width, τ temperature.

use crate::embeddings::{check_pair, widen};
use crate::{Error, Result};
use candle_core::Tensor;
use selfsup_kernels::{l2_normalize, log_softmax};

/// The smallest temperature taken: below it, two cosines that f32 can just tell apart already differ by more
/// than any logit matters.
pub const MIN_TEMPERATURE: f64 = 1e-6;

/// The length below which a vector counts as short and is divided by this instead, as in PyTorch's `normalize`.
const EPS: f64 = 1e-12;

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
/// The 2n × 2n similarities are held in memory.
///
/// Errors: shapes or dtypes that differ, n or d of 0, a temperature that [`validate_temperature`] refuses.
pub fn nt_xent(z1: &Tensor, z2: &Tensor, temperature: f64) -> Result<Tensor> {
    let (n, _) = check_pair(z1, z2)?;
    validate_temperature(temperature)?;
    let z = l2_normalize(&widen(&Tensor::cat(&[z1, z2], 0)?)?, EPS)?;
    // The temperature divides 2n rows here instead of 2n × 2n logits.
    let logits = (&z * (1.0 / temperature))?.matmul(&z.t()?)?;
    let log_p = log_softmax(&(&logits + self_mask(&logits)?)?)?;
    let positives = log_p.gather(&positives(n, &log_p)?, 1)?;
    Ok(positives.mean_all()?.neg()?)
}

/// Fails unless the temperature is finite and at least [`MIN_TEMPERATURE`].
pub fn validate_temperature(temperature: f64) -> Result<()> {
    if temperature.is_finite() && temperature >= MIN_TEMPERATURE {
        return Ok(());
    }
    Err(Error::Value { name: "temperature", expected: "finite and at least 1e-6", got: temperature })
}

/// −∞ on the diagonal of a square matrix, 0 elsewhere.
fn self_mask(logits: &Tensor) -> Result<Tensor> {
    let m = logits.dim(0)?;
    let ids = Tensor::arange(0u32, m as u32, logits.device())?;
    let diagonal = ids.unsqueeze(1)?.broadcast_eq(&ids.unsqueeze(0)?)?;
    let zeros = logits.zeros_like()?.detach();
    let out = Tensor::full(f32::NEG_INFINITY, (m, m), logits.device())?.to_dtype(logits.dtype())?;
    Ok(diagonal.where_cond(&out, &zeros)?)
}

/// `[2n, 1]`: the row of each row's other view.
fn positives(n: usize, like: &Tensor) -> Result<Tensor> {
    let n = n as u32;
    Ok(Tensor::from_iter((n..2 * n).chain(0..n), like.device())?.unsqueeze(1)?)
}
