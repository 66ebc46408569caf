//! Times both SimCLR recipes on one thread, two views an image: `benches/peers/augment.py` runs it beside lightly.
//!
//! ```text
//! cargo run --release -p selfsup-augment --example throughput -- PHOTO.jpg [SECONDS]
//! ```
//!
//! Prints one line of JSON: microseconds an image. `decode` decodes the JPEG; `simclr` decodes it and makes two
//! normalised views of 224×224 with blur; `cifar` makes two normalised views of 32×32 of a decoded image.

use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use selfsup_augment::{Pipeline, center_view, normalize};
use std::hint::black_box;
use std::time::Instant;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let jpeg = std::fs::read(args.next().ok_or("usage: throughput PHOTO.jpg [SECONDS]")?)?;
    let seconds: f64 = args.next().map_or(Ok(2.0), |s| s.parse())?;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let small = center_view(&decode(&jpeg), 32)?;
    let (large_views, small_views) = (Pipeline::simclr(224, 1.0), Pipeline::simclr_cifar(32));
    let mut two_views = |pipeline: &Pipeline, image: &RgbImage| {
        for _ in 0..2 {
            let view = pipeline.apply(image, &mut rng).expect("a valid pipeline");
            black_box(normalize(&view, MEAN, STD));
        }
    };
    let decoding = time(seconds, || {
        black_box(decode(&jpeg));
    });
    let simclr = time(seconds, || two_views(&large_views, &decode(&jpeg)));
    let cifar = time(seconds, || two_views(&small_views, &small));
    println!("{{\"decode\": {decoding:.2}, \"simclr\": {simclr:.2}, \"cifar\": {cifar:.2}}}");
    Ok(())
}

/// Mean microseconds a call over `seconds`.
fn time(seconds: f64, mut call: impl FnMut()) -> f64 {
    call();
    let (start, mut calls) = (Instant::now(), 0u32);
    while start.elapsed().as_secs_f64() < seconds {
        (0..10).for_each(|_| call());
        calls += 10;
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}

fn decode(jpeg: &[u8]) -> RgbImage {
    let mut decoder = JpegDecoder::new(ZCursor::new(jpeg));
    let pixels = decoder.decode().expect("a JPEG file");
    let (width, height) = decoder.dimensions().expect("known once decoded");
    RgbImage::from_raw(width as u32, height as u32, pixels).expect("zune-jpeg gives RGB")
}
