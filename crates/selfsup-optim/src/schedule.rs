//! The learning rate over a run, as factors of the optimiser's own.
//!
//! A schedule counts in steps: `step_done` steps are done when the factor of the next one is asked. Times in
//! a configuration are in epochs and may be fractions; `steps_per_epoch` turns them into steps.
//!
//! Warm-up: with w = round(warmup_epochs · steps_per_epoch), the factor of the steps s < w is (s + 1)/w. The
//! very first step already moves (SimCLR's own code has s/w, so its first step does not), and the last of
//! them is at the full rate. A run shorter than its warm-up is the beginning of a longer one: the ramp is
//! not squeezed, and [`Schedule::check_length`] says so beforehand.

use crate::error::ensure;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// The learning rate over time. In a file, `name` chooses: `constant`, `cosine` or `step`.
///
/// ```
/// use selfsup_optim::Schedule;
/// let schedule: Schedule =
///     serde_json::from_str(r#"{"name": "cosine", "warmup_epochs": 1}"#).unwrap();
/// let (total, steps_per_epoch) = (30, 10);
/// assert_eq!(schedule.factor(0, total, steps_per_epoch), 0.1);
/// assert_eq!(schedule.factor(20, total, steps_per_epoch), 0.5);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Schedule {
    /// One rate.
    Constant(Constant),
    /// Half a cosine.
    Cosine(Cosine),
    /// Drops at given epochs.
    Step(Step),
}

/// After the warm-up, 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constant {
    /// Length of the linear warm-up.
    #[serde(default)]
    pub warmup_epochs: f64,
}

/// After w steps of warm-up, f + (1 − f)·(1 + cos(π·(s − w)/(total − w)))/2 with the final factor f
/// (Loshchilov & Hutter 2017, eq. 5, without restarts). The step after the last would have f.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cosine {
    /// Length of the linear warm-up.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// f, in [0, 1].
    #[serde(default)]
    pub final_factor: f64,
}

/// After the warm-up, γᵏ when k of the milestones have been reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Length of the linear warm-up. It multiplies the drops, should they begin within it.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Epochs, counted from 0, at whose beginning the rate drops; strictly increasing.
    pub milestones_epochs: Vec<f64>,
    /// γ, in (0, 1].
    pub gamma: f64,
}

impl Schedule {
    /// The optimiser's rate throughout.
    pub fn constant() -> Self {
        Self::Constant(Constant::default())
    }

    /// Linear warm-up, then half a cosine to 0. SimCLR warms up for 10 epochs (Chen et al. 2020, §2.2).
    pub fn cosine(warmup_epochs: f64) -> Self {
        Self::Cosine(Cosine { warmup_epochs, final_factor: 0.0 })
    }

    /// Drops by `gamma` at each milestone, no warm-up. MoCo drops by 0.1 at epochs 120 and 160 of 200
    /// (He et al. 2020, §4).
    pub fn step(milestones_epochs: Vec<f64>, gamma: f64) -> Self {
        Self::Step(Step { warmup_epochs: 0.0, milestones_epochs, gamma })
    }

    /// Length of the linear warm-up.
    pub fn warmup_epochs(&self) -> f64 {
        match self {
            Self::Constant(c) => c.warmup_epochs,
            Self::Cosine(c) => c.warmup_epochs,
            Self::Step(c) => c.warmup_epochs,
        }
    }

    /// The factor of the next step's learning rate when `step_done` of `total` steps are done.
    pub fn factor(&self, step_done: u64, total: u64, steps_per_epoch: u64) -> f64 {
        let warmup = steps(self.warmup_epochs(), steps_per_epoch);
        let ramp = if step_done < warmup { (step_done + 1) as f64 / warmup as f64 } else { 1.0 };
        match self {
            Self::Constant(_) => ramp,
            Self::Cosine(_) if step_done < warmup => ramp,
            Self::Cosine(c) => {
                let length = total.saturating_sub(warmup).max(1);
                let share = ((step_done - warmup) as f64 / length as f64).min(1.0);
                c.final_factor + (1.0 - c.final_factor) * 0.5 * (1.0 + (PI * share).cos())
            }
            Self::Step(c) => {
                let reached = c.milestones_epochs.iter().filter(|&&m| steps(m, steps_per_epoch) <= step_done);
                ramp * c.gamma.powf(reached.count() as f64)
            }
        }
    }

    /// Checks every value; the error names the first wrong one as `schedule.FIELD`.
    pub fn validate(&self) -> Result<()> {
        let range = "finite and 0 or more";
        let warmup = self.warmup_epochs();
        ensure(warmup.is_finite() && warmup >= 0.0, "schedule.warmup_epochs", range, warmup)?;
        match self {
            Self::Constant(_) => Ok(()),
            Self::Cosine(Cosine { final_factor: f, .. }) => {
                ensure((0.0..=1.0).contains(f), "schedule.final_factor", "in [0, 1]", f)
            }
            Self::Step(Step { milestones_epochs: m, gamma, .. }) => {
                let ordered = m.iter().all(|m| m.is_finite() && *m >= 0.0)
                    && m.windows(2).all(|pair| pair[0] < pair[1]);
                let range = "epochs in strictly increasing order";
                ensure(ordered, "schedule.milestones_epochs", range, format!("{m:?}"))?;
                ensure(*gamma > 0.0 && *gamma <= 1.0, "schedule.gamma", "in (0, 1]", gamma)
            }
        }
    }

    /// Whether the warm-up ends within a run of `total` steps, so that the full rate is reached at all.
    pub fn check_length(&self, total: u64, steps_per_epoch: u64) -> Result<()> {
        let warmup = steps(self.warmup_epochs(), steps_per_epoch);
        if warmup <= total {
            return Ok(());
        }
        Err(Error::Config {
            name: "schedule.warmup_epochs",
            expected: "no longer than the run",
            got: format!("{warmup} steps of warm-up in a run of {total}"),
        })
    }
}

fn steps(epochs: f64, steps_per_epoch: u64) -> u64 {
    (epochs * steps_per_epoch as f64).round() as u64
}
