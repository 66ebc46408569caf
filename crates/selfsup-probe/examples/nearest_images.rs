//! Of each image of a folder the most similar other one.
//!
//! ```sh
//! cargo run --release -p selfsup-probe --example nearest_images -- hf:timm/resnet18.a1_in1k photos/
//! ```

use selfsup_data::{OpenOptions, open};
use selfsup_probe::knn::nearest;
use selfsup_probe::{ExtractConfig, Frozen, extract};
use std::fmt::Write;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [encoder, images] = &args[..] else { return Err("usage: nearest_images ENCODER IMAGES".into()) };
    print!("{}", run(encoder, images)?);
    Ok(())
}

/// Each image with its neighbour, and the cosine between their features.
pub fn run(encoder: &str, images: &str) -> Result<String, Box<dyn std::error::Error>> {
    let mut text = String::new();
    let frozen = Frozen::Encoder(selfsup_models::load(encoder)?.encoder);
    let images = Arc::new(open(images, &OpenOptions::default())?);
    let features = extract(&frozen, images, &ExtractConfig::default(), &mut |_| ())?;
    // The nearest of all is the image itself, or one that is the same.
    let found = nearest(&features.values, &features.values, features.dim, 2)?;
    for (i, found) in found.iter().enumerate() {
        if let Some(other) = found.iter().find(|other| other.index != i) {
            writeln!(
                text,
                "{} is like {} ({:.3})",
                features.ids[i], features.ids[other.index], other.similarity
            )?;
        }
    }
    Ok(text)
}
