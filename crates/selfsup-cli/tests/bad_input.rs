//! Bad input gets one `error:` line that says what to do, the right status, and loses nothing.

use assert_cmd::Command;
use std::path::Path;

/// Runs the program in a folder; returns status, stdout, stderr.
fn selfsup(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selfsup"));
    let output = command.current_dir(folder).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Expects status 2, nothing on stdout, nothing written, and every word on the one error line.
fn refused(args: &[&str], words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    refused_in(folder.path(), args, words);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{args:?} wrote something");
}

fn refused_in(folder: &Path, args: &[&str], words: &[&str]) {
    let (status, stdout, stderr) = selfsup(folder, args);
    assert_eq!(status, 2, "{args:?}: {stderr}");
    assert_eq!(stdout, "", "{args:?}");
    assert_eq!(stderr.lines().filter(|l| l.starts_with("error:")).count(), 1, "{args:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?}: `{word}` is not in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn image(path: &Path, side: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixels =
        image::RgbImage::from_fn(side, side, |x, y| image::Rgb([x as u8 * 7, y as u8 * 5, (x + y) as u8]));
    pixels.save(path).unwrap();
}

#[test]
fn unknown_names_are_answered_with_the_nearest() {
    refused(&["pretrain", "simcrl"], &["simcrl", "did you mean `simclr`?"]);
    refused(&["pretrain", "simclr", "--arch", "resnet81"], &["resnet81", "did you mean `resnet18`?"]);
    refused(&["pretrain", "simclr", "--set", "batchsize=4"], &["batchsize", "did you mean `batch_size`?"]);
    refused(
        &["pretrain", "simclr", "--set", "method.temprature=4"],
        &["temprature", "did you mean `temperature`?"],
    );
    refused(&["pretrain", "simclr", "--data", "fashion-minst"], &["fashion-minst"]);
}

#[test]
fn networks_that_do_not_fit_are_refused() {
    let small = ["pretrain", "rotation", "--arch", "alexnet_bn", "--image-size", "28"];
    refused(&small, &["at least 63 pixels", "got 28"]);
    // Their decoders would train the convolutions alone.
    for method in ["inpainting", "colorization"] {
        let map = ["pretrain", method, "--arch", "vgg16_bn", "--image-size", "96"];
        refused(&map, &["would stay untrained"]);
    }
}

#[test]
fn a_config_with_an_unknown_field_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("c.toml"), "epocs = 3\n").unwrap();
    refused_in(
        folder.path(),
        &["pretrain", "simclr", "--config", "c.toml"],
        &["epocs", "did you mean `epochs`?"],
    );
    std::fs::write(folder.path().join("c.toml"), "epochs = \n").unwrap();
    refused_in(folder.path(), &["pretrain", "simclr", "--config", "c.toml"], &["c.toml"]);
    refused_in(folder.path(), &["pretrain", "simclr", "--config", "none.toml"], &["none.toml"]);
}

#[test]
fn values_out_of_range_are_named() {
    refused(&["pretrain", "simclr", "--set", "method.temperature=0"], &["temperature", "positive"]);
    refused(&["pretrain", "simclr", "--batch-size", "1"], &["batch_size", "at least 2"]);
    refused(&["pretrain", "simclr", "--epochs", "0"], &["epochs", "at least 1"]);
    refused(&["pretrain", "simclr", "--lr=-1"], &["lr"]);
    refused(&["pretrain", "simclr", "--dtype", "f8"], &["dtype", "f8"]);
    refused(&["pretrain", "simclr", "--device", "tpu"], &["device", "tpu"]);
    refused(&["pretrain", "simclr", "--set", "seed"], &["KEY=VALUE"]);
    refused(&["pretrain", "simclr", "--set", "workers=-1"], &["error: workers: ", "-1"]);
    refused(&["pretrain", "relative-patch", "--set", "method.gap=-1"], &["error: method.gap: ", "-1"]);
    refused(
        &["pretrain", "relative-patch", "--set", "method.patch=9", "--set", "method.color=dorp"],
        &["error: method.color: ", "dorp", "did you mean `drop`"],
    );
    refused(&["pretrain", "rotation", "--image-size", "1"], &["at least 2"]);
}

#[test]
fn missing_empty_and_too_small_data_is_said() {
    refused(&["pretrain", "simclr", "--data", "nowhere"], &["nowhere"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    refused_in(folder.path(), &["pretrain", "simclr", "--data", "empty"], &["empty"]);
    for i in 0..3 {
        image(&folder.path().join(format!("three/{i}.png")), 20);
    }
    refused_in(
        folder.path(),
        &[
            "pretrain",
            "simclr",
            "--data",
            "three",
            "--batch-size",
            "8",
            "--image-size",
            "16",
            "--arch",
            "resnet18-cifar",
        ],
        &["batch_size is 8", "3 images"],
    );
    // Nor does a plan pass that a run would not.
    std::fs::create_dir(folder.path().join("gray")).unwrap();
    for i in 0..3 {
        image::GrayImage::new(20, 20).save(folder.path().join(format!("gray/{i}.png"))).unwrap();
    }
    let plan = ["pretrain", "colorization", "--data", "gray", "--image-size", "16", "--dry-run"];
    let batch = |n| [&plan[..], &["--arch", "resnet10-mini", "--batch-size", n]].concat();
    refused_in(folder.path(), &batch("8"), &["batch_size is 8", "3 images"]);
    refused_in(folder.path(), &batch("2"), &["coloured images"]);
    std::fs::write(folder.path().join("config.toml"), "").unwrap();
    let there = [&plan[..], &["--arch", "resnet10-mini", "--batch-size", "2", "--out", "."]].concat();
    refused_in(folder.path(), &there, &["already holds a run"]);
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn images_smaller_than_the_views_are_said_before_training() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..8 {
        image(&folder.path().join(format!("small/{i}.png")), 20);
    }
    let args =
        ["pretrain", "simclr", "--data", "small", "--arch", "resnet10-narrow-cifar", "--batch-size", "4"];
    refused_in(folder.path(), &args, &["smaller than the views", "20 pixels", "224", "allow_small_images"]);
    assert!(!folder.path().join("runs").exists());
    let more =
        ["--image-size", "24", "--set", "allow_small_images=true", "--steps", "1", "--no-probe", "--quiet"];
    let (status, _, stderr) = selfsup(folder.path(), &[&args[..], &more[..]].concat());
    assert_eq!(status, 0, "{stderr}");
}

#[test]
fn a_probe_needs_labels_of_two_classes() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..12 {
        image(&folder.path().join(format!("one/only/{i}.png")), 20);
        image(&folder.path().join(format!("unlabelled/{i}.png")), 20);
    }
    let (status, _, stderr) = selfsup(folder.path(), &["probe", "pixels", "--data", "one"]);
    assert!(status == 2 && stderr.contains("two classes"), "{status}: {stderr}");
    let (status, _, stderr) = selfsup(folder.path(), &["probe", "pixels", "--data", "unlabelled"]);
    assert!(status == 2 && stderr.contains("label"), "{status}: {stderr}");
}

#[test]
fn labels_that_do_not_suffice_are_said_before_the_work_and_cost_no_run() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..8 {
        image(&folder.path().join(format!("two/cat/{i}.png")), 20);
        image(&folder.path().join(format!("two/dog/{i}.png")), 20);
    }
    let args = ["probe", "pixels", "--data", "two", "--labels-per-class", "30"];
    refused_in(folder.path(), &args, &["`cat`", "30 were asked for"]);
    let args = ["pretrain", "simclr", "--data", "two", "--arch", "resnet10-mini", "--image-size", "20"];
    let more = ["--batch-size", "4", "--steps", "1", "--out", "run"];
    let (status, stdout, stderr) = selfsup(folder.path(), &[&args[..], &more].concat());
    assert_eq!(status, 0, "{stderr}");
    assert!(stderr.contains("no column `linear, 10 a class`: the class `cat` has"), "{stderr}");
    assert!(stderr.contains("warning: schedule.warmup_epochs must be no longer than the run"), "{stderr}");
    let head = stdout.lines().next().unwrap_or_default();
    assert!(head.ends_with("kNN  linear") && stdout.contains("resnet10-mini, simclr"), "{stdout}");
}

#[test]
fn an_encoder_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("encoder.safetensors"), b"not a weight file").unwrap();
    for args in [
        ["inspect", "encoder.safetensors"],
        ["inspect", "missing.safetensors"],
        ["inspect", "random:resnet19"],
    ] {
        let (status, stdout, stderr) = selfsup(folder.path(), &args);
        assert!(status == 1 || status == 2, "{args:?}");
        assert!(stdout.is_empty() && stderr.starts_with("error:"), "{args:?}: {stderr}");
    }
}
