//! A run from its first step to its probe: repeated, interrupted, resumed, damaged.

use assert_cmd::Command;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A small model on the shipped images: a second or two in all.
const SMALL: &[&str] =
    &["--arch", "resnet10-narrow-cifar", "--image-size", "12", "--batch-size", "16", "--quiet", "--no-probe"];

fn pretrain(folder: &Path, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selfsup"));
    let output =
        command.current_dir(folder).args(["pretrain", "simclr"]).args(SMALL).args(args).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn ok(folder: &Path, args: &[&str]) {
    let (status, stderr) = pretrain(folder, args);
    assert_eq!(status, 0, "{args:?}: {stderr}");
}

/// The weights and the optimiser's state, without the metadata (which holds settings that may differ).
fn tensors(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].to_vec()
}

#[test]
fn a_resumed_run_is_bit_identical_for_any_number_of_workers() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    ok(d, &["--steps", "7", "--workers", "2", "--out", "whole"]);
    // The checkpoint at step 4 lies in mid-epoch; the run is cut there by taking away what came later.
    ok(d, &["--steps", "7", "--workers", "0", "--out", "cut", "--set", "keep_every_steps=4"]);
    fs::copy(d.join("cut/checkpoints/step-00000004.safetensors"), d.join("cut/checkpoint.safetensors"))
        .unwrap();
    fs::remove_file(d.join("cut/encoder.safetensors")).unwrap();
    ok(d, &["--resume", "cut", "--workers", "3"]);
    assert_eq!(
        tensors(&d.join("whole/checkpoint.safetensors")),
        tensors(&d.join("cut/checkpoint.safetensors"))
    );
    assert_eq!(tensors(&d.join("whole/encoder.safetensors")), tensors(&d.join("cut/encoder.safetensors")));
    // And another seed is another run.
    ok(d, &["--steps", "7", "--seed", "1", "--out", "other"]);
    assert_ne!(tensors(&d.join("whole/encoder.safetensors")), tensors(&d.join("other/encoder.safetensors")));
}

#[test]
fn config_toml_repeats_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    ok(d, &["--steps", "3", "--set", "method.temperature=0.3", "--out", "a"]);
    ok(d, &["--config", "a/config.toml", "--out", "b"]);
    assert_eq!(
        fs::read(d.join("a/encoder.safetensors")).unwrap(),
        fs::read(d.join("b/encoder.safetensors")).unwrap()
    );
    assert_eq!(fs::read(d.join("a/config.toml")).unwrap(), fs::read(d.join("b/config.toml")).unwrap());
}

#[test]
fn a_folder_with_a_run_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    ok(d, &["--steps", "1", "--out", "a"]);
    let before = fs::read(d.join("a/encoder.safetensors")).unwrap();
    let (status, stderr) = pretrain(d, &["--steps", "2", "--out", "a"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("already holds a run") && stderr.contains("--resume a"), "{stderr}");
    assert_eq!(before, fs::read(d.join("a/encoder.safetensors")).unwrap());
}

#[test]
fn a_resume_keeps_what_decides_the_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    ok(d, &["--steps", "2", "--out", "a"]);
    let checkpoint = fs::read(d.join("a/checkpoint.safetensors")).unwrap();
    let (status, stderr) = pretrain(d, &["--resume", "a", "--set", "seed=4"]);
    assert!(status == 2 && stderr.contains("`seed`"), "{stderr}");
    let mut other = Command::new(env!("CARGO_BIN_EXE_selfsup"));
    let other = other
        .current_dir(d)
        .args(["pretrain", "simclr", "--resume", "a", "--arch", "resnet18-cifar"])
        .output()
        .unwrap();
    assert_eq!(other.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&other.stderr).contains("`arch`"), "{other:?}");
    for more in [&[][..], &["--dry-run"]] {
        let (status, stderr) = pretrain(d, &[&["--resume", "a", "--steps", "1"][..], more].concat());
        assert!(status == 2 && stderr.contains("has made 2 steps; of 1 in all"), "{stderr}");
    }
    assert!(fs::read_to_string(d.join("a/config.toml")).unwrap().contains("\nsteps = 2\n"));
    let (status, stderr) = pretrain(d, &["--resume", "nowhere"]);
    assert!(status == 2 && stderr.contains("no config.toml"), "{stderr}");
    assert_eq!(checkpoint, fs::read(d.join("a/checkpoint.safetensors")).unwrap());
}

#[test]
fn a_damaged_or_foreign_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    ok(d, &["--steps", "1", "--out", "a"]);
    let path = d.join("a/checkpoint.safetensors");
    let whole = fs::read(&path).unwrap();
    for (what, bytes) in [
        ("cut off", whole[..whole.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("foreign", fs::read(d.join("a/encoder.safetensors")).unwrap()),
    ] {
        fs::write(&path, &bytes).unwrap();
        let (status, stderr) = pretrain(d, &["--resume", "a", "--steps", "2"]);
        assert_eq!(status, 2, "{what}: {stderr}");
        assert!(
            stderr.starts_with("error:") && stderr.contains("checkpoint.safetensors"),
            "{what}: {stderr}"
        );
        assert!(!stderr.contains("panicked"), "{what}: {stderr}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "{what}: the file was touched");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_writes_a_checkpoint_and_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for signal in ["INT", "TERM"] {
        let out = format!("run-{signal}");
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_selfsup"))
            .current_dir(d)
            .args(["pretrain", "simclr", "--steps", "100000", "--set", "log_every_steps=1", "--out", &out])
            .args(SMALL)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let metrics = d.join(&out).join("metrics.jsonl");
        let start = Instant::now();
        while fs::read_to_string(&metrics).unwrap_or_default().lines().count() < 3 {
            assert!(start.elapsed() < Duration::from_secs(60), "no step in a minute");
            std::thread::sleep(Duration::from_millis(20));
        }
        let kill = std::process::Command::new("kill")
            .args([format!("-{signal}"), child.id().to_string()])
            .status()
            .unwrap();
        assert!(kill.success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert!(stderr.contains(&format!("selfsup pretrain simclr --resume {out}")), "{stderr}");
        assert!(d.join(&out).join("checkpoint.safetensors").exists());
        // What it says works, and the metrics hold each step once.
        let steps = fs::read_to_string(&metrics).unwrap().lines().count() + 2;
        ok(d, &["--resume", &out, "--steps", &steps.to_string()]);
        let logged: Vec<u64> = fs::read_to_string(&metrics)
            .unwrap()
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["step"].as_u64().unwrap())
            .collect();
        assert_eq!(logged, (1..=steps as u64).collect::<Vec<_>>());
    }
}

#[cfg(unix)]
#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    ok(d, &["--steps", "2", "--out", "a"]);
    let path = d.join("a/checkpoint.safetensors");
    let before = fs::read(&path).unwrap();
    // A limit on the size of files stands in for a full disk: every write past it fails.
    let program = env!("CARGO_BIN_EXE_selfsup");
    let script = format!(
        "trap '' XFSZ; ulimit -f 100; exec {program} pretrain simclr --resume a --steps 4 {}",
        SMALL.join(" ")
    );
    let output = std::process::Command::new("bash").current_dir(d).args(["-c", &script]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("checkpoint.safetensors"), "{stderr}");
    assert_eq!(before, fs::read(&path).unwrap());
    let names: Vec<_> = fs::read_dir(d.join("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!names.iter().any(|n| n.to_string_lossy().starts_with(".writing-")), "{names:?}");
    ok(d, &["--resume", "a", "--steps", "3"]);
}

/// What the kernel says a process holds, in bytes.
#[cfg(target_os = "linux")]
fn resident(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(statm.split_whitespace().nth(1)?.parse::<u64>().ok()? * 4096)
}

/// After the first third of its steps a run holds no more than before, with a queue and a momentum encoder too.
///
/// One compute thread: with several, which of them frees a block varies, and the allocator, which keeps what is
/// freed, reaches its highest mark some hundreds of steps sooner or later.
#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow() {
    for method in ["simclr", "moco-v2"] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_selfsup"))
            .current_dir(dir.path())
            .args(["pretrain", method])
            .args(SMALL)
            .args(["--steps", "600", "--out", "run", "--workers", "2", "--set", "checkpoint_every_steps=50"])
            .env("RAYON_NUM_THREADS", "1")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut samples = Vec::new();
        while child.try_wait().unwrap().is_none() {
            samples.extend(resident(child.id()));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(child.wait().unwrap().success());
        assert!(samples.len() > 60, "{} samples", samples.len());
        let most = |part: &[u64]| part.iter().copied().max().unwrap() as f64;
        let third = samples.len() / 3;
        let (before, after) = (most(&samples[third..2 * third]), most(&samples[2 * third..]));
        assert!(after <= 1.02 * before, "{method}: {before} bytes, then {after}");
    }
}

/// Steps at which the long run is cut, drawn once; in order, as the run goes on from there.
const CUTS: [u64; 10] = [211, 950, 1533, 2790, 3377, 5021, 5034, 6918, 8127, 9603];

/// Ten thousand steps in one piece, and in eleven: every other cut gives the program no time to write anything.
/// `cargo test -p selfsup-cli --test life_of_a_run -- --ignored` runs it in ten minutes or so.
#[test]
#[cfg(unix)]
#[ignore = "takes minutes"]
fn ten_thousand_steps_cut_ten_times_are_the_same_to_the_bit() {
    const STEPS: &str = "10000";
    let dir = tempfile::tempdir().unwrap();
    let start = |args: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_selfsup"))
            .current_dir(dir.path())
            .args(["pretrain", "moco-v2"])
            .args(SMALL)
            .args(args)
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let new = |out| ["--steps", STEPS, "--out", out, "--set", "log_every_steps=5"];
    assert!(start(&new("whole")).wait().unwrap().success());

    let metrics = dir.path().join("cut/metrics.jsonl");
    let last_step = || {
        let text = fs::read_to_string(&metrics).unwrap_or_default();
        let lines = text.lines().rev().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
        lines.filter_map(|record| record["step"].as_u64()).next().unwrap_or(0)
    };
    for (i, cut) in CUTS.into_iter().enumerate() {
        let mut child = if i == 0 { start(&new("cut")) } else { start(&["--resume", "cut"]) };
        while last_step() < cut {
            assert!(child.try_wait().unwrap().is_none(), "ended before step {cut}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let signal = ["-INT", "-KILL"][i % 2];
        let kill = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), [Some(130), None][i % 2]);
    }
    assert!(start(&["--resume", "cut"]).wait().unwrap().success());
    for file in ["checkpoint.safetensors", "encoder.safetensors"] {
        let of = |run: &str| tensors(&dir.path().join(run).join(file));
        assert_eq!(of("whole"), of("cut"), "{file}");
    }
    // Each step is logged once, with the same loss.
    let losses = |run: &str| -> Vec<(u64, f64)> {
        let text = fs::read_to_string(dir.path().join(run).join("metrics.jsonl")).unwrap();
        let records = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        records.map(|r| (r["step"].as_u64().unwrap(), r["loss"].as_f64().unwrap())).collect()
    };
    let (whole, cut) = (losses("whole"), losses("cut"));
    for record in &whole {
        assert_eq!(cut.iter().filter(|other| *other == record).count(), 1, "{record:?}");
    }
    let steps: Vec<u64> = cut.iter().map(|(step, _)| *step).collect();
    assert!(steps.is_sorted_by(|a, b| a < b));
}
