//! The weight's gradient: 16 outer products of transformed tiles and output gradients, transformed back.

use super::{PLACES, Tiles, WEIGHT};
use crate::conv2d::geometry::Geometry;
use crate::conv2d::microkernel::{Block, blocks, outer_product, with_block};
use crate::element::Element;
use crate::scratch::Aligned;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Tiles that the weight's gradient adds at a time.
const GRADIENT_TILES: usize = 64;
/// Tasks of the weight's gradient wanted: each holds sums of its own, so not many.
const GRADIENT_TASKS: usize = 16;

/// dweight of the convolution.
pub(in crate::conv2d) fn backward_weight<T: Element>(arch: Arch, g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    let tiles = Tiles::forward(g);
    let blocks = blocks::<T>(arch, 1, g.k);
    let padded_k = blocks.iter().map(|b| b.stride).sum::<usize>();
    let count = tiles.count();
    let slabs = GRADIENT_TASKS.div_ceil(blocks.len()).min(count.div_ceil(GRADIENT_TILES));
    let slab = count.div_ceil(slabs);
    let slabs = count.div_ceil(slab);
    let len = PLACES * g.c * padded_k;
    let mut sums = Aligned::<T>::zeros(slabs * len);
    // A task's sums, [place][c][stride], lie together.
    let mut parts = Vec::new();
    for (index, mut sums) in sums.as_mut_slice().chunks_exact_mut(len).enumerate() {
        for block in &blocks {
            let (part, behind) = sums.split_at_mut(PLACES * g.c * block.stride);
            sums = behind;
            parts.push((index * slab..((index + 1) * slab).min(count), block, part));
        }
    }
    parts.into_par_iter().for_each(|(range, block, sums)| {
        arch.dispatch(Gradient { tiles: &tiles, range, block, x, dy, sums });
    });
    let (sums, factors) = (sums.as_slice(), WEIGHT.map(|row| row.map(T::from_f64)));
    let mut dweight = vec![T::ZERO; 9 * g.c * g.k];
    let rows: Vec<Vec<&mut [T]>> = {
        let mut taps: Vec<_> =
            dweight.chunks_exact_mut(g.c * g.k).map(|tap| tap.chunks_exact_mut(g.k)).collect();
        (0..g.c).map(|_| taps.iter_mut().map(|tap| tap.next().expect("c rows a tap")).collect()).collect()
    };
    rows.into_par_iter().enumerate().for_each(|(c, mut taps)| {
        let mut u = [const { Vec::new() }; PLACES];
        for block in &blocks {
            for (place, u) in u.iter_mut().enumerate() {
                u.clear();
                u.resize(block.width, T::ZERO);
                for slab in sums.chunks_exact(len) {
                    let from = &slab[(block.at * PLACES + place * block.stride) * g.c + c * block.stride..];
                    for (u, s) in u.iter_mut().zip(from) {
                        *u += *s;
                    }
                }
            }
            for (tap, to) in taps.iter_mut().enumerate() {
                for (place, u) in u.iter().enumerate() {
                    let factor = factors[place / 4][tap / 3] * factors[place % 4][tap % 3];
                    if factor != T::ZERO {
                        for (to, u) in to[block.column..][..block.width].iter_mut().zip(u) {
                            *to += factor * *u;
                        }
                    }
                }
            }
        }
    });
    dweight
}

/// The bracket's gradient from some tiles, for a block of columns.
struct Gradient<'a, T> {
    tiles: &'a Tiles,
    range: Range<usize>,
    block: &'a Block,
    x: &'a [T],
    dy: &'a [T],
    /// `[place, c, stride]`
    sums: &'a mut [T],
}

impl<T: Element> WithSimd for Gradient<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_block!(S, self.block.vectors, M, N => self.run::<S, M, N>(simd));
    }
}

impl<T: Element> Gradient<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const M: usize, const N: usize>(self, simd: S) {
        let Self { tiles, block, x, dy, sums, .. } = self;
        let (c, stride) = (tiles.c, block.stride);
        let zeros = vec![T::ZERO; c.max(block.width)];
        let mut input = Aligned::zeros(4 * GRADIENT_TILES * c);
        let mut output = Aligned::zeros(4 * GRADIENT_TILES * stride);
        let entries: Vec<_> = (0..GRADIENT_TILES).map(|t| (t * c, t * stride)).collect();
        for first in self.range.clone().step_by(GRADIENT_TILES) {
            let range = first..(first + GRADIENT_TILES).min(self.range.end);
            let count = range.len();
            let entries = &entries[..count];
            for place in 0..PLACES {
                let s = place % 4;
                if s == 0 {
                    tiles.input(x, &zeros, range.clone(), place / 4, input.as_mut_slice());
                    tiles.output_gradient(dy, &zeros, range.clone(), place / 4, block, output.as_mut_slice());
                }
                let input = input.as_slice()[s * count * c..][..count * c].as_ptr();
                let output = output.as_slice()[s * count * stride..][..count * stride].as_ptr();
                let mut i = 0;
                while i < c {
                    // SAFETY: an entry is a tile's row of `input`, of which the numbers from i on are used, and of
                    // `output`, which is N vectors wide; the rows of sums from i on are as wide.
                    unsafe {
                        let input = input.add(i);
                        let sums = sums[(place * c + i) * stride..].as_mut_ptr();
                        i += match c - i {
                            rest if rest >= M => {
                                outer_product::<S, T, M, N>(simd, input, output, entries, sums, stride);
                                M
                            }
                            4.. => {
                                outer_product::<S, T, 4, N>(simd, input, output, entries, sums, stride);
                                4
                            }
                            2.. => {
                                outer_product::<S, T, 2, N>(simd, input, output, entries, sums, stride);
                                2
                            }
                            _ => {
                                outer_product::<S, T, 1, N>(simd, input, output, entries, sums, stride);
                                1
                            }
                        };
                    }
                }
            }
        }
    }
}
