//! Encoders from the hub as a program loads them, by the environment of its process.

use super::*;
use candle_core::Device;
use selfsup_models::{Encoder, Preprocessing, arch, load};
use std::process::Command;

#[test]
fn who_loads_an_encoder_is_told_that_the_hub_was_not_asked() {
    let cache = tempfile::tempdir().unwrap();
    let encoder = cache.path().join("encoder.safetensors");
    let preprocessing = Preprocessing::rgb(32, [0.5; 3], [0.25; 3]);
    let arch = arch("resnet10-narrow-cifar").unwrap();
    let untrained = Encoder::untrained(arch, preprocessing, 0, &Device::Cpu).unwrap();
    untrained.save(&encoder, &Default::default()).unwrap();
    let server = Server::new(COMMIT, &[("encoder.safetensors", &fs::read(&encoder).unwrap())]);
    // Another process: the environment of this one is that of all tests.
    for (offline, expected) in [("0", ""), ("1", "HF_HUB_OFFLINE")] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "loaded::an_encoder_as_the_environment_says", "--ignored"]);
        child.env_clear().env("HF_HUB_OFFLINE", offline).env("EXPECTED", expected);
        child.env("HF_HOME", cache.path()).env("HF_ENDPOINT", &server.endpoint);
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}

#[test]
#[ignore = "run by the test above, with an environment"]
fn an_encoder_as_the_environment_says() {
    let Ok(expected) = std::env::var("EXPECTED") else { return };
    let notice = load(&format!("hf:{REPO}")).unwrap().notice.unwrap_or_default();
    assert_eq!(notice.is_empty(), expected.is_empty());
    assert!(notice.contains(&expected), "{notice}");
}
