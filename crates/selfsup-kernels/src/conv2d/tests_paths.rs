//! Each way of working a convolution out, under each instruction set, and what hangs on them: epilogue, transposed.

use super::cpu::{Finish, Path, backward_input, backward_weight, forward, path};
use super::geometry::Geometry;
use super::{Conv2dConfig, Epilogue, conv_transpose2d, conv2d, conv2d_with, reference};
use crate::Result;
use crate::element::Element;
use crate::gradcheck::GradCheck;
use crate::testing::{assert_close, assert_same_bits, random, random_f32, values, with_threads};
use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;
use pulp::Arch;

const PLAIN: Conv2dConfig = Conv2dConfig { stride: 1, padding: 1, dilation: 1, groups: 1 };

fn geometry(x: [usize; 4], weight: [usize; 4], config: Conv2dConfig) -> Geometry {
    let zeros = |shape: [usize; 4]| Tensor::zeros(&shape, DType::F32, &Device::Cpu).unwrap();
    Geometry::new(&zeros(x), &zeros(weight), config).unwrap()
}

#[test]
fn the_fast_paths_are_taken() {
    let of = |x, weight, config| path(&geometry(x, weight, config));
    for (c, side) in [(64, 32), (128, 16), (256, 8), (512, 4), (16, 14), (64, 56), (512, 7)] {
        assert_eq!(of([2, side, side, c], [3, 3, c, c], PLAIN), Path::Winograd, "{c} channels of {side}");
    }
    // Few channels, another kernel, stride, dilation or groups; an image that is all border.
    assert_eq!(of([2, 32, 32, 3], [3, 3, 3, 64], PLAIN), Path::Direct);
    assert_eq!(of([2, 32, 32, 64], [1, 1, 64, 64], Conv2dConfig::default()), Path::Direct);
    assert_eq!(of([2, 32, 32, 64], [3, 3, 64, 64], Conv2dConfig { stride: 2, ..PLAIN }), Path::Direct);
    assert_eq!(of([2, 32, 32, 64], [3, 3, 64, 64], Conv2dConfig { dilation: 2, ..PLAIN }), Path::Direct);
    assert_eq!(of([2, 32, 32, 64], [3, 3, 32, 64], Conv2dConfig { groups: 2, ..PLAIN }), Path::Direct);
    // Few pixels of y, and of x alone.
    assert_eq!(of([2, 1, 1, 64], [3, 3, 64, 64], PLAIN), Path::FewPixels);
    assert_eq!(of([2, 5, 5, 64], [3, 3, 64, 64], Conv2dConfig { stride: 4, ..PLAIN }), Path::FewPixels);
    let padded = Conv2dConfig { padding: 2, ..PLAIN };
    assert_eq!(of([2, 2, 2, 64], [1, 1, 64, 64], padded), Path::FewPixels);
    assert_eq!(of([9, 1, 1, 64], [3, 3, 64, 64], PLAIN), Path::Direct);
    assert_eq!(of([2, 32, 32, 64], [3, 3, 1, 64], Conv2dConfig { groups: 64, ..PLAIN }), Path::Depthwise);
    // The convolution of a CPU tensor is ours, not candle's: the same bits.
    let g = geometry([2, 8, 8, 17], [3, 3, 17, 33], PLAIN);
    let tensors =
        [random_f32((2, 8, 8, 17), 1), random_f32((3, 3, 17, 33), 2), random_f32(g.output_shape(), 3)];
    let [y, ..] = run::<f32>(Arch::new(), path(&g), &g, tensors.each_ref());
    assert_same_bits(&conv2d(&tensors[0], &tensors[1], PLAIN).unwrap(), &y);
    let other = reference::conv2d(&tensors[0], &tensors[1], &g).unwrap();
    assert!(values(&y) != values(&other), "the two cannot be told apart");
}

/// The instruction sets that this processor has, the portable one last.
fn instruction_sets() -> Vec<(&'static str, Arch)> {
    let mut sets = vec![];
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        sets.extend(pulp::x86::V4::try_new().map(|v| ("AVX-512", Arch::V4(v))));
        sets.extend(pulp::x86::V3::try_new().map(|v| ("AVX2 and FMA", Arch::V3(v))));
    }
    #[cfg(target_arch = "aarch64")]
    sets.extend(pulp::aarch64::Neon::try_new().map(|v| ("NEON", Arch::Neon(v))));
    sets.push(("portable", Arch::Scalar));
    sets
}

/// y, dx and dweight by one path of one instruction set.
fn run<T: Element>(arch: Arch, path: Path, g: &Geometry, [x, weight, dy]: [&Tensor; 3]) -> [Tensor; 3] {
    let data = |t: &Tensor| -> Vec<T> { values(t).into_iter().map(T::from_f64).collect() };
    let (xs, weights, dys) = (data(x), data(weight), data(dy));
    let tensor = |data: Vec<T>, like: &Tensor| Tensor::from_vec(data, like.shape(), &Device::Cpu).unwrap();
    [
        tensor(forward(arch, path, g, &xs, &weights, None, Finish::default()), dy),
        tensor(backward_input(arch, path, g, &dys, &weights), x),
        tensor(backward_weight(arch, path, g, &xs, &dys), weight),
    ]
}

/// The same by candle, in f64.
fn expected(g: &Geometry, [x, weight, dy]: [&Tensor; 3]) -> [Tensor; 3] {
    let (x, weight) = (Var::from_tensor(x).unwrap(), Var::from_tensor(weight).unwrap());
    let y = reference::conv2d(&x, &weight, g).unwrap();
    let grads = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    [y.detach(), grads.get(&x).unwrap().clone(), grads.get(&weight).unwrap().clone()]
}

#[test]
fn every_instruction_set_agrees() {
    let config = |stride, padding, dilation, groups| Conv2dConfig { stride, padding, dilation, groups };
    // Columns that fill one to four vectors and parts of them, batches that fill a block's rows and do not.
    let cases = [
        ([13, 6, 7, 15], [3, 3, 15, 64], config(1, 1, 1, 1)),
        ([2, 9, 8, 17], [3, 3, 17, 31], config(2, 1, 1, 1)),
        ([1, 5, 5, 40], [1, 1, 40, 129], config(1, 0, 1, 1)),
        ([14, 4, 4, 3], [3, 3, 3, 40], config(1, 1, 1, 1)),
        ([1, 16, 15, 3], [7, 7, 3, 10], config(2, 3, 1, 1)),
        ([2, 11, 12, 8], [5, 3, 4, 6], config(3, 2, 2, 2)),
        ([3, 9, 9, 6], [2, 2, 6, 100], config(4, 1, 1, 1)),
        // Few pixels: of y, of x.
        ([1, 1, 1, 50], [1, 1, 50, 70], config(1, 0, 1, 1)),
        ([2, 5, 5, 12], [3, 3, 6, 34], config(4, 1, 1, 2)),
        ([2, 2, 2, 12], [3, 3, 6, 34], config(1, 2, 1, 2)),
        // Groups that fill half a vector, all together a whole one.
        ([2, 5, 5, 4], [3, 3, 2, 16], config(1, 1, 1, 2)),
        ([2, 5, 5, 4], [1, 1, 1, 8], config(1, 0, 1, 4)),
        // Channel by channel.
        ([3, 9, 8, 70], [3, 3, 1, 70], config(1, 1, 1, 70)),
        ([2, 9, 8, 5], [2, 3, 1, 5], config(2, 2, 2, 5)),
        ([2, 5, 9, 117], [3, 3, 1, 117], config(1, 1, 1, 117)),
    ];
    for (name, arch) in instruction_sets() {
        println!("{name}");
        for (x, weight, config) in cases {
            let g = geometry(x, weight, config);
            let tensors = [random(&x, 1), random(&weight, 2), random(g.output_shape(), 3)];
            let tensors = tensors.each_ref();
            let expected = expected(&g, tensors);
            let path = path(&g);
            for (got, expected) in run::<f64>(arch, path, &g, tensors).iter().zip(&expected) {
                assert_close(got, expected, 1e-12);
            }
            for (got, expected) in run::<f32>(arch, path, &g, tensors).iter().zip(&expected) {
                // Sums of up to 3,000 products below 1 in f32.
                assert_close(got, expected, 3e-5);
            }
        }
        let (x, weight) = ([3, 7, 6, 17], [3, 3, 17, 70]);
        let g = geometry(x, weight, PLAIN);
        let tensors = [random(&x, 1), random(&weight, 2), random(g.output_shape(), 3)];
        for (got, expected) in run::<f64>(arch, Path::Winograd, &g, tensors.each_ref())
            .iter()
            .zip(expected(&g, tensors.each_ref()))
        {
            assert_close(got, &expected, 1e-12);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn winograd_is_the_plain_sum(
        (n, h, w, padding) in (1usize..=3, 1usize..=9, 1usize..=9, 0usize..=2),
        (c, k) in (1usize..=20, 1usize..=20),
    ) {
        prop_assume!(h + 2 * padding >= 3 && w + 2 * padding >= 3);
        let g = geometry([n, h, w, c], [3, 3, c, k], Conv2dConfig { padding, ..PLAIN });
        let tensors = [random((n, h, w, c), 1), random((3, 3, c, k), 2), random(g.output_shape(), 3)];
        let expected = expected(&g, tensors.each_ref());
        let got = run::<f64>(Arch::new(), Path::Winograd, &g, tensors.each_ref());
        for (got, expected) in got.iter().zip(&expected) {
            assert_close(got, expected, 1e-12);
        }
    }

    #[test]
    fn epilogues_are_what_they_say(
        (c, k, groups) in prop_oneof![Just((3, 5, 1)), Just((16, 18, 1)), Just((4, 4, 4)), Just((4, 6, 2))],
        (bias, residual, relu) in (any::<bool>(), any::<bool>(), any::<bool>()),
    ) {
        let config = Conv2dConfig { groups, ..PLAIN };
        let inputs = [
            random((2, 5, 4, c), 1),
            random((3, 3, c / groups, k), 2),
            random(k, 3),
            random((2, 5, 4, k), 4),
        ];
        let run = |t: &[Tensor], plain: bool| -> Result<Tensor> {
            let epilogue = Epilogue { bias: bias.then_some(&t[2]), residual: residual.then_some(&t[3]), relu };
            if plain {
                epilogue.apply(&reference::conv2d(&t[0], &t[1], &Geometry::new(&t[0], &t[1], config)?)?)
            } else {
                conv2d_with(&t[0], &t[1], epilogue, config)
            }
        };
        let gradients = |plain: bool| {
            let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
            let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
            let y = run(&tensors, plain).unwrap();
            let grads = (&y * random(y.shape(), 9)).unwrap().sum_all().unwrap().backward().unwrap();
            let used = [true, true, bias, residual];
            let used = vars.iter().zip(used).filter(|(_, used)| *used);
            let grads: Vec<Tensor> = used.map(|(v, _)| grads.get(v).unwrap().clone()).collect();
            (y.detach(), grads)
        };
        let ((got, got_grads), (expected, expected_grads)) = (gradients(false), gradients(true));
        assert_close(&got, &expected, 1e-12);
        assert_eq!(got_grads.len(), 2 + usize::from(bias) + usize::from(residual));
        for (got, expected) in got_grads.iter().zip(&expected_grads) {
            assert_close(got, expected, 1e-12);
        }
    }

    #[test]
    fn transposed_values_are_those_of_the_formula(
        (n, h, w, kh, kw) in (1usize..=2, 1usize..=5, 1usize..=5, 1usize..=4, 1usize..=4),
        (groups, group_c, group_k) in (1usize..=2, 1usize..=3, 1usize..=3),
        (stride, padding, dilation, more) in (1usize..=3, 0usize..=2, 1usize..=2, 0usize..=2),
    ) {
        let output_padding = more % stride;
        let size = |size: usize, kernel: usize| {
            ((size - 1) * stride + dilation * (kernel - 1) + output_padding + 1).checked_sub(2 * padding)
        };
        prop_assume!(size(h, kh) > Some(0) && size(w, kw) > Some(0));
        let config = Conv2dConfig { stride, padding, dilation, groups };
        let (x, weight) = (random((n, h, w, groups * group_c), 1), random((kh, kw, group_k, groups * group_c), 2));
        let expected = scattered(&x, &weight, output_padding, config);
        assert_close(&conv_transpose2d(&x, &weight, output_padding, config).unwrap(), &expected, 1e-12);
        let g = Geometry::of_transposed(&x, &weight, output_padding, config).unwrap();
        assert_close(&reference::conv_transpose2d(&x, &weight, &g).unwrap(), &expected, 1e-12);
        GradCheck::f64()
            .check(&[x, weight], |t| conv_transpose2d(&t[0], &t[1], output_padding, config))
            .unwrap();
    }
}

/// The transposed convolution as its formula says, adding.
fn scattered(x: &Tensor, weight: &Tensor, output_padding: usize, config: Conv2dConfig) -> Tensor {
    let Conv2dConfig { stride, padding, dilation, groups } = config;
    let ((n, h, w, c), (kh, kw, group_k, _)) = (x.dims4().unwrap(), weight.dims4().unwrap());
    let out_h = (h - 1) * stride + dilation * (kh - 1) + output_padding + 1 - 2 * padding;
    let out_w = (w - 1) * stride + dilation * (kw - 1) + output_padding + 1 - 2 * padding;
    let (k, group_c) = (groups * group_k, c / groups);
    let (x, weight) = (values(x), values(weight));
    let mut y = vec![0.0; n * out_h * out_w * k];
    for (at, value) in x.iter().enumerate() {
        let (ci, j, i, image) = (at % c, at / c % w, at / (c * w) % h, at / (c * w * h));
        for a in 0..kh {
            for b in 0..kw {
                let (row, column) = (i * stride + a * dilation, j * stride + b * dilation);
                if row < padding || column < padding || row - padding >= out_h || column - padding >= out_w {
                    continue;
                }
                for ko in 0..group_k {
                    let to = (image * out_h + row - padding) * out_w + column - padding;
                    y[to * k + ci / group_c * group_k + ko] +=
                        value * weight[((a * kw + b) * group_k + ko) * c + ci];
                }
            }
        }
    }
    Tensor::from_vec(y, (n, out_h, out_w, k), &Device::Cpu).unwrap()
}

/// The bound that the documentation gives.
#[test]
fn winograd_rounds_little_more_than_the_plain_sum() {
    let g = geometry([2, 8, 8, 256], [3, 3, 256, 64], PLAIN);
    // f32 numbers, so that all sides see the same.
    let round = |t: Tensor| t.to_dtype(DType::F32).unwrap().to_dtype(DType::F64).unwrap();
    let tensors =
        [random((2, 8, 8, 256), 1), random((3, 3, 256, 64), 2), random(g.output_shape(), 3)].map(round);
    let exact = run::<f64>(Arch::new(), Path::Direct, &g, tensors.each_ref());
    let worst = |path| {
        run::<f32>(Arch::new(), path, &g, tensors.each_ref())
            .iter()
            .zip(&exact)
            .map(|(got, exact)| {
                let pairs = values(got).into_iter().zip(values(exact));
                let (error, size) =
                    pairs.fold((0.0, 0.0), |(e, s), (g, x)| (e + (g - x) * (g - x), s + x * x));
                f64::sqrt(error / size)
            })
            .collect::<Vec<_>>()
    };
    for (winograd, direct) in worst(Path::Winograd).into_iter().zip(worst(Path::Direct)) {
        assert!(winograd < 3.0 * direct, "{winograd:e} against {direct:e}");
        assert!(direct < 1e-5);
    }
}

#[test]
fn bits_do_not_depend_on_threads_for_any_path() {
    for (x, weight, config) in [
        ([9, 20, 21, 24], [3, 3, 24, 40], PLAIN),
        ([2, 30, 31, 16], [3, 3, 16, 130], PLAIN),
        ([9, 20, 21, 24], [3, 3, 24, 40], Conv2dConfig { stride: 2, ..PLAIN }),
        ([30, 20, 21, 3], [3, 3, 3, 40], PLAIN),
        ([1, 20, 21, 24], [1, 1, 24, 140], Conv2dConfig::default()),
        ([1, 2, 2, 100], [3, 3, 100, 140], PLAIN),
        ([9, 20, 21, 70], [3, 3, 1, 70], Conv2dConfig { groups: 70, ..PLAIN }),
    ] {
        let g = geometry(x, weight, config);
        let tensors = [random(&x, 1), random(&weight, 2), random(g.output_shape(), 3)];
        let run = || run::<f32>(Arch::new(), path(&g), &g, tensors.each_ref());
        let (one, three) = (with_threads(1, run), with_threads(3, run));
        for (a, b) in one.iter().zip(&three) {
            assert_same_bits(a, b);
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (x, weight) = (random((1, 4, 4, 6), 1), random((3, 3, 6, 2), 2));
    let with = |bias: Option<&Tensor>, residual: Option<&Tensor>| {
        conv2d_with(&x, &weight, Epilogue { bias, residual, relu: false }, PLAIN).unwrap_err().to_string()
    };
    assert!(with(Some(&random(3, 1)), None).contains("bias of [2]"));
    assert!(with(Some(&random_f32(2, 1)), None).contains("F32"));
    assert!(with(None, Some(&random((1, 4, 4, 3), 1))).contains("[1, 4, 4, 2]"));
    let fails = |weight: &[usize], output_padding, config| {
        conv_transpose2d(&x, &random(weight, 1), output_padding, config).unwrap_err().to_string()
    };
    assert!(fails(&[3, 3, 2, 5], 0, PLAIN).contains("[kh, kw, k/g, c]"));
    assert!(fails(&[3, 3, 2, 6], 1, PLAIN).contains("below the stride"));
    assert!(fails(&[3, 3, 2, 6], 0, Conv2dConfig { padding: 3, ..PLAIN }).contains("leave pixels"));
    assert!(fails(&[3, 3, 2, 6], 0, Conv2dConfig { groups: 4, ..PLAIN }).contains("divisor"));
    assert!(fails(&[3, 3, 2, 6], 0, Conv2dConfig { stride: 0, ..PLAIN }).contains("stride"));
    assert!(fails(&[3, 3, 2, 6], 0, Conv2dConfig { stride: 1 << 40, ..PLAIN }).contains("fit in memory"));
}
