//! Operations on each pixel by itself, several fused into one pass over the image.
//!
//! Pixels pass through small planar blocks of f32, where every operation is a loop that the compiler turns
//! into SIMD for the machine at hand. Each operation ends on whole levels 0…255, as it would on stored
//! images, so a fused pass gives the same bits as single ones. No sum depends on the width of the
//! registers and no multiply-add is contracted: every machine gives the same bits.
//!
//! Gray is PIL's L = (19595·R + 38470·G + 7471·B + 2¹⁵) div 2¹⁶; all terms stay below 2²⁴, so f32 holds it
//! exactly.

use crate::color_jitter::{blend, hue};
use crate::grayscale::luma;
use crate::solarize::solarize;
use image::RgbImage;
use pulp::{Arch, NullaryFnOnce};
use std::sync::OnceLock;

/// Pixels a block.
pub(crate) const LANES: usize = 64;

/// Blocks whose gray levels are summed in f32 before the sum moves on: 255 · 2¹⁵ stays below 2²⁴, exact.
const BLOCKS_PER_SUM: usize = 1 << 15;

/// One level a lane.
pub(crate) type Lane = [f32; LANES];

/// An operation on each pixel, its random parameters drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PixelOp {
    /// v·factor, cut to 255.
    Brightness(f32),
    /// m + factor·(v − m) with m the image's mean gray level, rounded, as PIL's `ImageEnhance.Contrast`.
    Contrast(f32),
    /// L + factor·(v − L) with L the pixel's gray level, as PIL's `ImageEnhance.Color`.
    Saturation(f32),
    /// The hue turned by this share of a full turn, in −0.5…0.5; value and saturation stay.
    Hue(f32),
    /// All three channels become the gray level.
    Grayscale,
    /// Levels from the threshold up are inverted.
    Solarize(u8),
}

/// Applies `ops` in order, in as few passes as they allow: a contrast needs the mean of what came before it.
pub fn apply_pixel_ops(image: &mut RgbImage, ops: &[PixelOp]) {
    let pixels: &mut [u8] = image;
    if pixels.is_empty() || ops.is_empty() {
        return;
    }
    let count = pixels.len() / 3;
    let mut steps = [Step::Grayscale; 8];
    let mut held = 0;
    for &op in ops {
        let contrast = matches!(op, PixelOp::Contrast(_));
        let mut sum = 0;
        if contrast || held == steps.len() {
            sum = arch().dispatch(Pass { pixels, steps: &steps[..held], gray_sum: contrast });
            held = 0;
        }
        steps[held] = match op {
            PixelOp::Brightness(factor) => Step::Brightness(factor),
            // PIL's mean: int(mean + 0.5).
            PixelOp::Contrast(factor) => {
                Step::Contrast { factor, mean: (sum as f64 / count as f64 + 0.5).floor() as f32 }
            }
            PixelOp::Saturation(factor) => Step::Saturation(factor),
            PixelOp::Hue(turn) => Step::Hue(turn),
            PixelOp::Grayscale => Step::Grayscale,
            PixelOp::Solarize(threshold) => Step::Solarize(threshold.into()),
        };
        held += 1;
    }
    arch().dispatch(Pass { pixels, steps: &steps[..held], gray_sum: false });
}

/// The widest vector instructions of this machine.
pub(crate) fn arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(Arch::new)
}

/// Levels 0…255, fraction cut off.
#[inline(always)]
pub(crate) fn to_level(x: f32) -> f32 {
    smaller(larger(x, 0.0), 255.0).floor()
}

/// The larger of two numbers. `f32::max` would spend two more instructions on what NaN means.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The smaller of two numbers, as [`larger`].
#[inline(always)]
pub(crate) fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// An operation with all that it needs.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    Brightness(f32),
    Contrast { factor: f32, mean: f32 },
    Saturation(f32),
    Hue(f32),
    Grayscale,
    Solarize(f32),
}

/// The three channels of some pixels, aligned to the widest registers.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Block {
    pub(crate) r: Lane,
    pub(crate) g: Lane,
    pub(crate) b: Lane,
}

/// One walk over the pixels; returns the sum of the gray levels of what it wrote, if asked for.
pub(crate) struct Pass<'a> {
    pub(crate) pixels: &'a mut [u8],
    pub(crate) steps: &'a [Step],
    pub(crate) gray_sum: bool,
}

impl NullaryFnOnce for Pass<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self) -> u64 {
        let mut total = 0u64;
        for part in self.pixels.chunks_mut(3 * LANES * BLOCKS_PER_SUM) {
            let mut sums: Lane = [0.0; LANES];
            let mut blocks = part.chunks_exact_mut(3 * LANES);
            for bytes in &mut blocks {
                run_block(bytes, self.steps, self.gray_sum, &mut sums);
            }
            let rest = blocks.into_remainder();
            let mut last: Lane = [0.0; LANES];
            if !rest.is_empty() {
                let mut padded = [0u8; 3 * LANES];
                padded[..rest.len()].copy_from_slice(rest);
                run_block(&mut padded, self.steps, self.gray_sum, &mut last);
                rest.copy_from_slice(&padded[..rest.len()]);
            }
            let valid = &last[..rest.len() / 3];
            total += sums.iter().chain(valid).map(|&s| s as u64).sum::<u64>();
        }
        total
    }
}

#[inline(always)]
fn run_block(bytes: &mut [u8], steps: &[Step], gray_sum: bool, sums: &mut Lane) {
    let mut block = load(bytes);
    for step in steps {
        match *step {
            Step::Brightness(factor) => block.map(|v| to_level(factor * v)),
            Step::Contrast { factor, mean } => block.map(|v| blend(mean, v, factor)),
            Step::Saturation(factor) => block.map_pixels(|r, g, b| {
                let l = luma(r, g, b);
                (blend(l, r, factor), blend(l, g, factor), blend(l, b, factor))
            }),
            Step::Hue(turn) => block.map_pixels(|r, g, b| hue(r, g, b, turn)),
            Step::Grayscale => block.map_pixels(|r, g, b| {
                let l = luma(r, g, b);
                (l, l, l)
            }),
            Step::Solarize(threshold) => block.map(|v| solarize(v, threshold)),
        }
    }
    if !steps.is_empty() {
        store(&block, bytes);
    }
    if gray_sum {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum += luma(block.r[i], block.g[i], block.b[i]);
        }
    }
}

impl Block {
    #[inline(always)]
    fn map(&mut self, f: impl Fn(f32) -> f32) {
        for lane in [&mut self.r, &mut self.g, &mut self.b] {
            for v in lane {
                *v = f(*v);
            }
        }
    }

    #[inline(always)]
    fn map_pixels(&mut self, f: impl Fn(f32, f32, f32) -> (f32, f32, f32)) {
        for i in 0..LANES {
            (self.r[i], self.g[i], self.b[i]) = f(self.r[i], self.g[i], self.b[i]);
        }
    }
}

#[inline(always)]
fn load(bytes: &[u8]) -> Block {
    // The channels are parted as bytes: as many as possible fit a register then.
    let (mut r, mut g, mut b) = ([0u8; LANES], [0u8; LANES], [0u8; LANES]);
    for (i, pixel) in bytes.as_chunks::<3>().0.iter().enumerate().take(LANES) {
        (r[i], g[i], b[i]) = (pixel[0], pixel[1], pixel[2]);
    }
    let mut block = Block { r: [0.0; LANES], g: [0.0; LANES], b: [0.0; LANES] };
    for (lane, levels) in [(&mut block.r, &r), (&mut block.g, &g), (&mut block.b, &b)] {
        for (value, &level) in lane.iter_mut().zip(levels) {
            *value = level.into();
        }
    }
    block
}

#[inline(always)]
fn store(block: &Block, bytes: &mut [u8]) {
    let (mut r, mut g, mut b) = ([0u8; LANES], [0u8; LANES], [0u8; LANES]);
    for (lane, levels) in [(&block.r, &mut r), (&block.g, &mut g), (&block.b, &mut b)] {
        for (level, value) in levels.iter_mut().zip(lane) {
            // A whole level plus 2²³ has the level in its last byte; `as u8` would check the range and for NaN.
            *level = (value + 8_388_608.0).to_bits() as u8;
        }
    }
    for (i, pixel) in bytes.as_chunks_mut::<3>().0.iter_mut().enumerate().take(LANES) {
        *pixel = [r[i], g[i], b[i]];
    }
}
