use super::*;
use crate::gradcheck::GradCheck;
use crate::testing::{assert_close, assert_same_bits, golden, random, random_f32, values, with_threads};
use candle_core::{Device, Var};

const ACTIVATIONS: [Activation; 5] = [
    Activation::None,
    Activation::Relu,
    Activation::Gelu(Gelu::Exact),
    Activation::Gelu(Gelu::Tanh),
    Activation::Gelu(Gelu::Quick),
];

/// z of the formula in f64, by loops.
fn naive(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let (k, c) = weight.dims2().unwrap();
    let (data, weight) = (values(x), values(weight));
    let bias = bias.map_or(vec![0.0; k], values);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let z: Vec<f64> = data
        .chunks(c)
        .flat_map(|row| weight.chunks(c).zip(&bias).map(|(w, b)| dot(row, w) + b).collect::<Vec<_>>())
        .collect();
    let mut shape = x.dims().to_vec();
    *shape.last_mut().unwrap() = k;
    Tensor::from_vec(z, shape, &Device::Cpu).unwrap()
}

fn activated(z: &Tensor, activation: Activation) -> Tensor {
    match activation {
        Activation::None => z.clone(),
        Activation::Relu => z.relu().unwrap(),
        Activation::Gelu(kind) => gelu::reference(z, kind).unwrap(),
    }
}

type Layer = fn(&Tensor, &Tensor, Option<&Tensor>, Activation) -> Result<Tensor>;

/// y and the gradients of x, weight and, if given, bias.
fn run(f: Layer, tensors: &[Tensor], activation: Activation) -> Vec<Tensor> {
    let vars: Vec<Var> = tensors.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let y = f(&vars[0], &vars[1], vars.get(2).map(|v| v.as_tensor()), activation).unwrap();
    let dy = random(y.dims(), 99).to_dtype(y.dtype()).unwrap();
    let grads = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    std::iter::once(y.detach()).chain(vars.iter().map(|v| grads.get(v).unwrap().clone())).collect()
}

/// x of [n, c], weight of [k, c], bias of [k].
fn inputs(n: usize, c: usize, k: usize) -> Vec<Tensor> {
    vec![random((n, c), 1), random((k, c), 2), random(k, 3)]
}

fn narrowed(tensors: &[Tensor], dtype: DType) -> Vec<Tensor> {
    tensors.iter().map(|t| t.to_dtype(dtype).unwrap()).collect()
}

#[test]
fn values_are_those_of_the_formula() {
    // One number; odd sizes; several tiles each way with short last ones; one row, one column.
    for (n, c, k) in [(1, 1, 1), (3, 5, 7), (131, 37, 300), (530, 19, 65), (1, 300, 129), (700, 3, 1)] {
        let all = inputs(n, c, k);
        for bias in [None, Some(&all[2])] {
            let z = naive(&all[0], &all[1], bias);
            let narrow = narrowed(&all, DType::F32);
            let narrow_bias = bias.map(|_| &narrow[2]);
            let narrow_z = naive(&narrow[0], &narrow[1], narrow_bias);
            for activation in ACTIVATIONS {
                let expected = activated(&z, activation);
                assert_close(&linear(&all[0], &all[1], bias, activation).unwrap(), &expected, 1e-12);
                assert_close(&reference(&all[0], &all[1], bias, activation).unwrap(), &expected, 1e-12);
                let got = linear(&narrow[0], &narrow[1], narrow_bias, activation).unwrap();
                // Sums of up to 300 products.
                assert_close(&got, &activated(&narrow_z, activation), 1e-5);
            }
        }
    }
}

#[test]
fn any_leading_dimensions_and_layouts() {
    let (x, weight, bias) = (random((5, 5, 4), 1), random((5, 6), 2), random((6, 2), 3));
    let (x, weight) = (x.t().unwrap(), weight.t().unwrap());
    let bias = bias.narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
    let y = linear(&x, &weight, Some(&bias), Activation::Relu).unwrap();
    assert_eq!(y.dims(), [5, 4, 6]);
    assert_close(&y, &naive(&x, &weight, Some(&bias)).relu().unwrap(), 1e-12);
    let vector = linear(&random(5, 7), &weight, None, Activation::None).unwrap();
    assert_close(&vector, &naive(&random(5, 7), &weight, None), 1e-12);
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let all = inputs(5, 4, 3);
    for activation in ACTIVATIONS {
        GradCheck::f64().check(&all, |t| linear(&t[0], &t[1], Some(&t[2]), activation)).unwrap();
        GradCheck::f64().check(&all[..2], |t| linear(&t[0], &t[1], None, activation)).unwrap();
        GradCheck::f64().check(&all, |t| reference(&t[0], &t[1], Some(&t[2]), activation)).unwrap();
    }
}

#[test]
fn many_tiles_and_slabs_agree_with_the_reference() {
    // The second one sums the weight's gradient in slabs of rows.
    for (n, c, k) in [(300, 70, 530), (5001, 33, 20)] {
        let all = inputs(n, c, k);
        for activation in ACTIVATIONS {
            let expected = run(reference, &all, activation);
            for (got, expected) in run(linear, &all, activation).iter().zip(&expected) {
                assert_close(got, expected, 1e-11);
            }
            let narrow = run(linear, &narrowed(&all, DType::F32), activation);
            let sizes = [c, k, n, n];
            for ((got, expected), size) in narrow.iter().zip(&expected).zip(sizes) {
                // Rounding grows with the root of the number of products, and so do the sums' own sizes; ReLU's kink
                // moves with z's rounding.
                let tolerance = 2e-6 * (size as f64).sqrt();
                if activation != Activation::Relu {
                    assert_close(got, expected, tolerance);
                }
            }
        }
    }
}

#[test]
fn only_what_is_tracked_has_a_gradient() {
    let all = inputs(4, 3, 2);
    for activation in ACTIVATIONS {
        let weight = Var::from_tensor(&all[1]).unwrap();
        let y = linear(&all[0], &weight, Some(&all[2]), activation).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        let all_tracked = run(linear, &all, activation);
        assert_eq!(grads.get(&weight).unwrap().dims(), all_tracked[2].dims());
        assert!(grads.get(&all[0]).is_none() && grads.get(&all[2]).is_none());
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let all = narrowed(&inputs(5001, 33, 70), DType::F32);
    for activation in [Activation::Relu, Activation::Gelu(Gelu::Exact)] {
        let one = with_threads(1, || run(linear, &all, activation));
        let three = with_threads(3, || run(linear, &all, activation));
        one.iter().zip(&three).for_each(|(a, b)| assert_same_bits(a, b));
    }
}

#[test]
fn narrow_numbers_are_summed_in_f32() {
    let all = narrowed(&inputs(6, 200, 5), DType::BF16);
    let got = run(linear, &all, Activation::Relu);
    assert!(got.iter().all(|t| t.dtype() == DType::BF16));
    // One rounding to bf16's eight bits.
    assert_close(&got[0], &naive(&all[0], &all[1], Some(&all[2])).relu().unwrap(), 1.0 / 256.0);
}

#[test]
fn nan_is_not_hidden_by_relu() {
    let x = Tensor::new(&[[1f32, f32::NAN], [2.0, 3.0]], &Device::Cpu).unwrap();
    let y = values(&linear(&x, &random_f32((2, 2), 2), None, Activation::Relu).unwrap());
    assert!(y[..2].iter().all(|y| y.is_nan()) && y[2..].iter().all(|y| y.is_finite()));
}

#[test]
fn agrees_with_pytorch() {
    let g = golden("linear");
    for (activation, name) in
        [(Activation::None, "none"), (Activation::Relu, "relu"), (Activation::Gelu(Gelu::Exact), "gelu")]
    {
        let vars = ["x", "weight", "bias"].map(|name| Var::from_tensor(&g[name]).unwrap());
        let y = linear(&vars[0], &vars[1], Some(&vars[2]), activation).unwrap();
        let grads = (&y * &g["dy"]).unwrap().sum_all().unwrap().backward().unwrap();
        assert_close(&y, &g[&format!("{name}.y")], 2e-6);
        for (var, part) in vars.iter().zip(["dx", "dweight", "dbias"]) {
            assert_close(grads.get(var).unwrap(), &g[&format!("{name}.{part}")], 5e-6);
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let all = inputs(4, 3, 2);
    let fails = |x: &Tensor, weight: &Tensor, bias: &Tensor| {
        linear(x, weight, Some(bias), Activation::None).unwrap_err().to_string()
    };
    let (x, weight, bias) = (&all[0], &all[1], &all[2]);
    assert!(fails(x, &random((2, 4), 1), bias).contains("weight of [k, 3]"));
    assert!(fails(x, &random(3, 1), bias).contains("weight of [k, 3]"));
    assert!(fails(x, &random((0, 3), 1), bias).contains("k ≥ 1"));
    assert!(fails(x, weight, &random(3, 1)).contains("bias of [2]"));
    assert!(fails(x, &random_f32((2, 3), 1), bias).contains("F32"));
    assert!(fails(&Tensor::new(1f64, &Device::Cpu).unwrap(), weight, bias).contains("[.., c]"));
    assert!(fails(&random((0, 3), 1), weight, bias).contains("at least 1"));
    assert!(fails(&x.to_dtype(DType::U8).unwrap(), weight, bias).contains("U8"));
}
