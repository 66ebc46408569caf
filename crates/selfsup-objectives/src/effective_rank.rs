//! Over how many directions embeddings spread (Roy & Vetterli 2007).

use crate::Result;
use crate::eigenvalues::symmetric_eigenvalues;
use crate::embeddings::{check, values};
use candle_core::Tensor;

/// exp(−Σ pᵢ ln pᵢ) with pᵢ = σᵢ/Σσ over the singular values σ of `z`.
///
/// `z`: `[n, d]`, neither centred nor normalised here, as in RankMe (Garrido et al. 2023), which adds a small
/// constant to each pᵢ; ours has none, 0 ln 0 counting 0. The value lies between 1 (all rows on one line
/// through the origin) and min(n, d) (all singular values alike), and does not change when `z` is scaled; it is
/// 0 for a matrix of zeros. The singular values are the roots of the eigenvalues of the smaller of zzᵀ and
/// zᵀz, so in f64 those below about 1e-8 of the largest are noise and count as 0. No gradient.
/// Errors: n or d of 0, values that are not finite.
pub fn effective_rank(z: &Tensor) -> Result<f64> {
    let (n, d) = check("z", z)?;
    let mut z = values(z)?;
    // The square of a very large or small value must neither overflow nor vanish.
    let largest = z.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    if largest == 0.0 {
        return Ok(0.0);
    }
    z.iter_mut().for_each(|v| *v /= largest);
    let side = n.min(d);
    let gram = if n <= d { outer(&z, n, d) } else { inner(&z, d) };
    let eigenvalues = symmetric_eigenvalues(gram, side);
    let noise = eigenvalues.iter().fold(0.0, |m: f64, v| m.max(*v)) * side as f64 * f64::EPSILON;
    let sigma: Vec<f64> = eigenvalues.into_iter().filter(|v| *v > noise).map(f64::sqrt).collect();
    let sum: f64 = sigma.iter().sum();
    let entropy: f64 = sigma.iter().map(|s| s / sum).map(|p| -p * p.ln()).sum();
    Ok(entropy.exp())
}

/// zzᵀ, `[n, n]`.
fn outer(z: &[f64], n: usize, d: usize) -> Vec<f64> {
    let mut gram = vec![0.0; n * n];
    for (i, a) in z.chunks(d).enumerate() {
        for (j, b) in z.chunks(d).enumerate().take(i + 1) {
            let dot = a.iter().zip(b).map(|(a, b)| a * b).sum();
            gram[i * n + j] = dot;
            gram[j * n + i] = dot;
        }
    }
    gram
}

/// zᵀz, `[d, d]`.
fn inner(z: &[f64], d: usize) -> Vec<f64> {
    let mut gram = vec![0.0; d * d];
    for row in z.chunks(d) {
        for (a, out) in row.iter().zip(gram.chunks_mut(d)) {
            out.iter_mut().zip(row).for_each(|(out, b)| *out += a * b);
        }
    }
    gram
}
