//! The three layers that every encoder here is made of: convolution, batch normalisation, linear.
//!
//! Dimension letters: n batch, h height, w width, c channels in, k channels out, d features.

use crate::{Result, init::Init, params::ParamBuilder};
use candle_core::{Tensor, Var};
use selfsup_kernels::{Activation, BatchNormConfig, Conv2dConfig};

/// Whether batch normalisation takes its statistics from the batch (and moves the running ones), or uses the
/// running ones and changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics; the running statistics move.
    Train,
    /// Running statistics; the model is not changed by a forward pass.
    Eval,
}

/// A square convolution without bias on NHWC images: `[n, h, w, c]` → `[n, h', w', k]`.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Var,
    config: Conv2dConfig,
}

impl Conv2d {
    /// Declares `weight`, drawn as torchvision draws a ResNet's (He, fan-out).
    pub fn new(
        c: usize,
        k: usize,
        kernel: usize,
        config: Conv2dConfig,
        build: &ParamBuilder,
    ) -> Result<Self> {
        let init = Init::KaimingNormal { fan_out: k * kernel * kernel };
        let weight = build.conv_weight("weight", [kernel, kernel, c / config.groups, k], init)?;
        Ok(Self { weight, config })
    }

    /// Applies the convolution.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(selfsup_kernels::conv2d(x, self.weight.as_tensor(), self.config)?)
    }
}

/// Batch normalisation over all but the last dimension (Ioffe & Szegedy 2015), with an optional residual and
/// ReLU fused in: y = act((x − μ)/√(σ² + ε)·γ + β + residual).
#[derive(Debug, Clone)]
pub struct BatchNorm {
    weight: Var,
    bias: Var,
    running_mean: Var,
    running_var: Var,
}

/// Share of the batch in the new running statistics: PyTorch's `momentum`.
const BATCH_NORM_MOMENTUM: f64 = 0.1;
/// Added to the variance: PyTorch's default.
const BATCH_NORM_EPS: f64 = 1e-5;

impl BatchNorm {
    /// Declares `weight` (ones), `bias` (zeros), `running_mean` (zeros) and `running_var` (ones).
    pub fn new(c: usize, build: &ParamBuilder) -> Result<Self> {
        Ok(Self {
            weight: build.weight("weight", &[c], Init::Constant(1.0))?,
            bias: build.weight("bias", &[c], Init::Constant(0.0))?,
            running_mean: build.buffer("running_mean", &[c], Init::Constant(0.0))?,
            running_var: build.buffer("running_var", &[c], Init::Constant(1.0))?,
        })
    }

    /// Normalises `[.., c]`. In [`Mode::Train`] the running mean moves a tenth of the way to the batch's, and
    /// the running variance to the batch's unbiased one, as PyTorch does.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>, relu: bool, mode: Mode) -> Result<Tensor> {
        let config = BatchNormConfig { eps: BATCH_NORM_EPS, relu, ..Default::default() };
        let (weight, bias) = (self.weight.as_tensor(), self.bias.as_tensor());
        if mode == Mode::Eval {
            let (mean, var) = (self.running_mean.as_tensor(), self.running_var.as_tensor());
            return Ok(selfsup_kernels::batch_norm_eval(x, weight, bias, mean, var, residual, config)?);
        }
        let out = selfsup_kernels::batch_norm_train(x, weight, bias, residual, config)?;
        let count = (x.elem_count() / x.dim(candle_core::D::Minus1)?) as f64;
        blend(&self.running_mean, &out.mean, 1.0)?;
        blend(&self.running_var, &out.var, count / (count - 1.0))?;
        Ok(out.y)
    }
}

/// running ← (1 − m)·running + m·scale·batch.
fn blend(running: &Var, batch: &Tensor, scale: f64) -> Result<()> {
    let kept = (running.as_detached_tensor() * (1.0 - BATCH_NORM_MOMENTUM))?;
    Ok(running.set(&(kept + (batch.detach() * (BATCH_NORM_MOMENTUM * scale))?)?)?)
}

/// y = x·Wᵀ + b: `[.., c]` → `[.., k]`, the weight `[k, c]` as in PyTorch.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Var,
    bias: Option<Var>,
}

impl Linear {
    /// Declares `weight` and, if asked, `bias`, both uniform in ±1/√c as `torch.nn.Linear` draws them.
    pub fn new(c: usize, k: usize, bias: bool, build: &ParamBuilder) -> Result<Self> {
        let init = Init::LinearUniform { fan_in: c };
        let weight = build.weight("weight", &[k, c], init)?;
        let bias = bias.then(|| build.weight("bias", &[k], init)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// Applies the layer.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| bias.as_tensor());
        Ok(selfsup_kernels::linear(x, self.weight.as_tensor(), bias, Activation::None)?)
    }
}
