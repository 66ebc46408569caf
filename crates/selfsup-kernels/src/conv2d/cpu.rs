//! Convolution as matrix products over tiles of output pixels ("implicit GEMM").
//!
//! A tile's input windows are gathered into a buffer `[rows, taps · c/g]` that stays in a core's cache; the
//! batch's whole column matrix never exists. Work is cut by shape alone and sums go in a fixed order, so that
//! results do not depend on the number of threads.

use super::geometry::Geometry;
use crate::element::Element;
use crate::matmul::{Matrix, MatrixMut, matmul};
use crate::simd::vectorized;
use rayon::prelude::*;
use std::ops::Range;

/// Numbers in a tile's gathered windows: 512 KiB of f32, half of a usual second-level cache.
const TILE: usize = 128 * 1024;
/// A matrix product over fewer rows spends its time on packing.
const MIN_ROWS: usize = 64;
/// Numbers in a block of the weight's gradient that one task accumulates: 256 KiB of f32.
const WEIGHT_BLOCK: usize = 64 * 1024;
/// Tasks that the weight's gradient is cut into, at most: enough for load balance on 16 cores.
const WEIGHT_TASKS: usize = 32;

/// Rows of a tile whose windows hold `width` numbers.
fn tile_rows(width: usize, rows: usize) -> usize {
    (TILE / width).max(MIN_ROWS).min(rows)
}

/// y of the module's formula.
pub(super) fn forward<T: Element>(g: &Geometry, x: &[T], weight: &[T]) -> Vec<T> {
    let mut y = vec![T::ZERO; g.rows() * g.k];
    if g.is_depthwise() {
        super::depthwise::forward(g, x, weight, &mut y);
        return y;
    }
    let taps = 0..g.taps();
    let (group_c, group_k) = (g.group_c(), g.group_k());
    let width = g.taps() * group_c;
    let tile = tile_rows(width, g.rows());
    y.par_chunks_mut(tile * g.k).enumerate().for_each(|(index, y)| {
        let rows = y.len() / g.k;
        let first = index * tile;
        for group in 0..g.groups {
            let weight = Matrix::new(&weight[group * group_k..], width, group_k, g.k);
            with_windows(g, x, first..first + rows, taps.clone(), group, |windows| {
                matmul(MatrixMut::new(&mut y[group * group_k..], rows, group_k, g.k), windows, weight, false);
            });
        }
    });
    y
}

/// dweight[a, b, c, k] = Σ over output pixels of x at the tap · dy.
pub(super) fn backward_weight<T: Element>(g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    if g.is_depthwise() {
        return super::depthwise::backward_weight(g, x, dy);
    }
    let (group_c, group_k) = (g.group_c(), g.group_k());
    // A large gradient is cut by taps into blocks that fit the cache; then the rows are cut until there are
    // enough tasks. Each slab of rows has its own sum.
    let blocks = (g.taps() * group_c * group_k).div_ceil(WEIGHT_BLOCK).min(g.taps());
    let block_taps = g.taps().div_ceil(blocks);
    let blocks = g.taps().div_ceil(block_taps);
    let slabs = (WEIGHT_TASKS / blocks).min(g.rows() / (4 * MIN_ROWS)).max(1);
    let slab_rows = g.rows().div_ceil(slabs);
    let slabs = g.rows().div_ceil(slab_rows);
    let block_len = block_taps * group_c * g.k;
    let mut sums = vec![T::ZERO; slabs * g.taps() * group_c * g.k];
    let slab_len = g.taps() * group_c * g.k;
    let tasks: Vec<(usize, usize, &mut [T])> = sums
        .chunks_mut(slab_len)
        .enumerate()
        .flat_map(|(slab, sum)| sum.chunks_mut(block_len).enumerate().map(move |(b, s)| (slab, b, s)))
        .collect();
    tasks.into_par_iter().for_each(|(slab, block, sum)| {
        let taps = block * block_taps..((block + 1) * block_taps).min(g.taps());
        let width = taps.len() * group_c;
        let end = ((slab + 1) * slab_rows).min(g.rows());
        let tile = tile_rows(width, slab_rows);
        let mut first = slab * slab_rows;
        while first < end {
            let rows = tile.min(end - first);
            for group in 0..g.groups {
                let dy = Matrix::new(&dy[first * g.k + group * group_k..], rows, group_k, g.k);
                with_windows(g, x, first..first + rows, taps.clone(), group, |windows| {
                    let sum = MatrixMut::new(&mut sum[group * group_k..], width, group_k, g.k);
                    matmul(sum, windows.transposed(), dy, true);
                });
            }
            first += rows;
        }
    });
    sum_slabs(sums, slab_len)
}

/// The sum of equally long slabs, the first to the last.
pub(super) fn sum_slabs<T: Element>(mut slabs: Vec<T>, len: usize) -> Vec<T> {
    let (total, rest) = slabs.split_at_mut(len);
    const CHUNK: usize = 16 * 1024;
    total.par_chunks_mut(CHUNK).enumerate().for_each(|(i, total)| {
        for slab in rest.chunks(len) {
            for (t, s) in total.iter_mut().zip(&slab[i * CHUNK..]) {
                *t += *s;
            }
        }
    });
    slabs.truncate(len);
    slabs
}

/// dx: the transposed convolution of dy.
pub(super) fn backward_input<T: Element>(g: &Geometry, dy: &[T], weight: &[T]) -> Vec<T> {
    if g.is_depthwise() {
        return super::depthwise::backward_input(g, dy, weight);
    }
    match g.transposed() {
        Some(transposed) => forward(&transposed, dy, &flipped(g, weight)),
        None => scattered(g, dy, weight),
    }
}

/// The weight `[kh, kw, c/g, k]` with its taps in reverse order and its channels exchanged:
/// `[kh, kw, k/g, c]`.
fn flipped<T: Element>(g: &Geometry, weight: &[T]) -> Vec<T> {
    let (group_c, group_k, taps) = (g.group_c(), g.group_k(), g.taps());
    let mut out = vec![T::ZERO; weight.len()];
    out.par_chunks_mut(group_k * g.c).enumerate().for_each(|(tap, out)| {
        let weight = &weight[(taps - 1 - tap) * group_c * g.k..];
        for (ko, out) in out.chunks_mut(g.c).enumerate() {
            for (ci, out) in out.iter_mut().enumerate() {
                let (group, ci) = (ci / group_c, ci % group_c);
                *out = weight[ci * g.k + group * group_k + ko];
            }
        }
    });
    out
}

/// dx for any stride: the windows' gradients dy · weightᵀ, each added where its window came from. A task owns
/// whole images, as windows overlap.
fn scattered<T: Element>(g: &Geometry, dy: &[T], weight: &[T]) -> Vec<T> {
    let (group_c, group_k) = (g.group_c(), g.group_k());
    let width = g.taps() * group_c;
    let (image, pixels) = (g.h * g.w * g.c, g.out_h * g.out_w);
    let images = (4 * MIN_ROWS).div_ceil(pixels).min(g.n);
    // weightᵀ, so that the product reads both sides along their rows.
    let mut transposed = vec![T::ZERO; weight.len()];
    transposed.par_chunks_mut(width).enumerate().for_each(|(ko, out)| {
        for (out, row) in out.iter_mut().zip(weight.chunks(g.k)) {
            *out = row[ko];
        }
    });
    let mut dx = vec![T::ZERO; g.n * image];
    dx.par_chunks_mut(images * image).enumerate().for_each(|(index, dx)| {
        let rows = dx.len() / image * pixels;
        let start = index * images * pixels;
        let tile = tile_rows(width, rows);
        let mut first = 0;
        while first < rows {
            let rows = tile.min(rows - first);
            for group in 0..g.groups {
                let dy = Matrix::new(&dy[(start + first) * g.k + group * group_k..], rows, group_k, g.k);
                let weight = Matrix::new(&transposed[group * group_k * width..], group_k, width, width);
                T::with_scratch(rows * width, |windows| {
                    matmul(MatrixMut::new(windows, rows, width, width), dy, weight, false);
                    scatter(g, windows, first..first + rows, group, dx);
                });
            }
            first += rows;
        }
    });
    dx
}

/// Adds the windows of some output pixels, counted from the first image of `dx`, to the pixels they came from.
fn scatter<T: Element>(g: &Geometry, windows: &[T], rows: Range<usize>, group: usize, dx: &mut [T]) {
    let group_c = g.group_c();
    vectorized(
        #[inline(always)]
        || {
            let mut taps = windows.chunks_exact(group_c);
            for (n, i, j) in pixels(g, rows.clone()) {
                for a in 0..g.kh {
                    for b in 0..g.kw {
                        let tap = taps.next().expect("one chunk a tap");
                        if let Some((y, x)) = g.source(i, j, a, b) {
                            let at = ((n * g.h + y) * g.w + x) * g.c + group * group_c;
                            for (d, t) in dx[at..at + group_c].iter_mut().zip(tap) {
                                *d += *t;
                            }
                        }
                    }
                }
            }
        },
    );
}

/// Calls `f` with the windows `[rows, taps · c/g]` of some output pixels: x itself where that is the same.
fn with_windows<T: Element>(
    g: &Geometry,
    x: &[T],
    rows: Range<usize>,
    taps: Range<usize>,
    group: usize,
    f: impl FnOnce(Matrix<T>),
) {
    let group_c = g.group_c();
    if g.is_pointwise() {
        return f(Matrix::new(&x[rows.start * g.c + group * group_c..], rows.len(), group_c, g.c));
    }
    let width = taps.len() * group_c;
    T::with_scratch(rows.len() * width, |windows| {
        gather(g, x, rows.clone(), taps, group, windows);
        f(Matrix::new(windows, rows.len(), width, width));
    });
}

/// Copies the windows of some output pixels, zeros where they leave the image.
fn gather<T: Element>(
    g: &Geometry,
    x: &[T],
    rows: Range<usize>,
    taps: Range<usize>,
    group: usize,
    windows: &mut [T],
) {
    let group_c = g.group_c();
    // Neighbouring taps of a kernel row are neighbours in memory, too, unless dilation or groups part them.
    let longest = if g.dilation == 1 && g.groups == 1 { g.kw } else { 1 };
    let mut runs = Vec::with_capacity(taps.len());
    let mut tap = taps.start;
    while tap < taps.end {
        let (a, b) = (tap / g.kw, tap % g.kw);
        let run = longest.min(g.kw - b).min(taps.end - tap);
        runs.push((a, b, run));
        tap += run;
    }
    let mut to = 0;
    for (n, i, j) in pixels(g, rows) {
        for &(a, b, run) in &runs {
            let end = to + run * group_c;
            let y = (i * g.stride + a * g.dilation).wrapping_sub(g.pad_h);
            // The run's first column, shifted right by the padding to stay unsigned: columns in the image are
            // pad_w ≤ column < pad_w + w.
            let column = j * g.stride + b * g.dilation;
            let left = g.pad_w.saturating_sub(column).min(run);
            let right = (g.pad_w + g.w).saturating_sub(column).min(run);
            if y >= g.h || left >= right {
                windows[to..end].fill(T::ZERO);
            } else {
                let from = ((n * g.h + y) * g.w + column + left - g.pad_w) * g.c + group * group_c;
                let (start, stop) = (to + left * group_c, to + right * group_c);
                windows[to..start].fill(T::ZERO);
                copy(x, from, windows, start, stop - start);
                windows[stop..end].fill(T::ZERO);
            }
            to = end;
        }
    }
}

/// Copies `len` numbers. A few are copied as a block of fixed size, which is one or two instructions and not a
/// call: what lies behind them in `windows` is written next.
#[inline(always)]
fn copy<T: Element>(x: &[T], from: usize, windows: &mut [T], to: usize, len: usize) {
    const FEW: usize = 16;
    if len <= FEW && from + FEW <= x.len() && to + FEW <= windows.len() {
        windows[to..to + FEW].copy_from_slice(&x[from..from + FEW]);
    } else {
        windows[to..to + len].copy_from_slice(&x[from..from + len]);
    }
}

/// Image, row and column of each output pixel of a range, without a division for each.
fn pixels(g: &Geometry, rows: Range<usize>) -> impl Iterator<Item = (usize, usize, usize)> {
    let (height, width) = (g.out_h, g.out_w);
    let first = rows.start;
    let mut next = (first / (height * width), first / width % height, first % width);
    rows.map(move |_| {
        let (n, i, j) = next;
        next = match (i + 1 == height, j + 1 == width) {
            (_, false) => (n, i, j + 1),
            (false, true) => (n, i + 1, 0),
            (true, true) => (n + 1, 0, 0),
        };
        (n, i, j)
    })
}
