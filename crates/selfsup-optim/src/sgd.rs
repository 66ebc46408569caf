//! Stochastic gradient descent with momentum, as `torch.optim.SGD` defines it (no dampening).

use crate::error::ensure;
use crate::slots::{Rule, Slots};
use crate::{Optimizer, ParamGroup, Result};
use candle_core::Tensor;
use candle_core::backprop::GradStore;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// With gradient g, decay λ and momentum μ:
///
/// ```text
/// d ← g + λ·p
/// v ← μ·v + d                    (v starts at 0, so the first v is d)
/// p ← p − lr·v                   plain
/// p ← p − lr·(d + μ·v)           Nesterov
/// ```
///
/// The learning rate is outside the buffer v: when a schedule lowers it, the steps already gathered in v shrink
/// with it. LARS has it inside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgdConfig {
    /// Peak learning rate.
    pub lr: f64,
    /// μ, in [0, 1). 0 keeps no buffer.
    pub momentum: f64,
    /// Looks one step of momentum ahead.
    pub nesterov: bool,
    /// λ of the parameters that are not exempt.
    pub weight_decay: f64,
}

impl SgdConfig {
    /// Momentum 0.9 without Nesterov's look-ahead, decay 1e-4: what MoCo trains with (He et al. 2020, §4).
    pub fn new(lr: f64) -> Self {
        Self { lr, momentum: 0.9, nesterov: false, weight_decay: 1e-4 }
    }

    /// Checks every value; the error names the first wrong one.
    pub fn validate(&self) -> Result<()> {
        let Self { lr, momentum, nesterov, weight_decay } = *self;
        ensure_lr(lr)?;
        ensure_momentum(momentum)?;
        ensure(!nesterov || momentum > 0.0, "optimizer.nesterov", "false when the momentum is 0", nesterov)?;
        ensure_weight_decay(weight_decay)
    }
}

pub(crate) fn ensure_lr(lr: f64) -> Result<()> {
    ensure(lr.is_finite() && lr > 0.0, "optimizer.lr", "finite and more than 0", lr)
}

pub(crate) fn ensure_momentum(momentum: f64) -> Result<()> {
    ensure((0.0..1.0).contains(&momentum), "optimizer.momentum", "in [0, 1)", momentum)
}

pub(crate) fn ensure_weight_decay(decay: f64) -> Result<()> {
    ensure(decay.is_finite() && decay >= 0.0, "optimizer.weight_decay", "finite and 0 or more", decay)
}

pub(crate) fn build(config: &SgdConfig, groups: Vec<ParamGroup>) -> Result<Box<dyn Optimizer>> {
    let config = config.clone();
    Ok(if config.momentum == 0.0 {
        Box::new(Sgd { config, slots: Slots::new(groups, [])? })
    } else {
        Box::new(Sgd { config, slots: Slots::new(groups, ["momentum"])? })
    })
}

/// `N` is 1 with momentum and 0 without.
struct Sgd<const N: usize> {
    config: SgdConfig,
    slots: Slots<N>,
}

impl<const N: usize> Optimizer for Sgd<N>
where
    Descent: Rule<N>,
{
    fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()> {
        let SgdConfig { momentum, nesterov, .. } = self.config;
        self.slots.step(grads, lr, |slot| Descent {
            lr: lr * slot.lr_scale,
            momentum,
            nesterov,
            decay: slot.weight_decay,
        })
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.slots.state()
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        self.slots.load_state(state, []).map(|_| ())
    }
}

struct Descent {
    lr: f64,
    momentum: f64,
    nesterov: bool,
    decay: f64,
}

impl Rule<0> for Descent {
    #[inline(always)]
    fn fused(&self, p: &mut [f32], g: &[f32], _: [&mut [f32]; 0]) {
        let (lr, decay) = (self.lr as f32, self.decay as f32);
        for (p, g) in p.iter_mut().zip(g) {
            *p -= lr * (*g + decay * *p);
        }
    }

    fn plain(&self, p: &Tensor, g: &Tensor, _: &mut [Tensor; 0]) -> Result<Tensor> {
        let d = (g + (p * self.decay)?)?;
        Ok((p - (d * self.lr)?)?)
    }
}

impl Rule<1> for Descent {
    #[inline(always)]
    fn fused(&self, p: &mut [f32], g: &[f32], [v]: [&mut [f32]; 1]) {
        let (lr, decay, momentum) = (self.lr as f32, self.decay as f32, self.momentum as f32);
        if self.nesterov {
            for ((p, g), v) in p.iter_mut().zip(g).zip(v) {
                let d = *g + decay * *p;
                *v = momentum * *v + d;
                *p -= lr * (d + momentum * *v);
            }
        } else {
            for ((p, g), v) in p.iter_mut().zip(g).zip(v) {
                *v = momentum * *v + (*g + decay * *p);
                *p -= lr * *v;
            }
        }
    }

    fn plain(&self, p: &Tensor, g: &Tensor, [v]: &mut [Tensor; 1]) -> Result<Tensor> {
        let d = (g + (p * self.decay)?)?;
        *v = ((&*v * self.momentum)? + &d)?;
        let step = if self.nesterov { (d + (&*v * self.momentum)?)? } else { v.clone() };
        Ok((p - (step * self.lr)?)?)
    }
}
