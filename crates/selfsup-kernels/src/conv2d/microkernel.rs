//! The two innermost loops of convolution: a block of sums is held in vector registers while the depth runs.
//!
//! A block is M rows of N vectors. Every step loads N vectors of the one factor and spreads M numbers of the other,
//! for M·N multiply-adds; with 32 registers 6 rows of 4 vectors keep the multipliers busy on processors that
//! load two vectors a cycle. Nothing is gathered or copied: rows are read where they lie, by their addresses.

use super::cpu::Finish;
use crate::element::Element;
use crate::simd::Lanes;
use pulp::{Arch, Simd, WithSimd};
use std::marker::PhantomData;

/// Rows of a block, at most.
pub(super) const MAX_ROWS: usize = 12;

/// Vectors across a block, at most: what the processor's registers hold.
fn max_vectors<S: Simd>() -> usize {
    match S::REGISTER_COUNT {
        32.. => 4,
        _ => 2,
    }
}

/// A block of columns that the registers hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// The group of channels it is of.
    pub group: usize,
    /// Its first column, among those of all groups.
    pub column: usize,
    pub width: usize,
    /// Vectors across, and numbers in them.
    pub vectors: usize,
    pub stride: usize,
    /// Its first number where every block has whole vectors.
    pub at: usize,
}

/// The columns of some groups, cut into blocks.
pub(super) fn blocks<T: Element>(arch: Arch, groups: usize, group_k: usize) -> Vec<Block> {
    struct Sizes<T>(PhantomData<T>);
    impl<T: Element> WithSimd for Sizes<T> {
        type Output = (usize, usize);
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> (usize, usize) {
            (T::lanes::<S>(), max_vectors::<S>())
        }
    }
    let (lanes, most) = arch.dispatch(Sizes::<T>(PhantomData));
    cut(groups, group_k, lanes, most)
}

/// The same, into blocks of at most `most` vectors of `lanes` numbers.
pub(super) fn cut(groups: usize, group_k: usize, lanes: usize, most: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut at = 0;
    for group in 0..groups {
        for column in (0..group_k).step_by(most * lanes) {
            let width = (group_k - column).min(most * lanes);
            let vectors = width.div_ceil(lanes);
            let stride = vectors * lanes;
            blocks.push(Block { group, column: group * group_k + column, width, vectors, stride, at });
            at += stride;
        }
    }
    blocks
}

/// Evaluates an expression with the constants N, the vectors across, and M, as many rows as the registers then hold.
macro_rules! with_block {
    ($S:ident, $vectors:expr, $M:ident, $N:ident => $body:expr) => {
        match (<$S as Simd>::REGISTER_COUNT, $vectors) {
            (32.., 4) => $crate::conv2d::microkernel::block!($M = 6, $N = 4, $body),
            (32.., 3) => $crate::conv2d::microkernel::block!($M = 8, $N = 3, $body),
            (32.., 2) => $crate::conv2d::microkernel::block!($M = 12, $N = 2, $body),
            (_, 2) => $crate::conv2d::microkernel::block!($M = 6, $N = 2, $body),
            _ => $crate::conv2d::microkernel::block!($M = 12, $N = 1, $body),
        }
    };
}
macro_rules! block {
    ($M:ident = $m:literal, $N:ident = $n:literal, $body:expr) => {{
        const $M: usize = $m;
        const $N: usize = $n;
        $body
    }};
}
pub(super) use {block, with_block};

/// What happens to a block's sums.
#[derive(Clone, Copy)]
pub(super) struct BlockFinish<T> {
    /// Whether they are added to what is there already.
    pub accumulate: bool,
    /// Added to every row; null for nothing.
    pub bias: *const T,
    /// Added, number for number of y.
    pub residual: Option<*const T>,
    /// Whether numbers below 0 become 0 then.
    pub relu: bool,
}

/// out[m, ..width] = finish(Σ_t Σ_i sources[m][offset_t + i] · weights[at_t + i·N·lanes ..]), i < depth, the taps being
/// (offset, at).
///
/// # Safety
/// Each offset leads from each source to `depth` numbers of the same allocation; each place in `weights` is followed by
/// `depth · N` vectors; `width` is above (N − 1) vectors and at most N; for the first `valid` places in
/// `out`, `width` numbers from there may be written in y, read in the residual, if there is one, and no one else
/// touches them; the bias has `width` numbers.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn gather_product<S: Simd, T: Element, const M: usize, const N: usize>(
    simd: S,
    sources: &[*const T; M],
    weights: *const T,
    taps: &[(isize, usize)],
    depth: usize,
    y: *mut T,
    out: &[usize; MAX_ROWS],
    valid: usize,
    width: usize,
    finish: BlockFinish<T>,
) {
    let lanes = T::lanes::<S>();
    let mut sums = [[T::splat(simd, T::ZERO); N]; M];
    for &(offset, at) in taps {
        // SAFETY: the caller's promise: all addresses are within their `depth` numbers or vectors.
        unsafe {
            let mut places = *sources;
            for place in &mut places {
                *place = place.offset(offset);
            }
            let mut weights = weights.add(at);
            for i in 0..depth {
                let mut w = [T::splat(simd, T::ZERO); N];
                for (n, w) in w.iter_mut().enumerate() {
                    *w = load::<S, T>(weights.add(n * lanes));
                }
                for (place, sums) in places.iter().zip(&mut sums) {
                    let x = T::splat(simd, *place.add(i));
                    for (sum, w) in sums.iter_mut().zip(&w) {
                        *sum = T::mul_add(simd, x, *w, *sum);
                    }
                }
                weights = weights.add(N * lanes);
            }
        }
    }
    if valid == M && width == N * lanes && finish.is_nothing() {
        // Straight from the registers: a short depth takes hardly longer than the checks below.
        for (sums, row) in sums.iter().zip(out) {
            for (n, sum) in sums.iter().enumerate() {
                // SAFETY: the caller's promise: these N vectors are in y, and no one else touches them.
                unsafe { y.add(row + n * lanes).cast::<T::Vector<S>>().write_unaligned(*sum) };
            }
        }
        return;
    }
    // A copy: indexed by a loop that is not unrolled, the sums themselves would have to lie in memory.
    let sums = sums;
    for (m, (sums, row)) in sums.iter().zip(out).enumerate() {
        if m < valid {
            for (n, sum) in sums.iter().enumerate() {
                // SAFETY: the caller's promise: these columns of the row are in y, in the residual and in the bias,
                // and no one else touches them in y.
                unsafe { finish.write(simd, *sum, y, *row, n * lanes, width) };
            }
        }
    }
}

impl<T: Element> BlockFinish<T> {
    /// Of a block of columns: the bias is its own.
    pub(super) fn new(finish: Finish<'_, T>, block: &Block) -> Self {
        let bias = finish.bias.map(|b| &b[block.column..][..block.width]);
        Self::of_all(Finish { bias, ..finish })
    }

    /// Of all columns.
    pub(super) fn of_all(finish: Finish<'_, T>) -> Self {
        Self {
            accumulate: false,
            bias: finish.bias.map_or(std::ptr::null(), <[T]>::as_ptr),
            residual: finish.residual.map(<[T]>::as_ptr),
            relu: finish.relu,
        }
    }

    /// Sums that are written as they are.
    pub(super) const NOTHING: Self =
        Self { accumulate: false, bias: std::ptr::null(), residual: None, relu: false };

    #[inline(always)]
    fn is_nothing(&self) -> bool {
        !self.accumulate && self.bias.is_null() && self.residual.is_none() && !self.relu
    }

    /// Finishes a vector of sums, the columns from `from` on of the row of `width` columns at `row`, and writes it.
    ///
    /// # Safety
    /// Those columns may be written in y and read in the residual, and no one else touches them; the bias has
    /// `width` numbers; `from` is below `width`.
    #[inline(always)]
    pub(super) unsafe fn write<S: Simd>(
        &self,
        simd: S,
        mut sum: T::Vector<S>,
        y: *mut T,
        row: usize,
        from: usize,
        width: usize,
    ) {
        let columns = (width - from).min(T::lanes::<S>());
        // SAFETY: the caller's promise.
        unsafe {
            let to = std::slice::from_raw_parts_mut(y.add(row + from), columns);
            if self.accumulate {
                sum = T::sum(simd, sum, read(simd, to));
            }
            if !self.bias.is_null() {
                let bias = std::slice::from_raw_parts(self.bias.add(from), columns);
                sum = T::sum(simd, sum, read(simd, bias));
            }
            if let Some(residual) = self.residual {
                let residual = std::slice::from_raw_parts(residual.add(row + from), columns);
                sum = T::sum(simd, sum, read(simd, residual));
            }
            if self.relu {
                sum = T::relu(simd, sum);
            }
            write(simd, to, sum);
        }
    }
}

/// sums[m, ..N·lanes] += Σ_(x, y) x[x + m] · dy[y ..], rows of sums being `stride` apart.
///
/// # Safety
/// Each entry is followed by M numbers in `x` and by N vectors in `dy`. The M rows of N vectors in `sums`
/// may be written, and no one else touches them.
#[inline(always)]
pub(super) unsafe fn outer_product<S: Simd, T: Element, const M: usize, const N: usize>(
    simd: S,
    x: *const T,
    dy: *const T,
    entries: &[(usize, usize)],
    sums: *mut T,
    stride: usize,
) {
    let lanes = T::lanes::<S>();
    let mut block = [[T::splat(simd, T::ZERO); N]; M];
    // SAFETY: the caller's promise: all addresses are within their numbers or vectors.
    unsafe {
        for (m, row) in block.iter_mut().enumerate() {
            for (n, sum) in row.iter_mut().enumerate() {
                *sum = load::<S, T>(sums.add(m * stride + n * lanes));
            }
        }
        for &(from, row) in entries {
            let (x, dy) = (x.add(from), dy.add(row));
            let mut d = [T::splat(simd, T::ZERO); N];
            for (n, d) in d.iter_mut().enumerate() {
                *d = load::<S, T>(dy.add(n * lanes));
            }
            for (m, sums) in block.iter_mut().enumerate() {
                let x = T::splat(simd, *x.add(m));
                for (sum, d) in sums.iter_mut().zip(&d) {
                    *sum = T::mul_add(simd, x, *d, *sum);
                }
            }
        }
        for (m, row) in block.iter().enumerate() {
            for (n, sum) in row.iter().enumerate() {
                sums.add(m * stride + n * lanes).cast::<T::Vector<S>>().write_unaligned(*sum);
            }
        }
    }
}

/// # Safety
/// A vector of numbers may be read there.
#[inline(always)]
pub(super) unsafe fn load<S: Simd, T: Lanes>(from: *const T) -> T::Vector<S> {
    // SAFETY: the caller's promise; a vector is plain numbers.
    unsafe { from.cast::<T::Vector<S>>().read_unaligned() }
}

#[inline(always)]
pub(super) fn read<S: Simd, T: Element>(simd: S, from: &[T]) -> T::Vector<S> {
    if from.len() == T::lanes::<S>() {
        // SAFETY: the slice is a vector long.
        unsafe { load::<S, T>(from.as_ptr()) }
    } else {
        T::load_part(simd, from)
    }
}

#[inline(always)]
pub(super) fn write<S: Simd, T: Element>(simd: S, to: &mut [T], x: T::Vector<S>) {
    if to.len() == T::lanes::<S>() {
        // SAFETY: the slice is a vector long.
        unsafe { to.as_mut_ptr().cast::<T::Vector<S>>().write_unaligned(x) }
    } else {
        T::store_part(simd, to, x);
    }
}
