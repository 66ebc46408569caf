//! Convolution and its gradients on the CPU: which sums of products each of them is.

use super::few_pixels;
use super::geometry::Geometry;
use super::packed::Packed;
use super::products::Products;
use super::taps::Taps;
use super::weight_gradient::weight_gradient;
use super::winograd;
use crate::element::Element;
use crate::simd::vectorized;
use crate::stored::Stored;
use candle_core::WithDType;
use pulp::Arch;
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// Channels in below which a tap's run is too short to be worth looking up, and the padded images are small: the taps of a
/// kernel row are read as one.
const FEW_CHANNELS: usize = 16;

/// The ways that a convolution and its gradients are worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// Channel by channel.
    Depthwise,
    /// 16 products for each 2×2 pixels instead of 36.
    Winograd,
    /// With the weights where they lie, in those passes that write few pixels.
    FewPixels,
    /// The sums as the formula has them.
    Direct,
}

/// Numbers of a task that goes through memory once.
const CHUNK: usize = 16 * 1024;

/// The fastest way for these sizes.
pub(crate) fn path(g: &Geometry) -> Path {
    if g.is_depthwise() {
        Path::Depthwise
    } else if winograd::applies(g) {
        Path::Winograd
    } else if few_pixels::writes(g) || few_pixels::writes_input(g) {
        Path::FewPixels
    } else {
        Path::Direct
    }
}

/// What is done to the sums: bias `[k]` and residual, of y's shape, are added, then ReLU.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finish<'a, T> {
    pub bias: Option<&'a [T]>,
    pub residual: Option<&'a [T]>,
    pub relu: bool,
}

impl<T> Default for Finish<'_, T> {
    fn default() -> Self {
        Self { bias: None, residual: None, relu: false }
    }
}

/// y of the module's formula; `kept` keeps the weights packed from one call to the next.
pub(crate) fn forward<T: Element>(
    arch: Arch,
    path: Path,
    g: &Geometry,
    x: &[T],
    weight: &[T],
    kept: Option<&Packed<T>>,
    finish: Finish<'_, T>,
) -> Vec<T> {
    match path {
        Path::Depthwise => super::depthwise::forward(arch, g, x, weight, finish),
        Path::Winograd => winograd::forward(arch, g, x, weight, kept, finish),
        Path::FewPixels if few_pixels::writes(g) => few_pixels::forward(arch, g, x, weight, finish),
        Path::FewPixels | Path::Direct => {
            let (x, taps) = source(g, x);
            let pack =
                |to: &mut [T], stride: usize, tap: usize, depths: Range<usize>, columns: Range<usize>| {
                    for (to, i) in to.chunks_exact_mut(stride).zip(depths) {
                        let from = &weight[(tap * taps.depth + i) * g.k..];
                        to[..columns.len()].copy_from_slice(&from[columns.clone()]);
                    }
                };
            Products { taps: &taps, n: g.n, groups: g.groups, group_k: g.group_k(), finish }
                .compute(arch, &x, kept, pack)
        }
    }
}

/// dx: each input pixel gathers from the output pixels that saw it.
pub(crate) fn backward_input<T: Element>(
    arch: Arch,
    path: Path,
    g: &Geometry,
    dy: &[T],
    weight: &[T],
) -> Vec<T> {
    match path {
        Path::Depthwise => super::depthwise::backward_input(arch, g, dy, weight),
        Path::Winograd => winograd::backward_input(arch, g, dy, weight),
        Path::FewPixels if few_pixels::writes_input(g) => few_pixels::backward_input(arch, g, dy, weight),
        Path::FewPixels | Path::Direct => {
            let taps = Taps::backward(g);
            let pack =
                |to: &mut [T], stride: usize, tap: usize, depths: Range<usize>, columns: Range<usize>| {
                    pack_transposed(g, weight, to, stride, tap, depths, columns);
                };
            let finish = Finish::default();
            Products { taps: &taps, n: g.n, groups: g.groups, group_k: g.group_c(), finish }
                .compute(arch, dy, None, pack)
        }
    }
}

/// dweight[a, b, c, k] = Σ over output pixels of x at the tap · dy.
pub(crate) fn backward_weight<T: Element>(arch: Arch, path: Path, g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    match path {
        Path::Depthwise => super::depthwise_weight::backward_weight(arch, g, x, dy),
        Path::Winograd => winograd::backward_weight(arch, g, x, dy),
        Path::FewPixels if few_pixels::writes(g) => few_pixels::backward_weight(arch, g, x, dy),
        Path::FewPixels | Path::Direct => {
            let (x, taps) = source(g, x);
            weight_gradient(arch, &taps, g.n, g.groups, &x, dy)
        }
    }
}

/// Numbers along a side of the squares that a transposition goes by: a cache line.
const SQUARE: usize = 16;

/// Packs weightᵀ of a tap: rows are dy's channels of one group, columns dx's channels of all.
fn pack_transposed<T: Element>(
    g: &Geometry,
    weight: &[T],
    to: &mut [T],
    stride: usize,
    tap: usize,
    depths: Range<usize>,
    columns: Range<usize>,
) {
    let group = columns.start / g.group_c();
    let weight = &weight[tap * g.group_c() * g.k + group * g.group_k()..];
    let first = columns.start % g.group_c();
    // Squares of both sides at a time, so that neither leaves the cache.
    for column in (0..columns.len()).step_by(SQUARE) {
        let wide = SQUARE.min(columns.len() - column);
        for (rows, from) in to.chunks_mut(SQUARE * stride).zip(depths.clone().step_by(SQUARE)) {
            for (i, row) in rows.chunks_exact_mut(stride).enumerate() {
                for (c, to) in row[column..column + wide].iter_mut().enumerate() {
                    *to = weight[(first + column + c) * g.k + from + i];
                }
            }
        }
    }
}

/// What the taps of the convolution read: x, or x with its padding where channels are few.
fn source<'a, T: Element>(g: &Geometry, x: &'a [T]) -> (Cow<'a, [T]>, Taps) {
    if g.groups > 1 || g.dilation > 1 || g.kw == 1 || g.c >= FEW_CHANNELS {
        return (Cow::Borrowed(x), Taps::forward(g));
    }
    if g.pad_h == 0 && g.pad_w == 0 {
        return (Cow::Borrowed(x), Taps::padded(g));
    }
    let row = (g.w + 2 * g.pad_w) * g.c;
    let mut padded = vec![T::ZERO; g.n * (g.h + 2 * g.pad_h) * row];
    padded.par_chunks_mut((g.h + 2 * g.pad_h) * row).zip(x.par_chunks(g.h * g.w * g.c)).for_each(
        |(to, x)| {
            for (to, x) in to[g.pad_h * row..].chunks_exact_mut(row).zip(x.chunks_exact(g.w * g.c)) {
                to[g.pad_w * g.c..][..x.len()].copy_from_slice(x);
            }
        },
    );
    (Cow::Owned(padded), Taps::padded(g))
}

/// The sum of equally long slabs, the first to the last.
pub(super) fn sum_slabs<T: Element>(mut slabs: Vec<T>, len: usize) -> Vec<T> {
    let (total, rest) = slabs.split_at_mut(len);
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

/// dy where y is above 0 (or NaN), else 0.
pub(super) fn gated<T: Stored>(y: &[T], dy: &[T]) -> Vec<T> {
    let mut out = vec![T::ZERO; dy.len()];
    out.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK)).for_each(
        |((out, y), dy)| {
            vectorized(
                #[inline(always)]
                || {
                    for ((out, y), dy) in out.iter_mut().zip(y).zip(dy) {
                        *out = if y.wide() <= T::Wide::ZERO { T::ZERO } else { *dy };
                    }
                },
            );
        },
    );
    out
}

/// The sums over the rows of `[rows, k]`, of each task's numbers in the wide type, and then in f64.
pub(super) fn column_sums<T: Stored>(rows: &[T], k: usize) -> Vec<T::Wide> {
    let per_task = (CHUNK / k).max(1) * k;
    let parts: Vec<Vec<T::Wide>> = rows
        .par_chunks(per_task)
        .map(|rows| {
            let mut sum = vec![T::Wide::ZERO; k];
            vectorized(
                #[inline(always)]
                || {
                    for row in rows.chunks_exact(k) {
                        for (s, x) in sum.iter_mut().zip(row) {
                            *s += x.wide();
                        }
                    }
                },
            );
            sum
        })
        .collect();
    let mut total = vec![0.0; k];
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            *t += p.to_f64();
        }
    }
    total.into_iter().map(T::Wide::from_f64).collect()
}
