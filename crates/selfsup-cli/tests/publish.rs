//! A run, published.

mod common;

use common::{colours, pretrain_a_step, run};
use std::fs;

#[test]
fn a_run_becomes_a_folder_for_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("my-photos"), ["a", "b"], 40, (32, 32));
    let data = d.join("my-photos").display().to_string();
    let small = ["--arch", "resnet10-mini", "--image-size", "32"];
    let pretrain =
        ["pretrain", "simclr", "--data", &data, "--steps", "2", "--batch-size", "8", "--out", "run"];
    let (status, _, stderr) = run(d, &[&pretrain[..], &small].concat());
    assert_eq!(status, 0, "{stderr}");
    let kept: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(d.join("run/probes.json")).unwrap()).unwrap();
    let knn = 100.0 * kept["rows"][2]["cells"][0]["mean"].as_f64().unwrap();

    // A table's names are no markup either.
    let table = fs::read_to_string(d.join("run/probes.json")).unwrap();
    fs::write(d.join("run/probes.json"), table.replace("raw pixels", "raw | <b>pixels")).unwrap();
    let args = ["publish", "run", "--out", "published", "--repo", "me/small", "--license", "cc-by-4.0"];
    let (status, stdout, stderr) = run(d, &args);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("hf upload me/small published"), "{stdout}");
    let mut names: Vec<_> =
        fs::read_dir(d.join("published")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    let expected = [
        "README.md",
        "config.json",
        "model.safetensors",
        "modeling_selfsup.py",
        "preprocessor_config.json",
        "training.toml",
    ];
    assert_eq!(names, expected);
    let card = fs::read_to_string(d.join("published/README.md")).unwrap();
    for part in [
        "---\nlicense: cc-by-4.0\nlibrary_name: transformers\n",
        "arXiv:2002.05709",
        "from_pretrained(\"me/small\", trust_remote_code=True)",
        "selfsup probe hf:me/small",
        &format!("| resnet10-mini, simclr | {knn:.1} |"),
        "| images | my-photos |",
        "| raw \\| &lt;b>pixels, 32×32 |",
        "| steps | 2 of 8 images, 0.2 passes |",
        "pretrained on these too, without their labels",
    ] {
        assert!(card.contains(part), "`{part}` is not in:\n{card}");
    }
    // Where the images lie is nobody's business.
    let own = d.display().to_string();
    for name in expected {
        let bytes = fs::read(d.join("published").join(name)).unwrap();
        assert!(!bytes.windows(own.len()).any(|part| part == own.as_bytes()), "{name} names {own}");
    }

    let features = |encoder: &str| {
        let (status, _, stderr) =
            run(d, &["embed", encoder, "--data", "my-photos", "--out", "f.npy", "--quiet"]);
        assert_eq!(status, 0, "{stderr}");
        fs::read(d.join("f.npy")).unwrap()
    };
    assert!(features("published") == features("run"));
    // Its settings train the same again.
    let again = ["pretrain", "simclr", "--config", "published/training.toml", "--dry-run", "--quiet"];
    let (status, settings, stderr) = run(d, &again);
    assert_eq!(status, 0, "{stderr}");
    let own = fs::read_to_string(d.join("run/config.toml")).unwrap();
    assert_eq!(settings, own.replace(&data, "my-photos"));
    assert!(own.contains(&data));
}

#[test]
fn what_cannot_be_published_is_said_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("images"), ["a", "b"], 10, (32, 32));
    pretrain_a_step(d, ["simclr", "images", "run"], &[]);
    pretrain_a_step(d, ["colorization", "images", "gray"], &[]);
    fs::create_dir(d.join("full")).unwrap();
    fs::write(d.join("full/file"), "mine").unwrap();
    for (args, part) in [
        (vec!["run", "--out", "full"], "full is not empty"),
        (vec!["run", "--out", "full/file"], "full/file"),
        (vec!["run", "--out", "new", "--library", "timm"], "cannot be published for timm"),
        (vec!["gray", "--out", "new"], "lightness"),
        (vec!["nothing", "--out", "new"], "no run"),
        (vec!["run", "--out", "new", "--repo", "me"], "OWNER/NAME"),
        (vec!["run", "--out", "new", "--license", "apache2"], "`apache-2.0`"),
        (vec!["run", "--out", "new", "--license", "other"], "--license-name"),
        (vec!["run", "--out", "new", "--license", "mit", "--license-name", "mine"], "together"),
        (vec!["run", "--out", "new", "--data", "nowhere"], "nowhere"),
        (vec!["run", "--out", "new", "--data", "images/a"], "label"),
        (vec!["run", "--out", "."], "no name of a new folder"),
    ] {
        let (status, _, stderr) = run(d, &[&["publish"], &args[..]].concat());
        assert!(status == 2 && stderr.contains(part) && !d.join("new").exists(), "{args:?}: {stderr}");
        // What was asked for is the error itself, and no remark before it.
        assert!(!stderr.contains("no table"), "{args:?}: {stderr}");
    }
    assert_eq!(fs::read_to_string(d.join("full/file")).unwrap(), "mine");
    // Without labels there is no table, and a card all the same.
    let (status, _, stderr) = run(d, &["publish", "run", "--out", "new", "--no-probe"]);
    assert_eq!(status, 0, "{stderr}");
    let card = fs::read_to_string(d.join("new/README.md")).unwrap();
    assert!(!card.contains("worth") && card.contains("No licence was given"), "{card}");
}

#[test]
fn a_card_tells_of_the_weights_and_not_of_what_was_planned_or_logged() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("me: 2024/a|<b>"), ["a", "b"], 10, (32, 32));
    let data = d.join("me: 2024/a|<b>").display().to_string();
    let pretrain = [
        "pretrain",
        "simclr",
        "--data",
        &data,
        "--steps",
        "3",
        "--batch-size",
        "4",
        "--out",
        "run",
        "--no-probe",
    ];
    let small = ["--arch", "resnet10-mini", "--image-size", "32"];
    let (status, _, stderr) = run(d, &[&pretrain[..], &small].concat());
    assert_eq!(status, 0, "{stderr}");
    // As an interruption leaves a run: it was to make more steps than it has made, and fewer were logged.
    let edit = |name: &str, edit: &dyn Fn(String) -> String| {
        let path = d.join("run").join(name);
        fs::write(&path, edit(fs::read_to_string(&path).unwrap())).unwrap();
    };
    edit("config.toml", &|text| text.replace("\nsteps = 3\n", "\nsteps = 900\n"));
    edit("metrics.jsonl", &|text| text.lines().next().unwrap().to_owned() + "\n");
    let other =
        ["--license", "other", "--license-name", "Ours: \"own\"", "--license-link", "https://example.org/l"];
    let publish = ["publish", "run", "--out", "my model", "--no-probe"];
    let (status, stdout, stderr) = run(d, &[&publish[..], &other].concat());
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("hf upload OWNER/NAME 'my model'"), "{stdout}");
    let card = fs::read_to_string(d.join("my model/README.md")).unwrap();
    for part in [
        "---\nlicense: other\nlicense_name: \"Ours: \\\"own\\\"\"\nlicense_link: \"https://example.org/l\"\n",
        "| steps | 3 of 4 images, 0.6 passes; stopped before the last of its 900 steps |",
        "| views | 24 (",
        "| images | a\\|&lt;b> |",
        "from_pretrained(\"OWNER/NAME\"",
    ] {
        assert!(card.contains(part), "`{part}` is not in:\n{card}");
    }
    assert!(!card.contains("2024"), "{card}");
    assert!(!fs::read_to_string(d.join("my model/training.toml")).unwrap().contains("2024"));
}

/// Images without a test part are told apart by a hash: the encoder has seen those that it is measured on, if they are its own.
#[test]
fn a_card_says_whether_the_encoder_has_seen_what_it_is_measured_on() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("images"), ["a", "b"], 20, (32, 32));
    colours(&d.join("others"), ["a", "b"], 20, (32, 32));
    pretrain_a_step(d, ["rotation", "images", "run"], &[]);
    for (data, seen) in [("images", true), ("./others/../images/", true), ("others", false)] {
        let args = ["publish", "run", "--data", data, "--out", "published", "--quiet"];
        let (status, _, stderr) = run(d, &args);
        assert_eq!(status, 0, "{stderr}");
        let card = fs::read_to_string(d.join("published/README.md")).unwrap();
        assert!(card.contains("the encoder saw no label."), "{card}");
        assert_eq!(card.contains("pretrained on these too"), seen, "{data}:\n{card}");
        fs::remove_dir_all(d.join("published")).unwrap();
    }
}
