//! Products over tiles of the result, each one a task. Tiles are cut by shape alone and sums go in a fixed order, so
//! that results do not depend on the number of threads.

use super::Activation;
use crate::element::Element;
use crate::gelu::{self, Activated};
use crate::matmul::{Matrix, MatrixMut, matmul};
use crate::output::{in_chunks, in_tiles};
use crate::simd::vectorized;
use rayon::prelude::*;
use std::borrow::Cow;

/// A tile, at most: a quarter of a megabyte of f32, beside which both operands' packed parts stay in a usual
/// second-level cache.
const TILE: (usize, usize) = (256, 256);
/// A tile is not cut below this: its products would spend their time on packing.
const SMALLEST: (usize, usize) = (64, 64);
/// Tasks, at least, where the matrix is large enough.
const TASKS: usize = 16;
/// Rows that a sum over rows takes as a slab of its own, where the result alone gives too few tasks.
const SLAB: usize = 1024;
/// Numbers in a task that works number by number.
const CHUNK: usize = 16 * 1024;
/// Rows summed in T before the sum goes to f64.
const ROWS: usize = 64;

/// The size of the tiles that a matrix of this shape is cut into.
fn tile((rows, columns): (usize, usize)) -> (usize, usize) {
    let mut tile = (TILE.0.min(rows), TILE.1.min(columns));
    let tasks = |tile: (usize, usize)| rows.div_ceil(tile.0) * columns.div_ceil(tile.1);
    while tasks(tile) < TASKS {
        if tile.0 >= tile.1 && tile.0 >= 2 * SMALLEST.0 {
            tile.0 = tile.0.div_ceil(2);
        } else if tile.1 >= 2 * SMALLEST.1 {
            tile.1 = tile.1.div_ceil(2);
        } else {
            break;
        }
    }
    tile
}

/// y and, if GELU's is to be kept, z of the module's formula.
pub(super) fn forward<T: Activated>(
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    c: usize,
    activation: Activation,
    keep: bool,
) -> (Vec<T>, Option<Vec<T>>) {
    let (n, k) = (x.len() / c, weight.len() / c);
    // A product packs its right side along the rows; along columns a power of two apart that takes longer than the
    // product.
    let transposed = transposed(weight, c);
    let product = |rows: std::ops::Range<usize>, columns: std::ops::Range<usize>, out: &mut [T]| {
        let (height, width) = (rows.len(), columns.len());
        let x = Matrix::new(&x[rows.start * c..], height, c, c);
        let weight = Matrix::new(&transposed[columns.start..], c, width, k);
        matmul(MatrixMut::new(out, height, width, width), x, weight, false);
        if let Some(bias) = bias {
            let bias = &bias[columns];
            vectorized(
                #[inline(always)]
                || {
                    for row in out.chunks_exact_mut(width) {
                        for (z, bias) in row.iter_mut().zip(bias) {
                            *z += *bias;
                        }
                    }
                },
            );
        }
    };
    if let (Activation::Gelu(kind), true) = (activation, keep) {
        let [y, z] = in_tiles((n, k), tile((n, k)), |rows, columns, [y, z]: [&mut [T]; 2]| {
            product(rows, columns, z);
            y.copy_from_slice(z);
            gelu::forward(y, kind);
        });
        return (y, Some(z));
    }
    let [y] = in_tiles((n, k), tile((n, k)), |rows, columns, [y]: [&mut [T]; 1]| {
        product(rows, columns, y);
        match activation {
            Activation::None => {}
            Activation::Relu => vectorized(
                #[inline(always)]
                || {
                    for y in y.iter_mut() {
                        *y = if *y <= T::ZERO { T::ZERO } else { *y };
                    }
                },
            ),
            Activation::Gelu(kind) => gelu::forward(y, kind),
        }
    });
    (y, None)
}

/// A matrix with rows of c numbers, transposed.
fn transposed<T: Element>(matrix: &[T], c: usize) -> Vec<T> {
    const SIDE: usize = 16;
    let k = matrix.len() / c;
    // Four lines of a row at a time, as rows lie on pages of their own.
    let (out, _) = in_chunks(matrix.len(), 4 * SIDE * k, |at, out: &mut [T]| {
        for start in (0..k).step_by(SIDE) {
            let height = SIDE.min(k - start);
            for (first, out) in (at / k..).step_by(SIDE).zip(out.chunks_mut(SIDE * k)) {
                let width = out.len() / k;
                // Whole lines of the cache are read, and written.
                let mut block = [[T::ZERO; SIDE]; SIDE];
                for i in 0..height {
                    let row = &matrix[(start + i) * c + first..][..width];
                    for (block, x) in block.iter_mut().zip(row) {
                        block[i] = *x;
                    }
                }
                for (out, block) in out.chunks_exact_mut(k).zip(&block) {
                    out[start..start + height].copy_from_slice(&block[..height]);
                }
            }
        }
    });
    out
}

/// dz, which without an activation is dy, and its sum over the rows, if asked for. `gate` is ReLU's y or GELU's z.
pub(super) fn activation_backward<'a, T: Activated>(
    dy: &'a [T],
    gate: Option<&[T]>,
    activation: Activation,
    k: usize,
    sum: bool,
) -> (Cow<'a, [T]>, Vec<T>) {
    let chunk = (CHUNK / k).max(1) * k;
    let sum_rows = |dz: &[T]| {
        let mut total = vec![0.0; if sum { k } else { 0 }];
        if sum {
            add_rows(dz, &mut total);
        }
        total
    };
    let Some(gate) = gate else {
        let parts: Vec<Vec<f64>> = dy.par_chunks(chunk).map(sum_rows).collect();
        return (Cow::Borrowed(dy), total(&parts));
    };
    let (dz, parts) = in_chunks(dy.len(), chunk, |at, dz: &mut [T]| {
        let (dy, gate) = (&dy[at..at + dz.len()], &gate[at..at + dz.len()]);
        match activation {
            Activation::Gelu(kind) => {
                dz.copy_from_slice(dy);
                gelu::backward(dz, gate, kind);
            }
            _ => vectorized(
                #[inline(always)]
                || {
                    for ((dz, dy), y) in dz.iter_mut().zip(dy).zip(gate) {
                        *dz = if *y <= T::ZERO { T::ZERO } else { *dy };
                    }
                },
            ),
        }
        sum_rows(dz)
    });
    (Cow::Owned(dz), total(&parts))
}

/// Adds the rows of a matrix to `total`.
fn add_rows<T: Element>(matrix: &[T], total: &mut [f64]) {
    let k = total.len();
    T::with_scratch(k, |sum| {
        for block in matrix.chunks(ROWS * k) {
            sum.fill(T::ZERO);
            vectorized(
                #[inline(always)]
                || {
                    for row in block.chunks_exact(k) {
                        for (sum, x) in sum.iter_mut().zip(row) {
                            *sum += *x;
                        }
                    }
                },
            );
            total.iter_mut().zip(sum.iter()).for_each(|(total, sum)| *total += sum.to_f64());
        }
    });
}

/// The sum of equally long parts, the first to the last.
fn total<T: Element>(parts: &[Vec<f64>]) -> Vec<T> {
    let mut total = vec![0.0; parts.first().map_or(0, Vec::len)];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    total.into_iter().map(T::from_f64).collect()
}

/// dx = dz·W.
pub(super) fn input_backward<T: Element>(dz: &[T], weight: &[T], c: usize) -> Vec<T> {
    let k = weight.len() / c;
    let n = dz.len() / k;
    let [dx] = in_tiles((n, c), tile((n, c)), |rows, columns, [dx]: [&mut [T]; 1]| {
        let (height, width) = (rows.len(), columns.len());
        let dz = Matrix::new(&dz[rows.start * k..], height, k, k);
        let weight = Matrix::new(&weight[columns.start..], k, width, c);
        matmul(MatrixMut::new(dx, height, width, width), dz, weight, false);
    });
    dx
}

/// dW = dzᵀ·x. Few tiles of a long sum are summed in slabs of rows.
pub(super) fn weight_backward<T: Element>(dz: &[T], x: &[T], c: usize) -> Vec<T> {
    let n = x.len() / c;
    let k = dz.len() / n;
    let tile = tile((k, c));
    let tiles = k.div_ceil(tile.0) * c.div_ceil(tile.1);
    let slabs = TASKS.div_ceil(tiles).min(n / SLAB).max(1);
    let slab_rows = n.div_ceil(slabs);
    let mut sums: Vec<Vec<T>> = (0..n.div_ceil(slab_rows))
        .into_par_iter()
        .map(|slab| {
            let first = slab * slab_rows;
            let depth = slab_rows.min(n - first);
            let [sum] = in_tiles((k, c), tile, |rows, columns, [out]: [&mut [T]; 1]| {
                let (height, width) = (rows.len(), columns.len());
                let dz = Matrix::new(&dz[first * k + rows.start..], depth, height, k);
                let x = Matrix::new(&x[first * c + columns.start..], depth, width, c);
                matmul(MatrixMut::new(out, height, width, width), dz.transposed(), x, false);
            });
            sum
        })
        .collect();
    let rest = sums.split_off(1);
    let mut sum = sums.remove(0);
    for slab in &rest {
        sum.iter_mut().zip(slab).for_each(|(sum, slab)| *sum += *slab);
    }
    sum
}
