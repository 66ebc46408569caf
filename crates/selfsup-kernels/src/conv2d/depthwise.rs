//! Depthwise convolution: one channel in for each channel out, so no matrix product. The channels are the vectors,
//! contiguous in NHWC; their sums stay in registers while the taps run.

use super::cpu::{Finish, sum_slabs};
use super::geometry::Geometry;
use super::microkernel::{BlockFinish, read, write};
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
        let Self { taps, c, .. } = self;
        let x = &self.x[self.image * taps.image..][..taps.image];
        let finish = BlockFinish::of_all(self.finish);
        for j in 0..taps.out_w {
            let row = ((self.image * taps.out_h + self.i) * taps.out_w + j) * c;
            for channels in groups::<S, T>(c) {
                let mut sums = [T::splat(simd, T::ZERO); VECTORS];
                for a in 0..taps.kh {
                    for b in 0..taps.kw {
                        let Some(source) = taps.source((self.i, j), a, b) else { continue };
                        let x = &x[source..][channels.clone()];
                        let weight = &self.weight[(a * taps.kw + b) * c..][channels.clone()];
                        for (sum, (x, w)) in
                            sums.iter_mut().zip(vectors::<S, T>(x).zip(vectors::<S, T>(weight)))
                        {
                            *sum = T::mul_add(simd, read(simd, x), read(simd, w), *sum);
                        }
                    }
                }
                for (sum, from) in sums.iter().zip(channels.step_by(T::lanes::<S>())) {
                    // SAFETY: the row's channels from `from` on are in y, in the residual, which has its shape, and in
                    // the bias, and this task alone has the row.
                    unsafe { finish.write(simd, *sum, self.y.get(), row, from, c) };
                }
            }
        }
    }
}

/// The channels, as many at a time as go together.
#[inline(always)]
fn groups<S: Simd, T: Element>(c: usize) -> impl Iterator<Item = Range<usize>> {
    let many = VECTORS * T::lanes::<S>();
    (0..c.div_ceil(many)).map(move |i| i * many..((i + 1) * many).min(c))
}

/// A vector's numbers at a time; the last may be fewer.
#[inline(always)]
fn vectors<S: Simd, T: Element>(numbers: &[T]) -> std::slice::Chunks<'_, T> {
    numbers.chunks(T::lanes::<S>())
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
        let Self { taps, c, sums, .. } = self;
        let row = taps.out_w * c;
        for image in self.images {
            let x = &self.x[image * taps.image..][..taps.image];
            // A row of dy serves all taps while it is in the cache.
            for (i, dy) in self.dy[image * taps.out_h * row..].chunks_exact(row).take(taps.out_h).enumerate()
            {
                for tap in 0..taps.count() {
                    for channels in groups::<S, T>(c) {
                        let sums = &mut sums[tap * c..][channels.clone()];
                        let mut registers = [T::splat(simd, T::ZERO); VECTORS];
                        for (register, sum) in registers.iter_mut().zip(vectors::<S, T>(sums)) {
                            *register = read(simd, sum);
                        }
                        for (j, dy) in dy.chunks_exact(c).enumerate() {
                            let Some(source) = taps.source((i, j), tap / taps.kw, tap % taps.kw) else {
                                continue;
                            };
                            let (x, dy) = (&x[source..][channels.clone()], &dy[channels.clone()]);
                            for (sum, (x, d)) in
                                registers.iter_mut().zip(vectors::<S, T>(x).zip(vectors::<S, T>(dy)))
                            {
                                *sum = T::mul_add(simd, read(simd, x), read(simd, d), *sum);
                            }
                        }
                        for (register, sum) in registers.iter().zip(sums.chunks_mut(T::lanes::<S>())) {
                            write(simd, sum, *register);
                        }
                    }
                }
            }
        }
    }
}
