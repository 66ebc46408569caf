//! The linear probe against scikit-learn's optima and against what must hold of any such probe.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use selfsup_probe::linear::{LinearConfig, accuracy, fit};
use selfsup_probe::{Error, Labelled};
use serde_json::Value;

fn classes(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("class{i}")).collect()
}

fn labelled<'a>(values: Vec<f32>, dim: usize, labels: Vec<u32>, classes: &'a [String]) -> Labelled<'a> {
    let ids: Vec<String> = (0..labels.len()).map(|i| format!("s{i}")).collect();
    Labelled::new("test data", values, dim, labels, ids, classes).unwrap()
}

/// Overlapping clusters: feature j of class c is shifted by `shift` where j mod classes = c.
fn clusters(n: usize, dim: usize, shift: f32, classes: &[String], seed: u64) -> Labelled<'_> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for i in 0..n {
        let label = i % classes.len();
        for j in 0..dim {
            let centre = if j % classes.len() == label { shift } else { 0.0 };
            values.push(centre + rng.random_range(-1.0f32..1.0));
        }
        labels.push(label as u32);
    }
    labelled(values, dim, labels, classes)
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// Products are f32 here and f64 there; at a gradient of 1e-7 the weights, whose curvature is at least l2,
/// would agree to 1e-7 / l2, and they do to the f32 rounding of some hundred sums.
#[test]
fn finds_the_optimum_that_scikit_learn_finds() {
    let golden: Value = serde_json::from_str(include_str!("golden/logistic_regression.json")).unwrap();
    let classes = classes(3);
    let dim = golden["dim"].as_u64().unwrap() as usize;
    let part = |name: &str| {
        let values = numbers(&golden[name]["values"]).iter().map(|&v| v as f32).collect();
        let labels = numbers(&golden[name]["labels"]).iter().map(|&v| v as u32).collect();
        labelled(values, dim, labels, &classes)
    };
    let (train, test) = (part("train"), part("test"));
    for expected in golden["fits"].as_array().unwrap() {
        let l2 = expected["l2"].as_f64().unwrap();
        let config =
            LinearConfig { l2: vec![l2], tolerance: 1e-7, max_iterations: 1000, ..Default::default() };
        let model = fit(&train, &config, 0).unwrap();
        assert!(model.gradient <= 1e-7, "l2 {l2}: gradient {}, {} steps", model.gradient, model.iterations);
        let objective = expected["objective"].as_f64().unwrap();
        assert!(
            (model.objective - objective).abs() < 1e-6 * objective,
            "l2 {l2}: {} and {objective}",
            model.objective
        );
        let largest = numbers(&expected["weights"]).iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for (i, (got, expected)) in model.weights().iter().zip(numbers(&expected["weights"])).enumerate() {
            let close = (got - expected).abs() < 1e-3 * largest;
            assert!(close, "l2 {l2}: weight {i} is {got}, expected {expected}");
        }
        let mean = model.biases().iter().sum::<f64>() / 3.0;
        for (i, (got, expected)) in model.biases().iter().zip(numbers(&expected["biases"])).enumerate() {
            let close = (got - mean - expected).abs() < 1e-3 * largest.max(1.0);
            assert!(close, "l2 {l2}: bias {i} is {}, expected {expected}", got - mean);
        }
        let predicted: Vec<u32> = numbers(&expected["predicted"]).iter().map(|&v| v as u32).collect();
        assert_eq!(model.predict(&test).unwrap(), predicted, "l2 {l2}");
    }
}

#[test]
fn separable_classes_are_separated() {
    let classes = classes(3);
    let (train, test) = (clusters(300, 9, 3.0, &classes, 1), clusters(150, 9, 3.0, &classes, 2));
    let result = accuracy(&train, &test, &LinearConfig::default(), 0).unwrap();
    assert_eq!(result.accuracy, 1.0, "{result:?}");
}

#[test]
fn random_labels_give_chance() {
    let classes = classes(4);
    let (train, test) = (clusters(2000, 16, 0.0, &classes, 3), clusters(2000, 16, 0.0, &classes, 4));
    let result = accuracy(&train, &test, &LinearConfig::default(), 0).unwrap();
    // The standard deviation of a share of 2000 at 0.25 is 0.0097.
    assert!((result.accuracy - 0.25).abs() < 0.04, "{result:?}");
}

#[test]
fn the_test_part_decides_nothing() {
    let classes = classes(3);
    let train = clusters(120, 30, 0.5, &classes, 5);
    let test = clusters(90, 30, 0.5, &classes, 6);
    let turned = test.labels().iter().map(|l| (l + 1) % 3).collect();
    let turned = labelled(test.values().to_vec(), 30, turned, &classes);
    let config = LinearConfig::default();
    let (a, b) =
        (accuracy(&train, &test, &config, 7).unwrap(), accuracy(&train, &turned, &config, 7).unwrap());
    assert_eq!((a.l2, a.iterations), (b.l2, b.iterations));
    assert!(a.accuracy > 0.6 && b.accuracy < 0.3, "{a:?} {b:?}");
    // Nor do its features: predictions of a subset are those of the whole.
    let model = fit(&train, &config, 7).unwrap();
    let all = model.predict(&test).unwrap();
    let some: Vec<usize> = (0..90).step_by(7).collect();
    let expected: Vec<u32> = some.iter().map(|&i| all[i]).collect();
    assert_eq!(model.predict(&test.select(&some)).unwrap(), expected);
}

/// 40 noisy samples in 200 dimensions want a strong penalty, many clean ones a weak one.
#[test]
fn chooses_the_strength_that_suits_the_data() {
    let classes = classes(2);
    let config = LinearConfig { l2: vec![1e-6, 10.0], ..Default::default() };
    let noisy = fit(&clusters(400, 200, 0.05, &classes, 8), &config, 0).unwrap();
    assert_eq!(noisy.l2, 10.0, "{:?}", noisy.tried);
    // A rotated, narrow boundary: the mean difference alone, which a strong penalty fits, is misleading.
    let mut rng = ChaCha8Rng::seed_from_u64(10);
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for i in 0..600 {
        let common: f32 = rng.random_range(-1.0..1.0);
        let side = if i % 2 == 0 { 0.05 } else { -0.05 };
        values.extend([common + side, common, rng.random_range(-1.0..1.0) + 4.0 * side]);
        labels.push(i % 2);
    }
    let clean = fit(&labelled(values, 3, labels, &classes), &config, 0).unwrap();
    assert_eq!(clean.l2, 1e-6, "{:?}", clean.tried);
    assert_eq!(clean.tried.iter().map(|t| t.l2).collect::<Vec<_>>(), [10.0, 1e-6], "strong to weak");
}

#[test]
fn scale_and_offset_of_features_do_not_matter() {
    let classes = classes(3);
    let (train, test) = (clusters(200, 12, 0.6, &classes, 11), clusters(200, 12, 0.6, &classes, 12));
    let config = LinearConfig { l2: vec![1e-3], tolerance: 1e-6, ..Default::default() };
    let expected = fit(&train, &config, 0).unwrap();
    let change = |l: &Labelled, f: &dyn Fn(usize, f32) -> f32| {
        let values = l.values().iter().enumerate().map(|(i, &v)| f(i % 12, v)).collect();
        labelled(values, 12, l.labels().to_vec(), &classes)
    };
    // Powers of two lose no bit: exactly the same weights.
    let exact = |j: usize, v: f32| v * 2f32.powi(j as i32 * 3 - 18);
    let model = fit(&change(&train, &exact), &config, 0).unwrap();
    assert_eq!(model.weights(), expected.weights());
    assert_eq!(model.predict(&change(&test, &exact)).unwrap(), expected.predict(&test).unwrap());
    let rounded = |j: usize, v: f32| v * (0.3 + j as f32) + 5.0 * j as f32;
    let model = fit(&change(&train, &rounded), &config, 0).unwrap();
    let same = model.predict(&change(&test, &rounded)).unwrap();
    let differ = same.iter().zip(expected.predict(&test).unwrap()).filter(|(a, b)| **a != *b).count();
    assert!(differ <= 1, "{differ} predictions differ");
}

#[test]
fn constant_features_are_ignored() {
    let classes = classes(2);
    let (train, test) = (clusters(100, 4, 0.7, &classes, 13), clusters(100, 4, 0.7, &classes, 14));
    // Constant in training only, and far off in the test part; 0.1 is not exact in binary.
    let with = |l: &Labelled, extra: f32| {
        let values = l.values().chunks(4).flat_map(|row| [row, &[extra]].concat()).collect();
        labelled(values, 5, l.labels().to_vec(), &classes)
    };
    let config = LinearConfig::default();
    let expected = fit(&train, &config, 0).unwrap().predict(&test).unwrap();
    let model = fit(&with(&train, 0.1), &config, 0).unwrap();
    assert_eq!(model.predict(&with(&test, 1e6)).unwrap(), expected);
}

#[test]
fn one_label_a_class_takes_the_documented_strength() {
    let classes = classes(3);
    let train = clusters(3, 9, 3.0, &classes, 15);
    let test = clusters(90, 9, 3.0, &classes, 16);
    let config = LinearConfig::default();
    let model = fit(&train, &config, 0).unwrap();
    assert_eq!((model.l2, model.tried.len()), (config.l2_without_held_out, 0));
    assert!(accuracy(&train, &test, &config, 0).unwrap().accuracy > 0.9);
}

#[test]
fn labels_need_not_be_dense_nor_classes_present() {
    let few = classes(2);
    let many = classes(7);
    let (train, test) = (clusters(100, 4, 0.7, &few, 17), clusters(50, 4, 0.7, &few, 18));
    let spread = |l: &Labelled| l.labels().iter().map(|&l| if l == 0 { 2 } else { 6 }).collect::<Vec<u32>>();
    let wide = labelled(train.values().to_vec(), 4, spread(&train), &many);
    let wide_test = labelled(test.values().to_vec(), 4, spread(&test), &many);
    let config = LinearConfig::default();
    let expected: Vec<u32> = fit(&train, &config, 0)
        .unwrap()
        .predict(&test)
        .unwrap()
        .iter()
        .map(|&l| if l == 0 { 2 } else { 6 })
        .collect();
    let model = fit(&wide, &config, 0).unwrap();
    assert_eq!(model.biases().len(), 2, "a class without samples gets no weights");
    let predicted = model.predict(&wide_test).unwrap();
    // The held-out labels differ with the class's number, so the strength may: compare what is predicted.
    let differ = predicted.iter().zip(&expected).filter(|(a, b)| a != b).count();
    assert!(differ <= 2 && predicted.iter().all(|&l| l == 2 || l == 6), "{differ} differ");
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let classes = classes(5);
    let train = clusters(3000, 200, 0.1, &classes, 19); // some hundred blocks would hide nothing; 5 do not either
    let config = LinearConfig { l2: vec![1e-2, 1e-3], ..Default::default() };
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fit(&train, &config, 3)).unwrap()
    };
    let one = run(1);
    for threads in [2, 5] {
        let other = run(threads);
        assert_eq!(other.weights(), one.weights(), "{threads} threads");
        assert_eq!(other.tried, one.tried, "{threads} threads");
    }
}

#[test]
fn the_seed_decides_what_is_held_out() {
    let classes = classes(3);
    let train = clusters(90, 20, 0.3, &classes, 20);
    let config = LinearConfig::default();
    let tried = |seed| fit(&train, &config, seed).unwrap().tried;
    assert_eq!(tried(1), tried(1));
    assert_ne!(tried(1), tried(2));
}

#[test]
fn says_what_is_wrong() {
    let classes = classes(3);
    let train = clusters(30, 3, 1.0, &classes, 21);
    let message = |config: LinearConfig| fit(&train, &config, 0).unwrap_err().to_string();
    let default = LinearConfig::default;
    assert_eq!(
        message(LinearConfig { l2: vec![], ..default() }),
        "l2 must be at least one strength, got none"
    );
    assert_eq!(
        message(LinearConfig { l2: vec![1.0, 0.0], ..default() }),
        "l2 must be positive and finite, got 0"
    );
    assert_eq!(
        message(LinearConfig { held_out: 1.0, ..default() }),
        "the held-out share must be between 0 and 1, both excluded, got 1"
    );
    assert_eq!(
        message(LinearConfig { max_iterations: 0, ..default() }),
        "max_iterations must be at least 1, got 0"
    );
    let narrow = clusters(30, 2, 1.0, &classes, 21);
    assert!(matches!(accuracy(&train, &narrow, &default(), 0), Err(Error::Dimensions { train: 3, test: 2 })));
    let one = train.select(&[0, 3, 6]);
    assert!(matches!(fit(&one, &default(), 0), Err(Error::OneClass { samples: 3, .. })));
    let two = train.select(&[0, 1, 3, 4]);
    assert!(
        matches!(accuracy(&two, &train, &default(), 0), Err(Error::UnknownClass { id, .. }) if id == "s2")
    );
}
