//! Nothing is written over what it is made from, nothing long is begun whose outcome cannot be kept, and what is strange in a folder of
//! images is said and not obeyed.

mod common;

use candle_core::Device;
use common::{colours, pretrain_a_step, run};
use selfsup_models::weights;
use selfsup_models::{Encoder, Preprocessing, arch};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Images, and an encoder's file.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    colours(&dir.path().join("images"), ["red", "blue"], 12, (32, 32));
    let preprocessing = Preprocessing::rgb(32, [0.5; 3], [0.25; 3]);
    let encoder = Encoder::untrained(arch("resnet10-mini").unwrap(), preprocessing, 0, &Device::Cpu).unwrap();
    encoder.save(&dir.path().join("encoder.safetensors"), &BTreeMap::new()).unwrap();
    dir
}

/// Of a shell's line.
fn refused(d: &Path, line: &str, part: &str) {
    let args: Vec<&str> = line.split(' ').collect();
    let (status, stdout, stderr) = run(d, &args);
    assert!(status == 2 && stdout.is_empty() && stderr.contains(part), "{line}: {status} {stderr}");
}

#[test]
fn nothing_is_written_over_what_it_is_made_from() {
    let dir = folder();
    let d = dir.path();
    pretrain_a_step(d, ["simclr", "images", "run"], &[]);
    pretrain_a_step(d, ["colorization", "images", "colours"], &[]);
    // A sharded model.
    let whole = weights::read(&d.join("encoder.safetensors"), &Device::Cpu).unwrap();
    fs::create_dir(d.join("sharded")).unwrap();
    let mut map = BTreeMap::new();
    for (i, first) in [true, false].into_iter().enumerate() {
        let mut part = whole.clone();
        part.tensors.retain(|name, _| name.starts_with("layer4") == first);
        let name = format!("model-{i}.safetensors");
        map.extend(part.tensors.keys().map(|tensor| (tensor.clone(), name.clone())));
        weights::write(&d.join("sharded").join(name), &part).unwrap();
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    fs::write(d.join("sharded/model.safetensors.index.json"), index).unwrap();
    let embed = run(d, &["embed", "encoder.safetensors", "--data", "images", "--out", "index.safetensors"]);
    assert_eq!(embed.0, 0, "{}", embed.2);
    fs::copy(d.join("images/red/00.png"), d.join("asked.png")).unwrap();
    fs::copy(d.join("index.safetensors"), d.join("index.png")).unwrap();

    let files = || {
        let names =
            ["encoder.safetensors", "asked.png", "index.png", "run/encoder.safetensors", "run/config.toml"];
        let shards = ["sharded/model-0.safetensors", "sharded/model-1.safetensors"];
        names.iter().chain(&shards).map(|name| fs::read(d.join(name)).unwrap()).collect::<Vec<_>>()
    };
    let before = files();
    for (line, part) in [
        ("embed encoder.safetensors --data images --out encoder.safetensors", "made from"),
        ("embed run --data images --out run/encoder.safetensors", "made from"),
        ("embed random:resnet10-mini --data images --out run/encoder.safetensors", "a part of the run"),
        ("embed sharded --data images --out sharded/model-1.safetensors", "made from"),
        ("convert encoder.safetensors ./encoder.safetensors", "made from"),
        ("convert sharded sharded/model-0.safetensors", "made from"),
        ("search index.safetensors asked.png --out asked.png", "made from"),
        ("search index.png asked.png --out index.png", "made from"),
        ("report run --out run/encoder.safetensors", "a part of the run"),
        ("report run --out run/config.toml", "a part of the run"),
        ("colorize colours asked.png --out .", "made from"),
        ("colorize colours images --out images", "made from"),
    ] {
        refused(d, line, part);
    }
    assert!(files() == before);
}

#[test]
fn an_outcome_that_could_not_be_kept_is_refused_before_the_work() {
    let dir = folder();
    let d = dir.path();
    pretrain_a_step(d, ["simclr", "images", "run"], &[]);
    for (line, part) in [
        ("embed run --data images --out nowhere/x.safetensors", "nowhere is no folder"),
        ("embed run --data images --out nowhere/x.npy", "nowhere is no folder"),
        ("report run --out nowhere/r.html", "nowhere is no folder"),
        ("show simclr --data images --image-size 32 --out nowhere/v.png", "nowhere is no folder"),
        ("report run --out images", "it is a folder"),
        ("convert run nowhere/x.safetensors", "nowhere is no folder"),
        ("embed pixels --image-size 2000 --data images --out x.npy", "at most 512 pixels"),
        ("embed random:resnet10-mini --image-size 100000 --data images --out x.npy", "--image-size"),
        ("embed run --image-size 0 --data images --out x.npy", "--image-size"),
    ] {
        refused(d, line, part);
    }
}

/// A part of a network is converted, and said to be one.
#[test]
fn what_is_converted_and_no_whole_network_is_said() {
    let dir = folder();
    let d = dir.path();
    let mut file = weights::read(&d.join("encoder.safetensors"), &Device::Cpu).unwrap();
    let convert = |name: &str| {
        let (status, _, stderr) = run(d, &["convert", name, "out.safetensors", "--names", "moco"]);
        assert_eq!(status, 0, "{stderr}");
        stderr
    };
    let said = convert("encoder.safetensors");
    assert_eq!(said, "");
    file.tensors.remove("layer3.0.conv1.weight").unwrap();
    weights::write(&d.join("part.safetensors"), &file).unwrap();
    let said = convert("part.safetensors");
    assert!(
        said.contains("no whole encoder") && said.contains("`layer3.0.conv1.weight` is missing"),
        "{said}"
    );
}

#[test]
fn what_is_told_apart_is_said() {
    let dir = folder();
    let d = dir.path();
    let probe = |data: &str| run(d, &["probe", "pixels", "--data", data, "--kind", "knn"]).2;
    let said = probe("images");
    assert!(said.contains("2 classes: blue, red\n") && !said.contains("warning"), "{said}");
    let (status, _, said) =
        run(d, &["probe", "pixels", "--data", "images", "--test", "./images/", "--kind", "knn", "--quiet"]);
    assert!(status == 0 && said.contains("warning: the test images are those"), "{said}");
    // Parts by names that are none here.
    fs::create_dir(d.join("parts")).unwrap();
    fs::rename(d.join("images/red"), d.join("parts/Train")).unwrap();
    fs::rename(d.join("images/blue"), d.join("parts/Test")).unwrap();
    let said = probe("parts");
    assert!(
        said.contains("2 classes: Test, Train") && said.contains("warning: `Test` is taken for a class"),
        "{said}"
    );
}

#[test]
fn photographs_that_are_not_read_are_counted() {
    let dir = folder();
    let d = dir.path();
    for name in ["red/a.HEIC", "red/b.heic", "blue/c.avif", "blue/notes.txt"] {
        fs::write(d.join("images").join(name), b"not read").unwrap();
    }
    let text = "1 .avif, 2 .heic files are left out, which are not read: convert them";
    let (_, stdout, _) = run(d, &["data", "images"]);
    assert!(stdout.contains(text) && stdout.contains("4 files passed over"), "{stdout}");
    for args in [
        &["embed", "pixels", "--data", "images", "--out", "x.npy", "--quiet"][..],
        &["probe", "pixels", "--data", "images", "--kind", "knn", "--quiet"],
    ] {
        let (status, _, stderr) = run(d, args);
        assert!(status == 0 && stderr.contains(text), "{args:?}: {stderr}");
    }
    fs::create_dir(d.join("telephone")).unwrap();
    fs::rename(d.join("images/red/a.HEIC"), d.join("telephone/a.HEIC")).unwrap();
    let (status, _, stderr) = run(d, &["data", "telephone"]);
    assert!(status == 2 && stderr.contains("1 .heic files are left out"), "{stderr}");
}

#[test]
fn broken_images_are_left_out_by_every_command() {
    let dir = folder();
    let d = dir.path();
    for i in 0..4 {
        fs::write(d.join(format!("images/red/{i:02}.png")), b"no picture").unwrap();
    }
    let (status, _, stderr) =
        run(d, &["show", "simclr", "--data", "images", "--image-size", "32", "--out", "v.png"]);
    assert!(status == 0 && stderr.contains("skipped red/00.png"), "{stderr}");
    let probe = |more: &[&str]| {
        let args = ["probe", "encoder.safetensors", "--data", "images", "--finetune-epochs", "1", "--json"];
        run(d, &[&args[..], more].concat())
    };
    let (status, both, stderr) = probe(&["--kind", "finetune,linear", "--seeds", "1"]);
    assert_eq!(status, 0, "{stderr}");
    let json: serde_json::Value = serde_json::from_str(&both).unwrap();
    let count = |row: usize, part: &str| json["results"][row][part].as_u64().unwrap();
    assert_eq!((count(0, "train"), count(0, "test")), (count(1, "train"), count(1, "test")));
    assert_eq!(count(0, "train") + count(0, "test"), 20);
    assert_eq!(stderr.matches("skipped red/00.png").count(), 1, "{stderr}");
    let (status, _, stderr) = probe(&["--kind", "finetune", "--seeds", "1"]);
    assert!(status == 0 && stderr.matches("skipped red/").count() == 4, "{stderr}");
    let (status, _, stderr) = probe(&["--kind", "finetune", "--seeds", "1", "--strict"]);
    assert!(status == 1 && stderr.contains("red/0"), "{stderr}");
}

/// A file's words are written out where a terminal would obey them.
#[test]
fn a_files_words_are_not_obeyed() {
    let dir = folder();
    let d = dir.path();
    let mut file = weights::read(&d.join("encoder.safetensors"), &Device::Cpu).unwrap();
    file.metadata.insert("no\u{1b}[31mte".into(), "\u{1b}]0;title\u{7}\nsha256 forged".into());
    weights::write(&d.join("strange.safetensors"), &file).unwrap();
    let (status, stdout, _) = run(d, &["inspect", "strange.safetensors"]);
    assert!(status == 0 && !stdout.contains('\u{1b}') && !stdout.contains("\nsha256 forged"), "{stdout:?}");
    fs::write(d.join("images/red/\u{1b}[2J.png"), b"no picture").unwrap();
    let (status, _, stderr) = run(d, &["embed", "pixels", "--data", "images", "--out", "x.npy", "--quiet"]);
    assert!(status == 0 && stderr.contains("skipped red/\\u{1b}[2J.png"), "{stderr:?}");
}

#[test]
fn a_picture_of_what_was_found_does_without_what_has_gone() {
    let dir = folder();
    let d = dir.path();
    assert_eq!(run(d, &["embed", "encoder.safetensors", "--data", "images", "--out", "i.safetensors"]).0, 0);
    fs::copy(d.join("images/red/03.png"), d.join("asked.png")).unwrap();
    fs::remove_file(d.join("images/red/03.png")).unwrap();
    let args = ["search", "i.safetensors", "asked.png", "--top", "3", "--out", "found.png"];
    let (status, stdout, stderr) = run(d, &args);
    assert!(status == 0 && stdout.contains("red/03.png"), "{stderr}");
    assert!(stderr.contains("no picture of `red/03.png` of `images`: it is not there"), "{stderr}");
    assert!(image::open(d.join("found.png")).is_ok());
}

/// Features of what is finite may be none.
#[test]
fn features_that_are_no_numbers_are_not_kept() {
    let dir = folder();
    let d = dir.path();
    let mut file = weights::read(&d.join("encoder.safetensors"), &Device::Cpu).unwrap();
    let large = (file.tensors["bn1.weight"].ones_like().unwrap() * 1e38).unwrap();
    file.tensors.insert("bn1.weight".into(), large);
    weights::write(&d.join("large.safetensors"), &file).unwrap();
    let (status, _, stderr) =
        run(d, &["embed", "large.safetensors", "--data", "images", "--out", "x.safetensors"]);
    assert!(status == 1 && stderr.contains("the features of blue/00.png are not finite"), "{stderr}");
    assert!(!d.join("x.safetensors").exists());
}

#[cfg(unix)]
#[test]
fn an_index_of_any_name_is_searched() {
    use std::os::unix::ffi::OsStrExt;
    let dir = folder();
    let d = dir.path();
    assert_eq!(run(d, &["embed", "encoder.safetensors", "--data", "images", "--out", "i.safetensors"]).0, 0);
    let name = std::ffi::OsStr::from_bytes(b"i\xff.safetensors");
    fs::rename(d.join("i.safetensors"), d.join(name)).unwrap();
    let mut search = assert_cmd::Command::new(env!("CARGO_BIN_EXE_selfsup"));
    let output =
        search.current_dir(d).arg("search").arg(name).args(["images/red/03.png", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["results"][0]["nearest"][0]["id"], "red/03.png");
}

/// A run's own file of orders is published with it, and not where it lay.
#[test]
fn orders_are_published_without_their_place() {
    let dir = folder();
    let d = dir.path();
    fs::create_dir(d.join("secret")).unwrap();
    assert_eq!(run(d, &["permutations", "--count", "64", "--out", "secret/orders.txt"]).0, 0);
    let settings =
        ["--set", "method.permutation_file=\"secret/orders.txt\"", "--set", "method.permutations=64"];
    pretrain_a_step(d, ["jigsaw", "images", "run"], &settings);
    let (status, _, stderr) = run(d, &["publish", "run", "--out", "published", "--no-probe"]);
    assert_eq!(status, 0, "{stderr}");
    let settings = fs::read_to_string(d.join("published/training.toml")).unwrap();
    assert!(
        settings.contains("permutation_file = \"permutations.txt\"") && !settings.contains("secret"),
        "{settings}"
    );
    let same = |a: &str, b: &str| fs::read(d.join(a)).unwrap() == fs::read(d.join(b)).unwrap();
    assert!(same("published/permutations.txt", "secret/orders.txt"));
    for name in ["README.md", "model.safetensors", "config.json"] {
        let bytes = fs::read(d.join("published").join(name)).unwrap();
        assert!(!bytes.windows(6).any(|part| part == b"secret"), "{name}");
    }
}
