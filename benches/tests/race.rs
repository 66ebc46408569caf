//! `race` with programs that only play the two sides: shell scripts that put a checkpoint where it is looked for.
#![cfg(unix)]

use assert_cmd::Command;
use candle_core::Device;
use selfsup_models::weights::{self, WeightFile};
use selfsup_models::{Encoder, Preprocessing, arch};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SIDE: u32 = 12;
/// Images of a class: to train on, and to measure on.
const PARTS: [(&str, u32); 2] = [("train", 10), ("test", 3)];

/// A folder with labelled images, a checkpoint and the two programs.
struct Stage(TempDir);

impl Stage {
    /// `peer` is what the peer's script does after it has written its checkpoints.
    fn new(peer: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (class, red) in [("dark", 20), ("light", 200)] {
            for (part, count) in PARTS {
                fs::create_dir_all(root.join("images").join(part).join(class)).unwrap();
                for i in 0..count {
                    let pixel = |x, y| image::Rgb([red + (x * y % 40) as u8, i as u8, x as u8]);
                    let path = root.join(format!("images/{part}/{class}/{i}.png"));
                    image::RgbImage::from_fn(SIDE, SIDE, pixel).save(path).unwrap();
                }
            }
        }
        let preprocessing = Preprocessing::rgb(SIDE as usize, [0.5; 3], [0.25; 3]);
        let encoder =
            Encoder::untrained(arch("resnet10-mini").unwrap(), preprocessing, 0, &Device::Cpu).unwrap();
        let tensors = encoder.params().to_file().unwrap();
        let tensors = tensors.into_iter().map(|(name, t)| (format!("model.encoder.{name}"), t)).collect();
        let file = WeightFile { tensors, ..WeightFile::default() };
        weights::write(&root.join("weights.safetensors"), &file).unwrap();
        let stage = Self(folder);
        stage.script("selfsup", "");
        stage.script("python", peer);
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn script(&self, name: &str, end: &str) {
        let root = self.0.path().display();
        let text = format!(
            "#!/bin/sh\necho {name} >> {root}/runs.txt\nwhile [ \"$1\" != --out ]; do shift; done\n\
             mkdir -p $2/checkpoints\nfor step in 2 4; do\n  sleep 0.05\n  \
             cp {root}/weights.safetensors $2/checkpoints/step-0000000$step.safetensors\ndone\n{end}\n"
        );
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn race(&self, args: &[&str]) -> (i32, String, String) {
        race(
            self.0.path(),
            &[
                &["--selfsup", "./selfsup", "--python", "./python", "--methods", "simclr", "--seeds", "2"],
                args,
            ]
            .concat(),
        )
    }

    fn runs(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("runs.txt")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn race(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let fixed = ["race", "--data", "images", "--out", "out", "--epochs", "1", "--checkpoints", "2"];
    let small = ["--set", "batch_size=4", "--set", "image_size=12", "--set", "allow_small_images=true"];
    let output = Command::new(env!("CARGO_BIN_EXE_selfsup-bench"))
        .current_dir(folder)
        .args(fixed)
        .args(small)
        .args(["--set", "schedule.warmup_epochs=0"])
        .args(args)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn both_sides_are_run_in_turn_measured_and_not_run_again() {
    let stage = Stage::new("");
    let (status, stdout, stderr) = stage.race(&[]);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(stage.runs(), ["selfsup", "python", "python", "selfsup"], "who begins turns");
    let json: Value =
        serde_json::from_str(&fs::read_to_string(stage.path("out/race.json")).unwrap()).unwrap();
    let tracks = json["tracks"].as_array().unwrap();
    assert_eq!(tracks.len(), 4);
    for track in tracks {
        let points = track["points"].as_array().unwrap();
        let of = |key: &str| points.iter().map(|p| p[key].as_f64().unwrap()).collect::<Vec<_>>();
        assert_eq!(of("step"), [2.0, 4.0]);
        assert_eq!(of("views"), [16.0, 32.0], "two views an image, four images a step");
        let seconds = of("seconds");
        assert!(0.03 < seconds[0] && seconds[0] + 0.03 < seconds[1], "{seconds:?}");
        assert!(of("knn").iter().all(|knn| *knn == 1.0), "dark and light are told apart untrained");
    }
    assert!(stdout.contains("| simclr | selfsup | 100.0 ± 0.0 | 32 |"), "{stdout}");
    let svg = fs::read_to_string(stage.path("out/race.svg")).unwrap();
    assert!(svg.contains("selfsup") && svg.contains("lightly"));

    let (status, again, stderr) = stage.race(&[]);
    assert_eq!((status, &again), (0, &stdout), "{stderr}");
    assert_eq!(stage.runs().len(), 4);
    let (status, _, stderr) = stage.race(&["--set", "method.temperature=0.3"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("is of other settings"), "{stderr}");
}

#[test]
fn the_peer_gets_every_training_image_as_it_is() {
    let stage = Stage::new("");
    assert_eq!(stage.race(&[]).0, 0);
    let bytes = fs::read(stage.path("out/images.npy")).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let text = std::str::from_utf8(&bytes[10..10 + header]).unwrap();
    assert_eq!((10 + header) % 64, 0);
    let data = &bytes[10 + header..];
    let of_an_image = (SIDE * SIDE * 3) as usize;
    let n = 2 * PARTS[0].1 as usize;
    assert!(text.contains(&format!("'shape': ({n}, 12, 12, 3)")), "{text}");
    assert_eq!(data.len(), n * of_an_image);
    for (i, image) in data.chunks(of_an_image).enumerate() {
        let (red, number) = if i < n / 2 { (20, i) } else { (200, i - n / 2) };
        assert_eq!(&image[..6], [red, number as u8, 0, red, number as u8, 1]);
    }
}

#[test]
fn a_side_that_fails_ends_the_race_and_says_where_its_words_are() {
    let stage = Stage::new("echo 'no module named lightly' >&2; exit 3");
    let (status, _, stderr) = stage.race(&[]);
    assert_eq!(status, 1);
    assert!(stderr.contains("exit status: 3") && stderr.contains("log.txt"), "{stderr}");
    let log = fs::read_to_string(stage.path("out/simclr-lightly-0/log.txt")).unwrap();
    assert!(log.contains("no module named lightly"));
}

#[test]
fn wrong_usage_runs_nothing() {
    let stage = Stage::new("");
    for (args, why) in [
        (&["--methods", "simcrl"][..], "simcrl"),
        (&["--checkpoints", "1000"], "more than the run's"),
        (&["--selfsup", "nowhere"], "no program at nowhere"),
        (&["--set", "method.queue=7"], "queue"),
        (&["--data", "nothing"], "nothing"),
    ] {
        // Given twice, an argument is an error of its own: the one in question stands alone.
        let fixed = [
            ("--selfsup", "./selfsup"),
            ("--python", "./python"),
            ("--methods", "simclr"),
            ("--data", "images"),
            ("--checkpoints", "2"),
            ("--out", "out"),
        ];
        let output = Command::new(env!("CARGO_BIN_EXE_selfsup-bench"))
            .current_dir(stage.0.path())
            .arg("race")
            .args(
                fixed
                    .iter()
                    .filter(|(name, _)| !args.contains(name))
                    .flat_map(|(name, value)| [*name, *value]),
            )
            .args(["--set", "batch_size=4"])
            .args(args)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(why), "{args:?}: {stderr}");
    }
    assert!(stage.runs().is_empty());
}
