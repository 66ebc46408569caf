use super::*;
use crate::gradcheck::GradCheck;
use crate::testing::{assert_close, assert_same_bits, golden, random, random_f32, values, with_threads};
use candle_core::{Device, Var};

const KINDS: [Gelu; 3] = [Gelu::Exact, Gelu::Tanh, Gelu::Quick];

/// The module's formulas in f64, with candle's erf, which suffices where Φ is not small.
fn naive(x: f64, kind: Gelu) -> f64 {
    match kind {
        Gelu::Exact => x * 0.5 * (1.0 + candle_core::cpu::erf::erf_f64(x / 2f64.sqrt())),
        Gelu::Tanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
        Gelu::Quick => x / (1.0 + (-1.702 * x).exp()),
    }
}

fn run(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> [Tensor; 2] {
    let x = Var::from_tensor(x).unwrap();
    let y = f(&x).unwrap();
    let dy = random(y.dims(), 99).to_dtype(y.dtype()).unwrap();
    let mut grads = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    [y.detach(), grads.remove(&x).unwrap()]
}

#[test]
fn values_are_those_of_the_formulas() {
    let x = (random((57, 401), 1) * 6.0).unwrap();
    for kind in KINDS {
        let expected: Vec<f64> = values(&x).iter().map(|x| naive(*x, kind)).collect();
        let expected = Tensor::from_vec(expected, x.shape(), &Device::Cpu).unwrap();
        assert_close(&gelu(&x, kind).unwrap(), &expected, 1e-14);
        assert_close(&reference(&x, kind).unwrap(), &expected, 1e-14);
        let narrow = x.to_dtype(DType::F32).unwrap();
        let expected: Vec<f64> = values(&narrow).iter().map(|x| naive(*x, kind)).collect();
        let expected = Tensor::from_vec(expected, x.shape(), &Device::Cpu).unwrap();
        assert_close(&gelu(&narrow, kind).unwrap(), &expected, 3e-7);
    }
}

#[test]
fn far_below_0_digits_are_kept() {
    for kind in KINDS {
        let x: Vec<f32> = (0..120).map(|i| -0.1 * i as f32).collect();
        let wide = Tensor::from_vec(x, 120, &Device::Cpu).unwrap();
        let expected = values(&gelu(&wide.to_dtype(DType::F64).unwrap(), kind).unwrap());
        for (y, expected) in values(&gelu(&wide, kind).unwrap()).iter().zip(&expected) {
            // The argument's rounding, relative to 1, is multiplied by s, some tens.
            let tolerance = if kind == Gelu::Exact { 6e-7 } else { 1e-5 };
            let flushed = expected.abs() < 1e-36;
            assert!(
                flushed || (y - expected).abs() <= tolerance * expected.abs(),
                "{kind:?}: {y} {expected}"
            );
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for kind in KINDS {
        for scale in [1.0, 6.0] {
            let x = (random((7, 5), 1) * scale).unwrap();
            GradCheck::f64().check(std::slice::from_ref(&x), |t| gelu(&t[0], kind)).unwrap();
            GradCheck::f64().check(std::slice::from_ref(&x), |t| gelu(&t[0].t().unwrap(), kind)).unwrap();
            GradCheck::f64().check(std::slice::from_ref(&x), |t| reference(&t[0], kind)).unwrap();
        }
        let x = (random_f32((100, 300), 1) * 8.0).unwrap();
        let [y, dx] = run(&x, |x| gelu(x, kind));
        let [wide_y, wide_dx] = run(&x.to_dtype(DType::F64).unwrap(), |x| gelu(x, kind));
        assert_close(&y, &wide_y, 1e-6);
        assert_close(&dx, &wide_dx, 1e-6);
    }
}

#[test]
fn the_ends_are_limits_and_nan_stays() {
    let x = [0f32, -0.0, 1e4, -1e4, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    for kind in KINDS {
        let x = Var::new(&x, &Device::Cpu).unwrap();
        let y = gelu(&x, kind).unwrap();
        let infinity = f64::INFINITY;
        assert_eq!(values(&y)[..8], [0.0, 0.0, 1e4, 0.0, f64::from(f32::MAX), 0.0, infinity, 0.0]);
        let grads = y.sum_all().unwrap().backward().unwrap();
        let dx = values(grads.get(&x).unwrap());
        assert_eq!(dx[..8], [0.5, 0.5, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0], "{kind:?}");
        assert!(values(&y)[8].is_nan() && dx[8].is_nan());
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let x = random_f32((123, 457), 1);
    for kind in KINDS {
        let run = || run(&x, |x| gelu(x, kind));
        let (one, three) = (with_threads(1, run), with_threads(3, run));
        one.iter().zip(&three).for_each(|(a, b)| assert_same_bits(a, b));
    }
}

#[test]
fn narrow_numbers_are_computed_in_f32() {
    let x = (random((5, 64), 1) * 4.0).unwrap().to_dtype(DType::BF16).unwrap();
    for kind in KINDS {
        let [y, dx] = run(&x, |x| gelu(x, kind));
        assert_eq!((y.dtype(), dx.dtype()), (DType::BF16, DType::BF16));
        let expected: Vec<f64> = values(&x).iter().map(|x| naive(*x, kind)).collect();
        // One rounding to bf16's eight bits.
        assert_close(&y, &Tensor::from_vec(expected, x.shape(), &Device::Cpu).unwrap(), 1.0 / 256.0);
    }
}

#[test]
fn agrees_with_pytorch() {
    let g = golden("gelu");
    for (kind, name) in [(Gelu::Exact, "exact"), (Gelu::Tanh, "tanh"), (Gelu::Quick, "quick")] {
        let x = Var::from_tensor(&g["x"]).unwrap();
        let y = gelu(&x, kind).unwrap();
        let grads = (&y * &g["dy"]).unwrap().sum_all().unwrap().backward().unwrap();
        assert_close(&y, &g[&format!("{name}.y")], 1e-6);
        assert_close(grads.get(&x).unwrap(), &g[&format!("{name}.dx")], 1e-6);
    }
}

#[test]
fn integers_are_refused() {
    let x = Tensor::zeros(3, DType::U8, &Device::Cpu).unwrap();
    assert!(gelu(&x, Gelu::Exact).unwrap_err().to_string().contains("U8"));
}
