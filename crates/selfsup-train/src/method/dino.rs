//! DINO: a student's distribution on each crop of an image approaches a slowly moving teacher's on the two large ones.
//!
//! Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers", arXiv:2104.14294, algorithm 1 and §3. The teacher
//! sees two global crops, the student these and several local ones of another size. Collapse is kept off by centring the teacher's
//! outputs with a running mean and sharpening them. After each update the teacher moves: θₜ ← λ·θₜ + (1 − λ)·θₛ.
//!
//! Of the authors' code these are left out: the first epoch's frozen last layer, the weight decay's schedule, stochastic depth.

use super::branch::momentum_at;
use super::{
    Batch, Example, Method, MethodInfo, Metrics, Prepare, Progress, Settings, Sizes, StepOutput, by_area,
    validate_views,
};
use crate::{Error, Result};
use candle_core::{D, Tensor, Var};
use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use selfsup_augment::Pipeline;
use selfsup_kernels::{Activation, Gelu, l2_normalize};
use selfsup_models::params::{Layout, NamedTensor, ParamBuilder, Params};
use selfsup_models::{Encoder, Init, Linear, Mode};
use selfsup_optim::momentum_update;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(super) const INFO: MethodInfo = MethodInfo {
    name: "dino",
    title: "Emerging Properties in Self-Supervised Vision Transformers",
    paper: "Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin, arXiv:2104.14294",
    year: 2021,
    idea: "a student that sees small crops agrees with a slowly moving teacher that sees large ones",
};

const VIEWS: [&str; 12] = [
    "global 1", "global 2", "local 1", "local 2", "local 3", "local 4", "local 5", "local 6", "local 7",
    "local 8", "local 9", "local 10",
];
const GLOBAL: usize = 2;
/// Lengths below it are taken for it.
const EPS: f64 = 1e-12;

/// DINO's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DinoConfig {
    /// τ_s: 0.1 in the paper.
    pub student_temperature: f64,
    /// τ_t at the end of its warm-up: 0.04 to 0.07 in the paper.
    pub teacher_temperature: f64,
    /// τ_t at the beginning.
    pub teacher_temperature_start: f64,
    /// Share of the run in which τ_t goes from its beginning to its end.
    pub teacher_warmup: f64,
    /// λ: the share of the teacher that stays at a step, at first. The paper's is 0.996.
    pub momentum: f64,
    /// Whether it goes to 1 over the run.
    pub momentum_ramp: bool,
    /// The share of the centre that stays at a step: 0.9 in the paper.
    pub center_momentum: f64,
    /// Outputs k of the head: 65,536 in the paper.
    pub out_dim: usize,
    /// Width of the head's two hidden layers: 2048 in the paper.
    pub hidden_dim: usize,
    /// Width before the last layer, whose input is scaled to length 1: 256 in the paper.
    pub bottleneck_dim: usize,
    /// Local crops of an image, up to ten: 8 or 10 in the paper.
    pub local_views: usize,
    /// The two global crops are drawn from it, independently. The paper's have unlike chances of blur and solarisation.
    pub augmentation: Pipeline,
    /// The local crops are drawn from it.
    pub local_augmentation: Pipeline,
}

impl Settings for DinoConfig {
    fn views(&self, image: usize) -> f64 {
        let local = self.local_augmentation.output_size().unwrap_or(0);
        GLOBAL as f64 + by_area(self.local_views, local, image)
    }

    fn validate(&self, sizes: Sizes) -> Result<()> {
        let fail = |name: &str, expected: &str, got: &dyn std::fmt::Display| {
            Err(Error::Config(format!("method.{name} must be {expected}, got {got}")))
        };
        for (name, got) in [
            ("student_temperature", self.student_temperature),
            ("teacher_temperature", self.teacher_temperature),
            ("teacher_temperature_start", self.teacher_temperature_start),
        ] {
            if !(got.is_finite() && got > 0.0) {
                return fail(name, "positive", &got);
            }
        }
        for (name, got) in [
            ("teacher_warmup", self.teacher_warmup),
            ("momentum", self.momentum),
            ("center_momentum", self.center_momentum),
        ] {
            if !(0.0..=1.0).contains(&got) {
                return fail(name, "in 0…1", &got);
            }
        }
        for (name, got) in [
            ("out_dim", self.out_dim),
            ("hidden_dim", self.hidden_dim),
            ("bottleneck_dim", self.bottleneck_dim),
        ] {
            if got == 0 {
                return fail(name, "at least 1", &got);
            }
        }
        if self.local_views > VIEWS.len() - GLOBAL {
            return fail("local_views", "at most 10", &self.local_views);
        }
        validate_views(&self.augmentation, sizes.image)?;
        self.local_augmentation.validate()?;
        match self.local_augmentation.output_size() {
            Some(side) if side as usize <= sizes.image => Ok(()),
            Some(side) => Err(Error::Config(format!(
                "method.local_augmentation makes crops of {side} pixels, larger than the image_size of {}",
                sizes.image
            ))),
            None => Err(Error::Config(
                "method.local_augmentation has no transform that fixes the crops' size".into(),
            )),
        }
    }

    fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        Ok(Arc::new(MultiCrop {
            global: self.augmentation.clone(),
            local: self.local_augmentation.clone(),
            views: GLOBAL + self.local_views,
        }))
    }

    fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>> {
        Ok(Box::new(Dino::new(self, encoder, seed)?))
    }
}

/// Two large crops and some small ones.
struct MultiCrop {
    global: Pipeline,
    local: Pipeline,
    views: usize,
}

impl Prepare for MultiCrop {
    fn view_names(&self) -> &[&'static str] {
        &VIEWS[..self.views]
    }

    fn prepare(&self, image: &RgbImage, rng: &dyn Fn(u64) -> ChaCha8Rng) -> Result<Example> {
        let pipeline = |view| if view < GLOBAL { &self.global } else { &self.local };
        let views = (0..self.views).map(|view| Ok(pipeline(view).apply(image, &mut rng(view as u64))?));
        Ok(views.collect::<Result<Vec<_>>>()?.into())
    }
}

/// Three linear layers with GELU between them, then directions: y = (x/‖x‖)·(w/‖w‖) for each output's w.
struct Head {
    layers: [Linear; 3],
    directions: Var,
    params: Params,
}

impl Head {
    fn new(config: &DinoConfig, feature_dim: usize, encoder: &Encoder, seed: u64) -> Result<Self> {
        let build = ParamBuilder::new(seed, encoder.device());
        let part = build.part("projector");
        let normal = Init::Normal { std: 0.02 };
        let layer =
            |i: usize, c, k| Linear::with_init((c, k), normal, Some(Init::Constant(0.0)), &part.part(i));
        let DinoConfig { hidden_dim, bottleneck_dim, out_dim, .. } = *config;
        let layers = [
            layer(0, feature_dim, hidden_dim)?,
            layer(1, hidden_dim, hidden_dim)?,
            layer(2, hidden_dim, bottleneck_dim)?,
        ];
        let directions = part.weight("last.weight", &[out_dim, bottleneck_dim], normal)?;
        Ok(Self { layers, directions, params: build.finish() })
    }

    /// Unit embeddings `[n, bottleneck]` and outputs `[n, k]`.
    fn forward(&self, features: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let [first, second, third] = &self.layers;
        let gelu = Activation::Gelu(Gelu::Exact);
        let hidden = second.forward_with(&first.forward_with(features, gelu, mode)?, gelu, mode)?;
        let unit = l2_normalize(&third.forward(&hidden, mode)?, EPS)?;
        let directions = if mode == Mode::TrainNoGrad {
            self.directions.as_detached_tensor()
        } else {
            self.directions.as_tensor().clone()
        };
        let outputs =
            selfsup_kernels::linear(&unit, &l2_normalize(&directions, EPS)?, None, Activation::None)?;
        Ok((unit, outputs))
    }
}

/// DINO with student, teacher and centre.
pub struct Dino {
    config: DinoConfig,
    prepare: Arc<dyn Prepare>,
    student: Encoder,
    student_head: Head,
    teacher: Encoder,
    teacher_head: Head,
    /// `[1, k]`.
    center: Var,
    /// The step's mean of the teacher's outputs.
    new_center: Option<Tensor>,
}

impl Dino {
    /// Puts a head, drawn from `seed`, on an encoder; copies both.
    pub fn new(config: &DinoConfig, encoder: Encoder, seed: u64) -> Result<Self> {
        if let Some(side) = config.local_augmentation.output_size() {
            encoder.arch().config.check_side(side as usize)?;
        }
        let head = || Head::new(config, encoder.feature_dim(), &encoder, seed);
        let (student_head, teacher_head) = (head()?, head()?);
        let build = ParamBuilder::new(seed, encoder.device());
        Ok(Self {
            prepare: config.prepare()?,
            config: config.clone(),
            teacher: encoder.copy()?,
            student: encoder,
            student_head,
            teacher_head,
            center: build.buffer("center", &[1, config.out_dim], Init::Constant(0.0))?,
            new_center: None,
        })
    }

    /// τ_t at a step.
    fn teacher_temperature(&self, at: Progress) -> f64 {
        let DinoConfig { teacher_temperature: end, teacher_temperature_start: start, teacher_warmup, .. } =
            self.config;
        let share = if teacher_warmup > 0.0 { (at.fraction() / teacher_warmup).min(1.0) } else { 1.0 };
        start + (end - start) * share
    }
}

/// A tensor of several views one after the other, view by view.
fn split(all: &Tensor, views: usize) -> Result<Vec<Tensor>> {
    let n = all.dim(0)? / views;
    (0..views).map(|view| Ok(all.narrow(0, view * n, n)?)).collect()
}

impl Method for Dino {
    fn prepare(&self) -> Arc<dyn Prepare> {
        self.prepare.clone()
    }

    fn step(&mut self, Batch { views, .. }: &Batch, at: Progress) -> Result<StepOutput> {
        let (global, local) = views.split_at(GLOBAL);
        let large = Tensor::cat(global, 0)?;
        let features = self.teacher.forward(&large, Mode::TrainNoGrad)?;
        let (_, taught) = self.teacher_head.forward(&features, Mode::TrainNoGrad)?;
        let taught = taught.detach();
        // One pass for each size of crop, as in the authors' code.
        let mut features = vec![self.student.forward(&large, Mode::Train)?];
        if !local.is_empty() {
            features.push(self.student.forward(&Tensor::cat(local, 0)?, Mode::Train)?);
        }
        let (embeddings, outputs) = self.student_head.forward(&Tensor::cat(&features, 0)?, Mode::Train)?;
        let temperature = self.teacher_temperature(at);
        let loss = selfsup_objectives::dino(
            &split(&outputs, views.len())?,
            &split(&taught, GLOBAL)?,
            &self.center.as_detached_tensor(),
            self.config.student_temperature,
            temperature,
        )?;
        self.new_center = Some(taught.mean_keepdim(0)?);
        let momentum = momentum_at(self.config.momentum, self.config.momentum_ramp, at);
        let center = self.center.as_detached_tensor();
        let metrics: Metrics = Box::new(move || {
            // ln k is a teacher that says nothing, 0 one that says the same of all images.
            let p = selfsup_kernels::softmax(&(taught.broadcast_sub(&center)? / temperature)?)?;
            let entropy =
                ((&p * (&p + 1e-12)?.log()?)?.sum(D::Minus1)?.mean_all()?.neg()?).to_scalar::<f32>()?;
            Ok(vec![
                ("teacher_entropy", f64::from(entropy)),
                ("teacher_temperature", temperature),
                ("momentum", momentum),
            ])
        });
        let n = global[0].dim(0)?;
        Ok(StepOutput { loss, embeddings: embeddings.narrow(0, 0, n)?.detach(), metrics })
    }

    fn after_update(&mut self, at: Progress) -> Result<()> {
        let momentum = momentum_at(self.config.momentum, self.config.momentum_ramp, at);
        let heads = self.teacher_head.params.trainable().zip(self.student_head.params.trainable());
        for (slow, fast) in
            self.teacher.params().trainable().zip(self.student.params().trainable()).chain(heads)
        {
            momentum_update(&slow.var, &fast.var, momentum)?;
        }
        if let Some(new) = self.new_center.take() {
            let kept = self.config.center_momentum;
            self.center.set(&((self.center.as_detached_tensor() * kept)? + (new * (1.0 - kept))?)?)?;
        }
        Ok(())
    }

    fn encoder(&self) -> &Encoder {
        &self.student
    }

    fn tensors(&self) -> Params {
        let named = |prefix: &'static str, params: &Params, trainable: bool| {
            let named = params.iter().map(move |t| NamedTensor {
                name: format!("{prefix}{}", t.name),
                trainable: trainable && t.trainable,
                ..t.clone()
            });
            named.collect::<Vec<_>>()
        };
        let mut all = named("encoder.", self.student.params(), true);
        all.extend(named("", &self.student_head.params, true));
        all.extend(named("teacher_encoder.", self.teacher.params(), false));
        all.extend(named("teacher_", &self.teacher_head.params, false));
        all.push(NamedTensor {
            name: "center".into(),
            var: self.center.clone(),
            trainable: false,
            layout: Layout::Plain,
        });
        all.into()
    }
}
