//! Runs that are killed, interrupted, or started twice.
#![cfg(unix)]

mod common;

use common::{colours, run};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Looks until something is so.
fn wait(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}: not in a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A program in a group of its own, as a shell starts it. The group ends with the test, whatever it left behind.
struct Started {
    program: Child,
    stderr: PathBuf,
}

fn start(folder: &Path, args: &[&str]) -> Started {
    let stderr = folder.join("stderr");
    let mut command = Command::new(env!("CARGO_BIN_EXE_selfsup"));
    command.current_dir(folder).args(args).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&stderr).unwrap());
    Started { program: command.spawn().unwrap(), stderr }
}

impl Started {
    /// Its status and what it said, when it has ended.
    fn end(&mut self) -> (Option<i32>, String) {
        let mut status = None;
        wait("the program's end", || {
            status = self.program.try_wait().unwrap();
            status.is_some()
        });
        (status.unwrap().code(), fs::read_to_string(&self.stderr).unwrap())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // None may be left.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.program.id())]).output();
    }
}

fn signal(name: &str, process: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), "--", process]).status().unwrap().success());
}

/// Of each logged step.
fn steps(run: &Path) -> Vec<u64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let whole = text.lines().map_while(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    whole.map(|record| record["step"].as_u64().unwrap()).collect()
}

fn free(run: &Path) -> bool {
    selfsup_train::RunLock::take(run).is_ok()
}

const SMALL: [&str; 8] = [
    "--arch",
    "resnet10-mini",
    "--set",
    "image_size=12",
    "--set",
    "batch_size=16",
    "--set",
    "log_every_steps=1",
];

#[test]
fn a_run_is_trained_by_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("images"), ["a", "b"], 24, (14, 12));
    let long = ["pretrain", "rotation", "--data", "images", "--steps", "1000000", "--out", "run"];
    let mut first = start(d, &[&long[..], &["--set", "checkpoint_every_steps=2"], &SMALL].concat());
    wait("a checkpoint and its encoder", || d.join("run/encoder.safetensors").exists());
    let (status, _, stderr) = run(d, &["pretrain", "rotation", "--resume", "run"]);
    assert_eq!(status, 2, "{stderr}");
    assert!(stderr.contains("the run in run is in use"), "{stderr}");
    // Looking at it is no training.
    let (status, _, stderr) = run(d, &["probe", "run", "--data", "images", "--kind", "knn", "--quiet"]);
    assert_eq!(status, 0, "{stderr}");
    signal("KILL", &first.program.id().to_string());
    first.end();
    let done = steps(&d.join("run")).len() + 4;
    let resume = ["pretrain", "rotation", "--resume", "run", "--no-probe", "--quiet", "--steps"];
    let (status, _, stderr) = run(d, &[&resume[..], &[&done.to_string()]].concat());
    assert_eq!(status, 0, "{stderr}");
    assert!(steps(&d.join("run")).into_iter().eq(1..=done as u64));
}

/// What a bench trains ends with it, however it ends, and goes on with it.
#[test]
fn a_bench_that_is_killed_leaves_no_training_behind() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("images"), ["a", "b"], 24, (14, 12));
    let bench = ["bench", "--methods", "rotation", "--only", "rotation", "--data", "images", "--out", "out"];
    let bench = [&bench[..], &["--seeds", "1", "--epochs", "1000000"], &SMALL].concat();
    let trained = d.join("out/rows/rotation/seed-0/run");
    let mut before = 0;
    for (name, group) in [("KILL", false), ("TERM", false), ("INT", true)] {
        let mut child = start(d, &bench);
        wait("a step", || steps(&trained).last().is_some_and(|&step| step > before + 2));
        let process = child.program.id().to_string();
        signal(name, &if group { format!("-{process}") } else { process });
        let (status, stderr) = child.end();
        wait("the training's end", || free(&trained));
        let seen = steps(&trained);
        assert!(seen.iter().copied().eq(1..=seen.len() as u64), "each step once");
        assert!(seen.len() as u64 > before + 2, "{name}: it went on");
        before = seen.len() as u64;
        assert!(trained.join("checkpoint.safetensors").exists(), "{name}");
        assert!(!stderr.contains("--resume"), "{name}: {stderr}");
        if name != "KILL" {
            assert_eq!(status, Some(130), "{name}: {stderr}");
            assert!(stderr.ends_with("interrupted; the same command goes on from there\n"), "{stderr}");
        }
    }
}

#[test]
fn a_bench_ends_at_once_where_nothing_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("images"), ["a", "b"], 24, (14, 12));
    let bench =
        ["bench", "--methods", "rotation", "--only", "supervised", "--data", "images", "--out", "out"];
    let mut child = start(d, &[&bench[..], &["--seeds", "1", "--epochs", "1000000"], &SMALL].concat());
    wait("the row", || d.join("out/rows/supervised/seed-0").exists());
    signal("INT", &child.program.id().to_string());
    let (status, stderr) = child.end();
    assert_eq!(status, Some(130), "{stderr}");
    assert!(stderr.contains("the same command goes on from there"), "{stderr}");
}
