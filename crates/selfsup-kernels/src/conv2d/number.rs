//! The number types that convolution works in on the CPU, and what each has for it.

use super::bfloat;
use super::cpu::{self, Finish};
use super::geometry::Geometry;
use crate::stored::Stored;
use half::bf16;
use pulp::Arch;

/// f32, f64 or bf16.
pub(crate) trait Number: Stored {
    /// y of the module's formula.
    fn forward(g: &Geometry, x: &[Self], weight: &[Self], finish: Finish<'_, Self>) -> Vec<Self>;
    fn backward_input(g: &Geometry, dy: &[Self], weight: &[Self]) -> Vec<Self>;
    /// Not rounded.
    fn backward_weight(g: &Geometry, x: &[Self], dy: &[Self]) -> Vec<Self::Wide>;
}

macro_rules! number {
    ($T:ident) => {
        impl Number for $T {
            fn forward(g: &Geometry, x: &[Self], weight: &[Self], finish: Finish<'_, Self>) -> Vec<Self> {
                cpu::forward(Arch::new(), cpu::path(g), g, x, weight, None, finish)
            }
            fn backward_input(g: &Geometry, dy: &[Self], weight: &[Self]) -> Vec<Self> {
                cpu::backward_input(Arch::new(), cpu::path(g), g, dy, weight)
            }
            fn backward_weight(g: &Geometry, x: &[Self], dy: &[Self]) -> Vec<Self> {
                cpu::backward_weight(Arch::new(), cpu::path(g), g, x, dy)
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
    fn backward_weight(g: &Geometry, x: &[Self], dy: &[Self]) -> Vec<f32> {
        bfloat::backward_weight(bfloat::path(g), g, x, dy)
    }
}
