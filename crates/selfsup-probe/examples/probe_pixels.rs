//! kNN and linear probes of raw pixels: the baseline that an encoder has to beat.
//!
//! ```sh
//! cargo run --release -p selfsup-probe --example probe_pixels
//! ```

use selfsup_data::{Dataset, OpenOptions, Source, open_labelled_parts};
use selfsup_probe::{ExtractConfig, Features, Frozen, ProbeConfig, extract, run};
use std::sync::Arc;

/// Images of each part: the whole of them takes longer and says the same.
const TRAIN: usize = 2000;
const TEST: usize = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parts = open_labelled_parts("fashion-mnist", None, &OpenOptions::default())?;
    let (train, test) = (features(&parts.train, TRAIN)?, features(&parts.test, TEST)?);
    let config = ProbeConfig { labels_per_class: vec![None, Some(10), Some(1)], ..ProbeConfig::default() };

    println!("kind    labels a class  train  test  top-1");
    for row in run(&train, &test, parts.train.classes(), &config)? {
        let kind = format!("{:?}", row.kind).to_lowercase();
        let labels = row.labels_per_class.map_or("all".to_owned(), |n| n.to_string());
        let spread = if row.values.len() > 1 { format!(" ± {:.3}", row.std) } else { String::new() };
        println!("{kind:7} {labels:>14} {:6} {:5}  {:.3}{spread}", row.train, row.test, row.mean);
    }
    Ok(())
}

/// The pixels of the first images of a part.
fn features(part: &Dataset, count: usize) -> selfsup_probe::Result<Features> {
    let some: Vec<usize> = (0..count.min(part.len())).collect();
    let pixels = Frozen::Pixels { image_size: 28 };
    let mut features =
        extract(&pixels, Arc::new(part.subset(&some)), &ExtractConfig::default(), &mut |_| ())?;
    features.source = part.name().to_owned();
    Ok(features)
}
