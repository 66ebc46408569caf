//! A Keras model: `model.json`, and behind the first zero byte the shard that lies beside it.

#![no_main]

use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use selfsup_models::weights;
use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let shard = bytes.get(end + 1..).unwrap_or_default();
    let path = FOLDER.path().join("model.json");
    std::fs::write(&path, &bytes[..end]).expect("to write");
    std::fs::write(FOLDER.path().join("s"), shard).expect("to write");
    if let Ok(file) = weights::read(&path, &Device::Cpu) {
        let numbers: usize = file.tensors.values().map(|t| t.elem_count()).sum();
        assert!(numbers * 4 <= shard.len(), "{numbers} numbers of {} bytes", shard.len());
    }
});
