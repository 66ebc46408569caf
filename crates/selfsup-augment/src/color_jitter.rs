//! Random brightness, contrast, saturation and hue, in random order (torchvision's `ColorJitter`).
//!
//! Brightness, contrast and saturation give the bits of PIL's `ImageEnhance`, which truncates; the hue turns
//! in f32, as torchvision does on tensors, and not in PIL's 8-bit hue of 256 steps.

use crate::draw::{chance, uniform};
use crate::limits::Limits;
use crate::pixel_op::{larger, smaller, to_level};
use crate::{PixelOp, Result};
use rand::Rng;
use serde::{Deserialize, Serialize};

/// With probability `p` the four adjustments happen, in an order that is drawn anew each time.
///
/// The factors are uniform in [max(0, 1 − x), 1 + x] with x the field's amount; the hue turns by a share of a
/// full turn, uniform in [−hue, hue]. An adjustment of amount 0 is left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColorJitter {
    /// Probability that it happens.
    pub p: f64,
    /// Amount for the brightness.
    #[serde(default)]
    pub brightness: f64,
    /// Amount for the contrast.
    #[serde(default)]
    pub contrast: f64,
    /// Amount for the saturation.
    #[serde(default)]
    pub saturation: f64,
    /// Amount for the hue, at most half a turn.
    #[serde(default)]
    pub hue: f64,
}

impl ColorJitter {
    /// Checks the settings.
    pub fn validate(&self) -> Result<()> {
        let limits = Limits("color_jitter");
        limits.probability("p", self.p)?;
        let amounts =
            [("brightness", self.brightness), ("contrast", self.contrast), ("saturation", self.saturation)];
        for (field, amount) in amounts {
            limits.require(
                amount >= 0.0 && amount.is_finite(),
                field,
                "a finite number from 0 up",
                amount,
            )?;
        }
        limits.require((0.0..=0.5).contains(&self.hue), "hue", "in 0…0.5", self.hue)
    }

    /// The adjustments in the order in which they happen; `None` where an amount is 0, or all of them when it
    /// does not happen.
    pub fn draw(&self, rng: &mut impl Rng) -> [Option<PixelOp>; 4] {
        if !chance(self.p, rng) {
            return [None; 4];
        }
        let factor = |amount: f64, rng: &mut _| {
            (amount > 0.0).then(|| uniform([(1.0 - amount).max(0.0), 1.0 + amount], rng) as f32)
        };
        let mut ops = [
            factor(self.brightness, rng).map(PixelOp::Brightness),
            factor(self.contrast, rng).map(PixelOp::Contrast),
            factor(self.saturation, rng).map(PixelOp::Saturation),
            (self.hue > 0.0).then(|| PixelOp::Hue(uniform([-self.hue, self.hue], rng) as f32)),
        ];
        // Fisher and Yates: every one of the 24 orders alike.
        for last in (1..ops.len()).rev() {
            ops.swap(last, rng.random_range(0..=last));
        }
        ops
    }
}

/// `from` + factor·(v − `from`), the fraction cut off, as PIL's `Image.blend`.
#[inline(always)]
pub(crate) fn blend(from: f32, v: f32, factor: f32) -> f32 {
    to_level(from + factor * (v - from))
}

/// Turns the hue; levels in, levels out.
///
/// With c = max − min and h in 0…6 the position on the colour circle, a channel is
/// max − c·clamp(min(k, 4 − k), 0, 1) with k = (n + h) mod 6 and n = 5, 3, 1 for red, green, blue: the usual
/// six cases of HSV without a branch.
#[inline(always)]
pub(crate) fn hue(r: f32, g: f32, b: f32, turn: f32) -> (f32, f32, f32) {
    let max = larger(larger(r, g), b);
    let min = smaller(smaller(r, g), b);
    let c = max - min;
    let (numerator, base) = if max == r {
        (g - b, 0.0)
    } else if max == g {
        (b - r, 2.0)
    } else {
        (r - g, 4.0)
    };
    let divisor = if c == 0.0 { 1.0 } else { c };
    // In −1…5 before the turn, in −4…8 after it.
    let h = base + numerator / divisor + 6.0 * turn;
    let h = if h < 0.0 { h + 6.0 } else { h };
    let h = if h >= 6.0 { h - 6.0 } else { h };
    let channel = |n: f32| {
        let k = n + h;
        let k = if k >= 6.0 { k - 6.0 } else { k };
        let share = smaller(larger(smaller(k, 4.0 - k), 0.0), 1.0);
        // torchvision goes back to whole levels with floor(x·(256 − 0.001)), x in 0…1.
        ((max - c * share) * (255.999 / 255.0)).floor()
    };
    (channel(5.0), channel(3.0), channel(1.0))
}
