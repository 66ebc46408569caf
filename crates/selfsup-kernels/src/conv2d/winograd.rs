//! 3×3 convolution of stride 1 with 16 products for each 2×2 output pixels instead of 36 (Winograd's minimal
//! filtering, F(2×2, 3×3): Lavin & Gray 2016, section 4.1).
//!
//! For a tile of 2×2 outputs, d the 4×4 inputs that it sees and g the 3×3 weights,
//!
//! ```text
//! y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A        the sum over channels going inside the brackets
//!
//! Bᵀ = 1  0 -1  0     G = 1   0   0      Aᵀ = 1 1  1  0
//!      0  1  1  0         ½   ½   ½           0 1 -1 -1
//!      0 -1  1  0         ½  -½   ½
//!      0  1  0 -1         0   0   1
//! ```
//!
//! so that each of the 16 places ξ of the bracket is a matrix product over channels, of tiles by columns. The input
//! gradient is the same with the weights flipped and transposed, the weight's gradient the adjoint:
//! dg = Gᵀ [ Σ over tiles (A dy Aᵀ) ⊙ (Bᵀ d B) ] G.
//!
//! The factors are 0, ±1 and ½, so rounding errors grow little: below three times those of the plain sum. But an
//! infinity in x makes NaN of its tile's four outputs, also of those that do not see it.

use super::cpu::Finish;
use super::geometry::Geometry;
use super::microkernel::{
    Block, BlockFinish, MAX_ROWS, blocks, gather_product, load, outer_product, with_block,
};
use crate::element::Element;
use crate::scratch::{Aligned, Shared};
use crate::simd::isolated;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Places of the bracket.
const PLACES: usize = 16;
/// Tiles of a task of the forward pass, a multiple of each block's rows, so that what it works in fits the second-level
/// cache.
fn task_tiles(c: usize) -> usize {
    if c > 256 { 48 } else { 96 }
}
/// Tiles that the weight's gradient adds at a time.
const GRADIENT_TILES: usize = 64;
/// Tasks of the weight's gradient wanted: each holds sums of its own, so not many.
const GRADIENT_TASKS: usize = 16;
/// Channels below which a product over them is too short.
const MIN_CHANNELS: usize = 16;
/// Share of the plain sum's products above which the transforms are not worth their time.
const MAX_SHARE: f64 = 0.75;

/// A row of Bᵀ: first + sign · second, of the four inputs along an axis.
const INPUT: [(usize, usize, f64); 4] = [(0, 2, -1.0), (1, 2, 1.0), (2, 1, -1.0), (1, 3, -1.0)];
/// A row of A: factors of the two outputs along an axis.
const OUTPUT: [[f64; 2]; 4] = [[1.0, 0.0], [1.0, 1.0], [1.0, -1.0], [0.0, -1.0]];
/// A row of G: factors of the three weights along an axis.
const WEIGHT: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];

/// Whether a convolution is of the kind, and the work so saved is worth the transforms.
pub(super) fn applies(g: &Geometry) -> bool {
    let plain = g.kh == 3 && g.kw == 3 && g.stride == 1 && g.dilation == 1 && g.groups == 1;
    if !plain || g.pad_h > 2 || g.pad_w > 2 || g.c < MIN_CHANNELS || g.k < MIN_CHANNELS {
        return false;
    }
    let inside = |out: usize, size: usize, padding: usize| {
        (0..out)
            .map(|i| (i..i + 3).filter(|at| (padding..padding + size).contains(at)).count())
            .sum::<usize>()
    };
    let sums = inside(g.out_h, g.h, g.pad_h) * inside(g.out_w, g.w, g.pad_w);
    let tiles = g.out_h.div_ceil(2) * g.out_w.div_ceil(2);
    (tiles * PLACES) as f64 <= MAX_SHARE * sums as f64
}

/// The images that are read, and the tiles of those that are written.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    pad_h: usize,
    pad_w: usize,
    out_h: usize,
    out_w: usize,
    k: usize,
}

impl Tiles {
    fn forward(g: &Geometry) -> Self {
        let Geometry { n, h, w, c, pad_h, pad_w, out_h, out_w, k, .. } = *g;
        Self { n, h, w, c, pad_h, pad_w, out_h, out_w, k }
    }

    /// Those of the input gradient, which reads dy.
    fn backward(g: &Geometry) -> Self {
        let Geometry { n, h, w, c, pad_h, pad_w, out_h, out_w, k, .. } = *g;
        Self { n, h: out_h, w: out_w, c: k, pad_h: 2 - pad_h, pad_w: 2 - pad_w, out_h: h, out_w: w, k: c }
    }

    fn count(&self) -> usize {
        self.n * self.out_h.div_ceil(2) * self.out_w.div_ceil(2)
    }

    /// Image of a tile, and row and column of its first output.
    #[inline(always)]
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (high, wide) = (self.out_h.div_ceil(2), self.out_w.div_ceil(2));
        (tile / (high * wide), tile / wide % high * 2, tile % wide * 2)
    }

    /// Writes (Bᵀ d B) at the places (r, 0) to (r, 3) of some tiles, `[4, tiles, c]`.
    #[inline(always)]
    fn input<T: Element>(&self, x: &[T], zeros: &[T], tiles: Range<usize>, r: usize, to: &mut [T]) {
        let (top, bottom, sign) = INPUT[r];
        let sign = T::from_f64(sign);
        let c = self.c;
        let (to0, rest) = to.split_at_mut(tiles.len() * c);
        let (to1, rest) = rest.split_at_mut(tiles.len() * c);
        let (to2, rest) = rest.split_at_mut(tiles.len() * c);
        let to3 = &mut rest[..tiles.len() * c];
        for (index, tile) in tiles.enumerate() {
            let (image, i, j) = self.place(tile);
            let pixel = |a: usize, b: usize| {
                let (y, x_at) = ((i + a).wrapping_sub(self.pad_h), (j + b).wrapping_sub(self.pad_w));
                if y < self.h && x_at < self.w {
                    &x[((image * self.h + y) * self.w + x_at) * c..][..c]
                } else {
                    &zeros[..c]
                }
            };
            let (a0, a1, a2, a3) = (pixel(top, 0), pixel(top, 1), pixel(top, 2), pixel(top, 3));
            let (b0, b1, b2, b3) = (pixel(bottom, 0), pixel(bottom, 1), pixel(bottom, 2), pixel(bottom, 3));
            let row = index * c..(index + 1) * c;
            let (to0, to1) = (&mut to0[row.clone()], &mut to1[row.clone()]);
            let (to2, to3) = (&mut to2[row.clone()], &mut to3[row]);
            for k in 0..c {
                let d0 = a0[k] + sign * b0[k];
                let d1 = a1[k] + sign * b1[k];
                let d2 = a2[k] + sign * b2[k];
                let d3 = a3[k] + sign * b3[k];
                to0[k] = d0 - d2;
                to1[k] = d1 + d2;
                to2[k] = d2 - d1;
                to3[k] = d1 - d3;
            }
        }
    }

    /// Writes (A dy Aᵀ) at the places (r, 0) to (r, 3) of some tiles for a block of columns, `[4, tiles, stride]`.
    #[inline(always)]
    fn output_gradient<T: Element>(
        &self,
        dy: &[T],
        zeros: &[T],
        tiles: Range<usize>,
        r: usize,
        block: &Block,
        to: &mut [T],
    ) {
        let [top, bottom] = OUTPUT[r].map(T::from_f64);
        let len = tiles.len() * block.stride;
        let width = block.width;
        let (to0, rest) = to.split_at_mut(len);
        let (to1, rest) = rest.split_at_mut(len);
        let (to2, rest) = rest.split_at_mut(len);
        let to3 = &mut rest[..len];
        for (index, tile) in tiles.enumerate() {
            let (image, i, j) = self.place(tile);
            let pixel = |a: usize, b: usize| {
                if i + a < self.out_h && j + b < self.out_w {
                    let at = (image * self.out_h + i + a) * self.out_w + j + b;
                    &dy[at * self.k + block.column..][..width]
                } else {
                    &zeros[..width]
                }
            };
            let (a0, a1, b0, b1) = (pixel(0, 0), pixel(0, 1), pixel(1, 0), pixel(1, 1));
            let row = index * block.stride..index * block.stride + width;
            let (to0, to1) = (&mut to0[row.clone()], &mut to1[row.clone()]);
            let (to2, to3) = (&mut to2[row.clone()], &mut to3[row]);
            for k in 0..width {
                let left = top * a0[k] + bottom * b0[k];
                let right = top * a1[k] + bottom * b1[k];
                to0[k] = left;
                to1[k] = left + right;
                to2[k] = left - right;
                to3[k] = -right;
            }
        }
    }
}

/// y of the convolution.
pub(super) fn forward<T: Element>(
    arch: Arch,
    g: &Geometry,
    x: &[T],
    weight: &[T],
    finish: Finish<'_, T>,
) -> Vec<T> {
    let at = |a: usize, b: usize, c: usize, k: usize| ((a * 3 + b) * g.c + c) * g.k + k;
    product(arch, &Tiles::forward(g), x, |a, b, c, k| weight[at(a, b, c, k)], finish)
}

/// dx of the convolution.
pub(super) fn backward_input<T: Element>(arch: Arch, g: &Geometry, dy: &[T], weight: &[T]) -> Vec<T> {
    let at = |a: usize, b: usize, k: usize, c: usize| (((2 - a) * 3 + 2 - b) * g.c + c) * g.k + k;
    product(arch, &Tiles::backward(g), dy, |a, b, k, c| weight[at(a, b, k, c)], Finish::default())
}

fn product<T: Element>(
    arch: Arch,
    tiles: &Tiles,
    x: &[T],
    weight: impl Fn(usize, usize, usize, usize) -> T + Sync,
    finish: Finish<'_, T>,
) -> Vec<T> {
    let blocks = blocks::<T>(arch, 1, tiles.k);
    let weights = transformed(&blocks, tiles.c, weight);
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
                        &[0],
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

/// dweight of the convolution.
pub(super) fn backward_weight<T: Element>(arch: Arch, g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
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
