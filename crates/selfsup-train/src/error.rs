//! What can go wrong with a run.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong. Nothing was written.
    #[error("{0}")]
    Config(String),
    /// A folder cannot take a new run.
    #[error("{folder} already holds a run; continue it with --resume {folder}, or choose another --out", folder = .0.display())]
    FolderTaken(PathBuf),
    /// Another process trains the run of a folder.
    #[error("the run in {folder} is in use: another process trains it", folder = .0.display())]
    InUse(PathBuf),
    /// A folder has no run to go on with.
    #[error("{folder} holds no run: {why}", folder = folder.display())]
    NoRun {
        /// The folder.
        folder: PathBuf,
        /// What is missing.
        why: String,
    },
    /// A checkpoint does not belong to this configuration, or is not one.
    #[error("{path}: {why}", path = path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The loss is infinite or not a number.
    #[error("the loss became {loss} at step {step}; the batch was {ids}; a lower learning rate or a longer warm-up is the usual cure", ids = .ids.join(", "))]
    NonFiniteLoss {
        /// The step, from 1.
        step: u64,
        /// The loss.
        loss: f64,
        /// The samples of the batch.
        ids: Vec<String>,
    },
    /// Weights are infinite or not numbers; no checkpoint was written with them.
    #[error("after step {step} weights are not finite: {}; the last checkpoint was left as it is", .names.join(", "))]
    NonFiniteWeights {
        /// Steps done.
        step: u64,
        /// The tensors.
        names: Vec<String>,
    },
    /// Every sample of a batch, or all but one, could not be decoded.
    #[error("only {left} of the {wanted} images of the batch at step {step} could be decoded")]
    EmptyBatch {
        /// The step, from 1.
        step: u64,
        /// How many could be.
        left: usize,
        /// The batch size.
        wanted: usize,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The data failed.
    #[error(transparent)]
    Data(#[from] selfsup_data::Error),
    /// An augmentation failed.
    #[error(transparent)]
    Augment(#[from] selfsup_augment::Error),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] selfsup_models::Error),
    /// A kernel refused its input.
    #[error(transparent)]
    Kernel(#[from] selfsup_kernels::Error),
    /// The loss failed.
    #[error(transparent)]
    Objective(#[from] selfsup_objectives::Error),
    /// The optimiser failed.
    #[error(transparent)]
    Optim(#[from] selfsup_optim::Error),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
