//! Cross-entropy and accuracy: closed forms, an f64 loop, finite differences, bad input.

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use selfsup_kernels::gradcheck::GradCheck;
use selfsup_objectives::{accuracy, cross_entropy};

fn logits(n: usize, c: usize, scale: f64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let values: Vec<f64> = (0..n * c).map(|_| scale * rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, (n, c), &Device::Cpu).unwrap()
}

fn labels(of: &[u32]) -> Tensor {
    Tensor::new(of, &Device::Cpu).unwrap()
}

fn scalar(t: &Tensor) -> f64 {
    t.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

#[test]
fn the_value_is_the_formula_s() {
    for (n, c, scale) in [(1, 2, 1.0), (5, 3, 4.0), (7, 9, 300.0)] {
        let x = logits(n, c, scale);
        let y: Vec<u32> = (0..n as u32).map(|i| (i * 5 + 1) % c as u32).collect();
        let rows = x.to_vec2::<f64>().unwrap();
        let mut expected = 0.0;
        for (row, &label) in rows.iter().zip(&y) {
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = most + row.iter().map(|v| (v - most).exp()).sum::<f64>().ln();
            expected += (lse - row[label as usize]) / n as f64;
        }
        assert!((scalar(&cross_entropy(&x, &labels(&y)).unwrap()) - expected).abs() < 1e-10);
        let narrow = cross_entropy(&x.to_dtype(DType::F32).unwrap(), &labels(&y)).unwrap();
        assert!((scalar(&narrow) - expected).abs() < 1e-5 * expected.max(1.0));
    }
    let nothing = Tensor::zeros((4, 10), DType::F64, &Device::Cpu).unwrap();
    assert!((scalar(&cross_entropy(&nothing, &labels(&[0, 3, 9, 9])).unwrap()) - 10f64.ln()).abs() < 1e-12);
}

#[test]
fn the_gradient_is_the_difference_quotient_s() {
    let y = labels(&[2, 0, 1, 2]);
    GradCheck::f64().check(&[logits(4, 3, 2.0)], |x| cross_entropy(&x[0], &y)).unwrap();
}

#[test]
fn the_share_of_largest_logits() {
    let x = Tensor::new(&[[1f32, 2.0], [3.0, -1.0], [0.0, 0.0], [5.0, 6.0]], &Device::Cpu).unwrap();
    assert_eq!(accuracy(&x, &labels(&[1, 1, 0, 1])).unwrap(), 0.75);
}

#[test]
fn bad_input_is_an_error_that_says_so() {
    let x = logits(3, 4, 1.0);
    for (labels, part) in [
        (labels(&[0, 1]), "labels must be [3]"),
        (labels(&[0, 1, 4]), "a label must be below"),
        (Tensor::new(&[0i64, 1, 2], &Device::Cpu).unwrap(), "U32"),
    ] {
        let error = cross_entropy(&x, &labels).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(accuracy(&x, &labels).is_err());
    }
    let error = cross_entropy(&x.unsqueeze(0).unwrap(), &labels(&[0])).unwrap_err().to_string();
    assert!(error.contains("[n, d]"), "{error}");
}
