//! What each row is in the loss, for `info_nce.metal`: every form is the same two passes with other roles.

use std::collections::HashMap;

/// A row number that no row has.
const NONE: u32 = u32::MAX;

/// What a row is in the loss, as the shader has it: an anchor if its weight is not 0, with the other side's rows
/// whose label is its target as positives.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    label: u32,
    target: u32,
    excluded: u32,
    weight: f32,
    share: f32,
}

impl Role {
    /// Its words in the shader's order.
    pub fn words(&self) -> [u32; 5] {
        [self.label, self.target, self.excluded, self.weight.to_bits(), self.share.to_bits()]
    }

    /// Whether it is an anchor.
    pub fn is_anchor(&self) -> bool {
        self.weight != 0.0
    }

    /// Row `label` of the candidates.
    fn candidate(label: usize) -> Self {
        Self { label: label as u32, target: NONE, excluded: NONE, weight: 0.0, share: 0.0 }
    }

    /// Rows i and i + n/2 are views of one image.
    pub fn other_views(n: usize) -> Vec<Self> {
        let weight = (1.0 / n as f64) as f32;
        let target = |i| ((i + n / 2) % n) as u32;
        (0..n)
            .map(|i| Self { target: target(i), excluded: i as u32, weight, share: 1.0, ..Self::candidate(i) })
            .collect()
    }

    /// Rows with one label are each other's positives; a row without any has weight 0.
    pub fn same_labels(labels: &[u32]) -> Vec<Self> {
        let mut counts = HashMap::new();
        labels.iter().for_each(|label| *counts.entry(*label).or_insert(0usize) += 1);
        let anchors: usize = counts.values().filter(|count| **count > 1).sum();
        let role = |(i, label): (usize, &u32)| {
            let others = counts[label] - 1;
            let weight = if others > 0 { (1.0 / anchors as f64) as f32 } else { 0.0 };
            let share = (1.0 / others.max(1) as f64) as f32;
            Self { label: *label, target: *label, excluded: i as u32, weight, share }
        };
        labels.iter().enumerate().map(role).collect()
    }

    /// Anchors with one positive each among m candidates, and the candidates.
    pub fn pairs(positives: &[u32], excluded: Option<&[u32]>, m: usize) -> [Vec<Self>; 2] {
        let weight = (1.0 / positives.len() as f64) as f32;
        let excluded = |i: usize| excluded.map_or(NONE, |e| e[i]);
        let anchor = |(i, p): (usize, &u32)| Self {
            target: *p,
            excluded: excluded(i),
            weight,
            share: 1.0,
            ..Self::candidate(i)
        };
        [positives.iter().enumerate().map(anchor).collect(), (0..m).map(Self::candidate).collect()]
    }

    /// Queries whose positive is no row of the queue, and the queue's m rows.
    pub fn queue(n: usize, m: usize) -> [Vec<Self>; 2] {
        let weight = (1.0 / n as f64) as f32;
        [
            (0..n).map(|i| Self { weight, share: 1.0, ..Self::candidate(i) }).collect(),
            (0..m).map(Self::candidate).collect(),
        ]
    }

    /// Row i of one tower belongs to row i of the other.
    pub fn two_towers(n: usize) -> Vec<Self> {
        let weight = (0.5 / n as f64) as f32;
        (0..n).map(|i| Self { target: i as u32, weight, share: 1.0, ..Self::candidate(i) }).collect()
    }
}
