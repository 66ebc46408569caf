//! Features of every image of a folder, by an encoder of the hub, a run or a weight file.
//!
//! ```sh
//! cargo run --release -p selfsup-probe --example embed_folder -- hf:timm/resnet18.a1_in1k photos/
//! ```

use selfsup_data::{OpenOptions, open};
use selfsup_probe::{ExtractConfig, Frozen, extract};
use std::fmt::Write;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [encoder, images] = &args[..] else { return Err("usage: embed_folder ENCODER IMAGES".into()) };
    print!("{}", run(encoder, images)?);
    Ok(())
}

/// An image a line: its name, and the first of its features.
pub fn run(encoder: &str, images: &str) -> Result<String, Box<dyn std::error::Error>> {
    let mut text = String::new();
    let frozen = Frozen::Encoder(selfsup_models::load(encoder)?.encoder);
    let images = Arc::new(open(images, &OpenOptions::default())?);
    let features = extract(&frozen, images, &ExtractConfig::default(), &mut |_| ())?;
    for (i, id) in features.ids.iter().enumerate() {
        writeln!(text, "{id}: {:?} … of {}", &features.row(i)[..3], features.dim)?;
    }
    Ok(text)
}
