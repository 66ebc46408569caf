//! Differentiable tensor operations that candle lacks, or has slow or wrong.

mod error;

pub use error::{Error, Result};
