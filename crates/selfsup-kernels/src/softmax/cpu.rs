//! Both softmaxes, a task for some rows: each row stays in the first-level cache between its passes.

use crate::element::Element;
use crate::lanes::{max, sum};
use crate::output::in_chunks;
use crate::simd::vectorized;

/// Numbers in a task, so that short rows do not make many small ones: what it clears is still in the first-level cache
/// when it is written.
const TASK: usize = 4 * 1024;

pub(super) fn softmax<T: Element>(x: &[T], d: usize) -> Vec<T> {
    each_row(
        [x, x],
        d,
        #[inline(always)]
        |y, [x, _]| {
            let max = max(x);
            for (y, x) in y.iter_mut().zip(x) {
                *y = (*x - max).exp_fused(T::ZERO);
            }
            let sum = sum(
                y,
                #[inline(always)]
                |y| y,
            );
            let scale = T::from_f64(1.0 / sum);
            for y in y.iter_mut() {
                *y *= scale;
            }
        },
    )
}

pub(super) fn softmax_backward<T: Element>(y: &[T], dy: &[T], d: usize) -> Vec<T> {
    each_row(
        [y, dy],
        d,
        #[inline(always)]
        |dx, [y, dy]| {
            for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = *y * *dy;
            }
            let mean = sum(
                dx,
                #[inline(always)]
                |product| product,
            );
            let mean = T::from_f64(mean);
            for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = *y * (*dy - mean);
            }
        },
    )
}

pub(super) fn log_softmax<T: Element>(x: &[T], d: usize) -> Vec<T> {
    each_row(
        [x, x],
        d,
        #[inline(always)]
        |y, [x, _]| {
            let max = max(x);
            let sum = sum(
                x,
                #[inline(always)]
                |x| (x - max).exp_fused(T::ZERO),
            );
            let ln = T::from_f64(sum.ln());
            for (y, x) in y.iter_mut().zip(x) {
                *y = *x - max - ln;
            }
        },
    )
}

pub(super) fn log_softmax_backward<T: Element>(y: &[T], dy: &[T], d: usize) -> Vec<T> {
    each_row(
        [y, dy],
        d,
        #[inline(always)]
        |dx, [y, dy]| {
            let sum = sum(
                dy,
                #[inline(always)]
                |dy| dy,
            );
            let sum = T::from_f64(sum);
            for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = *dy - y.exp_fused(T::ZERO) * sum;
            }
        },
    )
}

/// Calls `f` with each row of the result and of both inputs.
fn each_row<T: Element>(inputs: [&[T]; 2], d: usize, f: impl Fn(&mut [T], [&[T]; 2]) + Sync) -> Vec<T> {
    let task = (TASK / d).max(1) * d;
    let (out, _) = in_chunks(inputs[0].len(), task, |at, out: &mut [T]| {
        let rows = at..at + out.len();
        let [a, b] = inputs.map(|x| &x[rows.clone()]);
        vectorized(
            #[inline(always)]
            || {
                for ((out, a), b) in out.chunks_exact_mut(d).zip(a.chunks_exact(d)).zip(b.chunks_exact(d)) {
                    f(out, [a, b]);
                }
            },
        );
    });
    out
}
