use super::*;
use crate::gradcheck::GradCheck;
use crate::testing::{assert_close, assert_same_bits, golden, random, random_f32, values, with_threads};
use candle_core::{Device, Var};
use proptest::prelude::*;

/// The module's formula in f64, place by place: y, and x's gradient for a given dy.
fn naive(x: &Tensor, dy: impl Fn(&[usize]) -> Tensor, config: AvgPool2dConfig) -> [Tensor; 2] {
    let AvgPool2dConfig { kernel, stride, padding, count_include_pad } = config;
    let (n, h, w, c) = x.dims4().unwrap();
    let side = |size: usize| (size + 2 * padding - kernel) / stride + 1;
    let shape = [n, side(h), side(w), c];
    let (data, dy) = (values(x), values(&dy(&shape)));
    let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; data.len()]);
    for (at, y) in y.iter_mut().enumerate() {
        let (ci, j, i) = (at % c, at / c % shape[2], at / c / shape[2] % shape[1]);
        let ni = at / c / shape[2] / shape[1];
        let mut places = Vec::new();
        for a in 0..kernel {
            for b in 0..kernel {
                let (row, column) = (i * stride + a, j * stride + b);
                let inside = |at: usize, size: usize| at >= padding && at < size + padding;
                if inside(row, h) && inside(column, w) {
                    places.push(((ni * h + row - padding) * w + column - padding) * c + ci);
                }
            }
        }
        let m = if count_include_pad { kernel * kernel } else { places.len() } as f64;
        *y = places.iter().map(|p| data[*p]).sum::<f64>() / m;
        places.iter().for_each(|p| dx[*p] += dy[at] / m);
    }
    [
        Tensor::from_vec(y, &shape, &Device::Cpu).unwrap(),
        Tensor::from_vec(dx, x.shape(), &Device::Cpu).unwrap(),
    ]
}

fn dy(shape: &[usize]) -> Tensor {
    random(shape, 99)
}

fn run(x: &Tensor, f: impl Fn(&Tensor) -> Tensor) -> [Tensor; 2] {
    let x = Var::from_tensor(x).unwrap();
    let y = f(&x);
    let dy = dy(y.dims()).to_dtype(y.dtype()).unwrap();
    let mut grads = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    [y.detach(), grads.remove(&x).unwrap()]
}

fn geometry(x: &Tensor, y: &Tensor, config: AvgPool2dConfig) -> Geometry {
    let (n, h, w, c) = x.dims4().unwrap();
    Geometry { n, h, w, c, out_h: y.dims()[1], out_w: y.dims()[2], config }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn values_and_gradients_are_those_of_the_formula(
        (n, h, w, c) in (1usize..=2, 1usize..=8, 1usize..=8, 1usize..=5),
        (kernel, stride, padding) in (1usize..=5, 1usize..=6, 0usize..=2),
        count_include_pad in any::<bool>(),
    ) {
        prop_assume!(padding <= kernel / 2 && h.min(w) + 2 * padding >= kernel);
        let config = AvgPool2dConfig { kernel, stride, padding, count_include_pad };
        let x = random((n, h, w, c), 7);
        let expected = naive(&x, dy, config);
        let got = run(&x, |x| avg_pool2d(x, config).unwrap());
        let g = geometry(&x, &expected[0], config);
        let by_reference = run(&x, |x| reference(x, &g).unwrap());
        let narrow = x.to_dtype(DType::F32).unwrap();
        let got_narrow = run(&narrow, |x| avg_pool2d(x, config).unwrap());
        let expected_narrow = naive(&narrow, |s| dy(s).to_dtype(DType::F32).unwrap(), config);
        for i in 0..2 {
            assert_close(&got[i], &expected[i], 1e-14);
            assert_close(&by_reference[i], &expected[i], 1e-14);
            assert_close(&got_narrow[i], &expected_narrow[i], 1e-6);
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for count_include_pad in [true, false] {
        let config = AvgPool2dConfig { kernel: 3, stride: 2, padding: 1, count_include_pad };
        GradCheck::f64().check(&[random((2, 5, 6, 3), 1)], |t| avg_pool2d(&t[0], config)).unwrap();
    }
}

#[test]
fn views_and_threads_change_nothing() {
    let config = AvgPool2dConfig { kernel: 3, stride: 1, padding: 1, count_include_pad: false };
    let x = random_f32((5, 6, 17, 19), 1);
    let pool = |x: &Tensor| avg_pool2d(&x.permute((0, 2, 3, 1)).unwrap(), config).unwrap();
    let [expected, _] = naive(&x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap(), dy, config);
    assert_close(&pool(&x), &expected, 1e-6);
    let (one, three) = (with_threads(1, || run(&x, pool)), with_threads(3, || run(&x, pool)));
    one.iter().zip(&three).for_each(|(a, b)| assert_same_bits(a, b));
}

#[test]
fn narrow_numbers_are_summed_in_f32() {
    let config = AvgPool2dConfig { kernel: 5, stride: 2, padding: 2, count_include_pad: true };
    let x = random((2, 9, 9, 3), 1).to_dtype(DType::BF16).unwrap();
    let y = avg_pool2d(&x, config).unwrap();
    assert_eq!(y.dtype(), DType::BF16);
    // One rounding to bf16's eight bits.
    assert_close(&y, &naive(&x, dy, config)[0], 1.0 / 256.0);
}

#[test]
fn nan_and_infinity_stay_in_their_windows() {
    let x = Tensor::new(&[f32::NAN, 1.0, 3.0, f32::INFINITY], &Device::Cpu).unwrap();
    let x = x.reshape((1, 1, 4, 1)).unwrap().repeat((1, 2, 1, 1)).unwrap();
    let y = values(&avg_pool2d(&x, AvgPool2dConfig { stride: 1, ..AvgPool2dConfig::new(2) }).unwrap());
    assert!(y[0].is_nan() && y[1] == 2.0 && y[2] == f64::INFINITY);
}

#[test]
fn agrees_with_pytorch() {
    let g = golden("avg_pool2d");
    for (name, kernel, stride, padding, count_include_pad) in
        [("halves", 2, 2, 0, true), ("padded", 3, 2, 1, true), ("inside", 3, 1, 1, false)]
    {
        let t = |part: &str| g[&format!("{name}.{part}")].clone();
        let x = Var::from_tensor(&t("x")).unwrap();
        let config = AvgPool2dConfig { kernel, stride, padding, count_include_pad };
        let y = avg_pool2d(&x, config).unwrap();
        let grads = (&y * t("dy")).unwrap().sum_all().unwrap().backward().unwrap();
        assert_close(&y, &t("y"), 1e-6);
        assert_close(grads.get(&x).unwrap(), &t("dx"), 1e-6);
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let x = random((1, 4, 4, 2), 1);
    let fails = |kernel, stride, padding| {
        let config = AvgPool2dConfig { kernel, stride, padding, count_include_pad: true };
        avg_pool2d(&x, config).unwrap_err().to_string()
    };
    assert!(fails(0, 1, 0).contains("kernel"));
    assert!(fails(2, 0, 0).contains("stride"));
    assert!(fails(3, 1, 2).contains("padding"));
    assert!(fails(5, 1, 0).contains("at least 5 pixels"));
    let config = AvgPool2dConfig::new(2);
    assert!(avg_pool2d(&random((4, 4, 2), 1), config).unwrap_err().to_string().contains("[n, h, w, c]"));
    let integers = x.to_dtype(DType::U8).unwrap();
    assert!(avg_pool2d(&integers, config).unwrap_err().to_string().contains("U8"));
}
