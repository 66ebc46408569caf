//! Augmentation on one thread: each operation on 224×224, and whole views of both SimCLR recipes.
//!
//! `benches/peers/augment.py` times the recipes beside lightly.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use image::{Rgb, RgbImage};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use selfsup_augment::{
    Interpolation, Pipeline, PixelOp, Region, apply_pixel_ops, center_view, flip_horizontal, gaussian_blur,
    normalize, resize_region,
};
use std::hint::black_box;

const SIDE: u32 = 224;

/// Smooth colour with fine texture, as a photograph has.
fn photograph() -> RgbImage {
    RgbImage::from_fn(500, 375, |x, y| {
        let (u, v) = (x as f32 / 60.0, y as f32 / 50.0);
        let noise = ((x * 7919 + y * 104_729).wrapping_mul(2_654_435_761) >> 24) as f32 / 16.0;
        let wave = |phase: f32| 128.0 + 60.0 * (u + phase).sin() + 50.0 * (v - phase * u).cos() + noise;
        Rgb([0.1, 0.4, 0.9].map(|phase| wave(phase) as u8))
    })
}

fn operations(c: &mut Criterion) {
    let (photo, view) = (photograph(), center_view(&photograph(), SIDE).expect("resizes"));
    let mut group = c.benchmark_group("augment_224");
    group.throughput(Throughput::Elements(1));
    for (width, height) in [(120, 110), (300, 280), (480, 370)] {
        group.bench_function(format!("resize_from_{width}x{height}"), |b| {
            let region = Region { left: 10, top: 3, width, height };
            b.iter(|| {
                resize_region(black_box(&photo), region, SIDE, SIDE, Interpolation::Bilinear, true)
                    .expect("inside")
            });
        });
    }
    let jitter =
        [PixelOp::Brightness(1.1), PixelOp::Contrast(0.9), PixelOp::Saturation(1.2), PixelOp::Hue(0.1)];
    let pixel_ops = [
        ("brightness", &jitter[..1]),
        ("contrast", &jitter[1..2]),
        ("saturation", &jitter[2..3]),
        ("hue", &jitter[3..]),
        ("jitter_fused", &jitter[..]),
        ("grayscale", &[PixelOp::Grayscale]),
        ("solarize", &[PixelOp::Solarize(128)]),
    ];
    for (name, ops) in pixel_ops {
        group.bench_function(name, |b| {
            b.iter_batched_ref(|| view.clone(), |image| apply_pixel_ops(image, ops), BatchSize::SmallInput);
        });
    }
    for sigma in [0.5, 1.0, 2.0] {
        group.bench_function(format!("blur_sigma_{sigma}"), |b| {
            b.iter_batched_ref(
                || view.clone(),
                |image| gaussian_blur(image, 23, sigma),
                BatchSize::SmallInput,
            );
        });
    }
    group.bench_function("flip", |b| {
        b.iter_batched_ref(|| view.clone(), flip_horizontal, BatchSize::SmallInput)
    });
    group.bench_function("normalize", |b| b.iter(|| normalize(black_box(&view), [0.485; 3], [0.229; 3])));
    group.finish();
}

fn recipes(c: &mut Criterion) {
    let (photo, small) = (photograph(), center_view(&photograph(), 32).expect("resizes"));
    let mut group = c.benchmark_group("augment_view");
    group.throughput(Throughput::Elements(1));
    let recipes = [
        ("simclr_224", Pipeline::simclr(SIDE, 1.0), &photo),
        ("simclr_cifar_32", Pipeline::simclr_cifar(32), &small),
    ];
    for (name, pipeline, image) in recipes {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        group.bench_function(name, |b| {
            b.iter(|| pipeline.apply(black_box(image), &mut rng).expect("is valid"))
        });
    }
    group.finish();
}

criterion_group!(benches, operations, recipes);
criterion_main!(benches);
