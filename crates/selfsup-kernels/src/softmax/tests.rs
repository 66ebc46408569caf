use super::*;
use crate::gradcheck::GradCheck;
use crate::testing::{assert_close, assert_same_bits, golden, random, values, with_threads};
use candle_core::{DType, Device, Var};

type Function = fn(&Tensor) -> Result<Tensor>;

const BOTH: [(Softmax, Function); 2] =
    [(Softmax { log: false }, softmax), (Softmax { log: true }, log_softmax)];

/// The formulas in f64 without a shift, which logits of this size allow.
fn naive(op: &Softmax, x: &Tensor) -> Tensor {
    let d = x.dim(D::Minus1).unwrap();
    let y: Vec<f64> = values(x)
        .chunks(d)
        .flat_map(|row| {
            let sum = row.iter().map(|v| v.exp()).sum::<f64>();
            let y = move |v: &f64| if op.log { v - sum.ln() } else { v.exp() / sum };
            row.iter().map(y).collect::<Vec<_>>()
        })
        .collect();
    Tensor::from_vec(y, x.shape(), x.device()).unwrap()
}

/// y and x's gradient for fixed numbers from above.
fn run(f: impl Fn(&Tensor) -> Result<Tensor>, x: &Tensor) -> [Tensor; 2] {
    let x = Var::from_tensor(x).unwrap();
    let y = f(&x).unwrap();
    let dy = random(y.shape(), 99).to_dtype(y.dtype()).unwrap();
    let mut grads = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    [y.detach(), grads.remove(&x).unwrap()]
}

#[test]
fn values_are_those_of_the_formula() {
    for (op, f) in BOTH {
        for shape in [&[7][..], &[3, 5], &[4, 1], &[2, 3, 101], &[5, 2048], &[1, 1], &[3000, 10]] {
            let x = (random(shape, 1) * 10.0).unwrap();
            assert_close(&f(&x).unwrap(), &naive(&op, &x), 1e-13);
            assert_close(&reference(&op, &x).unwrap(), &naive(&op, &x), 1e-13);
            let x = x.to_dtype(DType::F32).unwrap();
            assert_close(&f(&x).unwrap(), &naive(&op, &x), 1e-6);
        }
        let view = random((6, 5), 2).t().unwrap();
        assert_close(&f(&view).unwrap(), &naive(&op, &view), 1e-13);
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for (op, f) in BOTH {
        GradCheck::f64().check(&[random((4, 7), 1)], |t| f(&t[0])).unwrap();
        GradCheck::f64().check(&[random((2, 45), 1)], |t| f(&t[0])).unwrap();
        GradCheck::f64().check(&[random((4, 7), 1)], |t| f(&t[0].t().unwrap())).unwrap();
        GradCheck::f64().check(&[random((4, 7), 1)], |t| reference(&op, &t[0])).unwrap();
    }
}

#[test]
fn extreme_logits_give_finite_results() {
    let x =
        Var::new(&[[1e4f32, -1e4, 0.0], [3e38, 3e38, -3e38], [0.0, f32::NEG_INFINITY, 0.0]], &Device::Cpu)
            .unwrap();
    let y = log_softmax(&x).unwrap();
    let ln2 = -std::f64::consts::LN_2;
    let rows = values(&y);
    assert_eq!(rows[..3], [0.0, -2e4, -1e4]);
    assert!((rows[3] - ln2).abs() < 1e-7 && rows[5] < -3e38);
    assert_eq!(rows[7], f64::NEG_INFINITY);
    // Only the largest class's, as the loss of a classifier takes.
    let gradient = |y: &Tensor| {
        let grads = y.narrow(1, 0, 1).unwrap().sum_all().unwrap().backward().unwrap();
        values(grads.get(&x).unwrap())
    };
    assert_eq!(gradient(&y), [0.0, 0.0, 0.0, 0.5, -0.5, 0.0, 0.5, 0.0, -0.5]);
    let y = softmax(&x).unwrap();
    assert_eq!(values(&y), [1.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.5, 0.0, 0.5]);
    assert_eq!(gradient(&y), [0.0, 0.0, 0.0, 0.25, -0.25, 0.0, 0.25, 0.0, -0.25]);
}

#[test]
fn small_probabilities_keep_their_digits() {
    let x = Tensor::new(&[[0f32, -20.0, -80.0]], &Device::Cpu).unwrap();
    let (y, expected) = (values(&softmax(&x).unwrap()), values(&naive(&Softmax { log: false }, &x)));
    for (y, expected) in y.iter().zip(&expected) {
        assert!((y / expected - 1.0).abs() < 2e-7, "{y}, expected {expected}");
    }
}

#[test]
fn nan_stays_in_its_row() {
    for (_, f) in BOTH {
        let x = Tensor::new(&[[0f32, f32::NAN, 1.0], [0.0, 0.0, 1.0]], &Device::Cpu).unwrap();
        let y = values(&f(&x).unwrap());
        assert!(y[..3].iter().all(|y| y.is_nan()) && y[3..].iter().all(|y| y.is_finite()));
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let x = random((301, 77), 1).to_dtype(DType::F32).unwrap();
    for (_, f) in BOTH {
        let (one, three) = (with_threads(1, || run(f, &x)), with_threads(3, || run(f, &x)));
        one.iter().zip(&three).for_each(|(a, b)| assert_same_bits(a, b));
    }
}

#[test]
fn narrow_numbers_run_too() {
    let x = random((5, 9), 3).to_dtype(DType::BF16).unwrap();
    for (op, f) in BOTH {
        let [y, dx] = run(f, &x);
        assert_eq!((y.dtype(), dx.dtype()), (DType::BF16, DType::BF16));
        // 2⁻⁸ is half a unit of bf16; a handful of roundings.
        assert_close(&y, &naive(&op, &x), 0.03);
    }
}

#[test]
fn agrees_with_pytorch() {
    let g = golden("softmax");
    for (op, f) in BOTH {
        let t = |part: &str| g[&format!("{}.{part}", op.name())].clone();
        let x = Var::from_tensor(&g["x"]).unwrap();
        let y = f(&x).unwrap();
        let grads = (&y * &g["dy"]).unwrap().sum_all().unwrap().backward().unwrap();
        assert_close(&y, &t("y"), 1e-6);
        assert_close(grads.get(&x).unwrap(), &t("dx"), 1e-6);
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    for (_, f) in BOTH {
        let scalar = Tensor::new(1f32, &Device::Cpu).unwrap();
        assert!(f(&scalar).unwrap_err().to_string().contains("[.., d]"));
        let empty = Tensor::zeros((3, 0), DType::F32, &Device::Cpu).unwrap();
        assert!(f(&empty).unwrap_err().to_string().contains("at least 1"));
        let integers = Tensor::zeros((3, 2), DType::U8, &Device::Cpu).unwrap();
        assert!(f(&integers).unwrap_err().to_string().contains("U8"));
    }
}
