use super::*;
use crate::gradcheck::GradCheck;
use crate::testing::{assert_close, assert_same_bits, random, with_threads};
use candle_core::{DType, Device, Var};
use std::cell::Cell;

thread_local! {
    /// How often this thread has run the operation itself.
    pub(super) static FORWARDS: Cell<usize> = const { Cell::new(0) };
}

/// Kernel, channels out and stride of each layer, and whether there is a shortcut.
type Plan = (&'static [(usize, usize, usize)], bool);

/// A stem without shortcut, a block with the identity, one with a projection that halves, a bottleneck with one that does not.
const PLANS: [Plan; 4] = [
    (&[(3, 4, 1)], false),
    (&[(3, 3, 1), (3, 4, 1)], true),
    (&[(3, 6, 2), (3, 6, 1)], true),
    (&[(1, 2, 1), (3, 2, 1), (1, 8, 1)], true),
];

/// Parameters of all layers of [`PLANS`], weight, γ, β each, f64.
fn params(c: usize) -> Vec<Tensor> {
    wide_params(c, 1)
}

/// The same for `times` as many channels out.
pub(super) fn wide_params(c: usize, times: usize) -> Vec<Tensor> {
    let mut params = Vec::new();
    let mut add = |kernel: usize, c: usize, k: usize| {
        let seed = params.len() as u64;
        params.push(random((kernel, kernel, c, k), 100 + seed));
        params.push(random(k, 200 + seed).affine(0.5, 1.0).unwrap());
        params.push(random(k, 300 + seed));
    };
    let mut input = c;
    for (layers, shortcut) in PLANS {
        let mut c = input;
        for &(kernel, k, _) in layers {
            add(kernel, c, k * times);
            c = k * times;
        }
        if shortcut && projected(layers, c, input) {
            add(1, input, c);
        }
        input = c;
    }
    params
}

fn projected(layers: &[(usize, usize, usize)], k: usize, c: usize) -> bool {
    layers.iter().any(|layer| layer.2 > 1) || k != c
}

pub(super) fn blocks(c: usize, params: &[Tensor]) -> Vec<ResidualBlock<'_>> {
    let mut params = params.chunks_exact(3);
    let mut next = |kernel: usize, stride: usize| {
        let [weight, gamma, beta] = params.next().unwrap() else { unreachable!() };
        let config = Conv2dConfig { stride, padding: kernel / 2, ..Conv2dConfig::default() };
        ConvNorm { weight, gamma, beta, config }
    };
    let mut c = c;
    let plan = PLANS.iter().map(|&(layers, shortcut)| {
        let own: Vec<_> = layers.iter().map(|&(kernel, _, stride)| next(kernel, stride)).collect();
        let k = own[own.len() - 1].gamma.elem_count();
        let stride = layers.iter().map(|layer| layer.2).product();
        let shortcut = match shortcut {
            false => Shortcut::Nothing,
            true if projected(layers, k, c) => Shortcut::Projection(next(1, stride)),
            true => Shortcut::Identity,
        };
        c = k;
        ResidualBlock { layers: own, shortcut }
    });
    plan.collect()
}

pub(super) fn norm(groups: usize) -> BatchNormConfig {
    BatchNormConfig { groups, ..BatchNormConfig::default() }
}

/// y, statistics and all gradients for a dy that is not the same everywhere.
pub(super) fn run(
    x: &Tensor,
    params: &[Tensor],
    groups: usize,
    f: impl Fn(&Tensor, &[ResidualBlock<'_>], BatchNormConfig) -> Result<ResidualOutput>,
) -> Vec<Tensor> {
    let x = Var::from_tensor(x).unwrap();
    let vars: Vec<Var> = params.iter().map(|p| Var::from_tensor(p).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let out = f(&x, &blocks(params[0].dims()[2], &tensors), norm(groups)).unwrap();
    let dy = random(out.y.shape(), 9).to_dtype(x.dtype()).unwrap();
    let gradients = (&out.y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    let mut all = vec![out.y];
    all.extend(out.statistics.iter().flat_map(|own| [own.mean.clone(), own.var.clone()]));
    all.extend([&x].into_iter().chain(&vars).filter_map(|var| gradients.get(var).cloned()));
    all
}

#[test]
fn it_is_the_composition_of_the_single_operations() {
    for (shape, groups) in [((4, 6, 5, 3), 1), ((4, 6, 5, 3), 2), ((3, 8, 8, 4), 3), ((2, 1, 3, 4), 1)] {
        let x = random(shape, 1);
        let params = params(shape.3);
        let got = run(&x, &params, groups, residual_blocks_train);
        let expected = run(&x, &params, groups, composition);
        assert_eq!(got.len(), 1 + 2 * 10 + 1 + params.len());
        for (got, expected) in got.iter().zip(&expected) {
            // Same kernels in the same order; only sums of two gradients may be in another.
            assert_close(got, expected, 1e-11);
        }
        let narrow = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
        let y =
            run(&narrow(&x), &params.iter().map(narrow).collect::<Vec<_>>(), groups, residual_blocks_train);
        assert_close(&y[0], &expected[0], 1e-4);
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let x = random((3, 4, 4, 3), 21);
    let params = params(3);
    let mut inputs = vec![x];
    inputs.extend(params.iter().cloned());
    let f =
        |t: &[Tensor]| Ok::<_, crate::Error>(residual_blocks_train(&t[0], &blocks(3, &t[1..]), norm(1))?.y);
    GradCheck::f64().check(&inputs, f).unwrap();
}

/// Frozen parameters and input: the values are the same, and nothing is kept for a backward pass.
#[test]
fn nothing_is_kept_where_nothing_leads_to_a_variable() {
    let (x, params) = (random((4, 6, 5, 3), 1), params(3));
    let network = network(&x, [4, 6, 5, 3], &blocks(3, &params), norm(1)).unwrap();
    let numbers: Vec<Vec<f64>> = params.iter().map(crate::testing::values).collect();
    let slices: Vec<&[f64]> = numbers.iter().map(Vec::as_slice).collect();
    let (y, kept) = network.forward(&crate::testing::values(&x), &slices, true);
    let (silent, left) = network.forward(&crate::testing::values(&x), &slices, false);
    assert_eq!(y, silent);
    assert!(
        kept.numbers() > 10 * y.len() && left.numbers() == 0,
        "{} and {}",
        kept.numbers(),
        left.numbers()
    );
    assert_eq!(kept.statistics(), left.statistics());
}

#[test]
fn the_running_statistics_need_what_is_told() {
    let x = random((4, 6, 5, 3), 1);
    let params = params(3);
    let out = residual_blocks_train(&x, &blocks(3, &params), norm(2)).unwrap();
    // The stem, two layers, two and a projection of a quarter of the pixels, then three and a projection.
    let counts: Vec<usize> = out.statistics.iter().map(|own| own.count).collect();
    assert_eq!(counts, [60, 60, 60, 18, 18, 18, 18, 18, 18, 18]);
}

#[test]
fn backward_can_be_called_again() {
    let x = Var::from_tensor(&random((2, 5, 5, 3), 1)).unwrap();
    let params: Vec<Tensor> =
        params(3).iter().map(|p| Var::from_tensor(p).unwrap().as_tensor().clone()).collect();
    let y = residual_blocks_train(&x, &blocks(3, &params), norm(1)).unwrap().y;
    let loss = y.sqr().unwrap().sum_all().unwrap();
    let (first, second) = (loss.backward().unwrap(), loss.backward().unwrap());
    for t in params.iter().chain([x.as_tensor()]) {
        assert_same_bits(first.get(t).unwrap(), second.get(t).unwrap());
    }
}

#[test]
fn only_what_leads_to_a_variable_gets_a_gradient() {
    let x = random((2, 5, 5, 3), 1);
    let plain = params(3);
    let mut some = plain.clone();
    let all: Vec<usize> = (0..some.len()).filter(|i| i % 4 == 1).collect();
    let vars: Vec<Var> = all.iter().map(|&i| Var::from_tensor(&plain[i]).unwrap()).collect();
    for (&i, var) in all.iter().zip(&vars) {
        some[i] = var.as_tensor().clone();
    }
    let y = residual_blocks_train(&x, &blocks(3, &some), norm(1)).unwrap().y;
    let dy = random(y.shape(), 9);
    let gradients = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    let full = run(&x, &plain, 1, residual_blocks_train);
    for (&i, var) in all.iter().zip(&vars) {
        assert_same_bits(gradients.get(var).unwrap(), &full[1 + 2 * 10 + 1 + i]);
    }
    assert!(gradients.get(&x).is_none() && gradients.get(&some[0]).is_none());
    // x alone, before parameters that are frozen.
    let var = Var::from_tensor(&x).unwrap();
    let y = residual_blocks_train(&var, &blocks(3, &plain), norm(1)).unwrap().y;
    let dy = random(y.shape(), 9);
    let gradients = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    assert_same_bits(gradients.get(&var).unwrap(), &full[1 + 2 * 10]);
    // Without any variable there is nothing to go back to.
    let y = residual_blocks_train(&x, &blocks(3, &plain), norm(1)).unwrap().y;
    assert!(!y.track_op());
}

#[test]
fn results_do_not_depend_on_layout_or_threads() {
    let x = random((4, 7, 6, 3), 1);
    let params = params(3);
    let expected = run(&x, &params, 1, residual_blocks_train);
    let transposed = x.transpose(1, 2).unwrap().contiguous().unwrap().transpose(1, 2).unwrap();
    let turned: Vec<Tensor> = params
        .iter()
        .map(|p| {
            if p.rank() == 4 {
                p.permute((3, 2, 1, 0)).unwrap().contiguous().unwrap().permute((3, 2, 1, 0)).unwrap()
            } else {
                p.clone()
            }
        })
        .collect();
    let y = residual_blocks_train(&transposed, &blocks(3, &turned), norm(1)).unwrap().y;
    assert_same_bits(&y, &expected[0]);
    for threads in [1, 3] {
        let got = with_threads(threads, || run(&x, &params, 1, residual_blocks_train));
        for (got, expected) in got.iter().zip(&expected) {
            assert_same_bits(got, expected);
        }
    }
}

#[test]
fn it_is_taken_on_the_cpu_and_falls_back_elsewhere() {
    let as_type = |t: &Tensor, dtype| t.to_dtype(dtype).unwrap();
    for (dtype, taken) in [(DType::F64, 1), (DType::F32, 1), (DType::F16, 0)] {
        let x = as_type(&random((2, 5, 5, 3), 1), dtype);
        let params: Vec<Tensor> = params(3).iter().map(|p| as_type(p, dtype)).collect();
        FORWARDS.set(0);
        let y = residual_blocks_train(&x, &blocks(3, &params), norm(1)).unwrap().y;
        assert_eq!((y.dtype(), FORWARDS.get()), (dtype, taken));
    }
}

#[test]
fn bad_input_is_an_error() {
    let x = random((2, 5, 5, 3), 1);
    let params = params(3);
    let error = |x: &Tensor, blocks: &[ResidualBlock<'_>], norm| {
        residual_blocks_train(x, blocks, norm).unwrap_err().to_string()
    };
    let good = blocks(3, &params);
    assert!(error(&x, &[], norm(1)).contains("blocks must be at least one"));
    let empty = ResidualBlock { layers: vec![], shortcut: Shortcut::Nothing };
    assert!(error(&x, &[empty], norm(1)).contains("layers must be at least one"));
    assert!(error(&x, &good, norm(3)).contains("groups must be a divisor of the batch"));
    assert!(error(&x, &good, norm(0)).contains("groups"));
    assert!(error(&x, &good, BatchNormConfig { eps: 0.0, ..norm(1) }).contains("eps"));
    let mut wrong = good.clone();
    wrong[0].shortcut = Shortcut::Identity;
    assert!(error(&x, &wrong, norm(1)).contains("shortcut must be of the last layer's shape"));
    let mut wrong = good.clone();
    wrong[1].layers[0].gamma = wrong[0].layers[0].weight;
    assert!(error(&x, &wrong, norm(1)).contains("gamma of [3]"));
    let mut wrong = good.clone();
    wrong[1].layers.swap(0, 1);
    assert!(error(&x, &wrong, norm(1)).contains("weight of [kh, kw, c/g, k]"));
    let narrow = random(4, 1).to_dtype(DType::F32).unwrap();
    let mut wrong = good.clone();
    wrong[0].layers[0].beta = &narrow;
    assert!(error(&x, &wrong, norm(1)).contains("beta of x's F64"));
    assert!(error(&random((5, 5, 3), 1), &good, norm(1)).contains("[n, h, w, c]"));
    assert!(error(&random((1, 1, 1, 3), 1), &good, norm(1)).contains("two values a channel"));
    let integers = Tensor::zeros((2, 5, 5, 3), DType::U8, &Device::Cpu).unwrap();
    assert!(error(&integers, &good, norm(1)).contains("float"));
}
