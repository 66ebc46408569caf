//! MoCo: a query's own key against a queue of earlier ones, the keys from a slowly moving copy of the encoder.
//!
//! v1: He, Fan, Wu, Xie & Girshick 2020, "Momentum Contrast for Unsupervised Visual Representation Learning",
//! arXiv:1911.05722, algorithm 1. v2: Chen, Fan, Girshick & He 2020, "Improved Baselines with Momentum Contrastive
//! Learning", arXiv:2003.04297: an MLP head, blur, a higher temperature, a cosine schedule. They differ in settings alone.
//!
//! A step: q = g(f(view 1)), k = g'(f'(view 2)) without gradient, the loss of q against k and the queue; the optimiser moves
//! f and g; then f' ← m·f' + (1 − m)·f, g' alike, and the keys take the place of the queue's oldest. The authors' code moves
//! f' at the beginning of the next step, before it is used, which is the same.
//!
//! **Shuffled batch normalisation.** A network could tell which key is the query's by the statistics that both share. On several
//! devices the paper shuffles the keys among them. Here the batch is normalised in groups, as if each were on its own
//! device, and the keys are permuted before they are encoded and put back behind.

use super::branch::{Branch, momentum_at};
use super::two_views::TwoViews;
use super::{
    Batch, Method, MethodInfo, Metrics, Prepare, Progress, Settings, Sizes, StepOutput, validate_views,
};
use crate::{Error, Result};
use candle_core::{Tensor, Var};
use selfsup_augment::Pipeline;
use selfsup_data::{permutation, sample_rng};
use selfsup_models::params::{Layout, NamedTensor, ParamBuilder, Params};
use selfsup_models::{Encoder, Init, Mode, ProjectorConfig};
use selfsup_objectives::{info_nce_queue, queue_accuracy};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(super) const V1: MethodInfo = MethodInfo {
    name: "moco-v1",
    title: "Momentum Contrast for Unsupervised Visual Representation Learning",
    paper: "He, Fan, Wu, Xie, Girshick, arXiv:1911.05722",
    year: 2020,
    idea: "a view's key is told from a queue of earlier images' keys, which a slowly moving encoder makes",
};

pub(super) const V2: MethodInfo = MethodInfo {
    name: "moco-v2",
    title: "Improved Baselines with Momentum Contrastive Learning",
    paper: "Chen, Fan, Girshick, He, arXiv:2003.04297",
    year: 2020,
    idea: "MoCo with SimCLR's MLP head and stronger augmentation",
};

/// Lengths below it are taken for it, as `torch.nn.functional.normalize` does.
const EPS: f64 = 1e-12;

/// MoCo's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MocoConfig {
    /// τ of eq. 1: 0.07 in v1, 0.2 in v2.
    pub temperature: f64,
    /// m of eq. 2: the share of the key encoder that stays at a step.
    pub momentum: f64,
    /// Whether m goes to 1 over the run by half a cosine, as BYOL's does.
    pub momentum_ramp: bool,
    /// Keys in the queue, a multiple of those that a step adds: the batch, twice that if symmetric.
    pub queue: usize,
    /// Whether each view is query and key in turn, at twice the work; the loss is the mean of both.
    pub symmetric: bool,
    /// Parts of the batch that are normalised each by itself, the keys' after a shuffle; 1 normalises the batch as one.
    pub bn_groups: usize,
    /// The head g: linear in v1, an MLP in v2.
    pub projector: ProjectorConfig,
    /// Both views are drawn from it, independently.
    pub augmentation: Pipeline,
}

impl MocoConfig {
    fn keys_a_step(&self, batch_size: usize) -> usize {
        if self.symmetric { 2 * batch_size } else { batch_size }
    }
}

impl Settings for MocoConfig {
    fn validate(&self, sizes: Sizes) -> Result<()> {
        let Self { temperature, momentum, queue, bn_groups, .. } = *self;
        let fail = |name: &str, expected: String, got: &dyn std::fmt::Display| {
            Err(Error::Config(format!("method.{name} must be {expected}, got {got}")))
        };
        if !(temperature.is_finite() && temperature > 0.0) {
            return fail("temperature", "positive".into(), &temperature);
        }
        if !(0.0..=1.0).contains(&momentum) {
            return fail("momentum", "in 0…1".into(), &momentum);
        }
        let batch_size = sizes.batch;
        let keys = self.keys_a_step(batch_size);
        if queue == 0 || !queue.is_multiple_of(keys) {
            let of = if self.symmetric { "twice batch_size, as both views are keys" } else { "batch_size" };
            return fail("queue", format!("a multiple of {keys} ({of})"), &queue);
        }
        if bn_groups == 0 || !batch_size.is_multiple_of(bn_groups) || batch_size / bn_groups < 2 {
            let expected = format!("a divisor of batch_size ({batch_size}) that leaves two images a group");
            return fail("bn_groups", expected, &bn_groups);
        }
        self.projector.validate()?;
        validate_views(&self.augmentation, sizes.image)
    }

    fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        Ok(Arc::new(TwoViews(self.augmentation.clone())))
    }

    fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>> {
        Ok(Box::new(Moco::new(self, encoder, seed)?))
    }
}

/// MoCo with its model, the model's slow copy and the queue.
pub struct Moco {
    config: MocoConfig,
    seed: u64,
    prepare: Arc<dyn Prepare>,
    queries: Branch,
    keys: Branch,
    /// `[m, d]`, rows of length 1.
    queue: Var,
    /// The row that the next key goes to, i64.
    next: Var,
    /// Keys of the step in hand: the backward pass still reads the queue as it was.
    new_keys: Option<Tensor>,
}

impl Moco {
    /// Puts a projector, drawn from `seed`, on an encoder; copies both; fills the queue with random unit vectors.
    pub fn new(config: &MocoConfig, encoder: Encoder, seed: u64) -> Result<Self> {
        let queries = Branch::new(encoder, &config.projector, seed)?;
        let device = queries.encoder.device();
        let queue = ParamBuilder::new(seed, device).buffer(
            "queue",
            &[config.queue, queries.embedding_dim()],
            Init::Normal { std: 1.0 },
        )?;
        queue.set(&selfsup_kernels::l2_normalize(&queue.as_detached_tensor(), EPS)?)?;
        Ok(Self {
            prepare: config.prepare()?,
            config: config.clone(),
            seed,
            keys: queries.copy()?,
            next: Var::from_tensor(&Tensor::new(0i64, device)?)?,
            queries,
            queue,
            new_keys: None,
        })
    }

    fn queries(&self, view: &Tensor) -> Result<Tensor> {
        self.queries.forward(view, Mode::Train, self.groups(view)?)
    }

    /// Unit keys of a view, without gradient, encoded in an order that the step and `view_index` decide.
    fn keys(&self, view: &Tensor, at: Progress, view_index: u64) -> Result<Tensor> {
        let groups = self.groups(view)?;
        let n = view.dim(0)?;
        // No image has this number: the draw is the step's own.
        let order = permutation(&mut sample_rng(self.seed, at.step, u64::MAX, view_index), n);
        let mut back = vec![0; n];
        order.iter().enumerate().for_each(|(to, &from)| back[from] = to);
        let index = |order: Vec<usize>| {
            Tensor::from_vec(order.into_iter().map(|i| i as u32).collect::<Vec<u32>>(), n, view.device())
        };
        let shuffled = view.index_select(&index(order)?, 0)?;
        let keys = self.keys.forward(&shuffled, Mode::TrainNoGrad, groups)?.index_select(&index(back)?, 0)?;
        Ok(selfsup_kernels::l2_normalize(&keys.detach(), EPS)?)
    }

    /// Groups of a batch: those of the configuration, fewer if images that could not be decoded have left it uneven.
    fn groups(&self, view: &Tensor) -> Result<usize> {
        let n = view.dim(0)?;
        let even = |groups: &usize| n.is_multiple_of(*groups) && n / groups >= 2;
        Ok((1..=self.config.bn_groups).rev().find(even).unwrap_or(1))
    }

    /// Puts keys in the place of the oldest.
    fn enqueue(&self, keys: &Tensor) -> Result<()> {
        let size = self.config.queue;
        let first = self.next.as_detached_tensor().to_scalar::<i64>()? as usize;
        let n = keys.dim(0)?;
        let before_end = n.min(size - first);
        let queue = self.queue.as_detached_tensor();
        queue.slice_set(&keys.narrow(0, 0, before_end)?.contiguous()?, 0, first)?;
        if n > before_end {
            queue.slice_set(&keys.narrow(0, before_end, n - before_end)?.contiguous()?, 0, 0)?;
        }
        Ok(self.next.set(&Tensor::new(((first + n) % size) as i64, keys.device())?)?)
    }
}

impl Method for Moco {
    fn prepare(&self) -> Arc<dyn Prepare> {
        self.prepare.clone()
    }

    fn step(&mut self, Batch { views, .. }: &Batch, at: Progress) -> Result<StepOutput> {
        let temperature = self.config.temperature;
        let queue = self.queue.as_detached_tensor();
        let q1 = self.queries(&views[0])?;
        let k2 = self.keys(&views[1], at, 1)?;
        let mut loss = info_nce_queue(&q1, &k2, &queue, temperature)?;
        let mut new_keys = k2.clone();
        if self.config.symmetric {
            let q2 = self.queries(&views[1])?;
            let k1 = self.keys(&views[0], at, 0)?;
            loss = ((loss + info_nce_queue(&q2, &k1, &queue, temperature)?)? * 0.5)?;
            new_keys = Tensor::cat(&[&k1, &k2], 0)?;
        }
        self.new_keys = Some(new_keys);
        let embeddings = q1.detach();
        let momentum = momentum_at(self.config.momentum, self.config.momentum_ramp, at);
        let (q, k) = (embeddings.clone(), k2);
        let metrics: Metrics = Box::new(move || {
            Ok(vec![("queue_top1", queue_accuracy(&q, &k, &queue)?), ("momentum", momentum)])
        });
        Ok(StepOutput { loss, embeddings, metrics })
    }

    fn after_update(&mut self, at: Progress) -> Result<()> {
        let momentum = momentum_at(self.config.momentum, self.config.momentum_ramp, at);
        self.keys.follow(&self.queries, momentum)?;
        match self.new_keys.take() {
            Some(keys) => self.enqueue(&keys),
            None => Ok(()),
        }
    }

    fn encoder(&self) -> &Encoder {
        &self.queries.encoder
    }

    fn tensors(&self) -> Params {
        let buffer = |name: &str, var: &Var| NamedTensor {
            name: name.into(),
            var: var.clone(),
            trainable: false,
            layout: Layout::Plain,
        };
        let mut all = self.queries.tensors("", true);
        all.extend(self.keys.tensors("key_", false));
        all.extend([buffer("queue", &self.queue), buffer("queue_next", &self.next)]);
        all.into()
    }
}
