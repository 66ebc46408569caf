//! A pretraining in a process of its own, whose memory is its alone. It does not outlive this one.

use crate::failure::{Failure, INTERRUPTED, Result};
use crate::output;
use anyhow::{Context, anyhow};
use selfsup_train::{Error, RunLock};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two looks at a child, or for a signal.
const LOOK: Duration = Duration::from_millis(20);
/// How long the child of a bench that has gone may take for its checkpoint.
const PATIENCE: Duration = Duration::from_secs(120);
const GO_ON: &str = "interrupted; the same command goes on from there";

/// What a signal does to a bench: a child ends with a checkpoint first, all else ends at once; rows that are done are kept. A second
/// signal ends that, too.
#[derive(Debug, Default)]
pub struct Interrupts {
    child: AtomicBool,
    asked: AtomicBool,
}

impl Interrupts {
    /// From now on.
    pub fn watch() -> Result<Arc<Self>> {
        let (state, signalled) = (Arc::new(Self::default()), Arc::new(AtomicBool::new(false)));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, signalled.clone())?;
        }
        let shared = state.clone();
        std::thread::spawn(move || {
            loop {
                if signalled.swap(false, Ordering::SeqCst)
                    && (!shared.child.load(Ordering::SeqCst) || shared.asked.swap(true, Ordering::SeqCst))
                {
                    output::say(GO_ON);
                    exit(INTERRUPTED);
                }
                std::thread::sleep(LOOK);
            }
        });
        Ok(state)
    }
}

/// Runs `pretrain` with some arguments and returns its peak of memory, where the system says it.
pub fn pretrain(
    method: &str,
    arguments: impl FnOnce(&mut Command),
    interrupts: &Interrupts,
) -> Result<Option<u64>> {
    let mut command = Command::new(std::env::current_exe().context("cannot find the program itself")?);
    command.args(["pretrain", method, "--child", "--no-probe"]);
    // It stops where stdin ends, which it does when this process has gone, whatever ended it.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    arguments(&mut command);
    interrupts.child.store(true, Ordering::SeqCst);
    let outcome = watch(command, interrupts);
    interrupts.child.store(false, Ordering::SeqCst);
    let (status, why, peak) = outcome?;
    if interrupts.asked.load(Ordering::SeqCst) || status == Some(INTERRUPTED) {
        return Err(Failure::Interrupted(GO_ON.into()));
    }
    match (status, why.trim()) {
        (Some(0), _) => Ok(peak),
        (Some(status), "") => Err(anyhow!("the training ended with status {status}").into()),
        (None, "") => Err(anyhow!("the training was killed").into()),
        (_, why) => Err(anyhow!("{why}").into()),
    }
}

type Ended = (Option<i32>, String, Option<u64>);

/// Its status, what it said of its failure, its peak of memory.
fn watch(mut command: Command, interrupts: &Interrupts) -> anyhow::Result<Ended> {
    let mut child = command.spawn().context("cannot start the training")?;
    let (mut stdin, mut peak) = (child.stdin.take(), None);
    let status = loop {
        peak = peak_bytes(&child).or(peak);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if interrupts.asked.load(Ordering::SeqCst) {
            stdin = None;
        }
        std::thread::sleep(LOOK);
    };
    drop(stdin);
    let mut why = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut why)?;
    }
    Ok((status.code(), why, peak))
}

/// VmHWM of a process, which only grows: Linux alone says it.
fn peak_bytes(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Waits until nobody trains in a run's folder: the child of a bench that was killed is still writing its checkpoint.
pub fn wait_until_free(run: &Path) -> Result {
    let start = Instant::now();
    while run.exists() {
        match RunLock::take(run) {
            Err(Error::InUse(_)) if start.elapsed() < PATIENCE => std::thread::sleep(10 * LOOK),
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    Ok(())
}
