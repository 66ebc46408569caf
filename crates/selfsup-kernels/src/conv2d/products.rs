//! Sums of products over taps, straight from the images: what a convolution and its input gradient both are.
//!
//! y[q, k] = Σ_taps Σ_i x[source(q, tap) + i] · weight[tap, i, k]
//!
//! Weights are packed once into blocks of as many columns as the registers hold. A task owns some output pixels
//! (and perhaps a block of columns), takes them M at a time and leaves the rest to the micro-kernel. Pixels that see the
//! same taps go together, neighbours where they can, so that what one reads the next finds in the cache, and so that
//! where the taps lie is known but for one place a pixel. Nothing depends on the number of threads but who does a task.

use super::cpu::Finish;
use super::microkernel::{Block, BlockFinish, MAX_ROWS, blocks, gather_product, with_block};
use super::packed::{Packed, Way};
use super::taps::{Class, Taps};
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
        kept: Option<&Packed<T>>,
        pack: impl Fn(&mut [T], usize, usize, Range<usize>, Range<usize>) + Sync,
    ) -> Vec<T> {
        let taps = self.taps;
        let plan = self.plan(arch);
        let weights = Packed::get(kept, Way::Direct, || self.packed(&plan, pack));
        let k = self.groups * self.group_k;
        let classes = taps.classes();
        let pixels = self.n * taps.out_h * taps.out_w;
        assert!(x.len() == self.n * taps.image, "x is {} images", self.n);
        let mut y = Vec::with_capacity(pixels * k);
        let out = Shared::new(y.as_mut_ptr());
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
                classes: &classes,
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
    classes: &'a [Class],
    /// Numbered class by class.
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
        let mut weights = block.at * taps.count() * taps.depth;
        let mut from = 0;
        while from < taps.depth {
            let depth = self.plan.depth.min(taps.depth - from);
            let last = from + depth == taps.depth;
            let finish = if last { self.products.finish } else { Finish::default() };
            let finish = BlockFinish { accumulate: from > 0, ..BlockFinish::new(finish, block) };
            let mut start = 0;
            for class in self.classes {
                let end = start + class.len() * self.products.n;
                let pixels = self.pixels.start.max(start)..self.pixels.end.min(end);
                if !pixels.is_empty() {
                    let pixels = pixels.start - start..pixels.end - start;
                    let packed = &self.weights[weights..][..taps.count() * depth * block.stride];
                    let part = Part { block, from: block.group * taps.depth + from, depth, finish, packed };
                    self.class::<S, M, N>(simd, class, pixels, &part);
                }
                start = end;
            }
            weights += taps.count() * depth * block.stride;
            from += depth;
        }
    }

    /// Some pixels of a class.
    #[inline(always)]
    fn class<S: Simd, const M: usize, const N: usize>(
        &self,
        simd: S,
        class: &Class,
        pixels: Range<usize>,
        part: &Part<'_, T>,
    ) {
        let Part { block, from, depth, finish, packed } = *part;
        let taps: Vec<(isize, usize)> =
            class.taps.iter().map(|&(tap, offset)| (offset, tap * depth * block.stride)).collect();
        let mut places = Places::new(self.products.taps, class, pixels.start);
        let k = self.products.groups * self.products.group_k;
        for first in pixels.clone().step_by(M) {
            let valid = M.min(pixels.end - first);
            let (mut sources, mut out) = ([std::ptr::null(); M], [0; MAX_ROWS]);
            let mut at = (0, 0);
            for (m, (source, out)) in sources.iter_mut().zip(&mut out).enumerate() {
                // Rows beyond the last pixel work it out again, and are not written.
                if m < valid {
                    at = places.next();
                }
                (*source, *out) = (&raw const self.x[at.0 + from], at.1 * k + block.column);
            }
            // SAFETY: from each pixel's first place each offset leads to the tap's place in the same image of x, followed
            // by its group's depth: `Taps::classes` has checked both. The block's packed weights hold N vectors for each tap
            // and depth. The block's columns are `width` in y, the residual and the bias, and this task alone has these
            // pixels and columns.
            isolated(
                simd,
                #[inline(always)]
                || unsafe {
                    gather_product::<S, T, M, N>(
                        simd,
                        &sources,
                        packed.as_ptr(),
                        &taps,
                        depth,
                        self.y.get(),
                        &out,
                        valid,
                        block.width,
                        finish,
                    );
                },
            );
        }
    }
}

/// A block's columns for a part of the depth.
struct Part<'a, T> {
    block: &'a Block,
    /// The part's first number in a pixel of x.
    from: usize,
    depth: usize,
    finish: BlockFinish<T>,
    packed: &'a [T],
}

/// The pixels of a class in the order of memory: where the first tap reads, and the pixel's number.
struct Places<'a> {
    taps: &'a Taps,
    class: &'a Class,
    image: usize,
    row: usize,
    column: usize,
    /// Of the row's beginning.
    source: usize,
    out: usize,
}

impl<'a> Places<'a> {
    fn new(taps: &'a Taps, class: &'a Class, first: usize) -> Self {
        let (image, position) = (first / class.len(), first % class.len());
        let (row, column) = (position / class.columns.len(), position % class.columns.len());
        let mut places = Self { taps, class, image, row, column, source: 0, out: 0 };
        places.begin_row();
        places
    }

    #[inline(always)]
    fn begin_row(&mut self) {
        let row = self.class.rows[self.row];
        self.source = self.image * self.taps.image + row.source;
        self.out = (self.image * self.taps.out_h + row.at) * self.taps.out_w;
    }

    #[inline(always)]
    fn next(&mut self) -> (usize, usize) {
        let column = self.class.columns[self.column];
        let place = (self.source + column.source, self.out + column.at);
        self.column += 1;
        if self.column == self.class.columns.len() {
            (self.column, self.row) = (0, self.row + 1);
            if self.row == self.class.rows.len() {
                (self.row, self.image) = (0, self.image + 1);
            }
            self.begin_row();
        }
        place
    }
}
