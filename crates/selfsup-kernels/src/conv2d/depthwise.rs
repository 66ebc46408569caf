//! Depthwise convolution: one channel in for each channel out, so no matrix product. The channels are the vectors,
//! contiguous in NHWC; their sums stay in registers while the taps run.

use super::cpu::{Finish, sum_slabs};
use super::geometry::Geometry;
use super::microkernel::{BlockFinish, load, write};
use super::taps::Taps;
use crate::element::Element;
use crate::scratch::Shared;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Sums of the weight's gradient, at most: one for every few images.
const SLABS: usize = 32;
/// Vectors of channels that go together.
const VECTORS: usize = 4;

/// y[.., c] = Σ x at the tap[.., c] · weight[tap, c].
pub(super) fn forward<T: Element>(
    arch: Arch,
    g: &Geometry,
    x: &[T],
    weight: &[T],
    finish: Finish<'_, T>,
) -> Vec<T> {
    sums(arch, &Taps::forward(g), g.n, x, weight, finish)
}

/// dx[.., c] = Σ dy of the pixels that saw it[.., c] · weight[tap, c].
pub(super) fn backward_input<T: Element>(arch: Arch, g: &Geometry, dy: &[T], weight: &[T]) -> Vec<T> {
    sums(arch, &Taps::backward(g), g.n, dy, weight, Finish::default())
}

fn sums<T: Element>(
    arch: Arch,
    taps: &Taps,
    n: usize,
    x: &[T],
    weight: &[T],
    finish: Finish<'_, T>,
) -> Vec<T> {
    let c = weight.len() / taps.count();
    let (rows, row) = (n * taps.out_h, taps.out_w * c);
    let mut y = Vec::with_capacity(rows * row);
    let out = Shared::new(y.as_mut_ptr());
    (0..rows).into_par_iter().for_each(|index| {
        arch.dispatch(Row {
            taps,
            c,
            image: index / taps.out_h,
            i: index % taps.out_h,
            x,
            weight,
            y: out,
            finish,
        });
    });
    // SAFETY: the capacity is as large, and the tasks have written every channel of every row.
    unsafe { y.set_len(rows * row) };
    y
}

/// A row of output pixels.
struct Row<'a, T> {
    taps: &'a Taps,
    c: usize,
    image: usize,
    i: usize,
    x: &'a [T],
    weight: &'a [T],
    y: Shared<T>,
    finish: Finish<'a, T>,
}

impl<T: Element> WithSimd for Row<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for_each_group::<S, T>(
            self.c,
            #[inline(always)]
            |from, width| match width / T::lanes::<S>() {
                VECTORS => self.channels::<S, VECTORS, true>(simd, from, width),
                1 => self.channels::<S, 1, true>(simd, from, width),
                _ => self.channels::<S, 1, false>(simd, from, width),
            },
        );
    }
}

impl<T: Element> Row<'_, T> {
    /// N vectors of channels, or, if they are not WHOLE, a part of one.
    #[inline(always)]
    fn channels<S: Simd, const N: usize, const WHOLE: bool>(&self, simd: S, from: usize, width: usize) {
        let Self { taps, c, .. } = *self;
        let x = &self.x[self.image * taps.image..][..taps.image];
        let finish = BlockFinish::of_all(self.finish);
        for j in 0..taps.out_w {
            let mut sums = [T::splat(simd, T::ZERO); N];
            for a in 0..taps.kh {
                for b in 0..taps.kw {
                    let Some(source) = taps.source((self.i, j), a, b) else { continue };
                    let x = loaded::<S, T, N, WHOLE>(simd, &x[source + from..][..width]);
                    let weight = &self.weight[(a * taps.kw + b) * c + from..][..width];
                    let weight = loaded::<S, T, N, WHOLE>(simd, weight);
                    for ((sum, x), w) in sums.iter_mut().zip(&x).zip(&weight) {
                        *sum = T::mul_add(simd, *x, *w, *sum);
                    }
                }
            }
            let row = ((self.image * taps.out_h + self.i) * taps.out_w + j) * c;
            for (n, sum) in sums.iter().enumerate() {
                // SAFETY: the row's channels are in y, in the residual, which has its shape, and in the bias, and this task
                // alone has the row.
                unsafe { finish.write(simd, *sum, self.y.get(), row, from + n * T::lanes::<S>(), c) };
            }
        }
    }
}

/// Calls `f` with the first channel and the number of those that go together: as many whole vectors as registers are
/// meant for, then single ones, then what is left of one.
#[inline(always)]
fn for_each_group<S: Simd, T: Element>(c: usize, mut f: impl FnMut(usize, usize)) {
    let lanes = T::lanes::<S>();
    let mut from = 0;
    while from < c {
        let width = match c - from {
            rest if rest >= VECTORS * lanes => VECTORS * lanes,
            rest => rest.min(lanes),
        };
        f(from, width);
        from += width;
    }
}

/// The N vectors of a slice as long, or, if it is not WHOLE, the part of one.
#[inline(always)]
fn loaded<S: Simd, T: Element, const N: usize, const WHOLE: bool>(simd: S, from: &[T]) -> [T::Vector<S>; N] {
    let mut vectors = [T::splat(simd, T::ZERO); N];
    if WHOLE {
        assert!(from.len() == N * T::lanes::<S>());
        for (n, vector) in vectors.iter_mut().enumerate() {
            // SAFETY: the slice holds N vectors, as just checked.
            *vector = unsafe { load::<S, T>(from.as_ptr().add(n * T::lanes::<S>())) };
        }
    } else {
        vectors[0] = T::load_part(simd, from);
    }
    vectors
}

/// dweight[tap, c] = Σ x at the tap · dy: each slab of images sums its own, then the slabs are added.
pub(super) fn backward_weight<T: Element>(arch: Arch, g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    let taps = &Taps::forward(g);
    let len = g.taps() * g.c;
    let images = g.n.div_ceil(SLABS);
    let mut sums = vec![T::ZERO; g.n.div_ceil(images) * len];
    sums.par_chunks_mut(len).enumerate().for_each(|(slab, sums)| {
        let images = slab * images..((slab + 1) * images).min(g.n);
        arch.dispatch(Slab { taps, c: g.c, images, x, dy, sums });
    });
    sum_slabs(sums, len)
}

struct Slab<'a, T> {
    taps: &'a Taps,
    c: usize,
    images: Range<usize>,
    x: &'a [T],
    dy: &'a [T],
    sums: &'a mut [T],
}

impl<T: Element> WithSimd for Slab<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { taps, c, x, dy, sums, .. } = self;
        let row = taps.out_w * c;
        for image in self.images {
            let x = &x[image * taps.image..][..taps.image];
            // A row of dy serves all taps while it is in the cache.
            for (i, dy) in dy[image * taps.out_h * row..].chunks_exact(row).take(taps.out_h).enumerate() {
                for tap in 0..taps.count() {
                    let of_row = Tap { taps, c, i, tap, x, dy };
                    let sums = &mut sums[tap * c..][..c];
                    for_each_group::<S, T>(
                        c,
                        #[inline(always)]
                        |from, width| {
                            let sums = &mut sums[from..from + width];
                            match width / T::lanes::<S>() {
                                VECTORS => of_row.add::<S, VECTORS, true>(simd, from, sums),
                                1 => of_row.add::<S, 1, true>(simd, from, sums),
                                _ => of_row.add::<S, 1, false>(simd, from, sums),
                            }
                        },
                    );
                }
            }
        }
    }
}

/// A tap, for a row of output pixels.
struct Tap<'a, T> {
    taps: &'a Taps,
    c: usize,
    i: usize,
    tap: usize,
    x: &'a [T],
    dy: &'a [T],
}

impl<T: Element> Tap<'_, T> {
    /// Adds the row's products of some channels, N vectors or a part of one.
    #[inline(always)]
    fn add<S: Simd, const N: usize, const WHOLE: bool>(&self, simd: S, from: usize, sums: &mut [T]) {
        let Self { taps, c, x, .. } = *self;
        let (a, b) = (self.tap / taps.kw, self.tap % taps.kw);
        let mut totals = loaded::<S, T, N, WHOLE>(simd, sums);
        for (j, dy) in self.dy.chunks_exact(c).enumerate() {
            let Some(source) = taps.source((self.i, j), a, b) else { continue };
            let x = loaded::<S, T, N, WHOLE>(simd, &x[source + from..][..sums.len()]);
            let dy = loaded::<S, T, N, WHOLE>(simd, &dy[from..][..sums.len()]);
            for ((total, x), dy) in totals.iter_mut().zip(&x).zip(&dy) {
                *total = T::mul_add(simd, *x, *dy, *total);
            }
        }
        for (total, sums) in totals.iter().zip(sums.chunks_mut(T::lanes::<S>())) {
            write(simd, sums, *total);
        }
    }
}
