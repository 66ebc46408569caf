//! The commands that look and measure: probe, embed, inspect, methods, archs, data, show, completions.

mod common;

use common::run;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn ok(folder: &Path, args: &[&str]) -> String {
    let (status, stdout, stderr) = run(folder, args);
    assert_eq!(status, 0, "{args:?}: {stderr}");
    stdout
}

fn json(folder: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&ok(folder, args)).expect("stdout is one JSON document")
}

/// Class folders `red` and `blue`.
fn colours(folder: &Path, each: u32) {
    common::colours(folder, ["red", "blue"], each, (18, 16));
}

/// A run of one step on `colours`, in `run`.
fn step(folder: &Path) {
    let out =
        ["pretrain", "rotation", "--data", "colours", "--steps", "1", "--batch-size", "8", "--out", "run"];
    let small = ["--image-size", "12", "--arch", "resnet10-mini", "--quiet", "--no-probe"];
    ok(folder, &[&out[..], &small].concat());
}

#[test]
fn a_pretraining_ends_with_the_table_and_its_encoder_can_be_probed() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"), 20);
    let small =
        ["--arch", "resnet10-narrow-cifar", "--image-size", "12", "--batch-size", "8", "--steps", "2"];
    let table = ok(
        d,
        &[&["pretrain", "simclr", "--data", "colours", "--quiet", "--out", "run"], &small[..]].concat(),
    );
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 5, "{table}");
    for (line, start) in lines[2..].iter().zip([
        "raw pixels",
        "resnet10-narrow-cifar, untrained",
        "resnet10-narrow-cifar, simclr",
    ]) {
        assert!(line.starts_with(start), "{table}");
    }
    assert!(lines[2].contains("100.0"), "colours are told apart by their pixels: {table}");
    assert!(
        lines[0].contains("kNN") && lines[0].contains("linear") && lines[0].contains("10 a class"),
        "{table}"
    );

    let probe = [
        "probe",
        "run",
        "--data",
        "colours",
        "--labels-per-class",
        "all,2",
        "--seeds",
        "2",
        "--json",
        "--quiet",
    ];
    let document = json(d, &probe);
    assert_eq!(document["encoder"], "run");
    assert_eq!(document["encoder_sha256"].as_str().unwrap().len(), 64);
    assert_eq!(document["classes"], serde_json::json!(["blue", "red"]));
    let results = document["results"].as_array().unwrap();
    assert_eq!(results.len(), 4, "{document}");
    for result in results {
        let (train, test) = (result["train"].as_u64().unwrap(), result["test"].as_u64().unwrap());
        if result["labels_per_class"].is_null() {
            assert_eq!(train + test, 40, "{result}");
        } else {
            assert_eq!((result["labels_per_class"].as_u64(), train), (Some(2), 4), "{result}");
            assert_eq!(result["values"].as_array().unwrap().len(), 2, "{result}");
        }
        assert_eq!(result["metric"], "top1");
        let mean = result["mean"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&mean), "{result}");
    }
    // The same words give the same numbers.
    assert_eq!(document, json(d, &probe));
}

#[test]
fn embed_keeps_the_sources_order() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"), 3);
    fs::write(d.join("colours/red/broken.png"), b"no image").unwrap();
    let (status, _, stderr) = run(
        d,
        &["embed", "pixels", "--image-size", "8", "--data", "colours", "--out", "f.safetensors", "--quiet"],
    );
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(stderr.matches("red/broken.png").count(), 1, "{stderr}");
    let (status, _, stderr) = run(d, &["embed", "pixels", "--data", "colours", "--out", "s.npy", "--strict"]);
    assert!(status == 1 && stderr.contains("red/broken.png") && !d.join("s.npy").exists(), "{stderr}");
    let bytes = fs::read(d.join("f.safetensors")).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    assert_eq!(header["features"]["shape"], serde_json::json!([6, 8 * 8 * 3]));
    assert_eq!(header["labels"]["shape"], serde_json::json!([6]));
    let at = |end: usize| start + header["ids"]["data_offsets"][end].as_u64().unwrap() as usize;
    let ids: Vec<String> = serde_json::from_slice(&bytes[at(0)..at(1)]).unwrap();
    assert_eq!(ids, ["blue/00.png", "blue/01.png", "blue/02.png", "red/00.png", "red/01.png", "red/02.png"]);

    ok(
        d,
        &[
            "embed",
            "random:resnet10-narrow-cifar",
            "--image-size",
            "12",
            "--data",
            "colours",
            "--out",
            "f.npy",
            "--quiet",
        ],
    );
    let npy = fs::read(d.join("f.npy")).unwrap();
    assert_eq!(&npy[..6], b"\x93NUMPY");
    assert!(
        String::from_utf8_lossy(&npy[..128]).contains("(6,256"),
        "{:?}",
        String::from_utf8_lossy(&npy[..128])
    );
    assert!(d.join("f.labels.npy").exists());
    assert_eq!(fs::read_to_string(d.join("f.ids.txt")).unwrap().lines().count(), 6);

    let (status, _, stderr) = run(d, &["embed", "pixels", "--data", "colours", "--out", "f.txt"]);
    assert!(status == 2 && stderr.contains(".safetensors or .npy"), "{stderr}");
}

#[test]
fn data_counts_and_names_what_it_skips() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"), 3);
    let whole = fs::read(d.join("colours/red/00.png")).unwrap();
    fs::write(d.join("colours/red/cut.png"), &whole[..whole.len() / 2]).unwrap();
    let text = ok(d, &["data", "colours"]);
    for word in ["red", "blue", "red/cut.png"] {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    let document = json(d, &["data", "colours", "--json"]);
    assert!(document.to_string().contains("red/cut.png"), "{document}");
    let (status, _, stderr) = run(d, &["data", "nowhere"]);
    assert!(status == 2 && stderr.contains("nowhere"), "{stderr}");
}

#[test]
fn a_strict_run_ends_at_a_broken_image_and_another_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"), 6);
    fs::write(d.join("colours/red/broken.png"), b"no image").unwrap();
    let args =
        ["pretrain", "simclr", "--data", "colours", "--arch", "resnet10-narrow-cifar", "--image-size", "12"];
    let more = ["--batch-size", "6", "--steps", "6", "--quiet", "--no-probe"];
    let (status, _, stderr) = run(d, &[&args[..], &more[..], &["--out", "a"]].concat());
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(stderr.matches("red/broken.png").count(), 1, "named once: {stderr}");
    let (status, _, stderr) = run(d, &[&args[..], &more[..], &["--out", "b", "--strict"]].concat());
    assert_eq!(status, 1, "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error:")).collect();
    assert!(errors.len() == 1 && errors[0].contains("red/broken.png"), "{stderr}");
}

#[test]
fn inspect_says_what_is_inside() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let args =
        ["pretrain", "simclr", "--arch", "resnet10-narrow-cifar", "--image-size", "12", "--batch-size", "8"];
    ok(d, &[&args[..], &["--steps", "2", "--quiet", "--no-probe", "--out", "run"]].concat());
    let run = json(d, &["inspect", "run", "--json"]);
    assert_eq!(run["metadata"]["arch"], "resnet10-narrow-cifar");
    assert_eq!(run["metadata"]["method"], "simclr");
    assert_eq!(run["run"]["config"]["image_size"], 12);
    assert_eq!(run["run"]["last_record"]["step"], 2);
    assert_eq!(run["metadata"]["config_sha256"], run["run"]["config_sha256"]);
    let file = json(d, &["inspect", "run/encoder.safetensors", "--json"]);
    assert_eq!(file["file_sha256"], run["file_sha256"]);
    assert_eq!(file["tensors"], json(d, &["inspect", "random:resnet10-narrow-cifar", "--json"])["tensors"]);
    // A folder of weights that is no run, as others publish them.
    fs::create_dir(d.join("theirs")).unwrap();
    fs::copy(d.join("run/encoder.safetensors"), d.join("theirs/model.safetensors")).unwrap();
    let theirs = json(d, &["inspect", "theirs", "--json"]);
    assert!(theirs["run"].is_null() && theirs["file_sha256"] == run["file_sha256"], "{theirs}");
    let text = ok(d, &["inspect", "run"]);
    assert!(text.contains("layer4.0.downsample.0.weight") && text.contains("config.toml"), "{text}");
}

#[test]
fn lists_name_papers_and_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let methods = json(d, &["methods", "--json"]);
    let simclr = methods.as_array().unwrap().iter().find(|m| m["name"] == "simclr").unwrap();
    assert_eq!(
        (simclr["year"].as_u64(), simclr["defaults"]["method"]["name"].as_str()),
        (Some(2020), Some("simclr"))
    );
    assert!(ok(d, &["methods"]).contains("arXiv:2002.05709"));
    let archs = json(d, &["archs", "--json"]);
    let resnet50 = archs.as_array().unwrap().iter().find(|a| a["name"] == "resnet50").unwrap();
    // torchvision's ResNet-50 has 25,557,032 weights, 2,049,000 of them in its classifier.
    assert_eq!(
        (resnet50["feature_dim"].as_u64(), resnet50["parameters"].as_u64()),
        (Some(2048), Some(23_508_032))
    );
    assert!(ok(d, &["completions", "bash"]).contains("selfsup"));
}

#[test]
fn show_draws_a_row_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"), 3);
    ok(
        d,
        &[
            "show",
            "simclr",
            "--data",
            "colours",
            "--image-size",
            "16",
            "--images",
            "2",
            "--draws",
            "3",
            "--out",
            "v.png",
        ],
    );
    let picture = image::open(d.join("v.png")).unwrap().into_rgb8();
    // Two rows; the image and three draws of two views; tiles of 96 pixels, gaps of 4, and 12 more before a draw.
    assert_eq!(picture.dimensions(), (7 * 100 + 4 + 3 * 12, 2 * 100 + 4));
    let again = fs::read(d.join("v.png")).unwrap();
    ok(
        d,
        &[
            "show",
            "simclr",
            "--data",
            "colours",
            "--image-size",
            "16",
            "--images",
            "2",
            "--draws",
            "3",
            "--out",
            "w.png",
        ],
    );
    assert_eq!(again, fs::read(d.join("w.png")).unwrap());
    let (status, _, stderr) = run(d, &["show", "simclr", "--out", "v.jpg"]);
    assert!(status == 2 && stderr.contains(".png"), "{stderr}");
}

/// A momentum contrast checkpoint's names, without a word of architecture or preparation.
#[test]
fn weight_files_of_others_are_probed_and_what_was_found_is_said() {
    use selfsup_models::weights::{self, WeightFile};
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"), 20);
    step(d);
    let file = weights::read(&d.join("run/encoder.safetensors"), &candle_core::Device::Cpu).unwrap();
    let rename = |(name, tensor)| (format!("state_dict.module.encoder_q.{name}"), tensor);
    let mut tensors: std::collections::HashMap<_, _> = file.tensors.into_iter().map(rename).collect();
    tensors.insert("state_dict.module.queue".into(), tensors.values().next().unwrap().clone());
    let theirs = WeightFile { tensors, metadata: Default::default() };
    weights::write(&d.join("moco.safetensors"), &theirs).unwrap();

    let probe = ["embed", "moco.safetensors", "--data", "colours", "--out", "features.npy"];
    let (status, _, stderr) = run(d, &probe);
    assert!(status == 2 && stderr.contains("say which by --arch"), "{stderr}");
    let more = ["--arch", "resnet10-mini", "--image-size", "12"];
    let (status, _, stderr) = run(d, &[&probe[..], &more].concat());
    assert_eq!(status, 0, "{stderr}");
    let said = "resnet10-mini by the names of moco under `state_dict.module.encoder_q.`";
    assert!(stderr.contains(said) && stderr.contains("1 dropped (1 queue); images of 12 pixels"), "{stderr}");
    for (flags, part) in [
        (["--names", "timmm"], "did you mean `timm`"),
        (["--names", "lightly"], "none of its tensors"),
        (["--arch", "resnet18"], "has shape"),
    ] {
        let (status, _, stderr) = run(d, &[&probe[..], &flags].concat());
        assert!(status == 2 && stderr.contains(part), "{flags:?}: {stderr}");
    }
    let (status, _, stderr) =
        run(d, &["embed", "run", "--data", "colours", "--out", "f.npy", "--names", "timm"]);
    assert!(status == 2 && stderr.contains("for what does not say its own"), "{stderr}");
    for what in ["pixels", "random:resnet10-mini"] {
        let flags = ["embed", what, "--data", "colours", "--out", "f.npy", "--names", "timm"];
        let (status, _, stderr) = run(d, &flags);
        assert!(status == 2 && stderr.contains("are for weight files"), "{stderr}");
    }
}

#[test]
fn convert_writes_other_names_and_comes_back() {
    use selfsup_models::weights;
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"), 10);
    step(d);
    let stdout = ok(d, &["convert", "run", "theirs.safetensors", "--names", "hf-resnet"]);
    assert!(stdout.contains("as hf-resnet has them, none dropped"), "{stdout}");
    ok(d, &["convert", "theirs.safetensors", "ours.safetensors"]);
    let bytes = |name: &str| fs::read(d.join(name)).unwrap();
    assert_eq!(bytes("run/encoder.safetensors"), bytes("ours.safetensors"), "metadata and all");
    let theirs = weights::read(&d.join("theirs.safetensors"), &candle_core::Device::Cpu).unwrap();
    assert!(theirs.tensors.contains_key("embedder.embedder.convolution.weight"));
    // What says its architecture and preparation needs no flags, whatever its names.
    ok(d, &["embed", "theirs.safetensors", "--data", "colours", "--out", "features.npy", "--quiet"]);
    for (flags, part) in [
        (["theirs.safetensors", "x.pth", "--names", "timm"], "must end in .safetensors"),
        (["theirs.safetensors", "x.safetensors", "--names", "hf-vit"], "there is none for"),
        (["theirs.safetensors", "x.safetensors", "--names", "hf-resnte"], "did you mean `hf-resnet`"),
        (["nothing", "x.safetensors", "--names", "timm"], "no encoder at"),
        (["owner/model", "x.safetensors", "--names", "timm"], "is it `hf:owner/model`?"),
        (["theirs.safetensors", "./theirs.safetensors", "--names", "timm"], "would replace"),
    ] {
        let (status, _, stderr) = run(d, &[&["convert"], &flags[..]].concat());
        assert!(
            status == 2 && stderr.contains(part) && !d.join("x.safetensors").exists(),
            "{flags:?}: {stderr}"
        );
    }
}
