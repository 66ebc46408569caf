//! Layer normalisation, a task for some rows. A row stays in the first-level cache between its passes, so that the
//! backward pass works the statistics out again rather than read them.

use crate::element::Element;
use crate::lanes::{BLOCK, LANES, over_lanes, sum, two_sums};
use crate::output::in_chunks;
use crate::simd::vectorized;

/// Rows that sums over rows take in T before they go to f64.
const ROWS: usize = 64;
/// Tasks, at most: enough for load balance on 16 cores, few enough that their sums over rows are small beside x.
const TASKS: usize = 64;

/// Numbers in a task, whole rows.
fn task_len(len: usize, c: usize) -> usize {
    (len / c).div_ceil(TASKS).max((8 * 1024) / c).max(1) * c
}

/// What makes x̂ = (x − mean)·scale + shift of a row.
struct Statistics<T> {
    /// Rounded to T, which `shift` corrects.
    mean: T,
    scale: T,
    shift: T,
}

#[inline(always)]
fn statistics<T: Element>(x: &[T], eps: f64) -> Statistics<T> {
    let count = x.len() as f64;
    let total = sum(
        x,
        #[inline(always)]
        |x| x,
    );
    let mean = T::from_f64(total / count);
    let (first, second) = two_sums(
        [x; 3],
        #[inline(always)]
        |x, _, _| {
            let difference = x - mean;
            (difference, difference * difference)
        },
    );
    let left = first / count;
    let var = (second / count - left * left).max(0.0);
    let scale = 1.0 / (var + eps).sqrt();
    Statistics { mean, scale: T::from_f64(scale), shift: T::from_f64(-left * scale) }
}

/// y of the module's formula.
pub(super) fn forward<T: Element>(x: &[T], weight: &[T], bias: &[T], eps: f64) -> Vec<T> {
    let c = weight.len();
    let (y, _) = in_chunks(x.len(), (4 * 1024 / c).max(1) * c, |at, y: &mut [T]| {
        let x = &x[at..at + y.len()];
        vectorized(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                    let Statistics { mean, scale, shift } = statistics(x, eps);
                    for ((y, x), (weight, bias)) in y.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                        *y = ((*x - mean) * scale + shift) * *weight + *bias;
                    }
                }
            },
        );
    });
    y
}

/// dx, dγ and dβ.
pub(super) fn backward<T: Element>(
    x: &[T],
    weight: &[T],
    dy: &[T],
    eps: f64,
) -> (Vec<T>, Vec<f64>, Vec<f64>) {
    let c = weight.len();
    let task = task_len(x.len(), c);
    let (dx, parts) = in_chunks(x.len(), task, |at, dx: &mut [T]| {
        let range = at..at + dx.len();
        let (x, dy) = (&x[range.clone()], &dy[range]);
        let mut total = [vec![0.0; c], vec![0.0; c]];
        let mut sums = [vec![T::ZERO; c], vec![T::ZERO; c]];
        let blocks = dx.chunks_mut(ROWS * c).zip(x.chunks(ROWS * c)).zip(dy.chunks(ROWS * c));
        for ((dx, x), dy) in blocks {
            vectorized(
                #[inline(always)]
                || {
                    let rows = dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(dy.chunks_exact(c));
                    for ((dx, x), dy) in rows {
                        backward_row(x, weight, dy, eps, dx, &mut sums);
                    }
                    for (total, sums) in total.iter_mut().zip(&mut sums) {
                        for (total, sum) in total.iter_mut().zip(sums.iter()) {
                            *total += sum.to_f64();
                        }
                        sums.fill(T::ZERO);
                    }
                },
            );
        }
        total
    });
    let mut all = [vec![0.0; c], vec![0.0; c]];
    for part in &parts {
        for (all, part) in all.iter_mut().zip(part) {
            all.iter_mut().zip(part).for_each(|(all, part)| *all += part);
        }
    }
    let [dweight, dbias] = all;
    (dx, dweight, dbias)
}

#[inline(always)]
fn backward_row<T: Element>(
    x: &[T],
    weight: &[T],
    dy: &[T],
    eps: f64,
    dx: &mut [T],
    [dweight, dbias]: &mut [Vec<T>; 2],
) {
    let Statistics { mean, scale, shift } = statistics(x, eps);
    let (mut g, mut along) = (0.0, 0.0);
    let over_rows = dweight.chunks_mut(BLOCK).zip(dbias.chunks_mut(BLOCK));
    let blocks = x.chunks(BLOCK).zip(dy.chunks(BLOCK)).zip(weight.chunks(BLOCK)).zip(over_rows);
    for (((x, dy), weight), (dweight, dbias)) in blocks {
        let (mut g_lanes, mut along_lanes) = ([T::ZERO; LANES], [T::ZERO; LANES]);
        let ((x, x_rest), (dy, dy_rest)) = (x.as_chunks::<LANES>(), dy.as_chunks::<LANES>());
        let (weight, weight_rest) = weight.as_chunks::<LANES>();
        let (dweight, dweight_rest) = dweight.as_chunks_mut::<LANES>();
        let (dbias, dbias_rest) = dbias.as_chunks_mut::<LANES>();
        let over_rows = dweight.iter_mut().zip(dbias);
        for (((x, dy), weight), (dweight, dbias)) in x.iter().zip(dy).zip(weight).zip(over_rows) {
            // Copies, which nothing that is written overlaps.
            let (x, dy, weight) = (*x, *dy, *weight);
            let mut normalized = [T::ZERO; LANES];
            for i in 0..LANES {
                normalized[i] = (x[i] - mean) * scale + shift;
            }
            for i in 0..LANES {
                dweight[i] += dy[i] * normalized[i];
            }
            for i in 0..LANES {
                dbias[i] += dy[i];
            }
            for i in 0..LANES {
                let g = dy[i] * weight[i];
                g_lanes[i] += g;
                along_lanes[i] += g * normalized[i];
            }
        }
        for i in 0..x_rest.len() {
            let normalized = (x_rest[i] - mean) * scale + shift;
            dweight_rest[i] += dy_rest[i] * normalized;
            dbias_rest[i] += dy_rest[i];
            let g = dy_rest[i] * weight_rest[i];
            g_lanes[i] += g;
            along_lanes[i] += g * normalized;
        }
        g += over_lanes(g_lanes);
        along += over_lanes(along_lanes);
    }
    let count = x.len() as f64;
    let (g, along) = (T::from_f64(g / count), T::from_f64(along / count));
    for (((dx, x), weight), dy) in dx.iter_mut().zip(x).zip(weight).zip(dy) {
        *dx = (*dy * *weight - g - ((*x - mean) * scale + shift) * along) * scale;
    }
}
