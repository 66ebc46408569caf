//! The layers that every encoder here is made of: convolution with batch normalisation, batch normalisation, linear.
//!
//! Dimension letters: n batch, h height, w width, c channels in, k channels out, d features.

use crate::{Result, init::Init, params::ParamBuilder};
use candle_core::{Tensor, Var};
use selfsup_kernels::{Activation, BatchNormConfig, Conv2dConfig, Epilogue, FixedConv2d, LayerStatistics};

/// Whether batch normalisation takes its statistics from the batch (and moves the running ones), or uses the
/// running ones and changes nothing; and whether there will be a backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics; the running statistics move.
    Train,
    /// The same without gradients, and without the memory for them: what comes out leads to no variable. For momentum
    /// encoders.
    TrainNoGrad,
    /// Running statistics; the model is not changed by a forward pass.
    Eval,
    /// The same without gradients, and without the memory for them.
    EvalNoGrad,
}

impl Mode {
    /// Whether the statistics are the batch's.
    pub fn is_training(self) -> bool {
        matches!(self, Mode::Train | Mode::TrainNoGrad)
    }

    /// The weight as this mode sees it.
    pub(crate) fn tensor(self, var: &Var) -> Tensor {
        match self {
            Mode::Train | Mode::Eval => var.as_tensor().clone(),
            Mode::TrainNoGrad | Mode::EvalNoGrad => var.as_detached_tensor(),
        }
    }
}

/// A square convolution without bias on NHWC images, `[n, h, w, c]` → `[n, h', w', k]`, and the batch normalisation of its
/// result.
#[derive(Debug, Clone)]
pub struct ConvNorm {
    weight: Var,
    config: Conv2dConfig,
    norm: BatchNorm,
    /// Evaluation's convolution, once it is fixed.
    fixed: Option<FixedConv2d>,
}

impl ConvNorm {
    /// Declares the convolution's `weight`, drawn as torchvision draws a ResNet's (He, fan-out), and the
    /// normalisation's tensors, as [`BatchNorm::new`] does. The padding keeps the size at stride 1.
    pub fn new(
        (c, k): (usize, usize),
        kernel: usize,
        stride: usize,
        conv: &ParamBuilder,
        norm: &ParamBuilder,
    ) -> Result<Self> {
        let config = Conv2dConfig { stride, padding: kernel / 2, ..Conv2dConfig::default() };
        let init = Init::KaimingNormal { fan_out: k * kernel * kernel };
        let weight = conv.conv_weight("weight", [kernel, kernel, c, k], init)?;
        Ok(Self { weight, config, norm: BatchNorm::new(k, norm)?, fixed: None })
    }

    /// What [`selfsup_kernels::residual_blocks_train`] takes, of a [`ConvNorm::params`].
    pub fn as_kernel<'a>(&self, [weight, gamma, beta]: &'a [Tensor; 3]) -> selfsup_kernels::ConvNorm<'a> {
        selfsup_kernels::ConvNorm { weight, gamma, beta, config: self.config }
    }

    /// Weight, γ and β as a mode sees them.
    pub fn params(&self, mode: Mode) -> [Tensor; 3] {
        [&self.weight, &self.norm.weight, &self.norm.bias].map(|var| mode.tensor(var))
    }

    /// Applies convolution and normalisation by the running statistics, then the residual and ReLU: one convolution,
    /// as x̂·γ + β is a factor of the weight and a bias.
    pub fn forward_eval(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        relu: bool,
        mode: Mode,
    ) -> Result<Tensor> {
        if let Some(fixed) = &self.fixed {
            return Ok(fixed.forward(x, residual, relu)?);
        }
        let (weight, bias) = self.folded(mode)?;
        let epilogue = Epilogue { bias: Some(&bias), residual, relu };
        Ok(selfsup_kernels::conv2d_with(x, &weight, epilogue, self.config)?)
    }

    /// The convolution's weight and bias that are both.
    fn folded(&self, mode: Mode) -> Result<(Tensor, Tensor)> {
        let [factor, bias] = self.norm.affine(mode)?;
        Ok((mode.tensor(&self.weight).broadcast_mul(&factor)?, bias))
    }

    /// From now on evaluation does not fold again, and does not follow the tensors any more.
    pub(crate) fn fix(&mut self) -> Result<()> {
        let (weight, bias) = self.folded(Mode::EvalNoGrad)?;
        self.fixed = Some(FixedConv2d::new(&weight, &bias, self.config)?);
        Ok(())
    }

    /// Moves the running statistics as [`BatchNorm::forward`] does.
    pub fn update(&self, batch: &LayerStatistics) -> Result<()> {
        self.norm.update(&batch.mean, &batch.var, batch.count)
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
pub(crate) const BATCH_NORM_EPS: f64 = 1e-5;

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
        self.normalize(x, residual, BatchNormConfig { relu, ..BatchNormConfig::default() }, mode)
    }

    /// The same with ReLU, of a batch in `groups` equal parts one after the other, each of which training normalises by its own
    /// statistics ([`BatchNormConfig::groups`]).
    pub(crate) fn forward_in_groups(&self, x: &Tensor, mode: Mode, groups: usize) -> Result<Tensor> {
        self.normalize(x, None, BatchNormConfig { relu: true, groups, ..BatchNormConfig::default() }, mode)
    }

    fn normalize(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        config: BatchNormConfig,
        mode: Mode,
    ) -> Result<Tensor> {
        let config = BatchNormConfig { eps: BATCH_NORM_EPS, ..config };
        let (weight, bias) = (&mode.tensor(&self.weight), &mode.tensor(&self.bias));
        if !mode.is_training() {
            let (mean, var) = (self.running_mean.as_tensor(), self.running_var.as_tensor());
            return Ok(selfsup_kernels::batch_norm_eval(x, weight, bias, mean, var, residual, config)?);
        }
        let out = selfsup_kernels::batch_norm_train(x, weight, bias, residual, config)?;
        let count = x.elem_count() / x.dim(candle_core::D::Minus1)? / config.groups;
        self.update(&out.mean, &out.var, count)?;
        Ok(out.y)
    }

    /// Evaluation's x̂·γ + β as factor·x + shift: `[c]` each.
    pub(crate) fn affine(&self, mode: Mode) -> Result<[Tensor; 2]> {
        let std = (self.running_var.as_detached_tensor() + BATCH_NORM_EPS)?.sqrt()?;
        let factor = (mode.tensor(&self.weight) / std)?;
        let shift = (mode.tensor(&self.bias) - (self.running_mean.as_detached_tensor() * &factor)?)?;
        Ok([factor, shift])
    }

    /// Moves the running statistics towards those of a batch with `count` values a channel.
    fn update(&self, mean: &Tensor, var: &Tensor, count: usize) -> Result<()> {
        blend(&self.running_mean, mean, 1.0)?;
        blend(&self.running_var, var, count as f64 / (count as f64 - 1.0))
    }
}

/// running ← (1 − m)·running + m·scale·batch.
fn blend(running: &Var, batch: &Tensor, scale: f64) -> Result<()> {
    let kept = (running.as_detached_tensor() * (1.0 - BATCH_NORM_MOMENTUM))?;
    Ok(running.set(&(kept + (batch.detach() * (BATCH_NORM_MOMENTUM * scale))?)?)?)
}

/// A square convolution with a bias, `[n, h, w, c]` → `[n, h', w', k]`; the padding keeps the size at stride 1, and halves it at
/// stride 2 (of an even kernel half of what is short).
#[derive(Debug, Clone)]
pub struct Conv {
    weight: Var,
    bias: Var,
    config: Conv2dConfig,
}

impl Conv {
    /// Declares `weight` and `bias`, uniform in ±1/√(c · kernel²) as `torch.nn.Conv2d` draws them.
    pub fn new((c, k): (usize, usize), kernel: usize, stride: usize, build: &ParamBuilder) -> Result<Self> {
        let init = Init::LinearUniform { fan_in: c * kernel * kernel };
        let padding = (kernel - 1) / 2;
        let config = Conv2dConfig { stride, padding, ..Conv2dConfig::default() };
        let weight = build.conv_weight("weight", [kernel, kernel, c, k], init)?;
        Ok(Self { weight, bias: build.weight("bias", &[k], init)?, config })
    }

    /// Applies the layer.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let bias = mode.tensor(&self.bias);
        let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
        Ok(selfsup_kernels::conv2d_with(x, &mode.tensor(&self.weight), epilogue, self.config)?)
    }
}

/// A transposed convolution of 4×4 pixels, stride 2 and padding 1, without bias: `[n, h, w, c]` → `[n, 2h, 2w, k]`.
#[derive(Debug, Clone)]
pub struct ConvTranspose {
    weight: Var,
}

impl ConvTranspose {
    const KERNEL: usize = 4;

    /// Declares `weight`, normal with variance 2/(4c): four of the taps meet in a pixel.
    pub fn new((c, k): (usize, usize), build: &ParamBuilder) -> Result<Self> {
        let shape = [Self::KERNEL, Self::KERNEL, k, c];
        Ok(Self { weight: build.conv_weight("weight", shape, Init::KaimingNormal { fan_out: 4 * c })? })
    }

    /// Applies the layer.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let config = Conv2dConfig { stride: 2, padding: 1, ..Conv2dConfig::default() };
        Ok(selfsup_kernels::conv_transpose2d(x, &mode.tensor(&self.weight), 0, config)?)
    }
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
        Self::with_init((c, k), init, bias.then_some(init), build)
    }

    /// Declares `weight` and, if it has a distribution, `bias`.
    pub fn with_init(
        (c, k): (usize, usize),
        weight: Init,
        bias: Option<Init>,
        build: &ParamBuilder,
    ) -> Result<Self> {
        let weight = build.weight("weight", &[k, c], weight)?;
        let bias = bias.map(|init| build.weight("bias", &[k], init)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// Applies the layer.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward_with(x, Activation::None, mode)
    }

    /// Applies the layer and an activation in one.
    pub fn forward_with(&self, x: &Tensor, activation: Activation, mode: Mode) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| mode.tensor(bias));
        Ok(selfsup_kernels::linear(x, &mode.tensor(&self.weight), bias.as_ref(), activation)?)
    }
}

/// Layer normalisation over the last dimension (Ba et al. 2016): (x − μ)/√(σ² + ε)·γ + β.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Var,
    bias: Var,
    eps: f64,
}

impl LayerNorm {
    /// Declares `weight` (ones) and `bias` (zeros).
    pub fn new(d: usize, eps: f64, build: &ParamBuilder) -> Result<Self> {
        Ok(Self {
            weight: build.weight("weight", &[d], Init::Constant(1.0))?,
            bias: build.weight("bias", &[d], Init::Constant(0.0))?,
            eps,
        })
    }

    /// Normalises `[.., d]`.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(selfsup_kernels::layer_norm(x, &mode.tensor(&self.weight), &mode.tensor(&self.bias), self.eps)?)
    }
}
