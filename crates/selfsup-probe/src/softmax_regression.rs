//! The objective of multinomial logistic regression, and its gradient.
//!
//! ```text
//! f(W, b) = 1/n Σ_i −log softmax(W x_i + b)[y_i] + l2/2 · Σ W²        W [c, d], b [c]; b is not penalised
//! ∂f/∂W = 1/n Σ_i (p_i − e_{y_i}) x_iᵀ + l2 · W        ∂f/∂b = 1/n Σ_i (p_i − e_{y_i})
//! ```
//!
//! In scikit-learn's `LogisticRegression` this is C = 1 / (n · l2). Products are f32, sums over blocks of
//! rows f64; blocks and the order of their sums depend on the data's shape alone, so the bits do not depend on
//! the number of threads.

use crate::Result;
use crate::features::Labelled;
use crate::standardize::Standardizer;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// Values in a block of rows: 2 MiB. Smaller ones pay more for the calls than they gain by staying in cache.
const BLOCK_VALUES: usize = 512 * 1024;

/// Partial gradients: bounds the memory they take and the threads that can help.
const PARTS: usize = 16;

/// Rows of features, with their classes among the c that are fitted.
pub(crate) struct Block {
    x: Tensor,
    classes: Vec<u32>,
}

impl Block {
    /// The rows at `rows`, standardised, in blocks. `class_of[label]` is a label's class among those fitted.
    pub(crate) fn all(
        features: &Labelled,
        rows: &[usize],
        standardizer: &Standardizer,
        class_of: &[u32],
    ) -> Result<Vec<Self>> {
        rows.par_chunks((BLOCK_VALUES / features.dim()).clamp(16, 8192))
            .map(|rows| {
                let classes = rows.iter().map(|&i| class_of[features.labels()[i] as usize]).collect();
                Ok(Self { x: standardizer.apply(features, rows)?, classes })
            })
            .collect()
    }
}

/// W and b in one vector: W row by row, then b.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub classes: usize,
    pub dim: usize,
}

impl Shape {
    pub(crate) fn len(self) -> usize {
        self.classes * (self.dim + 1)
    }

    /// Wᵀ as f32 `[d, c]`, and b.
    fn split(self, theta: &[f64]) -> Result<(Tensor, &[f64])> {
        let (w, b) = theta.split_at(self.classes * self.dim);
        let w = w.iter().map(|&v| v as f32).collect();
        Ok((Tensor::from_vec(w, (self.classes, self.dim), &Device::Cpu)?.t()?, b))
    }
}

/// f at theta; writes the gradient.
pub(crate) fn objective(
    blocks: &[&Block],
    shape: Shape,
    l2: f64,
    theta: &[f64],
    gradient: &mut [f64],
) -> Result<f64> {
    let (w, b) = shape.split(theta)?;
    let parts = blocks
        .par_chunks(blocks.len().div_ceil(PARTS))
        .map(|blocks| {
            let mut sums = Sums { loss: 0.0, gradient: vec![0.0; shape.len()] };
            for block in blocks {
                sums.add(block, shape, &w, b)?;
            }
            Ok(sums)
        })
        .collect::<Result<Vec<Sums>>>()?;
    let n = blocks.iter().map(|block| block.classes.len()).sum::<usize>() as f64;
    let mut loss = 0.0;
    gradient.fill(0.0);
    for part in parts {
        loss += part.loss;
        gradient.iter_mut().zip(&part.gradient).for_each(|(g, p)| *g += p);
    }
    gradient.iter_mut().for_each(|g| *g /= n);
    let weights = shape.classes * shape.dim;
    let mut squares = 0.0;
    for (g, &w) in gradient[..weights].iter_mut().zip(&theta[..weights]) {
        *g += l2 * w;
        squares += w * w;
    }
    Ok(loss / n + 0.5 * l2 * squares)
}

struct Sums {
    loss: f64,
    gradient: Vec<f64>,
}

impl Sums {
    fn add(&mut self, block: &Block, shape: Shape, w: &Tensor, b: &[f64]) -> Result<()> {
        let mut errors = block.x.matmul(w)?.flatten_all()?.to_vec1::<f32>()?;
        let (weights, biases) = self.gradient.split_at_mut(shape.classes * shape.dim);
        let mut p = vec![0.0; shape.classes];
        for (row, &class) in errors.chunks_exact_mut(shape.classes).zip(&block.classes) {
            self.loss += softmax(row, b, &mut p) - (f64::from(row[class as usize]) + b[class as usize]);
            p[class as usize] -= 1.0;
            for ((error, p), bias) in row.iter_mut().zip(&p).zip(biases.iter_mut()) {
                *error = *p as f32;
                *bias += p;
            }
        }
        let errors = Tensor::from_vec(errors, (block.classes.len(), shape.classes), &Device::Cpu)?;
        let product = errors.t()?.matmul(&block.x)?.flatten_all()?.to_vec1::<f32>()?;
        weights.iter_mut().zip(product).for_each(|(g, p)| *g += f64::from(p));
        Ok(())
    }
}

/// Writes p = softmax(row + b); returns the log of the sum of exponentials.
fn softmax(row: &[f32], b: &[f64], p: &mut [f64]) -> f64 {
    let mut largest = f64::NEG_INFINITY;
    for ((p, &logit), b) in p.iter_mut().zip(row).zip(b) {
        *p = f64::from(logit) + b;
        largest = largest.max(*p);
    }
    let mut sum = 0.0;
    for p in p.iter_mut() {
        *p = (*p - largest).exp();
        sum += *p;
    }
    p.iter_mut().for_each(|p| *p /= sum);
    largest + sum.ln()
}

/// The class of each row among those fitted, and the mean of −log p of its true class.
pub(crate) fn evaluate(blocks: &[Block], shape: Shape, theta: &[f64]) -> Result<(Vec<u32>, f64)> {
    let (w, b) = shape.split(theta)?;
    let parts = blocks
        .par_iter()
        .map(|block| {
            let logits = block.x.matmul(&w)?.to_vec2::<f32>()?;
            let mut p = vec![0.0; shape.classes];
            let mut loss = 0.0;
            let mut predicted = Vec::with_capacity(logits.len());
            for (row, &class) in logits.iter().zip(&block.classes) {
                let lse = softmax(row, b, &mut p);
                loss += lse - (f64::from(row[class as usize]) + b[class as usize]);
                predicted.push(crate::knn::first_largest(&p) as u32);
            }
            Ok((predicted, loss))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut predicted = Vec::new();
    let mut loss = 0.0;
    for (part, part_loss) in parts {
        predicted.extend(part);
        loss += part_loss;
    }
    let n = predicted.len() as f64;
    Ok((predicted, loss / n))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A problem of 40 rows in 3 blocks, values on a grid that f32 holds exactly.
    fn problem() -> (Vec<Block>, Vec<f64>, Vec<u32>, Shape) {
        let shape = Shape { classes: 3, dim: 4 };
        let x: Vec<f64> = (0..160u32).map(|i| f64::from(i * 37 % 64) / 16.0 - 2.0).collect();
        let classes: Vec<u32> = (0..40).map(|i| i * i % 3).collect();
        let blocks = [0..16, 16..32, 32..40].map(|rows: std::ops::Range<usize>| {
            let values: Vec<f32> = x[rows.start * 4..rows.end * 4].iter().map(|&v| v as f32).collect();
            let x = Tensor::from_vec(values, (rows.len(), 4), &Device::Cpu).unwrap();
            Block { x, classes: classes[rows].to_vec() }
        });
        (blocks.into(), x, classes, shape)
    }

    /// The formula in f64, word for word.
    fn oracle(x: &[f64], classes: &[u32], theta: &[f64], l2: f64) -> f64 {
        let mut loss = 0.0;
        for (row, &class) in x.chunks(4).zip(classes) {
            let logit = |c: usize| theta[12 + c] + (0..4).map(|j| theta[4 * c + j] * row[j]).sum::<f64>();
            let sum: f64 = (0..3).map(|c| logit(c).exp()).sum();
            loss -= (logit(class as usize).exp() / sum).ln();
        }
        loss / classes.len() as f64 + l2 / 2.0 * theta[..12].iter().map(|w| w * w).sum::<f64>()
    }

    #[test]
    fn value_and_gradient_are_the_formulas() {
        let (blocks, x, classes, shape) = problem();
        let blocks: Vec<&Block> = blocks.iter().collect();
        let theta: Vec<f64> = (0..15u32).map(|i| f64::from(i * 11 % 16) / 16.0 - 0.5).collect();
        for l2 in [0.0, 0.25] {
            let mut gradient = vec![f64::NAN; 15];
            let value = objective(&blocks, shape, l2, &theta, &mut gradient).unwrap();
            let expected = oracle(&x, &classes, &theta, l2);
            assert!((value - expected).abs() < 1e-6, "{value} and {expected}");
            for (i, &got) in gradient.iter().enumerate() {
                let moved = |by: f64| {
                    let mut theta = theta.clone();
                    theta[i] += by;
                    oracle(&x, &classes, &theta, l2)
                };
                let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((got - expected).abs() < 1e-6, "l2 {l2}, component {i}: {got}, expected {expected}");
            }
        }
    }

    #[test]
    fn logits_of_a_thousand_do_not_overflow() {
        let (blocks, _, _, shape) = problem();
        let blocks: Vec<&Block> = blocks.iter().collect();
        let theta =
            vec![1000.0, -1000.0, 0.0, 500.0, 0.0, 0.0, 900.0, 0.0, -3.0, 700.0, 0.0, 0.0, 1e5, -1e5, 0.0];
        let mut gradient = vec![0.0; 15];
        let value = objective(&blocks, shape, 0.0, &theta, &mut gradient).unwrap();
        assert!(value.is_finite() && gradient.iter().all(|g| g.is_finite()), "{value} {gradient:?}");
    }
}
