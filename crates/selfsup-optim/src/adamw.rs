//! Adam with decoupled weight decay (Loshchilov & Hutter 2019), as `torch.optim.AdamW` computes it.

use crate::error::ensure;
use crate::sgd::{ensure_lr, ensure_weight_decay};
use crate::slots::{Rule, Slots};
use crate::{Optimizer, ParamGroup, Result};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The name of the number of steps in the state. Every other name there has a dot.
const STEP: &str = "step";

/// With gradient g, decay λ and step t = 1, 2, …:
///
/// ```text
/// p ← p·(1 − lr·λ)
/// m ← β₁·m + (1 − β₁)·g
/// v ← β₂·v + (1 − β₂)·g²
/// p ← p − lr · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + eps)
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWConfig {
    /// Peak learning rate.
    pub lr: f64,
    /// β₁, in [0, 1).
    pub beta1: f64,
    /// β₂, in [0, 1).
    pub beta2: f64,
    /// Added to the root, outside it.
    pub eps: f64,
    /// λ of the parameters that are not exempt.
    pub weight_decay: f64,
}

impl AdamWConfig {
    /// β₁ 0.9, β₂ 0.999, eps 1e-8 and decay 0.01: the defaults of `torch.optim.AdamW`.
    pub fn new(lr: f64) -> Self {
        Self { lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }

    /// Checks every value; the error names the first wrong one.
    pub fn validate(&self) -> Result<()> {
        let Self { lr, beta1, beta2, eps, weight_decay } = *self;
        ensure_lr(lr)?;
        for (name, beta) in [("optimizer.beta1", beta1), ("optimizer.beta2", beta2)] {
            ensure((0.0..1.0).contains(&beta), name, "in [0, 1)", beta)?;
        }
        ensure(eps.is_finite() && eps > 0.0, "optimizer.eps", "finite and more than 0", eps)?;
        ensure_weight_decay(weight_decay)
    }
}

pub(crate) fn build(config: &AdamWConfig, groups: Vec<ParamGroup>) -> Result<Box<dyn Optimizer>> {
    let slots = Slots::new(groups, ["first_moment", "second_moment"])?;
    Ok(Box::new(AdamW { config: config.clone(), slots, steps: 0 }))
}

struct AdamW {
    config: AdamWConfig,
    slots: Slots<2>,
    steps: i64,
}

impl Optimizer for AdamW {
    fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()> {
        let AdamWConfig { beta1, beta2, eps, .. } = self.config;
        let t = (self.steps + 1) as f64;
        let (correction1, correction2) = (1.0 - beta1.powf(t), 1.0 - beta2.powf(t));
        self.slots.step(grads, lr, |slot| {
            let lr = lr * slot.lr_scale;
            Moments {
                step: lr / correction1,
                keep: 1.0 - lr * slot.weight_decay,
                beta1,
                beta2,
                root: correction2.sqrt(),
                eps,
            }
        })?;
        self.steps += 1;
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = self.slots.state()?;
        state.push((STEP.into(), Tensor::new(self.steps, &Device::Cpu)?));
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let [steps] = self.slots.load_state(state, [STEP])?;
        self.steps = steps;
        Ok(())
    }
}

struct Moments {
    /// lr / (1 − β₁ᵗ).
    step: f64,
    /// 1 − lr·λ.
    keep: f64,
    beta1: f64,
    beta2: f64,
    /// √(1 − β₂ᵗ).
    root: f64,
    eps: f64,
}

impl Rule<2> for Moments {
    #[inline(always)]
    fn fused(&self, p: &mut [f32], g: &[f32], [m, v]: [&mut [f32]; 2]) {
        let (keep, eps) = (self.keep as f32, self.eps as f32);
        let (beta1, rest1) = (self.beta1 as f32, (1.0 - self.beta1) as f32);
        let (beta2, rest2) = (self.beta2 as f32, (1.0 - self.beta2) as f32);
        // Both corrections in one factor and eps scaled to match spare a division an element:
        // step·m / (√v/root + eps) = step·root·m / (√v + eps·root).
        let (step, eps) = ((self.step * self.root) as f32, (f64::from(eps) * self.root) as f32);
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            *m = beta1 * *m + rest1 * *g;
            *v = beta2 * *v + rest2 * (*g * *g);
            *p = keep * *p - step * *m / (v.sqrt() + eps);
        }
    }

    fn plain(&self, p: &Tensor, g: &Tensor, [m, v]: &mut [Tensor; 2]) -> Result<Tensor> {
        *m = ((&*m * self.beta1)? + (g * (1.0 - self.beta1))?)?;
        *v = ((&*v * self.beta2)? + (g.sqr()? * (1.0 - self.beta2))?)?;
        let root = ((v.sqrt()? / self.root)? + self.eps)?;
        Ok(((p * self.keep)? - ((&*m * self.step)? / root)?)?)
    }
}
