//! Reading: one JPEG decoded, and the loader on the built-in subset.
//!
//! The JPEG is written to the folder for temporary files, so that another decoder can be timed on the same
//! bytes: see `docs/src/crates/data.md`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use image::{Rgb, RgbImage};
use selfsup_data::{BatchLoader, DEFAULT_MAX_PIXELS, LoaderConfig, OpenOptions, Order, decode, open};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const BATCH: usize = 256;
const BATCHES: usize = 20;

/// Smooth colour with fine texture, as a photograph has: some 60 KB as a JPEG.
fn photograph() -> RgbImage {
    RgbImage::from_fn(500, 375, |x, y| {
        let (u, v) = (x as f32 / 60.0, y as f32 / 50.0);
        let noise = ((x * 7919 + y * 104_729).wrapping_mul(2_654_435_761) >> 24) as f32 / 16.0;
        let wave = |phase: f32| 128.0 + 60.0 * (u + phase).sin() + 50.0 * (v - phase * u).cos() + noise;
        Rgb([0.1, 0.4, 0.9].map(|phase| wave(phase) as u8))
    })
}

fn decoding(c: &mut Criterion) {
    let path = std::env::temp_dir().join("selfsup-500x375.jpg");
    photograph().save(&path).expect("writes");
    let bytes = std::fs::read(&path).expect("reads");
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    group.bench_function("jpeg_500x375", |b| b.iter(|| decode(black_box(&bytes), DEFAULT_MAX_PIXELS).expect("decodes")));
    group.finish();
}

fn loading(c: &mut Criterion) {
    let data = Arc::new(open("fashion-mnist#train", &OpenOptions::default()).expect("is built in"));
    let mut group = c.benchmark_group("loader");
    group.sample_size(20).measurement_time(Duration::from_secs(5)).throughput(Throughput::Elements((BATCH * BATCHES) as u64));
    for workers in [0, 2] {
        group.bench_function(format!("fashion_mnist_workers_{workers}"), |b| {
            b.iter(|| {
                let config =
                    LoaderConfig { batch_size: BATCH, workers, prefetch_batches: 4, ..LoaderConfig::default() };
                let order = Order::Shuffled { first_epoch: 0, first_batch: 0 };
                let loader = BatchLoader::new(data.clone(), config, order, Arc::new(|image, _key| Ok(image.clone())));
                for batch in loader.take(BATCHES) {
                    black_box(batch.expect("reads"));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decoding, loading);
criterion_main!(benches);
