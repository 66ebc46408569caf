//! What is done with one sample.

use super::Prepare;
use super::queue::{Queue, Run};
use crate::rng::SampleKey;
use crate::{Error, Source};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the workers share and do not change.
pub(super) struct Job<E> {
    pub(super) data: Arc<dyn Source>,
    pub(super) prepare: Prepare<E>,
    pub(super) seed: u64,
    pub(super) strict: bool,
}

/// What became of one sample.
pub(super) enum Outcome<E> {
    Example(E),
    /// Not readable, and why.
    Skipped(String),
    /// The run ends here.
    Fatal(Error),
}

impl<E> Job<E> {
    /// A worker's life.
    pub(super) fn work(&self, queue: &Queue<E>) {
        while let Some(run) = queue.take() {
            self.process(run, queue);
        }
    }

    pub(super) fn process(&self, run: Run, queue: &Queue<E>) {
        let (mut decode, mut prepare) = (Duration::ZERO, Duration::ZERO);
        let mut outcomes = Vec::with_capacity(run.indices.len());
        for &index in &run.indices {
            if queue.is_stopping() {
                return;
            }
            let key = SampleKey { seed: self.seed, epoch: run.epoch, index };
            let one = || self.one(&key, &mut decode, &mut prepare);
            let outcome = catch_unwind(AssertUnwindSafe(one)).unwrap_or_else(|panic| {
                Outcome::Fatal(Error::Panicked { id: self.id(index), message: message(panic.as_ref()) })
            });
            outcomes.push(outcome);
        }
        queue.put(&run, outcomes, decode, prepare);
    }

    fn one(&self, key: &SampleKey, decode: &mut Duration, prepare: &mut Duration) -> Outcome<E> {
        let start = Instant::now();
        let image = self.data.image(key.index);
        let read = Instant::now();
        *decode += read - start;
        let image = match image {
            Ok(image) => image,
            Err(error) if self.strict => return Outcome::Fatal(error),
            Err(Error::Decode { source, .. }) => return Outcome::Skipped(source.to_string()),
            Err(error) => return Outcome::Skipped(error.to_string()),
        };
        let example = (self.prepare)(&image, key);
        *prepare += read.elapsed();
        match example {
            Ok(example) => Outcome::Example(example),
            Err(source) => Outcome::Fatal(Error::Prepare { id: self.id(key.index), source }),
        }
    }

    fn id(&self, index: usize) -> String {
        self.data.sample(index).id.clone()
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
