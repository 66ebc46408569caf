//! The batches under way, shared by the workers and the consumer.

use super::work::Outcome;
use super::{LoaderConfig, Order};
use crate::order::shuffled;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Runs of samples are at most this long: short enough that all workers end a batch together, long enough
/// that the lock does not matter.
const LONGEST_RUN: usize = 16;

/// Every worker should get so many runs of a batch.
const RUNS_PER_WORKER: usize = 4;

pub(super) struct Queue<E> {
    state: Mutex<State<E>>,
    /// There is room for another batch, or it is time to stop.
    room: Condvar,
    /// The front batch may be finished, or it is time to stop.
    finished: Condvar,
    stopping: AtomicBool,
    plan: Plan,
}

/// What does not change.
struct Plan {
    order: Order,
    samples: usize,
    batch_size: usize,
    seed: u64,
    run: usize,
    /// How many batches are open at most: the wanted one and those ahead of it.
    most_open: usize,
}

struct State<E> {
    /// Batches in order; the front is the one that is wanted next.
    open: VecDeque<Slot<E>>,
    /// The next batch to open: its epoch and its number in it.
    next: (u64, u64),
    /// The order of the epoch of `next`.
    shuffled: Option<(u64, Vec<usize>)>,
    decode: Duration,
    prepare: Duration,
    /// How many batches the consumer has taken: the front's serial number.
    delivered: u64,
}

struct Slot<E> {
    epoch: u64,
    is_last: bool,
    indices: Vec<usize>,
    outcomes: Vec<Option<Outcome<E>>>,
    taken: usize,
    filled: usize,
}

/// Samples for one worker.
pub(super) struct Run {
    pub(super) epoch: u64,
    pub(super) indices: Vec<usize>,
    /// The number of its batch, counted from the loader's first.
    serial: u64,
    start: usize,
}

/// A batch with every sample's outcome.
pub(super) struct Finished<E> {
    pub(super) epoch: u64,
    /// The last of its epoch.
    pub(super) is_last: bool,
    pub(super) indices: Vec<usize>,
    pub(super) outcomes: Vec<Outcome<E>>,
}

impl<E> Queue<E> {
    pub(super) fn new(config: &LoaderConfig, order: Order, samples: usize) -> Self {
        let batch_size = config.batch_size.max(1);
        let plan = Plan {
            order,
            samples,
            batch_size,
            seed: config.seed,
            run: (batch_size / (RUNS_PER_WORKER * config.workers.max(1))).clamp(1, LONGEST_RUN),
            most_open: if config.workers == 0 { 1 } else { config.prefetch_batches + 1 },
        };
        let next = match order {
            Order::Shuffled { first_epoch, first_batch } => {
                let each = plan.batches_per_epoch().max(1);
                (first_epoch.saturating_add(first_batch / each), first_batch % each)
            }
            Order::Sequential => (0, 0),
        };
        let state = State {
            open: VecDeque::new(),
            next,
            shuffled: None,
            decode: Duration::ZERO,
            prepare: Duration::ZERO,
            delivered: 0,
        };
        Self {
            state: Mutex::new(state),
            room: Condvar::new(),
            finished: Condvar::new(),
            stopping: AtomicBool::new(false),
            plan,
        }
    }

    pub(super) fn batches_per_epoch(&self) -> u64 {
        self.plan.batches_per_epoch()
    }

    /// The times spent on decoding and preparing.
    pub(super) fn seconds(&self) -> (Duration, Duration) {
        let state = self.lock();
        (state.decode, state.prepare)
    }

    /// Tells everyone to end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // With the lock, so that nobody is between the look at `stopping` and the wait.
        let _state = self.lock();
        self.room.notify_all();
        self.finished.notify_all();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Samples to work on; waits for room. Nothing when there will be none.
    pub(super) fn take(&self) -> Option<Run> {
        let mut state = self.lock();
        loop {
            if self.is_stopping() || self.plan.is_end(state.next) && state.all_taken() {
                return None;
            }
            if let Some(run) = state.take(&self.plan) {
                return Some(run);
            }
            state = self.room.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Samples to work on, if there is room.
    pub(super) fn try_take(&self) -> Option<Run> {
        self.lock().take(&self.plan)
    }

    /// Puts a run's outcomes in their places.
    pub(super) fn put(&self, run: &Run, outcomes: Vec<Outcome<E>>, decode: Duration, prepare: Duration) {
        let mut state = self.lock();
        state.decode += decode;
        state.prepare += prepare;
        let place = (run.serial - state.delivered) as usize;
        let slot = &mut state.open[place];
        slot.filled += outcomes.len();
        for (to, outcome) in slot.outcomes[run.start..].iter_mut().zip(outcomes) {
            *to = Some(outcome);
        }
        if place == 0 && slot.is_full() {
            self.finished.notify_all();
        }
    }

    pub(super) fn is_front_ready(&self) -> bool {
        self.lock().open.front().is_some_and(Slot::is_full)
    }

    /// The next batch in order, when every sample of it is done; nothing at the end.
    pub(super) fn wait_for_front(&self) -> Option<Finished<E>> {
        let mut state = self.lock();
        loop {
            if state.open.front().is_some_and(Slot::is_full) {
                let slot = state.open.pop_front()?;
                state.delivered += 1;
                self.room.notify_all();
                return Some(Finished {
                    epoch: slot.epoch,
                    is_last: slot.is_last,
                    indices: slot.indices,
                    outcomes: slot.outcomes.into_iter().flatten().collect(),
                });
            }
            if self.is_stopping() || self.plan.is_end(state.next) && state.open.is_empty() {
                return None;
            }
            state = self.finished.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Nothing that is done under the lock leaves the state half changed, so a poisoned lock is as good as
    /// another.
    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Plan {
    fn batches_per_epoch(&self) -> u64 {
        (match self.order {
            Order::Shuffled { .. } => self.samples / self.batch_size,
            Order::Sequential => self.samples.div_ceil(self.batch_size),
        }) as u64
    }

    /// Whether no batch comes at or after this one.
    fn is_end(&self, (epoch, batch): (u64, u64)) -> bool {
        self.order == Order::Sequential && (epoch > 0 || batch >= self.batches_per_epoch())
    }
}

impl<E> State<E> {
    fn all_taken(&self) -> bool {
        self.open.iter().all(|slot| slot.taken == slot.indices.len())
    }

    fn take(&mut self, plan: &Plan) -> Option<Run> {
        if self.all_taken() {
            if self.open.len() >= plan.most_open || plan.is_end(self.next) {
                return None;
            }
            self.open_next(plan);
        }
        let place = self.open.iter().position(|slot| slot.taken < slot.indices.len())?;
        let slot = &mut self.open[place];
        let start = slot.taken;
        slot.taken = (start + plan.run).min(slot.indices.len());
        Some(Run {
            epoch: slot.epoch,
            indices: slot.indices[start..slot.taken].to_vec(),
            serial: self.delivered + place as u64,
            start,
        })
    }

    fn open_next(&mut self, plan: &Plan) {
        let (epoch, batch) = self.next;
        let start = batch as usize * plan.batch_size;
        let end = (start + plan.batch_size).min(plan.samples);
        let indices: Vec<usize> = match plan.order {
            Order::Sequential => (start..end).collect(),
            Order::Shuffled { .. } => match &self.shuffled {
                Some((of, order)) if *of == epoch => order[start..end].to_vec(),
                _ => {
                    let order = shuffled(plan.seed, epoch, plan.samples);
                    let indices = order[start..end].to_vec();
                    self.shuffled = Some((epoch, order));
                    indices
                }
            },
        };
        let is_last = batch + 1 == plan.batches_per_epoch();
        self.next =
            if is_last && plan.order != Order::Sequential { (epoch + 1, 0) } else { (epoch, batch + 1) };
        let outcomes = indices.iter().map(|_| None).collect();
        self.open.push_back(Slot { epoch, is_last, indices, outcomes, taken: 0, filled: 0 });
    }
}

impl<E> Slot<E> {
    fn is_full(&self) -> bool {
        self.filled == self.indices.len()
    }
}
