//! The operations of `selfsup-kernels` on a ResNet-18's shapes. `benches/peers/kernels.py` is the same in PyTorch.
//!
//!     cargo bench -p selfsup-bench --bench kernels
//!
//! A "forward+backward" seeds the backward pass with ones.

use candle_core::{Device, Tensor, Var};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use selfsup_kernels::{
    Activation, AvgPool2dConfig, BatchNormConfig, Conv2dConfig, Gelu, avg_pool2d, batch_norm_train, conv2d,
    gelu, layer_norm, linear, log_softmax, max_pool2d, resize_bilinear, softmax,
};

/// As in the command: the system's allocator gives blocks of this size back at once, and faulting them in again
/// takes several times as long as the work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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

fn normalisation(criterion: &mut Criterion) {
    let (x, residual, weight, bias) =
        (random((128, 32, 32, 64)), random((128, 32, 32, 64)), random(64), random(64));
    let config = BatchNormConfig { relu: true, ..Default::default() };
    let forward = |residual: Option<&Tensor>| {
        batch_norm_train(&x, &weight, &bias, residual, config).expect("a normalisation").y
    };
    both(criterion, "batch_norm/relu/128x32x32x64", || forward(None));
    both(criterion, "batch_norm/residual+relu/128x32x32x64", || forward(Some(&residual)));
    let (x, weight, bias) = (random((BATCH, 196, 384)), random(384), random(384));
    both(criterion, "layer_norm/16x196x384", || {
        layer_norm(&x, &weight, &bias, 1e-6).expect("a normalisation")
    });
}

fn pooling(criterion: &mut Criterion) {
    let x = random((BATCH, 112, 112, 64));
    both(criterion, "max_pool2d/3/2/1/16x112x112x64", || max_pool2d(&x, 3, 2, 1).expect("a pooling"));
    let halves = AvgPool2dConfig::new(2);
    both(criterion, "avg_pool2d/2/2/16x112x112x64", || avg_pool2d(&x, halves).expect("a pooling"));
    let x = random((BATCH, 32, 32, 64));
    let overlapping = AvgPool2dConfig { kernel: 3, stride: 1, padding: 1, count_include_pad: true };
    both(criterion, "avg_pool2d/3/1/1/16x32x32x64", || avg_pool2d(&x, overlapping).expect("a pooling"));
}

fn resizing(criterion: &mut Criterion) {
    let x = random((BATCH, 32, 32, 64));
    both(criterion, "resize_bilinear/16x32x32x64->64", || {
        resize_bilinear(&x, 64, 64, false).expect("a resizing")
    });
    let x = random((BATCH, 224, 224, 3));
    both(criterion, "resize_bilinear/16x224x224x3->96", || {
        resize_bilinear(&x, 96, 96, false).expect("a resizing")
    });
}

/// A small vision transformer's, 196 tokens an image and 384 wide, and a projector's.
fn layers(criterion: &mut Criterion) {
    let (tokens, hidden) = (random((BATCH, 196, 384)), random((BATCH, 196, 1536)));
    for (name, kind) in [("exact", Gelu::Exact), ("tanh", Gelu::Tanh), ("quick", Gelu::Quick)] {
        both(criterion, &format!("gelu/{name}/16x196x1536"), || gelu(&hidden, kind).expect("a GELU"));
    }
    let act = Activation::Gelu(Gelu::Exact);
    for (name, x, k, act) in [
        ("gelu/16x196x384->1536", tokens, 1536, act),
        ("none/16x196x1536->384", hidden, 384, Activation::None),
        ("relu/256x2048->2048", random((256, 2048)), 2048, Activation::Relu),
    ] {
        let (weight, bias) = (random((k, x.dims()[x.rank() - 1])), random(k));
        let forward = || linear(&x, &weight, Some(&bias), act).expect("a layer");
        both(criterion, &format!("linear/{name}"), forward);
    }
}

fn softmaxes(criterion: &mut Criterion) {
    let x = random((4096, 1000));
    both(criterion, "softmax/4096x1000", || softmax(&x).expect("a softmax"));
    both(criterion, "log_softmax/4096x1000", || log_softmax(&x).expect("a softmax"));
    let x = random((6 * BATCH, 196, 196));
    both(criterion, "softmax/96x196x196", || softmax(&x).expect("a softmax"));
}

fn both(criterion: &mut Criterion, name: &str, forward: impl Fn() -> Tensor) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20);
    group.bench_function("forward", |b| b.iter(&forward));
    group.bench_function("forward+backward", |b| b.iter(|| forward().backward().expect("gradients")));
}

criterion_group!(benches, convolution, normalisation, pooling, resizing, softmaxes, layers);
criterion_main!(benches);
