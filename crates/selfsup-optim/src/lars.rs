//! LARS: the step of each tensor is scaled by the tensor's own norm (You, Gitman & Ginsburg 2017), in the form
//! in which SimCLR trains with it.

use crate::error::ensure;
use crate::norm::sum_pair;
use crate::sgd::{ensure_lr, ensure_momentum, ensure_weight_decay};
use crate::slots::{Rule, Slots};
use crate::{Optimizer, ParamGroup, Result};
use candle_core::Tensor;
use candle_core::backprop::GradStore;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// With gradient g, decay λ, momentum μ and trust coefficient η:
///
/// ```text
/// d ← g + λ·p
/// r ← η·‖p‖ / ‖d‖                (1 if either norm is 0, or the group does not adapt)
/// v ← μ·v + lr·r·d
/// p ← p − v
/// ```
///
/// This is the optimiser of SimCLR's TensorFlow code (`lars_optimizer.py`, "classic" momentum, no Nesterov).
/// References differ. You et al. (algorithm 1) and lightly divide by ‖g‖ + λ·‖p‖ instead of ‖d‖, which is never
/// smaller. lightly, solo-learn and flax keep the learning rate outside the buffer, p ← p − lr·v: the same
/// while it is constant, but under a falling schedule old gradients weigh less there. With a zero norm lightly
/// leaves out the decay as well; here only the ratio becomes 1. Neither does an eps enter the ratio here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LarsConfig {
    /// Peak learning rate.
    pub lr: f64,
    /// μ, in [0, 1).
    pub momentum: f64,
    /// λ of the parameters that are not exempt.
    pub weight_decay: f64,
    /// η.
    pub trust_coefficient: f64,
}

impl LarsConfig {
    /// Momentum 0.9, decay 1e-6 and trust coefficient 0.001: SimCLR's (Chen et al. 2020, §2.2, and its code).
    /// The paper's learning rate is 0.3 × batch size / 256.
    pub fn new(lr: f64) -> Self {
        Self { lr, momentum: 0.9, weight_decay: 1e-6, trust_coefficient: 0.001 }
    }

    /// Checks every value; the error names the first wrong one.
    pub fn validate(&self) -> Result<()> {
        let Self { lr, momentum, weight_decay, trust_coefficient: trust } = *self;
        ensure_lr(lr)?;
        ensure_momentum(momentum)?;
        ensure_weight_decay(weight_decay)?;
        let range = "finite and more than 0";
        ensure(trust.is_finite() && trust > 0.0, "optimizer.trust_coefficient", range, trust)
    }
}

pub(crate) fn build(config: &LarsConfig, groups: Vec<ParamGroup>) -> Result<Box<dyn Optimizer>> {
    Ok(Box::new(Lars { config: config.clone(), slots: Slots::new(groups, ["momentum"])? }))
}

struct Lars {
    config: LarsConfig,
    slots: Slots<1>,
}

impl Optimizer for Lars {
    fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()> {
        let LarsConfig { momentum, trust_coefficient, .. } = self.config;
        self.slots.step(grads, lr, |slot| Adapted {
            lr: lr * slot.lr_scale,
            momentum,
            decay: slot.weight_decay,
            trust: slot.adapt.then_some(trust_coefficient),
        })
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.slots.state()
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        self.slots.load_state(state, []).map(|_| ())
    }
}

struct Adapted {
    /// Times the trust ratio, once that is known.
    lr: f64,
    momentum: f64,
    decay: f64,
    /// η where the group adapts.
    trust: Option<f64>,
}

impl Rule<1> for Adapted {
    fn prepare(&mut self, p: &[f32], g: &[f32]) {
        if let Some(trust) = self.trust {
            let (p_sq, d_sq) = sum_pair(p, g, self.decay);
            if p_sq > 0.0 && d_sq > 0.0 {
                self.lr *= trust * (p_sq / d_sq).sqrt();
            }
        }
    }

    #[inline(always)]
    fn fused(&self, p: &mut [f32], g: &[f32], [v]: [&mut [f32]; 1]) {
        let (lr, decay, momentum) = (self.lr as f32, self.decay as f32, self.momentum as f32);
        for ((p, g), v) in p.iter_mut().zip(g).zip(v) {
            *v = momentum * *v + lr * (*g + decay * *p);
            *p -= *v;
        }
    }

    fn plain(&self, p: &Tensor, g: &Tensor, [v]: &mut [Tensor; 1]) -> Result<Tensor> {
        let d = (g + (p * self.decay)?)?;
        let mut step = (&d * self.lr)?;
        if let Some(trust) = self.trust {
            // The norms stay on the device: reading them would wait for it once a tensor.
            let (p_norm, d_norm) = (p.sqr()?.sum_all()?.sqrt()?, d.sqr()?.sum_all()?.sqrt()?);
            let both = (p_norm.gt(0.0)? * d_norm.gt(0.0)?)?;
            let ones = p_norm.ones_like()?;
            let ratio = (p_norm / both.where_cond(&d_norm, &ones)?)?;
            let ratio = both.where_cond(&(ratio * trust)?, &ones)?;
            step = step.broadcast_mul(&ratio)?;
        }
        *v = ((&*v * self.momentum)? + step)?;
        Ok((p - &*v)?)
    }
}
