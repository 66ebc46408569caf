//! The number types that convolution works in on the CPU, and what each has for it.

use super::bfloat;
use super::cpu::{self, Finish};
use super::geometry::Geometry;
use crate::element::on_fast_path;
use candle_core::{DType, Tensor, WithDType};
use half::bf16;
use pulp::Arch;

/// f32, f64 or bf16.
pub(super) trait Number: WithDType {
    /// y of the module's formula.
    fn forward(g: &Geometry, x: &[Self], weight: &[Self], finish: Finish<'_, Self>) -> Vec<Self>;
    fn backward_input(g: &Geometry, dy: &[Self], weight: &[Self]) -> Vec<Self>;
    fn backward_weight(g: &Geometry, x: &[Self], dy: &[Self]) -> Vec<Self>;
    /// dy where y is above 0 (or NaN), else 0.
    fn gated(y: &[Self], dy: &[Self]) -> Vec<Self>;
    /// The sums over the rows of `[rows, k]`.
    fn column_sums(rows: &[Self], k: usize) -> Vec<Self>;
}

macro_rules! number {
    ($T:ident) => {
        impl Number for $T {
            fn forward(g: &Geometry, x: &[Self], weight: &[Self], finish: Finish<'_, Self>) -> Vec<Self> {
                cpu::forward(Arch::new(), cpu::path(g), g, x, weight, finish)
            }
            fn backward_input(g: &Geometry, dy: &[Self], weight: &[Self]) -> Vec<Self> {
                cpu::backward_input(Arch::new(), cpu::path(g), g, dy, weight)
            }
            fn backward_weight(g: &Geometry, x: &[Self], dy: &[Self]) -> Vec<Self> {
                cpu::backward_weight(Arch::new(), cpu::path(g), g, x, dy)
            }
            fn gated(y: &[Self], dy: &[Self]) -> Vec<Self> {
                cpu::gated(
                    y,
                    dy,
                    #[inline(always)]
                    |y| y <= 0.0,
                )
            }
            fn column_sums(rows: &[Self], k: usize) -> Vec<Self> {
                cpu::column_sums(
                    rows,
                    k,
                    #[inline(always)]
                    |x| x,
                )
            }
        }
    };
}
number!(f32);
number!(f64);

impl Number for bf16 {
    fn forward(g: &Geometry, x: &[Self], weight: &[Self], finish: Finish<'_, Self>) -> Vec<Self> {
        bfloat::forward(bfloat::path(g), g, x, weight, finish)
    }
    fn backward_input(g: &Geometry, dy: &[Self], weight: &[Self]) -> Vec<Self> {
        bfloat::backward_input(bfloat::path(g), g, dy, weight)
    }
    fn backward_weight(g: &Geometry, x: &[Self], dy: &[Self]) -> Vec<Self> {
        bfloat::backward_weight(bfloat::path(g), g, x, dy)
    }
    fn gated(y: &[Self], dy: &[Self]) -> Vec<Self> {
        cpu::gated(
            y,
            dy,
            #[inline(always)]
            |y| bfloat::wide(y) <= 0.0,
        )
    }
    fn column_sums(rows: &[Self], k: usize) -> Vec<Self> {
        cpu::column_sums(rows, k, bfloat::wide)
    }
}

/// Whether the tensor is of these types, in main memory.
pub(super) fn is_number(tensor: &Tensor) -> bool {
    on_fast_path(tensor) || tensor.device().is_cpu() && tensor.dtype() == DType::BF16
}

/// Evaluates `$body` with `$T` standing for the type of a tensor that [`is_number`].
macro_rules! with_number {
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
pub(super) use with_number;
