//! What can go wrong in a kernel: shapes, dtypes and parameters, all found before any work is done.

/// An error of a kernel: the caller's shapes, dtypes or parameters, or one of candle's own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor's shape does not fit the operation.
    #[error("{op}: expected {expected}, got {got}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// What it takes, in dimension letters.
        expected: String,
        /// The shape that came.
        got: String,
    },
    /// A parameter is out of its range.
    #[error("{op}: {name} must be {expected}, got {got}")]
    Parameter {
        /// The operation.
        op: &'static str,
        /// The parameter's name.
        name: &'static str,
        /// Its range, in words.
        expected: &'static str,
        /// The value that came.
        got: String,
    },
    /// A tensor's number type does not fit the operation.
    #[error("{op}: expected {expected}, got {got:?}")]
    DType {
        /// The operation.
        op: &'static str,
        /// What it takes, in words.
        expected: String,
        /// The type that came.
        got: candle_core::DType,
    },
    /// Two tensors of one call are on different devices.
    #[error("{op}: {name} must be on x's device {expected}, got {got}")]
    Device {
        /// The operation.
        op: &'static str,
        /// The tensor that is elsewhere.
        name: &'static str,
        /// Where x is.
        expected: String,
        /// Where the tensor is.
        got: String,
    },
    /// candle failed: memory, a device, a dtype it does not have.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
