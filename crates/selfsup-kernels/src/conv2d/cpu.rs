//! Convolution and its gradients on the CPU: which sums of products each of them is.

use super::geometry::Geometry;
use super::products::Products;
use super::taps::Taps;
use super::weight_gradient::weight_gradient;
use super::winograd;
use crate::element::Element;
use pulp::Arch;
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// Channels in below which a tap's run is too short to be worth looking up, and the padded images are small: the taps of a
/// kernel row are read as one.
const FEW_CHANNELS: usize = 16;

/// y of the module's formula.
pub(super) fn forward<T: Element>(arch: Arch, g: &Geometry, x: &[T], weight: &[T]) -> Vec<T> {
    if g.is_depthwise() {
        let mut y = vec![T::ZERO; g.rows() * g.k];
        super::depthwise::forward(g, x, weight, &mut y);
        return y;
    }
    if winograd::applies(g) {
        return winograd::forward(arch, g, x, weight, None, None, false);
    }
    let (x, taps) = source(g, x);
    let pack = |to: &mut [T], stride: usize, tap: usize, depths: Range<usize>, columns: Range<usize>| {
        for (to, i) in to.chunks_exact_mut(stride).zip(depths) {
            let from = &weight[(tap * taps.depth + i) * g.k..];
            to[..columns.len()].copy_from_slice(&from[columns.clone()]);
        }
    };
    products(g.n, g.groups, g.group_k(), &taps).compute(arch, &x, pack)
}

/// dx: each input pixel gathers from the output pixels that saw it.
pub(super) fn backward_input<T: Element>(arch: Arch, g: &Geometry, dy: &[T], weight: &[T]) -> Vec<T> {
    if g.is_depthwise() {
        return super::depthwise::backward_input(g, dy, weight);
    }
    if winograd::applies(g) {
        return winograd::backward_input(arch, g, dy, weight);
    }
    let taps = Taps::backward(g);
    let pack = |to: &mut [T], stride: usize, tap: usize, depths: Range<usize>, columns: Range<usize>| {
        // Columns are dx's channels of all groups, depths are dy's of one.
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
    };
    products(g.n, g.groups, g.group_c(), &taps).compute(arch, dy, pack)
}

/// Numbers along a side of the squares that a transposition goes by: a cache line.
const SQUARE: usize = 16;

/// dweight[a, b, c, k] = Σ over output pixels of x at the tap · dy.
pub(super) fn backward_weight<T: Element>(arch: Arch, g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    if g.is_depthwise() {
        return super::depthwise::backward_weight(g, x, dy);
    }
    if winograd::applies(g) {
        return winograd::backward_weight(arch, g, x, dy);
    }
    let (x, taps) = source(g, x);
    weight_gradient(arch, &taps, g.n, g.groups, &x, dy)
}

fn products<T>(n: usize, groups: usize, group_k: usize, taps: &Taps) -> Products<'_, T> {
    Products { taps, n, groups, group_k, bias: None, residual: None, relu: false }
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
    padded.par_chunks_mut((g.h + 2 * g.pad_h) * row).zip(x.par_chunks(g.h * g.w * g.c)).for_each(|(to, x)| {
        for (to, x) in to[g.pad_h * row..].chunks_exact_mut(row).zip(x.chunks_exact(g.w * g.c)) {
            to[g.pad_w * g.c..][..x.len()].copy_from_slice(x);
        }
    });
    (Cow::Owned(padded), Taps::padded(g))
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
