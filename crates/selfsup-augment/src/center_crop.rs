//! The central square of an image, and the view that evaluation takes.

use crate::limits::Limits;
use crate::{Error, Interpolation, Region, Resize, Result, resize_region};
use image::RgbImage;
use serde::{Deserialize, Serialize};

/// Cuts out the central square. An image with a side below `size` is an error: resize it first.
/// (torchvision pads such an image with black.)
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CenterCrop {
    /// Side of the square, in pixels.
    pub size: u32,
}

impl CenterCrop {
    /// Checks the settings.
    pub fn validate(&self) -> Result<()> {
        Limits("center_crop").side("size", self.size)
    }

    /// The central square of an image of `width` × `height`.
    ///
    /// An odd rest is divided as torchvision's `round((h − size)/2)`: half a pixel goes to the even side.
    pub fn region(&self, width: u32, height: u32) -> Result<Region> {
        if width < self.size || height < self.size {
            return Err(Error::TooSmall { wanted: format!("{0}×{0}", self.size), width, height });
        }
        let start = |whole: u32| (f64::from(whole - self.size) / 2.0).round_ties_even() as u32;
        Ok(Region { left: start(width), top: start(height), width: self.size, height: self.size })
    }
}

/// The view that evaluation takes: the shorter side resized to `size` (bilinear, antialiased), then the central
/// square. An image of `size` × `size` comes out unchanged.
pub fn center_view(image: &RgbImage, size: u32) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    if (width, height) == (size, size) && size > 0 {
        return Ok(image.clone());
    }
    let (resize, crop) = (Resize { size, interpolation: Interpolation::Bilinear }, CenterCrop { size });
    crop.validate()?;
    let (w, h) = resize.output_size(width, height);
    let resized = resize_region(image, Region::whole(width, height), w, h, resize.interpolation, false)?;
    if (w, h) == (size, size) {
        return Ok(resized);
    }
    resize_region(&resized, crop.region(w, h)?, size, size, resize.interpolation, false)
}
