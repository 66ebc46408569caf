//! What is missing of an image (Pathak et al. 2016, §3.3).

use super::super::{Example, Prepare};
use crate::Result;
use image::{Rgb, RgbImage};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use selfsup_augment::{Interpolation, Pipeline, Region, resize_region};
use serde::{Deserialize, Serialize};

/// The shape of what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hole {
    /// The central square of half the side.
    Center,
    /// Squares anywhere, which may overlap, of about a quarter of the area in all.
    Blocks,
    /// A region of no particular shape, of a quarter of the area. (The paper takes outlines of things from PASCAL VOC; its code, as here,
    /// what lies below a level of smooth noise.)
    Region,
}

/// Share of the area that blocks and regions take.
const SHARE: f64 = 0.25;
/// Side of a block over the image's, at least and at most.
const BLOCK: [f64; 2] = [0.125, 0.25];
/// Points of the noise along a side.
const NOISE: u32 = 6;
const MISSING: Rgb<u8> = Rgb([255; 3]);

/// An image, and white where it is missing.
pub(super) struct WithHole {
    pub hole: Hole,
    pub overlap: u32,
    pub augmentation: Pipeline,
}

impl Prepare for WithHole {
    fn view_names(&self) -> &[&'static str] {
        &["image", "hole"]
    }

    fn prepare(&self, image: &RgbImage, rng: &dyn Fn(u64) -> ChaCha8Rng) -> Result<Example> {
        let image = self.augmentation.apply(image, &mut rng(0))?;
        let side = image.width();
        let hole = match self.hole {
            Hole::Center => centre(side, self.overlap),
            Hole::Blocks => blocks(side, &mut rng(1)),
            Hole::Region => region(side, &mut rng(1))?,
        };
        Ok(vec![image, hole].into())
    }
}

fn fill(mask: &mut RgbImage, [left, top]: [u32; 2], side: u32) {
    for y in top..top + side {
        for x in left..left + side {
            mask.put_pixel(x, y, MISSING);
        }
    }
}

/// What is predicted but for the band that is seen.
fn centre(side: u32, overlap: u32) -> RgbImage {
    let mut mask = RgbImage::new(side, side);
    let hole = side / 2;
    let start = (side - hole) / 2 + overlap;
    fill(&mut mask, [start; 2], hole - 2 * overlap);
    mask
}

fn blocks(side: u32, rng: &mut ChaCha8Rng) -> RgbImage {
    let mut mask = RgbImage::new(side, side);
    let wanted = (SHARE * f64::from(side * side)) as usize;
    let [least, most] = BLOCK.map(|share| ((share * f64::from(side)).round() as u32).max(1));
    while mask.pixels().filter(|pixel| **pixel == MISSING).count() < wanted {
        let block = rng.random_range(least..=most);
        fill(&mut mask, [0, 1].map(|_| rng.random_range(0..=side - block)), block);
    }
    mask
}

/// The quarter of the pixels where smooth noise is lowest.
fn region(side: u32, rng: &mut ChaCha8Rng) -> Result<RgbImage> {
    let noise = RgbImage::from_fn(NOISE, NOISE, |_, _| Rgb([rng.random(), rng.random(), 0]));
    let whole = Region::whole(NOISE, NOISE);
    let smooth = resize_region(&noise, whole, side, side, Interpolation::Bicubic, false)?;
    // Two channels of bytes, so that few pixels are equal.
    let level = |pixel: &Rgb<u8>| u32::from(pixel[0]) * 256 + u32::from(pixel[1]);
    let mut levels: Vec<(u32, usize)> =
        smooth.pixels().enumerate().map(|(i, pixel)| (level(pixel), i)).collect();
    levels.sort_unstable();
    let mut mask = RgbImage::new(side, side);
    for &(_, i) in &levels[..(SHARE * f64::from(side * side)) as usize] {
        mask.put_pixel(i as u32 % side, i as u32 / side, MISSING);
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn share(mask: &RgbImage) -> f64 {
        mask.pixels().filter(|p| **p == MISSING).count() as f64 / f64::from(mask.width() * mask.height())
    }

    #[test]
    fn a_central_hole_is_the_paper_s() {
        let mask = centre(128, 4);
        let missing = |x: u32, y: u32| *mask.get_pixel(x, y) == MISSING;
        // 64 pixels from 32 on, less four on each side.
        assert!(
            missing(36, 36) && missing(91, 91) && !missing(35, 64) && !missing(92, 64) && !missing(64, 35)
        );
        assert_eq!(share(&mask), (56.0f64 / 128.0).powi(2));
    }

    #[test]
    fn blocks_and_regions_take_a_quarter_and_differ() {
        for side in [12, 32, 65] {
            let of = |seed| {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                [blocks(side, &mut rng), region(side, &mut rng).unwrap()]
            };
            let (first, second) = (of(0), of(1));
            for (a, b) in first.iter().zip(&second) {
                assert_ne!(a, b);
                assert!((0.24..0.33).contains(&share(a)), "{side}: {}", share(a));
                assert!(a.pixels().all(|p| p.0 == [0; 3] || *p == MISSING));
            }
        }
    }
}
