//! Batch normalisation in two passes over memory each way: statistics and result, sums and gradients.
//!
//! Rows are cut into chunks that fit the first-level cache, chunks into tasks, both by shape alone; partial sums
//! are merged in order. So results do not depend on the number of threads.

use crate::element::Element;
use crate::output::in_segments;
use crate::simd::vectorized;
use crate::stored::Stored;
use candle_core::WithDType;
use rayon::prelude::*;
use std::borrow::Cow;

/// Numbers in a chunk: 32 KiB of f32.
const CHUNK: usize = 8 * 1024;
/// Rows in a chunk: enough that the chunk's own bookkeeping is small, few enough that f32 sums stay exact.
const CHUNK_ROWS: std::ops::RangeInclusive<usize> = 16..=256;
/// Tasks, at most: enough for load balance on 16 cores.
const TASKS: usize = 64;

/// Statistics with their channels' weight and bias.
pub(crate) struct Affine<T = f64> {
    mean: Vec<T>,
    inv_std: Vec<T>,
    weight: Vec<T>,
    bias: Vec<T>,
    /// inv_std · weight.
    scale: Vec<T>,
}

/// What one channel's numbers are normalised with.
#[derive(Clone, Copy)]
struct Channel<T> {
    mean: T,
    scale: T,
    bias: T,
}

impl<T: Element> Channel<T> {
    /// x̂·γ + β: in one place, as the backward pass must find the bits that the forward pass found.
    #[inline(always)]
    fn apply(self, x: T) -> T {
        (x - self.mean) * self.scale + self.bias
    }
}

impl Affine {
    /// The statistics, without weight and bias yet.
    pub(crate) fn new(mean: &[f64], var: &[f64], eps: f64) -> Self {
        let inv_std = var.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
        Self { mean: mean.to_vec(), inv_std, weight: Vec::new(), bias: Vec::new(), scale: Vec::new() }
    }

    /// With weight and bias, given one after the other.
    pub(crate) fn with_params<T: Element>(&self, params: &[T]) -> Affine<T> {
        let cast = |values: &[f64]| values.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
        let (weight, bias) = params.split_at(self.mean.len());
        let inv_std = cast(&self.inv_std);
        let scale = inv_std.iter().zip(weight).map(|(s, w)| *s * *w).collect();
        Affine { mean: cast(&self.mean), inv_std, weight: weight.to_vec(), bias: bias.to_vec(), scale }
    }
}

impl<T: Element> Affine<T> {
    #[inline(always)]
    fn channels(&self) -> impl Iterator<Item = Channel<T>> + '_ {
        self.mean.iter().zip(&self.scale).zip(&self.bias).map(
            #[inline(always)]
            |((mean, scale), bias)| Channel { mean: *mean, scale: *scale, bias: *bias },
        )
    }
}

/// How rows of c numbers are cut: chunk and task, both in numbers.
pub(super) fn cut(len: usize, c: usize) -> (usize, usize) {
    let chunk = (CHUNK / c).clamp(*CHUNK_ROWS.start(), *CHUNK_ROWS.end()) * c;
    (chunk, len.div_ceil(chunk).div_ceil(TASKS) * chunk)
}

/// A number, or 0 where ReLU stops it: NaN passes.
#[inline(always)]
fn gated<T: Element>(value: T, y: T, relu: bool) -> T {
    if relu && y <= T::ZERO { T::ZERO } else { value }
}

/// Numbers in a task that does nothing but write: its part stays in a usual second-level cache while it is cleared and
/// filled.
fn written(c: usize) -> usize {
    (4 * CHUNK / c).max(1) * c
}

/// y of the module's formula. x consists of equally long groups, each with its statistics.
pub(crate) fn normalize<S: Stored>(
    x: &[S],
    groups: &[Affine<S::Wide>],
    residual: Option<&[S]>,
    relu: bool,
) -> Vec<S> {
    let c = groups[0].mean.len();
    let group = x.len() / groups.len();
    let ([y], _) = in_segments(x.len(), group, written(c), |at, [y]: [&mut [S]; 1]| {
        let a = &groups[at / group];
        let x = &x[at..at + y.len()];
        match residual {
            None => vectorized(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                        for ((y, x), channel) in y.iter_mut().zip(x).zip(a.channels()) {
                            let value = channel.apply(x.wide());
                            *y = S::narrow(gated(value, value, relu));
                        }
                    }
                },
            ),
            Some(residual) => vectorized(
                #[inline(always)]
                || {
                    let rows = x.chunks_exact(c).zip(residual[at..at + x.len()].chunks_exact(c));
                    for (y, (x, r)) in y.chunks_exact_mut(c).zip(rows) {
                        for (((y, x), r), channel) in y.iter_mut().zip(x).zip(r).zip(a.channels()) {
                            let value = channel.apply(x.wide()) + r.wide();
                            *y = S::narrow(gated(value, value, relu));
                        }
                    }
                },
            ),
        }
    });
    y
}

/// What ReLU lets through of a gradient.
#[derive(Clone, Copy)]
pub(crate) enum Gate<'a, T> {
    /// All: there is no ReLU.
    Open,
    /// What the normalised x says, which is worked out again, with the same bits: cheaper than to read y.
    Again,
    /// What y says, which a residual went into.
    Output(&'a [T]),
}

/// What the backward pass returns.
pub(crate) struct Gradients<T> {
    pub(crate) x: Vec<T>,
    /// Σ g·x̂ and Σ g over all groups.
    pub(crate) weight: Vec<f64>,
    pub(crate) bias: Vec<f64>,
    /// g, where the gate is [`Gate::Output`]: the residual's gradient.
    pub(crate) gated: Option<Vec<T>>,
}

/// The gradients of the module's formula, with statistics that are the groups' own or not.
///
/// Where x is owned, dx takes its place.
pub(crate) fn gradients<S: Stored>(
    x: Cow<'_, [S]>,
    gate: Gate<S>,
    dy: &[S],
    groups: &[Affine<S::Wide>],
    own_statistics: bool,
) -> Gradients<S> {
    let (sums, gated) = sums(&x, gate, dy, groups);
    let sum = |i: usize| {
        let mut total = vec![0.0; groups[0].mean.len()];
        sums.iter().for_each(|sums| total.iter_mut().zip(&sums[i]).for_each(|(total, sum)| *total += sum));
        total
    };
    let (weight, bias) = (sum(0), sum(1));
    let again = matches!(gate, Gate::Again);
    let sums = own_statistics.then_some(&sums[..]);
    let x = input_gradient(x, gated.as_deref().unwrap_or(dy), groups, sums, again);
    Gradients { x, weight, bias, gated }
}

/// Σ g·x̂ and Σ g of each group, and g, where the gate is [`Gate::Output`].
fn sums<S: Stored>(
    x: &[S],
    gate: Gate<S>,
    dy: &[S],
    groups: &[Affine<S::Wide>],
) -> (Vec<[Vec<f64>; 2]>, Option<Vec<S>>) {
    let c = groups[0].mean.len();
    let group = x.len() / groups.len();
    let (chunk, task) = cut(group, c);
    let part = |at: usize, len: usize, mut out: Option<&mut [S]>| {
        let a = &groups[at / group];
        let mut total = [vec![0.0; c], vec![0.0; c]];
        let mut sums = [vec![S::Wide::ZERO; c], vec![S::Wide::ZERO; c]];
        for from in (0..len).step_by(chunk) {
            let part = from..(from + chunk).min(len);
            let range = at + part.start..at + part.end;
            let (x, dy) = (&x[range.clone()], &dy[range.clone()]);
            vectorized(
                #[inline(always)]
                || match (gate, &mut out) {
                    (Gate::Again, _) => add_sums::<S, true>(x, dy, a, &mut sums, &mut total),
                    (Gate::Output(y), Some(g)) => {
                        let g = &mut g[part.clone()];
                        for ((g, dy), y) in g.iter_mut().zip(dy).zip(&y[range.clone()]) {
                            *g = if y.wide() <= S::Wide::ZERO { S::ZERO } else { *dy };
                        }
                        add_sums::<S, false>(x, g, a, &mut sums, &mut total);
                    }
                    _ => add_sums::<S, false>(x, dy, a, &mut sums, &mut total),
                },
            );
        }
        (at / group, total)
    };
    let (gated, parts) = match gate {
        Gate::Output(_) => {
            let ([g], parts) =
                in_segments(x.len(), group, task, |at, [g]: [&mut [S]; 1]| part(at, g.len(), Some(g)));
            (Some(g), parts)
        }
        _ => {
            let starts: Vec<usize> =
                (0..groups.len()).flat_map(|i| (i * group..(i + 1) * group).step_by(task)).collect();
            let len = |at: usize| task.min(group - at % group);
            (None, starts.into_par_iter().map(|at| part(at, len(at), None)).collect())
        }
    };
    let mut all = vec![[vec![0.0; c], vec![0.0; c]]; groups.len()];
    for (group, part) in &parts {
        for (all, part) in all[*group].iter_mut().zip(part) {
            all.iter_mut().zip(part).for_each(|(all, part)| *all += part);
        }
    }
    (all, gated)
}

#[inline(always)]
fn add_sums<S: Stored, const RELU: bool>(
    x: &[S],
    dy: &[S],
    a: &Affine<S::Wide>,
    sums: &mut [Vec<S::Wide>; 2],
    total: &mut [Vec<f64>; 2],
) {
    let c = a.mean.len();
    let [dweight, dbias] = sums.each_mut().map(|s| &mut s[..c]);
    dweight.fill(S::Wide::ZERO);
    dbias.fill(S::Wide::ZERO);
    for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
        let sums = dweight.iter_mut().zip(dbias.iter_mut());
        for ((dweight, dbias), ((x, dy), channel)) in sums.zip(x.iter().zip(dy).zip(a.channels())) {
            let x = x.wide();
            let g = gated(dy.wide(), channel.apply(x), RELU);
            *dbias += g;
            *dweight += g * (x - channel.mean);
        }
    }
    for i in 0..c {
        total[0][i] += dweight[i].to_f64() * a.inv_std[i].to_f64();
        total[1][i] += dbias[i].to_f64();
    }
}

/// dx = g·p + (x − μ)·q + r, with p, q and r of each channel. `sums` are dγ and dβ of each group, where the statistics
/// were its own.
fn input_gradient<S: Stored>(
    x: Cow<'_, [S]>,
    dy: &[S],
    groups: &[Affine<S::Wide>],
    sums: Option<&[[Vec<f64>; 2]]>,
    again: bool,
) -> Vec<S> {
    let c = groups[0].mean.len();
    let group = x.len() / groups.len();
    let count = (group / c) as f64;
    let coefficients: Vec<[Vec<S::Wide>; 3]> = groups
        .iter()
        .enumerate()
        .map(|(i, a)| {
            let scale = |j: usize| a.inv_std[j].to_f64() * a.weight[j].to_f64();
            let of = |f: &dyn Fn(usize) -> f64| (0..c).map(|j| S::Wide::from_f64(f(j))).collect::<Vec<_>>();
            let q = |sums: &[Vec<f64>; 2], j: usize| -scale(j) * a.inv_std[j].to_f64() * sums[0][j] / count;
            let r = |sums: &[Vec<f64>; 2], j: usize| -scale(j) * sums[1][j] / count;
            [
                of(&scale),
                of(&|j| sums.map_or(0.0, |sums| q(&sums[i], j))),
                of(&|j| sums.map_or(0.0, |sums| r(&sums[i], j))),
            ]
        })
        .collect();
    let of_group =
        |at: usize| Gradient { affine: &groups[at / group], coefficients: &coefficients[at / group], again };
    match x {
        Cow::Borrowed(x) => {
            let ([dx], _) = in_segments(x.len(), group, written(c), |at, [dx]: [&mut [S]; 1]| {
                let range = at..at + dx.len();
                of_group(at).write(dx, &x[range.clone()], &dy[range]);
            });
            dx
        }
        Cow::Owned(mut x) => {
            x.par_chunks_mut(group).enumerate().for_each(|(i, x)| {
                x.par_chunks_mut(written(c)).enumerate().for_each(|(j, x)| {
                    let at = i * group + j * written(c);
                    of_group(at).replace(x, &dy[at..at + x.len()]);
                });
            });
            x
        }
    }
}

/// What a group's input gradient is made with.
struct Gradient<'a, W> {
    affine: &'a Affine<W>,
    /// p, q and r.
    coefficients: &'a [Vec<W>; 3],
    /// Whether a ReLU is to be looked for in the normalised x.
    again: bool,
}

// Two loops for what could be one: with a choice between dx and x in it, it would not vectorise.
impl<W: Element> Gradient<'_, W> {
    fn write<S: Stored<Wide = W>>(&self, dx: &mut [S], x: &[S], dy: &[S]) {
        let c = self.coefficients[0].len();
        vectorized(
            #[inline(always)]
            || {
                for (dx, (x, dy)) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c).zip(dy.chunks_exact(c))) {
                    for (((dx, x), dy), channel) in dx.iter_mut().zip(x).zip(dy).zip(self.channels()) {
                        *dx = S::narrow(self.at(x.wide(), dy.wide(), channel));
                    }
                }
            },
        );
    }

    /// The same with dx in the place of x.
    fn replace<S: Stored<Wide = W>>(&self, x: &mut [S], dy: &[S]) {
        let c = self.coefficients[0].len();
        vectorized(
            #[inline(always)]
            || {
                for (x, dy) in x.chunks_exact_mut(c).zip(dy.chunks_exact(c)) {
                    for ((x, dy), channel) in x.iter_mut().zip(dy).zip(self.channels()) {
                        *x = S::narrow(self.at(x.wide(), dy.wide(), channel));
                    }
                }
            },
        );
    }

    #[inline(always)]
    fn channels(&self) -> impl Iterator<Item = (Channel<W>, [W; 3])> + '_ {
        let [p, q, r] = self.coefficients;
        self.affine.channels().zip(p.iter().zip(q).zip(r)).map(
            #[inline(always)]
            |(channel, ((p, q), r))| (channel, [*p, *q, *r]),
        )
    }

    #[inline(always)]
    fn at(&self, x: W, dy: W, (channel, [p, q, r]): (Channel<W>, [W; 3])) -> W {
        let g = gated(dy, channel.apply(x), self.again);
        g * p + (x - channel.mean) * q + r
    }
}
