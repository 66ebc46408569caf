//! What can go wrong with the input of an objective.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor does not have the shape that is asked for.
    #[error("{what} must be {expected}, got {got:?}")]
    Shape {
        /// The tensor.
        what: &'static str,
        /// Its shape, in words.
        expected: String,
        /// The shape that came.
        got: Vec<usize>,
    },
    /// A tensor does not hold floating-point numbers, or not the ones that its partner holds.
    #[error("{what} must hold {expected}, got {got:?}")]
    DType {
        /// The tensor.
        what: &'static str,
        /// The dtype, in words.
        expected: String,
        /// The dtype that came.
        got: candle_core::DType,
    },
    /// A number is out of its range.
    #[error("{name} must be {expected}, got {got}")]
    Value {
        /// The number.
        name: &'static str,
        /// Its range, in words.
        expected: &'static str,
        /// The value that came.
        got: f64,
    },
    /// The embeddings hold NaN or infinity.
    #[error("the embeddings are not finite")]
    NonFinite,
    /// A kernel refused its input.
    #[error(transparent)]
    Kernel(#[from] selfsup_kernels::Error),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
