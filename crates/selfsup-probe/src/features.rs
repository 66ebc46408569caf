//! Features of samples, and the labelled ones among them, checked.
//!
//! Dimension letters: n samples, d features.

use crate::{Error, Result};
use std::borrow::Cow;

/// Features `[n, d]` of n samples, as [`extract`](crate::extract()) computes them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Features {
    /// `[n, d]`, row-major.
    pub values: Vec<f32>,
    /// The width d.
    pub dim: usize,
    /// Each sample's class index; `None` where it has no label.
    pub labels: Vec<Option<u32>>,
    /// Each sample's id.
    pub ids: Vec<String>,
    /// Samples without features, because their image could not be decoded: id and reason.
    pub skipped: Vec<(String, String)>,
    /// What the source is called, for messages; may be left empty.
    pub source: String,
}

impl Features {
    /// The number n of samples that have features.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The features of sample i. It must be below [`len`](Self::len).
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }

    /// The labelled samples. Errors call them by `part` ("train", say) and by [`source`](Self::source).
    ///
    /// Nothing is copied but the labels where every sample has one; otherwise the labelled rows are.
    ///
    /// # Errors
    ///
    /// [`Error::NoLabels`] where no sample has a label; those of [`Labelled::new`].
    pub fn labelled<'a>(&'a self, part: &str, classes: &'a [String]) -> Result<Labelled<'a>> {
        let part = &match &self.source[..] {
            "" => part.to_owned(),
            source => format!("{source} ({part})"),
        };
        check_count(part, "labels", self.len(), self.labels.len())?;
        check_count(part, "values", self.len() * self.dim, self.values.len())?;
        if self.is_empty() {
            let reason = format!("{} samples were skipped, none is left", self.skipped.len());
            return Err(Error::Empty { part: part.to_owned(), reason });
        }
        let rows: Vec<usize> = (0..self.len()).filter(|&i| self.labels[i].is_some()).collect();
        if rows.is_empty() {
            return Err(Error::NoLabels { part: part.clone(), samples: self.len() });
        }
        let labels = self.labels.iter().flatten().copied().collect();
        let (values, ids) = if rows.len() == self.len() {
            (Cow::Borrowed(&self.values[..]), Cow::Borrowed(&self.ids[..]))
        } else {
            let values = rows.iter().flat_map(|&i| self.row(i)).copied().collect();
            (Cow::Owned(values), Cow::Owned(rows.iter().map(|&i| self.ids[i].clone()).collect()))
        };
        Labelled::new(part, values, self.dim, labels, ids, classes)
    }
}

/// Features whose every row has a label: what a probe is fitted on or measured with.
///
/// All values are finite and all labels below the number of classes; [`Labelled::new`] has checked that.
#[derive(Debug, Clone)]
pub struct Labelled<'a> {
    part: String,
    values: Cow<'a, [f32]>,
    dim: usize,
    labels: Vec<u32>,
    ids: Cow<'a, [String]>,
    classes: &'a [String],
}

impl<'a> Labelled<'a> {
    /// Checks and holds features `[n, d]`, row-major, with n labels and ids. `part` names them in errors.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for counts that do not fit, [`Error::Setting`] for a width of 0, [`Error::Empty`] for
    /// no rows, [`Error::LabelRange`] for a label that is no index into `classes`, [`Error::NotFinite`].
    pub fn new(
        part: &str,
        values: impl Into<Cow<'a, [f32]>>,
        dim: usize,
        labels: Vec<u32>,
        ids: impl Into<Cow<'a, [String]>>,
        classes: &'a [String],
    ) -> Result<Self> {
        let (values, ids) = (values.into(), ids.into());
        if dim == 0 {
            return Err(crate::error::setting("the width of the features", "at least 1", 0));
        }
        check_count(part, "ids", labels.len(), ids.len())?;
        check_count(part, "values", labels.len() * dim, values.len())?;
        if labels.is_empty() {
            return Err(Error::Empty { part: part.to_owned(), reason: "there are no samples".into() });
        }
        if let Some(i) = labels.iter().position(|&label| label as usize >= classes.len()) {
            let (id, label) = (ids[i].clone(), labels[i]);
            return Err(Error::LabelRange { part: part.to_owned(), id, label, classes: classes.len() });
        }
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            let (id, value) = (ids[i / dim].clone(), values[i]);
            return Err(Error::NotFinite { part: part.to_owned(), id, index: i % dim, value });
        }
        Ok(Self { part: part.to_owned(), values, dim, labels, ids, classes })
    }

    /// The number n of samples, at least 1.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// The width d.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// `[n, d]`, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The features of sample i.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }

    /// Each sample's class index.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Each sample's id.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The names of the classes.
    pub fn classes(&self) -> &'a [String] {
        self.classes
    }

    /// The samples at `rows`, in that order, copied. Every index must be below [`len`](Self::len).
    pub fn select(&self, rows: &[usize]) -> Labelled<'a> {
        Labelled {
            part: self.part.clone(),
            values: Cow::Owned(rows.iter().flat_map(|&i| self.row(i)).copied().collect()),
            dim: self.dim,
            labels: rows.iter().map(|&i| self.labels[i]).collect(),
            ids: Cow::Owned(rows.iter().map(|&i| self.ids[i].clone()).collect()),
            classes: self.classes,
        }
    }

    /// How many samples each class has.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for &label in &self.labels {
            counts[label as usize] += 1;
        }
        counts
    }

    /// These are training features: they must be of two classes at least.
    pub(crate) fn check_train(&self) -> Result<()> {
        let counts = self.counts();
        if counts.iter().filter(|&&n| n > 0).count() < 2 {
            let class = self.classes[self.labels[0] as usize].clone();
            return Err(Error::OneClass { part: self.part.clone(), samples: self.len(), class });
        }
        Ok(())
    }

    /// `test` can be measured with a probe that was fitted on these: equal widths, no class that is new.
    pub(crate) fn check_test(&self, test: &Labelled) -> Result<()> {
        self.check_train()?;
        if self.dim != test.dim {
            return Err(Error::Dimensions { train: self.dim, test: test.dim });
        }
        let counts = self.counts();
        let unknown = |&label: &u32| counts.get(label as usize).is_none_or(|&n| n == 0);
        match test.labels.iter().position(unknown) {
            Some(i) => {
                let class = test.classes[test.labels[i] as usize].clone();
                Err(Error::UnknownClass { id: test.ids[i].clone(), class })
            }
            None => Ok(()),
        }
    }
}

/// The share of the predictions that are right.
pub(crate) fn share_correct(predicted: &[u32], labels: &[u32]) -> f64 {
    let correct = predicted.iter().zip(labels).filter(|(p, l)| p == l).count();
    correct as f64 / labels.len() as f64
}

fn check_count(part: &str, what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Shape { part: part.to_owned(), what, expected, got })
}
