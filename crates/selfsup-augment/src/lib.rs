//! Image augmentations on 8-bit RGB pixels, composable and reproducible.
//!
//! A [`Pipeline`] is data: build it, or read it from JSON or TOML, check it, apply it. All randomness comes from
//! the generator that `apply` is given, and the same generator gives the same bits whatever vector instructions
//! the machine has. (Of the mathematical library only `exp` and `ln` in f64 are used, for crop sizes and blur
//! weights, which are then rounded to whole pixels and to 16 bits.)
//!
//! ```
//! use image::RgbImage;
//! use rand_chacha::ChaCha8Rng;
//! use rand_chacha::rand_core::SeedableRng;
//! use selfsup_augment::Pipeline;
//!
//! # fn main() -> selfsup_augment::Result<()> {
//! let image = RgbImage::from_fn(50, 40, |x, y| image::Rgb([x as u8 * 5, y as u8 * 6, 90]));
//! let pipeline = Pipeline::simclr(32, 1.0);
//! pipeline.validate()?;
//! let mut rng = ChaCha8Rng::seed_from_u64(0);
//! let views = [pipeline.apply(&image, &mut rng)?, pipeline.apply(&image, &mut rng)?];
//! assert_eq!(views[0].dimensions(), (32, 32));
//! assert_ne!(views[0], views[1]);
//! # Ok(())
//! # }
//! ```
//!
//! Each transform is a struct of settings with `validate`, a `draw` of its random parameters, and a
//! deterministic function of these:
//!
//! | settings | parameters | function |
//! |---|---|---|
//! | [`RandomResizedCrop`] | [`Region`] | [`resize_region`] |
//! | [`Resize`], [`CenterCrop`] | [`Region`] | [`resize_region`] |
//! | [`HorizontalFlip`] | `bool` | [`flip_horizontal`] |
//! | [`ColorJitter`], [`Grayscale`], [`Solarize`] | [`PixelOp`] | [`apply_pixel_ops`] |
//! | [`GaussianBlur`] | σ | [`gaussian_blur`] |
//!
//! Evaluation has nothing to draw: [`CenterView`], and [`center_view`] for its usual settings.
//!
//! Views leave as levels 0…255. A training loop normalises them on its device; [`normalize`] does it here.

#![forbid(unsafe_code)]

mod center_crop;
mod color_jitter;
mod draw;
mod error;
mod gaussian_blur;
mod grayscale;
mod horizontal_flip;
mod limits;
mod normalize;
mod pipeline;
mod pixel_op;
mod random_resized_crop;
mod recipes;
mod resample;
mod resize;
mod solarize;

#[cfg(test)]
mod same_bits;

pub use center_crop::{CenterCrop, CenterView, center_view};
pub use color_jitter::ColorJitter;
pub use error::{Error, Result};
pub use gaussian_blur::{GaussianBlur, gaussian_blur};
pub use grayscale::Grayscale;
pub use horizontal_flip::{HorizontalFlip, flip_horizontal};
pub use normalize::normalize;
pub use pipeline::{Pipeline, Step, Transform, run};
pub use pixel_op::{PixelOp, apply_pixel_ops};
pub use random_resized_crop::RandomResizedCrop;
pub use resize::{Interpolation, Region, Resize, resize_region};
pub use solarize::Solarize;
