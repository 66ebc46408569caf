//! Convolution in bf16 on the CPU: sums in f32, rounded once.
//!
//! A processor with AVX512-BF16 multiplies and adds two bf16 products a lane ([`pairs`]). All else goes by
//! way of f32, whose products of bf16 numbers are exact.

#[cfg(target_arch = "x86_64")]
mod classes;
#[cfg(target_arch = "x86_64")]
mod gradient;
#[cfg(target_arch = "x86_64")]
mod kernel;
mod pairs;
#[cfg(target_arch = "x86_64")]
mod products;

pub(super) use pairs::Processor;

use super::cpu::{self, Finish};
use super::few_pixels;
use super::geometry::Geometry;
use crate::stored::{narrowed, widened};
use half::bf16;
use pulp::Arch;

/// Channels of a group, in and out, below which pairs and vectors of them are not worth it.
const MIN_CHANNELS: usize = 16;

/// The ways that a convolution in bf16 and its gradients are worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// By products of pairs.
    Pairs(Processor),
    /// In f32.
    Widened,
}

/// The fastest way for these sizes.
pub(super) fn path(g: &Geometry) -> Path {
    let few = few_pixels::writes(g);
    match Processor::detect() {
        Some(processor) if !few && g.group_c().min(g.group_k()) >= MIN_CHANNELS => Path::Pairs(processor),
        _ => Path::Widened,
    }
}

/// y of the convolution.
pub(super) fn forward(
    path: Path,
    g: &Geometry,
    x: &[bf16],
    weight: &[bf16],
    finish: Finish<'_, bf16>,
) -> Vec<bf16> {
    match path {
        Path::Pairs(processor) => processor.forward(g, x, weight, finish),
        Path::Widened => {
            let (bias, residual) = (finish.bias.map(widened), finish.residual.map(widened));
            let finish = Finish { bias: bias.as_deref(), residual: residual.as_deref(), relu: finish.relu };
            narrowed(&cpu::forward(Arch::new(), cpu::path(g), g, &widened(x), &widened(weight), None, finish))
        }
    }
}

/// dx.
pub(super) fn backward_input(path: Path, g: &Geometry, dy: &[bf16], weight: &[bf16]) -> Vec<bf16> {
    match path {
        Path::Pairs(processor) => processor.backward_input(g, dy, weight),
        Path::Widened => {
            narrowed(&cpu::backward_input(Arch::new(), cpu::path(g), g, &widened(dy), &widened(weight)))
        }
    }
}

/// dweight, not rounded.
pub(super) fn backward_weight(path: Path, g: &Geometry, x: &[bf16], dy: &[bf16]) -> Vec<f32> {
    match path {
        Path::Pairs(processor) => processor.backward_weight(g, x, dy),
        Path::Widened => cpu::backward_weight(Arch::new(), cpu::path(g), g, &widened(x), &widened(dy)),
    }
}
