//! What a run found: as a table for reading, as JSON with every sample, as Markdown for the book, as a roofline.

mod json;
mod labels;
mod markdown;
mod roofline;
mod table;

pub use table::{duration, text};

use crate::cases::Case;
use crate::compare::OURS;
use crate::machine::Machine;
use crate::peak::Peak;
use crate::statistics::{Ratio, minimum};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// A side's samples of a case.
#[derive(Debug, Clone)]
pub struct Side {
    /// Ours or a peer's name.
    pub name: &'static str,
    /// Iterations of a turn.
    pub iterations: usize,
    /// Of an iteration, a number for each round.
    pub seconds: Vec<f64>,
    /// The most memory that the process had in use in a turn, of all rounds.
    pub peak_bytes: Option<u64>,
    /// Why there are no more samples.
    pub failure: Option<String>,
}

/// A case's sides.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The case's name.
    pub name: String,
    /// Operations of an iteration.
    pub flop: Option<f64>,
    /// The least memory traffic of an iteration.
    pub bytes: Option<f64>,
    /// Ours first.
    pub sides: Vec<Side>,
}

impl Measured {
    /// A case that has not run yet.
    pub fn new(case: &Case) -> Self {
        Self { name: case.name.clone(), flop: case.flop, bytes: None, sides: Vec::new() }
    }

    /// A side by name.
    pub fn side(&self, name: &str) -> Option<&Side> {
        self.sides.iter().find(|side| side.name == name)
    }

    /// The processes' memory, of a case with no inputs that we count: a training step, whose own it is.
    pub fn memory(&self) -> Option<String> {
        if self.bytes.is_some() {
            return None;
        }
        let of =
            |side: &Side| side.peak_bytes.map(|bytes| format!("{} {:.2} GB", side.name, bytes as f64 / 1e9));
        let sides: Vec<String> = self.sides.iter().filter_map(of).collect();
        (!sides.is_empty()).then(|| format!("peak memory of {}: {}", self.name, sides.join(", ")))
    }

    /// Whether any side did not run to its end.
    pub fn failed(&self) -> bool {
        self.sides.iter().any(|side| side.failure.is_some())
    }

    /// How many times as fast ours is as the side.
    pub fn ratio(&self, side: &Side) -> Option<Ratio> {
        if side.name == OURS || side.failure.is_some() {
            return None;
        }
        Ratio::new(&self.side(OURS)?.seconds, &side.seconds)
    }

    /// Operations a byte of the least traffic.
    pub fn intensity(&self) -> Option<f64> {
        Some(self.flop? / self.bytes?)
    }

    /// GFLOP/s of a side's shortest time.
    pub fn gflop_per_second(&self, side: &Side) -> Option<f64> {
        Some(self.flop? / minimum(&side.seconds) / 1e9).filter(|rate| rate.is_finite())
    }

    /// What a side's shortest time reaches of what the machine can: of the roof at the case's intensity, of the peak where
    /// the traffic is not known, of the bandwidth where the operations are not what counts.
    pub fn share_of_roof(&self, side: &Side, peak: &Peak) -> Option<f64> {
        let share = match (self.gflop_per_second(side), self.intensity()) {
            (Some(rate), Some(intensity)) => rate / peak.roof(intensity),
            (Some(rate), None) => rate / peak.gflop_per_second,
            (None, _) => self.bytes? / minimum(&side.seconds) / 1e9 / peak.gb_per_second(),
        };
        Some(share).filter(|share| share.is_finite())
    }
}

/// A run.
#[derive(Debug, Clone)]
pub struct Report {
    /// The day, in UTC.
    pub date: String,
    /// The program's arguments.
    pub command: String,
    /// Where it ran.
    pub machine: Machine,
    /// Variables that change speeds.
    pub environment: BTreeMap<String, String>,
    /// Threads of each side.
    pub threads: usize,
    /// Rounds a case.
    pub rounds: usize,
    /// The shortest turn.
    pub seconds_a_turn: f64,
    /// The machine's load after the last case.
    pub load_at_the_end: Option<f64>,
    /// What the machine can do.
    pub peak: Peak,
    /// By side.
    pub versions: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// The cases that ran.
    pub cases: Vec<Measured>,
}

impl Report {
    /// A version, or `unknown`.
    fn version(&self, side: &str, name: &str) -> &str {
        self.versions.get(side).and_then(|v| v.get(name)).map_or("unknown", String::as_str)
    }

    /// PyTorch's version without the part that names its build.
    fn torch(&self) -> &str {
        self.version("peer", "torch").split('+').next().unwrap_or_default()
    }
}

/// Writes compare.json and roofline.svg into a folder, and the table to a Markdown file if one is named.
pub fn write_files(report: &Report, folder: &Path, markdown_file: Option<&Path>) -> Result<()> {
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
        Ok::<(), anyhow::Error>(())
    };
    write(&folder.join("compare.json"), json::render(report))?;
    if let Some(svg) = roofline::render(report)? {
        write(&folder.join("roofline.svg"), svg)?;
    }
    if let Some(path) = markdown_file {
        let old = std::fs::read_to_string(path).unwrap_or_default();
        write(path, markdown::place(&old, &markdown::render(report)))?;
    }
    Ok(())
}

/// A report of two cases, one with a peer that failed, for the tests of its forms.
#[cfg(test)]
fn example() -> Report {
    let side = |name, seconds: &[f64]| Side {
        name,
        iterations: 3,
        seconds: seconds.to_vec(),
        peak_bytes: None,
        failure: None,
    };
    let failed = Side { failure: Some("out of memory".into()), ..side("compiled", &[]) };
    Report {
        date: "2026-01-31".into(),
        command: "compare --only conv2d".into(),
        machine: Machine {
            cpu: "A CPU".into(),
            features: vec!["x86_64"],
            cores: 2,
            os: "linux",
            load: Some(0.5),
        },
        environment: BTreeMap::new(),
        threads: 2,
        rounds: 3,
        seconds_a_turn: 0.2,
        load_at_the_end: None,
        peak: Peak { gflop_per_second: 200.0, triad_gb_per_second: 30.0, sum_gb_per_second: 40.0, lanes: 16 },
        versions: BTreeMap::from([("peer", BTreeMap::from([("torch".into(), "2.11.0".into())]))]),
        cases: vec![
            Measured {
                name: "conv2d/a/f".into(),
                flop: Some(1e9),
                bytes: Some(1e7),
                sides: vec![
                    side(OURS, &[0.01, 0.02, 0.04]),
                    side("eager", &[0.03, 0.10, 0.04]),
                    failed.clone(),
                ],
            },
            Measured {
                name: "log_softmax/b/f+b".into(),
                flop: None,
                bytes: Some(4e8),
                sides: vec![side(OURS, &[0.02, 0.02, 0.02]), side("eager", &[0.01, 0.01, 0.01])],
            },
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_steps_is_told() {
        let mut case = example().cases.remove(0);
        case.sides[0].peak_bytes = Some(1_234_000_000);
        assert_eq!(case.memory(), None);
        case.bytes = None;
        assert_eq!(case.memory().unwrap(), format!("peak memory of conv2d/a/f: {OURS} 1.23 GB"));
        case.sides[1].peak_bytes = Some(2_000_000_000);
        assert!(case.memory().unwrap().ends_with("1.23 GB, eager 2.00 GB"));
    }

    #[test]
    fn shares_are_of_the_roof_that_bounds() {
        let mut report = example();
        let share = |report: &Report, case: usize| {
            let case = &report.cases[case];
            case.share_of_roof(&case.sides[0], &report.peak).unwrap()
        };
        assert_eq!(share(&report, 0), 0.5); // 1e9 flop in 10 ms are 100 of 200 GFLOP/s
        assert_eq!(share(&report, 1), 0.5); // 4e8 bytes in 20 ms are 20 of 40 GB/s
        report.cases[0].bytes = Some(1e9);
        assert_eq!(share(&report, 0), 2.5); // at 1 flop a byte the roof is 40 GFLOP/s
        report.cases[0].bytes = None;
        assert_eq!(share(&report, 0), 0.5);
    }

    #[test]
    fn a_failed_side_has_no_ratio_and_is_told() {
        let report = example();
        let case = &report.cases[0];
        assert_eq!(case.ratio(&case.sides[0]), None);
        assert_eq!(case.ratio(&case.sides[1]).unwrap().of_minima, 3.0);
        assert_eq!(case.ratio(&case.sides[2]), None);
        assert!(case.failed() && !report.cases[1].failed());
    }
}
