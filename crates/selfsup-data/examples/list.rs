//! What a source holds, and how fast it can be read.
//!
//! ```sh
//! cargo run --release -p selfsup-data --example list -- [SRC [WORKERS]]
//! ```

use selfsup_data::{BatchLoader, LoaderConfig, OpenOptions, Order, Source, open, summary_of};
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let src = args.next().unwrap_or_else(|| "fashion-mnist".into());
    let workers = args.next().map_or(Ok(2), |n| n.parse())?;
    let data = Arc::new(open(&src, &OpenOptions::default())?);
    print!("{}", summary_of(&data));

    // One epoch: the example is only the image's mean, so reading and decoding are what takes the time.
    let config = LoaderConfig {
        batch_size: data.len().min(100),
        workers,
        prefetch_batches: 4,
        ..LoaderConfig::default()
    };
    let order = Order::Shuffled { first_epoch: 0, first_batch: 0 };
    let prepare = |image: &image::RgbImage, _: &_| {
        let sum: u64 = image.as_raw().iter().map(|&v| u64::from(v)).sum();
        Ok(sum as f64 / image.as_raw().len() as f64)
    };
    let mut loader = BatchLoader::new(data, config, order, Arc::new(prepare));
    let batches = loader.batches_per_epoch() as usize;
    let mut total = 0.0;
    for batch in loader.by_ref().take(batches) {
        total += batch?.examples.iter().sum::<f64>();
    }
    let stats = loader.stats();
    println!("loader, {workers} workers: {:.0} images/s in {batches} batches", stats.samples_per_s());
    println!("mean over the images: {:.4}", total / (255.0 * stats.samples as f64));
    Ok(())
}
