//! Random grayscale: all three channels become the pixel's gray level.

use crate::draw::chance;
use crate::limits::Limits;
use crate::{PixelOp, Result};
use rand::Rng;
use serde::{Deserialize, Serialize};

/// With probability `p` the image loses its colours (and keeps three channels), as torchvision's
/// `RandomGrayscale` on a PIL image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grayscale {
    /// Probability that the image becomes gray.
    pub p: f64,
}

impl Grayscale {
    /// Checks the settings.
    pub fn validate(&self) -> Result<()> {
        Limits("grayscale").probability("p", self.p)
    }

    /// Whether it happens this time.
    pub fn draw(&self, rng: &mut impl Rng) -> Option<PixelOp> {
        chance(self.p, rng).then_some(PixelOp::Grayscale)
    }
}

/// PIL's gray level of whole levels: (19595·R + 38470·G + 7471·B + 2¹⁵) div 2¹⁶.
#[inline(always)]
pub(crate) fn luma(r: f32, g: f32, b: f32) -> f32 {
    ((19595.0 * r + 38470.0 * g + 7471.0 * b + 32768.0) * (1.0 / 65536.0)).floor()
}
