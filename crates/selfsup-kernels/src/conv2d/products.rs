//! Sums of products over taps, straight from the images: what a convolution and its input gradient both are.
//!
//! y[q, k] = Σ_taps Σ_i x[source(q, tap) + i] · weight[tap, i, k]
//!
//! Weights are packed once into blocks of as many columns as the registers hold. A task owns some output pixels
//! (and perhaps a block of columns), takes them M at a time, looks up where each one's taps lie, and leaves the rest
//! to the micro-kernel. Taps that none of the M pixels sees are skipped; so pixels that see the same taps are
//! put together. Nothing depends on the number of threads but who does a task.

use super::cpu::Finish;
use super::microkernel::{Block, BlockFinish, MAX_ROWS, blocks, gather_product, with_block};
use super::taps::Taps;
use crate::element::Element;
use crate::scratch::{Aligned, Shared};
use crate::simd::isolated;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Bytes of packed weights that one pass over a task's pixels uses: they stay in the second-level cache.
const WEIGHT_BYTES: usize = 384 * 1024;
/// Pixels of a task, at least: enough to make good for reading the weights.
const TASK_PIXELS: usize = 96;
/// Tasks wanted: enough for load balance on 16 cores.
const TASKS: usize = 64;

/// A sum of products over taps; its weights come with [`Products::compute`].
pub(super) struct Products<'a, T> {
    /// Where the taps read.
    pub taps: &'a Taps,
    /// Images.
    pub n: usize,
    /// Groups, and columns of each.
    pub groups: usize,
    pub group_k: usize,
    /// What is done to the sums.
    pub finish: Finish<'a, T>,
}

/// The way a product is cut.
struct Plan {
    blocks: Vec<Block>,
    /// Numbers of each tap's depth that go together.
    depth: usize,
}

impl<'a, T: Element> Products<'a, T> {
    /// y of the module's formula: `[n, out_h, out_w, groups · group_k]`. `pack` writes weight[tap, from.., group·group_k +
    /// column..] in rows of `stride` numbers: (to, stride, tap, depths, columns).
    pub(super) fn compute(
        &self,
        arch: Arch,
        x: &[T],
        pack: impl Fn(&mut [T], usize, usize, Range<usize>, Range<usize>) + Sync,
    ) -> Vec<T> {
        let taps = self.taps;
        let plan = self.plan(arch);
        let weights = self.packed(&plan, pack);
        let k = self.groups * self.group_k;
        let (positions, classes) = taps.positions();
        let pixels = self.n * positions.len();
        let mut y = Vec::with_capacity(pixels * k);
        let out = Shared::new(y.as_mut_ptr());
        // The rows of a block are one position of many images where positions differ in the taps that they see, and
        // neighbours, whose outputs are neighbours too, where they do not.
        let images_inside = classes > 1 && self.n >= MAX_ROWS;
        let chunk = pixels.div_ceil(TASKS).max(TASK_PIXELS).next_multiple_of(24);
        let chunks = pixels.div_ceil(chunk);
        let parts = if chunks >= TASKS / 2 { 1 } else { plan.blocks.len() };
        (0..chunks * parts).into_par_iter().for_each(|task| {
            let (chunk_index, part) = (task / parts, task % parts);
            let range = chunk_index * chunk..((chunk_index + 1) * chunk).min(pixels);
            let blocks = if parts == 1 { &plan.blocks[..] } else { &plan.blocks[part..part + 1] };
            arch.dispatch(Task {
                products: self,
                plan: &plan,
                blocks,
                positions: &positions,
                images_inside,
                pixels: range,
                x,
                weights: weights.as_slice(),
                y: out,
            });
        });
        // SAFETY: the capacity is as large, and the tasks have written every column of every pixel.
        unsafe { y.set_len(pixels * k) };
        y
    }

    fn plan(&self, arch: Arch) -> Plan {
        let blocks = blocks::<T>(arch, self.groups, self.group_k);
        let widest = blocks.iter().map(|b| b.stride).max().unwrap_or(1);
        let bytes = self.taps.count() * self.taps.depth * widest * size_of::<T>();
        let passes = bytes.div_ceil(WEIGHT_BYTES).max(1);
        Plan { blocks, depth: self.taps.depth.div_ceil(passes) }
    }

    fn packed(
        &self,
        plan: &Plan,
        pack: impl Fn(&mut [T], usize, usize, Range<usize>, Range<usize>) + Sync,
    ) -> Aligned<T> {
        let (taps, depth) = (self.taps.count(), self.taps.depth);
        let mut weights = Aligned::zeros(plan.blocks.iter().map(|b| taps * depth * b.stride).sum());
        let mut rest = weights.as_mut_slice();
        let mut parts = Vec::new();
        for block in &plan.blocks {
            let stride = block.stride;
            let columns = block.column..block.column + block.width;
            let mut from = 0;
            while from < depth {
                let depths = from..(from + plan.depth).min(depth);
                for tap in 0..taps {
                    let (to, behind) = rest.split_at_mut(depths.len() * stride);
                    rest = behind;
                    parts.push((to, stride, tap, depths.clone(), columns.clone()));
                }
                from = depths.end;
            }
        }
        parts.into_par_iter().for_each(|(to, stride, tap, depths, columns)| {
            pack(to, stride, tap, depths, columns);
        });
        weights
    }
}

/// Some output pixels by some blocks of columns.
struct Task<'a, 'b, T> {
    products: &'a Products<'b, T>,
    plan: &'a Plan,
    blocks: &'a [Block],
    positions: &'a [(usize, usize)],
    images_inside: bool,
    pixels: Range<usize>,
    x: &'a [T],
    weights: &'a [T],
    y: Shared<T>,
}

impl<T: Element> WithSimd for Task<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for block in self.blocks {
            with_block!(S, block.vectors, M, N => self.block::<S, M, N>(simd, block));
        }
    }
}

impl<T: Element> Task<'_, '_, T> {
    #[inline(always)]
    fn block<S: Simd, const M: usize, const N: usize>(&self, simd: S, block: &Block) {
        let taps = self.products.taps;
        let k = self.products.groups * self.products.group_k;
        let plane = taps.out_h * taps.out_w;
        let zeros = vec![T::ZERO; self.plan.depth];
        let mut sources: Vec<*const T> = Vec::with_capacity(taps.count() * M);
        let mut at = Vec::with_capacity(taps.count());
        let mut weights = block.at * taps.count() * taps.depth;
        let mut from = 0;
        while from < taps.depth {
            let depth = self.plan.depth.min(taps.depth - from);
            let last = from + depth == taps.depth;
            let finish = if last { self.products.finish } else { Finish::default() };
            let finish = BlockFinish { accumulate: from > 0, ..BlockFinish::new(finish, block) };
            let packed = self.weights[weights..].as_ptr();
            let offset = block.group * taps.depth + from;
            let mut first = self.pixels.start;
            while first < self.pixels.end {
                let valid = M.min(self.pixels.end - first);
                let pixels: [_; M] = std::array::from_fn(|m| self.pixel(first + m.min(valid - 1)));
                let mut out = [0; MAX_ROWS];
                for (out, &(image, (i, j))) in out.iter_mut().zip(&pixels) {
                    *out = (image * plane + i * taps.out_w + j) * k + block.column;
                }
                sources.clear();
                at.clear();
                let same = pixels.iter().all(|(_, position)| *position == pixels[0].1);
                for a in 0..taps.kh {
                    for b in 0..taps.kw {
                        let tap = a * taps.kw + b;
                        if same {
                            let Some(source) = taps.source(pixels[0].1, a, b) else { continue };
                            for (image, _) in pixels {
                                sources.push(&raw const self.x[image * taps.image + source + offset]);
                            }
                        } else {
                            let places = pixels.map(|(image, position)| {
                                taps.source(position, a, b).map(|s| image * taps.image + s + offset)
                            });
                            if places.iter().all(Option::is_none) {
                                continue;
                            }
                            for place in places {
                                sources.push(place.map_or(zeros.as_ptr(), |place| &raw const self.x[place]));
                            }
                        }
                        at.push(tap * depth * block.stride);
                    }
                }
                // SAFETY: a source is followed by the depth of its tap, which ends within its pixel (or, where images
                // carry their padding, its kernel row) in x, or is zeros of that length. The block's packed weights
                // hold N vectors for each tap and depth. The block's columns are `width` in y, the residual and the bias,
                // and this task alone has these pixels and columns.
                isolated(
                    simd,
                    #[inline(always)]
                    || unsafe {
                        gather_product::<S, T, M, N>(
                            simd,
                            &sources,
                            packed,
                            &at,
                            depth,
                            self.y.get(),
                            &out,
                            valid,
                            block.width,
                            finish,
                        );
                    },
                );
                first += M;
            }
            weights += taps.count() * depth * block.stride;
            from += depth;
        }
    }

    /// Image and position of the q-th output pixel.
    #[inline(always)]
    fn pixel(&self, q: usize) -> (usize, (usize, usize)) {
        if self.images_inside {
            (q % self.products.n, self.positions[q / self.products.n])
        } else {
            (q / self.positions.len(), self.positions[q % self.positions.len()])
        }
    }
}
