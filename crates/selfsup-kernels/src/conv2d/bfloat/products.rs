//! Sums of products over taps in bf16, straight from the images: the convolution and its input gradient.
//!
//! It goes as in [`products`](crate::conv2d::products), by pairs of depth: 2i and 2i + 1 lie together in an
//! image's pixel, and are packed together in the weights, an odd depth's last with 0. Sums stay in registers
//! over the whole depth, as bf16 has no place for them. Pixels go by classes, and by images within a class.

use super::classes::{Class, classes};
use super::kernel::{BlockFinish, LANES, Pair, gather_product, interleave, pair, with_block};
use super::pairs::Processor;
use crate::conv2d::cpu::Finish;
use crate::conv2d::geometry::Geometry;
use crate::conv2d::microkernel::{Block, cut};
use crate::conv2d::taps::Taps;
use crate::scratch::{Aligned, Shared};
use crate::stored::widened;
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Vectors across a block, at most.
const VECTORS: usize = 4;
/// Pixels of a task, at least: enough to make good for reading the weights.
const TASK_PIXELS: usize = 96;
/// Tasks wanted: enough for load balance on 16 cores.
const TASKS: usize = 64;
/// Pixels of a task are a multiple of this, which each block's rows divide.
const ROWS: usize = 24;

/// y of the convolution.
pub(super) fn forward(
    processor: Processor,
    g: &Geometry,
    x: &[bf16],
    weight: &[bf16],
    finish: Finish<'_, bf16>,
) -> Vec<bf16> {
    let taps = Taps::forward(g);
    let zeros = vec![bf16::ZERO; g.k];
    let pack = |to: &mut [Pair], tap: usize, block: &Block| {
        let row = |i: usize| match i {
            i if i < taps.depth => &weight[(tap * taps.depth + i) * g.k + block.column..][..block.width],
            _ => &zeros[..block.width],
        };
        for (i, to) in to.chunks_exact_mut(block.stride).enumerate() {
            interleave(processor, to, row(2 * i), row(2 * i + 1));
        }
    };
    Products { processor, taps: &taps, n: g.n, groups: g.groups, group_k: g.group_k(), finish }
        .compute(x, pack)
}

/// dx: each input pixel gathers from the output pixels that saw it.
pub(super) fn backward_input(processor: Processor, g: &Geometry, dy: &[bf16], weight: &[bf16]) -> Vec<bf16> {
    let taps = Taps::backward(g);
    let (group_c, group_k) = (g.group_c(), g.group_k());
    let pack = |to: &mut [Pair], tap: usize, block: &Block| {
        // A row of the weight is a column here, of which each task packs those of its block.
        let first = tap * group_c + block.column % group_c;
        for column in 0..block.width {
            let depth = &weight[(first + column) * g.k + block.group * group_k..][..group_k];
            for (to, pairs) in to[column..].iter_mut().step_by(block.stride).zip(depth.chunks(2)) {
                *to = pair(pairs[0], pairs.get(1).copied().unwrap_or(bf16::ZERO));
            }
        }
    };
    let finish = Finish::default();
    Products { processor, taps: &taps, n: g.n, groups: g.groups, group_k: group_c, finish }.compute(dy, pack)
}

/// A sum of products over taps; its weights come with [`Products::compute`].
struct Products<'a> {
    processor: Processor,
    /// Where the taps read.
    taps: &'a Taps,
    /// Images.
    n: usize,
    /// Groups, and columns of each.
    groups: usize,
    group_k: usize,
    /// What is done to the sums.
    finish: Finish<'a, bf16>,
}

impl Products<'_> {
    /// `[n, out_h, out_w, groups · group_k]`. `pack` writes a tap's weights of a block: (to, tap, block), to
    /// being `[⌈depth/2⌉, stride]`.
    fn compute(&self, x: &[bf16], pack: impl Fn(&mut [Pair], usize, &Block) + Sync) -> Vec<bf16> {
        let taps = self.taps;
        let blocks = cut(self.groups, self.group_k, LANES, VECTORS);
        let weights = self.packed(&blocks, pack);
        let k = self.groups * self.group_k;
        let classes = classes(taps);
        let pixels = self.n * taps.out_h * taps.out_w;
        let mut y = Vec::with_capacity(pixels * k);
        let out = Shared::new(y.as_mut_ptr());
        let bias = self.finish.bias.map(widened);
        let chunk = pixels.div_ceil(TASKS).max(TASK_PIXELS).next_multiple_of(ROWS);
        let chunks = pixels.div_ceil(chunk);
        let parts = if chunks >= TASKS / 2 { 1 } else { blocks.len() };
        (0..chunks * parts).into_par_iter().for_each(|task| {
            let (index, part) = (task / parts, task % parts);
            let task = Task {
                products: self,
                classes: &classes,
                pixels: index * chunk..((index + 1) * chunk).min(pixels),
                x,
                weights: weights.as_slice(),
                bias: bias.as_deref(),
                y: out,
            };
            let blocks = if parts == 1 { &blocks[..] } else { &blocks[part..part + 1] };
            for block in blocks {
                with_block!(block.vectors, M, N => task.block::<M, N>(block));
            }
        });
        // SAFETY: the capacity is as large, and the tasks have written every column of every pixel.
        unsafe { y.set_len(pixels * k) };
        y
    }

    /// `[block][tap][⌈depth/2⌉][stride]`
    fn packed(&self, blocks: &[Block], pack: impl Fn(&mut [Pair], usize, &Block) + Sync) -> Aligned<Pair> {
        let (taps, depth) = (self.taps.count(), self.taps.depth.div_ceil(2));
        let mut weights = Aligned::zeros(blocks.iter().map(|b| taps * depth * b.stride).sum());
        let mut rest = weights.as_mut_slice();
        let mut parts = Vec::new();
        for block in blocks {
            for tap in 0..taps {
                let (to, behind) = rest.split_at_mut(depth * block.stride);
                rest = behind;
                parts.push((to, tap, block));
            }
        }
        parts.into_par_iter().for_each(|(to, tap, block)| pack(to, tap, block));
        weights
    }
}

/// Some output pixels, counted class by class, and image by image within a class.
struct Task<'a> {
    products: &'a Products<'a>,
    classes: &'a [Class],
    pixels: Range<usize>,
    x: &'a [bf16],
    weights: &'a [Pair],
    bias: Option<&'a [f32]>,
    y: Shared<bf16>,
}

impl Task<'_> {
    fn block<const M: usize, const N: usize>(&self, block: &Block) {
        let Products { processor, taps, finish, n, .. } = *self.products;
        let pairs = taps.depth.div_ceil(2);
        let packed = self.weights[block.at * taps.count() * pairs..].as_ptr();
        let finish = BlockFinish::new(self.bias, finish.residual, finish.relu, block);
        let mut passed = 0;
        for class in self.classes {
            let all = passed..passed + n * class.positions.len();
            passed = all.end;
            let pixels = self.pixels.start.max(all.start)..self.pixels.end.min(all.end);
            let seen: Vec<_> =
                class.taps.iter().map(|&(tap, from)| (tap * pairs * block.stride, from)).collect();
            for first in pixels.clone().step_by(M) {
                let valid = M.min(pixels.end - first);
                let (mut sources, mut out) = ([self.x.as_ptr(); M], [0; M]);
                for m in 0..M {
                    (sources[m], out[m]) = self.pixel(class, first - all.start + m.min(valid - 1), block);
                }
                // SAFETY: a source is the first number of the first tap that the
                // pixel sees, from which its other taps are as far as its class says; each tap's depth ends
                // within its pixel in x. The block's packed weights hold N vectors for each tap and pair. The
                // block's columns are `width` in y, the residual and the bias, and this task alone has these
                // pixels and columns.
                unsafe {
                    gather_product::<M, N>(
                        processor,
                        &sources,
                        packed,
                        &seen,
                        taps.depth,
                        self.y.get(),
                        &out,
                        valid,
                        block.width,
                        finish,
                    );
                }
            }
        }
    }

    /// Where the class's q-th pixel reads, and where it writes.
    #[inline(always)]
    fn pixel(&self, class: &Class, q: usize, block: &Block) -> (*const bf16, usize) {
        let Products { taps, groups, group_k, .. } = *self.products;
        let (image, position) = (q / class.positions.len(), class.positions[q % class.positions.len()]);
        let source = &raw const self.x[image * taps.image + position.source + block.group * taps.depth];
        let pixel = image * taps.out_h * taps.out_w + position.out;
        (source, pixel * groups * group_k + block.column)
    }
}
