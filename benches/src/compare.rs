//! The rounds. In each, every side of a case runs once, in an order that turns from round to round, and neither runs
//! while the other does: what disturbs the machine disturbs them alike.

use crate::args::{CompareArgs, Peer, Usage};
use crate::cases::{self, Case, Fingerprint};
use crate::interrupt;
use crate::machine::{self, Machine};
use crate::memory;
use crate::peak::Peak;
use crate::report::{self, Measured, Report, Side};
use crate::statistics::{Ratio, median};
use crate::worker::{Settings, Worker, WorkerError};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// The name of our side.
pub const OURS: &str = "selfsup";
/// After a side's turn its threads may spin for some milliseconds before they sleep.
const REST: Duration = Duration::from_millis(10);
/// A turn whose iterations are shorter begins with one that is not timed: it wakes threads and fills caches.
const SHORT: f64 = 0.05;

/// Measures and reports.
pub fn run(args: &CompareArgs) -> Result<ExitCode> {
    let cases = cases::select(cases::all(), &args.only)?;
    if args.list {
        for case in &cases {
            println!("{}", case.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    interrupt::install()?;
    let threads = args.threads.map_or_else(|| Machine::read().cores, usize::from);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let mut peers = Peers::start(args, threads)?;
    let machine = Machine::read();
    // Before anything is measured: an hour's work must not end in a folder that cannot be written.
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    eprintln!("{}, {} threads; measuring the peak", machine.cpu, threads);
    let before = Peak::measure();

    let mut measured = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        eprint!("[{}/{}] {}", i + 1, cases.len(), case.name);
        let result = measure(case, &mut peers, args);
        eprintln!("{}", summary(&result));
        measured.push(result);
        if interrupt::requested() {
            measured.pop();
            eprintln!("interrupted; what was measured so far:");
            break;
        }
    }
    let report = Report {
        date: machine::today(),
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        machine,
        environment: machine::environment(),
        threads,
        rounds: args.rounds.get(),
        seconds_a_turn: args.seconds,
        load_at_the_end: machine::load(),
        peak: if interrupt::requested() { before } else { before.max(Peak::measure()) },
        versions: BTreeMap::from([(OURS, machine::versions()), ("peer", peers.versions.clone())]),
        cases: measured,
    };
    drop(peers);
    println!("{}", report::text(&report));
    report::write_files(&report, &args.out, args.markdown.as_deref())?;
    Ok(match report.cases.iter().any(Measured::failed) {
        _ if interrupt::requested() => ExitCode::from(130),
        true => ExitCode::from(1),
        false => ExitCode::SUCCESS,
    })
}

/// PyTorch's side, whose worker is started again after it died.
struct Peers {
    settings: Settings,
    wanted: Vec<Peer>,
    worker: Option<Worker>,
    versions: BTreeMap<String, String>,
    /// Why there is no worker any more.
    gone: Option<WorkerError>,
}

impl Peers {
    fn start(args: &CompareArgs, threads: usize) -> Result<Self> {
        let settings =
            Settings { python: args.python.clone(), threads, timeout: Duration::from_secs(args.timeout) };
        let mut peers = Self {
            settings,
            wanted: if args.ours_only { Vec::new() } else { args.peers.clone() },
            worker: None,
            versions: BTreeMap::new(),
            gone: None,
        };
        if !peers.wanted.is_empty() {
            match Worker::start(&peers.settings) {
                Ok(worker) => {
                    peers.versions = worker.versions().clone();
                    peers.worker = Some(worker);
                }
                Err(WorkerError::Unavailable(text)) => return Err(Usage(text).into()),
                Err(other) => bail!(other),
            }
        }
        Ok(peers)
    }

    /// Asks the worker, starting one if there is none.
    fn ask<T>(&mut self, f: impl FnOnce(&mut Worker) -> crate::worker::Result<T>) -> Result<T, WorkerError> {
        if let Some(error) = &self.gone {
            return Err(error.clone());
        }
        if self.worker.is_none() {
            match Worker::start(&self.settings) {
                Ok(worker) => self.worker = Some(worker),
                Err(error) => {
                    self.gone = Some(error.clone());
                    return Err(error);
                }
            }
        }
        let Some(worker) = &mut self.worker else { unreachable!("just started") };
        let answer = f(worker);
        if matches!(answer, Err(WorkerError::Died(_) | WorkerError::Interrupted)) {
            self.worker = None;
        }
        answer
    }
}

/// A side that could not begin.
fn failure(name: &'static str, error: String) -> Side {
    Side { name, iterations: 0, seconds: Vec::new(), peak_bytes: None, failure: Some(error) }
}

/// A side while its case is measured.
struct Running {
    peer: Option<Peer>,
    iterations: usize,
    warm_up: usize,
    side: Side,
}

impl Running {
    fn new(peer: Option<Peer>, seconds: f64, wanted: f64) -> Self {
        let iterations = (wanted / seconds.max(1e-9)).ceil().clamp(1.0, 1e7) as usize;
        let name = peer.map_or(OURS, Peer::name);
        let side = Side { name, iterations, seconds: Vec::new(), peak_bytes: None, failure: None };
        Self { peer, iterations, warm_up: usize::from(seconds < SHORT), side }
    }

    fn failed(peer: Peer, error: impl ToString) -> Side {
        failure(peer.name(), error.to_string())
    }
}

fn measure(case: &Case, peers: &mut Peers, args: &CompareArgs) -> Measured {
    let mut measured = Measured::new(case);
    let failed = |mut measured: Measured, error: anyhow::Error| {
        measured.sides.insert(0, failure(OURS, format!("{error:#}")));
        measured
    };
    let mut ours = match case.prepare() {
        Ok(ours) => ours,
        Err(error) => return failed(measured, error),
    };
    measured.bytes = ours.bytes;
    let first = match time(&mut ours.iteration, 1, 0) {
        Ok(seconds) => seconds,
        Err(error) => return failed(measured, error),
    };
    let mut running = vec![Running::new(None, first, args.seconds)];
    let wanted = case.peers.iter().copied().filter(|peer| peers.wanted.contains(peer));
    for peer in wanted.collect::<Vec<_>>() {
        match peers.ask(|worker| worker.setup(case, peer)) {
            Ok(ready) => match same_work(&ours.results, &ready.results) {
                Ok(()) => running.push(Running::new(Some(peer), ready.seconds, args.seconds)),
                Err(error) => measured.sides.push(Running::failed(peer, error)),
            },
            // With a worker that died, what the case's other peer had set up is gone too.
            Err(error @ WorkerError::Died(_)) => {
                for other in running.extract_if(.., |r| r.peer.is_some()) {
                    measured.sides.extend(other.peer.map(|peer| Running::failed(peer, &error)));
                }
                measured.sides.push(Running::failed(peer, &error));
            }
            Err(error) => measured.sides.push(Running::failed(peer, error)),
        }
    }
    for round in 0..args.rounds.get() {
        let sides = running.len();
        for turn in 0..sides {
            let current = &mut running[(round + turn) % sides];
            if current.side.failure.is_some() {
                continue;
            }
            thread::sleep(REST);
            let (iterations, warm_up) = (current.iterations, current.warm_up);
            let process = match current.peer {
                None => Some(std::process::id()),
                Some(_) => peers.worker.as_ref().map(Worker::process),
            };
            process.inspect(|&process| memory::reset(process));
            let seconds = match current.peer {
                None => time(&mut ours.iteration, iterations, warm_up).map_err(|e| format!("{e:#}")),
                Some(peer) => {
                    peers.ask(|worker| worker.run(peer, iterations, warm_up)).map_err(|e| e.to_string())
                }
            };
            current.side.peak_bytes = current.side.peak_bytes.max(process.and_then(memory::peak));
            match seconds {
                Ok(seconds) => current.side.seconds.push(seconds / iterations as f64),
                Err(error) if current.peer.is_some() && peers.worker.is_none() => {
                    for peer in running.iter_mut().filter(|r| r.peer.is_some()) {
                        peer.side.failure.get_or_insert_with(|| error.clone());
                    }
                }
                Err(error) => current.side.failure = Some(error),
            }
            if interrupt::requested() {
                return measured;
            }
        }
    }
    drop(ours);
    if peers.worker.is_some() {
        let _ = peers.ask(Worker::clear);
    }
    let failed = std::mem::take(&mut measured.sides);
    measured.sides = running.into_iter().map(|r| r.side).chain(failed).collect();
    measured
}

/// Seconds of `iterations`, after `warm_up` more.
fn time(iteration: &mut dyn FnMut() -> Result<()>, iterations: usize, warm_up: usize) -> Result<f64> {
    for _ in 0..warm_up {
        iteration()?;
    }
    let start = Instant::now();
    for _ in 0..iterations {
        iteration()?;
        if interrupt::requested() {
            break;
        }
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Refuses to compare sides whose results differ by more than rounding.
fn same_work(ours: &[Fingerprint], peer: &[Fingerprint]) -> Result<()> {
    if ours.len() != peer.len() {
        bail!("not the same work: {} results against our {}", peer.len(), ours.len());
    }
    for (i, (ours, peer)) in ours.iter().zip(peer).enumerate() {
        if !ours.agrees(peer) {
            let what = if i == 0 { "y".to_owned() } else { format!("gradient {i}") };
            bail!("not the same work: {what} is {peer:?}, ours {ours:?}");
        }
    }
    Ok(())
}

/// The end of a case's line of progress.
fn summary(measured: &Measured) -> String {
    let Some(ours) = measured.side(OURS) else { return String::new() };
    let mut text = String::new();
    for side in &measured.sides {
        text += &match &side.failure {
            Some(error) => format!("\n  {} failed: {error}", side.name),
            None => format!("  {} {}", side.name, report::duration(median(&side.seconds))),
        };
        if side.name != OURS
            && let Some(ratio) = Ratio::new(&ours.seconds, &side.seconds)
        {
            text += &format!(" ({:.2}×)", ratio.of_medians);
        }
    }
    text
}
