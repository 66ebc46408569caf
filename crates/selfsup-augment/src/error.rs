//! What can go wrong with a transform or an image.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting of a transform is out of its range.
    #[error("{transform}: `{field}` must be {expected}, got {got}")]
    Field {
        /// The transform's name, as a configuration writes it.
        transform: &'static str,
        /// The setting.
        field: &'static str,
        /// Its range, in words.
        expected: &'static str,
        /// The value that came.
        got: String,
    },
    /// A transform in a pipeline is not valid.
    #[error("transform {number} of the pipeline: {source}")]
    Transform {
        /// Its place, counted from 1.
        number: usize,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// The image has no pixels.
    #[error("the image is empty: {width}×{height}")]
    EmptyImage {
        /// Pixels a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The image does not hold the region that is to be cut out.
    #[error("a crop of {wanted} does not fit an image of {width}×{height}; resize it first")]
    TooSmall {
        /// The region.
        wanted: String,
        /// Pixels a row of the image.
        width: u32,
        /// Rows of the image.
        height: u32,
    },
    /// The resizer refused its input.
    #[error("resize: {0}")]
    Resize(String),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
