//! Antialiased resizing of a region, and the transform that resizes the shorter side.
//!
//! The filter grows with the reduction, as in PIL and in torchvision with `antialias=True`. The region is cut
//! out first: pixels beyond its edge have no part in the result.

use crate::limits::Limits;
use crate::pixel_op::arch;
use crate::resample::{Resample, Scratch};
use crate::{Error, Result, flip_horizontal};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The filter of a resize.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// A triangle; torchvision's default.
    #[default]
    Bilinear,
    /// Keys' cubic with a = −1/2, as PIL's.
    Bicubic,
}

/// A region of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Left edge.
    pub left: u32,
    /// Upper edge.
    pub top: u32,
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Region {
    /// The whole of an image.
    pub fn whole(width: u32, height: u32) -> Self {
        Self { left: 0, top: 0, width, height }
    }
}

/// Resizes so that the shorter side becomes `size`; the longer one becomes ⌊size·long/short⌋, as in
/// torchvision's `Resize`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The shorter side afterwards, in pixels.
    pub size: u32,
    /// The filter.
    #[serde(default)]
    pub interpolation: Interpolation,
}

impl Resize {
    /// Checks the settings.
    pub fn validate(&self) -> Result<()> {
        Limits("resize").side("size", self.size)
    }

    /// Width and height of what becomes of an image of `width` × `height`.
    pub fn output_size(&self, width: u32, height: u32) -> (u32, u32) {
        let size = u64::from(self.size);
        let long = |long: u32, short: u32| {
            u32::try_from(size * u64::from(long) / u64::from(short.max(1))).unwrap_or(u32::MAX)
        };
        if width <= height { (self.size, long(height, width)) } else { (long(width, height), self.size) }
    }
}

/// Cuts `region` out, resizes it to `width` × `height` and mirrors it where `flip` says so.
///
/// Fails when the region is empty or not inside the image, or the output would be empty or beyond 2³¹ bytes.
pub fn resize_region(
    image: &RgbImage,
    region: Region,
    width: u32,
    height: u32,
    interpolation: Interpolation,
    flip: bool,
) -> Result<RgbImage> {
    check_inside(image, region)?;
    let bytes = u64::from(width) * u64::from(height) * 3;
    if bytes == 0 || bytes > 1 << 31 {
        return Err(Error::Resize(format!("the output must have 1…2³¹ bytes, got {width}×{height} pixels")));
    }
    if (region.width, region.height) == (width, height) {
        let mut out = copy_region(image, region);
        if flip {
            flip_horizontal(&mut out);
        }
        return Ok(out);
    }
    let (source_width, out_width, out_height) = (image.width() as usize, width as usize, height as usize);
    let pixels = SCRATCH.with_borrow_mut(|scratch| {
        arch().dispatch(Resample {
            source: image,
            source_width,
            region,
            width: out_width,
            height: out_height,
            interpolation,
            flip,
            scratch,
        })
    });
    Ok(RgbImage::from_raw(width, height, pixels).expect("three bytes a pixel"))
}

/// Fails unless the region has pixels and lies inside the image.
fn check_inside(image: &RgbImage, region: Region) -> Result<()> {
    let (width, height) = image.dimensions();
    if width == 0 || height == 0 {
        return Err(Error::EmptyImage { width, height });
    }
    let fits = |start: u32, length: u32, whole: u32| {
        length > 0 && start.checked_add(length).is_some_and(|end| end <= whole)
    };
    if fits(region.left, region.width, width) && fits(region.top, region.height, height) {
        return Ok(());
    }
    let Region { left, top, width: w, height: h } = region;
    Err(Error::TooSmall { wanted: format!("{w}×{h} at ({left}, {top})"), width, height })
}

fn copy_region(image: &RgbImage, region: Region) -> RgbImage {
    let row_bytes = 3 * image.width() as usize;
    let (start, length) = (3 * region.left as usize, 3 * region.width as usize);
    let mut pixels = Vec::with_capacity(length * region.height as usize);
    for row in image.chunks_exact(row_bytes).skip(region.top as usize).take(region.height as usize) {
        pixels.extend_from_slice(&row[start..start + length]);
    }
    RgbImage::from_raw(region.width, region.height, pixels).expect("one row of the region's width a row")
}
