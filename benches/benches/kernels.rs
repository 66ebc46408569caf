//! The operations of `selfsup-kernels` on a ResNet-18's shapes. `benches/peers/kernels.py` is the same in PyTorch.
//!
//!     cargo bench -p selfsup-bench --bench kernels
//!
//! A "forward+backward" seeds the backward pass with ones.

use candle_core::{Device, Tensor, Var};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use selfsup_kernels::{BatchNormConfig, Conv2dConfig, batch_norm_train, conv2d, log_softmax, max_pool2d};

/// Images in a batch, where not said otherwise.
const BATCH: usize = 16;

fn random<S: Into<candle_core::Shape>>(shape: S) -> Var {
    Var::randn(0f32, 1.0, shape, &Device::Cpu).expect("a random tensor")
}

/// 3×3 convolutions: c, side, k, stride. Throughput counts a multiply-add as two elements.
fn convolution(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("conv2d");
    for (c, side, k, stride) in [
        (64, 32, 64, 1),
        (128, 16, 128, 1),
        (256, 8, 256, 1),
        (512, 4, 512, 1),
        (64, 32, 128, 2),
        (3, 32, 64, 1),
    ] {
        let (x, weight) = (random((BATCH, side, side, c)), random((3, 3, c, k)));
        let x = if c == 3 { x.as_detached_tensor() } else { x.as_tensor().clone() };
        let config = Conv2dConfig { stride, padding: 1, ..Default::default() };
        let flop = 2 * BATCH * (side / stride).pow(2) * 9 * c * k;
        let name = format!("{c}x{side}->{k}/{stride}");
        let forward = || conv2d(&x, &weight, config).expect("a convolution");
        group.throughput(Throughput::Elements(flop as u64));
        group.bench_function(format!("{name}/forward"), |b| b.iter(forward));
        let products = if c == 3 { 2 } else { 3 };
        group.throughput(Throughput::Elements((products * flop) as u64));
        group.bench_function(format!("{name}/forward+backward"), |b| {
            b.iter(|| forward().backward().expect("gradients"))
        });
    }
}

fn batch_norm(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch_norm");
    let (x, weight, bias) = (random((128, 32, 32, 64)), random(64), random(64));
    let config = BatchNormConfig { relu: true, ..Default::default() };
    let forward = || batch_norm_train(&x, &weight, &bias, None, config).expect("a normalisation").y;
    group.sample_size(20);
    group.bench_function("relu/128x64x32x32/forward", |b| b.iter(forward));
    group.bench_function("relu/128x64x32x32/forward+backward", |b| {
        b.iter(|| forward().backward().expect("gradients"))
    });
}

fn pooling(criterion: &mut Criterion) {
    let x = random((BATCH, 112, 112, 64));
    let forward = || max_pool2d(&x, 3, 2, 1).expect("a pooling");
    both(criterion, "max_pool2d/3/2/1/16x64x112x112", forward);
}

fn softmax(criterion: &mut Criterion) {
    let x = random((4096, 1000));
    both(criterion, "log_softmax/4096x1000", || log_softmax(&x).expect("a softmax"));
}

fn both(criterion: &mut Criterion, name: &str, forward: impl Fn() -> Tensor) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20);
    group.bench_function("forward", |b| b.iter(&forward));
    group.bench_function("forward+backward", |b| b.iter(|| forward().backward().expect("gradients")));
}

criterion_group!(benches, convolution, batch_norm, pooling, softmax);
criterion_main!(benches);
