//! How fast a loader is, and who waits for whom.

use std::time::{Duration, Instant};

/// What a loader has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct LoaderStats {
    /// Batches delivered.
    pub batches: u64,
    /// Examples in them.
    pub samples: u64,
    /// Samples that could not be read.
    pub skipped: u64,
    /// Seconds spent reading and decoding, summed over the workers.
    pub decode_seconds: f64,
    /// Seconds spent preparing, summed over the workers.
    pub prepare_seconds: f64,
    /// Seconds that the consumer waited in `next`.
    pub wait_seconds: f64,
    /// Seconds from the first call of `next` to the last delivery.
    pub elapsed_seconds: f64,
}

impl LoaderStats {
    /// The share of its time that the consumer waited for batches, 0…1: near 0 the loader keeps up, near 1 it
    /// is what limits the speed.
    pub fn wait_fraction(&self) -> f64 {
        if self.elapsed_seconds > 0.0 { (self.wait_seconds / self.elapsed_seconds).min(1.0) } else { 0.0 }
    }

    /// Examples delivered a second.
    pub fn samples_per_s(&self) -> f64 {
        if self.elapsed_seconds > 0.0 { self.samples as f64 / self.elapsed_seconds } else { 0.0 }
    }
}

/// Takes the times around `next`.
#[derive(Debug, Default)]
pub(super) struct Clock {
    first: Option<Instant>,
    last: Option<Instant>,
    waited: Duration,
    batches: u64,
    samples: u64,
    skipped: u64,
}

impl Clock {
    pub(super) fn enter(&mut self) -> Instant {
        let now = Instant::now();
        self.first.get_or_insert(now);
        now
    }

    pub(super) fn leave(&mut self, entered: Instant, samples: usize, skipped: usize) {
        let now = Instant::now();
        self.waited += now - entered;
        self.last = Some(now);
        self.batches += 1;
        self.samples += samples as u64;
        self.skipped += skipped as u64;
    }

    pub(super) fn stats(&self, decode: Duration, prepare: Duration) -> LoaderStats {
        let elapsed = self.first.zip(self.last).map_or(Duration::ZERO, |(first, last)| last - first);
        LoaderStats {
            batches: self.batches,
            samples: self.samples,
            skipped: self.skipped,
            decode_seconds: decode.as_secs_f64(),
            prepare_seconds: prepare.as_secs_f64(),
            wait_seconds: self.waited.as_secs_f64(),
            elapsed_seconds: elapsed.as_secs_f64(),
        }
    }
}
