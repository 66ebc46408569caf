//! What an encoder's features are worth on labels of one's own: a folder of class folders, or any other source with labels.
//!
//! ```sh
//! cargo run --release -p selfsup-probe --example linear_probe -- hf:timm/resnet18.a1_in1k my_photos/
//! ```

use selfsup_data::{OpenOptions, open_labelled_parts};
use selfsup_probe::{ExtractConfig, Frozen, ProbeConfig, extract, run as probe};
use std::fmt::Write;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [encoder, images] = &args[..] else { return Err("usage: linear_probe ENCODER IMAGES".into()) };
    print!("{}", run(encoder, images)?);
    Ok(())
}

/// The accuracy of kNN and linear probes. Where the source has no test part, a fifth of the images is one, by a hash of their names.
pub fn run(encoder: &str, images: &str) -> Result<String, Box<dyn std::error::Error>> {
    let mut text = String::new();
    let frozen = Frozen::Encoder(selfsup_models::load(encoder)?.encoder);
    let parts = open_labelled_parts(images, None, &OpenOptions::default())?;
    let classes = parts.train.classes().to_vec();
    let features = |part| extract(&frozen, Arc::new(part), &ExtractConfig::default(), &mut |_| ());
    let (train, test) = (features(parts.train)?, features(parts.test)?);
    for row in probe(&train, &test, &classes, &ProbeConfig::default())? {
        writeln!(text, "{:?}: {:.1} % of {} test images", row.kind, 100.0 * row.mean, row.test)?;
    }
    Ok(text)
}
