//! Safetensors and both formats of `torch.save`: whatever the bytes, tensors or an error. What is read is read again from what is written.

#![no_main]

use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use selfsup_models::weights;
use std::sync::LazyLock;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("file");
    std::fs::write(&path, bytes).expect("to write");
    let Ok(file) = weights::read(&path, &Device::Cpu) else { return };
    let again = FOLDER.path().join("again");
    weights::write(&again, &file).expect("what was read can be written");
    let back = weights::read(&again, &Device::Cpu).expect("what was written can be read");
    assert_eq!(back.metadata, file.metadata);
    assert_eq!(back.tensors.len(), file.tensors.len());
    for (name, tensor) in &file.tensors {
        assert_eq!(back.tensors[name].dims(), tensor.dims(), "{name}");
        assert_eq!(back.tensors[name].dtype(), tensor.dtype(), "{name}");
    }
});
