//! How often the positive is the nearest of all candidates: the top-1 accuracy of the contrastive task.

use crate::Result;
use crate::embeddings::{check_pair, normalize_rows, values};
use candle_core::{Device, Tensor};

/// Anchors whose similarities are held at a time.
const BLOCK: usize = 256;

/// The share of the 2n anchors whose positive has a greater cosine than each of the 2n − 2 negatives.
///
/// `z1`, `z2`: `[n, d]`, not normalised, as for [`crate::nt_xent`]. A tie is a miss, so embeddings that have
/// collapsed to one point score 0; guessing scores 1/(2n − 1), and n = 1, without negatives, 1. Computed in f64;
/// no gradient. Errors: shapes or dtypes that differ, n or d of 0, values that are not finite.
pub fn contrastive_accuracy(z1: &Tensor, z2: &Tensor) -> Result<f64> {
    let (n, d) = check_pair(z1, z2)?;
    let mut z = values(&Tensor::cat(&[z1, z2], 0)?)?;
    normalize_rows(&mut z, d);
    let z = Tensor::from_vec(z, (2 * n, d), &Device::Cpu)?;
    let mut hits = 0;
    for start in (0..2 * n).step_by(BLOCK) {
        let rows = BLOCK.min(2 * n - start);
        let similarities = z.narrow(0, start, rows)?.matmul(&z.t()?)?.to_vec2::<f64>()?;
        for (row, anchor) in similarities.iter().zip(start..) {
            let positive = (anchor + n) % (2 * n);
            let won = row.iter().enumerate().all(|(k, s)| k == anchor || k == positive || *s < row[positive]);
            hits += usize::from(won);
        }
    }
    Ok(hits as f64 / (2 * n) as f64)
}
