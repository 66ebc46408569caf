//! The probes on features as a ResNet-18 makes them: 512 wide, ten overlapping classes.
//!
//!     cargo bench -p selfsup-bench --bench probe

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use selfsup_probe::{Features, knn, linear};
use std::time::Duration;

const CLASSES: usize = 10;
const DIM: usize = 512;
/// Directions in which the classes differ.
const LATENT: usize = 20;

fn uniform(rng: &mut ChaCha8Rng, half: f32) -> f32 {
    (rng.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0) * half
}

/// Latent class centres with noise, mixed linearly, with noise again, and cut at 0 as by a ReLU. A linear probe
/// gets 55 % of these right, so its optimum is not at infinity.
fn features(n: usize, seed: u64) -> Features {
    let mut shared = ChaCha8Rng::seed_from_u64(99);
    let mix: Vec<f32> = (0..LATENT * DIM).map(|_| uniform(&mut shared, 1.0)).collect();
    let centres: Vec<f32> = (0..CLASSES * LATENT).map(|_| uniform(&mut shared, 0.6)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut features = Features { dim: DIM, ..Features::default() };
    for i in 0..n {
        let class = i % CLASSES;
        let z: Vec<f32> = (0..LATENT).map(|j| centres[class * LATENT + j] + uniform(&mut rng, 1.5)).collect();
        for j in 0..DIM {
            let mixed: f32 = z.iter().enumerate().map(|(l, z)| z * mix[l * DIM + j]).sum();
            features.values.push((mixed + uniform(&mut rng, 2.0)).max(0.0));
        }
        features.labels.push(Some(class as u32));
        features.ids.push(i.to_string());
    }
    features
}

fn probes(c: &mut Criterion) {
    let classes: Vec<String> = (0..CLASSES).map(|i| i.to_string()).collect();
    let test = features(10_000, 2);
    let test = test.labelled("test", &classes).expect("labelled");
    for n in [10_000, 50_000] {
        let train = features(n, 1);
        let train = train.labelled("train", &classes).expect("labelled");
        let mut group = c.benchmark_group(format!("probe/{n}x{DIM}"));
        group
            .sample_size(10)
            .sampling_mode(SamplingMode::Flat)
            .warm_up_time(Duration::from_millis(1))
            .measurement_time(Duration::from_secs(1));
        group.throughput(Throughput::Elements(test.len() as u64));
        group.bench_function("knn", |b| {
            b.iter(|| knn::accuracy(&train, &test, &knn::KnnConfig::default()).expect("measures"));
        });
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function("linear", |b| {
            b.iter(|| linear::fit(&train, &linear::LinearConfig::default(), 0).expect("fits"));
        });
        group.finish();
    }
}

criterion_group!(benches, probes);
criterion_main!(benches);
