//! The processors that add two bf16 products to an f32 sum in one instruction.

use crate::conv2d::cpu::Finish;
use crate::conv2d::geometry::Geometry;
use half::bf16;

/// Says that this processor has AVX512-BF16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::conv2d) struct Processor(Proof);

#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Proof;

/// Elsewhere there is no such processor.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {}

#[cfg(target_arch = "x86_64")]
impl Processor {
    /// This one, if it is of the kind.
    pub(in crate::conv2d) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bf16");
        has.then_some(Self(Proof))
    }

    pub(super) fn forward(
        self,
        g: &Geometry,
        x: &[bf16],
        weight: &[bf16],
        finish: Finish<'_, bf16>,
    ) -> Vec<bf16> {
        super::products::forward(self, g, x, weight, finish)
    }

    pub(super) fn backward_input(self, g: &Geometry, dy: &[bf16], weight: &[bf16]) -> Vec<bf16> {
        super::products::backward_input(self, g, dy, weight)
    }

    pub(super) fn backward_weight(self, g: &Geometry, x: &[bf16], dy: &[bf16]) -> Vec<f32> {
        super::gradient::backward_weight(self, g, x, dy)
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Processor {
    pub(in crate::conv2d) fn detect() -> Option<Self> {
        None
    }

    pub(super) fn forward(self, _: &Geometry, _: &[bf16], _: &[bf16], _: Finish<'_, bf16>) -> Vec<bf16> {
        match self.0 {}
    }

    pub(super) fn backward_input(self, _: &Geometry, _: &[bf16], _: &[bf16]) -> Vec<bf16> {
        match self.0 {}
    }

    pub(super) fn backward_weight(self, _: &Geometry, _: &[bf16], _: &[bf16]) -> Vec<f32> {
        match self.0 {}
    }
}
