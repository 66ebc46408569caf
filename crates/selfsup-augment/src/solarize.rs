//! Random solarisation: bright levels are inverted (BYOL, arXiv 2006.07733, appendix B).

use crate::draw::chance;
use crate::limits::Limits;
use crate::{PixelOp, Result};
use rand::Rng;
use serde::{Deserialize, Serialize};

/// With probability `p` every level v ≥ `threshold` becomes 255 − v.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Solarize {
    /// Probability that it happens.
    pub p: f64,
    /// The lowest level that is inverted; 128 by default, as in BYOL and torchvision's examples.
    #[serde(default = "default_threshold")]
    pub threshold: u8,
}

impl Solarize {
    /// Checks the settings.
    pub fn validate(&self) -> Result<()> {
        Limits("solarize").probability("p", self.p)
    }

    /// Whether it happens this time.
    pub fn draw(&self, rng: &mut impl Rng) -> Option<PixelOp> {
        chance(self.p, rng).then_some(PixelOp::Solarize(self.threshold))
    }
}

#[inline(always)]
pub(crate) fn solarize(v: f32, threshold: f32) -> f32 {
    if v >= threshold { 255.0 - v } else { v }
}

fn default_threshold() -> u8 {
    128
}
