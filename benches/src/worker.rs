//! PyTorch's side: a child process that answers JSON lines (`peers/compare.py` says which).
//!
//! The child has a process group of its own, so that its compilers end with it, and Ctrl-C in a terminal reaches us
//! alone. It is killed when the [`Worker`] is dropped, and ends by itself when its stdin does.

use crate::args::Peer;
use crate::cases::{Case, Fingerprint};
use crate::interrupt;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Lines of stderr that are kept for when the child dies.
const KEPT_LINES: usize = 12;
/// How often a wait looks for Ctrl-C.
const TICK: Duration = Duration::from_millis(50);

/// How a worker is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The Python.
    pub python: PathBuf,
    /// Its threads.
    pub threads: usize,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerError {
    /// There is no such Python, or it lacks a module: nothing can be compared.
    Unavailable(String),
    /// This case failed; the worker lives.
    Case(String),
    /// The worker is gone.
    Died(String),
    /// Ctrl-C.
    Interrupted,
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerError::Unavailable(text) | WorkerError::Case(text) | WorkerError::Died(text) => {
                f.write_str(text)
            }
            WorkerError::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for WorkerError {}

/// A worker's result.
pub type Result<T> = std::result::Result<T, WorkerError>;

/// What a set-up case answers.
#[derive(Debug, Deserialize)]
pub struct Ready {
    /// Of one iteration.
    pub seconds: f64,
    /// Of y and each gradient.
    pub results: Vec<Fingerprint>,
}

/// The child.
pub struct Worker {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    timeout: Duration,
    versions: BTreeMap<String, String>,
}

impl Worker {
    /// Starts Python and waits until it has imported torch.
    pub fn start(settings: &Settings) -> Result<Self> {
        let python = settings.python.display();
        let mut command = Command::new(&settings.python);
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/compare.py"))
            .args(["--threads", &settings.threads.to_string()])
            .env("OMP_NUM_THREADS", settings.threads.to_string())
            // Compile in the worker itself instead of in a pool of processes.
            .env("TORCHINDUCTOR_COMPILE_THREADS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|e| {
            WorkerError::Unavailable(format!("cannot start Python (`{python}`): {e}; {INSTALL}"))
        })?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            unreachable!("all three are piped");
        };
        let (sender, lines) = channel();
        thread::spawn(move || forward(stdout, &sender));
        let kept = Arc::default();
        let keep = Arc::clone(&kept);
        thread::spawn(move || keep_last(stderr, &keep));
        let mut worker =
            Self { child, stdin, lines, stderr: kept, timeout: settings.timeout, versions: BTreeMap::new() };
        match worker.receive() {
            Ok(answer) if answer.get("ready").is_some() => {
                worker.versions = serde_json::from_value(answer["ready"].clone())
                    .map_err(|e| WorkerError::Died(format!("the worker's first line cannot be read: {e}")))?;
                Ok(worker)
            }
            Ok(answer) if answer.get("missing").is_some() => {
                let (module, error) = (text(&answer["missing"]), text(&answer["error"]));
                Err(WorkerError::Unavailable(format!(
                    "`{python}` cannot import {module} ({error}); {INSTALL}"
                )))
            }
            Ok(answer) => Err(WorkerError::Unavailable(format!("`{python}` answered {answer}; {INSTALL}"))),
            Err(WorkerError::Died(text)) => {
                Err(WorkerError::Unavailable(format!("`{python}`: {text}; {INSTALL}")))
            }
            Err(other) => Err(other),
        }
    }

    /// The child's process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Of Python, torch and what else it tells.
    pub fn versions(&self) -> &BTreeMap<String, String> {
        &self.versions
    }

    /// Builds a case, runs it twice, and times a third iteration.
    pub fn setup(&mut self, case: &Case, peer: Peer) -> Result<Ready> {
        self.ask(json!({"setup": case.request(), "peer": peer.name()}))
    }

    /// Seconds of `iterations`, after `warm_up` more.
    pub fn run(&mut self, peer: Peer, iterations: usize, warm_up: usize) -> Result<f64> {
        #[derive(Deserialize)]
        struct Run {
            seconds: f64,
        }
        let run: Run = self.ask(json!({"run": iterations, "warm_up": warm_up, "peer": peer.name()}))?;
        Ok(run.seconds)
    }

    /// Frees what was set up.
    pub fn clear(&mut self) -> Result<()> {
        self.ask::<Value>(json!({"clear": true})).map(|_| ())
    }

    fn ask<T: serde::de::DeserializeOwned>(&mut self, request: Value) -> Result<T> {
        if writeln!(self.stdin, "{request}").and_then(|()| self.stdin.flush()).is_err() {
            return Err(self.died());
        }
        let answer = self.receive()?;
        if let Some(error) = answer.get("error") {
            return Err(WorkerError::Case(text(error)));
        }
        serde_json::from_value(answer.clone())
            .map_err(|e| WorkerError::Died(format!("the worker answered {answer} to {request}: {e}")))
    }

    /// The next line of the child.
    fn receive(&mut self) -> Result<Value> {
        let end = Instant::now() + self.timeout;
        loop {
            if interrupt::requested() {
                return Err(WorkerError::Interrupted);
            }
            match self.lines.recv_timeout(TICK) {
                Ok(line) => {
                    return serde_json::from_str(&line).map_err(|_| {
                        WorkerError::Died(format!("the worker wrote something that is no JSON: {line}"))
                    });
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.died()),
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = self.timeout.as_secs();
                    return Err(WorkerError::Died(format!("no answer from the worker within {seconds} s")));
                }
            }
        }
    }

    fn died(&mut self) -> WorkerError {
        self.kill();
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        // Its reader ends with the child, but perhaps a little later.
        thread::sleep(TICK);
        let lines = self.stderr.lock().map(|kept| kept.iter().cloned().collect::<Vec<_>>().join("\n  "));
        let lines = lines.unwrap_or_default();
        let said = if lines.is_empty() { String::new() } else { format!("; its last words:\n  {lines}") };
        WorkerError::Died(format!("the worker died ({status}){said}"))
    }

    /// Ends the child and all that it has started.
    fn kill(&mut self) {
        // One that is ending by itself may do so, for the sake of its status.
        for _ in 0..10 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        #[cfg(unix)]
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.kill();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// What to do about a Python without torch.
const INSTALL: &str = "install the peers with `pip install -r benches/peers/requirements.txt` and name that Python by \
                       `--python PATH`, or measure our side alone with `--ours-only`";

fn forward(stdout: impl Read, lines: &Sender<String>) {
    for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
        if lines.send(line).is_err() {
            break;
        }
    }
}

fn keep_last(stderr: impl Read, kept: &Mutex<VecDeque<String>>) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        if let Ok(mut kept) = kept.lock() {
            kept.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
            if kept.len() > KEPT_LINES {
                kept.pop_front();
            }
        }
        line.clear();
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
