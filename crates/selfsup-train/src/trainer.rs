//! The one training loop. A method gives it examples and losses; nothing here knows which method it is.

use crate::checkpoint::{self, Images, Position};
use crate::method::{Example, Method, Prepare, Progress, collate};
use crate::metrics::{MetricsWriter, Record, now};
use crate::run_folder::RunFolder;
use crate::run_lock::RunLock;
use crate::{Error, PretrainConfig, Result, device};
use candle_core::DType;
use image::RgbImage;
use selfsup_data::{BatchLoader, Dataset, LoaderConfig, Order, SampleKey, Source};
use selfsup_models::Encoder;
use selfsup_optim::{Optimizer, Param, ParamGroup, check_gradients, clip_grad_norm};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Batches that the workers may be ahead of the loop.
const PREFETCH_BATCHES: usize = 4;

/// What the loop tells whoever watches.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A step is done.
    Step {
        /// Steps done.
        step: u64,
        /// Steps in all.
        total: u64,
        /// The step's loss.
        loss: f64,
    },
    /// A step was logged.
    Logged(Record),
    /// An image could not be decoded and was left out; told once a sample.
    Skipped {
        /// The sample's id.
        id: String,
        /// Why.
        why: String,
    },
    /// A checkpoint was written.
    Saved(PathBuf),
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// It was asked to stop; the checkpoint holds the given number of steps.
    Interrupted {
        /// Steps done.
        step: u64,
    },
}

/// A run: data, method, optimiser and folder.
pub struct Trainer {
    config: PretrainConfig,
    folder: RunFolder,
    data: Arc<Dataset>,
    images: Images,
    method: Box<dyn Method>,
    optimizer: Box<dyn Optimizer>,
    params: Vec<Param>,
    step: u64,
    _lock: RunLock,
}

impl Trainer {
    /// A new run in a folder that holds none. Everything is checked before the folder is touched.
    pub fn create(config: PretrainConfig, data: Arc<Dataset>, path: &Path) -> Result<Self> {
        let (method, optimizer, params) = begin(&config, &data, path)?;
        let (folder, lock) = RunFolder::create(path, &config)?;
        let images = Images::of(&data);
        Ok(Self { config, folder, data, images, method, optimizer, params, step: 0, _lock: lock })
    }

    /// Checks what [`Trainer::create`] checks, and writes nothing.
    pub fn check(config: &PretrainConfig, data: &Dataset, path: &Path) -> Result<()> {
        begin(config, data, path).map(|_| ())
    }

    /// Goes on with the run of a folder from its checkpoint. `config` may differ from the run's own where
    /// [`PretrainConfig::check_resumable_from`] lets it.
    pub fn resume(config: PretrainConfig, data: Arc<Dataset>, path: &Path) -> Result<Self> {
        let (folder, old) = RunFolder::open(path)?;
        config.check_resumable_from(&old)?;
        let lock = RunLock::take(path)?;
        let images = Images::of(&data);
        let ((method, optimizer, params), step) = take_up(&config, &images, &folder)?;
        folder.write_config(&config)?;
        Ok(Self { config, folder, data, images, method, optimizer, params, step, _lock: lock })
    }

    /// Checks what [`Trainer::resume`] checks, but whether another process trains the run, and writes nothing.
    pub fn check_resume(config: &PretrainConfig, data: &Dataset, path: &Path) -> Result<()> {
        let (folder, old) = RunFolder::open(path)?;
        config.check_resumable_from(&old)?;
        take_up(config, &Images::of(data), &folder).map(|_| ())
    }

    /// Steps in an epoch: whole batches only.
    pub fn steps_per_epoch(&self) -> u64 {
        steps_per_epoch(&self.config, self.data.len())
    }

    /// Steps in all.
    pub fn total_steps(&self) -> u64 {
        total_steps(&self.config, self.data.len())
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The resolved configuration.
    pub fn config(&self) -> &PretrainConfig {
        &self.config
    }

    /// The run's files.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// The encoder as it stands.
    pub fn encoder(&self) -> &Encoder {
        self.method.encoder()
    }

    /// Trains to the end, or until `stop` becomes true: then the step in hand is finished and a checkpoint
    /// written. `observe` is told of each [`Event`].
    pub fn run(&mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Event)) -> Result<Outcome> {
        let total = self.total_steps();
        let mut metrics = MetricsWriter::open(self.folder.path(), self.step)?;
        let mut loader = self.loader()?;
        let first = self.step + 1;
        let mut named = std::collections::HashSet::new();
        let mut since = (Instant::now(), 0);
        while self.step < total {
            let batch = loader.next().expect("the sampler never ends")?;
            for skipped in &batch.skipped {
                if named.insert(skipped.id.clone()) {
                    observe(Event::Skipped { id: skipped.id.clone(), why: skipped.reason.clone() });
                }
            }
            let step = self.step + 1;
            let left = batch.examples.len();
            if left < 2 {
                return Err(Error::EmptyBatch { step, left, wanted: self.config.batch_size });
            }
            let lr = self.config.optimizer.lr()
                * self.config.schedule.factor(self.step, total, self.steps_per_epoch());
            let log = step.is_multiple_of(self.config.log_every_steps) || step == 1 || step == total;
            let examples = collate(&batch.examples, self.method.encoder().device())?;
            let at = Progress { step: self.step, total, lr };
            let out = self.method.step(&examples, at)?;
            let loss = f64::from(out.loss.to_dtype(DType::F32)?.to_scalar::<f32>()?);
            if !loss.is_finite() {
                let ids = batch.indices.iter().map(|&i| self.data.sample(i).id.clone()).collect();
                return Err(Error::NonFiniteLoss { step, loss, ids });
            }
            let mut grads = out.loss.backward()?;
            if step == first {
                check_gradients(&grads, &self.params)?;
            }
            // Before anything moves, as a queue does.
            let own = if log { (out.metrics)()? } else { Vec::new() };
            let mut more: BTreeMap<String, f64> =
                own.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            if self.config.clip_grad_norm > 0.0 {
                more.insert(
                    "grad_norm".into(),
                    clip_grad_norm(&mut grads, &self.params, self.config.clip_grad_norm)?,
                );
            }
            self.optimizer.step(&grads, lr)?;
            self.method.after_update(at)?;
            self.step = step;
            since.1 += left;
            observe(Event::Step { step, total, loss });
            if log {
                more.insert("embedding_std".into(), selfsup_objectives::embedding_std(&out.embeddings)?);
                more.insert("effective_rank".into(), selfsup_objectives::effective_rank(&out.embeddings)?);
                more.insert("loader_wait".into(), loader.stats().wait_fraction());
                let epoch = step as f64 / self.steps_per_epoch() as f64;
                let samples_per_s = since.1 as f64 / since.0.elapsed().as_secs_f64();
                since = (Instant::now(), 0);
                let record = Record { step, epoch, loss, lr, samples_per_s, wall_time: now(), more };
                metrics.write(&record)?;
                observe(Event::Logged(record));
            }
            let stopped = stop.load(Ordering::Relaxed);
            if stopped || step == total || step.is_multiple_of(self.config.checkpoint_every_steps) {
                self.save(observe)?;
            }
            if self.config.keep_every_steps > 0 && step.is_multiple_of(self.config.keep_every_steps) {
                self.keep(observe)?;
            }
            if stopped && step < total {
                return Ok(Outcome::Interrupted { step });
            }
        }
        self.save_encoder()?;
        Ok(Outcome::Finished)
    }

    fn loader(&self) -> Result<BatchLoader<Example>> {
        let c = &self.config;
        let per_epoch = self.steps_per_epoch();
        let order =
            Order::Shuffled { first_epoch: self.step / per_epoch, first_batch: self.step % per_epoch };
        let config = LoaderConfig {
            batch_size: c.batch_size,
            workers: c.workers,
            prefetch_batches: PREFETCH_BATCHES,
            seed: c.seed,
            strict: c.strict,
        };
        let method: Arc<dyn Prepare> = self.method.prepare();
        let prepare =
            move |image: &RgbImage, key: &SampleKey| Ok(method.prepare(image, &|view| key.rng(view))?);
        Ok(BatchLoader::new(self.data.clone(), config, order, Arc::new(prepare)))
    }

    fn write_checkpoint(&self, path: &Path) -> Result<()> {
        let at = Position { step: self.step, images: &self.images };
        checkpoint::save(path, at, &self.config, self.method.as_ref(), self.optimizer.as_ref())
    }

    /// Writes the last checkpoint and the encoder beside it.
    fn save(&self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let path = self.folder.checkpoint();
        self.write_checkpoint(&path)?;
        self.save_encoder()?;
        observe(Event::Saved(path));
        Ok(())
    }

    fn keep(&self, observe: &mut dyn FnMut(Event)) -> Result<()> {
        let path = self.folder.kept_checkpoint(self.step);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|source| Error::Io { path: folder.to_owned(), source })?;
        }
        self.write_checkpoint(&path)?;
        observe(Event::Saved(path));
        Ok(())
    }

    fn save_encoder(&self) -> Result<()> {
        let metadata = BTreeMap::from([
            ("method".to_owned(), self.config.method.name().to_owned()),
            ("steps".to_owned(), self.step.to_string()),
            ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("config_sha256".to_owned(), self.config.sha256()),
        ]);
        Ok(self.method.encoder().save(&self.folder.encoder(), &metadata)?)
    }
}

fn steps_per_epoch(config: &PretrainConfig, samples: usize) -> u64 {
    (samples / config.batch_size) as u64
}

fn total_steps(config: &PretrainConfig, samples: usize) -> u64 {
    config.steps.unwrap_or(config.epochs * steps_per_epoch(config, samples))
}

/// What a new run begins with. Writes nothing.
fn begin(config: &PretrainConfig, data: &Dataset, path: &Path) -> Result<Built> {
    RunFolder::check_free(path)?;
    let (mut method, optimizer, params) = build(config, data.len())?;
    check_sizes(config, data)?;
    method.measure(data)?;
    Ok((method, optimizer, params))
}

/// What a run goes on with, and the steps that it has made. Writes nothing.
fn take_up(config: &PretrainConfig, images: &Images, folder: &RunFolder) -> Result<(Built, u64)> {
    let (mut method, mut optimizer, params) = build(config, images.count())?;
    let step = checkpoint::load(&folder.checkpoint(), images, config, method.as_mut(), optimizer.as_mut())?;
    let total = total_steps(config, images.count());
    if total < step {
        let folder = folder.path().display();
        return Err(Error::Config(format!(
            "the run in {folder} has made {step} steps; of {total} in all, as the settings have it now, none is left"
        )));
    }
    Ok(((method, optimizer, params), step))
}

type Built = (Box<dyn Method>, Box<dyn Optimizer>, Vec<Param>);

/// Model, method and optimiser of a configuration, on its device. Reads and writes no file.
fn build(config: &PretrainConfig, samples: usize) -> Result<Built> {
    config.validate()?;
    config.check_batch(samples)?;
    let device = device(&config.device)?;
    let method = config.method.build(config.encoder(&device)?, config.seed)?;
    let params: Vec<Param> =
        method.tensors().trainable().map(|t| Param { name: t.name.clone(), var: t.var.clone() }).collect();
    let groups: Vec<ParamGroup> = config.optimizer.groups(params.clone());
    let optimizer = config.optimizer.build(groups)?;
    Ok((method, optimizer, params))
}

/// Looks at some images from all over the data: if most are smaller than the views, training would see little
/// but enlarged pixels, and that is rarely meant.
fn check_sizes(config: &PretrainConfig, data: &Dataset) -> Result<()> {
    const LOOKED_AT: usize = 16;
    let count = LOOKED_AT.min(data.len());
    let images = (0..count).filter_map(|i| data.image(i * data.len() / count).ok());
    let mut sides: Vec<u32> = images.map(|image| image.width().min(image.height())).collect();
    sides.sort_unstable();
    let Some(&median) = sides.get(sides.len() / 2) else {
        return Err(Error::Config(format!(
            "of {count} images looked at in `{}` none could be decoded",
            config.data
        )));
    };
    if config.allow_small_images || median as usize >= config.image_size {
        return Ok(());
    }
    Err(Error::Config(format!(
        "most images of `{}` are smaller than the views: their shorter side is {median} pixels (median), image_size \
         is {}; choose a smaller image_size (--image-size), or enlarge them with --set allow_small_images=true",
        config.data, config.image_size
    )))
}
