//! NT-Xent against the paper's formula in loops, closed forms, finite differences and lightly.

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use selfsup_kernels::gradcheck::GradCheck;
use selfsup_objectives::nt_xent;
use serde_json::Value;

fn random(n: usize, d: usize, seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..n * d).map(|_| rng.random_range(-2.0..2.0)).collect();
    Tensor::from_vec(values, (n, d), &Device::Cpu).unwrap()
}

fn rows(z: &Tensor) -> Vec<Vec<f64>> {
    z.to_dtype(DType::F64).unwrap().to_vec2().unwrap()
}

fn scalar(t: &Tensor) -> f64 {
    t.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

fn loss(z1: &Tensor, z2: &Tensor, temperature: f64) -> f64 {
    scalar(&nt_xent(z1, z2, temperature).unwrap())
}

/// Chen et al. 2020, eq. 1, and the mean of algorithm 1, with their interleaved order of the 2n views.
fn oracle(z1: &Tensor, z2: &Tensor, temperature: f64) -> f64 {
    let z: Vec<Vec<f64>> = rows(z1).into_iter().zip(rows(z2)).flat_map(|(a, b)| [a, b]).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let similar = |i: usize, j: usize| {
        let lengths = dot(&z[i], &z[i]).sqrt() * dot(&z[j], &z[j]).sqrt();
        if lengths == 0.0 { 0.0 } else { dot(&z[i], &z[j]) / lengths }
    };
    let one = |i: usize, j: usize| {
        let exponents = (0..z.len()).filter(|&k| k != i).map(|k| similar(i, k) / temperature);
        let max = exponents.clone().fold(f64::NEG_INFINITY, f64::max);
        max + exponents.map(|e| (e - max).exp()).sum::<f64>().ln() - similar(i, j) / temperature
    };
    let pairs = (0..z.len()).step_by(2);
    pairs.map(|k| one(k, k + 1) + one(k + 1, k)).sum::<f64>() / z.len() as f64
}

#[test]
fn the_loss_is_the_paper_s() {
    for (n, d) in [(1, 4), (2, 1), (3, 7), (16, 8), (33, 65)] {
        for temperature in [0.05, 0.5, 3.0] {
            let (z1, z2) = (random(n, d, 1), random(n, d, 2));
            let want = oracle(&z1, &z2, temperature);
            let got = loss(&z1, &z2, temperature);
            assert!(
                (got - want).abs() <= 1e-12 * want.abs().max(1.0),
                "{n} {d} {temperature}: {got}, {want}"
            );
            let narrow = |z: &Tensor| z.to_dtype(DType::F32).unwrap();
            let got = loss(&narrow(&z1), &narrow(&z2), temperature);
            // Cosines carry 1e-7 of rounding, which the temperature divides.
            let allowed = 5e-7 / temperature + 1e-6 * want.abs();
            assert!((got - want).abs() <= allowed, "{n} {d} {temperature}: {got}, {want}");
        }
    }
}

#[test]
fn collapsed_embeddings_cost_the_logarithm_of_the_candidates() {
    for n in [1usize, 2, 5, 100] {
        let z = Tensor::ones((n, 3), DType::F32, &Device::Cpu).unwrap();
        for temperature in [0.001, 0.5] {
            let want = ((2 * n - 1) as f64).ln();
            let got = loss(&z, &(&z * 7.0).unwrap(), temperature);
            assert!((got - want).abs() < 2e-6, "{n}: {got}, {want}");
        }
    }
}

#[test]
fn separated_pairs_have_a_closed_form() {
    // Orthogonal images, equal views: one cosine of 1 against 2n − 2 of 0.
    for (n, temperature) in [(2, 0.5f64), (5, 0.2), (8, 1.0)] {
        let z = Tensor::eye(n, DType::F32, &Device::Cpu).unwrap();
        let want = (1.0 + (2 * n - 2) as f64 * (-1.0 / temperature).exp()).ln();
        let got = loss(&z, &z, temperature);
        assert!((got - want).abs() < 1e-6, "{got}, {want}");
        // The same embeddings paired wrongly: the positive is one of the zeros.
        let wrong = Tensor::cat(&[&z.narrow(0, 1, n - 1).unwrap(), &z.narrow(0, 0, 1).unwrap()], 0).unwrap();
        let got = loss(&z, &wrong, temperature);
        assert!((got - want - 1.0 / temperature).abs() < 1e-5, "{got}, {want}");
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for (n, d, temperature) in [(1, 3, 0.5), (2, 4, 0.1), (5, 3, 0.5), (4, 6, 2.0)] {
        let inputs = [random(n, d, 3), random(n, d, 4)];
        GradCheck::f64().check(&inputs, |t| nt_xent(&t[0], &t[1], temperature)).unwrap();
    }
}

/// Loss and both gradients.
fn with_gradients(z1: &Tensor, z2: &Tensor, temperature: f64) -> (f64, Vec<f64>, Vec<f64>) {
    let (v1, v2) = (Var::from_tensor(z1).unwrap(), Var::from_tensor(z2).unwrap());
    let loss = nt_xent(&v1, &v2, temperature).unwrap();
    let grads = loss.backward().unwrap();
    let values = |v: &Var| rows(grads.get(v).unwrap()).concat();
    (scalar(&loss), values(&v1), values(&v2))
}

#[test]
fn value_and_gradients_are_lightly_s() {
    let golden: Value = serde_json::from_str(include_str!("golden/contrastive.json")).unwrap();
    let cases = golden["nt_xent"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let list = |key: &str| -> Vec<f64> {
            case[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
        };
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let (n, d, temperature) = (size("n"), size("d"), case["temperature"].as_f64().unwrap());
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-6)] {
            let tensor = |key: &str| {
                Tensor::from_vec(list(key), (n, d), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
            };
            let (loss, dz1, dz2) = with_gradients(&tensor("z1"), &tensor("z2"), temperature);
            let close = |what: &str, got: f64, want: f64, scale: f64| {
                let allowed = tolerance * (scale + 1.0) / temperature;
                assert!(
                    (got - want).abs() <= allowed,
                    "{n}×{d}, {dtype:?}: {what} is {got}, expected {want}"
                );
            };
            close("the loss", loss, case["loss"].as_f64().unwrap(), 1.0);
            for (name, got) in [("dz1", dz1), ("dz2", dz2)] {
                let want = list(name);
                let scale = want.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
                for (i, (got, want)) in got.iter().zip(want).enumerate() {
                    close(&format!("{name}[{i}]"), *got, want, scale);
                }
            }
        }
    }
}

#[test]
fn extreme_logits_stay_finite() {
    // Logits of ±1000, whose exponentials f32 cannot hold.
    let z1 = Tensor::new(&[[1f32, 0.], [0., 1.], [-1., 0.]], &Device::Cpu).unwrap();
    let z2 = Tensor::new(&[[1f32, 1e-3], [1e-3, 1.], [-1., 1e-3]], &Device::Cpu).unwrap();
    for temperature in [0.001, 1e-6] {
        let (loss, dz1, dz2) = with_gradients(&z1, &z2, temperature);
        assert!((0.0..1e-6).contains(&loss), "{loss}");
        assert!(dz1.iter().chain(&dz2).all(|g| g.is_finite()));
        let (loss, dz1, dz2) = with_gradients(&z1, &z2.neg().unwrap(), temperature);
        let want = oracle(&z1, &z2.neg().unwrap(), temperature);
        assert!((loss - want).abs() < 1e-5 * want, "{loss}, {want}");
        assert!(dz1.iter().chain(&dz2).all(|g| g.is_finite()));
    }
    // Lengths far from 1.
    for scale in [1e-15, 1e-8, 1e8, 1e15] {
        let (a, b) = ((&z1 * scale).unwrap(), (&z2 * scale).unwrap());
        let got = loss(&a, &b, 0.5);
        let want = oracle(&z1, &z2, 0.5);
        if scale >= 1e-8 {
            assert!((got - want).abs() < 1e-5, "{scale}: {got}, {want}");
        }
        assert!(got.is_finite());
    }
}

#[test]
fn a_vector_of_zeros_has_no_gradient_and_harms_no_other() {
    let z1 = Tensor::new(&[[0f32, 0.], [0., 1.], [1., 1.]], &Device::Cpu).unwrap();
    let z2 = Tensor::new(&[[1f32, 0.], [0., 0.], [1., 2.]], &Device::Cpu).unwrap();
    let (loss, dz1, dz2) = with_gradients(&z1, &z2, 0.5);
    assert!((loss - oracle(&z1, &z2, 0.5)).abs() < 1e-6, "{loss}");
    assert!(dz1.iter().chain(&dz2).all(|g| g.is_finite()));
    assert_eq!(dz1[..2], [0.0, 0.0]);
    assert_eq!(dz2[2..4], [0.0, 0.0]);
    // The others' gradients are at right angles to them and not nothing.
    assert!(dz1[2] != 0.0 && dz1[4] != 0.0 && dz2[1] != 0.0 && dz2[4] != 0.0);
    let zeros = z1.zeros_like().unwrap();
    let (loss, dz1, dz2) = with_gradients(&zeros, &zeros, 0.5);
    assert!((loss - 5f64.ln()).abs() < 1e-6, "{loss}");
    assert!(dz1.iter().chain(&dz2).all(|g| *g == 0.0));
}

#[test]
fn a_single_image_costs_nothing_and_moves_nothing() {
    let (loss, dz1, dz2) = with_gradients(&random(1, 4, 1), &random(1, 4, 2), 0.1);
    assert_eq!(loss, 0.0);
    assert!(dz1.iter().chain(&dz2).all(|g| *g == 0.0), "{dz1:?} {dz2:?}");
}

#[test]
fn views_in_memory_are_taken_as_they_are() {
    let (z1, z2) = (random(6, 9, 1), random(6, 9, 2));
    let turned = |z: &Tensor| z.t().unwrap().contiguous().unwrap().t().unwrap();
    let wide = Tensor::cat(&[&random(6, 2, 3), &z2], 1).unwrap().narrow(1, 2, 9).unwrap();
    let want = loss(&z1, &z2, 0.5);
    assert!(!turned(&z1).is_contiguous() && !wide.is_contiguous());
    assert!((loss(&turned(&z1), &wide, 0.5) - want).abs() < 1e-12);
}

#[test]
fn halves_of_a_batch_are_computed_in_f32() {
    let (z1, z2) = (random(5, 8, 1), random(5, 8, 2));
    for dtype in [DType::BF16, DType::F16] {
        let narrow = |z: &Tensor| z.to_dtype(dtype).unwrap();
        let got = nt_xent(&narrow(&z1), &narrow(&z2), 0.5).unwrap();
        assert_eq!(got.dtype(), DType::F32);
        let want = oracle(&narrow(&z1), &narrow(&z2), 0.5);
        assert!((scalar(&got) - want).abs() < 2e-6, "{dtype:?}");
        let v = Var::from_tensor(&narrow(&z1)).unwrap();
        let grads = nt_xent(&v, &narrow(&z2), 0.5).unwrap().backward().unwrap();
        assert_eq!(grads.get(&v).unwrap().dtype(), dtype);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let z = random(3, 4, 1);
    let message = |z1: &Tensor, z2: &Tensor, t| nt_xent(z1, z2, t).unwrap_err().to_string();
    assert_eq!(message(&z, &random(3, 5, 1), 0.5), "z2 must be [3, 4] as z1, got [3, 5]");
    assert_eq!(message(&z, &random(2, 4, 1), 0.5), "z2 must be [3, 4] as z1, got [2, 4]");
    assert!(message(&z.unsqueeze(0).unwrap(), &z, 0.5).starts_with("z1 must be [n, d]"));
    assert!(message(&random(0, 4, 1), &random(0, 4, 1), 0.5).starts_with("z1 must be [n, d]"));
    let bytes = z.to_dtype(DType::U8).unwrap();
    assert!(message(&bytes, &bytes, 0.5).starts_with("z1 must hold floating-point numbers"));
    let single = z.to_dtype(DType::F32).unwrap();
    assert_eq!(message(&z, &single, 0.5), "z2 must hold F64 as z1, got F32");
    for t in [0.0, -0.5, 1e-7, f64::NAN, f64::INFINITY] {
        assert!(message(&z, &z, t).starts_with("temperature must be finite and at least 1e-6, got"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_batch_has_the_paper_s_loss(n in 1usize..12, d in 1usize..12, seed in 0u64..1000, t in 0.05f64..2.0) {
        let (z1, z2) = (random(n, d, seed), random(n, d, seed + 1000));
        let (got, want) = (loss(&z1, &z2, t), oracle(&z1, &z2, t));
        prop_assert!((got - want).abs() <= 1e-11 * want.max(1.0), "{got}, {want}");
        // Neither the length of an embedding nor the order of the views counts.
        prop_assert!((loss(&z2, &(&z1 * 3.0).unwrap(), t) - got).abs() <= 1e-11 * want.max(1.0));
    }
}
