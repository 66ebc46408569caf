use super::*;
use crate::gradcheck::GradCheck;
use crate::testing::{assert_close, assert_same_bits, golden, random, random_f32, values, with_threads};
use candle_core::{DType, Device, Var};

fn config(relu: bool) -> BatchNormConfig {
    BatchNormConfig { relu, ..Default::default() }
}

/// The module's formula in f64: (y, mean, var).
fn naive(x: &Tensor, weight: &Tensor, bias: &Tensor, residual: Option<&Tensor>, relu: bool) -> [Vec<f64>; 3] {
    let c = weight.elem_count();
    let (x, weight, bias) = (values(x), values(weight), values(bias));
    let residual = residual.map_or(vec![0.0; x.len()], values);
    let count = (x.len() / c) as f64;
    let channel = |i: usize| x.iter().skip(i).step_by(c);
    let mean: Vec<f64> = (0..c).map(|i| channel(i).sum::<f64>() / count).collect();
    let var: Vec<f64> =
        (0..c).map(|i| channel(i).map(|v| (v - mean[i]).powi(2)).sum::<f64>() / count).collect();
    let y = x.iter().enumerate().map(|(at, v)| {
        let i = at % c;
        let y = (v - mean[i]) / (var[i] + 1e-5).sqrt() * weight[i] + bias[i] + residual[at];
        if relu { y.max(0.0) } else { y }
    });
    [y.collect(), mean, var]
}

fn tensor(values: &[f64], like: &Tensor) -> Tensor {
    Tensor::from_slice(values, like.shape(), &Device::Cpu).unwrap()
}

#[test]
fn values_and_statistics_are_those_of_the_formula() {
    // One chunk; several chunks and tasks with a short last one; odd channels; a rank of 2.
    for shape in [&[2usize, 3, 3, 5][..], &[9, 31, 33, 64], &[7, 11, 13, 37], &[33, 300], &[4001, 1]] {
        let c = shape[shape.len() - 1];
        let (x, residual) = (random_f32(shape, 1), random_f32(shape, 2));
        let (weight, bias) = (random_f32(c, 3), random_f32(c, 4));
        for relu in [false, true] {
            for residual in [None, Some(&residual)] {
                let [y, mean, var] = naive(&x, &weight, &bias, residual, relu);
                let got = batch_norm_train(&x, &weight, &bias, residual, config(relu)).unwrap();
                assert_close(&got.mean, &tensor(&mean, &weight), 1e-6);
                assert_close(&got.var, &tensor(&var, &weight), 1e-6);
                assert_close(&got.y, &tensor(&y, &x), 5e-6);
                let eval =
                    batch_norm_eval(&x, &weight, &bias, &got.mean, &got.var, residual, config(relu)).unwrap();
                assert_close(&eval, &tensor(&y, &x), 5e-6);
            }
        }
    }
}

#[test]
fn a_large_mean_does_not_hurt_the_variance() {
    // A sum of squares in f32 would have lost all of the variance's digits.
    let x = random((64, 8, 8, 16), 1).affine(1.0, 4096.0).unwrap().to_dtype(DType::F32).unwrap();
    let (weight, bias) = (random_f32(16, 2), random_f32(16, 3));
    let [y, mean, var] = naive(&x, &weight, &bias, None, false);
    let got = batch_norm_train(&x, &weight, &bias, None, config(false)).unwrap();
    assert_close(&got.mean, &tensor(&mean, &weight), 1e-7);
    assert_close(&got.var, &tensor(&var, &weight), 1e-6);
    // The mean itself is only known to half a unit of f32 at 4096: 2.4e-4, over the deviation of 0.58.
    assert_close(&got.y, &tensor(&y, &x), 5e-4);
}

/// Numbers whose normalised values stay off ReLU's kink.
fn inputs() -> [Tensor; 4] {
    let x = random((3, 4, 2, 5), 11);
    [x.clone(), random(5, 12), random(5, 13), random(x.shape(), 14)]
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let [x, weight, bias, residual] = inputs();
    let (mean, var) = (random(5, 15), random(5, 16).sqr().unwrap());
    for relu in [false, true] {
        let config = config(relu);
        let check = GradCheck::f64();
        let three = [x.clone(), weight.clone(), bias.clone()];
        let four = [x.clone(), weight.clone(), bias.clone(), residual.clone()];
        check
            .check(&three, |t| Ok::<_, crate::Error>(batch_norm_train(&t[0], &t[1], &t[2], None, config)?.y))
            .unwrap();
        check
            .check(&four, |t| {
                Ok::<_, crate::Error>(batch_norm_train(&t[0], &t[1], &t[2], Some(&t[3]), config)?.y)
            })
            .unwrap();
        check.check(&three, |t| batch_norm_eval(&t[0], &t[1], &t[2], &mean, &var, None, config)).unwrap();
        check
            .check(&four, |t| batch_norm_eval(&t[0], &t[1], &t[2], &mean, &var, Some(&t[3]), config))
            .unwrap();
        check
            .check(&four, |t| {
                Ok::<_, crate::Error>(reference::train(&t[0], &t[1], &t[2], Some(&t[3]), config)?.y)
            })
            .unwrap();
    }
}

/// y and the gradients of x, weight, bias and residual.
fn gradients(x: &Tensor, weight: &Tensor, bias: &Tensor, residual: &Tensor) -> Vec<Tensor> {
    let vars: Vec<Var> = [x, weight, bias, residual].map(|t| Var::from_tensor(t).unwrap()).into();
    let out = batch_norm_train(&vars[0], &vars[1], &vars[2], Some(&vars[3]), config(true)).unwrap();
    let r = random(x.shape(), 99).to_dtype(x.dtype()).unwrap();
    let grads = (&out.y * r).unwrap().sum_all().unwrap().backward().unwrap();
    let grads = vars.iter().map(|v| grads.get(v).unwrap().clone());
    [out.y.detach(), out.mean, out.var].into_iter().chain(grads).collect()
}

/// `batch_norm_train` with groups, and what it should be: each part of the batch alone, one after the other.
fn grouped(x: &Tensor, residual: Option<&Tensor>, groups: usize, relu: bool) -> [[Tensor; 3]; 2] {
    let c = x.dims()[x.rank() - 1];
    let (weight, bias) = (random(c, 3), random(c, 4));
    let with_groups = BatchNormConfig { groups, ..config(relu) };
    let got = batch_norm_train(x, &weight, &bias, residual, with_groups).unwrap();
    let size = x.dims()[0] / groups;
    let parts: Vec<BatchNormOutput> = (0..groups)
        .map(|i| {
            let part = |t: &Tensor| t.narrow(0, i * size, size).unwrap();
            batch_norm_train(&part(x), &weight, &bias, residual.map(part).as_ref(), config(relu)).unwrap()
        })
        .collect();
    let all = |f: fn(&BatchNormOutput) -> Tensor| parts.iter().map(f).collect::<Vec<_>>();
    let mean = |all: Vec<Tensor>| Tensor::stack(&all, 0).unwrap().mean(0).unwrap();
    let y = Tensor::cat(&all(|part| part.y.clone()), 0).unwrap();
    [[got.y, got.mean, got.var], [y, mean(all(|part| part.mean.clone())), mean(all(|part| part.var.clone()))]]
}

#[test]
fn each_group_has_its_own_statistics() {
    // A group of 2·31·7 rows of 37 channels ends within a chunk.
    for (shape, groups) in [(&[6usize, 31, 7, 37][..], 3), (&[8, 5], 4), (&[4, 9, 300], 2)] {
        let x = random(shape, 1);
        // Means that differ from group to group.
        let shift = Tensor::arange(0.0, shape[0] as f64, &Device::Cpu).unwrap();
        let shift = shift.reshape([vec![shape[0]], vec![1; shape.len() - 1]].concat()).unwrap();
        let x = x.broadcast_add(&shift).unwrap();
        let residual = random(shape, 2);
        for (residual, relu) in [(None, false), (None, true), (Some(&residual), true)] {
            let [got, expected] = grouped(&x, residual, groups, relu);
            for (got, expected) in got.iter().zip(&expected) {
                assert_close(got, expected, 1e-12);
            }
        }
    }
}

#[test]
fn gradients_of_groups_are_those_of_finite_differences() {
    let inputs = [random((6, 2, 5), 11), random(5, 12), random(5, 13), random((6, 2, 5), 14)];
    for relu in [false, true] {
        let config = BatchNormConfig { groups: 3, ..config(relu) };
        type Train =
            fn(&Tensor, &Tensor, &Tensor, Option<&Tensor>, BatchNormConfig) -> Result<BatchNormOutput>;
        for f in [batch_norm_train as Train, reference::train] {
            let y = |t: &[Tensor]| Ok::<_, crate::Error>(f(&t[0], &t[1], &t[2], t.get(3), config)?.y);
            GradCheck::f64().check(&inputs, y).unwrap();
            GradCheck::f64().check(&inputs[..3], y).unwrap();
        }
    }
}

#[test]
fn many_groups_agree_with_the_reference() {
    let x = random((12, 21, 23, 48), 1);
    let (residual, weight, bias) = (random(x.shape(), 2), random(48, 3), random(48, 4));
    let config = BatchNormConfig { groups: 4, ..config(true) };
    let run = |fast: bool| {
        let vars: Vec<Var> = [&x, &weight, &bias, &residual].map(|t| Var::from_tensor(t).unwrap()).into();
        let f = if fast { batch_norm_train } else { reference::train };
        let out = f(&vars[0], &vars[1], &vars[2], Some(&vars[3]), config).unwrap();
        let grads = (&out.y * random(x.shape(), 99)).unwrap().sum_all().unwrap().backward().unwrap();
        let grads: Vec<Tensor> = vars.iter().map(|v| grads.get(v).unwrap().clone()).collect();
        [vec![out.y.detach(), out.mean, out.var], grads].concat()
    };
    for (got, expected) in run(true).iter().zip(&run(false)) {
        assert_close(got, expected, 1e-11);
    }
}

#[test]
fn groups_that_do_not_divide_the_batch_are_refused() {
    let (weight, bias) = (random(5, 2), random(5, 3));
    let fails = |x: &Tensor, groups| {
        let config = BatchNormConfig { groups, ..Default::default() };
        batch_norm_train(x, &weight, &bias, None, config).unwrap_err().to_string()
    };
    assert!(fails(&random((6, 5), 1), 0).contains("groups"));
    assert!(fails(&random((6, 5), 1), 4).contains("multiple of 4"));
    assert!(fails(&random(5, 1), 5).contains("multiple of 5"));
    assert!(fails(&random((6, 5), 1), 6).contains("two values"));
}

#[test]
fn a_mean_that_jumps_between_chunks_does_not_hurt_the_variance() {
    // Chunks are normalised by the mean of those before them: the first is far from the rest.
    for jump in [1e3, 1e6] {
        let x = random((2048, 33), 1);
        let first = (x.narrow(0, 0, 256).unwrap() + jump).unwrap();
        let x =
            Tensor::cat(&[first, x.narrow(0, 256, 1792).unwrap()], 0).unwrap().to_dtype(DType::F32).unwrap();
        let (weight, bias) = (random_f32(33, 2), random_f32(33, 3));
        let [_, mean, var] = naive(&x, &weight, &bias, None, false);
        let got = batch_norm_train(&x, &weight, &bias, None, config(false)).unwrap();
        for (got, expected) in values(&got.mean).iter().zip(&mean).chain(values(&got.var).iter().zip(&var)) {
            assert!((got / expected - 1.0).abs() < 1e-6, "{got}, expected {expected}");
        }
    }
}

#[test]
fn many_chunks_agree_with_the_reference() {
    let x = random((9, 21, 23, 48), 1);
    let residual = random(x.shape(), 2);
    let (weight, bias) = (random(48, 3), random(48, 4));
    let got = gradients(&x, &weight, &bias, &residual);
    let vars: Vec<Var> = [&x, &weight, &bias, &residual].map(|t| Var::from_tensor(t).unwrap()).into();
    let out = reference::train(&vars[0], &vars[1], &vars[2], Some(&vars[3]), config(true)).unwrap();
    let grads = (&out.y * random(x.shape(), 99)).unwrap().sum_all().unwrap().backward().unwrap();
    for (got, expected) in got.iter().zip([&out.y, &out.mean, &out.var]) {
        assert_close(got, expected, 1e-12);
    }
    for (got, var) in got[3..].iter().zip(&vars) {
        assert_close(got, grads.get(var).unwrap(), 1e-11);
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let x = random_f32((19, 31, 33, 40), 1);
    let residual = random_f32(x.shape(), 2);
    let (weight, bias) = (random_f32(40, 3), random_f32(40, 4));
    let one = with_threads(1, || gradients(&x, &weight, &bias, &residual));
    let three = with_threads(3, || gradients(&x, &weight, &bias, &residual));
    for (a, b) in one.iter().zip(&three) {
        assert_same_bits(a, b);
    }
}

#[test]
fn the_statistics_have_no_gradient() {
    let [x, weight, bias, _] = inputs();
    let x = Var::from_tensor(&x).unwrap();
    let out = batch_norm_train(&x, &weight, &bias, None, config(false)).unwrap();
    assert!(!out.mean.track_op() && !out.var.track_op());
    // In evaluation a mean that is a variable gets none, either.
    let (mean, var) =
        (Var::from_tensor(&random(5, 1)).unwrap(), Tensor::ones(5, DType::F64, &Device::Cpu).unwrap());
    let y = batch_norm_eval(&x, &weight, &bias, &mean, &var, None, config(false)).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&mean).is_none() && grads.get(&x).is_some());
}

#[test]
fn a_view_and_a_constant_channel_do_no_harm() {
    let x = random((3, 5, 4, 4), 1).permute((0, 2, 3, 1)).unwrap();
    let (weight, bias) = (random(5, 2), random(5, 3));
    let [y, ..] = naive(&x.contiguous().unwrap(), &weight, &bias, None, false);
    assert_close(
        &batch_norm_train(&x, &weight, &bias, None, config(false)).unwrap().y,
        &tensor(&y, &x),
        1e-12,
    );
    // No variance: x̂ = 0, y = β, and all gradients stay finite.
    let x = Tensor::full(7f32, (2, 3, 3, 5), &Device::Cpu).unwrap();
    let (weight, bias) = (random_f32(5, 2), random_f32(5, 3));
    let all = gradients(&x, &weight, &bias, &x.zeros_like().unwrap());
    assert_close(
        &all[0].narrow(0, 0, 1).unwrap().get(0).unwrap().get(0).unwrap().get(0).unwrap(),
        &bias.relu().unwrap(),
        0.0,
    );
    assert!(all.iter().flat_map(values).all(f64::is_finite));
}

#[test]
fn nan_is_not_hidden_by_relu() {
    let x = Tensor::new(&[[1f32, f32::NAN], [2.0, 3.0]], &Device::Cpu).unwrap();
    let (weight, bias) = (random_f32(2, 2), random_f32(2, 3));
    let y = batch_norm_train(&x, &weight, &bias, None, config(true)).unwrap().y;
    let y = values(&y);
    assert!(!y[0].is_nan() && y[1].is_nan() && y[3].is_nan());
}

#[test]
fn agrees_with_pytorch() {
    let g = golden("batch_norm");
    for name in ["plain", "relu", "residual_relu"] {
        for mode in ["train", "eval"] {
            let t = |part: &str| g[&format!("{name}.{mode}.{part}")].clone();
            let var = |part: &str| Var::from_tensor(&g[part]).unwrap();
            let (x, weight, bias, residual) = (var("x"), var("weight"), var("bias"), var("residual"));
            let residual = (name == "residual_relu").then_some(residual);
            let with = residual.as_ref().map(|r| r.as_tensor());
            let config = config(name != "plain");
            let y = if mode == "train" {
                let out = batch_norm_train(&x, &weight, &bias, with, config).unwrap();
                // PyTorch: running ← 0.9·running + 0.1·batch, the variance unbiased.
                let count = (x.elem_count() / weight.elem_count()) as f64;
                let mean = ((&g["mean"] * 0.9).unwrap() + (out.mean * 0.1).unwrap()).unwrap();
                let unbiased = (out.var * (0.1 * count / (count - 1.0))).unwrap();
                assert_close(&mean, &t("running_mean"), 1e-6);
                assert_close(&((&g["var"] * 0.9).unwrap() + unbiased).unwrap(), &t("running_var"), 1e-6);
                out.y
            } else {
                batch_norm_eval(&x, &weight, &bias, &g["mean"], &g["var"], with, config).unwrap()
            };
            let grads = (&y * &g["dy"]).unwrap().sum_all().unwrap().backward().unwrap();
            assert_close(&y, &t("y"), 1e-5);
            assert_close(grads.get(&x).unwrap(), &t("dx"), 1e-5);
            assert_close(grads.get(&weight).unwrap(), &t("dweight"), 1e-5);
            assert_close(grads.get(&bias).unwrap(), &t("dbias"), 1e-5);
            if let Some(residual) = &residual {
                assert_close(grads.get(residual).unwrap(), &t("dresidual"), 1e-5);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let [x, weight, bias, _] = inputs();
    let train = |x: &Tensor, w: &Tensor, b: &Tensor, r: Option<&Tensor>, eps: f64| {
        batch_norm_train(x, w, b, r, BatchNormConfig { eps, ..Default::default() }).unwrap_err().to_string()
    };
    assert!(train(&x, &random(4, 1), &bias, None, 1e-5).contains("weight of [5]"));
    assert!(train(&x, &weight, &random((5, 1), 1), None, 1e-5).contains("bias of [5]"));
    assert!(train(&x, &weight, &bias, Some(&weight), 1e-5).contains("residual"));
    assert!(train(&x, &weight, &bias, None, 0.0).contains("eps"));
    assert!(train(&x, &weight, &bias, None, f64::NAN).contains("eps"));
    assert!(train(&x, &random_f32(5, 1), &bias, None, 1e-5).contains("F32"));
    assert!(train(&random((1, 5), 1), &weight, &bias, None, 1e-5).contains("two values"));
    let scalar = Tensor::new(1f64, &Device::Cpu).unwrap();
    assert!(train(&scalar, &weight, &bias, None, 1e-5).contains("[.., c]"));
}
