//! Negative cosine similarity, the loss of SimSiam (Chen & He 2021, eq. 1) and, but for a factor, of BYOL (Grill et al. 2020,
//! eq. 2).
//!
//! Letters: n images, d embedding width.

use crate::Result;
use crate::embeddings::check_pair;
use candle_core::Tensor;

/// Lengths below it are taken for it, as `torch.nn.functional.normalize` does.
const EPS: f64 = 1e-12;

/// How far predictions are from their targets, in direction.
///
/// `predictions`, `targets`: `[n, d]`, floating-point, not normalised; rows i belong to one image. With p_i and t_i rows of length 1
/// (a row of zeros stays zeros):
///
/// ```text
/// loss = −1/n Σᵢ pᵢ·tᵢ            in −1…1
/// ```
///
/// BYOL's loss of one direction, the squared distance of the unit vectors, is 2 + 2·loss. Gradients reach both; methods
/// detach the targets, without which all embeddings collapse to a point. A scalar of the inputs' dtype.
///
/// Errors: shapes or dtypes that differ, n or d of 0.
pub fn negative_cosine(predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (n, _) = check_pair(predictions, targets)?;
    let unit = |z: &Tensor| selfsup_kernels::l2_normalize(z, EPS);
    Ok(((unit(predictions)? * unit(targets)?)?.sum_all()? * (-1.0 / n as f64))?)
}
