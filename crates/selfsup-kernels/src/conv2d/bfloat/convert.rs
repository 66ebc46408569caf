//! From bf16 to f32 and back.

use crate::simd::vectorized;
use half::bf16;
use rayon::prelude::*;

/// Numbers of a task that goes through memory once.
const CHUNK: usize = 16 * 1024;

/// The same number in f32.
#[inline(always)]
pub(in crate::conv2d) fn wide(x: bf16) -> f32 {
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
