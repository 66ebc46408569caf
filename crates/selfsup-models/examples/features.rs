//! Features of a few images: an untrained encoder, or the one of a file.
//!
//! ```sh
//! cargo run --release -p selfsup-models --example features [-- encoder.safetensors]
//! ```

use candle_core::{Device, Tensor};
use selfsup_models::{Encoder, Mode, Preprocessing, arch};
use std::path::Path;

fn main() -> selfsup_models::Result<()> {
    let encoder = match std::env::args().nth(1) {
        Some(path) => Encoder::load(Path::new(&path), &Device::Cpu)?,
        None => {
            let preprocessing = Preprocessing::rgb(32, [0.5; 3], [0.25; 3]);
            Encoder::untrained(arch("resnet18-cifar")?, preprocessing, 0, &Device::Cpu)?
        }
    };
    let side = encoder.preprocessing().image_size;
    // Four images: gratings at four angles.
    let mut pixels = Vec::with_capacity(4 * side * side * 3);
    for angle in 0..4 {
        let (sin, cos) = (angle as f32 * std::f32::consts::FRAC_PI_4).sin_cos();
        for y in 0..side {
            for x in 0..side {
                let wave = ((x as f32 * cos + y as f32 * sin) * 0.8).sin();
                pixels.extend([(127.5 + 127.5 * wave) as u8; 3]);
            }
        }
    }
    let images = Tensor::from_vec(pixels, (4, side, side, 3), &Device::Cpu)?;
    let features = encoder.forward(&images, Mode::Eval)?;
    println!(
        "{} of {} numbers: {:?}",
        encoder.arch().name,
        encoder.params().trainable_count(),
        features.dims()
    );
    let unit = selfsup_kernels::l2_normalize(&features, 1e-12)?;
    println!("cosine similarity of the features:\n{}", unit.matmul(&unit.t()?)?);
    Ok(())
}
