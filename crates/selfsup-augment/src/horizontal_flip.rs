//! Random horizontal flip.

use crate::Result;
use crate::draw::chance;
use crate::limits::Limits;
use image::RgbImage;
use rand::Rng;
use serde::{Deserialize, Serialize};

/// With probability `p` left and right change places.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HorizontalFlip {
    /// Probability of a flip.
    pub p: f64,
}

impl HorizontalFlip {
    /// Checks the settings.
    pub fn validate(&self) -> Result<()> {
        Limits("horizontal_flip").probability("p", self.p)
    }

    /// Whether it happens this time.
    pub fn draw(&self, rng: &mut impl Rng) -> bool {
        chance(self.p, rng)
    }
}

/// Mirrors the image in place.
pub fn flip_horizontal(image: &mut RgbImage) {
    let row_bytes = 3 * image.width() as usize;
    if row_bytes == 0 {
        return;
    }
    for row in image.chunks_exact_mut(row_bytes) {
        row.as_chunks_mut::<3>().0.reverse();
    }
}
