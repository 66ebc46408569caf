//! What is measured of a row: the columns of the table.

use crate::commands::probe::Parts;
use crate::failure::Result;
use selfsup_probe::{Features, FinetuneConfig, Frozen, Kind, ProbeConfig, finetune, run as probe};
use std::collections::BTreeMap;

/// A measure, top-1 on the test part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Weighted nearest neighbours.
    Knn,
    /// Logistic regression on all labels.
    Linear,
    /// Logistic regression on so many labels a class.
    Few(usize),
    /// All weights trained on so many labels a class.
    Finetuned(usize),
    /// Nearest neighbours on other data than the encoder was trained on.
    TransferKnn,
    /// Logistic regression there.
    TransferLinear,
}

/// Accuracies in 0…1 by [`Column::key`]; null where there is none, as the labels are too few or nothing can be trained.
pub type Top1 = BTreeMap<String, Option<f64>>;

impl Column {
    /// Its name in JSON.
    pub fn key(self) -> String {
        match self {
            Column::Knn => "knn".into(),
            Column::Linear => "linear".into(),
            Column::Few(n) => format!("linear_{n}"),
            Column::Finetuned(n) => format!("finetune_{n}"),
            Column::TransferKnn => "transfer_knn".into(),
            Column::TransferLinear => "transfer_linear".into(),
        }
    }

    /// Its head in the table.
    pub fn title(self) -> String {
        match self {
            Column::Knn => "kNN".into(),
            Column::Linear => "linear".into(),
            Column::Few(n) => format!("linear, {n} a class"),
            Column::Finetuned(n) => format!("fine-tuned, {n} a class"),
            Column::TransferKnn => "kNN, transfer".into(),
            Column::TransferLinear => "linear, transfer".into(),
        }
    }

    /// The probe of features, if it is one, and how many labels a class it has.
    fn probe(self) -> Option<(Kind, Option<usize>)> {
        match self {
            Column::Knn | Column::TransferKnn => Some((Kind::Knn, None)),
            Column::Linear | Column::TransferLinear => Some((Kind::Linear, None)),
            Column::Few(n) => Some((Kind::Linear, Some(n))),
            Column::Finetuned(_) => None,
        }
    }

    fn is_transfer(self) -> bool {
        matches!(self, Column::TransferKnn | Column::TransferLinear)
    }
}

/// Measures features by those of the columns that need no more: those of the data itself, or, of the other data's features, those of
/// transfer.
pub fn of_features(
    columns: &[Column],
    transfer: bool,
    train: &Features,
    test: &Features,
    classes: &[String],
    seed: u64,
) -> Result<Top1> {
    let mut top1 = Top1::new();
    for column in columns.iter().filter(|column| column.is_transfer() == transfer) {
        if let Some(value) = of_probe(*column, train, test, classes, seed)? {
            top1.insert(column.key(), value);
        }
    }
    Ok(top1)
}

fn of_probe(
    column: Column,
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
        let Column::Finetuned(labels) = *column else { continue };
        let value = match frozen {
            Frozen::Encoder(encoder) => {
                let config = ProbeConfig {
                    labels_per_class: vec![Some(labels)],
                    seeds: vec![seed],
                    finetune: FinetuneConfig { workers, ..FinetuneConfig::default() },
                    ..ProbeConfig::default()
                };
                match finetune::run(encoder, data.train(), data.test(), &config, &mut |_| ()) {
                    Ok(rows) => Some(rows[0].mean),
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
