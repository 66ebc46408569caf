//! The forms of InfoNCE as sequences of launches.
//!
//! A row's own positive, where it has one alone, is left out of the gradient's tiles and comes in afterwards with its
//! weight exp(S − lse) − 1 in f64: the difference is what is left of it when the positive takes nearly all, and
//! bf16 would lose it.

use super::super::positives::Positives;
use super::launch::{Address, Gpu};
use super::rows::{Pull, Vectors, Which};
use super::tiles::{Half, Matrix, Passes, Rows, Weights};
use candle_core::Result;
use std::collections::HashMap;

/// Which loss, with what it needs beside the matrices.
pub(in crate::info_nce) enum Form {
    /// Of one matrix.
    SelfContrast(Positives),
    /// Of anchors and candidates.
    Pairs { positives: Vec<u32>, excluded: Option<Vec<u32>> },
    /// Of queries, keys and a queue.
    QueryKey,
    /// Of two matrices, and of the scale.
    TwoTower,
}

/// What the backward pass takes over from the forward pass.
pub(super) struct Saved<B> {
    lse: B,
    /// Of the columns, if both directions count.
    other_lse: Option<B>,
    own: B,
}

/// What a call works on, and for which of its inputs the backward pass wants a gradient.
pub(super) struct Inputs {
    pub(super) matrices: Vec<Matrix>,
    pub(super) wanted: [bool; 3],
}

/// The gradients of the inputs, as f32 in the inputs' shapes; of two towers the third is the scale's.
pub(super) type Gradients<B> = [Option<B>; 3];

impl Form {
    /// How many matrices it is of.
    pub(super) fn matrices(&self) -> usize {
        match self {
            Form::SelfContrast(_) => 1,
            Form::Pairs { .. } | Form::TwoTower => 2,
            Form::QueryKey => 3,
        }
    }

    /// The loss, one f32.
    pub(super) fn forward<G: Gpu>(
        &self,
        passes: &Passes<'_, G>,
        inputs: &Inputs,
    ) -> Result<(G::Buffer, Saved<G::Buffer>)> {
        let rows = all_rows(passes, inputs)?;
        let n = rows[0].len();
        let each = Weights::All(1.0 / n as f64);
        let (saved, weights) = match (self, &rows[..]) {
            (Form::SelfContrast(Positives::OtherView), [z]) => {
                let (itself, other) = (passes.shifted(n, 0)?, passes.shifted(n, n / 2)?);
                let lse = passes.log_sum_exp(z, z, Some(&itself), Some(&other), None)?;
                (Saved::new(lse)?, each)
            }
            (Form::SelfContrast(Positives::SameLabel(labels)), [z]) => {
                let groups = Groups::new(passes, labels)?;
                let itself = passes.shifted(n, 0)?;
                let (lse, _) = passes.log_sum_exp(z, z, Some(&itself), None, None)?;
                let own = groups.means(passes, z)?;
                let loss = passes.loss(n, &lse, None, &own, Weights::Each(&groups.weights))?;
                return Ok((loss, Saved { lse, other_lse: None, own }));
            }
            (Form::Pairs { positives, excluded }, [a, b]) => {
                let excluded = list(passes, excluded.as_deref())?;
                let positives = passes.list(positives)?;
                let lse = passes.log_sum_exp(a, b, excluded.as_ref(), Some(&positives), None)?;
                (Saved::new(lse)?, each)
            }
            (Form::QueryKey, [q, k, queue]) => {
                let own = passes.own_logits(q, Vectors::Of(k), None, None)?;
                let (lse, _) = passes.log_sum_exp(q, queue, None, None, Some(&own))?;
                (Saved { lse, other_lse: None, own }, each)
            }
            (Form::TwoTower, [a, b]) => {
                let itself = passes.shifted(n, 0)?;
                let lse = passes.log_sum_exp(a, b, None, Some(&itself), None)?;
                let (other_lse, _) = passes.log_sum_exp(b, a, None, None, None)?;
                let other_lse = Some(other_lse);
                (Saved { other_lse, ..Saved::new(lse)? }, Weights::All(0.5 / n as f64))
            }
            _ => candle_core::bail!("an InfoNCE with {} matrices", rows.len()),
        };
        let loss = passes.loss(n, &saved.lse, saved.other_lse.as_ref(), &saved.own, weights)?;
        Ok((loss, saved))
    }

    /// The gradients times `grad`, one f32.
    pub(super) fn backward<G: Gpu>(
        &self,
        passes: &Passes<'_, G>,
        inputs: &Inputs,
        saved: &Saved<G::Buffer>,
        grad: Address,
    ) -> Result<Gradients<G::Buffer>> {
        let rows = all_rows(passes, inputs)?;
        let n = rows[0].len();
        let each = Weights::All(1.0 / n as f64);
        match (self, &rows[..]) {
            (Form::SelfContrast(Positives::OtherView), [z]) => {
                let (itself, other) = (passes.shifted(n, 0)?, passes.shifted(n, n / 2)?);
                let softmax = passes.softmax(n, &saved.lse, each, Some(&saved.own))?;
                let left_out = [Some(&itself), Some(&other)];
                let half = |left_out| Half { softmax: Some(&softmax), left_out };
                let sums = passes.weighted_sums(z, z, half(left_out), half([None; 2]))?;
                let pulls = softmax.pulls()?;
                let (vectors, which) = (Vectors::Of(z), Which::Listed(&other));
                let pull = Pull { vectors, which, pulls, other_pulls: Some(pulls) };
                let (dz, _) = passes.finish(z, Some(&sums), pull, grad, false)?;
                Ok([Some(dz), None, None])
            }
            (Form::SelfContrast(Positives::SameLabel(labels)), [z]) => {
                let groups = Groups::new(passes, labels)?;
                let itself = passes.shifted(n, 0)?;
                let softmax = passes.softmax(n, &saved.lse, Weights::Each(&groups.weights), None)?;
                let half = |left_out| Half { softmax: Some(&softmax), left_out };
                let sums = passes.weighted_sums(z, z, half([Some(&itself), None]), half([None; 2]))?;
                let vectors = groups.sums(passes, z)?;
                let pull = Pull {
                    vectors: Vectors::Plain(&vectors),
                    which: Which::Listed(&groups.of),
                    pulls: &groups.pulls,
                    other_pulls: None,
                };
                let (dz, _) = passes.finish(z, Some(&sums), pull, grad, false)?;
                Ok([Some(dz), None, None])
            }
            (Form::Pairs { positives, excluded }, [a, b]) => {
                let excluded = list(passes, excluded.as_deref())?;
                let listed = passes.list(positives)?;
                let softmax = passes.softmax(n, &saved.lse, each, Some(&saved.own))?;
                let left_out = [excluded.as_ref(), Some(&listed)];
                let anchors = || Half { softmax: Some(&softmax), left_out };
                let candidates = || Half { softmax: None, left_out: [None; 2] };
                let pulls = softmax.pulls()?;
                let pull = |vectors, which| Pull { vectors, which, pulls, other_pulls: None };
                let sums = passes.weighted_sums(a, b, anchors(), candidates())?;
                let pull_a = pull(Vectors::Of(b), Which::Listed(&listed));
                let (da, _) = passes.finish(a, Some(&sums), pull_a, grad, false)?;
                let db = if inputs.wanted[1] {
                    let sums = passes.weighted_sums(b, a, candidates(), anchors())?;
                    let (offsets, list) = by_target(positives, b.len());
                    let (offsets, list) = (passes.gpu.upload(&offsets)?, passes.gpu.upload(&list)?);
                    let which = Which::Many { offsets: &offsets, list: &list };
                    Some(passes.finish(b, Some(&sums), pull(Vectors::Of(a), which), grad, false)?.0)
                } else {
                    None
                };
                Ok([Some(da), db, None])
            }
            (Form::QueryKey, [q, k, queue]) => {
                let softmax = passes.softmax(n, &saved.lse, each, Some(&saved.own))?;
                let queries = Half { softmax: Some(&softmax), left_out: [None; 2] };
                let sums =
                    passes.weighted_sums(q, queue, queries, Half { softmax: None, left_out: [None; 2] })?;
                let pulls = softmax.pulls()?;
                let pull =
                    |of| Pull { vectors: Vectors::Of(of), which: Which::Same, pulls, other_pulls: None };
                let (dq, _) = passes.finish(q, Some(&sums), pull(k), grad, false)?;
                let dk = match inputs.wanted[1] {
                    true => Some(passes.finish(k, None, pull(q), grad, false)?.0),
                    false => None,
                };
                Ok([Some(dq), dk, None])
            }
            (Form::TwoTower, [a, b]) => {
                let Some(other_lse) = &saved.other_lse else {
                    candle_core::bail!("two towers without the columns' sums")
                };
                let itself = passes.shifted(n, 0)?;
                let half = || Weights::All(0.5 / n as f64);
                let of_a = passes.softmax(n, &saved.lse, half(), Some(&saved.own))?;
                let of_b = passes.softmax(n, other_lse, half(), Some(&saved.own))?;
                let gradient = |x, softmax, y, other, along| {
                    let left_out = [Some(&itself), None];
                    let rows = Half { softmax: Some(softmax), left_out };
                    let columns = Half { softmax: Some(other), left_out: [None; 2] };
                    let sums = passes.weighted_sums(x, y, rows, columns)?;
                    let (pulls, other_pulls) = (softmax.pulls()?, Some(other.pulls()?));
                    let pull = Pull { vectors: Vectors::Of(y), which: Which::Same, pulls, other_pulls };
                    passes.finish(x, Some(&sums), pull, grad, along)
                };
                let (da, along) = gradient(a, &of_a, b, &of_b, true)?;
                let (db, _) = gradient(b, &of_b, a, &of_a, false)?;
                // S is proportional to the scale: Σ dS(i, k) S(i, k) over it is Σ_i ⟨v_i, dv_i⟩.
                let dscale = along.map(|along| passes.total(&along, n, grad)).transpose()?;
                Ok([Some(da), Some(db), dscale])
            }
            _ => candle_core::bail!("an InfoNCE with {} matrices", rows.len()),
        }
    }
}

impl<B> Saved<B> {
    fn new((lse, own): (B, Option<B>)) -> Result<Self> {
        match own {
            Some(own) => Ok(Self { lse, other_lse: None, own }),
            None => candle_core::bail!("the logits of the positives were not picked out"),
        }
    }
}

fn all_rows<G: Gpu>(passes: &Passes<'_, G>, inputs: &Inputs) -> Result<Vec<Rows<G::Buffer>>> {
    inputs.matrices.iter().map(|matrix| passes.normalize(*matrix)).collect()
}

fn list<G: Gpu>(passes: &Passes<'_, G>, rows: Option<&[u32]>) -> Result<Option<G::Buffer>> {
    rows.map(|rows| passes.list(rows)).transpose()
}

/// The rows of each of `count` targets: those of target k are list[offsets[k]] … list[offsets[k + 1] − 1], in order.
fn by_target(targets: &[u32], count: usize) -> (Vec<u32>, Vec<u32>) {
    let mut offsets = vec![0; count + 1];
    targets.iter().for_each(|&k| offsets[k as usize + 1] += 1);
    (0..count).for_each(|k| offsets[k + 1] += offsets[k]);
    let mut next = offsets.clone();
    let mut list = vec![0; targets.len()];
    for (i, &k) in targets.iter().enumerate() {
        list[next[k as usize] as usize] = i as u32;
        next[k as usize] += 1;
    }
    (offsets, list)
}

/// The rows of each label, on the device.
struct Groups<B> {
    count: usize,
    /// Of each row, the number of its label.
    of: B,
    offsets: B,
    list: B,
    /// 1/(number of anchors), or 0 for a row that is alone with its label.
    weights: B,
    /// 1/(number of a row's positives).
    shares: B,
    /// −2 · weight · share: the weight of the label's sum in a row's gradient. That the sum has the row itself in it
    /// changes nothing, since a unit vector's gradient has no part along it.
    pulls: B,
}

impl<B> Groups<B> {
    fn new<G: Gpu<Buffer = B>>(passes: &Passes<'_, G>, labels: &[u32]) -> Result<Self> {
        let mut numbers = HashMap::new();
        let of: Vec<u32> = labels
            .iter()
            .map(|label| {
                let next = numbers.len() as u32;
                *numbers.entry(*label).or_insert(next)
            })
            .collect();
        let count = numbers.len();
        let (offsets, list) = by_target(&of, count);
        let others = |k: u32| f64::from(offsets[k as usize + 1] - offsets[k as usize] - 1);
        let anchors = of.iter().filter(|&&k| others(k) > 0.0).count() as f64;
        let weight = |k: u32| if others(k) > 0.0 { 1.0 / anchors } else { 0.0 };
        let share = |k: u32| 1.0 / others(k).max(1.0);
        Ok(Self {
            count,
            weights: passes.numbers(of.iter().map(|&k| weight(k)))?,
            shares: passes.numbers(of.iter().map(|&k| share(k)))?,
            pulls: passes.numbers(of.iter().map(|&k| -2.0 * weight(k) * share(k)))?,
            of: passes.list(&of)?,
            offsets: passes.gpu.upload(&offsets)?,
            list: passes.gpu.upload(&list)?,
        })
    }

    /// The sum of the unit vectors of each label.
    fn sums<G: Gpu<Buffer = B>>(&self, passes: &Passes<'_, G>, z: &Rows<B>) -> Result<B> {
        passes.label_sums(z, self.count, &self.offsets, &self.list)
    }

    /// The mean logit of each row's positives.
    fn means<G: Gpu<Buffer = B>>(&self, passes: &Passes<'_, G>, z: &Rows<B>) -> Result<B> {
        let sums = self.sums(passes, z)?;
        passes.own_logits(z, Vectors::Plain(&sums), Some(&self.of), Some(&self.shares))
    }
}
