//! Fine-tuning: all weights are trained on the labels, the encoder's from where pretraining has left them.
//!
//! As SimCLR's semi-supervised protocol has it (Chen et al. 2020, B.5): crops and flips alone as augmentation, SGD with Nesterov
//! momentum, no warm-up, nothing frozen. A linear head on the features begins at 0. Backbone and head have learning rates of their own, both
//! going to 0 by half a cosine. The test part is only measured with, at the end, by its central views.
//!
//! Letters: n samples, d features, c classes.

use crate::error::setting;
use crate::extract::{decodable, filter};
use crate::features::share_correct;
use crate::protocol::{Kind, ProbeConfig, ProbeResult, check, mean_and_std};
use crate::{Error, ExtractConfig, Frozen, Result, extract, few_labels};
use candle_core::{D, DType, Tensor, Var};
use selfsup_augment::{HorizontalFlip, Pipeline, RandomResizedCrop, Transform};
use selfsup_data::{BatchLoader, Dataset, LoaderConfig, Order, SampleKey, Source};
use selfsup_kernels::{Activation, linear, log_softmax};
use selfsup_models::{Encoder, Mode};
use selfsup_optim::{OptimizerConfig, Param, ParamGroup, Schedule, SgdConfig, check_gradients};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Settings of fine-tuning.
#[derive(Debug, Clone, PartialEq)]
pub struct FinetuneConfig {
    /// Passes over the labelled images.
    pub epochs: usize,
    /// Steps, at least: few labels are seen more often.
    pub min_steps: usize,
    /// Images a step; of fewer labels, all.
    pub batch_size: usize,
    /// Peak learning rate of the encoder.
    pub backbone_lr: f64,
    /// Peak learning rate of the head.
    pub head_lr: f64,
    /// Momentum (Nesterov's) of both.
    pub momentum: f64,
    /// Decay of matrices and convolutions.
    pub weight_decay: f64,
    /// The least share of an image's area that a crop shows.
    pub min_crop: f64,
    /// Threads that decode and augment. The result does not depend on it.
    pub workers: usize,
    /// Make an image that cannot be decoded an error, not a sample that is left out.
    pub strict: bool,
}

impl Default for FinetuneConfig {
    /// 30 epochs (SimCLR's number for 10 % of the labels) and at least 300 steps of 64 images.
    fn default() -> Self {
        Self {
            epochs: 30,
            min_steps: 300,
            batch_size: 64,
            backbone_lr: 0.02,
            head_lr: 0.1,
            momentum: 0.9,
            weight_decay: 1e-4,
            min_crop: 0.5,
            workers: 2,
            strict: false,
        }
    }
}

impl FinetuneConfig {
    /// Numbers of things must be at least 1 (the batch 2), learning rates positive, the rest in its range.
    pub fn validate(&self) -> Result<()> {
        for (name, least, got) in [
            ("finetune epochs", 1, self.epochs),
            ("finetune min_steps", 1, self.min_steps),
            ("finetune batch_size", 2, self.batch_size),
        ] {
            if got < least {
                return Err(setting(name, if least == 1 { "at least 1" } else { "at least 2" }, got));
            }
        }
        for (name, got) in [("finetune backbone_lr", self.backbone_lr), ("finetune head_lr", self.head_lr)] {
            if !(got > 0.0 && got.is_finite()) {
                return Err(setting(name, "positive and finite", got));
            }
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return Err(setting("finetune momentum", "in [0, 1)", self.momentum));
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return Err(setting("finetune weight_decay", "finite and 0 or more", self.weight_decay));
        }
        if !(self.min_crop > 0.0 && self.min_crop <= 1.0) {
            return Err(setting("finetune min_crop", "in (0, 1]", self.min_crop));
        }
        Ok(())
    }

    /// Steps on n labelled images.
    pub fn steps(&self, n: usize) -> usize {
        (self.epochs * n.div_ceil(self.batch_size)).max(self.min_steps)
    }
}

/// How far fine-tuning is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Images or steps done, of all parts and fits.
    pub done: usize,
    /// Of all of them.
    pub total: usize,
}

/// What fine-tuning does, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Looks which images can be decoded.
    Decode,
    /// Trains, in steps.
    Train,
}

/// What fine-tuning came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The rows.
    pub results: Vec<ProbeResult>,
    /// Ids of the labelled images of both parts that could not be decoded, and why.
    pub skipped: Vec<(String, String)>,
}

/// Fine-tunes copies of the encoder: a row for each of `config`'s numbers of labels, a value for each of its seeds.
///
/// Samples without a label are left out, and those that cannot be decoded, before few labels are drawn: the draws are those of the probes of
/// features. `config.kinds` is not looked at. The encoder itself is not changed.
///
/// # Errors
/// Those of [`protocol::run`](crate::protocol::run); of the settings; a gradient that is missing or not finite at the first step;
/// [`Error::Data`] for an image that cannot be decoded where `strict` is set.
pub fn run(
    encoder: &Encoder,
    train: &Dataset,
    test: &Dataset,
    config: &ProbeConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<Outcome> {
    config.finetune.validate()?;
    let classes = train.classes();
    check(train, test, classes, config)?;
    let (train, test) = (labelled(train), labelled(test));
    let (first, total) = (train.len(), train.len() + test.len());
    let mut whole = |part: &Dataset, before: usize| {
        let mut looked = |done| progress(Progress { stage: Stage::Decode, done: before + done, total });
        decodable(part, config.finetune.workers, config.finetune.strict, &mut looked)
    };
    let ((train, mut skipped), (test, more)) = (whole(&train, 0)?, whole(&test, first)?);
    skipped.extend(more);
    check(&train, &test, classes, config)?;
    let labels: Vec<u32> = (0..train.len()).filter_map(|i| train.sample(i).label).collect();
    let sizes =
        config.labels_per_class.iter().map(|per_class| per_class.map_or(train.len(), |k| k * classes.len()));
    let steps: usize = sizes.map(|n| config.finetune.steps(n)).sum();
    let (mut done, total) = (0, steps * config.seeds.len());

    let mut results = Vec::new();
    for &labels_per_class in &config.labels_per_class {
        let (mut values, mut fitted_on) = (Vec::new(), train.len());
        for &seed in &config.seeds {
            let part = match labels_per_class {
                None => train.clone(),
                Some(k) => train.subset(&few_labels::draw(&labels, classes, k, seed)?),
            };
            fitted_on = part.len();
            let mut step = || {
                done += 1;
                progress(Progress { stage: Stage::Train, done, total });
            };
            let tuned = fit(encoder, &part, classes.len(), &config.finetune, seed, &mut step)?;
            values.push(tuned.accuracy(&test, config.finetune.workers)?);
        }
        let (mean, std) = mean_and_std(&values);
        results.push(ProbeResult {
            kind: Kind::Finetune,
            layer: None,
            labels_per_class,
            train: fitted_on,
            test: test.len(),
            metric: "top1",
            values,
            mean,
            std,
        });
    }
    Ok(Outcome { results, skipped })
}

/// The samples that have a label.
pub fn labelled(data: &Dataset) -> Dataset {
    data.subset(&(0..data.len()).filter(|&i| data.sample(i).label.is_some()).collect::<Vec<_>>())
}

/// A fine-tuned encoder with its head.
#[derive(Debug, Clone)]
pub struct Finetuned {
    /// The encoder, whose weights are its own.
    pub encoder: Encoder,
    /// The head's weight `[c, d]`.
    pub weight: Var,
    /// The head's bias `[c]`.
    pub bias: Var,
}

/// Trains a copy of the encoder and a head for `classes` classes on all of `data`, whose samples have labels. `stepped` is called
/// after each step; `seed` decides order and augmentation.
///
/// # Errors
/// Those of the settings; fewer than two images, or of those that can be decoded; a gradient that is missing or not finite at the first
/// step; [`Error::Data`] for an image that cannot be decoded where `strict` is set.
pub fn fit(
    encoder: &Encoder,
    data: &Dataset,
    classes: usize,
    config: &FinetuneConfig,
    seed: u64,
    stepped: &mut dyn FnMut(),
) -> Result<Finetuned> {
    config.validate()?;
    if data.len() < 2 {
        return Err(setting("the number of labelled images", "at least 2", data.len()));
    }
    let encoder = encoder.copy()?;
    let (device, side) = (encoder.device().clone(), encoder.preprocessing().image_size);
    let weight = Var::zeros((classes, encoder.feature_dim()), DType::F32, &device)?;
    let bias = Var::zeros(classes, DType::F32, &device)?;
    let params: Vec<Param> =
        encoder.params().trainable().map(|t| Param { name: t.name.clone(), var: t.var.clone() }).collect();
    let head = [("head.weight", &weight), ("head.bias", &bias)];
    let head: Vec<Param> =
        head.iter().map(|(name, var)| Param { name: (*name).into(), var: (*var).clone() }).collect();
    let all: Vec<Param> = params.iter().chain(&head).cloned().collect();
    let mut groups = ParamGroup::by_rank(params, config.weight_decay);
    groups.iter_mut().for_each(|group| group.lr_scale = config.backbone_lr / config.head_lr);
    groups.extend(ParamGroup::by_rank(head, config.weight_decay));
    let sgd = SgdConfig {
        momentum: config.momentum,
        nesterov: config.momentum > 0.0,
        weight_decay: config.weight_decay,
        ..SgdConfig::new(config.head_lr)
    };
    let mut optimizer = OptimizerConfig::Sgd(sgd).build(groups)?;

    let interpolation = filter(encoder.preprocessing().interpolation);
    let crop =
        RandomResizedCrop { interpolation, ..RandomResizedCrop::new(side as u32, [config.min_crop, 1.0]) };
    let views = Pipeline(vec![
        Transform::RandomResizedCrop(crop),
        Transform::HorizontalFlip(HorizontalFlip { p: 0.5 }),
    ]);
    views.validate()?;
    let view =
        move |image: &image::RgbImage, key: &SampleKey| Ok(views.apply(image, &mut key.rng(0))?.into_raw());
    let batch_size = config.batch_size.min(data.len());
    let loader = LoaderConfig {
        batch_size,
        workers: config.workers,
        strict: config.strict,
        seed,
        ..LoaderConfig::default()
    };
    let order = Order::Shuffled { first_epoch: 0, first_batch: 0 };
    let batches = BatchLoader::new(Arc::new(data.clone()), loader, order, Arc::new(view));
    let (steps, schedule) = (config.steps(data.len()), Schedule::cosine(0.0));
    let mut checked = false;
    for (step, batch) in batches.take(steps).enumerate() {
        let batch = batch?;
        let n = batch.indices.len();
        if n < 2 {
            continue; // the others could not be decoded
        }
        let images = Tensor::from_vec(batch.examples.concat(), (n, side, side, 3), &device)?;
        let labels: Vec<u32> = batch.indices.iter().filter_map(|&i| data.sample(i).label).collect();
        let labels = Tensor::from_vec(labels, (n, 1), &device)?;
        let features = encoder.forward(&images, Mode::Train)?;
        let logits = linear(&features, &weight, Some(&bias), Activation::None)?;
        let loss = log_softmax(&logits)?.gather(&labels, 1)?.mean_all()?.neg()?;
        let grads = loss.backward()?;
        if !checked {
            check_gradients(&grads, &all)?;
            checked = true;
        }
        optimizer.step(&grads, config.head_lr * schedule.factor(step as u64, steps as u64, 1))?;
        stepped();
    }
    if !checked {
        return Err(setting("the number of labelled images that can be decoded", "at least 2", "fewer"));
    }
    Ok(Finetuned { encoder, weight, bias })
}

impl Finetuned {
    /// Writes the encoder as [`Encoder::save`] does, with the head as `fc.weight` and `fc.bias`, torchvision's names of a classifier, which
    /// [`selfsup_models::Loaded::head`] is read from, and the classes' names as metadata: `classes`, a JSON list.
    ///
    /// # Errors
    /// Those of [`Encoder::save`].
    pub fn save(&self, path: &Path, classes: &[String]) -> Result<()> {
        let classes = serde_json::to_string(classes).expect("texts");
        let mut file = self.encoder.to_file(&BTreeMap::from([("classes".to_owned(), classes)]))?;
        for (name, var) in [("fc.weight", &self.weight), ("fc.bias", &self.bias)] {
            file.tensors.insert(name.to_owned(), var.as_detached_tensor());
        }
        Ok(selfsup_models::weights::write(path, &file)?)
    }

    /// The share of the labelled images whose class is predicted right (top-1), in 0…1.
    pub fn accuracy(&self, data: &Dataset, workers: usize) -> Result<f64> {
        let config = ExtractConfig { workers, ..ExtractConfig::default() };
        let frozen = Frozen::Encoder(self.encoder.clone());
        let features = extract(&frozen, Arc::new(data.clone()), &config, &mut |_| ())?;
        let n = features.labels.len();
        if n == 0 {
            return Err(Error::Empty { part: "test".into(), reason: "no image could be decoded".into() });
        }
        let x = Tensor::from_vec(features.values, (n, features.dim), self.encoder.device())?;
        let (weight, bias) = (self.weight.as_detached_tensor(), self.bias.as_detached_tensor());
        let predicted =
            linear(&x, &weight, Some(&bias), Activation::None)?.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let labels: Vec<u32> = features.labels.iter().flatten().copied().collect();
        Ok(share_correct(&predicted, &labels))
    }
}
