//! Features scaled to mean 0 and standard deviation 1, by the statistics of the training features.
//!
//! Letters: n samples, d features. Sums are f64, added in an order that depends on the data's shape alone.

use crate::Result;
use crate::features::Labelled;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// A feature whose standard deviation is at most this share of its mean is constant: the rest is f32 rounding.
const CONSTANT: f64 = 1e-6;

/// Partial sums: bounds the memory they take and the threads that can help.
const PARTS: usize = 16;

/// x ↦ (x − mean) · scale for each feature, with scale = 1/std, or 0 for a constant feature.
#[derive(Debug, Clone, PartialEq)]
pub struct Standardizer {
    mean: Vec<f64>,
    scale: Vec<f64>,
}

impl Standardizer {
    /// Mean and biased standard deviation (divided by n) of the training features, in two passes.
    pub fn new(train: &Labelled) -> Self {
        let (n, d) = (train.len() as f64, train.dim());
        let mut mean = column_sums(train, |_, v| v);
        mean.iter_mut().for_each(|m| *m /= n);
        let squares = column_sums(train, |j, v| (v - mean[j]).powi(2));
        let scale = (0..d)
            .map(|j| {
                let std = (squares[j] / n).sqrt();
                if std > CONSTANT * mean[j].abs() { 1.0 / std } else { 0.0 }
            })
            .collect();
        Self { mean, scale }
    }

    /// The rows at `rows` of the features, scaled: `[rows.len(), d]` f32.
    pub(crate) fn apply(&self, features: &Labelled, rows: &[usize]) -> Result<Tensor> {
        let d = features.dim();
        let mut out = Vec::with_capacity(rows.len() * d);
        for &row in rows {
            let values = features.row(row).iter().zip(self.mean.iter().zip(&self.scale));
            out.extend(values.map(|(&v, (mean, scale))| ((f64::from(v) - mean) * scale) as f32));
        }
        Ok(Tensor::from_vec(out, (rows.len(), d), &Device::Cpu)?)
    }
}

/// Σ over the rows of f(j, x_j), for each feature j.
fn column_sums(features: &Labelled, f: impl Fn(usize, f64) -> f64 + Sync) -> Vec<f64> {
    let d = features.dim();
    let rows = features.len().div_ceil(PARTS);
    let parts: Vec<Vec<f64>> = features
        .values()
        .par_chunks(rows * d)
        .map(|part| {
            let mut sums = vec![0.0; d];
            for row in part.chunks_exact(d) {
                for (j, (sum, &v)) in sums.iter_mut().zip(row).enumerate() {
                    *sum += f(j, f64::from(v));
                }
            }
            sums
        })
        .collect();
    let mut total = vec![0.0; d];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
    }
    total
}
