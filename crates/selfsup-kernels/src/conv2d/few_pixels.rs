//! Convolutions with so few pixels that packing their weights would take longer than using them: the weights are
//! read once, where they lie.

use super::cpu::Finish;
use super::geometry::Geometry;
use super::microkernel::{Block, BlockFinish, blocks, read};
use super::taps::Taps;
use crate::element::Element;
use crate::scratch::Shared;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Pixels up to which this is faster.
const MOST: usize = 8;
/// Numbers of the weight's gradient that a task works out.
const TASK: usize = 16 * 1024;
/// Channels of dx that a task works out.
const CHANNELS: usize = 32;

/// Whether the convolution writes so few pixels; the weight's gradient reads as many.
pub(super) fn writes(g: &Geometry) -> bool {
    g.n * g.out_h * g.out_w <= MOST
}

/// Whether the input gradient does.
pub(super) fn writes_input(g: &Geometry) -> bool {
    g.n * g.h * g.w <= MOST
}

/// y of the convolution.
pub(super) fn forward<T: Element>(
    arch: Arch,
    g: &Geometry,
    x: &[T],
    weight: &[T],
    finish: Finish<'_, T>,
) -> Vec<T> {
    let taps = Taps::forward(g);
    let len = g.n * taps.out_h * taps.out_w * g.k;
    let mut y = Vec::with_capacity(len);
    let out = Shared::new(y.as_mut_ptr());
    blocks::<T>(arch, g.groups, g.group_k()).par_iter().for_each(|block| {
        arch.dispatch(Columns {
            taps: &taps,
            g,
            block,
            x,
            weight,
            y: out,
            finish: BlockFinish::new(finish, block),
        });
    });
    // SAFETY: the capacity is as large, and the tasks have written every column of every pixel.
    unsafe { y.set_len(len) };
    y
}

/// A block of columns of all pixels.
struct Columns<'a, T> {
    taps: &'a Taps,
    g: &'a Geometry,
    block: &'a Block,
    x: &'a [T],
    weight: &'a [T],
    y: Shared<T>,
    finish: BlockFinish<T>,
}

impl<T: Element> WithSimd for Columns<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { taps, block, .. } = self;
        let (k, lanes) = (self.g.k, T::lanes::<S>());
        for_each_pixel(taps, self.g.n, |pixel, image, position| {
            // At most four vectors are across: see `blocks`.
            let mut sums = [T::splat(simd, T::ZERO); 4];
            for tap in 0..taps.count() {
                let Some(source) = taps.source(position, tap / taps.kw, tap % taps.kw) else { continue };
                let x = &self.x[image * taps.image + source + block.group * taps.depth..][..taps.depth];
                for (i, x) in x.iter().enumerate() {
                    let weight = &self.weight[(tap * taps.depth + i) * k + block.column..][..block.width];
                    let x = T::splat(simd, *x);
                    for (sum, w) in sums.iter_mut().zip(weight.chunks(lanes)) {
                        *sum = T::mul_add(simd, x, read(simd, w), *sum);
                    }
                }
            }
            let row = pixel * k + block.column;
            for (sum, from) in sums.iter().zip((0..block.width).step_by(lanes)) {
                // SAFETY: the block's columns are in the pixel's row of y, of the residual, which has its shape, and in
                // the bias; this task alone has them.
                unsafe { self.finish.write(simd, *sum, self.y.get(), row, from, block.width) };
            }
        });
    }
}

/// dx of the convolution.
pub(super) fn backward_input<T: Element>(arch: Arch, g: &Geometry, dy: &[T], weight: &[T]) -> Vec<T> {
    let taps = Taps::backward(g);
    let pixels = g.n * g.h * g.w;
    // By channels first, so that a task writes a part of its own.
    let mut by_channel = vec![T::ZERO; g.c * pixels];
    by_channel.par_chunks_mut(CHANNELS * pixels).enumerate().for_each(|(index, dx)| {
        let channels = index * CHANNELS..index * CHANNELS + dx.len() / pixels;
        arch.dispatch(Channels { taps: &taps, g, channels, dy, weight, dx });
    });
    let mut dx = Vec::with_capacity(by_channel.len());
    for pixel in 0..pixels {
        dx.extend(by_channel.iter().skip(pixel).step_by(pixels));
    }
    dx
}

/// Some channels of dx at all pixels, `[channels, pixels]`: inner products along the weight's rows.
struct Channels<'a, T> {
    taps: &'a Taps,
    g: &'a Geometry,
    channels: Range<usize>,
    dy: &'a [T],
    weight: &'a [T],
    dx: &'a mut [T],
}

impl<T: Element> WithSimd for Channels<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { taps, g, .. } = self;
        let lanes = T::lanes::<S>();
        let pixels = self.dx.len() / self.channels.len();
        for (c, dx) in self.channels.zip(self.dx.chunks_exact_mut(pixels)) {
            let (group, c) = (c / g.group_c(), c % g.group_c());
            for_each_pixel(taps, g.n, |pixel, image, position| {
                let mut sum = T::splat(simd, T::ZERO);
                for tap in 0..taps.count() {
                    let Some(source) = taps.source(position, tap / taps.kw, tap % taps.kw) else { continue };
                    let dy = &self.dy[image * taps.image + source + group * taps.depth..][..taps.depth];
                    let weight =
                        &self.weight[(tap * g.group_c() + c) * g.k + group * taps.depth..][..taps.depth];
                    for (d, w) in dy.chunks(lanes).zip(weight.chunks(lanes)) {
                        sum = T::mul_add(simd, read(simd, d), read(simd, w), sum);
                    }
                }
                dx[pixel] = T::total(simd, sum);
            });
        }
    }
}

/// dweight of the convolution: each row of it is written once.
pub(super) fn backward_weight<T: Element>(arch: Arch, g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    let taps = Taps::forward(g);
    let blocks = blocks::<T>(arch, g.groups, g.group_k());
    let rows = taps.count() * taps.depth;
    let mut dweight = Vec::with_capacity(rows * g.k);
    let out = Shared::new(dweight.as_mut_ptr());
    let task = (TASK / g.k).max(1);
    (0..rows.div_ceil(task)).into_par_iter().for_each(|index| {
        let rows = index * task..((index + 1) * task).min(rows);
        arch.dispatch(Rows { taps: &taps, g, blocks: &blocks, rows, x, dy, dweight: out });
    });
    // SAFETY: the capacity is as large, and the tasks have written every column of every row.
    unsafe { dweight.set_len(rows * g.k) };
    dweight
}

/// Some rows of the weight's gradient, all columns.
struct Rows<'a, T> {
    taps: &'a Taps,
    g: &'a Geometry,
    blocks: &'a [Block],
    rows: Range<usize>,
    x: &'a [T],
    dy: &'a [T],
    dweight: Shared<T>,
}

impl<T: Element> WithSimd for Rows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { taps, g, .. } = self;
        let lanes = T::lanes::<S>();
        for row in self.rows {
            let (tap, i) = (row / taps.depth, row % taps.depth);
            // Of each pixel that sees the tap: where it reads, and the pixel's row of dy.
            let mut seen = [(0, 0); MOST];
            let mut count = 0;
            for_each_pixel(taps, g.n, |pixel, image, position| {
                if let Some(source) = taps.source(position, tap / taps.kw, tap % taps.kw) {
                    seen[count] = (image * taps.image + source + i, pixel * g.k);
                    count += 1;
                }
            });
            for block in self.blocks {
                let mut sums = [T::splat(simd, T::ZERO); 4];
                for (source, dy) in &seen[..count] {
                    let x = T::splat(simd, self.x[source + block.group * taps.depth]);
                    let dy = &self.dy[dy + block.column..][..block.width];
                    for (sum, dy) in sums.iter_mut().zip(dy.chunks(lanes)) {
                        *sum = T::mul_add(simd, x, read(simd, dy), *sum);
                    }
                }
                let at = row * g.k + block.column;
                for (sum, from) in sums.iter().zip((0..block.width).step_by(lanes)) {
                    // SAFETY: the block's columns are in the row of the gradient, which this task alone has.
                    unsafe {
                        BlockFinish::NOTHING.write(simd, *sum, self.dweight.get(), at, from, block.width);
                    }
                }
            }
        }
    }
}

/// Calls `f` with each output pixel's number, image and position.
#[inline(always)]
fn for_each_pixel(taps: &Taps, n: usize, mut f: impl FnMut(usize, usize, (usize, usize))) {
    for pixel in 0..n * taps.out_h * taps.out_w {
        let (row, j) = (pixel / taps.out_w, pixel % taps.out_w);
        f(pixel, row / taps.out_h, (row % taps.out_h, j));
    }
}
