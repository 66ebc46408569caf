//! What can go wrong with a probe.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of its range.
    #[error("{name} must be {expected}, got {got}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its range, in words.
        expected: &'static str,
        /// The value that came.
        got: String,
    },
    /// The numbers of values, labels and ids do not fit each other.
    #[error("{part}: expected {expected} {what}, got {got}")]
    Shape {
        /// Which features.
        part: String,
        /// What was counted.
        what: &'static str,
        /// How many there should be.
        expected: usize,
        /// How many came.
        got: usize,
    },
    /// There is nothing to extract, or every sample was skipped.
    #[error("{part}: no features: {reason}")]
    Empty {
        /// Which features.
        part: String,
        /// Why.
        reason: String,
    },
    /// No sample has a label.
    #[error("{part}: none of the {samples} samples has a label; a probe needs labelled images")]
    NoLabels {
        /// Where the samples come from.
        part: String,
        /// How many there are.
        samples: usize,
    },
    /// All training samples are of one class.
    #[error(
        "{part}: all {samples} labelled samples are of the class `{class}`; a probe needs at least 2 classes"
    )]
    OneClass {
        /// Where the samples come from.
        part: String,
        /// How many there are.
        samples: usize,
        /// Their class.
        class: String,
    },
    /// A label is not an index into the class list.
    #[error("{part}: sample `{id}` has the label {label}, but there are {classes} classes")]
    LabelRange {
        /// Where the sample comes from.
        part: String,
        /// The sample.
        id: String,
        /// Its label.
        label: u32,
        /// The number of classes.
        classes: usize,
    },
    /// A test sample is of a class of which no training sample is.
    #[error("test sample `{id}` is of the class `{class}`, of which the training samples have none")]
    UnknownClass {
        /// The first such sample.
        id: String,
        /// Its class.
        class: String,
    },
    /// Training and test features differ in width.
    #[error("the training features have {train} dimensions, the test features {test}")]
    Dimensions {
        /// Width of the training features.
        train: usize,
        /// Width of the test features.
        test: usize,
    },
    /// A feature is NaN or infinite.
    #[error("{part}: feature {index} of sample `{id}` is {value}; features must be finite")]
    NotFinite {
        /// Where the sample comes from.
        part: String,
        /// The sample.
        id: String,
        /// Which of its features.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A class has fewer labelled samples than were asked for.
    #[error("the class `{class}` has {available} labelled training samples, {asked} were asked for")]
    TooFewLabels {
        /// The class.
        class: String,
        /// How many samples it has.
        available: usize,
        /// How many were asked for.
        asked: usize,
    },
    /// The encoder's weights changed while features were extracted.
    #[error(
        "the encoder's weights changed during extraction: fingerprint {before:016x} before, {after:016x} after"
    )]
    EncoderChanged {
        /// Their fingerprint before.
        before: u64,
        /// Their fingerprint after.
        after: u64,
    },
    /// A source or its loader failed.
    #[error(transparent)]
    Data(#[from] selfsup_data::Error),
    /// An augmentation failed.
    #[error(transparent)]
    Augment(#[from] selfsup_augment::Error),
    /// A kernel failed.
    #[error(transparent)]
    Kernel(#[from] selfsup_kernels::Error),
    /// The optimiser failed, or a gradient.
    #[error(transparent)]
    Optim(#[from] selfsup_optim::Error),
    /// The encoder failed.
    #[error(transparent)]
    Model(#[from] selfsup_models::Error),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// An [`Error::Setting`].
pub(crate) fn setting(name: &'static str, expected: &'static str, got: impl ToString) -> Error {
    Error::Setting { name, expected, got: got.to_string() }
}
