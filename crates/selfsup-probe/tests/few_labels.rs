//! Draws of few labels: how many of each class, and that the seed alone decides which.

use selfsup_probe::{Error, few_labels::draw};
use std::collections::HashMap;

fn classes(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("class{i}")).collect()
}

/// Unequal classes: half of the samples of class 0, a third of class 1, the rest of class 2.
fn labels() -> Vec<u32> {
    (0..60).map(|i| [0, 1, 0, 2, 0, 1][i % 6]).collect()
}

#[test]
fn draws_the_same_number_of_each_class_without_replacement() {
    let labels = labels();
    for per_class in [1, 4, 10] {
        let drawn = draw(&labels, &classes(3), per_class, 5).unwrap();
        assert!(drawn.windows(2).all(|w| w[0] < w[1]), "ascending and without repetition: {drawn:?}");
        for class in 0..3 {
            assert_eq!(drawn.iter().filter(|&&i| labels[i] == class).count(), per_class, "class {class}");
        }
    }
}

#[test]
fn the_seed_decides_and_small_draws_are_part_of_large_ones() {
    let (labels, classes) = (labels(), classes(3));
    let small = draw(&labels, &classes, 4, 1).unwrap();
    assert_eq!(draw(&labels, &classes, 4, 1).unwrap(), small);
    assert_ne!(draw(&labels, &classes, 4, 2).unwrap(), small);
    let large = draw(&labels, &classes, 9, 1).unwrap();
    assert!(small.iter().all(|i| large.contains(i)));
}

#[test]
fn every_sample_is_drawn_equally_often() {
    let (labels, classes) = (labels(), classes(3));
    let draws = 3000;
    let mut times: HashMap<usize, usize> = HashMap::new();
    for seed in 0..draws {
        for i in draw(&labels, &classes, 5, seed).unwrap() {
            *times.entry(i).or_default() += 1;
        }
    }
    for (i, &label) in labels.iter().enumerate() {
        let members = labels.iter().filter(|&&l| l == label).count() as f64;
        let p = 5.0 / members;
        let (expected, std) = (draws as f64 * p, (draws as f64 * p * (1.0 - p)).sqrt());
        let got = *times.get(&i).unwrap_or(&0) as f64;
        assert!(
            (got - expected).abs() < 4.5 * std,
            "sample {i} drawn {got} times, expected {expected} ± {std}"
        );
    }
}

#[test]
fn names_the_class_that_has_too_few() {
    let error = draw(&labels(), &classes(3), 11, 0).unwrap_err();
    assert_eq!(error.to_string(), "the class `class2` has 10 labelled training samples, 11 were asked for");
    assert!(matches!(draw(&labels(), &classes(4), 1, 0), Err(Error::TooFewLabels { available: 0, .. })));
    assert!(matches!(draw(&labels(), &classes(3), 0, 0), Err(Error::Setting { .. })));
}
