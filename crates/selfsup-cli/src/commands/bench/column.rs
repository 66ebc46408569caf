//! What is measured of a row: the columns of the table.

use crate::commands::probe::Parts;
use crate::failure::Result;
use selfsup_probe::{Features, FinetuneConfig, Frozen, Kind, ProbeConfig, finetune, run as probe};
use std::collections::BTreeMap;

/// A measure, top-1 on the test part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Weighted nearest neighbours.
    Knn,
    /// Logistic regression on all labels.
    Linear,
    /// Logistic regression on so many labels a class.
    Few(usize),
    /// All weights trained on so many labels a class.
    Finetuned(usize),
}

/// Where features are taken from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origin {
    /// The encoder's end, of the data that is trained on.
    #[default]
    End,
    /// The encoder's end, of other data, by their name.
    Transfer(String),
    /// Behind a layer before the end, of the data that is trained on.
    Layer(String),
}

/// A measure of some features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub measure: Measure,
    pub from: Origin,
}

/// Accuracies in 0…1 by [`Column::key`]; null where there is none, as the labels are too few or nothing can be trained.
pub type Top1 = BTreeMap<String, Option<f64>>;

impl From<Measure> for Column {
    fn from(measure: Measure) -> Self {
        Self { measure, from: Origin::End }
    }
}

impl Column {
    /// Its name in JSON.
    pub fn key(&self) -> String {
        let key = match self.measure {
            Measure::Knn => "knn".into(),
            Measure::Linear => "linear".into(),
            Measure::Few(n) => format!("linear_{n}"),
            Measure::Finetuned(n) => format!("finetune_{n}"),
        };
        match &self.from {
            Origin::End => key,
            Origin::Transfer(data) => format!("{key}@{data}"),
            Origin::Layer(layer) => format!("{key}:{layer}"),
        }
    }

    /// Its head in the table.
    pub fn title(&self) -> String {
        let title = match self.measure {
            Measure::Knn => "kNN".into(),
            Measure::Linear => "linear".into(),
            Measure::Few(n) => format!("linear, {n} a class"),
            Measure::Finetuned(n) => format!("fine-tuned, {n} a class"),
        };
        match &self.from {
            Origin::End => title,
            Origin::Transfer(data) => format!("{title} on {data}"),
            Origin::Layer(layer) => format!("{title} behind {layer}"),
        }
    }

    /// The probe of features, if it is one, and how many labels a class it has.
    fn probe(&self) -> Option<(Kind, Option<usize>)> {
        match self.measure {
            Measure::Knn => Some((Kind::Knn, None)),
            Measure::Linear => Some((Kind::Linear, None)),
            Measure::Few(n) => Some((Kind::Linear, Some(n))),
            Measure::Finetuned(_) => None,
        }
    }
}

/// Measures features by those of the columns that need no more, and are of what they were taken from.
pub fn of_features(
    columns: &[Column],
    from: &Origin,
    train: &Features,
    test: &Features,
    classes: &[String],
    seed: u64,
) -> Result<Top1> {
    let mut top1 = Top1::new();
    for column in columns.iter().filter(|column| column.from == *from) {
        if let Some(value) = of_probe(column, train, test, classes, seed)? {
            top1.insert(column.key(), value);
        }
    }
    Ok(top1)
}

fn of_probe(
    column: &Column,
    train: &Features,
    test: &Features,
    classes: &[String],
    seed: u64,
) -> Result<Option<Option<f64>>> {
    let Some((kind, labels)) = column.probe() else { return Ok(None) };
    let config = ProbeConfig {
        kinds: vec![kind],
        labels_per_class: vec![labels],
        seeds: vec![seed],
        ..ProbeConfig::default()
    };
    match probe(train, test, classes, &config) {
        Ok(rows) => Ok(Some(Some(rows[0].mean))),
        Err(selfsup_probe::Error::TooFewLabels { .. }) if labels.is_some() => Ok(Some(None)),
        Err(error) => Err(error.into()),
    }
}

/// Fine-tunes, where a column asks for it and there are weights.
pub fn of_weights(
    columns: &[Column],
    frozen: &Frozen,
    data: &Parts,
    workers: usize,
    seed: u64,
) -> Result<Top1> {
    let mut top1 = Top1::new();
    for column in columns {
        let Measure::Finetuned(labels) = column.measure else { continue };
        let value = match frozen {
            Frozen::Encoder(encoder) => {
                let config = ProbeConfig {
                    labels_per_class: vec![Some(labels)],
                    seeds: vec![seed],
                    finetune: FinetuneConfig { workers, ..FinetuneConfig::default() },
                    ..ProbeConfig::default()
                };
                match finetune::run(encoder, data.train(), data.test(), &config, &mut |_| ()) {
                    Ok(outcome) => Some(outcome.results[0].mean),
                    Err(selfsup_probe::Error::TooFewLabels { .. }) => None,
                    Err(error) => return Err(error.into()),
                }
            }
            Frozen::Pixels { .. } => None,
        };
        top1.insert(column.key(), value);
    }
    Ok(top1)
}
