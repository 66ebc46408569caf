//! The protocol's rows, their JSON, and what they say of data whose answer is known.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use selfsup_probe::protocol::mean_and_std;
use selfsup_probe::{Error, Features, Kind, ProbeConfig, knn, linear, run};
use serde_json::json;

const DIM: usize = 6;

fn classes() -> Vec<String> {
    ["bird", "cat", "dog"].map(String::from).to_vec()
}

/// Clusters of three classes; every `unlabelled`-th sample has no label.
fn features(n: usize, shift: f32, unlabelled: usize, seed: u64) -> Features {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut features = Features { dim: DIM, ..Default::default() };
    for i in 0..n {
        let centre = |j: usize| if j % 3 == i % 3 { shift } else { 0.0 };
        features.values.extend((0..DIM).map(|j| centre(j) + rng.random_range(-1.0f32..1.0)));
        features.labels.push((i % unlabelled != unlabelled - 1).then_some((i % 3) as u32));
        features.ids.push(format!("seed{seed}/{i}"));
    }
    features
}

#[test]
fn one_row_for_each_kind_and_number_of_labels() {
    let (train, test) = (features(200, 0.6, 10, 1), features(100, 0.6, 7, 2));
    let config =
        ProbeConfig { labels_per_class: vec![None, Some(5)], seeds: vec![0, 1, 2], ..Default::default() };
    let rows = run(&train, &test, &classes(), &config).unwrap();
    let shape: Vec<_> =
        rows.iter().map(|r| (r.kind, r.labels_per_class, r.train, r.test, r.values.len())).collect();
    assert_eq!(
        shape,
        [
            (Kind::Knn, None, 180, 86, 1),
            (Kind::Knn, Some(5), 15, 86, 3),
            (Kind::Linear, None, 180, 86, 3),
            (Kind::Linear, Some(5), 15, 86, 3),
        ]
    );
    for row in &rows {
        assert_eq!((row.mean, row.std), mean_and_std(&row.values));
        assert!(row.mean > 0.45 && row.mean < 1.0, "{row:?}");
    }
    assert!(rows[1].std > 0.0, "draws of few labels differ: {:?}", rows[1]);
    // The values are those of the parts called alone.
    let (classes, test) = (classes(), test.labelled("test", &[]).err());
    assert!(test.is_some(), "labels outside of the class list are an error");
    let (train, test) = (features(200, 0.6, 10, 1), features(100, 0.6, 7, 2));
    let (train, test) =
        (train.labelled("train", &classes).unwrap(), test.labelled("test", &classes).unwrap());
    assert_eq!(rows[0].values, [knn::accuracy(&train, &test, &config.knn).unwrap()]);
    assert_eq!(rows[2].values[1], linear::accuracy(&train, &test, &config.linear, 1).unwrap().accuracy);
    // The same again, to the bit.
    let again = run(&features(200, 0.6, 10, 1), &features(100, 0.6, 7, 2), &classes, &config).unwrap();
    assert_eq!(again, rows);
}

#[test]
fn the_json_has_the_documented_fields() {
    let (train, test) = (features(60, 9.0, 100, 3), features(30, 9.0, 100, 4));
    let config = ProbeConfig {
        kinds: vec![Kind::Linear],
        labels_per_class: vec![None, Some(10)],
        seeds: vec![4, 5],
        ..Default::default()
    };
    let rows = run(&train, &test, &classes(), &config).unwrap();
    let row = |labels: serde_json::Value, train: usize| {
        json!({"kind": "linear", "labels_per_class": labels, "train": train, "test": 30, "metric": "top1",
               "values": [1.0, 1.0], "mean": 1.0, "std": 0.0})
    };
    assert_eq!(serde_json::to_value(&rows).unwrap(), json!([row(json!(null), 60), row(json!(10), 30)]));
}

#[test]
fn mean_and_sample_standard_deviation() {
    assert_eq!(mean_and_std(&[0.5]), (0.5, 0.0));
    let (mean, std) = mean_and_std(&[1.0, 2.0, 3.0, 4.0]);
    assert!((mean - 2.5).abs() < 1e-15 && (std - (5.0f64 / 3.0).sqrt()).abs() < 1e-15, "{mean} {std}");
}

#[test]
fn says_what_is_wrong_before_it_fits() {
    let (train, test) = (features(60, 1.0, 100, 5), features(30, 1.0, 100, 6));
    let config = ProbeConfig { labels_per_class: vec![Some(3), Some(21)], ..Default::default() };
    let message = |train: &Features, test: &Features, config: &ProbeConfig| {
        run(train, test, &classes(), config).unwrap_err().to_string()
    };
    assert_eq!(
        message(&train, &test, &config),
        "the class `bird` has 20 labelled training samples, 21 were asked for"
    );
    let default = ProbeConfig::default();
    let mut bare = features(60, 1.0, 1, 5);
    assert_eq!(
        message(&bare, &test, &default),
        "train: none of the 60 samples has a label; a probe needs labelled images"
    );
    bare.source = "photos/".into();
    assert_eq!(
        message(&train, &bare, &default),
        "photos/ (test): none of the 60 samples has a label; a probe needs labelled images"
    );
    let mut spoilt = train.clone();
    spoilt.values[7 * DIM + 2] = f32::INFINITY;
    assert_eq!(
        message(&spoilt, &test, &default),
        "train: feature 2 of sample `seed5/7` is inf; features must be finite"
    );
    let empty = Features { dim: DIM, skipped: vec![("a".into(), "b".into())], ..Default::default() };
    assert!(matches!(run(&empty, &test, &classes(), &default), Err(Error::Empty { .. })));
    for config in [
        ProbeConfig { kinds: vec![], ..Default::default() },
        ProbeConfig { seeds: vec![], ..Default::default() },
        ProbeConfig { labels_per_class: vec![], ..Default::default() },
        ProbeConfig { labels_per_class: vec![Some(0)], ..Default::default() },
    ] {
        assert!(matches!(run(&train, &test, &classes(), &config), Err(Error::Setting { .. })), "{config:?}");
    }
}
