//! Sources as the tests open them.

// Each test file is a crate that uses a part of this.
#![allow(dead_code)]

use selfsup_data::{Dataset, OpenOptions, Part, Source, open};
use std::path::Path;

/// Options that choose a part.
pub fn options(part: Part) -> OpenOptions {
    OpenOptions { part, ..OpenOptions::default() }
}

/// Every sample of a source.
pub fn all(src: &str) -> Dataset {
    open(src, &OpenOptions::default()).unwrap()
}

/// What opening a source that is none says.
pub fn error(src: &str) -> String {
    open(src, &OpenOptions::default()).map(|d| d.len()).unwrap_err().to_string()
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `id=class` of every sample.
pub fn listing(data: &Dataset) -> Vec<String> {
    data.samples()
        .map(|s| format!("{}={}", s.id, s.label.map_or("-", |l| data.classes()[l as usize].as_str())))
        .collect()
}
