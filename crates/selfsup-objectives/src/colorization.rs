//! Colorization's loss, its classes' weights, and the colour that a distribution stands for.
//!
//! Zhang, Isola & Efros 2016, "Colorful Image Colorization", arXiv:1603.08511, eq. 2 to 5.
//!
//! Letters: p pixels, q = 313 bins, k nearest bins.

use crate::embeddings::check;
use crate::{Error, Result, SoftBins, ab_bins};
use candle_core::{DType, Tensor};

/// σ, in bins' units of ab, of the blur of the bins' frequencies (§2.2).
const SIGMA: f64 = 5.0;

/// Below it logits over T leave f32's range.
const LEAST_TEMPERATURE: f64 = 1e-3;

/// Weights of the bins by how rare they are (eq. 4): w ∝ ((1 − λ)·p̃ + λ/Q)⁻¹, scaled so that Σ p̃·w = 1. p̃ are the counts' shares,
/// blurred over the plane of ab by a Gaussian of σ = 5. λ = 1 makes all weights 1; the paper's is ½.
///
/// # Errors
/// A number of counts that is not the bins', no count above 0, a λ outside (0, 1].
pub fn rebalancing_weights(counts: &[u64], lambda: f64) -> Result<Vec<f32>> {
    let bins = ab_bins()?;
    if counts.len() != bins.len() {
        let expected = format!("[{}], one a bin", bins.len());
        return Err(Error::Shape { what: "counts", expected, got: vec![counts.len()] });
    }
    if !(lambda > 0.0 && lambda <= 1.0) {
        return Err(Error::Value { name: "lambda", expected: "in (0, 1]", got: lambda });
    }
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return Err(Error::Value { name: "the sum of the counts", expected: "at least 1", got: 0.0 });
    }
    let mut blurred = vec![0f64; bins.len()];
    for (from, &count) in bins.iter().zip(counts).filter(|(_, count)| **count > 0) {
        let kernel = bins.iter().map(|to| {
            let d: f64 = from.iter().zip(to).map(|(x, y)| f64::from(x - y).powi(2)).sum();
            (-d / (2.0 * SIGMA * SIGMA)).exp()
        });
        let kernel: Vec<f64> = kernel.collect();
        let share = count as f64 / total as f64 / kernel.iter().sum::<f64>();
        blurred.iter_mut().zip(&kernel).for_each(|(b, k)| *b += share * k);
    }
    let weights: Vec<f64> =
        blurred.iter().map(|p| 1.0 / ((1.0 - lambda) * p + lambda / bins.len() as f64)).collect();
    let mean: f64 = blurred.iter().zip(&weights).map(|(p, w)| p * w).sum();
    Ok(weights.iter().map(|w| (w / mean) as f32).collect())
}

/// Cross-entropy of predicted distributions with colours (eq. 2), each pixel weighted by its nearest bin's weight (eq. 3); the mean over
/// pixels (the paper's sum is p times it).
///
/// `logits`: `[p, q]`; `weights`: f32 `[q]`, of [`rebalancing_weights`].
///
/// ```text
/// loss = −1/p Σᵢ w(nearestᵢ) Σₖ shareᵢₖ · log softmax(logitsᵢ)[binᵢₖ]
/// ```
///
/// A scalar of the logits' dtype; its gradient reaches the logits.
///
/// # Errors
/// Shapes that do not fit.
pub fn colorization(logits: &Tensor, colours: &SoftBins, weights: &Tensor) -> Result<Tensor> {
    let (p, q) = check("logits", logits)?;
    let fail =
        |what, expected: String, got: &Tensor| Err(Error::Shape { what, expected, got: got.dims().to_vec() });
    if q != ab_bins()?.len() {
        return fail("logits", format!("[p, {}]", ab_bins()?.len()), logits);
    }
    if weights.dims() != [q] {
        return fail("weights", format!("[{q}], one a bin"), weights);
    }
    if colours.bins.dim(0)? != p || colours.shares.dims() != colours.bins.dims() {
        return fail("the colours' bins", format!("[{p}, k], a row a pixel"), &colours.bins);
    }
    let nearest = colours.bins.narrow(1, 0, 1)?.flatten_all()?;
    let weights = weights.to_dtype(DType::F32)?.index_select(&nearest, 0)?.unsqueeze(1)?;
    let factors = colours.shares.broadcast_mul(&weights)?.to_dtype(logits.dtype())?;
    let log = selfsup_kernels::log_softmax(logits)?.gather(&colours.bins, 1)?;
    Ok(((log * factors)?.sum_all()? * (-1.0 / p as f64))?)
}

/// The colours (a, b) `[p, 2]`, f32, of predicted distributions: the mean over bins of the distribution sharpened by a temperature T (eq.
/// 5). T = 1 is the plain mean, T → 0 the likeliest bin; the paper's is 0.38. No gradient.
///
/// # Errors
/// Logits that are not `[p, 313]`, a temperature below 0.001.
pub fn annealed_mean(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    let (_, q) = check("logits", logits)?;
    let bins = ab_bins()?;
    if q != bins.len() {
        let expected = format!("[p, {}]", bins.len());
        return Err(Error::Shape { what: "logits", expected, got: logits.dims().to_vec() });
    }
    if !(temperature >= LEAST_TEMPERATURE && temperature.is_finite()) {
        return Err(Error::Value { name: "temperature", expected: "at least 0.001", got: temperature });
    }
    // exp(log(z)/T) over its sum is the softmax of the logits over T.
    let sharp = selfsup_kernels::softmax(&(logits.detach().to_dtype(DType::F32)? / temperature)?)?;
    let centres = Tensor::from_vec(bins.as_flattened().to_vec(), (q, 2), logits.device())?;
    Ok(sharp.matmul(&centres)?)
}
