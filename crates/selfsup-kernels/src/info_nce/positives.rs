//! Which rows are whose positives.

use super::cpu::Rows;
use crate::element::Element;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;

/// The positives of each of n rows.
pub(super) enum Positives {
    /// Rows i and i + n/2 are each other's only one.
    OtherView,
    /// All other rows with the same label.
    SameLabel(Vec<u32>),
    /// Those that are listed.
    Listed(Listed),
}

/// A list of positives for each row, and the other way: whose positive each row is.
pub(super) struct Listed {
    of: Lists,
    whose: Lists,
}

/// A list of rows for each row, in ascending order.
struct Lists {
    /// Row i's list is `rows[starts[i]..starts[i + 1]]`.
    starts: Vec<usize>,
    rows: Vec<u32>,
}

impl Lists {
    fn at(&self, i: usize) -> &[u32] {
        &self.rows[self.starts[i]..self.starts[i + 1]]
    }
}

impl Listed {
    /// From a mask `[n, n]`: k is a positive of i where mask[i, k] ≠ 0 and k ≠ i.
    pub(super) fn from_mask(mask: &[u8], n: usize) -> Self {
        let mut of = Lists { starts: vec![0], rows: Vec::new() };
        for (i, row) in mask.chunks(n).enumerate() {
            of.rows.extend((0..n).filter(|&k| row[k] != 0 && k != i).map(|k| k as u32));
            of.starts.push(of.rows.len());
        }
        // Filled row by row, as a walk down the mask's columns would miss the cache at every step.
        let mut starts = vec![0; n + 1];
        of.rows.iter().for_each(|k| starts[*k as usize + 1] += 1);
        (0..n).for_each(|k| starts[k + 1] += starts[k]);
        let (mut next, mut rows) = (starts.clone(), vec![0; of.rows.len()]);
        for i in 0..n {
            for k in of.at(i) {
                rows[next[*k as usize]] = i as u32;
                next[*k as usize] += 1;
            }
        }
        Self { of, whose: Lists { starts, rows } }
    }

    /// The mask again, without its diagonal.
    pub(super) fn mask(&self, n: usize) -> Vec<u8> {
        let mut mask = vec![0; n * n];
        for (i, row) in mask.chunks_mut(n).enumerate() {
            self.of.at(i).iter().for_each(|k| row[*k as usize] = 1);
        }
        mask
    }
}

/// What the loss needs of them: a weight for each anchor, the mean of its positives, and what the gradient is pulled
/// along.
pub(super) struct Targets<'a, T: Clone> {
    /// 1/(number of anchors), or 0 for a row that is none.
    pub(super) weights: Vec<f64>,
    /// `[n, d]`; where the weight is 0, any numbers.
    means: Cow<'a, [T]>,
    /// The row of `means` that is row i's begins at (i + shift) modulo n.
    shift: usize,
    /// `[n, d]`, Σ over i of ∂/∂v_k of w_i·⟨v_i, mean_i⟩. Nothing where two rows that are each other's positives have equal
    /// weights and equally many positives: the gradient of both terms is then twice that of one.
    pulls: Option<Vec<T>>,
    d: usize,
}

impl Positives {
    /// The positive of each of n rows, where all have exactly one.
    pub(super) fn single(&self, n: usize) -> Option<Vec<u32>> {
        match self {
            Positives::OtherView => Some((0..n).map(|i| ((i + n / 2) % n) as u32).collect()),
            Positives::SameLabel(_) | Positives::Listed(_) => None,
        }
    }

    pub(super) fn targets<'a, T: Element>(&self, rows: &'a Rows<T>) -> Targets<'a, T> {
        let d = rows.d;
        let n = rows.values.len() / d;
        match self {
            Positives::OtherView => Targets {
                weights: vec![1.0 / n as f64; n],
                means: Cow::Borrowed(&rows.values),
                shift: n / 2,
                pulls: None,
                d,
            },
            Positives::SameLabel(labels) => {
                let mut sums: HashMap<u32, (usize, Vec<f64>)> = HashMap::new();
                for (i, label) in labels.iter().enumerate() {
                    let (count, sum) = sums.entry(*label).or_insert_with(|| (0, vec![0.0; d]));
                    *count += 1;
                    sum.iter_mut().zip(rows.row(i)).for_each(|(sum, v)| *sum += v.to_f64());
                }
                let anchors: usize = sums.values().map(|(count, _)| *count).filter(|count| *count > 1).sum();
                let weight = |label| if sums[label].0 > 1 { 1.0 / anchors as f64 } else { 0.0 };
                let mut means = Vec::with_capacity(n * d);
                for (i, label) in labels.iter().enumerate() {
                    let (count, sum) = &sums[label];
                    let others = count.saturating_sub(1).max(1) as f64;
                    means.extend(
                        sum.iter().zip(rows.row(i)).map(|(sum, v)| T::from_f64((sum - v.to_f64()) / others)),
                    );
                }
                Targets {
                    weights: labels.iter().map(weight).collect(),
                    means: Cow::Owned(means),
                    shift: 0,
                    pulls: None,
                    d,
                }
            }
            Positives::Listed(listed) => {
                let anchors = (0..n).filter(|i| !listed.of.at(*i).is_empty()).count();
                let weight = |i: usize| if listed.of.at(i).is_empty() { 0.0 } else { 1.0 / anchors as f64 };
                let share = |i: usize| weight(i) / listed.of.at(i).len().max(1) as f64;
                let (mut means, mut pulls) = (vec![T::ZERO; n * d], vec![T::ZERO; n * d]);
                means.par_chunks_mut(d).zip(pulls.par_chunks_mut(d)).enumerate().for_each(
                    |(i, (mean, pull))| {
                        let mut sum = vec![0.0; d];
                        listed.of.at(i).iter().for_each(|k| add(&mut sum, rows.row(*k as usize), 1.0));
                        let count = listed.of.at(i).len().max(1) as f64;
                        mean.iter_mut().zip(&sum).for_each(|(mean, sum)| *mean = T::from_f64(sum / count));
                        sum.iter_mut().for_each(|sum| *sum *= share(i));
                        listed.whose.at(i).iter().for_each(|k| {
                            add(&mut sum, rows.row(*k as usize), share(*k as usize));
                        });
                        pull.iter_mut().zip(&sum).for_each(|(pull, sum)| *pull = T::from_f64(*sum));
                    },
                );
                let weights = (0..n).map(weight).collect();
                Targets { weights, means: Cow::Owned(means), shift: 0, pulls: Some(pulls), d }
            }
        }
    }
}

/// sum ← sum + weight·v.
fn add<T: Element>(sum: &mut [f64], v: &[T], weight: f64) {
    sum.iter_mut().zip(v).for_each(|(sum, v)| *sum += weight * v.to_f64());
}

impl<T: Clone> Targets<'_, T> {
    /// The mean of row i's positives.
    pub(super) fn mean(&self, i: usize) -> &[T] {
        let i = (i + self.shift) % self.weights.len();
        &self.means[i * self.d..(i + 1) * self.d]
    }

    /// A vector and a factor: the gradient of row i is pulled along their product.
    pub(super) fn pull(&self, i: usize) -> (&[T], f64) {
        match &self.pulls {
            Some(pulls) => (&pulls[i * self.d..(i + 1) * self.d], 1.0),
            None => (self.mean(i), 2.0 * self.weights[i]),
        }
    }
}
