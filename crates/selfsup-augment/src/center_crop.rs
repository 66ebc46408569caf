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

/// The view that evaluation takes: the shorter side resized to `resize` pixels, antialiased, then the central square of `size`; or, with
/// `squash`, both sides resized, so that more of the image is seen, in other proportions.
///
/// timm's `crop_pct` is size/resize: 224 of 256 are .875.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CenterView {
    /// Side of the square, in pixels.
    pub size: u32,
    /// The shorter side of what it is cut from, in pixels; at least `size`.
    pub resize: u32,
    /// The filter.
    pub interpolation: Interpolation,
    /// Whether both sides are resized to `resize`, and not the shorter one alone.
    pub squash: bool,
}

impl CenterView {
    /// The largest square, resized bilinearly.
    pub fn new(size: u32) -> Self {
        Self { size, resize: size, interpolation: Interpolation::Bilinear, squash: false }
    }

    /// Checks the settings.
    pub fn validate(&self) -> Result<()> {
        let limits = Limits("center_view");
        limits.side("size", self.size)?;
        limits.side("resize", self.resize)?;
        limits.require(self.resize >= self.size, "resize", "at least `size`", self.resize)
    }

    /// The view of an image. One of `size` × `size`, of which nothing is cut off, comes out unchanged.
    ///
    /// Of an image that is over sixteen times as long as it is wide only the middle is resized.
    pub fn apply(&self, image: &RgbImage) -> Result<RgbImage> {
        self.validate()?;
        let Self { size, resize, interpolation, squash } = *self;
        let (width, height) = image.dimensions();
        let seen = if squash { Region::whole(width, height) } else { middle(width, height) };
        let (w, h) = match squash {
            true => (resize, resize),
            false => Resize { size: resize, interpolation }.output_size(seen.width, seen.height),
        };
        let resized = resize_region(image, seen, w, h, interpolation, false)?;
        if (w, h) == (size, size) {
            return Ok(resized);
        }
        resize_region(&resized, CenterCrop { size }.region(w, h)?, size, size, interpolation, false)
    }
}

/// What is resized: the whole image, but for one whose ends are far from the square and, resized, would only fill the memory.
fn middle(width: u32, height: u32) -> Region {
    let longest = width.min(height).saturating_mul(16);
    let cut = |side: u32| (side.saturating_sub(longest) / 2, side.min(longest));
    let ((left, width), (top, height)) = (cut(width), cut(height));
    Region { left, top, width, height }
}

/// [`CenterView::new`] of an image: the shorter side resized to `size` (bilinear, antialiased), then the central
/// square. An image of `size` × `size` comes out unchanged.
pub fn center_view(image: &RgbImage, size: u32) -> Result<RgbImage> {
    CenterView::new(size).apply(image)
}
