//! All weights of an encoder trained on labels of one's own, and the result saved with its head for the next program.
//!
//! ```sh
//! cargo run --release -p selfsup-probe --example fine_tune -- hf:timm/resnet18.a1_in1k my_photos/ tuned.safetensors
//! ```

use selfsup_data::{OpenOptions, Source, open_labelled_parts};
use selfsup_probe::FinetuneConfig;
use selfsup_probe::finetune::{fit, labelled};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [encoder, images, out] = &args[..] else { return Err("usage: fine_tune ENCODER IMAGES OUT".into()) };
    print!("{}", run(encoder, images, out)?);
    Ok(())
}

/// The accuracy on the test part.
pub fn run(encoder: &str, images: &str, out: &str) -> Result<String, Box<dyn std::error::Error>> {
    let folder = Path::new(out).parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(format!("{} is no folder", folder.display()).into());
    }
    let encoder = selfsup_models::load(encoder)?.encoder;
    let parts = open_labelled_parts(images, None, &OpenOptions::default())?;
    let (train, test) = (labelled(&parts.train), labelled(&parts.test));
    let config = FinetuneConfig { epochs: 10, ..FinetuneConfig::default() };
    let steps = config.steps(train.len());
    let mut done = 0;
    let tuned = fit(&encoder, &train, parts.train.classes().len(), &config, 0, &mut || {
        done += 1;
        eprintln!("step {done} of {steps}");
    })?;
    tuned.save(Path::new(out), parts.train.classes())?;
    Ok(format!("{:.1} % of {} test images\n", 100.0 * tuned.accuracy(&test, config.workers)?, test.len()))
}
