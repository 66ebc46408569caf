use super::*;
use crate::gradcheck::GradCheck;
use crate::testing::{assert_close, assert_same_bits, golden, random, random_f32, values, with_threads};
use candle_core::{Device, Var};

const EPS: f64 = 1e-5;

/// The module's formula in f64.
fn naive(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    let (weight, bias) = (values(weight), values(bias));
    let count = weight.len() as f64;
    let y: Vec<f64> = values(x)
        .chunks(weight.len())
        .flat_map(|row| {
            let mean = row.iter().sum::<f64>() / count;
            let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
            let affine = |(i, v): (usize, &f64)| (v - mean) / (var + EPS).sqrt() * weight[i] + bias[i];
            row.iter().enumerate().map(affine).collect::<Vec<_>>()
        })
        .collect();
    Tensor::from_vec(y, x.shape(), &Device::Cpu).unwrap()
}

type Norm = fn(&Tensor, &Tensor, &Tensor, f64) -> Result<Tensor>;

/// y and the gradients of x, weight and bias for fixed numbers from above.
fn run(f: Norm, [x, weight, bias]: [&Tensor; 3]) -> Vec<Tensor> {
    let vars = [x, weight, bias].map(|t| Var::from_tensor(t).unwrap());
    let y = f(&vars[0], &vars[1], &vars[2], EPS).unwrap();
    let dy = random(y.shape(), 99).to_dtype(y.dtype()).unwrap();
    let grads = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    std::iter::once(y.detach()).chain(vars.iter().map(|v| grads.get(v).unwrap().clone())).collect()
}

#[test]
fn values_are_those_of_the_formula() {
    for shape in [&[1][..], &[7], &[3, 1], &[2, 3, 37], &[513, 64], &[5, 2048], &[3, 3001]] {
        let c = shape[shape.len() - 1];
        let (x, weight, bias) = (random(shape, 1), random(c, 2), random(c, 3));
        let expected = naive(&x, &weight, &bias);
        assert_close(&layer_norm(&x, &weight, &bias, EPS).unwrap(), &expected, 1e-12);
        assert_close(&reference(&x, &weight, &bias, EPS).unwrap(), &expected, 1e-12);
        let [x, weight, bias] = [x, weight, bias].map(|t| t.to_dtype(DType::F32).unwrap());
        assert_close(&layer_norm(&x, &weight, &bias, EPS).unwrap(), &naive(&x, &weight, &bias), 1e-6);
    }
    let (view, weight, bias) = (random((6, 5), 4).t().unwrap(), random(6, 5), random((6, 2), 6));
    let bias = bias.narrow(1, 1, 1).unwrap().squeeze(1).unwrap();
    let expected = naive(&view, &weight, &bias);
    assert_close(&layer_norm(&view, &weight, &bias, EPS).unwrap(), &expected, 1e-12);
}

#[test]
fn a_large_mean_does_no_harm() {
    let x = random((40, 300), 1).affine(1.0, 4096.0).unwrap().to_dtype(DType::F32).unwrap();
    let (weight, bias) = (random_f32(300, 2), random_f32(300, 3));
    // The mean is 4096 and some, which f32 holds to 2.4e-4 of the deviation: the correction must mend that.
    assert_close(&layer_norm(&x, &weight, &bias, EPS).unwrap(), &naive(&x, &weight, &bias), 1e-6);
    let wide = [&x, &weight, &bias].map(|t| t.to_dtype(DType::F64).unwrap());
    let expected = run(reference, wide.each_ref());
    for (got, expected) in run(layer_norm, [&x, &weight, &bias]).iter().zip(&expected) {
        assert_close(got, expected, 3e-6);
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for (rows, c) in [(3, 5), (2, 40), (4, 2)] {
        let inputs = [random((rows, c), 1), random(c, 2), random(c, 3)];
        for f in [layer_norm as Norm, reference] {
            GradCheck::f64().check(&inputs, |t| f(&t[0], &t[1], &t[2], EPS)).unwrap();
        }
    }
    let inputs = [random((4, 3), 1), random(4, 2), random(4, 3)];
    GradCheck::f64().check(&inputs, |t| layer_norm(&t[0].t().unwrap(), &t[1], &t[2], EPS)).unwrap();
}

#[test]
fn many_tasks_and_blocks_agree_with_the_reference() {
    // More rows than tasks times a block of rows.
    let inputs = [random((9001, 21), 1), random(21, 2), random(21, 3)];
    let expected = run(reference, inputs.each_ref());
    for (got, expected) in run(layer_norm, inputs.each_ref()).iter().zip(&expected) {
        assert_close(got, expected, 1e-11);
    }
    let narrow = inputs.map(|t| t.to_dtype(DType::F32).unwrap());
    for (got, expected) in run(layer_norm, narrow.each_ref()).iter().zip(&expected) {
        assert_close(got, expected, 2e-5);
    }
}

#[test]
fn equal_numbers_give_the_bias_and_finite_gradients() {
    for c in [1, 24] {
        let x = Tensor::full(7.3f32, (3, c), &Device::Cpu).unwrap();
        let (weight, bias) = (random_f32(c, 2), random_f32(c, 3));
        let all = run(layer_norm, [&x, &weight, &bias]);
        assert_close(&all[0], &bias.broadcast_as((3, c)).unwrap(), 1e-4);
        assert!(all.iter().flat_map(values).all(f64::is_finite));
    }
}

#[test]
fn large_and_small_numbers_and_nan() {
    // Squares of 1e15 are within f32's range, and an ε far below the variance changes nothing.
    let (weight, bias) = (Tensor::ones(33, DType::F32, &Device::Cpu).unwrap(), random_f32(33, 3));
    let x = (random_f32((4, 33), 1) * 1e15).unwrap();
    assert_close(&layer_norm(&x, &weight, &bias, EPS).unwrap(), &naive(&x, &weight, &bias), 1e-6);
    let x = (random_f32((4, 33), 1) * 1e-15).unwrap();
    assert_close(&layer_norm(&x, &weight, &bias, EPS).unwrap(), &naive(&x, &weight, &bias), 1e-6);
    let x = Tensor::new(&[[0f32, f32::NAN], [0.0, 1.0]], &Device::Cpu).unwrap();
    let two = |t: &Tensor| t.narrow(0, 0, 2).unwrap();
    let y = values(&layer_norm(&x, &two(&weight), &two(&bias), EPS).unwrap());
    assert!(y[..2].iter().all(|y| y.is_nan()) && y[2..].iter().all(|y| y.is_finite()));
}

#[test]
fn bits_do_not_depend_on_threads() {
    let inputs = [random_f32((1301, 77), 1), random_f32(77, 2), random_f32(77, 3)];
    let one = with_threads(1, || run(layer_norm, inputs.each_ref()));
    let three = with_threads(3, || run(layer_norm, inputs.each_ref()));
    one.iter().zip(&three).for_each(|(a, b)| assert_same_bits(a, b));
}

#[test]
fn narrow_numbers_are_computed_in_f32() {
    let inputs = [random((5, 64), 1), random(64, 2), random(64, 3)].map(|t| t.to_dtype(DType::BF16).unwrap());
    let all = run(layer_norm, inputs.each_ref());
    assert!(all.iter().all(|t| t.dtype() == DType::BF16));
    // One rounding to bf16, whose eight bits of significand make half a unit 2⁻⁸.
    let [x, weight, bias] = &inputs;
    assert_close(&all[0], &naive(x, weight, bias), 1.0 / 256.0);
}

#[test]
fn agrees_with_pytorch() {
    let g = golden("layer_norm");
    let all = [&g["x"], &g["weight"], &g["bias"]].map(|t| Var::from_tensor(t).unwrap());
    let y = layer_norm(&all[0], &all[1], &all[2], EPS).unwrap();
    let grads = (&y * &g["dy"]).unwrap().sum_all().unwrap().backward().unwrap();
    assert_close(&y, &g["y"], 2e-6);
    for (var, name) in all.iter().zip(["dx", "dweight", "dbias"]) {
        assert_close(grads.get(var).unwrap(), &g[name], 2e-6);
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let (x, weight) = (random((3, 5), 1), random(5, 2));
    let fails = |x: &Tensor, w: &Tensor, b: &Tensor, eps| layer_norm(x, w, b, eps).unwrap_err().to_string();
    assert!(fails(&x, &random(4, 1), &weight, EPS).contains("weight of [5]"));
    assert!(fails(&x, &weight, &random((1, 5), 1), EPS).contains("bias of [5]"));
    assert!(fails(&x, &weight, &random_f32(5, 1), EPS).contains("F32"));
    assert!(fails(&x, &weight, &weight, 0.0).contains("eps"));
    assert!(fails(&x, &weight, &weight, f64::NAN).contains("eps"));
    assert!(fails(&Tensor::new(1f64, &Device::Cpu).unwrap(), &weight, &weight, EPS).contains("[.., c]"));
    assert!(fails(&random((0, 5), 1), &weight, &weight, EPS).contains("at least 1"));
    let integers = Tensor::zeros((3, 5), DType::U8, &Device::Cpu).unwrap();
    assert!(fails(&integers, &weight, &weight, EPS).contains("U8"));
}
