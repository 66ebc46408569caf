//! What features are worth: kNN, linear and few-label probes of frozen ones, and fine-tuning.
//!
//! Features are computed once, with the encoder frozen and in evaluation mode; then nearest neighbours and a
//! logistic regression are measured on them, with all labels or a few. Nothing here knows how an encoder was
//! trained, and nothing is ever chosen on the test part.
//!
//! ```
//! use selfsup_data::{Dataset, OpenOptions, open_labelled_parts};
//! use selfsup_probe::{ExtractConfig, Frozen, ProbeConfig, extract, run};
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let parts = open_labelled_parts("fashion-mnist", None, &OpenOptions::default())?;
//! let pixels = Frozen::Pixels { image_size: 14 };
//! let features = |part: &Dataset| {
//!     let some: Vec<usize> = (0..300).collect();
//!     extract(&pixels, Arc::new(part.subset(&some)), &ExtractConfig::default(), &mut |_done| ())
//! };
//! let (train, test) = (features(&parts.train)?, features(&parts.test)?);
//! let config = ProbeConfig { labels_per_class: vec![None, Some(10)], ..ProbeConfig::default() };
//! for row in run(&train, &test, parts.train.classes(), &config)? {
//!     println!("{:?} {:?}: {:.3} ± {:.3}", row.kind, row.labels_per_class, row.mean, row.std);
//!     assert!(row.mean > 0.3);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | file | subject |
//! |---|---|
//! | [`extract`](fn@extract), [`extract_layers`] | features of a source's images, from an encoder, its layers or the pixels themselves |
//! | [`decodable`](fn@decodable) | the images that can be decoded, without features |
//! | [`Features`], [`Labelled`] | features and what is known of their samples |
//! | [`knn`] | weighted nearest neighbours |
//! | [`linear`] | logistic regression, its strength chosen on held-out training labels |
//! | [`finetune`] | all weights trained on the labels |
//! | [`pca`](fn@pca) | the directions in which features spread most |
//! | [`few_labels`] | drawing a few labels of each class |
//! | [`protocol`] | which probes, with how many labels, how often |
#![forbid(unsafe_code)]

mod error;
mod extract;
mod features;
pub mod few_labels;
pub mod finetune;
pub mod knn;
mod lbfgs;
pub mod linear;
mod pca;
pub mod protocol;
mod softmax_regression;
mod standardize;

pub use error::{Error, Result};
pub use extract::{ExtractConfig, Frozen, decodable, extract, extract_layers};
pub use features::{Features, Labelled};
pub use finetune::FinetuneConfig;
pub use pca::{Pca, pca};
pub use protocol::{Kind, ProbeConfig, ProbeResult, run};
pub use standardize::Standardizer;
