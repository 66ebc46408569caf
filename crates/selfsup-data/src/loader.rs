//! Batches of prepared examples, made by worker threads, delivered in order.
//!
//! Workers take small runs of samples, so that one batch is made by all of them together and no more than
//! `prefetch_batches` are ever held. What an example is depends on (seed, epoch, sample) alone and batches
//! are delivered in the order of their numbers, so that a consumer sees the same bits whatever the number of
//! workers.
//!
//! ```text
//! order of the epoch ─▶ runs of samples ─▶ workers: image → prepare ─▶ batches in their places ─▶ next()
//! ```

mod queue;
mod stats;
mod work;

pub use stats::LoaderStats;

use crate::rng::SampleKey;
use crate::{Error, Result, Source};
use image::RgbImage;
use queue::Queue;
use stats::Clock;
use std::sync::Arc;
use std::thread::JoinHandle;
use work::{Job, Outcome};

/// The settings of a loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderConfig {
    /// How many samples a batch has.
    pub batch_size: usize,
    /// How many threads prepare examples; 0 prepares them in the calling thread.
    pub workers: usize,
    /// How many batches may wait beyond the one that is wanted next.
    pub prefetch_batches: usize,
    /// What every draw and every shuffle derives from.
    pub seed: u64,
    /// Make an image that cannot be read an error, not a skipped sample.
    pub strict: bool,
}

/// Two batches ahead, as PyTorch's loader has it by default for each worker.
impl Default for LoaderConfig {
    fn default() -> Self {
        Self { batch_size: 64, workers: 0, prefetch_batches: 2, seed: 0, strict: false }
    }
}

/// In which order, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Endless; each epoch in an order of its own ([`crate::shuffled`]), whole batches only: what is left at
    /// the end of an epoch is left out of it.
    Shuffled {
        /// The epoch to begin with.
        first_epoch: u64,
        /// The batch of that epoch to begin with. One beyond its last belongs to a later epoch.
        first_batch: u64,
    },
    /// Once, in the source's order; the last batch may be short.
    Sequential,
}

/// The function that makes an example of an image.
pub type Prepare<E> = Arc<
    dyn Fn(&RgbImage, &SampleKey) -> std::result::Result<E, Box<dyn std::error::Error + Send + Sync>>
        + Send
        + Sync,
>;

/// What one step gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<E> {
    /// The epoch that it belongs to.
    pub epoch: u64,
    /// The samples that are in `examples`, in the same order.
    pub indices: Vec<usize>,
    /// What was made of them.
    pub examples: Vec<E>,
    /// The samples that should have been there but could not be read.
    pub skipped: Vec<Skipped>,
}

/// A sample that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// Its place in the source.
    pub index: usize,
    /// Its id.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// An iterator over batches. After an error it ends; when it is dropped, its threads have ended.
///
/// ```
/// use selfsup_data::{BatchLoader, LoaderConfig, OpenOptions, Order, open};
/// use std::sync::Arc;
///
/// # fn main() -> selfsup_data::Result<()> {
/// let data = Arc::new(open("fashion-mnist#train", &OpenOptions::default())?);
/// let config = LoaderConfig { batch_size: 100, workers: 2, ..LoaderConfig::default() };
/// let order = Order::Shuffled { first_epoch: 0, first_batch: 0 };
/// let loader = BatchLoader::new(data, config, order, Arc::new(|image, _key| Ok(image.get_pixel(14, 14).0)));
/// for batch in loader.take(3) {
///     assert_eq!(batch?.examples.len(), 100);
/// }
/// # Ok(())
/// # }
/// ```
pub struct BatchLoader<E> {
    job: Arc<Job<E>>,
    queue: Arc<Queue<E>>,
    threads: Vec<JoinHandle<()>>,
    /// An error that was known before the first batch.
    early: Option<Error>,
    done: bool,
    clock: Clock,
    /// Since the beginning of the current epoch, or of the loader.
    epoch: u64,
    epoch_examples: u64,
    epoch_skipped: u64,
    first_skipped: Option<Skipped>,
}

impl<E: Send + 'static> BatchLoader<E> {
    /// Starts the workers. A setting that does not fit is the first item's error.
    pub fn new(data: Arc<dyn Source>, config: LoaderConfig, order: Order, prepare: Prepare<E>) -> Self {
        let samples = data.len();
        let size = config.batch_size;
        let fits = match order {
            Order::Shuffled { .. } => (1..=samples).contains(&size),
            Order::Sequential => size > 0,
        };
        let mut early = (!fits).then_some(Error::BatchSize { batch_size: size, samples });
        let queue = Arc::new(Queue::new(&config, order, samples));
        let job = Arc::new(Job { data, prepare, seed: config.seed, strict: config.strict });
        let mut threads = Vec::new();
        let workers = if early.is_none() { config.workers } else { 0 };
        for i in 0..workers {
            let (job, queue) = (job.clone(), queue.clone());
            let thread = std::thread::Builder::new().name(format!("loader-{i}"));
            match thread.spawn(move || job.work(&queue)) {
                Ok(handle) => threads.push(handle),
                Err(error) => {
                    early = Some(Error::Spawn(error));
                    break;
                }
            }
        }
        Self {
            job,
            queue,
            threads,
            early,
            done: false,
            clock: Clock::default(),
            epoch: 0,
            epoch_examples: 0,
            epoch_skipped: 0,
            first_skipped: None,
        }
    }

    /// How many batches an epoch has.
    pub fn batches_per_epoch(&self) -> u64 {
        self.queue.batches_per_epoch()
    }

    /// What was done so far, and how long it took.
    pub fn stats(&self) -> LoaderStats {
        let (decode, prepare) = self.queue.seconds();
        self.clock.stats(decode, prepare)
    }

    fn next_batch(&mut self) -> Result<Option<Batch<E>>> {
        if let Some(error) = self.early.take() {
            return Err(error);
        }
        if self.threads.is_empty() {
            while !self.queue.is_front_ready()
                && let Some(run) = self.queue.try_take()
            {
                self.job.process(run, &self.queue);
            }
        }
        let Some(finished) = self.queue.wait_for_front() else { return Ok(None) };
        let mut batch =
            Batch { epoch: finished.epoch, indices: Vec::new(), examples: Vec::new(), skipped: Vec::new() };
        // In the samples' order, so that of several errors the same one is reported with any number of
        // workers.
        for (index, outcome) in finished.indices.into_iter().zip(finished.outcomes) {
            match outcome {
                Outcome::Example(example) => {
                    batch.indices.push(index);
                    batch.examples.push(example);
                }
                Outcome::Skipped(reason) => {
                    batch.skipped.push(Skipped { index, id: self.job.data.sample(index).id.clone(), reason });
                }
                Outcome::Fatal(error) => return Err(error),
            }
        }
        self.watch_epoch(&batch, finished.is_last)?;
        Ok(Some(batch))
    }

    /// An endless loader of images that are all unreadable must not turn for ever.
    fn watch_epoch(&mut self, batch: &Batch<E>, is_last: bool) -> Result<()> {
        if batch.epoch != self.epoch {
            self.epoch = batch.epoch;
            (self.epoch_examples, self.epoch_skipped, self.first_skipped) = (0, 0, None);
        }
        self.epoch_examples += batch.examples.len() as u64;
        self.epoch_skipped += batch.skipped.len() as u64;
        if self.first_skipped.is_none() {
            self.first_skipped = batch.skipped.first().cloned();
        }
        match &self.first_skipped {
            Some(first) if is_last && self.epoch_examples == 0 => Err(Error::NothingReadable {
                epoch: self.epoch,
                samples: self.epoch_skipped,
                id: first.id.clone(),
                reason: first.reason.clone(),
            }),
            _ => Ok(()),
        }
    }

    fn stop(&mut self) {
        self.done = true;
        self.queue.stop();
        for thread in self.threads.drain(..) {
            // A worker catches what its samples throw; a panic beyond that has nothing to add here.
            let _ = thread.join();
        }
    }
}

impl<E: Send + 'static> Iterator for BatchLoader<E> {
    type Item = Result<Batch<E>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let entered = self.clock.enter();
        let item = self.next_batch().transpose();
        match &item {
            Some(Ok(batch)) => self.clock.leave(entered, batch.examples.len(), batch.skipped.len()),
            _ => self.stop(),
        }
        item
    }
}

impl<E> Drop for BatchLoader<E> {
    fn drop(&mut self) {
        self.queue.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
