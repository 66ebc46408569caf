//! The kNN probe against the paper's formula computed in f64 without shortcuts.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use selfsup_probe::knn::{KnnConfig, accuracy, nearest, predict};
use selfsup_probe::{Error, Labelled};

fn classes(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("class{i}")).collect()
}

fn labelled<'a>(values: Vec<f32>, dim: usize, labels: Vec<u32>, classes: &'a [String]) -> Labelled<'a> {
    let ids: Vec<String> = (0..labels.len()).map(|i| format!("s{i}")).collect();
    Labelled::new("test data", values, dim, labels, ids, classes).unwrap()
}

/// Class clusters that overlap, rows of very different lengths.
fn random(n: usize, dim: usize, classes: &[String], seed: u64) -> Labelled<'_> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values = Vec::new();
    let mut labels = Vec::new();
    for _ in 0..n {
        let label = rng.random_range(0..classes.len());
        let scale = 10f32.powf(rng.random_range(-3.0..3.0));
        for j in 0..dim {
            let centre = if j % classes.len() == label { 0.4 } else { 0.0 };
            values.push(scale * (centre + rng.random_range(-1.0f32..1.0)));
        }
        labels.push(label as u32);
    }
    labelled(values, dim, labels, classes)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let norms = dot(a, a).sqrt() * dot(b, b).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

/// The votes of every class, and how far the k-th similarity is from the next.
fn oracle(train: &Labelled, x: &[f32], k: usize, temperature: f64) -> (Vec<f64>, f64) {
    let mut all: Vec<(f64, usize)> = (0..train.len()).map(|i| (cosine(x, train.row(i)), i)).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let k = k.min(all.len());
    let gap = if k < all.len() { all[k - 1].0 - all[k].0 } else { 1.0 };
    let mut votes = vec![0.0; train.classes().len()];
    for &(s, i) in &all[..k] {
        votes[train.labels()[i] as usize] += (s / temperature).exp();
    }
    (votes, gap)
}

#[test]
fn predicts_what_the_formula_says() {
    let classes = classes(5);
    // Sizes that are no multiples of the blocks, more than one block of each.
    let train = random(4500, 19, &classes, 1);
    let test = random(300, 19, &classes, 2);
    for (k, temperature) in [(1, 0.1), (7, 0.07), (200, 0.1), (200, 1.0), (4500, 0.05), (usize::MAX, 0.2)] {
        let predicted = predict(&train, &test, &KnnConfig { k, temperature }).unwrap();
        let mut compared = 0;
        for (i, &class) in predicted.iter().enumerate() {
            let (votes, gap) = oracle(&train, test.row(i), k, temperature);
            let mut sorted = votes.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            // f32 similarities decide neither a k-th neighbour nor a vote that is closer than their rounding.
            if gap > 1e-6 && sorted[0] - sorted[1] > 1e-4 * sorted[0] {
                compared += 1;
                assert_eq!(
                    votes[class as usize], sorted[0],
                    "row {i}, k {k}, temperature {temperature}: {votes:?}"
                );
            }
        }
        assert!(compared > 280, "only {compared} of 300 rows are clear cases at k {k}");
    }
}

#[test]
fn weighs_the_near_more_than_the_many() {
    let classes = classes(2);
    let train = labelled(vec![1.0, 0.0, 0.6, 0.8, 0.6, 0.8], 2, vec![0, 1, 1], &classes);
    let test = labelled(vec![2.0, 0.0], 2, vec![0], &classes);
    // exp(1/τ) against 2·exp(0.6/τ): the turning point is τ = 0.4 / ln 2 = 0.577.
    for (temperature, class) in [(0.57, 0), (0.585, 1)] {
        let config = KnnConfig { k: 3, temperature };
        assert_eq!(predict(&train, &test, &config).unwrap(), [class], "temperature {temperature}");
    }
}

#[test]
fn breaks_ties_by_index() {
    let classes = classes(3);
    let test = labelled(vec![1.0, 0.0, 0.0], 3, vec![1], &classes);
    // Equal similarities, so equal votes: the lower class, although it comes last.
    let train = labelled(vec![1.0, 0.0, 0.0, 2.0, 0.0, 0.0], 3, vec![2, 1], &classes);
    let config = KnnConfig { k: 2, temperature: 0.1 };
    assert_eq!(predict(&train, &test, &config).unwrap(), [1]);
    // One neighbour of two equally near: the one that comes first, although its class is the higher.
    let config = KnnConfig { k: 1, temperature: 0.1 };
    assert_eq!(predict(&train, &test, &config).unwrap(), [2]);
    // The same where the equals are in different blocks and the candidates have been cut in between.
    let n = 10_000;
    let mut values = [0.0, 1.0, 0.0].repeat(n);
    let mut labels = vec![0; n];
    for (i, label) in [(17, 2), (4200, 1), (9999, 1)] {
        values[3 * i..3 * i + 3].copy_from_slice(&[5.0, 0.0, 0.0]);
        labels[i] = label;
    }
    let train = labelled(values, 3, labels, &classes);
    assert_eq!(predict(&train, &test, &config).unwrap(), [2]);
    let config = KnnConfig { k: 3, temperature: 0.1 };
    assert_eq!(predict(&train, &test, &config).unwrap(), [1]);
}

#[test]
fn zero_vectors_have_similarity_zero() {
    let classes = classes(2);
    let train = labelled(vec![0.0, 0.0, -1.0, 0.0], 2, vec![1, 0], &classes);
    let test = labelled(vec![1.0, 0.0, 0.0, 0.0], 2, vec![1, 0], &classes);
    // Nearer than the opposite; and a zero test row finds all equally far, so the first.
    let config = KnnConfig { k: 1, temperature: 0.1 };
    assert_eq!(predict(&train, &test, &config).unwrap(), [1, 1]);
}

#[test]
fn tiny_temperatures_and_extreme_scales_stay_finite() {
    let classes = classes(3);
    let train = random(50, 8, &classes, 3);
    let test = random(40, 8, &classes, 4);
    let nearest = predict(&train, &test, &KnnConfig { k: 1, temperature: 0.1 }).unwrap();
    // As τ → 0 only the nearest counts; exp(1/τ) alone would be infinite.
    assert_eq!(predict(&train, &test, &KnnConfig { k: 50, temperature: 1e-9 }).unwrap(), nearest);
    let scaled = |l: &Labelled, s: f32| {
        labelled(l.values().iter().map(|v| v * s).collect(), 8, l.labels().to_vec(), &classes)
            .values()
            .to_vec()
    };
    for scale in [1e-30, 1e30] {
        let train = labelled(scaled(&train, scale), 8, train.labels().to_vec(), &classes);
        assert_eq!(predict(&train, &test, &KnnConfig { k: 1, temperature: 0.1 }).unwrap(), nearest);
    }
}

#[test]
fn the_nearest_are_found_in_their_order() {
    let (n, dim) = (9000, 7);
    let classes = classes(2);
    let mut known = random(n, dim, &classes, 5).values().to_vec();
    // The same row in three blocks, once longer; a row of zeros.
    let row = known[..dim].to_vec();
    for at in [5000, 8999] {
        known[at * dim..(at + 1) * dim].copy_from_slice(&row);
    }
    known[4000 * dim..4001 * dim].iter_mut().zip(&row).for_each(|(to, from)| *to = 2.0 * from);
    known[17 * dim..18 * dim].fill(0.0);
    let asked = [row.clone(), random(300, dim, &classes, 6).values().to_vec(), vec![0.0; dim]].concat();

    let found = nearest(&known, &asked, dim, 6).unwrap();
    assert_eq!(found.len(), 302);
    assert_eq!(found[0].iter().take(4).map(|at| at.index).collect::<Vec<_>>(), [0, 4000, 5000, 8999]);
    assert!(found.iter().flatten().all(|at| (-1.0..=1.0).contains(&at.similarity)));
    for (found, x) in found.iter().zip(asked.chunks(dim)).take(301) {
        let mut all: Vec<f64> = known.chunks(dim).map(|row| cosine(row, x)).collect();
        for at in found {
            assert!((f64::from(at.similarity) - all[at.index]).abs() < 1e-6);
        }
        all.sort_by(|a, b| b.total_cmp(a));
        assert!(found.iter().zip(&all).all(|(at, best)| (f64::from(at.similarity) - best).abs() < 1e-6));
    }
    // Nothing is like zeros: all are equally near, and the first come first.
    assert_eq!(
        found[301].iter().map(|at| (at.index, at.similarity)).collect::<Vec<_>>(),
        (0..6).map(|i| (i, 0.0)).collect::<Vec<_>>()
    );

    let all = nearest(&known[..3 * dim], &row, dim, 100).unwrap();
    assert_eq!(all[0].len(), 3);
    for (known, asked, dim, k) in [
        (&known[..7], &row[..], 7, 0),
        (&known[..7], &row[..], 0, 1),
        (&known[..8], &row[..], 7, 1),
        (&known[..7], &row[..3], 7, 1),
    ] {
        assert!(nearest(known, asked, dim, k).is_err());
    }
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let classes = classes(10);
    let train = random(5000, 33, &classes, 5);
    let test = random(600, 33, &classes, 6);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| predict(&train, &test, &KnnConfig::default())).unwrap()
    };
    let one = run(1);
    assert_eq!(run(3), one);
    assert_eq!(run(8), one);
}

#[test]
fn accuracy_is_the_share_that_is_right() {
    let classes = classes(2);
    let train = labelled(vec![1.0, 0.0, 0.0, 1.0], 2, vec![0, 1], &classes);
    let test = labelled(vec![1.0, 0.1, 0.1, 1.0, 1.0, 0.2, 0.2, 1.0], 2, vec![0, 1, 1, 1], &classes);
    assert_eq!(accuracy(&train, &test, &KnnConfig::default()).unwrap(), 0.75);
}

#[test]
fn random_labels_give_chance() {
    let classes = classes(4);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut draw = |n: usize| {
        let values = (0..n * 16).map(|_| rng.random_range(-1.0..1.0)).collect();
        let labels = (0..n).map(|_| rng.random_range(0..4)).collect();
        labelled(values, 16, labels, &classes)
    };
    let (train, test) = (draw(2000), draw(2000));
    let got = accuracy(&train, &test, &KnnConfig::default()).unwrap();
    // The standard deviation of a share of 2000 at 0.25 is 0.0097.
    assert!((got - 0.25).abs() < 0.04, "{got}");
}

#[test]
fn says_what_is_wrong() {
    let classes = classes(3);
    let train = labelled(vec![1.0, 0.0, 0.0, 1.0], 2, vec![0, 1], &classes);
    let message = |train: &Labelled, test: &Labelled, k, temperature| {
        predict(train, test, &KnnConfig { k, temperature }).unwrap_err().to_string()
    };
    assert_eq!(message(&train, &train, 0, 0.1), "k must be at least 1, got 0");
    assert_eq!(message(&train, &train, 1, 0.0), "temperature must be positive and finite, got 0");
    assert_eq!(message(&train, &train, 1, f64::NAN), "temperature must be positive and finite, got NaN");
    let wide = labelled(vec![1.0; 3], 3, vec![0], &classes);
    assert_eq!(
        message(&train, &wide, 1, 0.1),
        "the training features have 2 dimensions, the test features 3"
    );
    let new = labelled(vec![1.0; 4], 2, vec![1, 2], &classes);
    assert_eq!(
        message(&train, &new, 1, 0.1),
        "test sample `s1` is of the class `class2`, of which the training samples have none"
    );
    let one = labelled(vec![1.0; 4], 2, vec![1, 1], &classes);
    assert_eq!(
        message(&one, &one, 1, 0.1),
        "test data: all 2 labelled samples are of the class `class1`; a probe needs at least 2 classes"
    );
    let ids = ["a".to_owned(), "b".to_owned()];
    let new = |values: Vec<f32>, dim, labels| Labelled::new("part", values, dim, labels, &ids[..], &classes);
    assert!(
        matches!(new(vec![0.0, 1.0, f32::NAN, 1.0], 2, vec![0, 1]), Err(Error::NotFinite { id, index: 0, .. }) if id == "b")
    );
    assert!(
        matches!(new(vec![0.0; 4], 2, vec![0, 3]), Err(Error::LabelRange { id, label: 3, classes: 3, .. }) if id == "b")
    );
    assert!(matches!(new(vec![0.0; 5], 2, vec![0, 1]), Err(Error::Shape { expected: 4, got: 5, .. })));
    assert!(matches!(new(vec![], 0, vec![0, 1]), Err(Error::Setting { .. })));
    assert!(matches!(Labelled::new("part", vec![], 2, vec![], vec![], &classes), Err(Error::Empty { .. })));
}
