//! Pretraining is worth something: on a few hundred real images the closing table's pretrained row beats the same
//! encoder untrained.

use assert_cmd::Command;
use selfsup_data::{OpenOptions, Part, Source, open};
use std::fs;
use std::path::Path;

/// What kNN, linear and linear with few labels must gain together, in points. With seeds 0 to 3, each as good as another
/// processor's rounding, they gained 20, 9, 16 and 11, and each of them at least 2; with a loss whose positives are other
/// images' views −2. (After 150 steps the gains were 5 to 17 and, with that loss, −13 to 8: too near.)
const GAIN: f64 = 5.0;

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
    folders(&dir.path().join("data"), Part::Test, "test", 3000);
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
        "400",
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
    let gains: Vec<f64> = pretrained.iter().zip(untrained).map(|(after, before)| after - before).collect();
    assert!(gains.iter().all(|gain| *gain > 0.0) && gains.iter().sum::<f64>() > GAIN, "{table}");
}
