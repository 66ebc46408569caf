//! Methods of small sizes, what they make of an image, and images whose pixels say something.

// Each test file is a crate that uses a part of this.
#![allow(dead_code)]

use image::{Rgb, RgbImage};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use selfsup_data::sample_rng;
use selfsup_train::method::{Example, Prepare};
use selfsup_train::{PretrainConfig, parse_setting};
use std::sync::Arc;

pub const SIDE: u32 = 32;
/// Leaves a 32-pixel image as it is.
pub const WHOLE: &str = r#"method.augmentation=[{name="center_crop", size=32}]"#;

pub fn resolve(method: &str, settings: &[&str]) -> Result<PretrainConfig, String> {
    let all = ["image_size=32", "batch_size=8", "arch=resnet10-mini"].iter().chain(settings);
    let layers: Vec<_> = all.map(|s| parse_setting(s).unwrap()).collect();
    PretrainConfig::resolve(method, &layers).map_err(|e| e.to_string())
}

pub fn prepare(method: &str, settings: &[&str]) -> Arc<dyn Prepare> {
    resolve(method, settings).unwrap().method.prepare().unwrap()
}

pub fn example(prepare: &dyn Prepare, image: &RgbImage, sample: u64) -> Example {
    prepare.prepare(image, &|view| sample_rng(0, 0, sample, view)).unwrap()
}

/// Every pixel its own place: red the column, green the row.
pub fn map() -> RgbImage {
    RgbImage::from_fn(SIDE, SIDE, |x, y| Rgb([x as u8, y as u8, 128]))
}

/// Independent levels, without any direction.
pub fn noise(seed: u64) -> RgbImage {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    RgbImage::from_fn(SIDE, SIDE, |_, _| Rgb([rng.random(), rng.random(), rng.random()]))
}
