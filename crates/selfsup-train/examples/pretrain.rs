//! SimCLR on the shipped images for a few steps, by the library.
//!
//! ```sh
//! cargo run --release -p selfsup-train --example pretrain
//! ```

use selfsup_data::{OpenOptions, open};
use selfsup_train::{Event, PretrainConfig, Trainer, parse_setting};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn main() -> selfsup_train::Result<()> {
    let settings = ["steps=20", "batch_size=64", "log_every_steps=5"];
    let layers = settings.iter().map(|s| parse_setting(s)).collect::<selfsup_train::Result<Vec<_>>>()?;
    let config = PretrainConfig::resolve("simclr", &layers)?;
    let data = Arc::new(open(&config.data, &OpenOptions::default())?);
    let folder = std::env::temp_dir().join(format!("selfsup-example-{}", std::process::id()));
    let mut trainer = Trainer::create(config, data, &folder)?;
    trainer.run(&AtomicBool::new(false), &mut |event| {
        if let Event::Logged(record) = event {
            println!(
                "step {:2}: loss {:.3}, {:.0} images/s, effective rank {:.1}",
                record.step, record.loss, record.samples_per_s, record.more["effective_rank"]
            );
        }
    })?;
    println!("the encoder is {}", trainer.folder().encoder().display());
    Ok(())
}
