use super::*;
use crate::gradcheck::GradCheck;
use crate::testing::{assert_close, assert_same_bits, golden, random, random_f32, values, with_threads};
use candle_core::{DType, Device, Var};
use proptest::prelude::*;

/// The module's formula: values, and each maximum's place in x.
fn naive(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> (Tensor, Vec<usize>) {
    let (n, h, w, c) = x.dims4().unwrap();
    let side = |size: usize| (size + 2 * padding - kernel) / stride + 1;
    let data = values(x);
    let (mut y, mut places) = (Vec::new(), Vec::new());
    for ni in 0..n {
        for i in 0..side(h) {
            for j in 0..side(w) {
                for ci in 0..c {
                    let mut best: Option<usize> = None;
                    for a in 0..kernel {
                        for b in 0..kernel {
                            let (row, column) = (i * stride + a, j * stride + b);
                            if row < padding
                                || column < padding
                                || row >= h + padding
                                || column >= w + padding
                            {
                                continue;
                            }
                            let at = ((ni * h + row - padding) * w + column - padding) * c + ci;
                            if best.is_none_or(|best| data[at] > data[best] || data[at].is_nan()) {
                                best = Some(at);
                            }
                        }
                    }
                    y.push(data[best.unwrap()]);
                    places.push(best.unwrap());
                }
            }
        }
    }
    (Tensor::from_vec(y, (n, side(h), side(w), c), &Device::Cpu).unwrap(), places)
}

fn gradient(x: &Tensor, f: impl Fn(&Tensor) -> Tensor) -> (Tensor, Tensor) {
    let x = Var::from_tensor(x).unwrap();
    let y = f(&x);
    let r = random(y.shape(), 99).to_dtype(y.dtype()).unwrap();
    let grads = y.mul(&r).unwrap().sum_all().unwrap().backward().unwrap();
    (y.detach(), grads.get(&x).unwrap().clone())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Few different values, so that windows have ties; NaN now and then.
    #[test]
    fn values_and_gradients_are_those_of_the_formula(
        (n, h, w, c) in (1usize..=2, 1usize..=8, 1usize..=8, 1usize..=5),
        (kernel, stride, padding) in (1usize..=4, 1usize..=4, 0usize..=2),
        levels in prop::collection::vec(0usize..8, 2 * 8 * 8 * 5),
        nan in any::<bool>(),
    ) {
        prop_assume!(padding <= kernel / 2 && h.min(w) + 2 * padding >= kernel);
        let level = |l: &usize| if *l == 7 { if nan { f64::NAN } else { f64::NEG_INFINITY } } else { *l as f64 - 3.0 };
        let x: Vec<f64> = levels[..n * h * w * c].iter().map(level).collect();
        let x = Tensor::from_vec(x, (n, h, w, c), &Device::Cpu).unwrap();
        let (expected, places) = naive(&x, kernel, stride, padding);
        let r = values(&random(expected.shape(), 99));
        let mut dx = vec![0.0; x.elem_count()];
        for (place, r) in places.iter().zip(&r) {
            dx[*place] += r;
        }
        let dx = Tensor::from_vec(dx, x.shape(), x.device()).unwrap();
        let (y, got) = gradient(&x, |x| max_pool2d(x, kernel, stride, padding).unwrap());
        assert_close(&y, &expected, 0.0);
        assert_close(&got, &dx, 1e-12);
        if !nan {
            let g = Geometry {
                n, h, w, c, kernel, stride, padding, out_h: y.dims()[1], out_w: y.dims()[2],
            };
            let (y, got) = gradient(&x, |x| reference::max_pool2d(x, &g).unwrap());
            assert_close(&y, &expected, 0.0);
            assert_close(&got, &dx, 1e-12);
        }
    }
}

/// The sums of overlapping windows are rounded once.
#[test]
fn bf16_is_the_same_rounded() {
    let x = random((2, 9, 8, 5), 1).to_dtype(DType::BF16).unwrap();
    let wide = x.to_dtype(DType::F64).unwrap();
    for (kernel, stride, padding) in [(3, 2, 1), (3, 1, 1), (2, 2, 0)] {
        let y = max_pool2d(&x, kernel, stride, padding).unwrap();
        let (expected, places) = naive(&wide, kernel, stride, padding);
        assert_close(&y, &expected, 0.0);
        let x = Var::from_tensor(&x).unwrap();
        let y = max_pool2d(&x, kernel, stride, padding).unwrap();
        let dy = random(y.shape(), 99).to_dtype(DType::BF16).unwrap();
        let got = (&y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
        let mut dx = vec![0f32; x.elem_count()];
        places.iter().zip(values(&dy)).for_each(|(place, dy)| dx[*place] += dy as f32);
        let dx = Tensor::from_vec(dx, x.shape(), x.device()).unwrap().to_dtype(DType::BF16).unwrap();
        assert_close(got.get(&x).unwrap(), &dx, 0.0);
    }
}

#[test]
fn the_reference_shows_nan() {
    let x = Tensor::new(&[[1f32, f32::NAN], [f32::INFINITY, 0.0]], &Device::Cpu)
        .unwrap()
        .reshape((1, 2, 2, 1))
        .unwrap();
    let g = Geometry { n: 1, h: 2, w: 2, c: 1, out_h: 1, out_w: 1, kernel: 2, stride: 2, padding: 0 };
    assert!(values(&reference::max_pool2d(&x, &g).unwrap())[0].is_nan());
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let x = random((2, 7, 6, 3), 1);
    GradCheck::f64().check(&[x], |t| max_pool2d(&t[0], 3, 2, 1)).unwrap();
}

#[test]
fn views_and_threads_change_nothing() {
    let x = random_f32((5, 6, 17, 19), 1);
    let pool = |x: &Tensor| max_pool2d(&x.permute((0, 2, 3, 1)).unwrap(), 3, 2, 1).unwrap();
    let (expected, _) = naive(&x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap(), 3, 2, 1);
    assert_close(&pool(&x), &expected, 0.0);
    let one = with_threads(1, || gradient(&x, pool));
    let three = with_threads(3, || gradient(&x, pool));
    assert_same_bits(&one.0, &three.0);
    assert_same_bits(&one.1, &three.1);
}

#[test]
fn agrees_with_pytorch() {
    let g = golden("max_pool2d");
    for (name, kernel, stride, padding) in [("stem", 3, 2, 1), ("halves", 2, 2, 0), ("ties", 3, 1, 1)] {
        let t = |part: &str| g[&format!("{name}.{part}")].clone();
        let x = Var::from_tensor(&t("x")).unwrap();
        let y = max_pool2d(&x, kernel, stride, padding).unwrap();
        let grads = (&y * t("dy")).unwrap().sum_all().unwrap().backward().unwrap();
        assert_close(&y, &t("y"), 0.0);
        assert_close(grads.get(&x).unwrap(), &t("dx"), 1e-6);
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let x = random((1, 4, 4, 2), 1);
    let fails = |k, s, p| max_pool2d(&x, k, s, p).unwrap_err().to_string();
    assert!(fails(0, 1, 0).contains("kernel"));
    assert!(fails(2, 0, 0).contains("stride"));
    assert!(fails(3, 1, 2).contains("padding"));
    assert!(fails(5, 1, 0).contains("at least 5 pixels"));
    assert!(max_pool2d(&random((4, 4, 2), 1), 2, 2, 0).unwrap_err().to_string().contains("[n, h, w, c]"));
}
