use super::*;
use crate::gradcheck::GradCheck;
use crate::testing::{assert_close, assert_same_bits, golden, random, random_f32, values, with_threads};
use candle_core::{DType, Device, Var};
use proptest::prelude::*;

/// The module's formula, loop by loop.
fn naive(x: &Tensor, weight: &Tensor, config: Conv2dConfig) -> Tensor {
    let Conv2dConfig { stride: s, padding: p, dilation: d, groups } = config;
    let (n, h, w, c) = x.dims4().unwrap();
    let (kh, kw, group_c, k) = weight.dims4().unwrap();
    let side = |size: usize, kernel: usize| (size + 2 * p - d * (kernel - 1) - 1) / s + 1;
    let (out_h, out_w) = (side(h, kh), side(w, kw));
    let (x, weight) = (values(x), values(weight));
    let mut y = Vec::new();
    for ni in 0..n {
        for i in 0..out_h {
            for j in 0..out_w {
                for ki in 0..k {
                    let group = ki / (k / groups);
                    let mut sum = 0.0;
                    for a in 0..kh {
                        for b in 0..kw {
                            let row = (i * s + a * d) as isize - p as isize;
                            let column = (j * s + b * d) as isize - p as isize;
                            if row < 0 || column < 0 || row >= h as isize || column >= w as isize {
                                continue;
                            }
                            let pixel = (ni * h + row as usize) * w + column as usize;
                            for ci in 0..group_c {
                                sum += x[pixel * c + group * group_c + ci]
                                    * weight[((a * kw + b) * group_c + ci) * k + ki];
                            }
                        }
                    }
                    y.push(sum);
                }
            }
        }
    }
    Tensor::from_vec(y, (n, out_h, out_w, k), &Device::Cpu).unwrap()
}

/// A convolution that may be asked for: (x, weight, config).
fn case() -> impl Strategy<Value = ([usize; 4], [usize; 4], Conv2dConfig)> {
    let kernel = (1usize..=3, 1usize..=3);
    let channels = (1usize..=3, 1usize..=3, 1usize..=3); // groups, c/g, k/g
    let config = (1usize..=3, 0usize..=2, 1usize..=2);
    (1usize..=3, 1usize..=7, 1usize..=7, kernel, channels, config).prop_filter_map(
        "the kernel leaves the image",
        |(n, h, w, (kh, kw), (groups, group_c, group_k), (stride, padding, dilation))| {
            let fits = |size: usize, kernel: usize| size + 2 * padding > dilation * (kernel - 1);
            (fits(h, kh) && fits(w, kw)).then_some((
                [n, h, w, groups * group_c],
                [kh, kw, group_c, groups * group_k],
                Conv2dConfig { stride, padding, dilation, groups },
            ))
        },
    )
}

fn reference_conv2d(x: &Tensor, weight: &Tensor, config: Conv2dConfig) -> Result<Tensor> {
    reference::conv2d(x, weight, &Geometry::new(x, weight, config)?)
}

type Conv2dFn = fn(&Tensor, &Tensor, Conv2dConfig) -> Result<Tensor>;

/// y and the gradients of x and weight.
fn gradients(f: Conv2dFn, x: &Tensor, weight: &Tensor, config: Conv2dConfig) -> [Tensor; 3] {
    let (x, weight) = (Var::from_tensor(x).unwrap(), Var::from_tensor(weight).unwrap());
    let y = f(&x, &weight, config).unwrap();
    let r = random(y.shape(), 99).to_dtype(y.dtype()).unwrap();
    let grads = (&y * r).unwrap().sum_all().unwrap().backward().unwrap();
    [y.detach(), grads.get(&x).unwrap().clone(), grads.get(&weight).unwrap().clone()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn values_are_those_of_the_formula((x, weight, config) in case()) {
        let (x, weight) = (random(&x, 1), random(&weight, 2));
        let expected = naive(&x, &weight, config);
        assert_close(&conv2d(&x, &weight, config).unwrap(), &expected, 1e-12);
        let (x, weight) = (x.to_dtype(DType::F32).unwrap(), weight.to_dtype(DType::F32).unwrap());
        // 27 products of numbers below 1, each rounded to 24 bits.
        assert_close(&conv2d(&x, &weight, config).unwrap(), &expected, 5e-6);
        assert_close(&reference_conv2d(&x, &weight, config).unwrap(), &expected, 5e-6);
    }

    #[test]
    fn gradients_are_those_of_finite_differences((x, weight, config) in case()) {
        let (x, weight) = (random(&x, 3), random(&weight, 4));
        GradCheck::f64().check(&[x.clone(), weight.clone()], |t| conv2d(&t[0], &t[1], config)).unwrap();
        let got = gradients(conv2d, &x, &weight, config);
        for (got, expected) in got.iter().zip(gradients(reference_conv2d, &x, &weight, config)) {
            assert_close(got, &expected, 1e-12);
        }
    }
}

/// Sizes beyond one tile, one slab and one block of the weight's gradient, against candle in f64.
#[test]
fn many_tiles_agree_with_candle() {
    let cases = [
        ([5, 17, 19, 24], [3, 3, 24, 40], Conv2dConfig { padding: 1, ..Default::default() }),
        ([6, 32, 33, 3], [7, 7, 3, 16], Conv2dConfig { stride: 2, padding: 3, ..Default::default() }),
        // Several tiles in a slab.
        ([2, 16, 16, 128], [3, 3, 128, 8], Conv2dConfig { padding: 1, ..Default::default() }),
        ([3, 9, 9, 200], [3, 3, 200, 300], Conv2dConfig { stride: 2, padding: 1, ..Default::default() }),
        ([4, 20, 21, 64], [1, 1, 64, 48], Conv2dConfig::default()),
        ([4, 21, 20, 64], [1, 1, 64, 48], Conv2dConfig { stride: 2, ..Default::default() }),
        ([40, 9, 9, 32], [3, 3, 1, 32], Conv2dConfig { padding: 1, groups: 32, ..Default::default() }),
        (
            [3, 24, 24, 32],
            [3, 3, 8, 48],
            Conv2dConfig { padding: 2, dilation: 2, groups: 4, ..Default::default() },
        ),
    ];
    for (x, weight, config) in cases {
        let (x, weight) = (random(&x, 5), random(&weight, 6));
        let got = gradients(conv2d, &x, &weight, config);
        for (got, expected) in got.iter().zip(gradients(reference_conv2d, &x, &weight, config)) {
            assert_close(got, &expected, 1e-12);
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    for (shape, config) in [
        ([3, 3, 24, 40], Conv2dConfig { padding: 1, ..Default::default() }),
        ([3, 3, 24, 40], Conv2dConfig { stride: 2, padding: 1, ..Default::default() }),
        ([3, 3, 1, 24], Conv2dConfig { stride: 2, padding: 1, groups: 24, ..Default::default() }),
        ([1, 1, 24, 40], Conv2dConfig::default()),
    ] {
        let (x, weight) = (random_f32((9, 20, 21, 24), 7), random_f32(&shape, 8));
        let one = with_threads(1, || gradients(conv2d, &x, &weight, config));
        let three = with_threads(3, || gradients(conv2d, &x, &weight, config));
        for (a, b) in one.iter().zip(&three) {
            assert_same_bits(a, b);
        }
    }
}

#[test]
fn views_are_taken_as_they_are() {
    let config = Conv2dConfig { padding: 1, ..Default::default() };
    let nchw = random((2, 3, 5, 6), 1);
    let oihw = random((4, 3, 3, 3), 2);
    let (x, weight) = (nchw.permute((0, 2, 3, 1)).unwrap(), oihw.permute((2, 3, 1, 0)).unwrap());
    let expected = naive(&x.contiguous().unwrap(), &weight.contiguous().unwrap(), config);
    assert_close(&conv2d(&x, &weight, config).unwrap(), &expected, 1e-12);
    GradCheck::f64()
        .check(&[nchw, oihw], |t| {
            conv2d(&t[0].permute((0, 2, 3, 1)).unwrap(), &t[1].permute((2, 3, 1, 0)).unwrap(), config)
        })
        .unwrap();
    // A batch cut out of a larger one begins in the middle of its storage.
    let part = random((4, 5, 6, 3), 3).narrow(0, 1, 2).unwrap();
    let expected = naive(&part.contiguous().unwrap(), &weight.contiguous().unwrap(), config);
    assert_close(&conv2d(&part, &weight, config).unwrap(), &expected, 1e-12);
}

#[test]
fn images_get_no_gradient_and_weights_do() {
    let x = random((1, 4, 4, 3), 1);
    let weight = Var::from_tensor(&random((3, 3, 3, 2), 2)).unwrap();
    let y = conv2d(&x, &weight, Conv2dConfig::default()).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&x).is_none());
    assert!(grads.get(&weight).is_some());
}

#[test]
fn an_infinity_stays_where_its_windows_are() {
    let mut data = vec![1.0; 25];
    data[0] = f64::INFINITY;
    let x = Tensor::from_vec(data, (1, 5, 5, 1), &Device::Cpu).unwrap();
    let y =
        conv2d(&x, &Tensor::ones((2, 2, 1, 1), DType::F64, &Device::Cpu).unwrap(), Conv2dConfig::default());
    let y = values(&y.unwrap());
    assert_eq!(y[0], f64::INFINITY);
    assert!(y[1..].iter().all(|&v| v == 4.0));
}

#[test]
fn agrees_with_pytorch() {
    let g = golden("conv2d");
    for (name, stride, padding, dilation, groups) in [
        ("plain", 1, 1, 1, 1),
        ("strided", 2, 1, 1, 1),
        ("stem", 2, 3, 1, 1),
        ("dilated", 1, 2, 2, 2),
        ("depthwise", 2, 1, 1, 4),
    ] {
        let config = Conv2dConfig { stride, padding, dilation, groups };
        let t = |part: &str| g[&format!("{name}.{part}")].clone();
        let (x, weight) = (Var::from_tensor(&t("x")).unwrap(), Var::from_tensor(&t("weight")).unwrap());
        let y = conv2d(&x, &weight, config).unwrap();
        let grads = (&y * t("dy")).unwrap().sum_all().unwrap().backward().unwrap();
        // Both sides sum at most 300 f32 products, in different orders.
        assert_close(&y, &t("y"), 1e-5);
        assert_close(grads.get(&x).unwrap(), &t("dx"), 1e-5);
        assert_close(grads.get(&weight).unwrap(), &t("dweight"), 1e-5);
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let x = random((1, 4, 4, 6), 1);
    let fails = |x: &Tensor, weight: &[usize], config: Conv2dConfig| {
        conv2d(x, &random(weight, 2), config).unwrap_err().to_string()
    };
    let d = Conv2dConfig::default();
    assert!(fails(&x, &[3, 3, 5, 2], d).contains("[3, 3, 5, 2]"));
    assert!(fails(&x, &[3, 3, 6], d).contains("[kh, kw, c/g, k]"));
    assert!(fails(&x, &[5, 5, 6, 2], d).contains("within the image"));
    assert!(fails(&x, &[3, 3, 0, 2], d).contains("at least 1"));
    assert!(fails(&x, &[3, 3, 6, 2], Conv2dConfig { stride: 0, ..d }).contains("stride"));
    assert!(fails(&x, &[3, 3, 6, 2], Conv2dConfig { dilation: 0, ..d }).contains("dilation"));
    assert!(fails(&x, &[3, 3, 6, 2], Conv2dConfig { groups: 0, ..d }).contains("groups"));
    assert!(fails(&x, &[3, 3, 6, 2], Conv2dConfig { groups: 4, ..d }).contains("divisor"));
    assert!(
        fails(&x, &[3, 3, 6, 2], Conv2dConfig { dilation: usize::MAX, ..d }).contains("within the image")
    );
    assert!(fails(&x, &[3, 3, 6, 2], Conv2dConfig { padding: 1 << 40, ..d }).contains("padding"));
    assert!(fails(&random((4, 4, 6), 1), &[3, 3, 6, 2], d).contains("[n, h, w, c]"));
    let f32_weight = random_f32((3, 3, 6, 2), 2);
    assert!(conv2d(&x, &f32_weight, d).unwrap_err().to_string().contains("F32"));
    let bytes = x.to_dtype(DType::U8).unwrap();
    assert!(conv2d(&bytes, &bytes, d).unwrap_err().to_string().contains("U8"));
}
