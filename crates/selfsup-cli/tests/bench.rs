//! Studies: rows that are run once, a table, a picture, failures that do not end the rest.

mod common;

use common::run;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Class folders `red` and `blue`.
fn colours(folder: &Path) {
    common::colours(folder, ["red", "blue"], 24, (14, 12));
}

/// The command with small sizes; `more` takes the place of flags that are given here.
fn study<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let common = [
        ["--data", "colours"],
        ["--out", "out"],
        ["--arch", "resnet10-mini"],
        ["--epochs", "1"],
        ["--seeds", "2"],
    ];
    let mut args =
        vec!["bench", "--study", name, "--quiet", "--set", "image_size=12", "--set", "batch_size=16"];
    args.extend(common.iter().filter(|[flag, _]| !more.contains(flag)).flatten());
    args.extend(more);
    args
}

#[test]
fn a_study_ends_with_its_table_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"));
    let (status, table, stderr) = run(d, &study("heads", &[]));
    assert_eq!(status, 0, "{stderr}");
    for name in ["pixels", "untrained", "none", "linear", "mlp"] {
        assert!(table.lines().any(|line| line.starts_with(name)), "{table}");
    }
    assert!(table.contains("behind the head") && table.contains(" ± "), "{table}");
    assert!(stderr.contains("[10/10]"), "{stderr}");
    let json = |d: &Path| -> Value {
        serde_json::from_str(&fs::read_to_string(d.join("out/study.json")).unwrap()).unwrap()
    };
    let first = json(d);
    let outcomes = first["outcomes"].as_array().unwrap();
    assert_eq!(outcomes.len(), 10);
    let mlp = outcomes.iter().find(|o| o["row"] == "mlp").unwrap();
    assert_eq!(mlp["views"], 2 * 48, "one epoch of 48 images, two views each");
    assert!(mlp["behind_head"]["linear"].as_f64().unwrap() > 0.4);
    let none = outcomes.iter().find(|o| o["row"] == "none").unwrap();
    assert_eq!(none["behind_head"], none["top1"], "without a head nothing is behind it");
    if cfg!(target_os = "linux") {
        assert!(mlp["peak_bytes"].as_u64().unwrap() > 10_000_000);
    }
    assert!(fs::read_to_string(d.join("out/study.svg")).unwrap().contains("before the head"));
    assert!(fs::read_to_string(d.join("out/study.md")).unwrap().contains("non-linear projection head"));

    // Nothing is run twice, and what is missing is run.
    let (status, again, stderr) = run(d, &study("heads", &[]));
    assert_eq!((status, &again), (0, &table));
    assert!(!stderr.contains("[1/"), "{stderr}");
    fs::remove_file(d.join("out/rows/mlp/seed-1/result.json")).unwrap();
    let (status, again, stderr) = run(d, &study("heads", &[]));
    assert_eq!(status, 0);
    assert!(stderr.contains("[1/1] mlp with seed 1"), "{stderr}");
    // A damaged outcome is measured again; what its training took is not what measuring takes.
    let path = d.join("out/rows/linear/seed-1/result.json");
    let outcome: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let mut asked_less = outcome.clone();
    asked_less["top1"].as_object_mut().unwrap().remove("knn");
    asked_less["peak_bytes"] = 123_456_789_012_u64.into();
    fs::write(&path, asked_less.to_string()).unwrap();
    fs::write(d.join("out/rows/none/seed-1/result.json"), "{").unwrap();
    let (status, _, stderr) = run(d, &study("heads", &[]));
    assert_eq!(status, 0);
    assert!(stderr.contains("result.json is damaged") && stderr.contains("[2/2]"), "{stderr}");
    let after: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(after["peak_bytes"], asked_less["peak_bytes"]);
    assert_eq!(after["top1"], outcome["top1"]);
    // The run was there, so that only its time is another.
    let accuracies =
        |table: &str| table.lines().map(|l| l.chars().take(60).collect::<String>()).collect::<Vec<_>>();
    assert_eq!(accuracies(&again), accuracies(&table));

    // Rows of other settings are not mixed in.
    let (status, _, stderr) = run(d, &study("heads", &["--set", "method.temperature=0.3"]));
    assert_eq!(status, 2);
    assert!(stderr.contains("other settings") && stderr.contains("--out"), "{stderr}");
}

#[test]
fn other_studies_draw_their_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"));
    let (status, table, stderr) = run(d, &study("augmentation", &["--only", "flip", "--seeds", "1"]));
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(table.lines().count(), 2 + 6, "{table}");
    assert!(fs::read_to_string(d.join("out/study.svg")).unwrap().contains("alone on the diagonal"));
}

#[test]
fn bad_input_is_said_before_anything_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"));
    for (args, part) in [
        (study("sizes", &[]), "heads"),
        (study("heads", &["--only", "nothing"]), "no row's name contains"),
        (study("queue", &["--set", "method.temperature=-1"]), "temperature"),
        (study("heads", &["--arch", "resnet1"]), "resnet1"),
        (study("heads", &["--data", "nowhere"]), "nowhere"),
    ] {
        let (status, _, stderr) = run(d, &args);
        assert_eq!(status, 2, "{args:?}: {stderr}");
        assert!(stderr.contains(part), "{args:?}: {stderr}");
        assert!(!d.join("out").exists(), "{args:?}");
    }
    let (status, plan, stderr) = run(d, &study("augmentation", &["--dry-run"]));
    assert_eq!(status, 0, "{stderr}");
    assert!(plan.contains("# crop+flip\n") && !d.join("out").exists(), "{plan}");
    let (status, plan, stderr) = run(d, &study("queue", &["--dry-run"]));
    assert_eq!(status, 2, "{stderr}");
    assert!(
        plan.contains("# untrained\n") && stderr.contains("moco-v2-queue-16384 cannot be run: batch_size")
    );
}

/// More images a step than there are: the row fails, the others go on, and the status says so.
#[test]
fn a_failed_row_does_not_end_the_study() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"));
    let (status, table, stderr) =
        run(d, &study("batch", &["--only", "simclr", "--only", "pixels", "--seeds", "1"]));
    assert_eq!(status, 1, "{stderr}");
    assert!(
        stderr.contains("simclr-batch-64 with seed 0 failed") && stderr.ends_with("4 of the rows failed\n"),
        "{stderr}"
    );
    assert!(
        fs::read_to_string(d.join("out/study.md")).unwrap().contains("has 37 images to train on"),
        "{stderr}"
    );
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("pixels").contains("100.0"), "{table}");
    assert!(!line("simclr-batch-32").contains('–') && line("simclr-batch-512").contains('–'), "{table}");
}

/// `--methods` with small sizes.
fn methods<'a>(list: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["bench", "--methods", list, "--out", "out", "--arch", "resnet10-mini"];
    if !more.contains(&"--data") {
        args.extend(["--data", "colours"]);
    }
    args.extend(["--quiet", "--seeds", "1", "--set", "batch_size=16", "--set", "image_size=12"]);
    args.extend(more);
    args
}

#[test]
fn methods_are_compared_with_as_many_views_and_other_data() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"));
    // Of the others no colour tells the class: what is learned on the ones and measured on them shows.
    for (class, first) in [("even", 0), ("odd", 1)] {
        fs::create_dir_all(d.join("others").join(class)).unwrap();
        for i in 0..24u32 {
            let pixels = image::RgbImage::from_fn(14, 12, |x, y| {
                image::Rgb([(x * 37 + y * 91 + (2 * i + first) * 53).wrapping_mul(2_654_435_761) as u8; 3])
            });
            pixels.save(d.join("others").join(class).join(format!("{i:02}.png"))).unwrap();
        }
    }
    let args =
        methods("rotation,colorization", &["--epochs", "2", "--transfer", "others", "--layer", "layer2"]);
    let (status, table, stderr) = run(d, &args);
    assert_eq!(status, 0, "{stderr}");
    let json: Value = serde_json::from_str(&fs::read_to_string(d.join("out/study.json")).unwrap()).unwrap();
    let of = |row: &str| -> Value {
        json["outcomes"].as_array().unwrap().iter().find(|o| o["row"] == row).unwrap().clone()
    };
    // 2 passes of 2 views of 38 training images are 152 views; whole steps of 4·16 and of 16.
    assert_eq!(
        (&of("rotation")["views"], &of("colorization")["views"]),
        (&(2 * 64).into(), &(9 * 16).into())
    );
    for row in ["pixels", "untrained", "supervised", "rotation", "colorization"] {
        let top1 = of(row)["top1"].clone();
        for key in ["knn", "linear", "linear_10", "knn@others", "linear@others", "knn:layer2"] {
            if key.ends_with("@others") {
                assert!((0.0..0.95).contains(&top1[key].as_f64().unwrap()), "{row} {key}: {top1}");
                continue;
            }
            if (row, key) == ("pixels", "knn:layer2") {
                assert!(top1[key].is_null(), "{top1}");
                continue;
            }
            assert!(top1[key].as_f64().unwrap() > 0.95, "{row} {key}: {top1}");
        }
        // Nineteen a class are no hundred.
        assert!(top1["linear_100"].is_null() && top1["finetune_100"].is_null(), "{row}: {top1}");
        assert!(table.lines().any(|line| line.starts_with(row)), "{table}");
    }
    assert!(of("supervised")["views"].as_u64().unwrap() >= 128, "as many as simclr's");
    let svg = fs::read_to_string(d.join("out/study.svg")).unwrap();
    assert!(svg.contains("colorization") && svg.contains("linear, 10 a class"));
    // A column that was not measured is, and nothing is trained again.
    let before =
        fs::metadata(d.join("out/rows/rotation/seed-0/run/checkpoint.safetensors")).unwrap().modified();
    fs::remove_dir_all(d.join("out/rows/pixels")).unwrap();
    fs::remove_file(d.join("out/rows/supervised/seed-0/result.json")).unwrap();
    let seconds = of("supervised")["seconds"].clone();
    for again in ["[2/2] supervised", ""] {
        let (status, _, stderr) = run(d, &args);
        assert!(status == 0 && stderr.contains(again), "{stderr}");
        let json: Value =
            serde_json::from_str(&fs::read_to_string(d.join("out/study.json")).unwrap()).unwrap();
        let supervised = json["outcomes"].as_array().unwrap().iter().find(|o| o["row"] == "supervised");
        assert_eq!(supervised.unwrap()["seconds"], seconds, "it was not trained again");
    }
    let after =
        fs::metadata(d.join("out/rows/rotation/seed-0/run/checkpoint.safetensors")).unwrap().modified();
    assert_eq!(before.unwrap(), after.unwrap());
}

/// Columns are called by a folder's last name: rows that were measured on another folder of that name are measured again.
#[test]
fn other_images_of_the_same_name_are_not_those() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"));
    for (place, hues) in [("one/others", [[210, 40, 40], [40, 40, 210]]), ("two/others", [[120; 3]; 2])] {
        for (class, hue) in ["a", "b"].into_iter().zip(hues) {
            fs::create_dir_all(d.join(place).join(class)).unwrap();
            for i in 0..24u8 {
                let pixels = image::RgbImage::from_pixel(14, 12, image::Rgb(hue.map(|level| level ^ i)));
                pixels.save(d.join(place).join(class).join(format!("{i:02}.png"))).unwrap();
            }
        }
    }
    for (place, again, told) in [
        ("one/others", true, true),
        ("./one/others/", false, true),
        ("two/others", true, false),
        ("two/others", false, false),
    ] {
        let (status, _, stderr) =
            run(d, &methods("rotation", &["--epochs", "1", "--transfer", place, "--only", "pixels"]));
        assert_eq!(status, 0, "{stderr}");
        assert_eq!(stderr.contains("[1/1] pixels"), again, "{place}: {stderr}");
        let json: Value =
            serde_json::from_str(&fs::read_to_string(d.join("out/study.json")).unwrap()).unwrap();
        let knn = json["outcomes"][0]["top1"]["knn@others"].as_f64().unwrap();
        assert_eq!(knn > 0.95, told, "{place}: {knn}");
    }
}

#[test]
fn minutes_become_steps_once() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"));
    let args = methods("rotation", &["--budget-minutes", "0.01", "--only", "rotation"]);
    let (status, _, stderr) = run(d, &args);
    assert_eq!(status, 0, "{stderr}");
    let rates = fs::read_to_string(d.join("out/rates.json")).unwrap();
    assert!(rates.contains("rotation-"), "{rates}");
    let (status, _, stderr) = run(d, &args);
    assert!(status == 0 && !stderr.contains("[1/"), "the steps are the same, the row is done: {stderr}");
    assert_eq!(fs::read_to_string(d.join("out/rates.json")).unwrap(), rates);
}

/// Without colour nothing can be coloured: that row fails, when its speed is measured, and the other is done.
#[test]
fn a_method_that_cannot_be_timed_does_not_end_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for (class, level) in [("dark", 0), ("light", 128)] {
        fs::create_dir_all(d.join("gray").join(class)).unwrap();
        for i in 0..24u32 {
            let pixels = image::GrayImage::from_fn(14, 12, |x, y| {
                image::Luma([level + (x * 31 + y * 17 + i * 53) as u8 % 97])
            });
            pixels.save(d.join("gray").join(class).join(format!("{i:02}.png"))).unwrap();
        }
    }
    let args = methods(
        "rotation,colorization",
        &["--data", "gray", "--budget-minutes", "0.01", "--only", "rotation", "--only", "colorization"],
    );
    let (status, table, stderr) = run(d, &args);
    assert_eq!(status, 1, "{stderr}");
    assert!(stderr.contains("colorization with seed 0 failed: colorization could not be timed"), "{stderr}");
    assert!(stderr.contains("1 of the rows failed"), "{stderr}");
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("colorization").contains('–'), "{table}");
    assert!(fs::read_to_string(d.join("out/study.md")).unwrap().contains("colorization with seed 0 failed"));
    assert!(d.join("out/rows/rotation/seed-0/result.json").exists(), "{stderr}");
}

#[test]
fn methods_that_cannot_be_compared_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"));
    for (args, part) in [
        (methods("rotatoin", &[]), "did you mean `rotation`"),
        (methods("rotation", &["--study", "heads"]), "cannot be used with"),
        (methods("rotation", &["--budget-minutes", "0"]), "above 0"),
        (methods("rotation", &["--budget-minutes", "1", "--epochs", "3"]), "cannot be used with"),
        (methods("rotation", &["--transfer", "nowhere"]), "nowhere"),
        (methods("rotation", &["--layer", "layer7"]), "there is no layer `layer7`"),
        (study("heads", &["--layer", "layer2"]), "--layer is for --methods"),
        (
            methods("rotation", &["--transfer", "colours", "--transfer", "./colours"]),
            "are called \"colours\"",
        ),
        (study("heads", &["--transfer", "colours"]), "--transfer is for --methods"),
        (vec!["bench", "--out", "out"], "--study"),
        (methods("rotation", &["--set", "steps=4"]), "--set steps has no effect here: --epochs"),
        (methods("rotation", &["--set", "schedule.name=constant"]), "--set schedule has no effect"),
        (study("heads", &["--set", "seed=3"]), "as many as --seeds"),
        (methods("rotation", &["--set", "batch_size=500", "--dry-run"]), "rows that cannot be run"),
        (vec!["bench", "--methods", "simclr", "--data", "colours", "--out", "colours/red/00.png"], "00.png"),
    ] {
        let (status, _, stderr) = run(d, &args);
        assert_eq!(status, 2, "{args:?}: {stderr}");
        assert!(stderr.contains(part), "{args:?}: {stderr}");
        assert!(!d.join("out").exists(), "{args:?}");
    }
}
