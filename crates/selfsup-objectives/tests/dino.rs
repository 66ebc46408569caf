//! DINO's loss against lightly's values and gradients, finite differences, closed forms, bad input.

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use selfsup_kernels::gradcheck::GradCheck;
use selfsup_objectives::dino;
use serde_json::Value;

fn random(n: usize, k: usize, seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..n * k).map(|_| rng.random_range(-2.0..2.0)).collect();
    Tensor::from_vec(values, (n, k), &Device::Cpu).unwrap()
}

fn scalar(t: &Tensor) -> f64 {
    t.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

#[test]
fn values_and_gradients_are_lightly_s() {
    let golden: Value = serde_json::from_str(include_str!("golden/dino.json")).unwrap();
    assert_eq!(golden.as_array().unwrap().len(), 3);
    for case in golden.as_array().unwrap() {
        let (n, k) = (case["n"].as_u64().unwrap() as usize, case["k"].as_u64().unwrap() as usize);
        let lists = |key: &str| -> Vec<Vec<f64>> { serde_json::from_value(case[key].clone()).unwrap() };
        let [student_t, teacher_t]: [f64; 2] = serde_json::from_value(case["temperatures"].clone()).unwrap();
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-4)] {
            let tensor = |values: Vec<f64>, rows| {
                Tensor::from_vec(values, (rows, k), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
            };
            let vars = |key: &str| -> Vec<Var> {
                lists(key).into_iter().map(|v| Var::from_tensor(&tensor(v, n)).unwrap()).collect()
            };
            let tensors = |vars: &[Var]| vars.iter().map(|v| v.as_tensor().clone()).collect::<Vec<_>>();
            let (student, teacher) = (vars("student"), vars("teacher"));
            let centre: Vec<f64> = serde_json::from_value(case["centre"].clone()).unwrap();
            let centre = Var::from_tensor(&tensor(centre, 1)).unwrap();
            let loss = dino(&tensors(&student), &tensors(&teacher), &centre, student_t, teacher_t).unwrap();
            let wanted = case["value"].as_f64().unwrap();
            assert!((scalar(&loss) - wanted).abs() <= tolerance * wanted.abs(), "{loss} and {wanted}");
            let grads = loss.backward().unwrap();
            for (view, wanted) in student.iter().zip(lists("gradients")) {
                let got = grads.get(view).unwrap().to_dtype(DType::F64).unwrap().flatten_all().unwrap();
                for (got, wanted) in got.to_vec1::<f64>().unwrap().iter().zip(wanted) {
                    assert!((got - wanted).abs() <= tolerance, "{got} and {wanted}");
                }
            }
            // The teacher stands still.
            assert!(teacher.iter().chain([&centre]).all(|var| grads.get(var).is_none()));
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let views: Vec<Tensor> = (0..4).map(|i| random(3, 5, i)).collect();
    let (teacher, centre) = ([random(3, 5, 10), random(3, 5, 11)], random(1, 5, 12));
    GradCheck::f64().check(&views, |t| dino(t, &teacher, &centre, 0.5, 0.3)).unwrap();
}

#[test]
fn closed_forms() {
    // A student that says nothing pays ln k, whatever the teacher says.
    let zeros = Tensor::zeros((4, 6), DType::F64, &Device::Cpu).unwrap();
    let centre = Tensor::zeros((1, 6), DType::F64, &Device::Cpu).unwrap();
    let teacher = [random(4, 6, 1), random(4, 6, 2)];
    let loss = scalar(&dino(&[zeros.clone(), zeros.clone(), zeros], &teacher, &centre, 0.1, 0.04).unwrap());
    assert!((loss - 6f64.ln()).abs() < 1e-12, "{loss}");
    // A view is not compared with itself: with two views each sees the other's teacher alone.
    let (a, b) = (random(4, 6, 3), random(4, 6, 4));
    let both = scalar(&dino(&[a.clone(), b.clone()], &[a.clone(), b.clone()], &centre, 0.1, 0.04).unwrap());
    let swapped = scalar(&dino(&[b.clone(), a.clone()], &[b, a], &centre, 0.1, 0.04).unwrap());
    assert!((both - swapped).abs() < 1e-12);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (z, wide, centre) = (random(3, 4, 1), random(3, 5, 2), random(1, 4, 3));
    let one = std::slice::from_ref(&z);
    let text = |student: &[Tensor], teacher: &[Tensor], centre: &Tensor, t: f64| {
        dino(student, teacher, centre, t, 0.1).unwrap_err().to_string()
    };
    assert!(text(&[], one, &centre, 0.1).contains("at least two views"));
    assert!(text(one, one, &centre, 0.1).contains("another one"));
    assert!(text(&[z.clone(), z.clone()], &[], &centre, 0.1).contains("global"));
    assert!(text(&[z.clone(), wide.clone()], one, &centre, 0.1).contains("first view"));
    assert!(text(&[z.clone(), z.clone()], std::slice::from_ref(&wide), &centre, 0.1).contains("first view"));
    assert!(text(&[z.clone(), z.clone()], one, &wide, 0.1).contains("centre"));
    assert!(text(&[z.clone(), z.clone()], one, &centre, 0.0).contains("temperature"));
}
