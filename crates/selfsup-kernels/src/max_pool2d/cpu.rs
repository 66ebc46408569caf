//! Max pooling with the channels as the inner loop. The backward pass looks for the maxima again: that is
//! cheaper than to write and read their places.

use super::Geometry;
use crate::element::Element;
use crate::simd::vectorized;
use crate::stored::Stored;
use rayon::prelude::*;

pub(super) fn forward<T: Stored>(g: &Geometry, x: &[T]) -> Vec<T> {
    let mut y = vec![T::ZERO; g.n * g.out_h * g.out_w * g.c];
    y.par_chunks_mut(g.out_w * g.c).enumerate().for_each(|(row, y)| {
        let (n, i) = (row / g.out_h, row % g.out_h);
        let image = &x[n * g.h * g.w * g.c..][..g.h * g.w * g.c];
        vectorized(
            #[inline(always)]
            || {
                for (j, y) in y.chunks_exact_mut(g.c).enumerate() {
                    let mut first = true;
                    each_pixel(
                        g,
                        i,
                        j,
                        #[inline(always)]
                        |at| {
                            let x = &image[at..at + g.c];
                            if first {
                                y.copy_from_slice(x);
                            } else {
                                for (y, x) in y.iter_mut().zip(x) {
                                    *y = if exceeds(x.wide(), y.wide()) { *x } else { *y };
                                }
                            }
                            first = false;
                        },
                    );
                }
            },
        );
    });
    y
}

/// dx. A task owns an image, as windows may overlap.
pub(super) fn backward<T: Stored>(g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    let image = g.h * g.w * g.c;
    let mut dx = vec![T::ZERO; x.len()];
    let images =
        dx.par_chunks_mut(image).zip(x.par_chunks(image)).zip(dy.par_chunks(g.out_h * g.out_w * g.c));
    images.for_each(|((dx, x), dy)| T::sum_into(dx, |dx| image_gradient(g, x, dy, dx)));
    dx
}

/// dx of an image, added to zeros.
fn image_gradient<T: Stored>(g: &Geometry, x: &[T], dy: &[T], dx: &mut [T::Wide]) {
    let mut best = vec![T::ZERO; g.c];
    let mut place = vec![0u32; g.c];
    vectorized(
        #[inline(always)]
        || {
            for (p, dy) in dy.chunks_exact(g.c).enumerate() {
                let mut first = true;
                let mut pixels = 0u32;
                let (i, j) = (p / g.out_w, p % g.out_w);
                each_pixel(
                    g,
                    i,
                    j,
                    #[inline(always)]
                    |at| {
                        let x = &x[at..at + g.c];
                        if first {
                            best.copy_from_slice(x);
                            place.fill(0);
                        } else {
                            for ((best, place), x) in best.iter_mut().zip(place.iter_mut()).zip(x) {
                                let exceeds = exceeds(x.wide(), best.wide());
                                *best = if exceeds { *x } else { *best };
                                *place = if exceeds { pixels } else { *place };
                            }
                        }
                        first = false;
                        pixels += 1;
                    },
                );
                let mut pixel = 0u32;
                each_pixel(
                    g,
                    i,
                    j,
                    #[inline(always)]
                    |at| {
                        for ((dx, dy), place) in dx[at..at + g.c].iter_mut().zip(dy).zip(place.iter()) {
                            *dx += if *place == pixel { dy.wide() } else { T::Wide::ZERO };
                        }
                        pixel += 1;
                    },
                );
            }
        },
    );
}

/// Whether a value takes the maximum's place: it is larger, or NaN.
#[inline(always)]
#[allow(clippy::eq_op)]
fn exceeds<T: Element>(value: T, best: T) -> bool {
    value > best || value != value
}

/// Calls `f` with the first channel's place of each pixel that an output pixel sees, in row-major order.
#[inline(always)]
fn each_pixel(g: &Geometry, i: usize, j: usize, mut f: impl FnMut(usize)) {
    for row in g.window(i, g.h) {
        for column in g.window(j, g.w) {
            f((row * g.w + column) * g.c);
        }
    }
}
