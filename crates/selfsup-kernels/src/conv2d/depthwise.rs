//! Depthwise convolution: one channel in for each channel out, so no matrix product. The channels are the inner
//! loop, contiguous in NHWC.

use super::cpu::{Finish, sum_slabs};
use super::geometry::Geometry;
use crate::element::Element;
use crate::simd::vectorized;
use rayon::prelude::*;

/// Sums of the weight's gradient, at most: one for every few images.
const SLABS: usize = 32;

/// y[.., c] = Σ x at the tap[.., c] · weight[tap, c].
pub(super) fn forward<T: Element>(g: &Geometry, x: &[T], weight: &[T], finish: Finish<'_, T>) -> Vec<T> {
    let mut y = vec![T::ZERO; g.rows() * g.k];
    y.par_chunks_mut(g.out_w * g.k).enumerate().for_each(|(row, y)| {
        let (n, i) = (row / g.out_h, row % g.out_h);
        let residual = finish.residual.map(|r| &r[row * y.len()..][..y.len()]);
        vectorized(
            #[inline(always)]
            || {
                for (j, y) in y.chunks_exact_mut(g.k).enumerate() {
                    if let Some(bias) = finish.bias {
                        y.copy_from_slice(bias);
                    }
                    each_tap(
                        g,
                        n,
                        i,
                        j,
                        #[inline(always)]
                        |tap, at| {
                            let (x, weight) = (&x[at..at + g.c], &weight[tap * g.c..(tap + 1) * g.c]);
                            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                                *y += *x * *w;
                            }
                        },
                    );
                    if let Some(residual) = residual {
                        for (y, r) in y.iter_mut().zip(&residual[j * g.k..]) {
                            *y += *r;
                        }
                    }
                    if finish.relu {
                        for y in y.iter_mut() {
                            *y = if *y <= T::ZERO { T::ZERO } else { *y };
                        }
                    }
                }
            },
        );
    });
    y
}

/// dx, image by image.
pub(super) fn backward_input<T: Element>(g: &Geometry, dy: &[T], weight: &[T]) -> Vec<T> {
    let image = g.h * g.w * g.c;
    let mut dx = vec![T::ZERO; g.n * image];
    dx.par_chunks_mut(image).zip(dy.par_chunks(g.out_h * g.out_w * g.k)).for_each(|(dx, dy)| {
        vectorized(
            #[inline(always)]
            || {
                for (p, dy) in dy.chunks_exact(g.k).enumerate() {
                    each_tap(
                        g,
                        0,
                        p / g.out_w,
                        p % g.out_w,
                        #[inline(always)]
                        |tap, at| {
                            let weight = &weight[tap * g.c..(tap + 1) * g.c];
                            for ((dx, dy), w) in dx[at..at + g.c].iter_mut().zip(dy).zip(weight) {
                                *dx += *dy * *w;
                            }
                        },
                    );
                }
            },
        );
    });
    dx
}

/// dweight: each slab of images sums its own, then the slabs are added.
pub(super) fn backward_weight<T: Element>(g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    let len = g.taps() * g.c;
    let images = g.n.div_ceil(SLABS);
    let pixels = g.out_h * g.out_w;
    let mut sums = vec![T::ZERO; g.n.div_ceil(images) * len];
    sums.par_chunks_mut(len).zip(dy.par_chunks(images * pixels * g.k)).enumerate().for_each(
        |(slab, (sum, dy))| {
            vectorized(
                #[inline(always)]
                || {
                    for (p, dy) in dy.chunks_exact(g.k).enumerate() {
                        let (n, i, j) = (slab * images + p / pixels, p / g.out_w % g.out_h, p % g.out_w);
                        each_tap(
                            g,
                            n,
                            i,
                            j,
                            #[inline(always)]
                            |tap, at| {
                                let sum = &mut sum[tap * g.c..(tap + 1) * g.c];
                                for ((s, dy), x) in sum.iter_mut().zip(dy).zip(&x[at..at + g.c]) {
                                    *s += *dy * *x;
                                }
                            },
                        );
                    }
                },
            );
        },
    );
    sum_slabs(sums, len)
}

/// Calls `f` with each tap that is in the image and the place of its first channel.
#[inline(always)]
fn each_tap(g: &Geometry, n: usize, i: usize, j: usize, mut f: impl FnMut(usize, usize)) {
    for a in 0..g.kh {
        for b in 0..g.kw {
            if let Some((y, x)) = g.source(i, j, a, b) {
                f(a * g.kw + b, ((n * g.h + y) * g.w + x) * g.c);
            }
        }
    }
}
