//! Images by images.

mod common;

use candle_core::Device;
use common::{colours, pretrain_a_step, run};
use selfsup_models::weights;
use serde_json::Value;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

const ENCODER: [&str; 3] = ["embed", "random:resnet10-mini", "--seed"];

fn embedded(d: &Path) {
    colours(&d.join("colours"), ["red", "blue"], 12, (32, 32));
    let more = ["4", "--image-size", "32", "--data", "colours", "--out", "index.safetensors", "--quiet"];
    let (status, _, stderr) = run(d, &[&ENCODER[..], &more].concat());
    assert_eq!(status, 0, "{stderr}");
}

#[test]
fn an_image_finds_itself_and_then_its_like() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    embedded(d);
    let images = ["colours/red/03.png", "colours/blue/07.png"];
    let args =
        ["search", "index.safetensors", images[0], images[1], "--top", "5", "--json", "--out", "found.png"];
    let (status, stdout, stderr) = run(d, &args);
    assert_eq!(status, 0, "{stderr}");
    let json: Value = serde_json::from_str(&stdout).unwrap();
    for (result, (image, class)) in
        json["results"].as_array().unwrap().iter().zip(images.iter().zip(["red", "blue"]))
    {
        assert_eq!(result["image"], *image);
        let nearest = result["nearest"].as_array().unwrap();
        assert_eq!(nearest.len(), 5);
        assert_eq!(nearest[0]["id"], image.strip_prefix("colours/").unwrap());
        assert!((nearest[0]["similarity"].as_f64().unwrap() - 1.0).abs() < 1e-5);
        let similarities: Vec<f64> = nearest.iter().map(|at| at["similarity"].as_f64().unwrap()).collect();
        assert!(similarities.is_sorted_by(|a, b| a >= b), "{similarities:?}");
        assert!(nearest.iter().all(|at| at["class"] == class), "{nearest:?}");
    }
    let picture = image::open(d.join("found.png")).unwrap();
    // The image and five others, in two rows.
    assert!(picture.width() > 6 * 128 && picture.width() < 7 * 128, "{}", picture.width());
    assert!(picture.height() > 2 * 128 && picture.height() < 3 * 128);

    let (status, stdout, _) = run(d, &["search", "index.safetensors", images[0], "--top", "100"]);
    assert_eq!((status, stdout.lines().count()), (0, 2 + 24), "no more than there are: {stdout}");
}

#[test]
fn what_cannot_be_searched_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    embedded(d);
    fs::write(d.join("broken.png"), b"no picture").unwrap();
    fs::write(d.join("cut.safetensors"), &fs::read(d.join("index.safetensors")).unwrap()[..500]).unwrap();
    let index = fs::read(d.join("index.safetensors")).unwrap();
    let with = |name: &str, from: &[u8], to: &[u8]| {
        let mut index = index.clone();
        let at = index.windows(from.len()).position(|part| part == from).unwrap();
        index[at..at + from.len()].copy_from_slice(to);
        fs::write(d.join(name), index).unwrap();
    };
    with("elsewhere.safetensors", b"random:resnet10-mini", b"runs/moved/elsewhere");
    let mut nan = index.clone();
    nan[first_feature(&index)..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(d.join("nan.safetensors"), nan).unwrap();
    let args = ["embed", "pixels", "--data", "colours", "--out", "features.npy", "--quiet"];
    assert_eq!(run(d, &args).0, 0);
    let image = "colours/red/00.png";
    for (args, part) in [
        (vec!["nothing.safetensors", image], "nothing.safetensors"),
        (vec!["cut.safetensors", image], "cut.safetensors is no index"),
        (vec!["features.npy", image], "features.npy is no index"),
        (vec!["index.safetensors", "broken.png"], "broken.png"),
        (vec!["index.safetensors", "nothing.png"], "nothing.png"),
        (
            vec!["index.safetensors", image, "--encoder", "pixels"],
            "not the encoder that index.safetensors was made by",
        ),
        (
            vec!["index.safetensors", image, "--out", "f.png", "--data", "elsewhere"],
            "--data says where they are",
        ),
        (vec!["index.safetensors"], "required"),
        (vec!["index.safetensors", image, "--out", "found.txt"], "found.txt"),
        (vec!["index.safetensors", image, "--out", "nowhere/found.png"], "nowhere is no folder"),
        (vec!["nan.safetensors", image], "`blue/00.png` are not finite"),
        (vec!["elsewhere.safetensors", image], "--encoder"),
    ] {
        let (status, stdout, stderr) = run(d, &[&["search"], &args[..]].concat());
        assert!(status == 2 && stderr.contains(part) && stdout.is_empty(), "{args:?}: {stderr}");
    }
    // The same weights in another network, whose tensors have the same shapes.
    let (status, _, stderr) =
        run(d, &["search", "index.safetensors", image, "--encoder", "random:resnet10-narrow-cifar"]);
    assert!(status == 2 && stderr.contains("not the encoder"), "{stderr}");
    // An encoder of the same kind and another seed.
    let other = "random:resnet10-mini";
    with("other.safetensors", b"\\\"seed\\\":4", b"\\\"seed\\\":5");
    let (status, _, stderr) = run(d, &["search", "other.safetensors", image, "--encoder", other]);
    assert!(status == 2 && stderr.contains("not the encoder"), "{stderr}");
}

/// Where the features begin in an index.
fn first_feature(index: &[u8]) -> usize {
    let length = u64::from_le_bytes(index[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&index[8..8 + length]).unwrap();
    8 + length + header["features"]["data_offsets"][0].as_u64().unwrap() as usize
}

#[test]
fn the_encoder_may_have_moved_away_from_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"), ["red", "blue"], 12, (48, 60));
    // A run's file says itself how images are prepared; converted, it does not, and a configuration beside it does.
    pretrain_a_step(d, ["simclr", "colours", "run"], &[]);
    fs::create_dir(d.join("model")).unwrap();
    bare(&d.join("run/encoder.safetensors"), &d.join("model/model.safetensors"));
    let json = r#"{"size": {"height": 36, "width": 36}, "crop_size": 32, "resample": 3, "image_mean": [0.1, 0.5, 0.9], "image_std": [0.5, 0.25, 0.2]}"#;
    fs::write(d.join("model/preprocessor_config.json"), json).unwrap();
    let (status, _, stderr) = run(
        d,
        &["embed", "model", "--data", "colours", "--out", "index.safetensors", "--arch", "resnet10-mini"],
    );
    assert_eq!(status, 0, "{stderr}");
    assert!(
        stderr.contains(
            "images of 32 pixels of 36, squashed to a square, resized bicubically, normalised as preprocessor_config.json says (mean 0.1 0.5 0.9, std 0.5 0.25 0.2)"
        ),
        "{stderr}"
    );
    let probe = |more: &[&str]| {
        let args = ["embed", "model", "--arch", "resnet10-mini", "--data", "colours", "--out", "x.npy"];
        run(d, &[&args[..], more].concat())
    };
    let said = probe(&["--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2"]).2;
    assert!(said.contains("normalised by --mean and --std (mean 0.5 0.5 0.5, std 0.2 0.2 0.2)"), "{said}");
    let said = probe(&["--std", "0.2,0.2,0.2"]).2;
    assert!(said.contains("by --std, with the mean of preprocessor_config.json"), "{said}");
    let said = probe(&["--resize", "40", "--interpolation", "bilinear", "--crop-mode", "squash"]).2;
    assert!(said.contains("images of 32 pixels of 40, squashed to a square, normalised as"), "{said}");
    let (status, _, said) = probe(&["--resize", "31"]);
    assert!(status == 2 && said.contains("resize must be at least the side"), "{said}");
    let (status, _, said) = probe(&["--mean", "127,127,127"]);
    assert!(status == 2 && said.contains("in 0…1"), "{said}");
    fs::rename(d.join("model/model.safetensors"), d.join("moved.safetensors")).unwrap();

    let search = |encoder: &[&str]| {
        run(
            d,
            &[&["search", "index.safetensors", "colours/red/03.png", "--top", "1", "--json"], encoder]
                .concat(),
        )
    };
    let (status, stdout, stderr) = search(&["--encoder", "moved.safetensors"]);
    assert_eq!(status, 0, "{stderr}");
    let nearest = &serde_json::from_str::<Value>(&stdout).unwrap()["results"][0]["nearest"][0];
    assert_eq!(nearest["id"], "red/03.png");
    assert!(nearest["similarity"].as_f64().unwrap() > 0.99999);
    let (status, _, stderr) = search(&[]);
    assert!(status == 2 && stderr.contains("was made by `model`; --encoder"), "{stderr}");
    // The run's own file has the same weights; prepared as the index says, it makes the same features.
    assert_eq!(search(&["--encoder", "run"]).1, stdout.replace("moved.safetensors", "run"));
}

/// The file without its metadata.
fn bare(from: &Path, to: &Path) {
    let bytes = fs::read(from).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header.as_object_mut().unwrap().remove("__metadata__").unwrap();
    let header = serde_json::to_vec(&header).unwrap();
    fs::write(to, [&(header.len() as u64).to_le_bytes()[..], &header, &bytes[8 + length..]].concat())
        .unwrap();
}

#[test]
fn what_has_no_direction_has_no_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"), ["red", "blue"], 3, (8, 8));
    image::RgbImage::new(8, 8).save(d.join("black.png")).unwrap();
    let args = [
        "embed",
        "pixels",
        "--image-size",
        "8",
        "--data",
        "colours",
        "--out",
        "index.safetensors",
        "--quiet",
    ];
    assert_eq!(run(d, &args).0, 0);
    assert_eq!(run(d, &["search", "index.safetensors", "colours/red/00.png"]).0, 0);
    let (status, _, stderr) = run(d, &["search", "index.safetensors", "black.png"]);
    assert!(status == 1 && stderr.contains("black.png are all zero"), "{stderr}");
}

#[test]
fn an_index_that_contradicts_itself_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    embedded(d);
    let whole = weights::read(&d.join("index.safetensors"), &Device::Cpu).unwrap();
    let search = |name: &str, cut: usize, dim: usize| {
        let mut file = whole.clone();
        let tensor = file.tensors.get_mut(name).unwrap();
        *tensor = tensor.narrow(dim, 0, tensor.dim(dim).unwrap() - cut).unwrap().contiguous().unwrap();
        weights::write(&d.join("cut.safetensors"), &file).unwrap();
        let (status, _, stderr) = run(d, &["search", "cut.safetensors", "colours/red/00.png"]);
        assert_eq!(status, 2, "{stderr}");
        stderr
    };
    for name in ["labels", "features"] {
        assert!(search(name, 1, 0).contains("not of as many images"));
    }
    assert!(search("ids", 1, 0).contains("its ids are damaged"));
    assert!(search("features", 1, 1).contains("not what it says they were made by"));
}

/// Whoever made an index does not choose what is fetched: nobody is asked.
#[test]
fn an_index_fetches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    embedded(d);
    let mut index = weights::read(&d.join("index.safetensors"), &Device::Cpu).unwrap();
    index.metadata.insert("encoder".into(), "hf:no-one/not-a-model".into());
    weights::write(&d.join("index.safetensors"), &index).unwrap();
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    hub.set_nonblocking(true).unwrap();
    let mut search = assert_cmd::Command::new(env!("CARGO_BIN_EXE_selfsup"));
    search.current_dir(d).args(["search", "index.safetensors", "colours/red/00.png"]);
    search.env("HF_ENDPOINT", format!("http://{}", hub.local_addr().unwrap())).env("HF_HOME", d.join("hf"));
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        search.env_remove(name);
    }
    let output = search.timeout(Duration::from_secs(20)).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && stderr.contains("--encoder"), "{stderr}");
    assert_eq!(hub.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}
