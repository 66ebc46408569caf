//! From bf16 to f32 and back, and the passes over bf16 numbers that are no convolutions.

use crate::simd::vectorized;
use half::bf16;
use rayon::prelude::*;

/// Numbers of a task that goes through memory once.
const CHUNK: usize = 16 * 1024;

#[inline(always)]
fn wide(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// The same numbers in f32.
pub(super) fn widened(from: &[bf16]) -> Vec<f32> {
    let mut to = vec![0.0; from.len()];
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        vectorized(
            #[inline(always)]
            || to.iter_mut().zip(from).for_each(|(to, from)| *to = wide(*from)),
        );
    });
    to
}

/// The nearest numbers in bf16, the even one of two as near.
pub(super) fn narrowed(from: &[f32]) -> Vec<bf16> {
    let mut to = vec![bf16::ZERO; from.len()];
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        vectorized(
            #[inline(always)]
            || to.iter_mut().zip(from).for_each(|(to, from)| *to = narrow(*from)),
        );
    });
    to
}

/// [`bf16::from_f32`] without a branch, so that it vectorises.
#[inline(always)]
pub(super) fn narrow(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    bf16::from_bits(if x.is_nan() { quiet } else { rounded } as u16)
}

/// dy where y is above 0 (or NaN), else 0.
pub(in crate::conv2d) fn gated(y: &[bf16], dy: &[bf16]) -> Vec<bf16> {
    let mut out = vec![bf16::ZERO; dy.len()];
    out.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK)).for_each(
        |((out, y), dy)| {
            vectorized(
                #[inline(always)]
                || {
                    for ((out, y), dy) in out.iter_mut().zip(y).zip(dy) {
                        *out = if wide(*y) <= 0.0 { bf16::ZERO } else { *dy };
                    }
                },
            );
        },
    );
    out
}

/// The sums over the rows of `[rows, k]`, in f32 and then f64.
pub(in crate::conv2d) fn column_sums(rows: &[bf16], k: usize) -> Vec<bf16> {
    let per_task = (CHUNK / k).max(1) * k;
    let parts: Vec<Vec<f32>> = rows
        .par_chunks(per_task)
        .map(|rows| {
            let mut sum = vec![0.0; k];
            vectorized(
                #[inline(always)]
                || {
                    for row in rows.chunks_exact(k) {
                        for (s, x) in sum.iter_mut().zip(row) {
                            *s += wide(*x);
                        }
                    }
                },
            );
            sum
        })
        .collect();
    let mut total = vec![0.0; k];
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            *t += f64::from(p);
        }
    }
    total.into_iter().map(bf16::from_f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_half() {
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(high) << 16 | low);
                // A signalling NaN becomes a quiet one.
                assert_eq!(narrow(x).to_bits(), bf16::from_f32(x).to_bits(), "{x}");
            }
            let x = bf16::from_bits(high);
            assert!(wide(x).to_bits() == x.to_f32().to_bits() || x.is_nan() && wide(x).is_nan(), "{x}");
        }
    }
}
