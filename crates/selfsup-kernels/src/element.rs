//! The number types that the CPU code works in, and a tensor's numbers as a slice.

use crate::simd::Lanes;
use crate::stored::Stored;
use candle_core::{CpuStorage, DType, Layout, Storage, StorageRef, Tensor, WithDType};
use std::cell::RefCell;
use std::ops::Neg;
use std::ops::Range;

/// f32 or f64.
pub(crate) trait Element: Stored<Wide = Self> + Default + Neg<Output = Self> + Lanes {
    const ONE: Self;
    const NEG_INFINITY: Self;
    /// exp(−x) is a normal number, and exp(x) finite, with room for factors, up to this x.
    const MAX_EXPONENT: f64;
    /// exp(x) for x ≤ 0, to about a unit in the last place; NaN stays NaN.
    fn exp_nonpositive(self) -> Self;
    /// exp(x + rest) for x ≤ 0 and a rest below 0.1 that x has no digits for. With fused multiplications, which halve its
    /// work within [`vectorized`](crate::simd::vectorized), and are calls outside of it.
    fn exp_fused(self, rest: Self) -> Self;
    /// Calls `f` with a buffer of `len` numbers of any value, kept by the thread from call to call.
    fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [Self]) -> R) -> R;
}

macro_rules! element {
    ($T:ident, $exp:path, $exp_fused:expr, $max_exponent:literal) => {
        impl Element for $T {
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = $T::NEG_INFINITY;
            const MAX_EXPONENT: f64 = $max_exponent;
            #[inline(always)]
            fn exp_nonpositive(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn exp_fused(self, rest: Self) -> Self {
                $exp_fused(self, rest)
            }
            fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [Self]) -> R) -> R {
                thread_local!(static SCRATCH: RefCell<Vec<$T>> = const { RefCell::new(Vec::new()) });
                SCRATCH.with_borrow_mut(|buffer| {
                    if buffer.len() < len {
                        buffer.resize(len, 0.0);
                    }
                    f(&mut buffer[..len])
                })
            }
        }
    };
}
element!(f32, exp_nonpositive, exp_fused, 80.0);
element!(f64, f64::exp, |x: f64, rest: f64| x.exp() * (1.0 + rest.exp_m1()), 700.0);

/// Adding it leaves the nearest integer in the low bits.
const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³
#[allow(clippy::excessive_precision)]
const LN2_HIGH: f32 = 0.693_359_375; // ten bits: its products with n are exact
#[allow(clippy::excessive_precision)]
const LN2_LOW: f32 = -2.121_944_4e-4;
#[allow(clippy::excessive_precision)]
const SMALLEST: f32 = -87.336_54; // ln of the smallest normal number
/// Of exp's Taylor polynomial of degree 7, the highest power's first.
const TAYLOR: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// exp(x) = 2ⁿ·exp(r) with n = round(x/ln 2) and |r| ≤ ln 2/2, exp(r) by its Taylor polynomial of degree 7, whose
/// error is below 10⁻⁸ there. It is made of operations that vectorise, which the standard library's is not.
/// Results that f32 holds only as subnormal numbers are 0.
#[inline(always)]
fn exp_nonpositive(x: f32) -> f32 {
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = TAYLOR[0];
    for coefficient in &TAYLOR[1..] {
        p = p * r + coefficient;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < SMALLEST { 0.0 } else { p * power }
}

/// The same of x + rest, fused.
#[inline(always)]
fn exp_fused(x: f32, rest: f32) -> f32 {
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x)) + rest;
    let mut p = TAYLOR[0];
    for coefficient in &TAYLOR[1..] {
        p = p.mul_add(r, *coefficient);
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < SMALLEST { 0.0 } else { p * power }
}

/// Whether the CPU code takes the tensor: it lies in main memory, as f32 or f64.
pub(crate) fn on_fast_path(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && matches!(tensor.dtype(), DType::F32 | DType::F64)
}

/// Evaluates `$body` with `$T` standing for the number type of a tensor that is [`on_fast_path`].
macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}
pub(crate) use with_element;

/// The numbers of a contiguous CPU tensor, borrowed for as long as the view lives.
pub(crate) struct View<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> View<'a> {
    /// Fails if the tensor is not contiguous: callers make it so first.
    pub(crate) fn new(tensor: &'a Tensor) -> candle_core::Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        Ok(Self { storage, range: range(layout)? })
    }

    /// The numbers, in row-major order. Fails if they are of another type, or not in main memory.
    pub(crate) fn as_slice<T: WithDType>(&self) -> candle_core::Result<&[T]> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok(&T::cpu_storage_as_slice(storage)?[self.range.clone()]),
            _ => candle_core::bail!("a CPU kernel was called on another device"),
        }
    }
}

/// The numbers of a custom op's contiguous argument.
pub(crate) fn slice<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    Ok(&T::cpu_storage_as_slice(storage)?[range(layout)?])
}

fn range(layout: &Layout) -> candle_core::Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => candle_core::bail!("a CPU kernel was called on a tensor that is not contiguous"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_a_unit_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in 0..=870_000 {
            let x = -(i as f32) * 1e-4;
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(x.exp_nonpositive()) / expected - 1.0).abs());
            worst = worst.max((f64::from(x.exp_fused(0.0)) / expected - 1.0).abs());
        }
        assert!(worst < 1.5 * f64::from(f32::EPSILON), "relative error {worst:e}");
    }

    #[test]
    fn exp_at_the_ends() {
        assert_eq!(0f32.exp_nonpositive(), 1.0);
        assert_eq!((-0f32).exp_nonpositive(), 1.0);
        for x in [-88.0, -1e10, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!((x.exp_nonpositive(), x.exp_fused(0.0)), (0.0, 0.0), "exp({x})");
        }
        assert_eq!((0f32.exp_fused(0.0), 0f64.exp_fused(0.0)), (1.0, 1.0));
        assert!(f32::NAN.exp_nonpositive().is_nan() && f32::NAN.exp_fused(0.0).is_nan());
    }

    #[test]
    fn exp_takes_a_rest_along() {
        // Sums that f64 holds.
        for (x, rest) in
            [(0.0f64, -0.04f64), (-0.5, 0.03125), (-20.25, 0.5f64.powi(10)), (-80.0, -0.5f64.powi(20))]
        {
            let expected = (x + rest).exp();
            let (narrow, wide) = ((x as f32).exp_fused(rest as f32), x.exp_fused(rest));
            assert!((f64::from(narrow) / expected - 1.0).abs() < 2.0 * f64::from(f32::EPSILON), "{x} {rest}");
            assert!((wide / expected - 1.0).abs() < 4.0 * f64::EPSILON, "{x} {rest}");
        }
    }
}
