//! The innermost loops in bf16: blocks of f32 sums in registers, to which every step adds two products each.
//!
//! They are those of [`microkernel`](crate::conv2d::microkernel) with a pair of bf16 numbers, 32 bits, in
//! each number's place. The instruction takes subnormal numbers, those below 2⁻¹²⁶, for 0.

use super::pairs::Processor;
use crate::conv2d::microkernel::Block;
use half::bf16;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Two bf16 numbers, the first one in the low half.
pub(super) type Pair = u32;

/// f32 numbers, or pairs, in a vector.
pub(super) const LANES: usize = 16;

/// Evaluates an expression with the constants N, the vectors across, and M, as many rows as 32 registers then
/// hold.
macro_rules! with_block {
    ($vectors:expr, $M:ident, $N:ident => $body:expr) => {
        match $vectors {
            4 => $crate::conv2d::microkernel::block!($M = 6, $N = 4, $body),
            3 => $crate::conv2d::microkernel::block!($M = 8, $N = 3, $body),
            2 => $crate::conv2d::microkernel::block!($M = 12, $N = 2, $body),
            _ => $crate::conv2d::microkernel::block!($M = 12, $N = 1, $body),
        }
    };
}
pub(super) use with_block;

#[inline(always)]
pub(super) fn pair(first: bf16, second: bf16) -> Pair {
    u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16
}

/// The pairs of two rows' numbers.
pub(super) fn interleave(_: Processor, to: &mut [Pair], first: &[bf16], second: &[bf16]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn wide(to: &mut [Pair], first: &[bf16], second: &[bf16]) {
        for ((to, first), second) in to.iter_mut().zip(first).zip(second) {
            *to = pair(*first, *second);
        }
    }
    // SAFETY: the processor has these instructions.
    unsafe { wide(to, first, second) }
}

/// What happens to a block's sums.
#[derive(Clone, Copy)]
pub(super) struct BlockFinish {
    /// Added to every row; null for nothing.
    pub bias: *const f32,
    /// Added, number for number of y; null for nothing.
    pub residual: *const bf16,
    /// Whether numbers below 0 become 0 then.
    pub relu: bool,
}

/// sums[m][n] += x(m) · factors[n], pair by pair: x gives a pair, and there are vectors of factors to be
/// read. A function that borrows the sums would keep them in memory.
macro_rules! add_products {
    ($sums:ident, $x:expr, $factors:expr) => {{
        let mut factors = [_mm512_setzero_si512(); N];
        for (n, factor) in factors.iter_mut().enumerate() {
            *factor = _mm512_loadu_si512($factors.add(n * LANES).cast());
        }
        for (m, sums) in $sums.iter_mut().enumerate() {
            let x: __m512bh = std::mem::transmute(_mm512_set1_epi32($x(m).cast_signed()));
            for (sum, factor) in sums.iter_mut().zip(&factors) {
                *sum = _mm512_dpbf16_ps(*sum, x, std::mem::transmute::<__m512i, __m512bh>(*factor));
            }
        }
    }};
}

/// y[out[m] + ..width] = finish(Σ_t Σ_i sources[m][from_t + i] · weights[at_t + ⌊i/2⌋·N·16 ..][i mod 2]) for
/// the taps (at_t, from_t) and i < depth.
///
/// # Safety
/// Each tap's place from each source is that of `depth` numbers, and its place in `weights` that of ⌈depth/2⌉ · N
/// vectors; `width` is above (N − 1) vectors and at most N; for the first `valid` places in `out`, `width`
/// numbers from there may be written in y, read in the residual, if there is one, and no one else touches
/// them; the bias, if there is one, has `width` numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn gather_product<const M: usize, const N: usize>(
    _: Processor,
    sources: &[*const bf16; M],
    weights: *const Pair,
    taps: &[(usize, isize)],
    depth: usize,
    y: *mut bf16,
    out: &[usize; M],
    valid: usize,
    width: usize,
    finish: BlockFinish,
) {
    let mut sums = [[_mm512_setzero_ps(); N]; M];
    for &(at, from) in taps {
        // SAFETY: the caller's promise: all addresses are within their `depth` numbers or vectors; the last
        // number of an odd depth is read alone.
        unsafe {
            let mut sources = *sources;
            for source in &mut sources {
                *source = source.offset(from);
            }
            let mut weights = weights.add(at);
            for i in 0..depth / 2 {
                add_products!(sums, |m: usize| sources[m].cast::<Pair>().add(i).read_unaligned(), weights);
                weights = weights.add(N * LANES);
            }
            if depth % 2 == 1 {
                add_products!(sums, |m: usize| pair(*sources[m].add(depth - 1), bf16::ZERO), weights);
            }
        }
    }
    // What is done to them in a loop that is not unrolled would keep the sums in memory from the start.
    let mut finished = [const { MaybeUninit::<[__m512; N]>::uninit() }; M];
    for (to, sums) in finished.iter_mut().zip(&sums) {
        to.write(*sums);
    }
    for (sums, row) in finished.iter().zip(out).take(valid) {
        // SAFETY: all rows have just been written.
        for (n, sum) in unsafe { sums.assume_init_ref() }.iter().enumerate() {
            // SAFETY: the caller's promise: these columns of the row are in y, in the residual and in the
            // bias, and no one else touches them in y.
            unsafe { finish.write(*sum, y, *row, n * LANES, width) };
        }
    }
}

impl BlockFinish {
    /// Of a block of columns, whose bias is its own.
    pub(super) fn new(bias: Option<&[f32]>, residual: Option<&[bf16]>, relu: bool, block: &Block) -> Self {
        Self {
            bias: bias.map_or(std::ptr::null(), |b| b[block.column..][..block.width].as_ptr()),
            residual: residual.map_or(std::ptr::null(), <[bf16]>::as_ptr),
            relu,
        }
    }

    /// Finishes a vector of sums, the columns from `from` on of the row of `width` columns at `row`, rounds
    /// it to the nearest bf16 numbers and writes it.
    ///
    /// # Safety
    /// The processor has AVX512-BF16. Those columns may be written in y and read in the residual, and no one
    /// else touches them; the bias has `width` numbers; `from` is below `width`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn write(&self, mut sum: __m512, y: *mut bf16, row: usize, from: usize, width: usize) {
        let mask: __mmask16 = if width - from < LANES { (1 << (width - from)) - 1 } else { !0 };
        // SAFETY: the caller's promise; the mask leaves out what is not of the row.
        unsafe {
            if !self.bias.is_null() {
                sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, self.bias.add(from)));
            }
            if !self.residual.is_null() {
                let residual = _mm256_maskz_loadu_epi16(mask, self.residual.add(row + from).cast());
                let residual = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(residual));
                sum = _mm512_add_ps(sum, _mm512_castsi512_ps(residual));
            }
            if self.relu {
                // What is not at most 0: NaN too.
                let keep = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(sum, _mm512_setzero_ps());
                sum = _mm512_maskz_mov_ps(keep, sum);
            }
            let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(sum));
            _mm256_mask_storeu_epi16(y.add(row + from).cast(), mask, rounded);
        }
    }
}

/// sums[m, ..N·16] += Σ_(x, dy) x[x + m] · dy[dy ..], rows of sums being as many numbers apart.
///
/// # Safety
/// Each entry is followed by M pairs in `x` and by N vectors in `dy`. The M rows of N vectors in `sums` may be
/// written, and no one else touches them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn outer_product<const M: usize, const N: usize>(
    _: Processor,
    x: *const Pair,
    dy: *const Pair,
    entries: &[(usize, usize)],
    sums: *mut f32,
) {
    let mut block = [[_mm512_setzero_ps(); N]; M];
    // SAFETY: the caller's promise: all addresses are within their pairs or vectors.
    unsafe {
        for (m, row) in block.iter_mut().enumerate() {
            for (n, sum) in row.iter_mut().enumerate() {
                *sum = _mm512_loadu_ps(sums.add((m * N + n) * LANES));
            }
        }
        for &(from, row) in entries {
            let (x, dy) = (x.add(from), dy.add(row));
            add_products!(block, |m: usize| *x.add(m), dy);
        }
        for (m, row) in block.iter().enumerate() {
            for (n, sum) in row.iter().enumerate() {
                _mm512_storeu_ps(sums.add((m * N + n) * LANES), *sum);
            }
        }
    }
}
