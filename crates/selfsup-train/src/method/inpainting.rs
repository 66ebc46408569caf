//! Inpainting: an encoder sees an image with a hole, a decoder fills it.
//!
//! Pathak, Krähenbühl, Donahue, Darrell & Efros 2016, "Context Encoders: Feature Learning by Inpainting", arXiv:1604.07379, §3. The last map
//! goes through a fully connected layer channel by channel and a 1×1 convolution (§3.1), then through transposed convolutions. The loss is
//! λ_rec·L2 + λ_adv·adversarial (eq. 3); a discriminator with an optimiser of its own (Adam, a tenth of the rate, as in the authors' code)
//! learns to tell completed pictures from true ones.
//!
//! With a hole in the centre the decoder predicts that square alone, and a band along its border that the encoder sees too, whose errors
//! weigh ten times as much; with blocks or a region anywhere it predicts the whole image, whose errors count in the holes (eq. 1). The
//! discriminator judges all that is predicted, never a prediction pasted into the truth, whose seams it would know it by (§3.2).
//!
//! Letters: n images, S side of the image, s of the last map, c channels. Pictures have levels in −1…1.

mod holes;
mod networks;

pub use holes::Hole;

use super::classifier::encoder_tensors;
use super::{
    Batch, Method, MethodInfo, Metrics, Prepare, Progress, Settings, Sizes, StepOutput, validate_views,
};
use crate::{Error, Result};
use candle_core::{D, DType, Tensor};
use holes::WithHole;
use networks::{Completion, Discriminator};
use selfsup_augment::Pipeline;
use selfsup_models::params::{NamedTensor, Params};
use selfsup_models::{Encoder, Mode};
use selfsup_objectives::{binary_cross_entropy, psnr, weighted_l2};
use selfsup_optim::{AdamWConfig, Optimizer, OptimizerConfig, Param, check_gradients};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(super) const INFO: MethodInfo = MethodInfo {
    name: "inpainting",
    title: "Context Encoders: Feature Learning by Inpainting",
    paper: "Pathak, Krähenbühl, Donahue, Darrell, Efros, arXiv:1604.07379",
    year: 2016,
    idea: "fills a hole in an image from what is round it",
};

/// Inpainting's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InpaintingConfig {
    /// What is missing.
    pub hole: Hole,
    /// Pixels along a central hole's border that the encoder sees although they are predicted: 7 of 128 in the paper, 4 in the
    /// authors' code.
    pub overlap: u32,
    /// Weight of the errors there: 10 in the paper.
    pub overlap_weight: f64,
    /// λ_adv, of the adversarial loss, that of L2 being 1 − λ_adv: .001 in the paper. 0 leaves the discriminator out.
    pub adversarial: f64,
    /// The discriminator's learning rate over the encoder's: a tenth in the paper.
    pub discriminator_lr_scale: f64,
    /// Channels before the decoder's first doubling, halved by each.
    pub decoder_width: usize,
    /// Channels of the discriminator's first map, doubled by each.
    pub discriminator_width: usize,
    /// What happens to an image before the hole is made.
    pub augmentation: Pipeline,
}

impl Settings for InpaintingConfig {
    fn views(&self, _image: usize) -> f64 {
        1.0
    }

    fn validate(&self, sizes: Sizes) -> Result<()> {
        let fail = |name: &str, expected: String, got: &dyn std::fmt::Display| {
            Err(Error::Config(format!("method.{name} must be {expected}, got {got}")))
        };
        validate_views(&self.augmentation, sizes.image)?;
        sizes.network.check_map()?;
        if sizes.image < 8 {
            return fail("augmentation", "of images of at least 8 pixels".into(), &sizes.image);
        }
        if self.hole == Hole::Center && 2 * self.overlap as usize >= sizes.image / 2 {
            let expected = format!("less than half of the hole's side of {}", sizes.image / 2);
            return fail("overlap", expected, &self.overlap);
        }
        if !(0.0..1.0).contains(&self.adversarial) {
            return fail("adversarial", "in [0, 1)".into(), &self.adversarial);
        }
        for (name, got) in
            [("overlap_weight", self.overlap_weight), ("discriminator_lr_scale", self.discriminator_lr_scale)]
        {
            if !(got.is_finite() && got > 0.0) {
                return fail(name, "positive".into(), &got);
            }
        }
        for (name, got) in
            [("decoder_width", self.decoder_width), ("discriminator_width", self.discriminator_width)]
        {
            if got == 0 {
                return fail(name, "at least 1".into(), &got);
            }
        }
        Ok(())
    }

    fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        Ok(Arc::new(WithHole {
            hole: self.hole,
            overlap: self.overlap,
            augmentation: self.augmentation.clone(),
        }))
    }

    fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>> {
        Ok(Box::new(Inpainting::new(self, encoder, seed)?))
    }
}

/// Inpainting with encoder, decoder and discriminator.
pub struct Inpainting {
    config: InpaintingConfig,
    prepare: Arc<dyn Prepare>,
    encoder: Encoder,
    completion: Completion,
    adversary: Option<Adversary>,
}

struct Adversary {
    discriminator: Discriminator,
    optimizer: Box<dyn Optimizer>,
    params: Vec<Param>,
    checked: bool,
}

/// Pictures, and what of them is missing and counts.
struct Task {
    /// `[n, S, S, 3]`.
    truth: Tensor,
    /// 1 where pixels are missing, `[n, S, S, 1]`.
    missing: Tensor,
    /// Row and column of the predicted square, and its side.
    square: (usize, usize),
    /// Of each predicted pixel's error, broadcastable to `[n, side, side, 3]`.
    weights: Tensor,
}

impl Inpainting {
    /// Puts a decoder and a discriminator, drawn from `seed`, on an encoder.
    pub fn new(config: &InpaintingConfig, encoder: Encoder, seed: u64) -> Result<Self> {
        let side = encoder.preprocessing().image_size;
        let predicted = if config.hole == Hole::Center { side / 2 } else { side };
        let completion = Completion::new(&encoder, predicted, config.decoder_width, seed)?;
        let adversary = (config.adversarial > 0.0)
            .then(|| Adversary::new(config, predicted, &encoder, seed))
            .transpose()?;
        Ok(Self { config: config.clone(), prepare: config.prepare()?, encoder, completion, adversary })
    }

    fn task(&self, views: &[Tensor]) -> Result<Task> {
        let truth = levels(&views[0])?;
        let missing = (views[1].narrow(D::Minus1, 0, 1)?.to_dtype(DType::F32)? / 255.0)?;
        let side = truth.dim(1)?;
        if self.config.hole != Hole::Center {
            return Ok(Task { truth, weights: missing.clone(), missing, square: (0, side) });
        }
        let hole = side / 2;
        let weights = overlap_weights(hole, self.config.overlap as usize, self.config.overlap_weight);
        let weights = Tensor::from_vec(weights, (1, hole, hole, 1), truth.device())?;
        Ok(Task { truth, missing, square: ((side - hole) / 2, hole), weights })
    }

    /// The last map's mean `[n, c]`, which is the features, and the prediction `[n, side, side, 3]` for the task's square.
    fn complete(&self, task: &Task, mode: Mode) -> Result<(Tensor, Tensor)> {
        // The hole is filled with the mean, which is 0 when normalised.
        let (mean, std) = (self.encoder.preprocessing().mean, self.encoder.preprocessing().std);
        let channel = |values: [f32; 3]| Tensor::new(&values, task.truth.device());
        let normalized =
            ((&task.truth + 1.0)? * 0.5)?.broadcast_sub(&channel(mean)?)?.broadcast_div(&channel(std)?)?;
        let seen = normalized.broadcast_mul(&(1.0 - &task.missing)?)?;
        let map = self.encoder.last_map_normalized(&seen, mode)?;
        let features = selfsup_kernels::global_avg_pool(&map)?;
        Ok((features, self.completion.forward(&map, mode)?))
    }

    fn square(task: &Task, pictures: &Tensor) -> Result<Tensor> {
        let (start, side) = task.square;
        Ok(pictures.narrow(1, start, side)?.narrow(2, start, side)?.contiguous()?)
    }
}

/// Bytes to −1…1.
fn levels(images: &Tensor) -> Result<Tensor> {
    Ok(((images.to_dtype(DType::F32)? / 127.5)? - 1.0)?)
}

/// −1…1 to bytes.
fn bytes(levels: &Tensor) -> Result<Tensor> {
    Ok((((levels + 1.0)? * 127.5)? + 0.5)?.clamp(0.0, 255.0)?.to_dtype(DType::U8)?)
}

/// Of a square's pixels, row by row: `weight` in a band along its border, 1 within.
fn overlap_weights(side: usize, band: usize, weight: f64) -> Vec<f32> {
    let inside = |at: usize| (band..side - band).contains(&at);
    let of = |i: usize| if inside(i / side) && inside(i % side) { 1.0 } else { weight as f32 };
    (0..side * side).map(of).collect()
}

impl Adversary {
    fn new(config: &InpaintingConfig, side: usize, encoder: &Encoder, seed: u64) -> Result<Self> {
        let discriminator = Discriminator::new(side, config.discriminator_width, encoder.device(), seed)?;
        let params: Vec<Param> = discriminator
            .params
            .trainable()
            .map(|t| Param { name: t.name.clone(), var: t.var.clone() })
            .collect();
        // DCGAN's first moment, as in the authors' code.
        let adam =
            OptimizerConfig::AdamW(AdamWConfig { beta1: 0.5, weight_decay: 0.0, ..AdamWConfig::new(1.0) });
        let optimizer = adam.build(adam.groups(params.clone()))?;
        Ok(Self { discriminator, optimizer, params, checked: false })
    }

    /// One step of the discriminator; its loss.
    fn learn(&mut self, real: &Tensor, fake: &Tensor, lr: f64) -> Result<f64> {
        let judge = |pictures: &Tensor| self.discriminator.forward(pictures, Mode::Train);
        let loss = (binary_cross_entropy(&judge(real)?, true)?
            + binary_cross_entropy(&judge(&fake.detach())?, false)?)?;
        let loss = (loss * 0.5)?;
        let grads = loss.backward()?;
        if !self.checked {
            check_gradients(&grads, &self.params)?;
            self.checked = true;
        }
        self.optimizer.step(&grads, lr)?;
        Ok(f64::from(loss.to_scalar::<f32>()?))
    }
}

impl Method for Inpainting {
    fn prepare(&self) -> Arc<dyn Prepare> {
        self.prepare.clone()
    }

    fn step(&mut self, Batch { views, .. }: &Batch, at: Progress) -> Result<StepOutput> {
        let task = self.task(views)?;
        let (features, predicted) = self.complete(&task, Mode::Train)?;
        let truth = Self::square(&task, &task.truth)?;
        let l2 = weighted_l2(&predicted, &truth, &task.weights)?;
        let mut loss = l2.clone();
        let mut adversarial = None;
        if let Some(adversary) = &mut self.adversary {
            // As in the authors' code the discriminator moves first.
            let own = adversary.learn(&truth, &predicted, at.lr * self.config.discriminator_lr_scale)?;
            let verdict = adversary.discriminator.forward(&predicted, Mode::TrainNoGrad)?;
            let fooled = binary_cross_entropy(&verdict, true)?;
            let lambda = self.config.adversarial;
            loss = ((l2.clone() * (1.0 - lambda))? + (&fooled * lambda)?)?;
            adversarial = Some((own, fooled.detach()));
        }
        let (predicted, l2, missing) = (predicted.detach(), l2.detach(), Self::square(&task, &task.missing)?);
        let metrics: Metrics = Box::new(move || {
            let mut all = vec![
                ("l2", f64::from(l2.to_scalar::<f32>()?)),
                // Levels reach from −1 to 1.
                ("psnr", psnr(&predicted, &truth, &missing, 2.0)?),
            ];
            if let Some((own, fooled)) = adversarial {
                all.push(("discriminator_loss", own));
                all.push(("adversarial_loss", f64::from(fooled.to_scalar::<f32>()?)));
            }
            Ok(all)
        });
        Ok(StepOutput { loss, embeddings: features.detach(), metrics })
    }

    fn optimizers(&self) -> Vec<(&'static str, &dyn Optimizer)> {
        self.adversary.iter().map(|a| ("discriminator", a.optimizer.as_ref())).collect()
    }

    fn optimizers_mut(&mut self) -> Vec<(&'static str, &mut dyn Optimizer)> {
        self.adversary.iter_mut().map(|a| ("discriminator", a.optimizer.as_mut() as _)).collect()
    }

    fn pictures(&self, Batch { views, .. }: &Batch) -> Result<Vec<(&'static str, Tensor)>> {
        let task = self.task(views)?;
        let (_, predicted) = self.complete(&task, Mode::Eval)?;
        let (start, side) = task.square;
        let whole = task.truth.dim(1)?;
        let padded = predicted.pad_with_zeros(1, start, whole - start - side)?.pad_with_zeros(
            2,
            start,
            whole - start - side,
        )?;
        let kept = task.truth.broadcast_mul(&(1.0 - &task.missing)?)?;
        let completed = (&kept + padded.broadcast_mul(&task.missing)?)?;
        let mean = Tensor::new(&self.encoder.preprocessing().mean, task.truth.device())?;
        let input = (&kept + task.missing.broadcast_mul(&((mean * 2.0)? - 1.0)?)?)?;
        Ok(vec![("input", bytes(&input)?), ("completion", bytes(&completed)?), ("truth", views[0].clone())])
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    fn tensors(&self) -> Params {
        let mut all = encoder_tensors(&self.encoder);
        all.extend(self.completion.params.iter().cloned());
        // The discriminator has its own optimiser.
        let own = self.adversary.iter().flat_map(|a| a.discriminator.params.iter());
        all.extend(own.map(|t| NamedTensor { trainable: false, ..t.clone() }));
        all.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_band_along_the_border_weighs_more() {
        let weights = overlap_weights(5, 1, 10.0);
        for (i, weight) in weights.iter().enumerate() {
            let border = [i / 5, i % 5].iter().any(|at| [0, 4].contains(at));
            assert_eq!(*weight, if border { 10.0 } else { 1.0 }, "{i}");
        }
    }

    #[test]
    fn every_level_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let t = Tensor::new(&all[..], &candle_core::Device::Cpu).unwrap();
        assert_eq!(bytes(&levels(&t).unwrap()).unwrap().to_vec1::<u8>().unwrap(), all);
    }

    /// Of pictures that differ by their level alone it soon says true of the ones and false of the others.
    #[test]
    fn the_discriminator_learns_which_pictures_are_true() {
        use selfsup_models::{Preprocessing, arch};
        let device = candle_core::Device::Cpu;
        let layers = [selfsup_augment::Transform::CenterCrop(selfsup_augment::CenterCrop { size: 16 })];
        let config = InpaintingConfig {
            hole: Hole::Center,
            overlap: 0,
            overlap_weight: 10.0,
            adversarial: 0.5,
            discriminator_lr_scale: 0.1,
            decoder_width: 16,
            discriminator_width: 8,
            augmentation: Pipeline(layers.to_vec()),
        };
        let preprocessing = Preprocessing::rgb(16, [0.5; 3], [0.25; 3]);
        let encoder = Encoder::untrained(arch("resnet10-mini").unwrap(), preprocessing, 0, &device).unwrap();
        let mut adversary = Adversary::new(&config, 8, &encoder, 0).unwrap();
        let of = |level: f64| (Tensor::rand(-0.2f32, 0.2, (6, 8, 8, 3), &device).unwrap() + level).unwrap();
        for _ in 0..40 {
            adversary.learn(&of(0.5), &of(-0.5), 0.002).unwrap();
        }
        let says = |level| {
            let logits = adversary.discriminator.forward(&of(level), Mode::Train).unwrap();
            logits.mean_all().unwrap().to_scalar::<f32>().unwrap()
        };
        assert!(says(0.5) > 0.5 && says(-0.5) < -0.5, "{} and {}", says(0.5), says(-0.5));
    }
}
