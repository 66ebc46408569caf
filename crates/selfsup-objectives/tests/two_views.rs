//! Losses of two views: values and gradients of lightly's, finite differences, closed forms, collapse, bad input.

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use selfsup_kernels::gradcheck::GradCheck;
use selfsup_objectives::{
    Result, VicRegWeights, barlow_twins, info_nce_queue, negative_cosine, queue_accuracy, vicreg,
};
use serde_json::Value;

fn random(n: usize, d: usize, seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..n * d).map(|_| rng.random_range(-2.0..2.0)).collect();
    Tensor::from_vec(values, (n, d), &Device::Cpu).unwrap()
}

fn scalar(t: &Tensor) -> f64 {
    t.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

fn list(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// The loss of a golden case.
fn apply(case: &Value, z1: &Tensor, z2: &Tensor, queue: Option<&Tensor>) -> Result<Tensor> {
    let parameter = &case["parameter"];
    match case["loss"].as_str().unwrap() {
        "negative_cosine" => negative_cosine(z1, z2),
        "barlow_twins" => barlow_twins(z1, z2, parameter.as_f64().unwrap()),
        "vicreg" => {
            let [invariance, variance, covariance] = list(parameter)[..] else { panic!("three weights") };
            vicreg(z1, z2, VicRegWeights { invariance, variance, covariance })
        }
        "info_nce_queue" => info_nce_queue(z1, z2, queue.unwrap(), parameter.as_f64().unwrap()),
        other => panic!("no loss {other}"),
    }
}

#[test]
fn values_and_gradients_are_lightly_s_and_moco_s() {
    let golden: Value = serde_json::from_str(include_str!("golden/two_views.json")).unwrap();
    let cases = golden.as_array().unwrap();
    assert_eq!(cases.len(), 21);
    for case in cases {
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let (n, d) = (size("n"), size("d"));
        // Two rows standardised are ±1 whatever they were: their gradient is what ε leaves of a difference, which f32 knows
        // only beside the numbers that cancel.
        for (dtype, tolerance, floor) in [(DType::F64, 1e-10, 1e-3), (DType::F32, 2e-4, 0.05)] {
            let var = |key: &str, rows: usize| {
                let t = Tensor::from_vec(list(&case[key]), (rows, d), &Device::Cpu).unwrap();
                Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap()
            };
            let rows = case["queue"].as_array().unwrap().len() / d;
            let queue = (rows > 0).then(|| var("queue", rows));
            let (z1, z2) = (var("z1", n), var("z2", n));
            let loss = apply(case, &z1, &z2, queue.as_deref()).unwrap();
            let grads = loss.backward().unwrap();
            let what = format!("{} {} {n}×{d} {dtype:?}", case["loss"], case["parameter"]);
            let wanted = case["value"].as_f64().unwrap();
            assert!((scalar(&loss) - wanted).abs() <= tolerance * (1.0 + wanted.abs()), "{what}: {loss}");
            for (name, var) in [("dz1", &z1), ("dz2", &z2)] {
                let got = grads.get(var).unwrap().to_dtype(DType::F64).unwrap().flatten_all().unwrap();
                let wanted = list(&case[name]);
                let scale = wanted.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
                for (i, (got, wanted)) in got.to_vec1::<f64>().unwrap().iter().zip(wanted).enumerate() {
                    let off = (got - wanted).abs();
                    assert!(off <= tolerance * (scale + floor), "{what}: {name}[{i}] is {got}, not {wanted}");
                }
            }
            if let Some(queue) = queue {
                assert!(grads.get(&queue).is_none(), "the queue got a gradient");
            }
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let check = |inputs: &[Tensor], f: &dyn Fn(&[Tensor]) -> Result<Tensor>| {
        GradCheck::f64().check(inputs, f).unwrap();
    };
    let pair = [random(5, 4, 1), random(5, 4, 2)];
    check(&pair, &|t| negative_cosine(&t[0], &t[1]));
    check(&pair, &|t| barlow_twins(&t[0], &t[1], 0.01));
    // Columns of either kind: spread enough, and too little.
    let narrow = [(&pair[0] * 0.3).unwrap(), pair[1].clone()];
    check(&narrow, &|t| vicreg(&t[0], &t[1], VicRegWeights::default()));
    let queue = random(7, 4, 3);
    check(&pair, &|t| info_nce_queue(&t[0], &t[1], &queue, 0.2));
}

#[test]
fn closed_forms() {
    let eye = Tensor::eye(3, DType::F64, &Device::Cpu).unwrap();
    let turned = Tensor::new(&[[0f64, 1., 0.], [0., 0., 1.], [1., 0., 0.]], &Device::Cpu).unwrap();
    assert_eq!(scalar(&negative_cosine(&eye, &(&eye * 5.0).unwrap()).unwrap()), -1.0);
    assert_eq!(scalar(&negative_cosine(&eye, &turned).unwrap()), 0.0);
    assert_eq!(scalar(&negative_cosine(&eye, &eye.neg().unwrap()).unwrap()), 1.0);
    // Columns without correlation, the views alike: C is the identity but for ε.
    let h = [[1f64, 1., 1.], [-1., 1., -1.], [1., -1., -1.], [-1., -1., 1.]];
    let z = Tensor::new(&h, &Device::Cpu).unwrap();
    assert!(scalar(&barlow_twins(&z, &z, 1.0).unwrap()) < 1e-9);
    // The other view's columns exchanged: the diagonal loses 2, and λ weighs the 2 beside it.
    let swapped = Tensor::cat(
        &[&z.narrow(1, 1, 1).unwrap(), &z.narrow(1, 0, 1).unwrap(), &z.narrow(1, 2, 1).unwrap()],
        1,
    );
    let loss = scalar(&barlow_twins(&z, &swapped.unwrap(), 0.25).unwrap());
    assert!((loss - (2.0 + 0.25 * 2.0)).abs() < 1e-4, "{loss}");
    // Spread, alike, uncorrelated: nothing is wrong.
    assert!(scalar(&vicreg(&z, &z, VicRegWeights::default()).unwrap()) < 1e-9);
    // All rows at one point: the hinge is full but for ε, nothing else.
    let point = Tensor::ones((4, 3), DType::F64, &Device::Cpu).unwrap();
    let collapsed = scalar(&vicreg(&point, &point, VicRegWeights::default()).unwrap());
    assert!((collapsed - 25.0 * (1.0 - 0.01)).abs() < 1e-9, "{collapsed}");
    // As many negatives as there are, all as near as the own key.
    let same = Tensor::ones((2, 3), DType::F64, &Device::Cpu).unwrap();
    let queue = Tensor::ones((7, 3), DType::F64, &Device::Cpu).unwrap();
    let loss = scalar(&info_nce_queue(&same, &same, &queue, 0.1).unwrap());
    assert!((loss - 8f64.ln()).abs() < 1e-12, "{loss}");
}

#[test]
fn the_own_key_must_be_nearer_than_the_queue_s() {
    let q = Tensor::new(&[[1f64, 0.], [0., 1.], [1., 1.], [3., 0.]], &Device::Cpu).unwrap();
    let k = Tensor::new(&[[2f64, 0.1], [1., 0.], [5., 5.], [1., 1.]], &Device::Cpu).unwrap();
    let queue = Tensor::new(&[[0f64, 1.], [1., 1.], [-1., 0.]], &Device::Cpu).unwrap();
    // Won; lost; a tie; a tie.
    assert_eq!(queue_accuracy(&q, &k, &queue).unwrap(), 0.25);
}

#[test]
fn what_collapses_stays_finite() {
    for value in [0.0, 1.0] {
        let z = (Tensor::ones((4, 3), DType::F32, &Device::Cpu).unwrap() * value).unwrap();
        type Loss = fn(&Tensor, &Tensor) -> Result<Tensor>;
        let losses: [Loss; 3] = [
            negative_cosine,
            |a, b| barlow_twins(a, b, 0.005),
            |a, b| vicreg(a, b, VicRegWeights::default()),
        ];
        for loss in losses {
            let (a, b) = (Var::from_tensor(&z).unwrap(), Var::from_tensor(&z).unwrap());
            let loss = loss(&a, &b).unwrap();
            assert!(scalar(&loss).is_finite());
            let grads = loss.backward().unwrap();
            for var in [&a, &b] {
                let sum = grads.get(var).unwrap().abs().unwrap().sum_all().unwrap();
                assert!(scalar(&sum).is_finite());
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (z, wide, one) = (random(4, 3, 1), random(4, 5, 2), random(1, 3, 3));
    let text = |result: Result<Tensor>| result.unwrap_err().to_string();
    assert!(text(negative_cosine(&z, &wide)).contains("[4, 3] as z1"));
    assert!(text(barlow_twins(&one, &one, 0.1)).contains("n ≥ 2"));
    assert!(text(vicreg(&one, &one, VicRegWeights::default())).contains("n ≥ 2"));
    for bad in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(text(barlow_twins(&z, &z, bad)).contains("lambda"));
        let weights = VicRegWeights { covariance: bad, ..VicRegWeights::default() };
        assert!(text(vicreg(&z, &z, weights)).contains("covariance"));
    }
    assert!(text(info_nce_queue(&z, &z, &wide, 0.1)).contains("[m, 3]"));
    assert!(text(info_nce_queue(&z, &z, &z, 0.0)).contains("temperature"));
    let narrow = z.to_dtype(DType::F32).unwrap();
    assert!(text(info_nce_queue(&z, &z, &narrow, 0.1)).contains("F64 as the queries"));
}
