//! The convolution and its input gradient: 16 products of transformed tiles and weights, transformed back.

use super::{PLACES, Tiles, WEIGHT};
use crate::conv2d::cpu::Finish;
use crate::conv2d::geometry::Geometry;
use crate::conv2d::microkernel::{Block, BlockFinish, MAX_ROWS, blocks, gather_product, load, with_block};
use crate::conv2d::packed::{Packed, Way};
use crate::element::Element;
use crate::scratch::{Aligned, Shared};
use crate::simd::isolated;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Tiles of a task of the forward pass, a multiple of each block's rows, so that what it works in fits the second-level
/// cache.
fn task_tiles(c: usize) -> usize {
    if c > 256 { 48 } else { 96 }
}

/// y of the convolution.
pub(in crate::conv2d) fn forward<T: Element>(
    arch: Arch,
    g: &Geometry,
    x: &[T],
    weight: &[T],
    kept: Option<&Packed<T>>,
    finish: Finish<'_, T>,
) -> Vec<T> {
    let at = |a: usize, b: usize, c: usize, k: usize| ((a * 3 + b) * g.c + c) * g.k + k;
    product(arch, &Tiles::forward(g), x, |a, b, c, k| weight[at(a, b, c, k)], kept, finish)
}

/// dx of the convolution.
pub(in crate::conv2d) fn backward_input<T: Element>(
    arch: Arch,
    g: &Geometry,
    dy: &[T],
    weight: &[T],
) -> Vec<T> {
    let at = |a: usize, b: usize, k: usize, c: usize| (((2 - a) * 3 + 2 - b) * g.c + c) * g.k + k;
    product(arch, &Tiles::backward(g), dy, |a, b, k, c| weight[at(a, b, k, c)], None, Finish::default())
}

fn product<T: Element>(
    arch: Arch,
    tiles: &Tiles,
    x: &[T],
    weight: impl Fn(usize, usize, usize, usize) -> T + Sync,
    kept: Option<&Packed<T>>,
    finish: Finish<'_, T>,
) -> Vec<T> {
    let blocks = blocks::<T>(arch, 1, tiles.k);
    let weights = Packed::get(kept, Way::Winograd, || transformed(&blocks, tiles.c, weight));
    let (count, per_task) = (tiles.count(), task_tiles(tiles.c));
    let len = tiles.n * tiles.out_h * tiles.out_w * tiles.k;
    let mut y = Vec::with_capacity(len);
    let out = Shared::new(y.as_mut_ptr());
    (0..count.div_ceil(per_task) * blocks.len()).into_par_iter().for_each(|task| {
        let (chunk, block) = (task / blocks.len(), &blocks[task % blocks.len()]);
        arch.dispatch(Forward {
            tiles,
            range: chunk * per_task..((chunk + 1) * per_task).min(count),
            block,
            x,
            weights: &weights.as_slice()[block.at * PLACES * tiles.c..],
            y: out,
            finish: BlockFinish::new(finish, block),
        });
    });
    // SAFETY: the capacity is as large, and the tasks have written every column of every pixel.
    unsafe { y.set_len(len) };
    y
}

/// G g Gᵀ, packed: `[block][place][c][stride]`.
fn transformed<T: Element>(
    blocks: &[Block],
    c: usize,
    weight: impl Fn(usize, usize, usize, usize) -> T + Sync,
) -> Aligned<T> {
    let mut packed = Aligned::zeros(blocks.iter().map(|b| PLACES * c * b.stride).sum());
    let mut rest = packed.as_mut_slice();
    let mut parts = Vec::new();
    for block in blocks {
        let (part, behind) = rest.split_at_mut(PLACES * c * block.stride);
        rest = behind;
        let mut places: Vec<_> =
            part.chunks_exact_mut(c * block.stride).map(|p| p.chunks_mut(SQUARE * block.stride)).collect();
        for first in (0..c).step_by(SQUARE) {
            let rows: Vec<&mut [T]> =
                places.iter_mut().map(|p| p.next().expect("as many squares as rows")).collect();
            parts.push((block, first, rows));
        }
    }
    let factors = WEIGHT.map(|row| row.map(T::from_f64));
    parts.into_par_iter().for_each(|(block, first, mut places)| {
        let rows = places[0].len() / block.stride;
        // By squares, so that neither side leaves the cache where one of them is transposed.
        for from in (0..block.width).step_by(SQUARE) {
            let columns = from..(from + SQUARE).min(block.width);
            for row in 0..rows {
                let mut g = [[[T::ZERO; SQUARE]; 3]; 3];
                for (a, g) in g.iter_mut().enumerate() {
                    for (b, g) in g.iter_mut().enumerate() {
                        for (g, k) in g.iter_mut().zip(columns.clone()) {
                            *g = weight(a, b, first + row, block.column + k);
                        }
                    }
                }
                for (place, to) in places.iter_mut().enumerate() {
                    let (down, across) = (factors[place / 4], factors[place % 4]);
                    let to = &mut to[row * block.stride..][columns.clone()];
                    for (lane, to) in to.iter_mut().enumerate() {
                        let row = |a: usize| {
                            across[0] * g[a][0][lane] + across[1] * g[a][1][lane] + across[2] * g[a][2][lane]
                        };
                        *to = down[0] * row(0) + down[1] * row(1) + down[2] * row(2);
                    }
                }
            }
        }
    });
    packed
}

/// Numbers along a side of the squares that weights are transformed by: a cache line.
const SQUARE: usize = 16;

/// Some tiles by a block of columns.
struct Forward<'a, T> {
    tiles: &'a Tiles,
    range: Range<usize>,
    block: &'a Block,
    x: &'a [T],
    weights: &'a [T],
    y: Shared<T>,
    finish: BlockFinish<T>,
}

impl<T: Element> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (count, stride, c) = (self.range.len(), self.block.stride, self.tiles.c);
        let mut input = Aligned::zeros(4 * count * c);
        let mut sums = Aligned::zeros(PLACES * count * stride);
        let zeros = vec![T::ZERO; c];
        for r in 0..4 {
            self.tiles.input(self.x, &zeros, self.range.clone(), r, input.as_mut_slice());
            for s in 0..4 {
                let place = r * 4 + s;
                let input = &input.as_slice()[s * count * c..];
                let weights = &self.weights[place * c * stride..];
                let sums = &mut sums.as_mut_slice()[place * count * stride..][..count * stride];
                with_block!(S, self.block.vectors, M, N => self.products::<S, M, N>(simd, input, weights, sums));
            }
        }
        for (index, tile) in self.range.clone().enumerate() {
            self.write(simd, tile, &sums.as_slice()[index * stride..], count * stride);
        }
    }
}

impl<T: Element> Forward<'_, T> {
    /// sums `[tiles, stride]` = input `[tiles, c]` · weights `[c, stride]`.
    #[inline(always)]
    fn products<S: Simd, const M: usize, const N: usize>(
        &self,
        simd: S,
        input: &[T],
        weights: &[T],
        sums: &mut [T],
    ) {
        let (c, stride) = (self.tiles.c, self.block.stride);
        let count = sums.len() / stride;
        let to = sums.as_mut_ptr();
        for first in (0..count).step_by(M) {
            let valid = M.min(count - first);
            let sources: [*const T; M] =
                std::array::from_fn(|m| input[(first + m.min(valid - 1)) * c..][..c].as_ptr());
            let mut out = [0; MAX_ROWS];
            for (m, out) in out.iter_mut().enumerate().take(M) {
                *out = (first + m) * stride;
            }
            isolated(
                simd,
                #[inline(always)]
                // SAFETY: each source is c numbers of `input`, the weights are c rows of N vectors, and the
                // `valid` rows of `sums` are N vectors wide.
                || unsafe {
                    gather_product::<S, T, M, N>(
                        simd,
                        &sources,
                        weights.as_ptr(),
                        &[(0, 0)],
                        c,
                        to,
                        &out,
                        valid,
                        stride,
                        BlockFinish::NOTHING,
                    );
                },
            );
        }
    }

    /// Aᵀ m A of one tile, its places `apart` numbers from each other.
    #[inline(always)]
    fn write<S: Simd>(&self, simd: S, tile: usize, sums: &[T], apart: usize) {
        let Tiles { out_h, out_w, k, .. } = *self.tiles;
        let (image, i, j) = self.tiles.place(tile);
        let lanes = T::lanes::<S>();
        let minus = T::splat(simd, -T::ONE);
        for from in (0..self.block.width).step_by(lanes) {
            // Aᵀ m: two rows of four.
            let mut rows = [[T::splat(simd, T::ZERO); 4]; 2];
            for s in 0..4 {
                let mut m = [T::splat(simd, T::ZERO); 4];
                for (r, m) in m.iter_mut().enumerate() {
                    // SAFETY: each place has a vector at `from`, as the blocks are whole vectors.
                    *m = unsafe { load::<S, T>(sums[(r * 4 + s) * apart + from..][..lanes].as_ptr()) };
                }
                rows[0][s] = T::sum(simd, T::sum(simd, m[0], m[1]), m[2]);
                rows[1][s] = T::mul_add(simd, m[3], minus, T::mul_add(simd, m[2], minus, m[1]));
            }
            for (a, m) in rows.iter().enumerate() {
                let left = T::sum(simd, T::sum(simd, m[0], m[1]), m[2]);
                let right = T::mul_add(simd, m[3], minus, T::mul_add(simd, m[2], minus, m[1]));
                let outputs = [left, right];
                for (b, sum) in outputs.iter().enumerate() {
                    if i + a < out_h && j + b < out_w {
                        let row = ((image * out_h + i + a) * out_w + j + b) * k + self.block.column;
                        // SAFETY: the pixel is in y (and in the residual, which has its shape), the block's columns are
                        // in its row and in the bias, and this task alone has these tiles and columns.
                        unsafe { self.finish.write(simd, *sum, self.y.get(), row, from, self.block.width) };
                    }
                }
            }
        }
    }
}
