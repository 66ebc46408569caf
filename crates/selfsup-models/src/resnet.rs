//! Residual networks (He et al. 2016), NHWC, with torchvision's tensor names.
//!
//! Bottlenecks carry their stride in the 3×3 convolution, as torchvision's do ("ResNet v1.5"); the paper's
//! first version has it in the first 1×1. The classifier `fc` is not part of an encoder.

use crate::layers::{BatchNorm, Conv2d, Mode};
use crate::{Result, params::ParamBuilder};
use candle_core::Tensor;
use selfsup_kernels::Conv2dConfig;

/// What comes before the first stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stem {
    /// 7×7 convolution of stride 2, then 3×3 max-pooling of stride 2: for images from about 96 pixels up.
    ImageNet,
    /// 3×3 convolution of stride 1, no pooling: SimCLR's change for 32-pixel images (Chen et al. 2020, B.9).
    Cifar,
    /// 3×3 convolution of stride 2, no pooling: a quarter of [`Stem::Cifar`]'s work, for small images in little
    /// time.
    Halving,
}

/// The residual block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1, 3×3, 1×1, the last four times as wide.
    Bottleneck,
}

impl Block {
    /// Channels out over channels of the inner convolutions.
    pub const fn expansion(self) -> usize {
        match self {
            Block::Basic => 1,
            Block::Bottleneck => 4,
        }
    }
}

/// The shape of a residual network. Stage i works at width · 2ⁱ channels; each but the first halves the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResNetConfig {
    /// What comes first.
    pub stem: Stem,
    /// The block of every stage.
    pub block: Block,
    /// Blocks in each stage.
    pub stages: &'static [usize],
    /// Channels of the stem and the first stage: 64 in torchvision's.
    pub width: usize,
}

impl ResNetConfig {
    /// The width d of the features.
    pub const fn feature_dim(&self) -> usize {
        (self.width << (self.stages.len() - 1)) * self.block.expansion()
    }
}

/// A residual network without classifier: `[n, h, w, 3]` f32 → features `[n, d]`.
#[derive(Debug, Clone)]
pub struct ResNet {
    stem: Stem,
    conv1: Conv2d,
    bn1: BatchNorm,
    blocks: Vec<Residual>,
}

impl ResNet {
    /// Declares every tensor under torchvision's names.
    pub fn new(config: &ResNetConfig, build: &ParamBuilder) -> Result<Self> {
        let (kernel, stride) = match config.stem {
            Stem::ImageNet => (7, 2),
            Stem::Cifar => (3, 1),
            Stem::Halving => (3, 2),
        };
        let conv1 = Conv2d::new(3, config.width, kernel, square(kernel, stride), &build.part("conv1"))?;
        let bn1 = BatchNorm::new(config.width, &build.part("bn1"))?;
        let mut blocks = Vec::new();
        let mut c = config.width;
        for (stage, &count) in config.stages.iter().enumerate() {
            let width = config.width << stage;
            for index in 0..count {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let build = build.part(format_args!("layer{}.{index}", stage + 1));
                blocks.push(Residual::new(config.block, c, width, stride, &build)?);
                c = width * config.block.expansion();
            }
        }
        Ok(Self { stem: config.stem, conv1, bn1, blocks })
    }

    /// Images `[n, h, w, 3]`, normalised, to features `[n, d]`: the mean over the last stage's pixels.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = self.bn1.forward(&self.conv1.forward(x)?, None, true, mode)?;
        if self.stem == Stem::ImageNet {
            x = selfsup_kernels::max_pool2d(&x, 3, 2, 1)?;
        }
        for block in &self.blocks {
            x = block.forward(&x, mode)?;
        }
        Ok(selfsup_kernels::global_avg_pool(&x)?)
    }
}

/// One block: convolutions with their normalisations, and the projection of the shortcut where shapes change.
#[derive(Debug, Clone)]
struct Residual {
    layers: Vec<(Conv2d, BatchNorm)>,
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl Residual {
    fn new(block: Block, c: usize, width: usize, stride: usize, build: &ParamBuilder) -> Result<Self> {
        let out = width * block.expansion();
        let plan: &[(usize, usize, usize, usize)] = match block {
            Block::Basic => &[(c, width, 3, stride), (width, out, 3, 1)],
            Block::Bottleneck => &[(c, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)],
        };
        let mut layers = Vec::with_capacity(plan.len());
        for (i, &(c, k, kernel, stride)) in plan.iter().enumerate() {
            let conv = Conv2d::new(
                c,
                k,
                kernel,
                square(kernel, stride),
                &build.part(format_args!("conv{}", i + 1)),
            )?;
            layers.push((conv, BatchNorm::new(k, &build.part(format_args!("bn{}", i + 1)))?));
        }
        let downsample = if stride != 1 || c != out {
            let conv = Conv2d::new(c, out, 1, square(1, stride), &build.part("downsample.0"))?;
            Some((conv, BatchNorm::new(out, &build.part("downsample.1"))?))
        } else {
            None
        };
        Ok(Self { layers, downsample })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some((conv, bn)) => bn.forward(&conv.forward(x)?, None, false, mode)?,
            None => x.clone(),
        };
        let mut y = x.clone();
        let last = self.layers.len() - 1;
        for (i, (conv, bn)) in self.layers.iter().enumerate() {
            let residual = (i == last).then_some(&shortcut);
            y = bn.forward(&conv.forward(&y)?, residual, true, mode)?;
        }
        Ok(y)
    }
}

/// A convolution whose padding keeps the size at stride 1.
fn square(kernel: usize, stride: usize) -> Conv2dConfig {
    Conv2dConfig { stride, padding: kernel / 2, ..Conv2dConfig::default() }
}
