//! The weight's gradient of depthwise convolution: dweight[tap, c] = Σ over output pixels of x at the tap · dy.
//!
//! As in the convolution itself a few neighbours go together. Their vectors of dy stay in registers while the taps run,
//! and each tap's sum takes in all of them at a time.

use super::cpu::sum_slabs;
use super::depthwise::{PIXELS, Rows, part, vectors_together};
use super::geometry::Geometry;
use super::microkernel::write;
use super::taps::{Class, Line, Taps};
use crate::element::Element;
use crate::simd::isolated;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Sums of the gradient, at most: enough for load balance on 16 cores.
const SLABS: usize = 32;
/// Pixels that are worth a sum of their own.
const SLAB_PIXELS: usize = 64;

/// dweight: each slab of rows sums its own, then the slabs are added.
pub(super) fn backward_weight<T: Element>(arch: Arch, g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    let taps = Taps::forward(g);
    let rows = Rows::new(&taps, g.c, g.n, x);
    let len = g.taps() * g.c;
    let (count, pixels) = (g.n * g.out_h, g.n * g.out_h * g.out_w);
    let slab_rows = count.div_ceil(SLABS.min(pixels.div_ceil(SLAB_PIXELS)));
    let mut sums = vec![T::ZERO; count.div_ceil(slab_rows) * len];
    sums.par_chunks_mut(len).enumerate().for_each(|(slab, sums)| {
        let range = slab * slab_rows..((slab + 1) * slab_rows).min(count);
        arch.dispatch(Slab { rows: &rows, range, x, dy, sums });
    });
    sum_slabs(sums, len)
}

struct Slab<'a, T> {
    rows: &'a Rows<'a>,
    /// Among the rows of all images.
    range: Range<usize>,
    x: &'a [T],
    dy: &'a [T],
    sums: &'a mut [T],
}

impl<T: Element> WithSimd for Slab<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rows = self.rows;
        for row in self.range.clone() {
            let (image, i) = (row / rows.taps.out_h, row % rows.taps.out_h);
            for &(index, line) in &rows.of_row[i] {
                let class = &rows.classes[index];
                let mut columns = &class.columns[..];
                while !columns.is_empty() {
                    let taken = match columns.len() {
                        PIXELS.. => self.pixels::<S, PIXELS>(simd, class, image, line, columns),
                        _ => self.pixels::<S, 1>(simd, class, image, line, columns),
                    };
                    columns = &columns[taken..];
                }
            }
        }
    }
}

impl<T: Element> Slab<'_, T> {
    /// Adds the products of the first M of some pixels, and returns M.
    #[inline(always)]
    fn pixels<S: Simd, const M: usize>(
        &mut self,
        simd: S,
        class: &Class,
        image: usize,
        line: Line,
        columns: &[Line],
    ) -> usize {
        let Self { rows, x, dy, ref mut sums, .. } = *self;
        let c = rows.c;
        let (mut sources, mut gradients) = ([std::ptr::null(); M], [std::ptr::null(); M]);
        for (m, column) in columns[..M].iter().enumerate() {
            let (source, pixel) = rows.place(image, line, *column);
            (sources[m], gradients[m]) = (x[source..].as_ptr(), dy[pixel * c..][..c].as_ptr());
        }
        isolated(
            simd,
            #[inline(always)]
            || {
                let mut from = 0;
                while from < c {
                    from += match vectors_together::<S>((c - from) / T::lanes::<S>()) {
                        4 => vectors::<S, T, M, 4, true>(simd, class, c, &sources, &gradients, from, sums),
                        2 => vectors::<S, T, M, 2, true>(simd, class, c, &sources, &gradients, from, sums),
                        1 => vectors::<S, T, M, 1, true>(simd, class, c, &sources, &gradients, from, sums),
                        _ => vectors::<S, T, M, 1, false>(simd, class, c, &sources, &gradients, from, sums),
                    };
                }
            },
        );
        M
    }
}

/// Adds the products of N vectors of channels of M pixels or, if it is not WHOLE, the part of one that is left. Returns how
/// many channels.
#[inline(always)]
fn vectors<S: Simd, T: Element, const M: usize, const N: usize, const WHOLE: bool>(
    simd: S,
    class: &Class,
    c: usize,
    sources: &[*const T; M],
    gradients: &[*const T; M],
    from: usize,
    sums: &mut [T],
) -> usize {
    let lanes = T::lanes::<S>();
    let width = if WHOLE { N * lanes } else { c - from };
    let mut dy = [[T::splat(simd, T::ZERO); N]; M];
    for (dy, pixel) in dy.iter_mut().zip(gradients) {
        for (n, dy) in dy.iter_mut().enumerate() {
            // SAFETY: each pixel of dy has c numbers.
            *dy = unsafe { part::<S, T, WHOLE>(simd, pixel.add(from + n * lanes), width) };
        }
    }
    for &(tap, offset) in &class.taps {
        let sums = &mut sums[tap * c + from..][..width];
        // SAFETY: as in the convolution.
        unsafe {
            let mut totals = [T::splat(simd, T::ZERO); N];
            for (n, total) in totals.iter_mut().enumerate() {
                *total = part::<S, T, WHOLE>(simd, sums.as_ptr().add(n * lanes), width);
            }
            for (source, dy) in sources.iter().zip(&dy) {
                let source = source.offset(offset + from as isize);
                for (n, (total, dy)) in totals.iter_mut().zip(dy).enumerate() {
                    let x = part::<S, T, WHOLE>(simd, source.add(n * lanes), width);
                    *total = T::mul_add(simd, x, *dy, *total);
                }
            }
            for (total, sums) in totals.iter().zip(sums.chunks_mut(lanes)) {
                write(simd, sums, *total);
            }
        }
    }
    width
}
