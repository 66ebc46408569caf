//! The ranges of settings, checked before any pixel is touched.

use crate::{Error, Result};

/// Largest side that a transform may produce, in pixels: an image of 805 MB.
const MAX_SIDE: u32 = 1 << 14;

/// One transform's settings under test.
pub(crate) struct Limits(pub(crate) &'static str);

impl Limits {
    /// A probability.
    pub(crate) fn probability(&self, field: &'static str, p: f64) -> Result<()> {
        self.require((0.0..=1.0).contains(&p), field, "in 0…1", p)
    }

    /// A side in pixels.
    pub(crate) fn side(&self, field: &'static str, size: u32) -> Result<()> {
        self.require((1..=MAX_SIDE).contains(&size), field, "in 1…16384", size)
    }

    /// A range of positive numbers, the smaller first.
    pub(crate) fn positive_range(&self, field: &'static str, [low, high]: [f64; 2]) -> Result<()> {
        let valid = low > 0.0 && low <= high && high.is_finite();
        self.require(
            valid,
            field,
            "two finite numbers above 0, the smaller first",
            format!("[{low}, {high}]"),
        )
    }

    /// Any other condition.
    pub(crate) fn require(
        &self,
        valid: bool,
        field: &'static str,
        expected: &'static str,
        got: impl ToString,
    ) -> Result<()> {
        if valid {
            return Ok(());
        }
        Err(Error::Field { transform: self.0, field, expected, got: got.to_string() })
    }
}
