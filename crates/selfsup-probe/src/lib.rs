//! What frozen features are worth: kNN, linear and few-label probes.
#![forbid(unsafe_code)]

mod error;
mod features;
pub mod few_labels;
pub mod knn;
mod lbfgs;
pub mod linear;
pub mod protocol;
mod softmax_regression;
mod standardize;

pub use error::{Error, Result};
pub use features::{Features, Labelled};
pub use protocol::{Kind, ProbeConfig, ProbeResult, run};
pub use standardize::Standardizer;
