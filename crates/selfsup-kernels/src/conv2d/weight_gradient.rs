//! The weight's gradient: dweight[tap, i, k] = Σ_q x[source(q, tap) + i] · dy[q, k].
//!
//! A task owns a block of columns k, one row of the kernel's taps (or all, if they are few) and a slab of images. It
//! takes some output pixels at a time, whose dy, copied unless it lies together already, stays in the first-level cache,
//! lists for each tap the pixels that see it, and lets the micro-kernel add to M rows of the sum at a time. Slabs are
//! added in order.

use super::microkernel::{Block, blocks, outer_product, with_block};
use super::taps::Taps;
use crate::element::Element;
use crate::scratch::{Aligned, Shared};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Bytes of dy in a block: half of a usual first-level cache.
const BLOCK_BYTES: usize = 16 * 1024;
/// Bytes of sums up to which a task takes all taps, so that dy is copied once: they stay in the cache beside it.
const SUM_BYTES: usize = 64 * 1024;
/// Tasks wanted: enough for load balance on 16 cores.
const TASKS: usize = 32;
/// Pixels of a slab, at least.
const SLAB_PIXELS: usize = 256;

/// dweight `[taps, depth, groups · group_k]` of x and dy `[n, out_h, out_w, groups · group_k]`.
pub(super) fn weight_gradient<T: Element>(
    arch: Arch,
    taps: &Taps,
    n: usize,
    groups: usize,
    x: &[T],
    dy: &[T],
) -> Vec<T> {
    let plane = taps.out_h * taps.out_w;
    let k = dy.len() / (n * plane);
    let blocks = blocks::<T>(arch, groups, k / groups);
    let padded_k = blocks.last().map_or(0, |b| b.at + b.stride);
    let widest = blocks.iter().map(|b| b.stride).max().unwrap_or(1);
    let few = taps.count() * taps.depth * widest * size_of::<T>() <= SUM_BYTES;
    let (kernel_rows, parts) = if few { (taps.kh, 1) } else { (1, taps.kh) };
    let units = blocks.len() * parts;
    let offsets = taps.offsets();
    let slabs = TASKS.div_ceil(units).min(n * plane / SLAB_PIXELS).clamp(1, n);
    let images = n.div_ceil(slabs);
    let slabs = n.div_ceil(images);
    let rows = taps.count() * taps.depth;
    let mut sums = vec![T::ZERO; slabs * rows * padded_k];
    let shared = Shared::new(sums.as_mut_ptr());
    (0..slabs * units).into_par_iter().for_each(|task| {
        let (slab, unit) = (task / units, task % units);
        arch.dispatch(Task {
            taps,
            offsets: offsets.as_deref(),
            k,
            block: blocks[unit / parts],
            kernel_rows: unit % parts * kernel_rows..(unit % parts + 1) * kernel_rows,
            images: slab * images..((slab + 1) * images).min(n),
            x,
            dy,
            // SAFETY: the slab's sums lie within the buffer.
            sums: Shared::new(unsafe { shared.get().add(slab * rows * padded_k) }),
            padded_k,
        });
    });
    if slabs == 1 && padded_k == k {
        return sums;
    }
    let slab_len = rows * padded_k;
    let mut dweight = vec![T::ZERO; rows * k];
    let chunk = (16 * 1024usize).div_ceil(k).max(1);
    dweight.par_chunks_mut(chunk * k).enumerate().for_each(|(i, dweight)| {
        for (row, dweight) in dweight.chunks_exact_mut(k).enumerate() {
            let row = (i * chunk + row) * padded_k;
            for slab in sums.chunks_exact(slab_len) {
                for block in &blocks {
                    let sum = &slab[row + block.at..][..block.width];
                    for (d, s) in dweight[block.column..][..block.width].iter_mut().zip(sum) {
                        *d += *s;
                    }
                }
            }
        }
    });
    dweight
}

struct Task<'a, T> {
    taps: &'a Taps,
    /// Of the taps from the first, where every pixel sees all.
    offsets: Option<&'a [usize]>,
    k: usize,
    block: Block,
    kernel_rows: Range<usize>,
    images: Range<usize>,
    x: &'a [T],
    dy: &'a [T],
    /// The slab's, `[taps, depth, padded_k]`.
    sums: Shared<T>,
    padded_k: usize,
}

impl<T: Element> WithSimd for Task<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_block!(S, self.block.vectors, M, N => self.run::<S, M, N>(simd));
    }
}

impl<T: Element> Task<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const M: usize, const N: usize>(&self, simd: S) {
        let Self { taps, offsets, block, k, .. } = *self;
        let plane = taps.out_h * taps.out_w;
        let size = (BLOCK_BYTES / size_of::<T>() / block.stride).max(1);
        let whole = block.width == k && block.stride == k;
        let mut copy = Aligned::<T>::zeros(if whole { 0 } else { size * block.stride });
        let mut entries = Vec::with_capacity(size);
        let (mut first, end) = (self.images.start * plane, self.images.end * plane);
        while first < end {
            let pixels = first..(first + size).min(end);
            let dy = if whole {
                &self.dy[pixels.start * k..pixels.end * k]
            } else {
                for (to, q) in copy.as_mut_slice().chunks_exact_mut(block.stride).zip(pixels.clone()) {
                    to[..block.width].copy_from_slice(&self.dy[q * k + block.column..][..block.width]);
                }
                copy.as_slice()
            };
            if offsets.is_some() {
                self.list(pixels.clone(), 0, block.stride, &mut entries);
            }
            for tap in self.kernel_rows.start * taps.kw..self.kernel_rows.end * taps.kw {
                let offset = offsets.map_or(0, |offsets| offsets[tap]);
                if offsets.is_none() {
                    self.list(pixels.clone(), tap, block.stride, &mut entries);
                    if entries.is_empty() {
                        continue;
                    }
                }
                let mut i = 0;
                while i < taps.depth {
                    // SAFETY: an entry's place, `offset` on, is the first of the tap's `depth` numbers in x, of which those
                    // from i on are used; its row is the first number of a row of `dy`. The rows of the sums are this tap's, its
                    // columns this block's: no other task of the slab has both.
                    unsafe {
                        let x = self.x.as_ptr().add(offset + block.group * taps.depth + i);
                        let dy = dy.as_ptr();
                        let sums = self.sums.get().add((tap * taps.depth + i) * self.padded_k + block.at);
                        let stride = self.padded_k;
                        i += match taps.depth - i {
                            rest if rest >= M => {
                                outer_product::<S, T, M, N>(simd, x, dy, &entries, sums, stride);
                                M
                            }
                            4.. => {
                                outer_product::<S, T, 4, N>(simd, x, dy, &entries, sums, stride);
                                4
                            }
                            3 => {
                                outer_product::<S, T, 3, N>(simd, x, dy, &entries, sums, stride);
                                3
                            }
                            2 => {
                                outer_product::<S, T, 2, N>(simd, x, dy, &entries, sums, stride);
                                2
                            }
                            _ => {
                                outer_product::<S, T, 1, N>(simd, x, dy, &entries, sums, stride);
                                1
                            }
                        };
                    }
                }
            }
            first = pixels.end;
        }
    }

    /// For each of the pixels that sees the tap: where the tap reads in x, and the pixel's row in the block of dy.
    #[inline(always)]
    fn list(&self, pixels: Range<usize>, tap: usize, stride: usize, entries: &mut Vec<(usize, usize)>) {
        let taps = self.taps;
        entries.clear();
        let plane = taps.out_h * taps.out_w;
        let (mut image, mut i, mut j) =
            (pixels.start / plane, pixels.start % plane / taps.out_w, pixels.start % taps.out_w);
        for row in 0..pixels.len() {
            if let Some(source) = taps.source((i, j), tap / taps.kw, tap % taps.kw) {
                entries.push((image * taps.image + source, row * stride));
            }
            j += 1;
            if j == taps.out_w {
                (i, j) = (i + 1, 0);
                if i == taps.out_h {
                    (image, i) = (image + 1, 0);
                }
            }
        }
    }
}
