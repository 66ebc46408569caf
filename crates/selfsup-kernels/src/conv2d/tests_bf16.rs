//! bf16 loses nothing but the rounding of its results, by each way of working it out.

use super::bfloat::{Path, Processor, backward_input, backward_weight, forward, path};
use super::cpu::Finish;
use super::geometry::Geometry;
use super::{Conv2dConfig, Epilogue, conv_transpose2d, conv2d, conv2d_with, reference};
use crate::testing::{assert_same_bits, random, values, with_threads};
use candle_core::{DType, Device, Tensor, Var};
use half::bf16;
use proptest::prelude::*;

const PLAIN: Conv2dConfig = Conv2dConfig { stride: 1, padding: 1, dilation: 1, groups: 1 };

/// Numbers that bf16 holds, in f64.
fn random_bf16(shape: &[usize], seed: u64) -> Tensor {
    narrow(&random(shape, seed)).to_dtype(DType::F64).unwrap()
}

fn narrow(t: &Tensor) -> Tensor {
    t.to_dtype(DType::BF16).unwrap()
}

fn geometry(x: [usize; 4], weight: [usize; 4], config: Conv2dConfig) -> Geometry {
    let zeros = |shape: [usize; 4]| Tensor::zeros(&shape, DType::BF16, &Device::Cpu).unwrap();
    Geometry::new(&zeros(x), &zeros(weight), config).unwrap()
}

/// The ways that this processor has; the first one is of processors with AVX512-BF16, the other of all.
fn paths() -> Vec<Path> {
    Processor::detect().map(Path::Pairs).into_iter().chain([Path::Widened]).collect()
}

fn tensor(data: Vec<bf16>, like: &Tensor) -> Tensor {
    Tensor::from_vec(data, like.shape(), &Device::Cpu).unwrap()
}

/// y, dx and dweight by one path.
fn run(path: Path, g: &Geometry, tensors: [&Tensor; 3]) -> [Tensor; 3] {
    let data = |t: &Tensor| -> Vec<bf16> { narrow(t).flatten_all().unwrap().to_vec1().unwrap() };
    let [x, weight, dy] = tensors.map(data);
    [
        tensor(forward(path, g, &x, &weight, Finish::default()), tensors[2]),
        tensor(backward_input(path, g, &dy, &weight), tensors[0]),
        tensor(crate::stored::narrowed(&backward_weight(path, g, &x, &dy)), tensors[1]),
    ]
}

/// The same by candle in f64, of an epilogue with bias and residual too, whose gradients follow.
fn exact(g: &Geometry, [x, weight, dy]: [&Tensor; 3], more: [Option<&Tensor>; 2], relu: bool) -> Vec<Tensor> {
    let var = |t: &Tensor| Var::from_tensor(t).unwrap();
    let (x, weight, [bias, residual]) = (var(x), var(weight), more.map(|t| t.map(var)));
    let epilogue = Epilogue { bias: bias.as_deref(), residual: residual.as_deref(), relu };
    let y = epilogue.apply(&reference::conv2d(&x, &weight, g).unwrap()).unwrap();
    let grads = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    let leaves = [Some(x), Some(weight), bias, residual].into_iter().flatten();
    [y.detach()].into_iter().chain(leaves.map(|v| grads.get(&v).unwrap().clone())).collect()
}

/// Products, and what an epilogue adds, that a number of y, dx, dweight, dbias and dresidual is the sum of.
fn terms(g: &Geometry) -> [usize; 5] {
    let pixels = g.n * g.out_h * g.out_w;
    [g.taps() * g.group_c() + 2, g.taps() * g.group_k(), pixels, pixels, 1]
}

/// |got − exact| ≤ half a unit of bf16's last place + u/(1 − u) · Σ|terms|, where u = n·2⁻²⁴: as much as n
/// roundings to f32 can make up, or three times as much by Winograd's way.
#[track_caller]
fn assert_rounded_once(got: &Tensor, exact: &Tensor, sizes: &Tensor, n: usize, winograd: bool) {
    assert_eq!((got.dtype(), got.dims()), (DType::BF16, exact.dims()));
    let unit = n as f64 * 0.5f64.powi(24);
    let share = unit / (1.0 - unit) * if winograd { 3.0 } else { 1.0 };
    for (i, ((got, exact), size)) in values(got).into_iter().zip(values(exact)).zip(values(sizes)).enumerate()
    {
        let noise = share * size;
        // Eight bits of significand: half a unit is 2⁻⁸ of the power of two below.
        let half = 2f64.powi((exact.abs() + noise).max(1e-30).log2().floor() as i32 - 8);
        let error = (got - exact).abs();
        assert!(error <= half + noise, "number {i}: got {got}, expected {exact} ± {half:e} ± {noise:e}");
    }
}

/// Holds y and both gradients of each path against f64.
fn check(x: [usize; 4], weight: [usize; 4], config: Conv2dConfig) {
    let g = geometry(x, weight, config);
    let dy = g.output_shape();
    let tensors = [random_bf16(&x, 1), random_bf16(&weight, 2), random_bf16(dy.dims(), 3)];
    let sizes = tensors.each_ref().map(|t| t.abs().unwrap());
    let expected = exact(&g, tensors.each_ref(), [None; 2], false);
    let sizes = exact(&g, sizes.each_ref(), [None; 2], false);
    for path in paths() {
        let winograd = path == Path::Widened && super::winograd::applies(&g);
        let got = run(path, &g, tensors.each_ref());
        for (i, (got, n)) in got.iter().zip(terms(&g)).enumerate() {
            assert_rounded_once(got, &expected[i], &sizes[i], n, winograd);
        }
    }
}

#[test]
fn results_are_rounded_once() {
    let config = |stride, padding, dilation, groups| Conv2dConfig { stride, padding, dilation, groups };
    for (x, weight, config) in [
        // Columns that fill one to four vectors and parts of them, odd depths, odd batches, batches that fill
        // a block's rows and do not.
        ([13, 6, 7, 15], [3, 3, 15, 64], config(1, 1, 1, 1)),
        ([2, 9, 8, 17], [3, 3, 17, 31], config(2, 1, 1, 1)),
        ([1, 5, 5, 40], [1, 1, 40, 129], config(1, 0, 1, 1)),
        ([14, 4, 4, 3], [3, 3, 3, 40], config(1, 1, 1, 1)),
        ([1, 16, 15, 3], [7, 7, 3, 10], config(2, 3, 1, 1)),
        ([2, 11, 12, 8], [5, 3, 4, 6], config(3, 2, 2, 2)),
        ([3, 9, 9, 6], [2, 2, 6, 100], config(4, 1, 1, 1)),
        // One pixel, few, all border.
        ([1, 1, 1, 50], [1, 1, 50, 70], config(1, 0, 1, 1)),
        ([3, 1, 1, 20], [3, 3, 20, 21], config(1, 1, 1, 1)),
        ([2, 5, 5, 12], [3, 3, 6, 34], config(4, 1, 1, 2)),
        ([2, 2, 2, 12], [3, 3, 6, 34], config(1, 2, 1, 2)),
        // Channel by channel.
        ([3, 9, 8, 70], [3, 3, 1, 70], config(1, 1, 1, 70)),
        ([2, 9, 8, 5], [2, 3, 1, 5], config(2, 2, 2, 5)),
        // More than a task, a slab, a part of the batch, a block of pixels.
        ([5, 17, 19, 24], [3, 3, 24, 40], config(1, 1, 1, 1)),
        ([2, 60, 56, 64], [3, 3, 64, 20], config(1, 1, 1, 1)),
        ([3, 9, 9, 200], [3, 3, 200, 300], config(2, 1, 1, 1)),
        ([4, 21, 20, 64], [1, 1, 64, 48], config(2, 0, 1, 1)),
        ([3, 24, 24, 66], [3, 3, 33, 34], config(1, 2, 2, 2)),
    ] {
        check(x, weight, config);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn results_are_rounded_once_whatever_the_sizes(
        (n, h, w, kh, kw) in (1usize..=5, 1usize..=7, 1usize..=7, 1usize..=3, 1usize..=3),
        (groups, group_c, group_k) in (1usize..=2, 1usize..=19, 1usize..=19),
        (stride, padding, dilation) in (1usize..=3, 0usize..=2, 1usize..=2),
    ) {
        let fits = |size: usize, kernel: usize| size + 2 * padding > dilation * (kernel - 1);
        prop_assume!(fits(h, kh) && fits(w, kw));
        let config = Conv2dConfig { stride, padding, dilation, groups };
        check([n, h, w, groups * group_c], [kh, kw, group_c, groups * group_k], config);
    }

    #[test]
    fn epilogues_are_added_before_the_rounding(
        (n, c, k, groups) in prop_oneof![
            Just((2, 3, 5, 1)), Just((3, 17, 19, 1)), Just((2, 32, 70, 2)),
            Just((2, 4, 4, 4)), Just((1, 18, 33, 1)),
        ],
        (bias, residual, relu) in (any::<bool>(), any::<bool>(), any::<bool>()),
    ) {
        let config = Conv2dConfig { groups, ..PLAIN };
        let g = geometry([n, 5, 4, c], [3, 3, c / groups, k], config);
        let (x, weight) = (random_bf16(&[n, 5, 4, c], 1), random_bf16(&[3, 3, c / groups, k], 2));
        let dy = random_bf16(&[n, 5, 4, k], 3);
        let (b, r) = (random_bf16(&[k], 4), random_bf16(&[n, 5, 4, k], 5));
        let more = [bias.then_some(&b), residual.then_some(&r)];
        let expected = exact(&g, [&x, &weight, &dy], more, relu);
        // What ReLU stops is not in the gradients' sums.
        let gate = expected[0].gt(if relu { 0.0 } else { f64::MIN }).unwrap().to_dtype(DType::F64).unwrap();
        let passed = (&dy * gate).unwrap();
        let abs = |t: &Tensor| t.abs().unwrap();
        let sizes = [&x, &weight, &passed].map(abs);
        let (b_size, r_size) = (abs(&b), abs(&r));
        let more = [bias.then_some(&b_size), residual.then_some(&r_size)];
        let sizes = exact(&g, sizes.each_ref(), more, false);

        let var = |t: &Tensor| Var::from_tensor(&narrow(t)).unwrap();
        let vars = [Some(var(&x)), Some(var(&weight)), bias.then(|| var(&b)), residual.then(|| var(&r))];
        let [Some(x), Some(weight), b, r] = &vars else { unreachable!() };
        let epilogue = Epilogue { bias: b.as_deref(), residual: r.as_deref(), relu };
        let y = conv2d_with(x, weight, epilogue, config).unwrap();
        let grads = (&y * narrow(&dy)).unwrap().sum_all().unwrap().backward().unwrap();
        let got = vars.iter().flatten().map(|v| grads.get(v).unwrap().clone());
        let got = [y.detach()].into_iter().chain(got);
        let [y, dx, dweight, dbias, dresidual] = terms(&g);
        let n = [Some(y), Some(dx), Some(dweight), bias.then_some(dbias), residual.then_some(dresidual)];
        for (i, (got, n)) in got.zip(n.into_iter().flatten()).enumerate() {
            let winograd = path(&g) == Path::Widened && super::winograd::applies(&g);
            assert_rounded_once(&got, &expected[i], &sizes[i], n, winograd);
        }
    }
}

#[test]
fn pairs_are_taken_where_the_processor_has_them() {
    let of = |x, weight, config| path(&geometry(x, weight, config));
    let fast = Processor::detect().map_or(Path::Widened, Path::Pairs);
    for (c, side, k, stride) in [(64, 32, 64, 1), (512, 4, 512, 1), (64, 32, 128, 2), (16, 3, 16, 1)] {
        let config = Conv2dConfig { stride, ..PLAIN };
        assert_eq!(of([2, side, side, c], [3, 3, c, k], config), fast, "{c} to {k} channels");
    }
    assert_eq!(of([2, 32, 32, 64], [3, 3, 32, 64], Conv2dConfig { groups: 2, ..PLAIN }), fast);
    assert_eq!(of([2, 32, 32, 3], [3, 3, 3, 64], PLAIN), Path::Widened);
    assert_eq!(of([2, 32, 32, 64], [3, 3, 1, 64], Conv2dConfig { groups: 64, ..PLAIN }), Path::Widened);
    assert_eq!(of([2, 1, 1, 64], [3, 3, 64, 64], PLAIN), Path::Widened);
    // The convolution of a CPU tensor is that path's: pairs alone take a subnormal number for 0.
    for (c, subnormals) in [(16, fast == Path::Widened), (3, true)] {
        let x = (Tensor::ones((2, 8, 8, c), DType::F64, &Device::Cpu).unwrap() * 2f64.powi(-130)).unwrap();
        let weight =
            (Tensor::ones((1, 1, c, 16), DType::F64, &Device::Cpu).unwrap() * 2f64.powi(100)).unwrap();
        let y = conv2d(&narrow(&x), &narrow(&weight), Conv2dConfig::default()).unwrap();
        let expected = if subnormals { c as f64 * 2f64.powi(-30) } else { 0.0 };
        assert!(values(&y).iter().all(|y| *y == expected), "{c} channels");
    }
}

#[test]
fn elsewhere_it_is_f32_s_convolution_rounded() {
    for (c, k, groups) in [(17, 33, 1), (3, 8, 1), (6, 6, 6)] {
        let config = Conv2dConfig { groups, ..PLAIN };
        let g = geometry([2, 8, 8, c], [3, 3, c / groups, k], config);
        let (x, weight) = (random_bf16(&[2, 8, 8, c], 1), random_bf16(&[3, 3, c / groups, k], 2));
        let dy = random_bf16(&[2, 8, 8, k], 3);
        let [x32, weight32, dy32] = [&x, &weight, &dy].map(|t| t.to_dtype(DType::F32).unwrap());
        let (x32, weight32) = (Var::from_tensor(&x32).unwrap(), Var::from_tensor(&weight32).unwrap());
        let y = conv2d(&x32, &weight32, config).unwrap();
        let grads = (&y * dy32).unwrap().sum_all().unwrap().backward().unwrap();
        let expected = [y.detach(), grads.get(&x32).unwrap().clone(), grads.get(&weight32).unwrap().clone()];
        for (got, expected) in run(Path::Widened, &g, [&x, &weight, &dy]).iter().zip(&expected) {
            assert_same_bits(got, &narrow(expected));
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    for (x, weight, config) in [
        ([9, 20, 21, 24], [3, 3, 24, 140], PLAIN),
        ([9, 20, 21, 25], [3, 3, 25, 40], Conv2dConfig { stride: 2, ..PLAIN }),
        ([30, 20, 21, 3], [3, 3, 3, 40], PLAIN),
    ] {
        let g = geometry(x, weight, config);
        let tensors = [random(&x, 1), random(&weight, 2), random(g.output_shape(), 3)];
        for path in paths() {
            let run = || run(path, &g, tensors.each_ref());
            let (one, three) = (with_threads(1, run), with_threads(3, run));
            for (a, b) in one.iter().zip(&three) {
                assert_same_bits(a, b);
            }
        }
    }
}

/// Neither a pair's other half nor a neighbour's channel comes into a sum that an infinity or NaN is not part
/// of.
#[test]
fn infinities_and_nan_stay_where_their_windows_are() {
    for (path, special) in paths().into_iter().flat_map(|p| [(p, bf16::INFINITY), (p, bf16::NAN)]) {
        let config = Conv2dConfig { padding: 0, groups: 2, ..PLAIN };
        let g = geometry([2, 4, 5, 34], [2, 2, 17, 34], config);
        let mut x = vec![bf16::ONE; 2 * 4 * 5 * 34];
        // The first pixel's last channel of the first group, whose neighbours in memory are the second
        // group's.
        x[16] = special;
        let weight = vec![bf16::ONE; 2 * 2 * 17 * 34];
        let (bias, residual) = (vec![bf16::ZERO; 34], vec![bf16::ONE; 2 * 3 * 4 * 34]);
        let finish = Finish { bias: Some(&bias[..]), residual: Some(&residual[..]), relu: true };
        let y = forward(path, &g, &x, &weight, finish);
        for (i, y) in y.iter().enumerate() {
            match i {
                0..17 => assert_eq!(y.to_f32().to_bits(), special.to_f32().to_bits(), "number {i}"),
                _ => assert_eq!(y.to_f32(), 69.0, "number {i}"),
            }
        }
        let dweight = backward_weight(path, &g, &x, &vec![bf16::ONE; 2 * 3 * 4 * 34]);
        for (i, d) in dweight.iter().enumerate() {
            // The channel's row of the first tap, first group.
            let sees = i / 34 == 16 && i % 34 < 17;
            assert_eq!(!d.is_finite(), sees, "number {i}");
        }
    }
}

/// What is the input gradient of a convolution as a map of its own, and its gradients, which are the
/// convolution and its weight's gradient.
#[test]
fn transposed_it_is_the_same_three_sums() {
    for (c, k) in [(24, 17), (3, 8)] {
        let config = Conv2dConfig { stride: 2, ..PLAIN };
        let g = geometry([2, 7, 9, c], [3, 3, c, k], config);
        let (image, weight) = (random_bf16(&[2, 7, 9, c], 1), random_bf16(&[3, 3, c, k], 2));
        let x = random_bf16(g.output_shape().dims(), 3);
        let [forward, input, weights] = run(path(&g), &g, [&image, &weight, &x]);
        let var = |t: &Tensor| Var::from_tensor(&narrow(t)).unwrap();
        let (x, weight) = (var(&x), var(&weight));
        let y = conv_transpose2d(&x, &weight, 0, config).unwrap();
        assert_same_bits(&y, &input);
        let grads = (&y * narrow(&image)).unwrap().sum_all().unwrap().backward().unwrap();
        assert_same_bits(grads.get(&x).unwrap(), &forward);
        assert_same_bits(grads.get(&weight).unwrap(), &weights);
    }
}

#[test]
fn another_type_is_an_error() {
    let (x, weight) = (narrow(&random((1, 4, 4, 6), 1)), random((3, 3, 6, 2), 2));
    let message = conv2d(&x, &weight, PLAIN).unwrap_err().to_string();
    assert!(message.contains("BF16") && message.contains("F64"), "{message}");
    let message = conv2d(&x, &narrow(&random((3, 3, 5, 2), 2)), PLAIN).unwrap_err().to_string();
    assert!(message.contains("[3, 3, 5, 2]"), "{message}");
    let epilogue = Epilogue { bias: Some(&narrow(&random(3, 1))), ..Epilogue::default() };
    let message = conv2d_with(&x, &narrow(&weight), epilogue, PLAIN).unwrap_err().to_string();
    assert!(message.contains("bias of [2]"), "{message}");
}
