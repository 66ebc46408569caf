//! The weight's gradient in bf16: dweight[tap, i, k] = Σ_q x[source(q, tap) + i] · dy[q, k].
//!
//! The pairs that are multiplied together are one pixel of two images, so that both factors are interleaved
//! once for all taps. A task owns a block of columns k and a slab of the batch, which it takes by some rows
//! of some pairs of images at a time: their interleaved x stays in the second-level cache, their dy, some
//! pixels at a time, in the first. Sums are in f32 over the whole batch: slabs are added in order.

use super::kernel::{LANES, Pair, interleave, outer_product, with_block};
use super::pairs::Processor;
use crate::conv2d::geometry::Geometry;
use crate::conv2d::microkernel::{Block, cut};
use crate::conv2d::taps::Taps;
use crate::scratch::Aligned;
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Vectors across a block, at most.
const VECTORS: usize = 4;
/// Bytes of interleaved x: a part of a usual second-level cache.
const X_BYTES: usize = 256 * 1024;
/// Pixels whose dy a block holds.
const PIXELS: usize = 64;
/// Pixels of a part of the batch, at least, where it is cut for the sake of tasks.
const PART_PIXELS: usize = 256;
/// Tasks wanted: each holds sums of its own, so not many.
const TASKS: usize = 16;

/// dweight of the convolution.
pub(super) fn backward_weight(processor: Processor, g: &Geometry, x: &[bf16], dy: &[bf16]) -> Vec<f32> {
    // A group's channels, once interleaved, lie together.
    let compact = Geometry { c: g.group_c(), k: g.group_k(), groups: 1, ..*g };
    let taps = Taps::forward(&compact);
    let blocks = cut(g.groups, g.group_k(), LANES, VECTORS);
    let wanted = TASKS.div_ceil(blocks.len());
    let parts = parts(g, wanted);
    let per_slab = parts.len().div_ceil(wanted);
    let slabs = parts.len().div_ceil(per_slab);
    let rows = taps.count() * taps.depth;
    let len = rows * blocks.iter().map(|b| b.stride).sum::<usize>();
    let mut sums = Aligned::<f32>::zeros(slabs * len);
    let mut tasks = Vec::new();
    for (parts, mut rest) in parts.chunks(per_slab).zip(sums.as_mut_slice().chunks_exact_mut(len)) {
        for block in &blocks {
            let (sums, behind) = rest.split_at_mut(rows * block.stride);
            rest = behind;
            tasks.push((Task { processor, g, taps: &taps, block, x, dy }, parts, sums));
        }
    }
    tasks.into_par_iter().for_each(|(task, parts, sums)| task.run(parts, sums));
    let sums = sums.as_slice();
    let mut dweight = vec![0.0; rows * g.k];
    dweight.par_chunks_exact_mut(g.k).enumerate().for_each(|(row, dweight)| {
        for block in &blocks {
            let mut total = [0.0; VECTORS * LANES];
            for slab in sums.chunks_exact(len) {
                let sums = &slab[rows * block.at + row * block.stride..][..block.width];
                total.iter_mut().zip(sums).for_each(|(t, s)| *t += *s);
            }
            dweight[block.column..][..block.width].copy_from_slice(&total[..block.width]);
        }
    });
    dweight
}

/// Some rows of output pixels of some pairs of images.
struct Part {
    pairs: Range<usize>,
    rows: Range<usize>,
    /// The rows of x that they see.
    seen: Range<usize>,
}

impl Part {
    fn new(g: &Geometry, pairs: Range<usize>, rows: Range<usize>) -> Self {
        let reach = (g.kh - 1) * g.dilation + 1;
        let start = (rows.start * g.stride).saturating_sub(g.pad_h).min(g.h);
        let end = ((rows.end - 1) * g.stride + reach).saturating_sub(g.pad_h).clamp(start, g.h);
        Self { pairs, rows, seen: start..end }
    }
}

/// The batch, cut so that each part's interleaved x stays in the cache, and there are as many as wanted, if
/// they can be.
fn parts(g: &Geometry, wanted: usize) -> Vec<Part> {
    let all = g.n.div_ceil(2);
    let row = g.w * g.group_c() * size_of::<Pair>();
    let reach = (g.kh - 1) * g.dilation + 1;
    let fit = (X_BYTES / row).saturating_sub(reach) / g.stride + 1;
    let shared = (all * g.out_h).div_ceil(wanted).max(PART_PIXELS.div_ceil(g.out_w));
    let rows = fit.min(shared).min(g.out_h);
    let together = if rows == g.out_h { (X_BYTES / (row * g.h)).min(shared / rows).max(1) } else { 1 };
    let mut parts = Vec::new();
    for pair in (0..all).step_by(together) {
        for first in (0..g.out_h).step_by(rows) {
            parts.push(Part::new(g, pair..(pair + together).min(all), first..(first + rows).min(g.out_h)));
        }
    }
    parts
}

struct Task<'a> {
    processor: Processor,
    g: &'a Geometry,
    /// Of a group alone.
    taps: &'a Taps,
    block: &'a Block,
    x: &'a [bf16],
    dy: &'a [bf16],
}

/// A pixel of dy within a part: its pair of images, counted from the part's first, its row and column.
type Pixel = (usize, usize, usize);

impl Task<'_> {
    /// Adds the products of all parts to the sums `[taps, depth, stride]`.
    fn run(&self, parts: &[Part], sums: &mut [f32]) {
        let Self { g, taps, block, .. } = *self;
        let depth = taps.depth;
        let row = g.w * depth;
        let most = parts.iter().map(|p| p.pairs.len() * p.seen.len()).max().unwrap_or(0);
        let mut x = Aligned::<Pair>::zeros(most * row);
        let mut dy = Aligned::<Pair>::zeros(PIXELS * block.stride);
        let zeros = vec![bf16::ZERO; depth.max(block.width)];
        let mut entries = Vec::with_capacity(PIXELS);
        for part in parts {
            self.interleave_x(part, &zeros, x.as_mut_slice());
            let image = part.seen.len() * row;
            let mut pixels = part.pairs.clone().flat_map(|pair| {
                let (rows, pair) = (part.rows.clone(), pair - part.pairs.start);
                rows.flat_map(move |i| (0..g.out_w).map(move |j| (pair, i, j)))
            });
            loop {
                let pixels: Vec<Pixel> = pixels.by_ref().take(PIXELS).collect();
                if pixels.is_empty() {
                    break;
                }
                self.interleave_dy(part, &pixels, &zeros, dy.as_mut_slice());
                for tap in 0..taps.count() {
                    entries.clear();
                    for (at, &(pair, i, j)) in pixels.iter().enumerate() {
                        if let Some(source) = taps.source((i, j), tap / taps.kw, tap % taps.kw) {
                            entries.push((pair * image + source - part.seen.start * row, at * block.stride));
                        }
                    }
                    let sums = &mut sums[tap * depth * block.stride..][..depth * block.stride];
                    with_block!(block.vectors, M, N => {
                        add::<M, N>(self.processor, x.as_slice(), dy.as_slice(), &entries, depth, sums);
                    });
                }
            }
        }
    }

    /// `[pairs, rows that are seen, w, depth]`
    fn interleave_x(&self, part: &Part, zeros: &[bf16], to: &mut [Pair]) {
        let Self { g, taps, block, .. } = *self;
        let pixel = |image: usize, at: usize| {
            if image < g.n {
                &self.x[(image * g.h * g.w + at) * g.c + block.group * taps.depth..][..taps.depth]
            } else {
                &zeros[..taps.depth]
            }
        };
        let seen = part.seen.start * g.w..part.seen.end * g.w;
        let places = part.pairs.clone().flat_map(|pair| seen.clone().map(move |at| (pair, at)));
        for (to, (pair, at)) in to.chunks_exact_mut(taps.depth).zip(places) {
            interleave(self.processor, to, pixel(2 * pair, at), pixel(2 * pair + 1, at));
        }
    }

    /// `[pixels, stride]`
    fn interleave_dy(&self, part: &Part, pixels: &[Pixel], zeros: &[bf16], to: &mut [Pair]) {
        let Self { g, block, .. } = *self;
        let pixel = |image: usize, i: usize, j: usize| {
            if image < g.n {
                &self.dy[((image * g.out_h + i) * g.out_w + j) * g.k + block.column..][..block.width]
            } else {
                &zeros[..block.width]
            }
        };
        for (to, &(pair, i, j)) in to.chunks_exact_mut(block.stride).zip(pixels) {
            let image = 2 * (part.pairs.start + pair);
            interleave(self.processor, to, pixel(image, i, j), pixel(image + 1, i, j));
        }
    }
}

/// sums `[depth, N vectors]` += Σ over entries (x's place, dy's place) of their outer product.
fn add<const M: usize, const N: usize>(
    processor: Processor,
    x: &[Pair],
    dy: &[Pair],
    entries: &[(usize, usize)],
    depth: usize,
    sums: &mut [f32],
) {
    if entries.is_empty() {
        return;
    }
    assert!(entries.iter().all(|(at, row)| at + depth <= x.len() && row + N * LANES <= dy.len()));
    assert!(sums.len() == depth * N * LANES);
    let (dy, mut i) = (dy.as_ptr(), 0);
    while i < depth {
        // SAFETY: as just checked, an entry's place is the first
        // of `depth` pairs of x, of which those from i on are used, and of N vectors of dy; and the sums have
        // N vectors for each of the rows from i on.
        unsafe {
            let (x, sums) = (x.as_ptr().add(i), sums.as_mut_ptr().add(i * N * LANES));
            i += match depth - i {
                rest if rest >= M => {
                    outer_product::<M, N>(processor, x, dy, entries, sums);
                    M
                }
                4.. => {
                    outer_product::<4, N>(processor, x, dy, entries, sums);
                    4
                }
                2.. => {
                    outer_product::<2, N>(processor, x, dy, entries, sums);
                    2
                }
                _ => {
                    outer_product::<1, N>(processor, x, dy, entries, sums);
                    1
                }
            };
        }
    }
}
