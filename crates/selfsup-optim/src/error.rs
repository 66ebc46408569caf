//! What can go wrong with an optimiser, its settings or its gradients.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of its range.
    #[error("{name} must be {expected}, got {got}")]
    Config {
        /// The setting, as a configuration file names it.
        name: &'static str,
        /// Its range, in words.
        expected: &'static str,
        /// The value that came.
        got: String,
    },
    /// Two parameters have one name, or one variable has two.
    #[error("the parameter `{0}` is given twice")]
    DuplicateParam(String),
    /// A parameter is no tensor of floating-point numbers.
    #[error("the parameter `{name}` must hold floating-point numbers, got {dtype:?}")]
    DType {
        /// The parameter.
        name: String,
        /// What it holds.
        dtype: candle_core::DType,
    },
    /// There is no parameter at all.
    #[error("the optimiser has no parameter")]
    NoParams,
    /// Parameters that the loss does not reach, or gradients of another shape.
    #[error("no gradient for {}", names(.0))]
    MissingGradients(Vec<String>),
    /// Gradients that hold NaN or infinity.
    #[error("the gradient is not finite for {}", names(.0))]
    NonFiniteGradients(Vec<String>),
    /// A gradient does not have its parameter's shape.
    #[error("the gradient of `{name}` must have the shape {expected:?}, got {got:?}")]
    GradientShape {
        /// The parameter.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
        /// The gradient's.
        got: Vec<usize>,
    },
    /// A momentum encoder's tensor is not like its source.
    #[error("the momentum encoder's tensor must be {expected} as its source, got {got}")]
    Momentum {
        /// The source's dtype and shape.
        expected: String,
        /// The target's.
        got: String,
    },
    /// The saved state is not this optimiser's.
    #[error("the optimiser's saved state does not fit: {0}")]
    State(String),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// `got` as an error unless `ok`.
pub(crate) fn ensure(
    ok: bool,
    name: &'static str,
    expected: &'static str,
    got: impl std::fmt::Display,
) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Config { name, expected, got: got.to_string() }) }
}

/// Names in backticks; of many, the first eight and how many more.
pub(crate) fn names(all: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = all.iter().take(SHOWN).map(|n| format!("`{n}`")).collect();
    match all.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
