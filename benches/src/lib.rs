//! Criterion benches over the crates; `peers/` holds the same work in PyTorch and lightly.
//!
//! `cargo bench -p selfsup-benches [--bench NAME]`
