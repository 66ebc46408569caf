//! The fused InfoNCE on an Apple GPU against the CPU in f64: `cargo test -p selfsup-kernels --features metal --test
//! metal_gpu` on a Mac. No Apple GPU has run it yet.
#![cfg(all(feature = "metal", target_os = "macos"))]

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use selfsup_kernels::Result;
use selfsup_kernels::info_nce::{info_nce, info_nce_queue, nt_xent, sup_con, two_tower};

type Form<'a> = dyn Fn(&[Tensor]) -> Result<Tensor> + 'a;

/// Numbers of both signs between ½ and 1½: a short row has a large gradient, with as large an error.
fn random(n: usize, d: usize, seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let number = |_| rng.random_range(0.5..1.5) * if rng.random_bool(0.5) { 1.0 } else { -1.0 };
    let values: Vec<f32> = (0..n * d).map(number).collect();
    Tensor::from_vec(values, (n, d), &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The loss, and its gradients of the inputs that have one.
fn with_gradients(inputs: &[Tensor], device: &Device, dtype: DType, form: &Form) -> Vec<Option<Vec<f64>>> {
    let there = |x: &Tensor| x.to_dtype(dtype).unwrap().to_device(device).unwrap();
    let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(&there(x)).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let loss = form(&tensors).unwrap();
    let gradients = (&loss * -1.5).unwrap().backward().unwrap();
    let gradients = vars.iter().map(|v| gradients.get(v).map(values));
    std::iter::once(Some(values(&loss))).chain(gradients).collect()
}

#[track_caller]
fn agree(inputs: &[Tensor], form: &Form, tolerance: f64) {
    let gpu = with_gradients(inputs, &Device::new_metal(0).unwrap(), DType::F32, form);
    let cpu = with_gradients(inputs, &Device::Cpu, DType::F64, form);
    for (which, (got, expected)) in gpu.iter().zip(&cpu).enumerate() {
        assert_eq!(got.is_some(), expected.is_some(), "result {which}");
        for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
            let error = (got - expected).abs() / (1.0 + expected.abs());
            assert!(error <= tolerance, "result {which}: got {got:e}, expected {expected:e}");
        }
    }
}

#[test]
fn every_form_is_as_on_the_cpu() {
    for (n, m, d) in
        [(1, 1, 1), (2, 1, 2), (3, 5, 7), (31, 33, 31), (33, 65, 32), (65, 130, 100), (200, 1000, 300)]
    {
        for t in [0.05, 0.5, 10.0] {
            // S is known to some units in the last place of 1/τ, and the gradient is 1/τ times exp S.
            let tolerance = 5e-7 * (1.0 + 1.0 / t) * (1.0 + 1.0 / t);
            let (a, b, c) = (random(n, d, 1), random(n, d, 2), random(m, d, 3));
            let labels: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
            let positives: Vec<u32> = (0..n).map(|i| (i * 5 % m) as u32).collect();
            let excluded: Vec<u32> = (0..n).map(|i| ((i * 5 + 1) % m) as u32).collect();
            let excluded = (m > 1).then_some(&excluded[..]);
            let scale = Tensor::new((1.0 / t) as f32, &Device::Cpu).unwrap();
            agree(&[random(2 * n, d, 4)], &|x| nt_xent(&x[0], t), tolerance);
            agree(&[a.clone()], &|x| sup_con(&x[0], &labels, t), tolerance);
            agree(&[a.clone(), c.clone()], &|x| info_nce(&x[0], &x[1], &positives, excluded, t), tolerance);
            agree(&[a.clone(), b.clone(), c], &|x| info_nce_queue(&x[0], &x[1], &x[2], t), tolerance);
            agree(&[a, b, scale], &|x| two_tower(&x[0], &x[1], &x[2]), tolerance);
        }
    }
}

/// candle's operations would give 0 here: the kernels are the ones that ran.
#[test]
fn a_loss_near_0_keeps_its_digits() {
    let device = Device::new_metal(0).unwrap();
    let row = |x: [f32; 2]| Tensor::from_slice(&x, (1, 2), &device).unwrap();
    let (query, key, queue) = (row([1.0, 0.0]), row([1.0, 0.0]), row([0.0, 1.0]));
    let loss = values(&info_nce_queue(&query, &key, &queue, 0.05).unwrap())[0];
    let expected = (-20f64).exp().ln_1p();
    assert!((loss / expected - 1.0).abs() < 1e-5, "{loss:e}, expected {expected:e}");
}

#[test]
fn the_same_bits_every_time() {
    let x = [random(500, 64, 1)];
    let device = Device::new_metal(0).unwrap();
    let run = || with_gradients(&x, &device, DType::F32, &|x| nt_xent(&x[0], 0.1));
    assert_eq!(run(), run());
}
