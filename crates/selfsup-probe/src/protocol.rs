//! The protocol: which probes, with how many labels, how often; one row of results each.

use crate::error::setting;
use crate::features::{Features, Labelled};
use crate::finetune::FinetuneConfig;
use crate::knn::{self, KnnConfig};
use crate::linear::{self, LinearConfig};
use crate::{Result, few_labels};
use selfsup_data::Source;
use serde::{Deserialize, Serialize};

/// A kind of probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Weighted nearest neighbours, see [`knn`].
    Knn,
    /// Logistic regression, see [`linear`].
    Linear,
    /// All weights trained on the labels, see [`finetune`](crate::finetune).
    Finetune,
}

/// Which probes to run.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeConfig {
    /// The probes, in the order of the results.
    pub kinds: Vec<Kind>,
    /// Training labels a class: `None` is all of them. One row of results for each.
    pub labels_per_class: Vec<Option<usize>>,
    /// One value for each: the seed of the draw of few labels and of the linear probe's held-out part.
    pub seeds: Vec<u64>,
    /// Settings of the kNN probe.
    pub knn: KnnConfig,
    /// Settings of the linear probe.
    pub linear: LinearConfig,
    /// Settings of fine-tuning.
    pub finetune: FinetuneConfig,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            kinds: vec![Kind::Knn, Kind::Linear],
            labels_per_class: vec![None],
            seeds: vec![0, 1, 2],
            knn: KnnConfig::default(),
            linear: LinearConfig::default(),
            finetune: FinetuneConfig::default(),
        }
    }
}

impl ProbeConfig {
    /// Every list must have an entry, and the settings of the probes must be valid.
    pub fn validate(&self) -> Result<()> {
        for (name, length) in [
            ("the list of kinds", self.kinds.len()),
            ("the list of labels per class", self.labels_per_class.len()),
            ("the list of seeds", self.seeds.len()),
        ] {
            if length == 0 {
                return Err(setting(name, "at least one entry", "none"));
            }
        }
        if self.labels_per_class.contains(&Some(0)) {
            return Err(setting("labels per class", "at least 1", 0));
        }
        self.knn.validate()?;
        self.linear.validate()?;
        self.finetune.validate()
    }
}

/// One row of results: one kind of probe with one number of labels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeResult {
    /// The probe.
    pub kind: Kind,
    /// The layer that the features are from, if it is not the encoder's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Training labels a class; `None` (JSON null) is all.
    pub labels_per_class: Option<usize>,
    /// Training samples of each fit.
    pub train: usize,
    /// Test samples.
    pub test: usize,
    /// What was measured: "top1", the share of test samples whose class is predicted right, in 0…1.
    pub metric: &'static str,
    /// One value a seed; one alone for kNN with all labels, where nothing is drawn.
    pub values: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their sample standard deviation (divided by n − 1); 0 for one value.
    pub std: f64,
}

/// Runs every kind with every number of labels: kinds × labels_per_class rows, in that order. [`Kind::Finetune`] does not work on
/// features: [`finetune::run`](crate::finetune::run) does that one.
///
/// Samples without a label are left out. Nothing is chosen on the test features, which are only measured with.
///
/// # Errors
///
/// Those of [`Features::labelled`], [`few_labels::draw`], [`knn::accuracy`] and [`linear::accuracy`]. All that can
/// be seen from the data is checked before the first fit.
pub fn run(
    train: &Features,
    test: &Features,
    classes: &[String],
    config: &ProbeConfig,
) -> Result<Vec<ProbeResult>> {
    if config.kinds.contains(&Kind::Finetune) {
        return Err(setting("a probe of features", "knn or linear", "finetune"));
    }
    let (train, test) = checked(train, test, classes, config)?;

    let mut results = Vec::new();
    for &kind in &config.kinds {
        for &labels_per_class in &config.labels_per_class {
            let seeds = match (kind, labels_per_class) {
                (Kind::Knn, None) => &config.seeds[..1],
                _ => &config.seeds[..],
            };
            let mut values = Vec::with_capacity(seeds.len());
            let mut fitted_on = train.len();
            for &seed in seeds {
                values.push(match labels_per_class {
                    None => measure(kind, &train, &test, config, seed)?,
                    Some(per_class) => {
                        let rows = few_labels::draw(train.labels(), classes, per_class, seed)?;
                        fitted_on = rows.len();
                        measure(kind, &train.select(&rows), &test, config, seed)?
                    }
                });
            }
            let (mean, std) = mean_and_std(&values);
            let (train, test) = (fitted_on, test.len());
            results.push(ProbeResult {
                kind,
                layer: None,
                labels_per_class,
                train,
                test,
                metric: "top1",
                values,
                mean,
                std,
            });
        }
    }
    Ok(results)
}

/// What [`run`] would refuse for its labels, said before any feature is computed.
///
/// # Errors
///
/// Those of [`run`] that depend on the settings and the labels alone. An image that cannot be decoded may still
/// leave too few.
pub fn check(train: &dyn Source, test: &dyn Source, classes: &[String], config: &ProbeConfig) -> Result<()> {
    checked(&labels_alone(train), &labels_alone(test), classes, config).map(|_| ())
}

fn checked<'a>(
    train: &'a Features,
    test: &'a Features,
    classes: &'a [String],
    config: &ProbeConfig,
) -> Result<(Labelled<'a>, Labelled<'a>)> {
    config.validate()?;
    let train = train.labelled("train", classes)?;
    let test = test.labelled("test", classes)?;
    train.check_test(&test)?;
    for per_class in config.labels_per_class.iter().flatten() {
        few_labels::draw(train.labels(), classes, *per_class, config.seeds[0])?;
    }
    Ok((train, test))
}

/// Each sample with its label and one feature that says nothing.
fn labels_alone(source: &dyn Source) -> Features {
    let samples = || (0..source.len()).map(|i| source.sample(i));
    Features {
        values: vec![0.0; source.len()],
        dim: 1,
        labels: samples().map(|s| s.label).collect(),
        ids: samples().map(|s| s.id.clone()).collect(),
        ..Features::default()
    }
}

/// Mean and sample standard deviation √(Σ(x − mean)² / (n − 1)); the latter is 0 for one value.
pub fn mean_and_std(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}

fn measure(kind: Kind, train: &Labelled, test: &Labelled, config: &ProbeConfig, seed: u64) -> Result<f64> {
    match kind {
        Kind::Knn => knn::accuracy(train, test, &config.knn),
        Kind::Linear => Ok(linear::accuracy(train, test, &config.linear, seed)?.accuracy),
        Kind::Finetune => unreachable!("refused before"),
    }
}
