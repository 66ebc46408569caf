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

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(schedule: &Schedule, total: u64, steps_per_epoch: u64) -> Vec<f64> {
        (0..total).map(|s| schedule.factor(s, total, steps_per_epoch)).collect()
    }

    fn near(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((g - w).abs() < 1e-12, "[{i}] is {g}, expected {w}");
        }
    }

    #[test]
    fn warm_up_begins_above_zero_and_ends_at_one() {
        for schedule in [
            Schedule::Constant(Constant { warmup_epochs: 2.0 }),
            Schedule::cosine(2.0),
            Schedule::Step(Step { warmup_epochs: 2.0, milestones_epochs: vec![2.5], gamma: 0.1 }),
        ] {
            near(&factors(&schedule, 12, 2)[..5], &[0.25, 0.5, 0.75, 1.0, 1.0]);
        }
        near(&factors(&Schedule::constant(), 3, 2), &[1.0, 1.0, 1.0]);
    }

    #[test]
    fn cosine_falls_to_its_last_factor() {
        // The definition, written for six steps without warm-up: cos 0°, 30°, 60°, …
        let (c30, c60) = (3f64.sqrt() / 2.0, 0.5);
        let want = [1.0, (1.0 + c30) / 2.0, (1.0 + c60) / 2.0, 0.5, (1.0 - c60) / 2.0, (1.0 - c30) / 2.0];
        near(&factors(&Schedule::cosine(0.0), 6, 1), &want);
        assert!(Schedule::cosine(0.0).factor(6, 6, 1).abs() < 1e-15);
        assert!(Schedule::cosine(0.0).factor(1000, 6, 1).abs() < 1e-15);
        let floor = Schedule::Cosine(Cosine { warmup_epochs: 1.0, final_factor: 0.2 });
        near(&[floor.factor(5, 9, 1), floor.factor(9, 9, 1)], &[0.6, 0.2]);
        let all = factors(&floor, 9, 1);
        assert!(all.windows(2).all(|w| w[0] >= w[1]), "{all:?}");
    }

    #[test]
    fn steps_drop_at_the_milestone_s_first_step() {
        let schedule = Schedule::step(vec![1.0, 2.5], 0.1);
        near(&factors(&schedule, 7, 2), &[1.0, 1.0, 0.1, 0.1, 0.1, 0.01, 0.01]);
        assert_eq!(Schedule::step(vec![0.0], 0.5).factor(0, 4, 2), 0.5);
    }

    #[test]
    fn a_short_run_is_the_beginning_of_a_long_one() {
        let schedule = Schedule::cosine(10.0);
        assert_eq!(factors(&schedule, 5, 3), factors(&schedule, 100, 3)[..5]);
        let error = schedule.check_length(5, 3).unwrap_err().to_string();
        assert!(error.contains("30 steps of warm-up in a run of 5"), "{error}");
        schedule.check_length(30, 3).unwrap();
        near(&[schedule.factor(29, 30, 3), schedule.factor(30, 30, 3)], &[1.0, 1.0]);
    }

    #[test]
    fn degenerate_lengths_give_finite_factors() {
        for schedule in [Schedule::constant(), Schedule::cosine(1.0), Schedule::step(vec![1.0], 0.1)] {
            for (total, per_epoch) in [(0, 0), (0, 3), (1, 0), (1, 1)] {
                for s in [0, 1, u64::MAX] {
                    let f = schedule.factor(s, total, per_epoch);
                    assert!((0.0..=1.0).contains(&f), "{schedule:?} {s} {total} {per_epoch}: {f}");
                }
            }
        }
    }

    #[test]
    fn files_name_the_fields() {
        let cosine: Schedule = serde_json::from_str(r#"{"name":"cosine","warmup_epochs":10}"#).unwrap();
        assert_eq!(cosine, Schedule::cosine(10.0));
        let constant: Schedule = serde_json::from_str(r#"{"name":"constant"}"#).unwrap();
        assert_eq!(constant, Schedule::constant());
        for s in [cosine, constant, Schedule::step(vec![120.0, 160.0], 0.1)] {
            s.validate().unwrap();
            assert_eq!(serde_json::from_str::<Schedule>(&serde_json::to_string(&s).unwrap()).unwrap(), s);
        }
        let unknown = |json| serde_json::from_str::<Schedule>(json).unwrap_err().to_string();
        let error = unknown(r#"{"name":"cosine","warmup_steps":10}"#);
        assert!(error.contains("unknown field `warmup_steps`, expected `warmup_epochs` or"), "{error}");
        let error = unknown(r#"{"name":"step","gamma":1,"milestones_epochs":[],"x":0}"#);
        assert!(error.contains("unknown field `x`, expected one of `warmup_epochs`"), "{error}");
        assert!(unknown(r#"{"name":"cosin"}"#).contains("unknown variant `cosin`"));
    }

    #[test]
    fn a_wrong_value_is_refused_by_name() {
        let cosine = |warmup_epochs, final_factor| Schedule::Cosine(Cosine { warmup_epochs, final_factor });
        for (schedule, field) in [
            (cosine(-1.0, 0.0), "warmup_epochs"),
            (cosine(f64::NAN, 0.0), "warmup_epochs"),
            (cosine(0.0, 1.1), "final_factor"),
            (Schedule::step(vec![2.0, 1.0], 0.1), "milestones_epochs"),
            (Schedule::step(vec![1.0, 1.0], 0.1), "milestones_epochs"),
            (Schedule::step(vec![-1.0], 0.1), "milestones_epochs"),
            (Schedule::step(vec![1.0], 0.0), "gamma"),
            (Schedule::step(vec![1.0], f64::NAN), "gamma"),
        ] {
            let error = schedule.validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("schedule.{field} must be ")), "{error}");
        }
    }
}
