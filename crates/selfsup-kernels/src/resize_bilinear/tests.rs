use super::*;
use crate::gradcheck::GradCheck;
use crate::testing::{assert_close, assert_same_bits, golden, random, random_f32, values, with_threads};
use candle_core::{Device, Var};
use proptest::prelude::*;

/// The module's formula in f64, with four pixels for each place: y, and x's gradient.
fn naive(x: &Tensor, out_h: usize, out_w: usize, align_corners: bool) -> [Tensor; 2] {
    let (n, h, w, c) = x.dims4().unwrap();
    let place = |i: usize, size: usize, out: usize| -> (usize, usize, f64) {
        let u = match align_corners {
            true if out == 1 => 0.0,
            true => i as f64 * ((size - 1) as f64 / (out - 1) as f64),
            false => ((i as f64 + 0.5) * (size as f64 / out as f64) - 0.5).max(0.0),
        };
        let k = (u.floor() as usize).min(size - 1);
        (k, (k + 1).min(size - 1), u - k as f64)
    };
    let data = values(x);
    let dy = values(&dy(&[n, out_h, out_w, c]));
    let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; data.len()]);
    for ni in 0..n {
        for i in 0..out_h {
            for j in 0..out_w {
                let (top, bottom, v) = place(i, h, out_h);
                let (left, right, u) = place(j, w, out_w);
                for ci in 0..c {
                    let to = ((ni * out_h + i) * out_w + j) * c + ci;
                    let corners = [
                        (top, left, (1.0 - v) * (1.0 - u)),
                        (top, right, (1.0 - v) * u),
                        (bottom, left, v * (1.0 - u)),
                        (bottom, right, v * u),
                    ];
                    for (row, column, weight) in corners {
                        let from = ((ni * h + row) * w + column) * c + ci;
                        y[to] += data[from] * weight;
                        dx[from] += dy[to] * weight;
                    }
                }
            }
        }
    }
    [
        Tensor::from_vec(y, (n, out_h, out_w, c), &Device::Cpu).unwrap(),
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

fn op(x: &Tensor, out_h: usize, out_w: usize, align_corners: bool) -> ResizeBilinear {
    let (n, h, w, c) = x.dims4().unwrap();
    let (rows, columns) = (Taps::new(h, out_h, align_corners), Taps::new(w, out_w, align_corners));
    ResizeBilinear { n, c, rows, columns }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn values_and_gradients_are_those_of_the_formula(
        (n, h, w, c) in (1usize..=2, 1usize..=9, 1usize..=9, 1usize..=5),
        (out_h, out_w) in (1usize..=20, 1usize..=20),
        align_corners in any::<bool>(),
    ) {
        let x = random((n, h, w, c), 7);
        let expected = naive(&x, out_h, out_w, align_corners);
        let got = run(&x, |x| resize_bilinear(x, out_h, out_w, align_corners).unwrap());
        let by_reference = run(&x, |x| reference(x, &op(x, out_h, out_w, align_corners)).unwrap());
        let narrow = x.to_dtype(DType::F32).unwrap();
        let got_narrow = run(&narrow, |x| resize_bilinear(x, out_h, out_w, align_corners).unwrap());
        for i in 0..2 {
            assert_close(&got[i], &expected[i], 1e-13);
            assert_close(&by_reference[i], &expected[i], 1e-13);
            // A pixel's gradient is a sum over up to 400 places.
            assert_close(&got_narrow[i], &expected[i], if i == 0 { 1e-6 } else { 1e-5 });
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for align_corners in [false, true] {
        let check = |out_h, out_w| {
            let x = random((2, 5, 4, 3), 1);
            GradCheck::f64().check(&[x], |t| resize_bilinear(&t[0], out_h, out_w, align_corners)).unwrap();
        };
        check(9, 7);
        check(2, 1);
    }
}

#[test]
fn the_same_size_is_the_same_image() {
    for align_corners in [false, true] {
        let x = random_f32((2, 7, 5, 6), 1);
        let [y, dx] = run(&x, |x| resize_bilinear(x, 7, 5, align_corners).unwrap());
        assert_same_bits(&y, &x);
        assert_same_bits(&dx, &dy(x.dims()).to_dtype(DType::F32).unwrap());
    }
}

#[test]
fn views_and_threads_change_nothing() {
    let x = random_f32((3, 6, 17, 19), 1);
    let resize = |x: &Tensor| resize_bilinear(&x.permute((0, 2, 3, 1)).unwrap(), 25, 12, false).unwrap();
    let [expected, _] = naive(&x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap(), 25, 12, false);
    assert_close(&resize(&x), &expected, 1e-6);
    let (one, three) = (with_threads(1, || run(&x, resize)), with_threads(3, || run(&x, resize)));
    one.iter().zip(&three).for_each(|(a, b)| assert_same_bits(a, b));
}

#[test]
fn narrow_numbers_are_mixed_in_f32() {
    let x = random((2, 5, 6, 3), 1).to_dtype(DType::BF16).unwrap();
    let y = resize_bilinear(&x, 8, 9, false).unwrap();
    assert_eq!(y.dtype(), DType::BF16);
    // One rounding to bf16's eight bits.
    assert_close(&y, &naive(&x, 8, 9, false)[0], 1.0 / 256.0);
}

#[test]
fn nan_reaches_what_sees_it_and_no_more() {
    let x = Tensor::new(&[0f32, f32::NAN, 1.0, 3.0], &Device::Cpu).unwrap().reshape((1, 1, 4, 1)).unwrap();
    let y = values(&resize_bilinear(&x, 1, 7, true).unwrap());
    let nan: Vec<bool> = y.iter().map(|y| y.is_nan()).collect();
    assert_eq!(nan, [false, true, true, true, false, false, false]);
}

#[test]
fn agrees_with_pytorch() {
    let g = golden("resize_bilinear");
    for (name, out_h, out_w, align_corners) in
        [("larger", 11, 9, false), ("smaller", 2, 3, false), ("corners", 11, 3, true), ("one", 1, 1, true)]
    {
        let t = |part: &str| g[&format!("{name}.{part}")].clone();
        let x = Var::from_tensor(&t("x")).unwrap();
        let y = resize_bilinear(&x, out_h, out_w, align_corners).unwrap();
        let grads = (&y * t("dy")).unwrap().sum_all().unwrap().backward().unwrap();
        // PyTorch works the places out in f32.
        assert_close(&y, &t("y"), 3e-6);
        assert_close(grads.get(&x).unwrap(), &t("dx"), 3e-6);
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let x = random((1, 4, 4, 2), 1);
    let fails = |x: &Tensor, h, w| resize_bilinear(x, h, w, false).unwrap_err().to_string();
    assert!(fails(&x, 0, 1).contains("out_h"));
    assert!(fails(&x, 1, 0).contains("out_w"));
    assert!(fails(&random((4, 4, 2), 1), 2, 2).contains("[n, h, w, c]"));
    assert!(fails(&random((1, 4, 0, 2), 1), 2, 2).contains("at least 1"));
    assert!(fails(&x.to_dtype(DType::U8).unwrap(), 2, 2).contains("U8"));
}
