//! One optimiser step over the 11.2 million parameters of a ResNet-18, and clipping.
//!
//! `cargo bench -p selfsup-bench --bench optim`

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use selfsup_optim::{OptimizerConfig, Param, check_gradients, clip_grad_norm};

/// As in the command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Weight, scale and shift of every convolution, with the CIFAR stem, and no classifier.
fn resnet18() -> Vec<Param> {
    let mut convs = vec![(3, 3, 64)];
    for (c_in, c) in [(64, 64), (64, 128), (128, 256), (256, 512)] {
        convs.extend([(3, c_in, c), (3, c, c), (3, c, c), (3, c, c)]);
        if c_in != c {
            convs.push((1, c_in, c));
        }
    }
    let mut params = Vec::new();
    let mut add = |name: String, shape: Vec<usize>| {
        let tensor = Tensor::full(0.01f32, shape, &Device::Cpu).expect("memory");
        params.push(Param { name, var: Var::from_tensor(&tensor).expect("memory") });
    };
    for (i, (k, c_in, c)) in convs.into_iter().enumerate() {
        add(format!("conv{i}.weight"), vec![k, k, c_in, c]);
        add(format!("bn{i}.weight"), vec![c]);
        add(format!("bn{i}.bias"), vec![c]);
    }
    params
}

fn gradients(params: &[Param]) -> GradStore {
    let mut loss = Tensor::zeros((), DType::F32, &Device::Cpu).expect("memory");
    for p in params {
        loss = (loss + p.var.as_tensor().sum_all().expect("f32")).expect("scalars");
    }
    loss.backward().expect("a gradient of ones")
}

fn optim(c: &mut Criterion) {
    let params = resnet18();
    let elements: usize = params.iter().map(|p| p.var.elem_count()).sum();
    let mut grads = gradients(&params);
    let mut group = c.benchmark_group("optim/resnet18");
    group.throughput(Throughput::Elements(elements as u64));
    for config in [OptimizerConfig::sgd(0.1), OptimizerConfig::lars(0.1), OptimizerConfig::adamw(0.1)] {
        let mut optimizer = config.build(config.groups(params.clone())).expect("valid");
        // A rate so small that the values stay where they are, step after step.
        group.bench_function(config.name(), |b| b.iter(|| optimizer.step(&grads, 1e-9).expect("a step")));
    }
    group.bench_function("check_gradients", |b| b.iter(|| check_gradients(&grads, &params).expect("finite")));
    group.bench_function("norm", |b| {
        b.iter(|| clip_grad_norm(&mut grads, &params, f64::MAX).expect("finite"));
    });
    group.bench_function("clip", |b| {
        b.iter_batched_ref(
            || gradients(&params),
            |grads| clip_grad_norm(grads, &params, 1.0).expect("finite"),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, optim);
criterion_main!(benches);
