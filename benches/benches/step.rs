//! One training step of SimCLR without its data: forward, loss, backward, update.

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use selfsup_models::{Encoder, Preprocessing, arch};
use selfsup_optim::Param;
use selfsup_train::PretrainConfig;
use selfsup_train::method::Progress;
use std::time::Duration;

/// Images a step; each gives two views.
const IMAGES: usize = 64;

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("simclr_step");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(20))
        .throughput(Throughput::Elements(2 * IMAGES as u64));
    for name in ["resnet10-narrow-cifar", "resnet18-cifar"] {
        let config = PretrainConfig::resolve("simclr", &[]).expect("the defaults are valid");
        let preprocessing = Preprocessing::rgb(28, [0.5; 3], [0.25; 3]);
        let encoder =
            Encoder::untrained(arch(name).expect("known"), preprocessing, 0, &Device::Cpu).expect("builds");
        let mut method = config.method.build(encoder, 0).expect("builds");
        let params: Vec<Param> = method
            .tensors()
            .trainable()
            .map(|t| Param { name: t.name.clone(), var: t.var.clone() })
            .collect();
        let mut optimizer = config.optimizer.build(config.optimizer.groups(params)).expect("builds");
        let pixels: Vec<u8> = (0..IMAGES * 28 * 28 * 3).map(|i| ((i * 2_654_435_761) >> 7) as u8).collect();
        let view = Tensor::from_vec(pixels, (IMAGES, 28, 28, 3), &Device::Cpu).expect("shape");
        let at = Progress { step: 0, total: 1, lr: 0.1 };
        group.bench_function(name, |b| {
            b.iter(|| {
                let out = method.step(&[view.clone(), view.clone()].into(), at).expect("steps");
                optimizer.step(&out.loss.backward().expect("differentiates"), 1e-4).expect("updates");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
