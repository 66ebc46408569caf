//! The batch's statistics in one pass over memory, each chunk's as differences from a mean close to its own.

use super::cpu::{Affine, cut};
use crate::simd::vectorized;
use crate::stored::Stored;
use candle_core::WithDType;
use rayon::prelude::*;

/// Count, mean and sum of squared differences from it, of each channel.
struct Moments {
    count: f64,
    mean: Vec<f64>,
    m2: Vec<f64>,
}

impl Moments {
    fn new(c: usize) -> Self {
        Self { count: 0.0, mean: vec![0.0; c], m2: vec![0.0; c] }
    }

    /// Adds a channel's moments over `count` more values (Chan et al. 1983, eq. 2.1); the caller then adds to
    /// the count.
    #[inline(always)]
    fn merge(mean: &mut f64, m2: &mut f64, total: f64, (count, other_mean, other_m2): (f64, f64, f64)) {
        let delta = other_mean - *mean;
        let share = count / (total + count);
        *mean += delta * share;
        *m2 += other_m2 + delta * delta * total * share;
    }
}

/// Each channel's mean and biased variance.
fn statistics<S: Stored>(x: &[S], c: usize) -> (Vec<f64>, Vec<f64>) {
    let (chunk, task) = cut(x.len(), c);
    let parts: Vec<Moments> = x
        .par_chunks(task)
        .map(|x| {
            let mut moments = Moments::new(c);
            let mut sums = [vec![S::Wide::ZERO; c], vec![S::Wide::ZERO; c], vec![S::Wide::ZERO; c]];
            for x in x.chunks(chunk) {
                vectorized(
                    #[inline(always)]
                    || add_chunk(x, c, &mut moments, &mut sums),
                );
            }
            moments
        })
        .collect();
    let mut all = Moments::new(c);
    for part in parts {
        for i in 0..c {
            let other = (part.count, part.mean[i], part.m2[i]);
            Moments::merge(&mut all.mean[i], &mut all.m2[i], all.count, other);
        }
        all.count += part.count;
    }
    let var = all.m2.iter().map(|m2| m2 / all.count).collect();
    (all.mean, var)
}

/// Adds a chunk as differences from a mean close to its own: that of the chunks before it, or of the first one, its own.
/// What the differences' rounding loses is small beside the variance that two unlike means make.
#[inline(always)]
fn add_chunk<S: Stored>(x: &[S], c: usize, moments: &mut Moments, sums: &mut [Vec<S::Wide>; 3]) {
    let count = (x.len() / c) as f64;
    let [shift, first, second] = sums.each_mut().map(|s| &mut s[..c]);
    if moments.count == 0.0 {
        shift.fill(S::Wide::ZERO);
        for row in x.chunks_exact(c) {
            for (s, x) in shift.iter_mut().zip(row) {
                *s += x.wide();
            }
        }
        let per_row = S::Wide::from_f64(1.0 / count);
        for s in shift.iter_mut() {
            *s *= per_row;
        }
    } else {
        for (s, mean) in shift.iter_mut().zip(&moments.mean) {
            *s = S::Wide::from_f64(*mean);
        }
    }
    first.fill(S::Wide::ZERO);
    second.fill(S::Wide::ZERO);
    for row in x.chunks_exact(c) {
        for (((x, shift), first), second) in
            row.iter().zip(shift.iter()).zip(first.iter_mut()).zip(second.iter_mut())
        {
            let difference = x.wide() - *shift;
            *first += difference;
            *second += difference * difference;
        }
    }
    for i in 0..c {
        let first = first[i].to_f64();
        let mean = shift[i].to_f64() + first / count;
        let m2 = second[i].to_f64() - first * first / count;
        Moments::merge(&mut moments.mean[i], &mut moments.m2[i], moments.count, (count, mean, m2));
    }
    moments.count += count;
}

/// What a batch has been normalised with.
pub(crate) struct BatchStatistics {
    /// One a group.
    pub(crate) affines: Vec<Affine>,
    /// The means over the groups of each channel's mean and biased variance.
    pub(crate) mean: Vec<f64>,
    pub(crate) var: Vec<f64>,
}

impl BatchStatistics {
    /// Those of x's groups, which are equally long.
    pub(crate) fn new<S: Stored>(x: &[S], c: usize, groups: usize, eps: f64) -> Self {
        let mut all = Self { affines: Vec::with_capacity(groups), mean: vec![0.0; c], var: vec![0.0; c] };
        for group in x.chunks(x.len() / groups) {
            let (mean, var) = statistics(group, c);
            all.affines.push(Affine::new(&mean, &var, eps));
            for (sum, own) in all.mean.iter_mut().zip(mean).chain(all.var.iter_mut().zip(var)) {
                *sum += own / groups as f64;
            }
        }
        all
    }
}
