//! NT-Xent forward and backward, and the measures that are taken where metrics are logged.
//!
//! `cargo bench -p selfsup-bench --bench objectives`

use candle_core::{Device, Tensor, Var};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use selfsup_objectives::{contrastive_accuracy, effective_rank, embedding_std, nt_xent};
use std::hint::black_box;

/// As in the command: the system's allocator gives blocks of this size back at once, and faulting them in again
/// takes three times as long as the work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const D: usize = 128;

fn embeddings(n: usize, seed: u64) -> Var {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values = (0..n * D).map(|_| rng.next_u32() as f32 / u32::MAX as f32 - 0.5).collect();
    Var::from_vec(values, (n, D), &Device::Cpu).expect("memory")
}

fn objectives(c: &mut Criterion) {
    let mut group = c.benchmark_group("objectives/nt_xent");
    group.sample_size(10);
    for views in [256, 1024, 4096, 8192] {
        let (z1, z2) = (embeddings(views / 2, 1), embeddings(views / 2, 2));
        group.throughput(Throughput::Elements(views as u64));
        group.bench_function(format!("{views}/forward"), |b| {
            b.iter(|| nt_xent(&z1, &z2, 0.5).expect("a loss"));
        });
        group.bench_function(format!("{views}/forward+backward"), |b| {
            b.iter(|| nt_xent(&z1, &z2, 0.5).expect("a loss").backward().expect("gradients"));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("objectives/measures");
    group.sample_size(10);
    let (z1, z2) = (embeddings(512, 1), embeddings(512, 2));
    let z = Tensor::cat(&[z1.as_tensor(), z2.as_tensor()], 0).expect("memory");
    group.bench_function("1024/contrastive_accuracy", |b| {
        b.iter(|| black_box(contrastive_accuracy(&z1, &z2).expect("finite")));
    });
    group.bench_function("1024/embedding_std", |b| {
        b.iter(|| black_box(embedding_std(&z).expect("finite")));
    });
    group.bench_function("1024/effective_rank", |b| {
        b.iter(|| black_box(effective_rank(&z).expect("finite")));
    });
    group.finish();
}

criterion_group!(benches, objectives);
criterion_main!(benches);
