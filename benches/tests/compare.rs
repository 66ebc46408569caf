//! `compare` with a worker that only plays PyTorch: a shell script that answers the protocol's lines.
#![cfg(unix)]

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A case small enough to be over at once.
const CASE: &str = "conv2d/1x1x1x512/1x1-512/f";

/// A folder with a worker whose answers to the requests are these shell commands.
struct Stage(TempDir);

impl Stage {
    fn new(start: &str, setup: &str, run: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = format!(
            "#!/bin/sh\n{start}\nwhile read -r line; do\n case \"$line\" in\n *'\"setup\":'*) {setup} ;;\n \
             *'\"run\":'*) {run} ;;\n *'\"clear\":'*) echo '{{\"cleared\": true}}' ;;\n esac\ndone\n"
        );
        let path = folder.path().join("python");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    fn python(&self) -> PathBuf {
        self.0.path().join("python")
    }

    /// `compare` with this worker; returns status, stdout, stderr.
    fn compare(&self, args: &[&str]) -> (i32, String, String) {
        compare(self.0.path(), &[&["--python", self.python().to_str().unwrap()], args].concat())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.0.path().join("compare.json")).unwrap()).unwrap()
    }
}

const READY: &str = r#"echo '{"ready": {"python": "3", "torch": "9.9"}}'"#;
const RUN: &str = r#"echo '{"seconds": 0.5}'"#;

/// What a peer that computes the same answers to the setup of [`CASE`]; the fingerprint is our own.
fn same_work() -> String {
    // Our fingerprint is told where the results do not agree.
    let none = r#"echo '{"seconds": 1, "results": [{"elements": 512, "sum": 1e30, "absolute": 1e30}]}'"#;
    let (_, _, stderr) = Stage::new(READY, none, RUN).compare(&["--only", CASE, "--rounds", "1"]);
    let (_, ours) = stderr.split_once("ours Fingerprint {").expect("the error tells ours");
    let mut numbers =
        ours.split(['}', ',']).filter_map(|part| part.split_once(": ")?.1.trim().parse::<f64>().ok());
    let [elements, sum, absolute] = [(); 3].map(|()| numbers.next().unwrap());
    format!(
        r#"echo '{{"seconds": 1, "results": [{{"elements": {elements}, "sum": {sum}, "absolute": {absolute}}}]}}'"#
    )
}

fn compare(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selfsup-bench"));
    command.arg("compare").arg("--out").arg(folder).args(["--seconds", "0"]).args(args);
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn samples_of_both_sides_are_told_and_the_page_keeps_its_words() {
    let stage = Stage::new(READY, &same_work(), RUN);
    let page = stage.0.path().join("page.md");
    fs::write(&page, "before\n<!-- compare:begin -->\n<!-- compare:end -->\nafter\n").unwrap();
    let (status, stdout, stderr) = stage.compare(&[
        "--only",
        CASE,
        "--rounds",
        "3",
        "--threads",
        "1",
        "--markdown",
        page.to_str().unwrap(),
    ]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains(CASE) && stdout.contains("PyTorch 9.9") && stdout.contains("500 ms"), "{stdout}");
    let json = stage.json();
    assert_eq!((&json["threads"], &json["rounds"], &json["format"]), (&1.into(), &3.into(), &1.into()));
    assert_eq!(json["versions"]["peer"]["torch"], "9.9");
    assert!(json["peak"]["gflop_per_second"].as_f64().unwrap() > 0.0);
    assert!(json["machine"]["cores"].as_u64().unwrap() > 0);
    let case = &json["cases"][0];
    assert_eq!((case["name"].as_str(), case["flop"].as_f64()), (Some(CASE), Some(524_288.0)));
    let sides = case["sides"].as_array().unwrap();
    assert_eq!(sides.iter().map(|s| s["name"].as_str().unwrap()).collect::<Vec<_>>(), ["selfsup", "eager"]);
    assert_eq!(sides[1]["seconds"], serde_json::json!([0.5, 0.5, 0.5]));
    let median = sides[0]["median"].as_f64().unwrap();
    let ratio = sides[1]["ratio"]["of_medians"].as_f64().unwrap();
    assert!((ratio - 0.5 / median).abs() < 1e-9 * ratio);
    let page = fs::read_to_string(&page).unwrap();
    assert!(
        page.starts_with("before\n") && page.ends_with("after\n") && page.contains("| eager |"),
        "{page}"
    );
    assert!(fs::read_to_string(stage.0.path().join("roofline.svg")).unwrap().contains(CASE));
}

#[test]
fn a_side_that_computes_something_else_is_not_compared() {
    let other = same_work().replace("\"elements\": 512", "\"elements\": 511");
    let stage = Stage::new(READY, &other, RUN);
    let (status, stdout, _) = stage.compare(&["--only", CASE, "--rounds", "1"]);
    assert_eq!(status, 1);
    assert!(stdout.contains("not the same work"), "{stdout}");
    assert_eq!(stage.json()["cases"][0]["sides"][1]["ratio"], Value::Null);
}

#[test]
fn a_case_that_fails_is_told_and_the_rest_goes_on() {
    let stage = Stage::new(READY, r#"echo '{"error": "no memory for it"}'"#, RUN);
    let (status, stdout, _) = stage.compare(&["--only", "conv2d/1x1x1x512", "--rounds", "2"]);
    assert_eq!(status, 1);
    assert_eq!(stdout.matches("(eager): no memory for it").count(), 2, "{stdout}");
    for case in stage.json()["cases"].as_array().unwrap() {
        assert_eq!(case["sides"][0]["seconds"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn a_worker_that_crashes_is_told_with_its_last_words_and_started_again() {
    let crash = "echo 'segmentation fault in a kernel' >&2; exit 7";
    let stage = Stage::new(READY, &same_work(), crash);
    let (status, stdout, _) = stage.compare(&["--only", "conv2d/1x1x1x512", "--rounds", "2"]);
    assert_eq!(status, 1);
    assert!(stdout.contains("exit status: 7") && stdout.contains("segmentation fault"), "{stdout}");
    let json = stage.json();
    let (first, second) = (&json["cases"][0]["sides"], &json["cases"][1]["sides"]);
    assert_eq!(first[0]["seconds"].as_array().unwrap().len(), 2, "ours goes on");
    // The second case's answer has one result too few: only a new worker can have given it.
    assert!(second[1]["failure"].as_str().unwrap().contains("not the same work"), "{second}");
}

#[test]
fn a_worker_that_never_answers_is_given_up() {
    let stage = Stage::new(READY, "sleep 100", RUN);
    let start = Instant::now();
    let (status, stdout, _) = stage.compare(&["--only", CASE, "--rounds", "1", "--timeout", "1"]);
    assert_eq!(status, 1);
    assert!(stdout.contains("no answer from the worker within 1 s"), "{stdout}");
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn an_interrupt_ends_the_worker_and_all_that_it_started() {
    let pids = tempfile::tempdir().unwrap();
    let file = pids.path().join("pids");
    // A grandchild too, as a compiler would be.
    let setup = format!("sleep 1000 & echo $$ $! > {}.part; mv {0}.part {0}; wait", file.display());
    let stage = Stage::new(READY, &setup, RUN);
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_selfsup-bench"))
        .args(["compare", "--only", CASE, "--out"])
        .arg(stage.0.path())
        .arg("--python")
        .arg(stage.python())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !file.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "the worker was not reached");
        std::thread::sleep(Duration::from_millis(20));
    }
    let signal = |signal: &str, pid: &str| {
        std::process::Command::new("kill")
            .args([signal, pid])
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
    };
    signal("-INT", &child.id().to_string());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let pids = fs::read_to_string(&file).unwrap();
    for pid in pids.split_whitespace() {
        let start = Instant::now();
        // A process that is dead but not yet waited for by init still has its number.
        while signal("-0", pid).success() && !zombie(pid) {
            assert!(start.elapsed() < Duration::from_secs(10), "{pid} lives on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn zombie(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn a_missing_python_or_torch_is_told_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let (status, stdout, stderr) = compare(folder.path(), &["--python", "no-such-python"]);
    assert_eq!((status, &stdout[..]), (2, ""));
    for words in ["no-such-python", "pip install -r benches/peers/requirements.txt", "--ours-only"] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    let missing = r#"echo '{"missing": "torch", "error": "No module named torch"}'; exit 1"#;
    let (status, _, stderr) = Stage::new(missing, "", "").compare(&[]);
    assert_eq!(status, 2);
    for words in ["cannot import torch", "pip install -r benches/peers/requirements.txt", "--ours-only"] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    let (status, _, stderr) = Stage::new("echo broken >&2; exit 3", "", "").compare(&[]);
    assert_eq!(status, 2);
    assert!(stderr.contains("broken") && stderr.contains("exit status: 3"), "{stderr}");
}

#[test]
fn ours_alone_needs_no_python() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--ours-only", "--python", "no-such-python", "--only", CASE, "--rounds", "2"];
    let (status, stdout, stderr) = compare(folder.path(), &args);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("no peer") && stdout.contains(CASE), "{stdout}");
}

#[test]
fn bad_arguments_are_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |args: &[&str], words: &[&str]| {
        let (status, stdout, stderr) = compare(folder.path(), args);
        assert_eq!((status, &stdout[..]), (2, ""), "{args:?}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "{args:?}: `{word}` is not in {stderr}");
        }
    };
    refused(&["--only", "conv3d/1x1x1x512/1x1-512/f"], &["conv3d", "did you mean", "--list"]);
    refused(&["--rounds", "0"], &["--rounds"]);
    refused(&["--threads", "0"], &["--threads"]);
    refused(&["--seconds=-1"], &["seconds"]);
    refused(&["--peers", "jax"], &["jax", "eager"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_list_has_every_case_and_does_no_work() {
    let folder = tempfile::tempdir().unwrap();
    let (status, stdout, _) = compare(folder.path(), &["--list", "--only", "nt_xent*/f+b"]);
    assert_eq!(status, 0);
    assert_eq!(stdout, "nt_xent/1024x128/f+b\nnt_xent/4096x128/f+b\nnt_xent/8192x128/f+b\n");
}
