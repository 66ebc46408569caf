//! Depthwise convolution: one channel in for each channel out, so no matrix product. The channels are the vectors,
//! contiguous in NHWC.
//!
//! A task owns a row of pixels and takes a few of them at a time, neighbours that see the same taps. While their taps
//! run, some vectors of sums of each stay in registers; weights serve them all. All channels of these few pixels come
//! before the next ones, so that memory is read in order, which is what takes the time.

use super::cpu::Finish;
use super::geometry::Geometry;
use super::microkernel::{BlockFinish, load};
use super::taps::{Class, Line, Taps};
use crate::element::Element;
use crate::scratch::Shared;
use crate::simd::isolated;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Pixels that go together where there are as many.
pub(super) const PIXELS: usize = 4;

/// y[.., c] = Σ x at the tap[.., c] · weight[tap, c].
pub(super) fn forward<T: Element>(
    arch: Arch,
    g: &Geometry,
    x: &[T],
    weight: &[T],
    finish: Finish<'_, T>,
) -> Vec<T> {
    sums(arch, &Taps::forward(g), g.n, x, weight, finish)
}

/// dx[.., c] = Σ dy of the pixels that saw it[.., c] · weight[tap, c].
pub(super) fn backward_input<T: Element>(arch: Arch, g: &Geometry, dy: &[T], weight: &[T]) -> Vec<T> {
    sums(arch, &Taps::backward(g), g.n, dy, weight, Finish::default())
}

fn sums<T: Element>(
    arch: Arch,
    taps: &Taps,
    n: usize,
    x: &[T],
    weight: &[T],
    finish: Finish<'_, T>,
) -> Vec<T> {
    let c = weight.len() / taps.count();
    let rows = Rows::new(taps, c, n, x);
    let len = n * taps.out_h * taps.out_w * c;
    let mut y = Vec::with_capacity(len);
    let out = Shared::new(y.as_mut_ptr());
    (0..n * taps.out_h).into_par_iter().for_each(|row| {
        arch.dispatch(Row { rows: &rows, row, x, weight, y: out, finish: BlockFinish::of_all(finish) });
    });
    // SAFETY: the capacity is as large, and the tasks have written every channel of every pixel of every row.
    unsafe { y.set_len(len) };
    y
}

/// The rows of output pixels, by what their pixels see.
pub(super) struct Rows<'a> {
    pub taps: &'a Taps,
    pub c: usize,
    pub classes: Vec<Class>,
    /// For each row of an image: the classes that have pixels in it, and the row in each.
    pub of_row: Vec<Vec<(usize, Line)>>,
}

impl<'a> Rows<'a> {
    /// x are n images that the taps read.
    pub(super) fn new<T>(taps: &'a Taps, c: usize, n: usize, x: &[T]) -> Self {
        assert!(
            x.len() == n * taps.image && taps.depth * taps.groups == c,
            "x is {n} images of {c} channels"
        );
        let classes = taps.classes();
        let mut of_row = vec![Vec::new(); taps.out_h];
        for (index, class) in classes.iter().enumerate() {
            for line in &class.rows {
                of_row[line.at].push((index, *line));
            }
        }
        Self { taps, c, classes, of_row }
    }

    /// Where the first tap of a pixel reads, and the pixel's number.
    #[inline(always)]
    pub(super) fn place(&self, image: usize, row: Line, column: Line) -> (usize, usize) {
        let out = (image * self.taps.out_h + row.at) * self.taps.out_w + column.at;
        (image * self.taps.image + row.source + column.source, out)
    }
}

/// A row of output pixels.
struct Row<'a, T> {
    rows: &'a Rows<'a>,
    /// Among those of all images.
    row: usize,
    x: &'a [T],
    weight: &'a [T],
    y: Shared<T>,
    finish: BlockFinish<T>,
}

impl<T: Element> WithSimd for Row<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let out_h = self.rows.taps.out_h;
        for &(index, line) in &self.rows.of_row[self.row % out_h] {
            let class = &self.rows.classes[index];
            match class.columns.len() {
                PIXELS.. => self.class::<S, PIXELS>(simd, class, line),
                _ => self.class::<S, 1>(simd, class, line),
            }
        }
    }
}

impl<T: Element> Row<'_, T> {
    /// The row's pixels of a class, M at a time. The last M reach back to pixels that are done already, where they are not
    /// a multiple.
    #[inline(always)]
    fn class<S: Simd, const M: usize>(&self, simd: S, class: &Class, line: Line) {
        let image = self.row / self.rows.taps.out_h;
        let columns = &class.columns;
        for first in (0..columns.len()).step_by(M) {
            let first = first.min(columns.len() - M);
            let mut places = [(0, 0); M];
            for (place, column) in places.iter_mut().zip(&columns[first..]) {
                *place = self.rows.place(image, line, *column);
            }
            isolated(
                simd,
                #[inline(always)]
                || self.pixels(simd, class, &places),
            );
        }
    }

    /// All channels of M pixels.
    #[inline(always)]
    fn pixels<S: Simd, const M: usize>(&self, simd: S, class: &Class, places: &[(usize, usize); M]) {
        let (c, lanes) = (self.rows.c, T::lanes::<S>());
        let mut sources = [std::ptr::null(); M];
        for (to, (source, _)) in sources.iter_mut().zip(places) {
            *to = self.x[*source..].as_ptr();
        }
        let mut from = 0;
        while from < c {
            from += match vectors_together::<S>((c - from) / lanes) {
                4 => self.vectors::<S, M, 4, true>(simd, class, places, &sources, from),
                2 => self.vectors::<S, M, 2, true>(simd, class, places, &sources, from),
                1 => self.vectors::<S, M, 1, true>(simd, class, places, &sources, from),
                _ => self.vectors::<S, M, 1, false>(simd, class, places, &sources, from),
            };
        }
    }

    /// N vectors of channels of M pixels or, if it is not WHOLE, the part of one that is left. Returns how many channels.
    #[inline(always)]
    fn vectors<S: Simd, const M: usize, const N: usize, const WHOLE: bool>(
        &self,
        simd: S,
        class: &Class,
        places: &[(usize, usize); M],
        sources: &[*const T; M],
        from: usize,
    ) -> usize {
        let (c, lanes) = (self.rows.c, T::lanes::<S>());
        let mut sums = [[T::splat(simd, T::ZERO); N]; M];
        for &(tap, offset) in &class.taps {
            // SAFETY: from each pixel's first place the offset leads to the tap's place in the same image of x, `c`
            // numbers: `Taps::classes` has checked both, and `Rows::new` the sizes. The weight has as many for the tap.
            unsafe {
                let weight = self.weight[tap * c + from..].as_ptr();
                let mut w = [T::splat(simd, T::ZERO); N];
                for (n, w) in w.iter_mut().enumerate() {
                    *w = part::<S, T, WHOLE>(simd, weight.add(n * lanes), c - from);
                }
                for (sums, source) in sums.iter_mut().zip(sources) {
                    let source = source.offset(offset + from as isize);
                    for (n, (sum, w)) in sums.iter_mut().zip(&w).enumerate() {
                        let x = part::<S, T, WHOLE>(simd, source.add(n * lanes), c - from);
                        *sum = T::mul_add(simd, x, *w, *sum);
                    }
                }
            }
        }
        // A copy: indexed by a loop that is not unrolled, the sums themselves would have to lie in memory.
        let sums = sums;
        for (sums, (_, pixel)) in sums.iter().zip(places) {
            for (n, sum) in sums.iter().enumerate() {
                // SAFETY: the pixel's channels are in y, in the residual, which has its shape, and in the bias, and this
                // task alone has the pixel's row.
                unsafe { self.finish.write(simd, *sum, self.y.get(), pixel * c, from + n * lanes, c) };
            }
        }
        if WHOLE { N * lanes } else { c - from }
    }
}

/// How many vectors of channels, of those that are left, go together: so many lines of memory are read in a row, and the
/// sums of [`PIXELS`] fit the registers.
#[inline(always)]
pub(super) fn vectors_together<S: Simd>(left: usize) -> usize {
    match (S::REGISTER_COUNT, left) {
        (32.., 4..) => 4,
        (_, 2..) => 2,
        (_, left) => left,
    }
}

/// A vector or, if it is not WHOLE, the `width` numbers that are left of one.
///
/// # Safety
/// So many numbers may be read there.
#[inline(always)]
pub(super) unsafe fn part<S: Simd, T: Element, const WHOLE: bool>(
    simd: S,
    from: *const T,
    width: usize,
) -> T::Vector<S> {
    // SAFETY: the caller's promise.
    unsafe {
        if WHOLE { load::<S, T>(from) } else { T::load_part(simd, std::slice::from_raw_parts(from, width)) }
    }
}
