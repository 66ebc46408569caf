//! Batch normalisation in two passes over memory each way: statistics and result, sums and gradients.
//!
//! Rows are cut into chunks that fit the first-level cache, chunks into tasks, both by shape alone; partial sums
//! are merged in order. So results do not depend on the number of threads.

use crate::element::Element;
use crate::simd::vectorized;
use rayon::prelude::*;

/// Numbers in a chunk: 32 KiB of f32.
const CHUNK: usize = 8 * 1024;
/// Rows in a chunk: enough that the chunk's own bookkeeping is small, few enough that f32 sums stay exact.
const CHUNK_ROWS: std::ops::RangeInclusive<usize> = 16..=256;
/// Tasks, at most: enough for load balance on 16 cores.
const TASKS: usize = 64;

/// Statistics with their channels' weight and bias.
pub(super) struct Affine<T = f64> {
    mean: Vec<T>,
    inv_std: Vec<T>,
    weight: Vec<T>,
    bias: Vec<T>,
}

impl Affine {
    /// The statistics, without weight and bias yet.
    pub(super) fn new(mean: &[f64], var: &[f64], eps: f64) -> Self {
        let inv_std = var.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
        Self { mean: mean.to_vec(), inv_std, weight: Vec::new(), bias: Vec::new() }
    }

    /// With weight and bias, given one after the other.
    pub(super) fn with_params<T: Element>(&self, params: &[T]) -> Affine<T> {
        let cast = |values: &[f64]| values.iter().map(|&v| T::from_f64(v)).collect();
        let (weight, bias) = params.split_at(self.mean.len());
        Affine {
            mean: cast(&self.mean),
            inv_std: cast(&self.inv_std),
            weight: weight.to_vec(),
            bias: bias.to_vec(),
        }
    }
}

/// How rows of c numbers are cut: chunk and task, both in numbers.
fn cut(len: usize, c: usize) -> (usize, usize) {
    let chunk = (CHUNK / c).clamp(*CHUNK_ROWS.start(), *CHUNK_ROWS.end()) * c;
    (chunk, len.div_ceil(chunk).div_ceil(TASKS) * chunk)
}

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
pub(super) fn statistics<T: Element>(x: &[T], c: usize) -> (Vec<f64>, Vec<f64>) {
    let (chunk, task) = cut(x.len(), c);
    let parts: Vec<Moments> = x
        .par_chunks(task)
        .map(|x| {
            let mut moments = Moments::new(c);
            let mut sums = [vec![T::ZERO; c], vec![T::ZERO; c], vec![T::ZERO; c]];
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

/// Adds a chunk: its mean first, then differences from it, whose sum also corrects the mean's rounding.
#[inline(always)]
fn add_chunk<T: Element>(x: &[T], c: usize, moments: &mut Moments, sums: &mut [Vec<T>; 3]) {
    let count = (x.len() / c) as f64;
    let per_row = T::from_f64(1.0 / count);
    let [shift, first, second] = sums.each_mut().map(|s| &mut s[..c]);
    shift.fill(T::ZERO);
    first.fill(T::ZERO);
    second.fill(T::ZERO);
    for row in x.chunks_exact(c) {
        for (s, x) in shift.iter_mut().zip(row) {
            *s += *x;
        }
    }
    for s in shift.iter_mut() {
        *s *= per_row;
    }
    for row in x.chunks_exact(c) {
        for (((x, shift), first), second) in
            row.iter().zip(shift.iter()).zip(first.iter_mut()).zip(second.iter_mut())
        {
            let difference = *x - *shift;
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

/// A number, or 0 where ReLU stops it: NaN passes.
#[inline(always)]
fn gated<T: Element>(value: T, y: T, relu: bool) -> T {
    if relu && y <= T::ZERO { T::ZERO } else { value }
}

/// y of the module's formula.
pub(super) fn normalize<T: Element>(x: &[T], a: &Affine<T>, residual: Option<&[T]>, relu: bool) -> Vec<T> {
    let c = a.mean.len();
    let (_, task) = cut(x.len(), c);
    let scale: Vec<T> = a.inv_std.iter().zip(&a.weight).map(|(s, w)| *s * *w).collect();
    let channels = || a.mean.iter().zip(&scale).zip(&a.bias);
    let mut y = vec![T::ZERO; x.len()];
    y.par_chunks_mut(task).enumerate().for_each(|(i, y)| {
        let x = &x[i * task..][..y.len()];
        match residual {
            None => vectorized(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                        for ((y, x), ((mean, scale), bias)) in y.iter_mut().zip(x).zip(channels()) {
                            let value = (*x - *mean) * *scale + *bias;
                            *y = gated(value, value, relu);
                        }
                    }
                },
            ),
            Some(residual) => vectorized(
                #[inline(always)]
                || {
                    let residual = &residual[i * task..][..y.len()];
                    for ((y, x), r) in
                        y.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(residual.chunks_exact(c))
                    {
                        for (((y, x), r), ((mean, scale), bias)) in y.iter_mut().zip(x).zip(r).zip(channels())
                        {
                            let value = (*x - *mean) * *scale + *bias + *r;
                            *y = gated(value, value, relu);
                        }
                    }
                },
            ),
        }
    });
    y
}

/// dγ and dβ. `y` comes if ReLU did: its gradient passes where y > 0.
pub(super) fn sums<T: Element>(x: &[T], y: Option<&[T]>, dy: &[T], a: &Affine<T>) -> (Vec<f64>, Vec<f64>) {
    let c = a.mean.len();
    let (chunk, task) = cut(x.len(), c);
    let parts: Vec<[Vec<f64>; 2]> = x
        .par_chunks(task)
        .enumerate()
        .map(|(i, x)| {
            let mut total = [vec![0.0; c], vec![0.0; c]];
            let mut sums = [vec![T::ZERO; c], vec![T::ZERO; c]];
            for (j, x) in x.chunks(chunk).enumerate() {
                let at = i * task + j * chunk;
                let dy = &dy[at..at + x.len()];
                vectorized(
                    #[inline(always)]
                    || match y {
                        Some(y) => add_sums::<T, true>(x, &y[at..at + x.len()], dy, a, &mut sums, &mut total),
                        None => add_sums::<T, false>(x, dy, dy, a, &mut sums, &mut total),
                    },
                );
            }
            total
        })
        .collect();
    let mut all = [vec![0.0; c], vec![0.0; c]];
    for part in &parts {
        for (all, part) in all.iter_mut().zip(part) {
            for (a, p) in all.iter_mut().zip(part) {
                *a += p;
            }
        }
    }
    let [dweight, dbias] = all;
    (dweight, dbias)
}

#[inline(always)]
fn add_sums<T: Element, const RELU: bool>(
    x: &[T],
    y: &[T],
    dy: &[T],
    a: &Affine<T>,
    sums: &mut [Vec<T>; 2],
    total: &mut [Vec<f64>; 2],
) {
    let c = a.mean.len();
    let [dweight, dbias] = sums.each_mut().map(|s| &mut s[..c]);
    dweight.fill(T::ZERO);
    dbias.fill(T::ZERO);
    for ((x, y), dy) in x.chunks_exact(c).zip(y.chunks_exact(c)).zip(dy.chunks_exact(c)) {
        let sums = dweight.iter_mut().zip(dbias.iter_mut());
        let rows = x.iter().zip(y).zip(dy).zip(&a.mean);
        for ((dweight, dbias), (((x, y), dy), mean)) in sums.zip(rows) {
            let g = gated(*dy, *y, RELU);
            *dbias += g;
            *dweight += g * (*x - *mean);
        }
    }
    for i in 0..c {
        total[0][i] += dweight[i].to_f64() * a.inv_std[i].to_f64();
        total[1][i] += dbias[i].to_f64();
    }
}

/// dx and, if asked, dresidual. `sums` are dγ and dβ where the statistics were the batch's own.
pub(super) fn gradients<T: Element>(
    x: &[T],
    y: Option<&[T]>,
    dy: &[T],
    a: &Affine<T>,
    sums: Option<(&[f64], &[f64])>,
    residual: bool,
) -> (Vec<T>, Option<Vec<T>>) {
    let c = a.mean.len();
    let count = (x.len() / c) as f64;
    // dx = g·p + (x − μ)·q + r, a channel.
    let scale = |i: usize| a.inv_std[i].to_f64() * a.weight[i].to_f64();
    let coefficient = |f: &dyn Fn(usize) -> f64| (0..c).map(|i| T::from_f64(f(i))).collect::<Vec<T>>();
    let p = coefficient(&scale);
    let q = coefficient(&|i| sums.map_or(0.0, |(dw, _)| -scale(i) * a.inv_std[i].to_f64() * dw[i] / count));
    let r = coefficient(&|i| sums.map_or(0.0, |(_, db)| -scale(i) * db[i] / count));
    let coefficients = || p.iter().zip(&q).zip(&r).zip(&a.mean);
    let (_, task) = cut(x.len(), c);
    let mut dx = vec![T::ZERO; x.len()];
    let mut dresidual = vec![T::ZERO; if residual { x.len() } else { 0 }];
    let relu = y.is_some();
    let y = y.unwrap_or(dy);
    let run = |at: usize, dx: &mut [T], dresidual: Option<&mut [T]>| {
        let range = at..at + dx.len();
        let (x, y, dy) = (&x[range.clone()], &y[range.clone()], &dy[range]);
        let rows = || x.chunks_exact(c).zip(y.chunks_exact(c)).zip(dy.chunks_exact(c));
        match dresidual {
            None => vectorized(
                #[inline(always)]
                || {
                    for (dx, ((x, y), dy)) in dx.chunks_exact_mut(c).zip(rows()) {
                        let numbers = dx.iter_mut().zip(x).zip(y).zip(dy);
                        for ((((dx, x), y), dy), (((p, q), r), mean)) in numbers.zip(coefficients()) {
                            let g = gated(*dy, *y, relu);
                            *dx = g * *p + (*x - *mean) * *q + *r;
                        }
                    }
                },
            ),
            Some(dresidual) => vectorized(
                #[inline(always)]
                || {
                    let out = dx.chunks_exact_mut(c).zip(dresidual.chunks_exact_mut(c));
                    for ((dx, dresidual), ((x, y), dy)) in out.zip(rows()) {
                        let numbers = dx.iter_mut().zip(x).zip(y).zip(dy).zip(dresidual);
                        for (((((dx, x), y), dy), dresidual), (((p, q), r), mean)) in
                            numbers.zip(coefficients())
                        {
                            let g = gated(*dy, *y, relu);
                            *dx = g * *p + (*x - *mean) * *q + *r;
                            *dresidual = g;
                        }
                    }
                },
            ),
        }
    };
    if residual {
        let parts = dx.par_chunks_mut(task).zip(dresidual.par_chunks_mut(task));
        parts.enumerate().for_each(|(i, (dx, dresidual))| run(i * task, dx, Some(dresidual)));
    } else {
        dx.par_chunks_mut(task).enumerate().for_each(|(i, dx)| run(i * task, dx, None));
    }
    (dx, residual.then_some(dresidual))
}
