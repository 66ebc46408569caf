//! Whether embeddings spread or have collapsed (Chen & He 2021, §4.1).

use crate::Result;
use crate::embeddings::{check, normalize_rows, values};
use candle_core::Tensor;

/// √d times the mean over the d coordinates of the standard deviation over the n rows, each row scaled to
/// length 1 first.
///
/// `z`: `[n, d]`. The value is 0 when all rows point one way (and for n = 1) and near 1 when they point
/// everywhere alike; it is never more than 1. The deviation divides by n; lightly's
/// `std_of_l2_normalized` divides by n − 1 and leaves out √d. Computed in f64; no gradient.
/// Errors: n or d of 0, values that are not finite.
pub fn embedding_std(z: &Tensor) -> Result<f64> {
    let (n, d) = check("z", z)?;
    let mut z = values(z)?;
    normalize_rows(&mut z, d);
    let rows = || z.chunks(d);
    let mut mean = vec![0.0; d];
    for row in rows() {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += v / n as f64);
    }
    let mut variance = vec![0.0; d];
    for row in rows() {
        for ((s, v), m) in variance.iter_mut().zip(row).zip(&mean) {
            *s += (v - m) * (v - m) / n as f64;
        }
    }
    Ok(variance.iter().map(|v| v.sqrt()).sum::<f64>() / (d as f64).sqrt())
}
