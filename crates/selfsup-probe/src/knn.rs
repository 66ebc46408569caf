//! The weighted k-nearest-neighbour probe (Wu et al. 2018, arXiv:1805.01978, §3.4).
//!
//! Features are l2-normalised; s_i = cos(x, x_i). The k training samples most similar to a test sample x vote
//! for their classes with the weight exp(s_i / τ), and the class with the most votes is predicted. Nothing is
//! trained, so there is nothing to tune on the test part.
//!
//! Similarities are f32 matrix products of a block of test rows with a block of training rows; of each block
//! only the candidates for the k largest are kept, so the n_test × n_train matrix never exists. Votes are f64.
//! The result does not depend on the number of threads.

use crate::Result;
use crate::error::setting;
use crate::features::{Labelled, share_correct};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use std::cmp::Ordering;

/// Neighbours that vote: what Caron et al. 2021 (arXiv:2104.14294, §4.1) found best throughout. The paper's 200 is
/// for ImageNet's 1300 images a class; with a few hundred a class it reaches far beyond a class and makes every
/// baseline look poor. Published CIFAR-10 figures mostly take 200 and a temperature of 0.1.
pub const DEFAULT_K: usize = 20;

/// Temperature of the votes: the paper's.
pub const DEFAULT_TEMPERATURE: f64 = 0.07;

/// Test rows a product.
const TEST_BLOCK: usize = 256;

/// Training rows a product: with [`TEST_BLOCK`], 4 MiB of similarities.
const TRAIN_BLOCK: usize = 4096;

/// Settings of the kNN probe.
#[derive(Debug, Clone, PartialEq)]
pub struct KnnConfig {
    /// Neighbours that vote. More than there are training samples means all of them.
    pub k: usize,
    /// Temperature τ: small values listen to the nearest neighbours alone.
    pub temperature: f64,
}

impl Default for KnnConfig {
    fn default() -> Self {
        Self { k: DEFAULT_K, temperature: DEFAULT_TEMPERATURE }
    }
}

impl KnnConfig {
    /// k must be at least 1, the temperature positive and finite.
    pub fn validate(&self) -> Result<()> {
        if self.k == 0 {
            return Err(setting("k", "at least 1", self.k));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(setting("temperature", "positive and finite", self.temperature));
        }
        Ok(())
    }
}

/// The share of test samples, in 0…1, whose class is predicted right (top-1). See [`predict`].
pub fn accuracy(train: &Labelled, test: &Labelled, config: &KnnConfig) -> Result<f64> {
    Ok(share_correct(&predict(train, test, config)?, test.labels()))
}

/// The predicted class of each test sample.
///
/// Ties: of two training samples that are equally similar the first counts as nearer; of two classes with
/// equal votes the one with the lower index wins. A zero vector has similarity 0 to everything.
///
/// Memory: a normalised copy of the training features, and a few MiB plus 2k candidates a test row for 256 rows.
///
/// # Errors
///
/// [`Error::Setting`](crate::Error::Setting), [`Error::OneClass`](crate::Error::OneClass),
/// [`Error::Dimensions`](crate::Error::Dimensions), [`Error::UnknownClass`](crate::Error::UnknownClass).
pub fn predict(train: &Labelled, test: &Labelled, config: &KnnConfig) -> Result<Vec<u32>> {
    config.validate()?;
    train.check_test(test)?;
    let mut predicted = Vec::with_capacity(test.len());
    search(train.values(), test.values(), train.dim(), config.k, |nearest| {
        predicted.par_extend(nearest.into_par_iter().map(|n| vote(&n.sorted(), train, config.temperature)));
    })?;
    Ok(predicted)
}

/// A row that is near another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Its place among the rows.
    pub index: usize,
    /// Cosine of the angle between both, in −1…1; 0 to a zero row.
    pub similarity: f32,
}

/// Of each row of `asked` `[m, d]` the k rows of `known` `[n, d]` (all, if there are fewer) that are most similar by the cosine, nearest
/// first, and of two that are equally near the first.
///
/// # Errors
///
/// [`Error::Setting`](crate::Error::Setting) for k or d of 0, and values that are no rows of d.
pub fn nearest(known: &[f32], asked: &[f32], dim: usize, k: usize) -> Result<Vec<Vec<Neighbour>>> {
    if dim == 0 || !known.len().is_multiple_of(dim) || !asked.len().is_multiple_of(dim) {
        return Err(setting("dim", "the width of every row", dim));
    }
    if k == 0 {
        return Err(setting("k", "at least 1", k));
    }
    let mut all = Vec::with_capacity(asked.len() / dim);
    search(known, asked, dim, k, |nearest| {
        // Rounding may lead a little beyond.
        let of = |(similarity, index): (f32, u32)| Neighbour {
            index: index as usize,
            similarity: similarity.clamp(-1.0, 1.0),
        };
        all.extend(nearest.into_iter().map(|n| n.sorted().into_iter().map(of).collect::<Vec<_>>()));
    })?;
    Ok(all)
}

/// The nearest of some rows after the others, in their order.
fn search(
    known: &[f32],
    asked: &[f32],
    d: usize,
    k: usize,
    mut found: impl FnMut(Vec<Nearest>),
) -> Result<()> {
    let k = k.min(known.len() / d);
    let blocks = known
        .par_chunks(TRAIN_BLOCK * d)
        .map(|rows| Ok(normalized(rows, d)?.t()?.contiguous()?))
        .collect::<Result<Vec<Tensor>>>()?;
    for rows in asked.chunks(TEST_BLOCK * d) {
        let rows = normalized(rows, d)?;
        let mut nearest = vec![Nearest::new(k); rows.dim(0)?];
        for (i, block) in blocks.iter().enumerate() {
            let similarities = rows.matmul(block)?.flatten_all()?.to_vec1::<f32>()?;
            let row_length = block.dim(1)?;
            nearest
                .par_iter_mut()
                .zip(similarities.par_chunks(row_length))
                .for_each(|(nearest, row)| nearest.offer(row, (i * TRAIN_BLOCK) as u32));
        }
        found(nearest);
    }
    Ok(())
}

/// Rows `[n, d]`, each divided by its l2 norm, which is summed in f64; zero rows stay zero.
fn normalized(rows: &[f32], d: usize) -> Result<Tensor> {
    let mut out = Vec::with_capacity(rows.len());
    for row in rows.chunks_exact(d) {
        let norm = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        out.extend(row.iter().map(|&v| (f64::from(v) * scale) as f32));
    }
    Ok(Tensor::from_vec(out, (rows.len() / d, d), &Device::Cpu)?)
}

/// The candidates for the k nearest of one test row: similarity and training index.
#[derive(Clone)]
struct Nearest {
    k: usize,
    candidates: Vec<(f32, u32)>,
    /// The k-th largest similarity when the candidates were last cut down to k.
    floor: f32,
}

impl Nearest {
    fn new(k: usize) -> Self {
        Self { k, candidates: Vec::new(), floor: f32::NEG_INFINITY }
    }

    /// Takes the similarities to the training rows from index `first` on. Indices must come in ascending
    /// order: that is why a similarity equal to the floor can be dropped.
    fn offer(&mut self, similarities: &[f32], first: u32) {
        for (i, &similarity) in similarities.iter().enumerate() {
            if similarity > self.floor {
                self.candidates.push((similarity, first + i as u32));
                if self.candidates.len() >= 2 * self.k {
                    self.cut();
                }
            }
        }
    }

    fn cut(&mut self) {
        if self.candidates.len() > self.k {
            self.candidates.select_nth_unstable_by(self.k - 1, nearer);
            self.candidates.truncate(self.k);
            self.floor = self.candidates[self.k - 1].0;
        }
    }

    /// The k nearest, nearest first.
    fn sorted(mut self) -> Vec<(f32, u32)> {
        self.cut();
        self.candidates.sort_unstable_by(nearer);
        self.candidates
    }
}

/// Orders the more similar first, and of equally similar ones the lower index.
fn nearer(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// The class with the most votes of neighbours sorted by [`nearer`].
fn vote(neighbours: &[(f32, u32)], train: &Labelled, temperature: f64) -> u32 {
    // Dividing all votes by the largest changes no order and cannot overflow, however small τ is.
    let largest = f64::from(neighbours[0].0);
    let mut votes = vec![0.0; train.classes().len()];
    for &(similarity, i) in neighbours {
        votes[train.labels()[i as usize] as usize] += ((f64::from(similarity) - largest) / temperature).exp();
    }
    first_largest(&votes) as u32
}

/// The index of the largest value, the lowest of equal ones.
pub(crate) fn first_largest(values: &[f64]) -> usize {
    let mut best = 0;
    for (i, &value) in values.iter().enumerate() {
        if value > values[best] {
            best = i;
        }
    }
    best
}
