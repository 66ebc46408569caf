//! What a colorization model predicts at a quarter of an image's side, as the colours of that image at any size.
//!
//! Zhang, Isola & Efros 2016, arXiv:1603.08511, §2.3: the annealed mean, with the lightness of the image itself.

use super::{Colorization, REDUCTION};
use crate::Result;
use candle_core::{D, Tensor};
use image::RgbImage;
use selfsup_augment::{Interpolation, Region, Resize, resize_region};
use selfsup_kernels::{lab_to_rgb, rgb_to_lab};
use selfsup_models::Network;
use std::ops::Range;

/// The longer side of what the network sees of an image to be coloured, at most, over the run's image size.
const MOST_LONGER: u32 = 8;
/// Pixels, about, that are coloured at once.
const BAND: usize = 1 << 20;

impl Colorization {
    /// Colours an image of any size, of whose colours only the lightness is looked at. The network sees it with the run's image size as
    /// its shorter side, a very long one smaller; the lightness stays that of the full size.
    pub fn colorize_whole(&self, image: &RgbImage) -> Result<RgbImage> {
        let (width, height) = image.dimensions();
        let size = self.encoder.preprocessing().image_size as u32;
        let patch = match self.encoder.arch().config {
            Network::Vit(config) => config.patch as u32,
            Network::ResNet(_) | Network::ConvNet(_) => 1,
        };
        let interpolation = Interpolation::Bilinear;
        let resize = Resize { size, interpolation };
        resize.validate()?;
        let (w, h) = seen(resize.output_size(width, height), size, patch);
        let small = resize_region(image, Region::whole(width, height), w, h, interpolation, false)?;
        let device = self.encoder.device();
        let tensor = |image: RgbImage| {
            let (w, h) = (image.width() as usize, image.height() as usize);
            Tensor::from_vec(image.into_raw(), (1, h, w, 3), device)
        };
        let small = tensor(small)?;
        let ab = self.predict(&small)?;
        let (small, whole) = ([h, w].map(|side| side as usize), [height, width].map(|side| side as usize));
        let mut pixels = Vec::with_capacity(image.as_raw().len());
        for (at, rows) in image.as_raw().chunks(3 * whole[1] * BAND.div_ceil(whole[1])).enumerate() {
            let (first, count) = (at * BAND.div_ceil(whole[1]), rows.len() / (3 * whole[1]));
            let band = Tensor::from_vec(rows.to_vec(), (1, count, whole[1], 3), device)?;
            let coloured = with_colours(&band, &ab, small, whole, first)?;
            pixels.extend(coloured.flatten_all()?.to_vec1::<u8>()?);
        }
        Ok(RgbImage::from_raw(width, height, pixels).expect("three bytes a pixel"))
    }

    /// Colours images u8 `[n, h, w, 3]`, of whose colours only the lightness is looked at: the same lightness, and at each pixel the
    /// annealed mean of the prediction, which is a quarter as wide and high and is enlarged bilinearly.
    pub fn colorize(&self, images: &Tensor) -> Result<Tensor> {
        let (_, h, w, _) = images.dims4()?;
        with_colours(images, &self.predict(images)?, [h, w], [h, w], 0)
    }
}

/// The sides of what the network sees of an image that is resized to `w` and `h`: no longer than eight image sizes, and of whole patches.
fn seen((w, h): (u32, u32), size: u32, patch: u32) -> (u32, u32) {
    let most = MOST_LONGER * size;
    let side = |side: u32| {
        let shrunk = match w.max(h) {
            longer if longer > most => (f64::from(side) * f64::from(most) / f64::from(longer)).round() as u32,
            _ => side,
        };
        (shrunk / patch).max(1) * patch
    };
    (side(w), side(h))
}

/// The lightness of a band of rows, u8 `[n, rows, width, 3]` from row `first` on of an image of the sides `whole`, with the predictions `ab`
/// for the same image in the sides `small`; sides are height and width.
fn with_colours(
    band: &Tensor,
    ab: &Tensor,
    small: [usize; 2],
    whole: [usize; 2],
    first: usize,
) -> Result<Tensor> {
    let rows = first..first + band.dim(1)?;
    let ab = enlarge(&enlarge(ab, 1, small[0], whole[0], rows)?, 2, small[1], whole[1], 0..whole[1])?;
    let lightness = rgb_to_lab(band)?.narrow(D::Minus1, 0, 1)?;
    Ok(lab_to_rgb(&Tensor::cat(&[&lightness, &ab], D::Minus1)?)?)
}

/// Predictions along a dimension of `[n, rows, columns, 2]`, each of which stands at a fourth pixel (0, 4, …) of `small` pixels, brought to
/// the centres of some of `large` pixels: linear between them, constant beyond the last.
fn enlarge(ab: &Tensor, dim: usize, small: usize, large: usize, some: Range<usize>) -> Result<Tensor> {
    let (from, count) = (ab.dim(dim)?, some.len());
    let mut weights = vec![0f32; count * from];
    for (at, row) in some.zip(weights.chunks_exact_mut(from)) {
        let pixel = (at as f64 + 0.5) * small as f64 / large as f64 - 0.5;
        let place = (pixel / REDUCTION as f64).clamp(0.0, (from - 1) as f64);
        let left = place.floor() as usize;
        let share = (place - left as f64) as f32;
        row[left] += 1.0 - share;
        row[(left + 1).min(from - 1)] += share;
    }
    let weights = Tensor::from_vec(weights, (count, from), ab.device())?;
    let moved = ab.transpose(dim, 3)?.contiguous()?;
    Ok(moved.broadcast_matmul(&weights.t()?.contiguous()?)?.transpose(dim, 3)?.contiguous()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_long_image_is_seen_smaller() {
        assert_eq!(seen((32, 50), 32, 1), (32, 50));
        assert_eq!(seen((32, 256), 32, 1), (32, 256));
        assert_eq!(seen((2560, 32), 32, 1), (256, 3));
        assert_eq!(seen((32, 1_000_000), 32, 1), (1, 256));
        // Whole patches, and one at least.
        assert_eq!(seen((32, 55), 32, 4), (32, 52));
        assert_eq!(seen((2560, 32), 32, 4), (256, 4));
    }

    #[test]
    fn bands_are_parts_of_the_whole() {
        let numbers =
            |n: usize, below: u32| (0..n as u32).map(move |i| i.wrapping_mul(2_654_435_761) % below);
        let ab: Vec<f32> = numbers(8 * 6 * 2, 100).map(|v| v as f32 - 50.0).collect();
        let ab = Tensor::from_vec(ab, (1, 8, 6, 2), &Device::Cpu).unwrap();
        let pixels: Vec<u8> = numbers(40 * 30 * 3, 256).map(|v| v as u8).collect();
        let image = Tensor::from_vec(pixels, (1, 40, 30, 3), &Device::Cpu).unwrap();
        let coloured = |first, rows| {
            let band = image.narrow(1, first, rows).unwrap();
            let coloured = with_colours(&band, &ab, [32, 24], [40, 30], first).unwrap();
            coloured.flatten_all().unwrap().to_vec1::<u8>().unwrap()
        };
        let bands: Vec<u8> =
            (0..40).step_by(7).flat_map(|first| coloured(first, 7.min(40 - first))).collect();
        assert_eq!(bands, coloured(0, 40));
    }

    /// Predictions that say where they stand stay there, whatever size they are brought to.
    #[test]
    fn a_prediction_is_drawn_where_its_pixel_is() {
        for (small, large) in [(32usize, 32usize), (30, 30), (32, 80), (32, 17)] {
            let cells = small.div_ceil(REDUCTION);
            let places: Vec<f32> =
                (0..cells * 2).flat_map(|i| [(REDUCTION * (i % cells)) as f32, 7.0]).collect();
            let ab = Tensor::from_vec(places, (1, 2, cells, 2), &Device::Cpu).unwrap();
            let drawn = enlarge(&ab, 2, small, large, 0..large).unwrap();
            assert_eq!(drawn.dims(), [1, 2, large, 2]);
            for row in drawn.squeeze(0).unwrap().to_vec3::<f32>().unwrap() {
                for (x, ab) in row.iter().enumerate() {
                    let (a, b) = (ab[0], ab[1]);
                    let at = (x as f32 + 0.5) * small as f32 / large as f32 - 0.5;
                    let wanted = at.clamp(0.0, (REDUCTION * (cells - 1)) as f32);
                    assert!((a - wanted).abs() < 1e-3 && (b - 7.0).abs() < 1e-5, "{small} {large} {x}: {a}");
                }
            }
        }
    }
}
