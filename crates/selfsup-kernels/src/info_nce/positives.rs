//! Which rows are whose positives.

use super::cpu::Rows;
use crate::element::Element;
use std::borrow::Cow;
use std::collections::HashMap;

/// The positives of each of n rows.
pub(super) enum Positives {
    /// Rows i and i + n/2 are each other's only one.
    OtherView,
    /// All other rows with the same label.
    SameLabel(Vec<u32>),
}

/// What the loss needs of them: a weight for each anchor, and the mean of its positives. Two rows that are each
/// other's positives have equal weights and equally many positives, so that the gradient of both terms is twice
/// that of one.
pub(super) struct Targets<'a, T: Clone> {
    /// 1/(number of anchors), or 0 for a row that is none.
    pub(super) weights: Vec<f64>,
    /// `[n, d]`; where the weight is 0, any numbers.
    means: Cow<'a, [T]>,
    /// The row of `means` that is row i's begins at (i + shift) modulo n.
    shift: usize,
    d: usize,
}

impl Positives {
    /// The positive of each of n rows, where all have exactly one.
    pub(super) fn single(&self, n: usize) -> Option<Vec<u32>> {
        match self {
            Positives::OtherView => Some((0..n).map(|i| ((i + n / 2) % n) as u32).collect()),
            Positives::SameLabel(_) => None,
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
                    d,
                }
            }
        }
    }
}

impl<T: Clone> Targets<'_, T> {
    /// The mean of row i's positives.
    pub(super) fn mean(&self, i: usize) -> &[T] {
        let i = (i + self.shift) % self.weights.len();
        &self.means[i * self.d..(i + 1) * self.d]
    }
}
