//! What can go wrong with a source, an image or the loader.

use crate::decode::DecodeError;
use std::path::PathBuf;

/// The forms of a source, as the messages list them.
pub(crate) const FORMS: &str = "a folder of class folders, or of images only; `cifar10:DIR`; `idx:DIR`; a manifest \
    `FILE.csv` or `FILE.jsonl`; a built-in name (`fashion-mnist`)";

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source is neither a name nor a path that exists.
    #[error("no source `{src}`{hint}; expected {FORMS}", hint = did_you_mean(.nearest))]
    UnknownSource {
        /// What was asked for.
        src: String,
        /// The known name or existing path that is most like it.
        nearest: Option<String>,
    },
    /// A file or folder could not be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A source holds no image.
    #[error("{path}: no image found{hint}", path = path.display())]
    Empty {
        /// The folder or manifest.
        path: PathBuf,
        /// What was there instead; empty, or a clause that begins with a semicolon.
        hint: String,
    },
    /// A line of a manifest is wrong.
    #[error("{path}:{line}: {problem}", path = path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What was expected and got.
        problem: String,
    },
    /// A file of a data set is not in the expected format, or is missing.
    #[error("{path}: {problem}", path = path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// What was expected and got.
        problem: String,
    },
    /// An image could not be decoded.
    #[error("{id}: {source}")]
    Decode {
        /// The sample's id.
        id: String,
        /// Why.
        source: DecodeError,
    },
    /// The function that prepares examples refused one.
    #[error("{id}: cannot prepare the example: {source}")]
    Prepare {
        /// The sample's id.
        id: String,
        /// The function's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The function that prepares examples panicked.
    #[error("{id}: preparing the example panicked: {message}")]
    Panicked {
        /// The sample's id.
        id: String,
        /// What the panic said.
        message: String,
    },
    /// The loader's settings do not fit the data.
    #[error("batch_size: expected 1 to {samples} (whole batches out of {samples} samples), got {batch_size}")]
    BatchSize {
        /// What was asked for.
        batch_size: usize,
        /// How many samples the source has.
        samples: usize,
    },
    /// Not one image of a whole epoch could be read.
    #[error("none of the {samples} images read in epoch {epoch} could be used; the first: {id}: {reason}")]
    NothingReadable {
        /// The epoch.
        epoch: u64,
        /// How many were tried.
        samples: u64,
        /// The first sample's id.
        id: String,
        /// Why it could not be read.
        reason: String,
    },
    /// A worker thread could not be started.
    #[error("cannot start a worker thread: {0}")]
    Spawn(std::io::Error),
    /// Labels were needed and there are none.
    #[error("{src}: expected labelled images, got none with a label{hint}")]
    NoLabels {
        /// The source.
        src: String,
        /// How labels are given; empty, or a clause that begins with a semicolon.
        hint: String,
    },
    /// A classifier needs two classes.
    #[error("{src}: expected at least two classes, got only `{class}`")]
    OneClass {
        /// The source.
        src: String,
        /// The one class.
        class: String,
    },
    /// The test part has classes that the training part lacks.
    #[error("{test}: class{s} {classes} not in the training part {train}, which has {known}",
        s = if classes.contains(',') { "es" } else { "" })]
    UnknownClasses {
        /// The training source.
        train: String,
        /// The test source.
        test: String,
        /// The classes of the test part alone.
        classes: String,
        /// Those of the training part.
        known: String,
    },
    /// A part was named of a source that has none: it would be everything, and twice the same where two are named.
    #[error(
        "{src} has no parts, and so no `{part}`; parts are subfolders `train` and `test`, or a manifest's column `part`"
    )]
    NoParts {
        /// The source.
        src: String,
        /// `train` or `test`.
        part: &'static str,
    },
    /// A part has no sample.
    #[error("{src}: the {part} part is empty")]
    EmptyPart {
        /// The source.
        src: String,
        /// `train` or `test`.
        part: &'static str,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default()
}
