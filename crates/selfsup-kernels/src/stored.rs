//! The number types that tensors are kept in, and those that their numbers are worked with: bf16's is f32.

use crate::element::{Element, on_fast_path};
use crate::simd::vectorized;
use candle_core::{DType, Tensor, WithDType};
use half::bf16;
use rayon::prelude::*;
use std::borrow::Cow;

/// Numbers of a task that goes through memory once.
const CHUNK: usize = 16 * 1024;

/// f32, f64 or bf16.
pub(crate) trait Stored: WithDType {
    /// What its numbers become for arithmetic.
    type Wide: Element;
    const ZERO: Self;
    /// The same number.
    fn wide(self) -> Self::Wide;
    /// The nearest number, the even one of two as near.
    fn narrow(wide: Self::Wide) -> Self;
    /// The nearest numbers.
    fn narrowed(wide: Cow<'_, [Self::Wide]>) -> Cow<'_, [Self]>;
    /// Calls `f` with zeros, and leaves the nearest numbers of what it makes of them in `to`, which holds zeros.
    fn sum_into<R>(to: &mut [Self], f: impl FnOnce(&mut [Self::Wide]) -> R) -> R;
}

macro_rules! own {
    ($T:ident) => {
        impl Stored for $T {
            type Wide = Self;
            const ZERO: Self = 0.0;
            #[inline(always)]
            fn wide(self) -> Self {
                self
            }
            #[inline(always)]
            fn narrow(wide: Self) -> Self {
                wide
            }
            fn narrowed(wide: Cow<'_, [Self]>) -> Cow<'_, [Self]> {
                wide
            }
            fn sum_into<R>(to: &mut [Self], f: impl FnOnce(&mut [Self]) -> R) -> R {
                f(to)
            }
        }
    };
}
own!(f32);
own!(f64);

impl Stored for bf16 {
    type Wide = f32;
    const ZERO: Self = Self::ZERO;
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    /// [`bf16::from_f32`] without a branch, so that it vectorises.
    #[inline(always)]
    fn narrow(wide: f32) -> Self {
        let bits = wide.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let quiet = bits >> 16 | 0x40;
        Self::from_bits(if wide.is_nan() { quiet } else { rounded } as u16)
    }
    fn narrowed(wide: Cow<'_, [f32]>) -> Cow<'_, [Self]> {
        Cow::Owned(narrowed(&wide))
    }
    fn sum_into<R>(to: &mut [Self], f: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut wide = vec![0.0; to.len()];
        let result = f(&mut wide);
        narrow_into(&wide, to);
        result
    }
}

/// Whether the tensor is of these types, in main memory.
pub(crate) fn is_stored(tensor: &Tensor) -> bool {
    on_fast_path(tensor) || tensor.device().is_cpu() && tensor.dtype() == DType::BF16
}

/// Evaluates `$body` with `$T` standing for the type of a tensor that [`is_stored`].
macro_rules! with_stored {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            dtype => crate::element::with_element!(dtype, $T => $body),
        }
    };
}
pub(crate) use with_stored;

/// The same numbers in f32.
pub(crate) fn widened(from: &[bf16]) -> Vec<f32> {
    let mut to = vec![0.0; from.len()];
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        vectorized(
            #[inline(always)]
            || to.iter_mut().zip(from).for_each(|(to, from)| *to = from.wide()),
        );
    });
    to
}

/// The nearest numbers in bf16, the even one of two as near.
pub(crate) fn narrowed(from: &[f32]) -> Vec<bf16> {
    let mut to = vec![<bf16 as Stored>::ZERO; from.len()];
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| narrow_into(from, to));
    to
}

fn narrow_into(from: &[f32], to: &mut [bf16]) {
    vectorized(
        #[inline(always)]
        || to.iter_mut().zip(from).for_each(|(to, from)| *to = bf16::narrow(*from)),
    );
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
                assert_eq!(bf16::narrow(x).to_bits(), bf16::from_f32(x).to_bits(), "{x}");
            }
            let x = bf16::from_bits(high);
            assert!(x.wide().to_bits() == x.to_f32().to_bits() || x.is_nan() && x.wide().is_nan(), "{x}");
        }
    }
}
