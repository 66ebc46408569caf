//! Encoders from the hub as a user names them, from a server on loopback.

mod common;
#[path = "../../selfsup-models/tests/hub/server.rs"]
#[allow(dead_code)]
mod server;

use candle_core::Device;
use selfsup_models::names::Convention;
use selfsup_models::{Encoder, Preprocessing, arch, convert, weights};
use server::{Fault, Server};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const MODEL: &str = "hf:owner/model.v1";

/// The program with a hub and its cache.
fn run(server: &Server, folder: &Path, more: &[(&str, &str)], args: &[&str]) -> (i32, String, String) {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_selfsup"));
    // What whoever runs the tests has set for himself.
    let hubs =
        |name: &str| name.starts_with("HF_") || name.starts_with("HUGGING") || name == "TRANSFORMERS_OFFLINE";
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(hubs)) {
        command.env_remove(name);
    }
    command.env("HF_HOME", folder.join("hf")).env("HF_ENDPOINT", &server.endpoint);
    let output = command.envs(more.iter().copied()).current_dir(folder).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// A small network as transformers would publish it, and some images.
fn world() -> (TempDir, Server, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    common::colours(&folder.path().join("images"), ["a", "b"], 10, (40, 40));
    let preprocessing = Preprocessing::rgb(32, [0.5; 3], [0.25; 3]);
    let encoder = Encoder::untrained(arch("resnet18").unwrap(), preprocessing, 3, &Device::Cpu).unwrap();
    let path = folder.path().join("own.safetensors");
    encoder.save(&path, &Default::default()).unwrap();
    let file =
        weights::WeightFile { metadata: Default::default(), ..weights::read(&path, &Device::Cpu).unwrap() };
    let (theirs, _) = convert(&file, None, Convention::named("hf-resnet").unwrap()).unwrap();
    let path = folder.path().join("theirs.safetensors");
    weights::write(&path, &theirs).unwrap();
    let bytes = fs::read(path).unwrap();
    let config: &[u8] =
        br#"{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "size": {"shortest_edge": 32}}"#;
    let files = [("model.safetensors", &*bytes), ("preprocessor_config.json", config), ("README.md", b"#")];
    (folder, Server::new(COMMIT, &files), bytes)
}

#[test]
fn an_encoder_of_the_hub_is_fetched_once_and_gives_its_features() {
    let (folder, server, _) = world();
    let folder = folder.path();
    server.small("preprocessor_config.json");
    // The configuration comes whole, the weights after it in two parts.
    server.fault("get", Fault::Cut(usize::MAX));
    server.fault("get", Fault::Cut(1_000_000));
    let embed = |what: &str, out: &str, vars: &[(&str, &str)]| {
        let (status, _, stderr) =
            run(&server, folder, vars, &["embed", what, "--data", "images", "--out", out]);
        assert_eq!(status, 0, "{stderr}");
        (
            fs::read(folder.join(out.replace(".npy", ".labels.npy"))).unwrap(),
            fs::read(folder.join(out)).unwrap(),
            stderr,
        )
    };
    let (_, features, stderr) = embed(MODEL, "hub.npy", &[]);
    for words in ["hf-resnet", "images of 32 pixels", "as preprocessor_config.json says", "model.safetensors"]
    {
        assert!(stderr.contains(words), "`{words}` is not in: {stderr}");
    }
    let (_, own, _) = embed("own.safetensors", "own.npy", &[]);
    assert!(features == own, "the features are those of the network that was published");
    server.seen();
    let (_, again, stderr) = embed(&format!("{MODEL}@{COMMIT}"), "again.npy", &[("HF_HUB_OFFLINE", "1")]);
    assert!(again == features && server.seen().is_empty() && stderr.contains("HF_HUB_OFFLINE"));
    let quiet = ["embed", MODEL, "--quiet", "--data", "images", "--out", "quiet.npy"];
    let (status, _, stderr) = run(&server, folder, &[("HF_HUB_OFFLINE", "1")], &quiet);
    assert_eq!((status, stderr.lines().count()), (0, 1), "{stderr}");
    assert!(stderr.contains("HF_HUB_OFFLINE"), "that the hub was not asked is no progress: {stderr}");

    let (status, stdout, stderr) =
        run(&server, folder, &[], &["probe", MODEL, "--data", "images", "--kind", "knn", "--json"]);
    assert_eq!(status, 0, "{stderr}");
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(json["encoder"], MODEL);
    assert!(json["results"][0]["mean"].as_f64().is_some());
}

#[test]
fn what_goes_wrong_with_the_hub_is_said_in_a_line() {
    let (folder, server, _) = world();
    let fails = |what: &str, vars: &[(&str, &str)], expected: i32, words: &[&str]| {
        let (status, stdout, stderr) = run(&server, folder.path(), vars, &["inspect", what]);
        assert!(status == expected && stdout.is_empty(), "{status}: {stderr}");
        assert_eq!(stderr.lines().filter(|line| line.starts_with("error:")).count(), 1, "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "`{word}` is not in: {stderr}");
        }
    };
    fails("hf:model", &[], 2, &["hf:OWNER/NAME"]);
    fails(&format!("{MODEL}@../x"), &[], 2, &["revision"]);
    fails("hf:owner/nothing", &[], 1, &["no such model", "HF_TOKEN"]);
    fails(&format!("{MODEL}@v2"), &[], 1, &["no such branch"]);
    fails(&format!("{MODEL}:model.safetensor"), &[], 1, &["is it `model.safetensors`?"]);
    fails(MODEL, &[("HF_HUB_OFFLINE", "1")], 1, &["HF_HUB_OFFLINE", "has nothing of it"]);
    server.require("secret");
    fails(MODEL, &[], 1, &["private", "HF_TOKEN"]);
    let (status, ..) = run(&server, folder.path(), &[("HF_TOKEN", "secret")], &["inspect", MODEL]);
    assert_eq!(status, 0);
}
