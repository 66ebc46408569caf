//! What can go wrong with an encoder or its file.

use std::path::{Path, PathBuf};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The architecture's name is not known.
    #[error("unknown architecture `{name}`{}", nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default())]
    UnknownArch {
        /// The name that came.
        name: String,
        /// The nearest known one, if any is near.
        nearest: Option<String>,
    },
    /// The architecture has no layer of that name.
    #[error("there is no layer `{name}`{}; the layers are {}", nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default(), known.join(", "))]
    UnknownLayer {
        /// The name that came.
        name: String,
        /// The nearest known one, if any is near.
        nearest: Option<String>,
        /// Every layer.
        known: Vec<String>,
    },
    /// Two tensors were declared under one name.
    #[error("the tensor `{0}` is declared twice")]
    DuplicateName(String),
    /// A size is out of its range.
    #[error("{name} must be {expected}, got {got}")]
    Size {
        /// What was given.
        name: &'static str,
        /// Its range, in words.
        expected: &'static str,
        /// The value that came.
        got: usize,
    },
    /// An image cannot be cut into patches.
    #[error("images of {side} pixels cannot be cut into patches of {patch}")]
    Patch {
        /// Side of a patch, in pixels.
        patch: usize,
        /// Side of the image.
        side: usize,
    },
    /// An image is too small: the network's poolings leave nothing of it.
    #[error("images must have at least {least} pixels a side for this network, got {side}")]
    SmallImage {
        /// The least side, in pixels.
        least: usize,
        /// Side of the image.
        side: usize,
    },
    /// What is trained by the last map alone would leave tensors untrained.
    #[error(
        "the fully connected layers of a plain convolutional network have no part in its last map and would stay untrained; take a \
         residual network or a vision transformer"
    )]
    NotInMap,
    /// A plain convolutional network does not train in it.
    #[error("plain convolutional networks train in F32, not in {0:?}")]
    ConvNetDType(candle_core::DType),
    /// A vision transformer does not train in it.
    #[error("vision transformers train in F32, not in {0:?}")]
    VitDType(candle_core::DType),
    /// Training does not work in this dtype.
    #[error("an encoder trains in F32 or BF16, not in {0:?}")]
    TrainDType(candle_core::DType),
    /// The tensors of a file are not the ones that the model has.
    #[error("the weights do not fit {what}: {problems}")]
    Mismatch {
        /// The model.
        what: String,
        /// Missing, left-over and wrongly shaped tensors, by name.
        problems: String,
    },
    /// A metadata field is missing or cannot be read.
    #[error("{path}: the metadata field `{field}` is {problem}", path = path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A weight file is cut off, foreign or dishonest.
    #[error("{path}: {problem}", path = path.display())]
    WeightFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The convention's name is not known.
    #[error("unknown convention `{name}`{}; the conventions are {}", nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default(), known.join(", "))]
    UnknownConvention {
        /// The name that came.
        name: String,
        /// The nearest known one, if any is near.
        nearest: Option<String>,
        /// Every convention.
        known: Vec<String>,
    },
    /// A file's names are of no known convention.
    #[error(
        "{}none of {} tensors has a backbone's name{}; some of them: {}",
        path.as_ref().map(|p| format!("{}: ", p.display())).unwrap_or_default(),
        if path.is_some() { "its" } else { "the" },
        convention.map(|c| format!(" of {c}")).unwrap_or_default(),
        some.join(", ")
    )]
    NoBackbone {
        /// The file, if they are of one.
        path: Option<PathBuf>,
        /// The convention, if one was named.
        convention: Option<&'static str>,
        /// Some of the names.
        some: Vec<String>,
    },
    /// A tensor holds what is no number.
    #[error("{path}: `{name}` has {count} values that are not finite", path = path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor, by its name in the file.
        name: String,
        /// How many.
        count: usize,
    },
    /// A file's tensors are those of no architecture, or of several.
    #[error("{path}: {problem}", path = path.display())]
    Arch {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// There is no encoder where one should be.
    #[error("no encoder at `{what}`: {why}")]
    NoEncoder {
        /// What came.
        what: String,
        /// What is there instead.
        why: String,
    },
    /// A library cannot load such an encoder.
    #[error("{arch} cannot be published for {library}: {why}")]
    Publish {
        /// The architecture.
        arch: String,
        /// The library.
        library: &'static str,
        /// Why.
        why: String,
    },
    /// What should name a model on the hub does not.
    #[error("`{text}` is not hf:OWNER/NAME[@REVISION][:FILE]: {problem}")]
    HubSpec {
        /// What came.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The hub does not give a model or a file.
    #[error("{what}: {problem}")]
    Hub {
        /// The model or file.
        what: String,
        /// Why.
        problem: String,
    },
    /// Bytes that came from the hub are not those that it announced.
    #[error("{file}: its hash is {got}, the hub says {expected}; it was not kept")]
    HubHash {
        /// The file.
        file: String,
        /// The hash that the hub says.
        expected: String,
        /// The hash of what came.
        got: String,
    },
    /// A kernel refused its input.
    #[error(transparent)]
    Kernel(#[from] selfsup_kernels::Error),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// The same with the file whose tensors it is about, where it does not say one.
    pub(crate) fn of(self, file: &Path) -> Self {
        match self {
            Error::NoBackbone { path: None, convention, some } => {
                Error::NoBackbone { path: Some(file.to_owned()), convention, some }
            }
            other => other,
        }
    }
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
