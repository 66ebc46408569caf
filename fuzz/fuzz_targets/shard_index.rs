//! An index of shards, of which one lies beside it.

#![no_main]

use candle_core::{Device, Tensor};
use libfuzzer_sys::fuzz_target;
use selfsup_models::weights::{self, WeightFile};
use std::collections::HashMap;
use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let one = Tensor::new(&[1f32, 2.0], &Device::Cpu).expect("a tensor");
    let tensors = HashMap::from([("x".to_owned(), one)]);
    let file = WeightFile { tensors, ..WeightFile::default() };
    weights::write(&folder.path().join("s"), &file).expect("to write");
    folder
});

fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("model.safetensors.index.json");
    std::fs::write(&path, bytes).expect("to write");
    if let Ok(file) = weights::read(&path, &Device::Cpu) {
        assert!(file.tensors.keys().all(|name| name == "x"));
    }
});
