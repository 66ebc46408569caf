//! placeholder
use super::Report;
use anyhow::Result;
pub fn render(_: &Report) -> Result<Option<String>> {
    Ok(None)
}
