//! A crop of random area and aspect ratio, resized to a square (torchvision's `RandomResizedCrop`; Inception's
//! crop, arXiv 1409.4842).

use crate::draw::{uniform, up_to};
use crate::limits::Limits;
use crate::{Interpolation, Region, Result};
use rand::Rng;
use serde::{Deserialize, Serialize};

/// How often a crop is drawn before the fallback: torchvision's number.
const TRIES: usize = 10;

/// A crop whose share of the image's area is uniform in `scale` and whose aspect ratio is log-uniform in
/// `ratio`, resized to `size` × `size`.
///
/// When ten crops in a row do not fit, the largest central one whose ratio is in the range is taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomResizedCrop {
    /// Side of the square that comes out, in pixels.
    pub size: u32,
    /// Least and greatest share of the area; 0.08…1 by default, as in torchvision.
    #[serde(default = "default_scale")]
    pub scale: [f64; 2],
    /// Least and greatest width/height; 3/4…4/3 by default, as in torchvision.
    #[serde(default = "default_ratio")]
    pub ratio: [f64; 2],
    /// The filter of the resize.
    #[serde(default)]
    pub interpolation: Interpolation,
}

impl RandomResizedCrop {
    /// A crop to `size` with the area's share in `scale` and torchvision's defaults for the rest.
    pub fn new(size: u32, scale: [f64; 2]) -> Self {
        Self { size, scale, ratio: default_ratio(), interpolation: Interpolation::default() }
    }

    /// Checks the settings.
    pub fn validate(&self) -> Result<()> {
        let limits = Limits("random_resized_crop");
        limits.side("size", self.size)?;
        limits.positive_range("scale", self.scale)?;
        limits.require(self.scale[1] <= 1.0, "scale", "at most 1", self.scale[1])?;
        limits.positive_range("ratio", self.ratio)
    }

    /// The region that is cut out of an image of `width` × `height`.
    pub fn draw(&self, width: u32, height: u32, rng: &mut impl Rng) -> Region {
        let area = f64::from(width) * f64::from(height);
        let log_ratio = self.ratio.map(f64::ln);
        for _ in 0..TRIES {
            let target = area * uniform(self.scale, rng);
            let ratio = uniform(log_ratio, rng).exp();
            let (w, h) = (whole((target * ratio).sqrt()), whole((target / ratio).sqrt()));
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let top = up_to(height - h, rng);
                let left = up_to(width - w, rng);
                return Region { left, top, width: w, height: h };
            }
        }
        self.fallback(width, height)
    }

    /// The largest central region whose ratio is in the range.
    fn fallback(&self, width: u32, height: u32) -> Region {
        let ratio = f64::from(width) / f64::from(height);
        let [least, greatest] = self.ratio;
        let (w, h) = if ratio < least {
            (width, whole(f64::from(width) / least).clamp(1, height))
        } else if ratio > greatest {
            (whole(f64::from(height) * greatest).clamp(1, width), height)
        } else {
            (width, height)
        };
        Region { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
    }
}

/// Rounded as Python's `round`.
fn whole(x: f64) -> u32 {
    x.round_ties_even() as u32
}

fn default_scale() -> [f64; 2] {
    [0.08, 1.0]
}

fn default_ratio() -> [f64; 2] {
    [3.0 / 4.0, 4.0 / 3.0]
}
