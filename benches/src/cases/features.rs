//! Features of images by a network in evaluation: one image as soon as it can be, and many.

use super::steps::products;
use super::{Case, Ours};
use crate::args::Peer;
use anyhow::Result;
use candle_core::{Device, Tensor};
use selfsup_models::{Encoder, Mode, Preprocessing, arch};
use selfsup_train::Normalization;
use serde_json::json;
use std::hint::black_box;

const SIDE: usize = 224;

pub(super) fn all() -> Vec<Case> {
    let cases = [("resnet50", 1), ("resnet50", 32), ("vit-small-16", 1), ("vit-small-16", 32)];
    cases
        .map(|(name, images)| Case {
            name: format!("features/{name}/{images}x{SIDE}x{SIDE}x3"),
            operation: "features",
            inputs: Vec::new(),
            parameters: json!({ "arch": name, "images": images, "side": SIDE }),
            flop: name.starts_with("resnet").then(|| {
                let (stem, others) = products(&arch(name).expect("a known name").config, SIDE);
                (2 * images * (stem + others)) as f64
            }),
            peers: &[Peer::Eager, Peer::Compiled],
            ours: Ours::Step(Box::new(move || features(name, images))),
        })
        .into()
}

fn features(name: &str, images: usize) -> Result<Box<dyn FnMut() -> Result<()>>> {
    let Normalization { mean, std } = Normalization::IMAGENET;
    let preprocessing = Preprocessing::rgb(SIDE, mean, std);
    let encoder = Encoder::untrained(arch(name)?, preprocessing, 0, &Device::Cpu)?.frozen()?;
    let pixels = super::data::uniform(images * SIDE * SIDE * 3, 0);
    let pixels = pixels.iter().map(|x| (x * 256.0 + 128.0) as u8).collect::<Vec<u8>>();
    let images = Tensor::from_vec(pixels, (images, SIDE, SIDE, 3), &Device::Cpu)?;
    Ok(Box::new(move || {
        black_box(encoder.forward(&images, Mode::Eval)?);
        Ok(())
    }))
}
