//! Accuracy of the contrastive task, spread and effective rank: closed forms, loops, lightly and numpy.

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use selfsup_objectives::{Error, contrastive_accuracy, effective_rank, embedding_std};
use serde_json::Value;

fn random(n: usize, d: usize, seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Sums of twelve uniform numbers are nearly normal, so directions are nearly even.
    let values: Vec<f64> = (0..n * d).map(|_| (0..12).map(|_| rng.random_range(-0.5..0.5)).sum()).collect();
    Tensor::from_vec(values, (n, d), &Device::Cpu).unwrap()
}

#[test]
fn spread_and_rank_are_lightly_s_and_numpy_s() {
    let golden: Value = serde_json::from_str(include_str!("golden/contrastive.json")).unwrap();
    let cases = golden["measures"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let z: Vec<f64> = case["z"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let z = Tensor::from_vec(z, (size("n"), size("d")), &Device::Cpu).unwrap();
        type Measure = fn(&Tensor) -> selfsup_objectives::Result<f64>;
        // Singular values by way of squares keep about half of f64's digits.
        for (key, f, tolerance) in
            [("embedding_std", embedding_std as Measure, 1e-12), ("effective_rank", effective_rank, 1e-7)]
        {
            let want = case[key].as_f64().unwrap();
            let got = f(&z).unwrap();
            assert!((got - want).abs() <= tolerance * want, "{key} of {:?}: {got}, {want}", z.dims());
            // From f32, from a view, and scaled (both measures ignore a common factor).
            let got = f(&z.to_dtype(DType::F32).unwrap()).unwrap();
            assert!((got - want).abs() <= 1e-5 * want, "{key} of {:?} in f32: {got}, {want}", z.dims());
            let turned = z.t().unwrap().contiguous().unwrap().t().unwrap();
            for scale in [1.0, 1e-30, 1e30] {
                let got = f(&(&turned * scale).unwrap()).unwrap();
                assert!((got - want).abs() <= tolerance * want, "{key} × {scale}: {got}, {want}");
            }
        }
    }
}

#[test]
fn rank_counts_even_directions() {
    for (n, d) in [(4, 4), (3, 7), (64, 64)] {
        let m: usize = n.min(d);
        let eye = Tensor::eye(m, DType::F32, &Device::Cpu).unwrap();
        let z = eye.pad_with_zeros(0, 0, n - m).unwrap().pad_with_zeros(1, 0, d - m).unwrap();
        assert!((effective_rank(&z).unwrap() - m as f64).abs() < 1e-9);
    }
    let line = random(9, 1, 1).matmul(&random(1, 6, 2)).unwrap();
    let rank = effective_rank(&line).unwrap();
    assert!((rank - 1.0).abs() < 1e-6, "{rank}");
    // Singular values 3 and 1: p = ¾, ¼.
    let z = Tensor::new(&[[3f32, 0.], [0., 1.], [0., 0.]], &Device::Cpu).unwrap();
    let want = (-(0.75f64 * 0.75f64.ln() + 0.25 * 0.25f64.ln())).exp();
    assert!((effective_rank(&z).unwrap() - want).abs() < 1e-9);
    assert_eq!(effective_rank(&Tensor::zeros((3, 4), DType::F32, &Device::Cpu).unwrap()).unwrap(), 0.0);
    assert!((effective_rank(&random(1, 5, 1)).unwrap() - 1.0).abs() < 1e-12);
}

#[test]
fn spread_is_0_for_a_point_and_near_1_for_a_sphere() {
    let point = Tensor::ones((6, 5), DType::F32, &Device::Cpu).unwrap();
    assert!(embedding_std(&point).unwrap() < 1e-12);
    assert!(embedding_std(&random(1, 8, 1)).unwrap() < 1e-12);
    let sphere = embedding_std(&random(4000, 16, 1)).unwrap();
    assert!((sphere - 1.0).abs() < 0.01, "{sphere}");
    // ±1 on a line.
    let line = Tensor::new(&[[2f32], [-5.], [1.], [-1.]], &Device::Cpu).unwrap();
    assert!((embedding_std(&line).unwrap() - 1.0).abs() < 1e-12);
    assert_eq!(embedding_std(&point.zeros_like().unwrap()).unwrap(), 0.0);
}

fn accuracy(z1: &Tensor, z2: &Tensor) -> f64 {
    contrastive_accuracy(z1, z2).unwrap()
}

#[test]
fn accuracy_counts_the_anchors_that_find_their_partner() {
    let eye = Tensor::eye(5, DType::F32, &Device::Cpu).unwrap();
    assert_eq!(accuracy(&eye, &(&eye * 3.0).unwrap()), 1.0);
    let turned = Tensor::cat(&[&eye.narrow(0, 1, 4).unwrap(), &eye.narrow(0, 0, 1).unwrap()], 0).unwrap();
    assert_eq!(accuracy(&eye, &turned), 0.0);
    // Views of two images on a circle: 0° and 11°, 20° and 100°.
    let at = |degrees: [f32; 2]| {
        let points: Vec<f32> =
            degrees.iter().flat_map(|a| [a.to_radians().cos(), a.to_radians().sin()]).collect();
        Tensor::from_vec(points, (2, 2), &Device::Cpu).unwrap()
    };
    // 0° finds 11°; 11° finds 20°, not 0°; 20° finds 11°, not 100°; 100° finds 20°.
    assert_eq!(accuracy(&at([0.0, 20.0]), &at([11.0, 100.0])), 0.5);
    assert_eq!(accuracy(&random(1, 4, 1), &random(1, 4, 2)), 1.0);
}

#[test]
fn ties_are_misses() {
    for n in [2, 3, 300] {
        let z = random(1, 7, 1).broadcast_as((n, 7)).unwrap();
        assert_eq!(accuracy(&z, &z), 0.0, "{n}");
        let zeros = z.zeros_like().unwrap();
        assert_eq!(accuracy(&zeros, &zeros), 0.0, "{n}");
    }
}

#[test]
fn accuracy_is_that_of_loops() {
    // More anchors than one block holds, and one less and more.
    for (n, d) in [(3, 2), (128, 3), (129, 3), (200, 4)] {
        let z1 = random(n, d, 1);
        let z2 = (&z1 + (random(n, d, 2) * 0.5).unwrap()).unwrap();
        let z: Vec<Vec<f64>> = Tensor::cat(&[&z1, &z2], 0).unwrap().to_vec2().unwrap();
        let cosine = |a: &[f64], b: &[f64]| {
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        let hits = (0..2 * n)
            .filter(|&i| {
                let others = (0..2 * n).filter(|&k| k != i);
                let best = others.max_by(|&a, &b| cosine(&z[i], &z[a]).total_cmp(&cosine(&z[i], &z[b])));
                best == Some((i + n) % (2 * n))
            })
            .count();
        let share = hits as f64 / (2 * n) as f64;
        assert!(share > 0.01 && share < 0.99, "{share} would show little");
        assert_eq!(accuracy(&z1, &z2), share);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let z = random(3, 4, 1);
    let bad = (&z / 0.0).unwrap();
    assert!(matches!(embedding_std(&bad), Err(Error::NonFinite)));
    assert!(matches!(effective_rank(&bad), Err(Error::NonFinite)));
    assert!(matches!(contrastive_accuracy(&z, &bad), Err(Error::NonFinite)));
    assert!(matches!(contrastive_accuracy(&z, &random(4, 4, 1)), Err(Error::Shape { what: "z2", .. })));
    for z in [random(0, 4, 1), random(4, 0, 1), z.flatten_all().unwrap()] {
        assert!(matches!(embedding_std(&z), Err(Error::Shape { .. })));
        assert!(matches!(effective_rank(&z), Err(Error::Shape { .. })));
        assert!(matches!(contrastive_accuracy(&z, &z), Err(Error::Shape { .. })));
    }
}
