//! Pretraining is worth something: on a few hundred real images the closing table's pretrained row beats the same
//! encoder untrained.

use assert_cmd::Command;
use selfsup_data::{OpenOptions, Part, Source, open};
use std::fs;
use std::path::Path;

/// What kNN, linear and linear with few labels must gain, in points. They gain 5.0, 5.1 and 7.8; with a loss whose
/// positives are other images' views, 3.6, 1.4 and 2.0 (training moves the running statistics, and that alone helps
/// the neighbours, so their margin only shows that something was learned).
const MARGINS: [f64; 3] = [2.0, 3.2, 4.5];

/// Class folders of some of the shipped images.
fn folders(root: &Path, part: Part, name: &str, count: usize) {
    let data = open("fashion-mnist", &OpenOptions { part, ..OpenOptions::default() }).unwrap();
    for i in 0..count {
        let i = i * data.len() / count;
        let folder = root.join(name).join(data.sample(i).label.unwrap().to_string());
        fs::create_dir_all(&folder).unwrap();
        data.image(i).unwrap().save(folder.join(format!("{i:05}.png"))).unwrap();
    }
}

/// kNN, linear, and linear with few labels, in percent, of a row of the table.
fn row(table: &str, start: &str) -> [f64; 3] {
    let line =
        table.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("no `{start}` in\n{table}"));
    let numbers: Vec<f64> = line[start.len()..].split_whitespace().filter_map(|w| w.parse().ok()).collect();
    numbers[..3].try_into().unwrap()
}

#[test]
fn the_probe_prefers_the_pretrained_encoder() {
    let dir = tempfile::tempdir().unwrap();
    folders(&dir.path().join("data"), Part::Train, "train", 1200);
    folders(&dir.path().join("data"), Part::Test, "test", 1000);
    let mut command = Command::new(env!("CARGO_BIN_EXE_selfsup"));
    let command = command.current_dir(dir.path()).args(["pretrain", "simclr", "--data", "data", "--quiet"]);
    let command = command.args([
        "--arch",
        "resnet10-mini",
        "--image-size",
        "28",
        "--batch-size",
        "64",
        "--steps",
        "150",
    ]);
    let command = command.args([
        "--set",
        r#"optimizer={name="adamw", lr=2e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01}"#,
    ]);
    let output = command
        .args(["--set", "schedule.warmup_epochs=0.5", "--set", "method.temperature=0.2"])
        .output()
        .unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (untrained, pretrained) =
        (row(&table, "resnet10-mini, untrained"), row(&table, "resnet10-mini, simclr"));
    for ((untrained, pretrained), margin) in untrained.iter().zip(pretrained).zip(MARGINS) {
        assert!(pretrained > untrained + margin, "{table}");
    }
}
