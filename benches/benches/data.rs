//! Reading: JPEGs decoded, and the loader on the built-in subset.
//!
//! `peers/decode.py` times Pillow and leaves the same files for this bench.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use image::{ImageFormat, Rgb, RgbImage};
use selfsup_data::{BatchLoader, DEFAULT_MAX_PIXELS, LoaderConfig, OpenOptions, Order, decode, open};
use std::hint::black_box;
use std::io::Cursor;
use std::path::PathBuf;
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

/// The JPEGs that `peers/decode.py` wrote, or one of our own.
fn jpegs() -> Vec<(String, Vec<u8>)> {
    let folder = std::env::temp_dir().join("selfsup-jpegs");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "jpg"));
    files.sort();
    let read = |f: &PathBuf| Some((f.file_stem()?.to_str()?.to_owned(), std::fs::read(f).ok()?));
    let mut jpegs: Vec<_> = files.iter().filter_map(read).collect();
    if jpegs.is_empty() {
        let mut bytes = Cursor::new(Vec::new());
        photograph().write_to(&mut bytes, ImageFormat::Jpeg).expect("encodes");
        jpegs.push(("own".into(), bytes.into_inner()));
    }
    jpegs
}

fn decoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    for (name, bytes) in jpegs() {
        group.bench_function(format!("jpeg_500x375/{name}"), |b| {
            b.iter(|| decode(black_box(&bytes), DEFAULT_MAX_PIXELS).expect("decodes"));
        });
    }
    group.finish();
}

fn loading(c: &mut Criterion) {
    let data = Arc::new(open("fashion-mnist#train", &OpenOptions::default()).expect("is built in"));
    let mut group = c.benchmark_group("loader");
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(5))
        .throughput(Throughput::Elements((BATCH * BATCHES) as u64));
    for workers in [0, 2] {
        group.bench_function(format!("fashion_mnist_workers_{workers}"), |b| {
            b.iter(|| {
                let config = LoaderConfig {
                    batch_size: BATCH,
                    workers,
                    prefetch_batches: 4,
                    ..LoaderConfig::default()
                };
                let order = Order::Shuffled { first_epoch: 0, first_batch: 0 };
                let loader =
                    BatchLoader::new(data.clone(), config, order, Arc::new(|image, _key| Ok(image.clone())));
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
