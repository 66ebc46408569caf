//! Residual networks (He et al. 2016), NHWC, with torchvision's tensor names.
//!
//! Bottlenecks carry their stride in the 3×3 convolution, as torchvision's do ("ResNet v1.5"), or in the first 1×1, as the paper's
//! first version, Caffe's and Keras's do ([`Block::BottleneckV1`]). The classifier `fc` is not part of an encoder.

use crate::layers::{BATCH_NORM_EPS, ConvNorm, Mode};
use crate::{Result, params::ParamBuilder};
use candle_core::{DType, Tensor};
use selfsup_kernels::{BatchNormConfig, ResidualBlock, residual_blocks_train};
use std::ops::Range;

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
    /// 1×1, 3×3, 1×1, the last four times as wide. Where the image is halved, the 3×3 does it.
    Bottleneck,
    /// The same, but where the image is halved, the first 1×1 does it, which so drops three of four pixels: He et al. 2016 as published, with
    /// the same tensors.
    BottleneckV1,
    /// [`Block::Bottleneck`] with inner convolutions twice as wide (Zagoruyko & Komodakis 2016, arXiv:1605.07146).
    WideBottleneck,
}

impl Block {
    /// Channels out over a stage's width.
    pub const fn expansion(self) -> usize {
        match self {
            Block::Basic => 1,
            Block::Bottleneck | Block::BottleneckV1 | Block::WideBottleneck => 4,
        }
    }

    /// Channels of the inner convolutions, of a stage's width.
    pub const fn inner(self, width: usize) -> usize {
        match self {
            Block::WideBottleneck => 2 * width,
            _ => width,
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
    /// Whether the stem ends with pooling.
    pool: bool,
    /// The stem, then the blocks.
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
        let (conv, norm) = (build.part("conv1"), build.part("bn1"));
        let conv1 = ConvNorm::new((3, config.width), kernel, stride, &conv, &norm)?;
        let mut blocks = vec![Residual { layers: vec![conv1], shortcut: Shortcut::Nothing }];
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
        Ok(Self { pool: config.stem == Stem::ImageNet, blocks })
    }

    /// The layers in order, by name and channels: the stem with its pooling, then each block under torchvision's name.
    pub fn layers(config: &ResNetConfig) -> Vec<(String, usize)> {
        let mut layers = vec![("stem".to_owned(), config.width)];
        for (stage, &count) in config.stages.iter().enumerate() {
            let channels = (config.width << stage) * config.block.expansion();
            layers.extend((0..count).map(|index| (format!("layer{}.{index}", stage + 1), channels)));
        }
        layers
    }

    /// Side of the map behind a place in [`ResNet::layers`], of images of a side.
    pub fn map_side(config: &ResNetConfig, place: usize, image_side: usize) -> usize {
        let mut halvings = match config.stem {
            Stem::ImageNet => 2,
            Stem::Cifar => 0,
            Stem::Halving => 1,
        };
        // A stage's first block halves, but for the first stage's.
        let mut first = 1;
        for (stage, count) in config.stages.iter().enumerate() {
            halvings += usize::from(stage > 0 && place >= first);
            first += count;
        }
        (0..halvings).fold(image_side, |side, _| side.div_ceil(2))
    }

    /// Images `[n, h, w, 3]`, normalised, to features `[n, d]`: the mean over the last stage's pixels. Training takes images in
    /// bf16 too, and works in it, with features in f32 ([`selfsup_kernels::residual_blocks_train`]).
    ///
    /// In training the batch consists of `groups` equal parts one after the other, each normalised by its own statistics
    /// ([`BatchNormConfig::groups`]).
    pub fn forward(&self, x: &Tensor, mode: Mode, groups: usize) -> Result<Tensor> {
        Ok(selfsup_kernels::global_avg_pool(&self.last_map(x, mode, groups)?)?)
    }

    /// What the features are the mean of: `[n, h, w, d]` f32.
    pub fn last_map(&self, x: &Tensor, mode: Mode, groups: usize) -> Result<Tensor> {
        Ok(self.maps(x, mode, groups, &[self.blocks.len() - 1])?.remove(0))
    }

    /// The same, but what stands behind some layers: `[n, h, w, c]` f32 each. `at` are places in [`ResNet::layers`], ascending;
    /// what comes after the last of them is not computed.
    pub fn maps(&self, x: &Tensor, mode: Mode, groups: usize, at: &[usize]) -> Result<Vec<Tensor>> {
        let mut x = x.clone();
        let mut maps = Vec::with_capacity(at.len());
        let mut next = 0;
        for &place in at {
            if next == 0 && self.pool {
                x = selfsup_kernels::max_pool2d(&self.run(&x, 0..1, mode, groups)?, 3, 2, 1)?;
                next = 1;
            }
            if next <= place {
                x = self.run(&x, next..place + 1, mode, groups)?;
                next = place + 1;
            }
            maps.push(if x.dtype() == DType::BF16 { x.to_dtype(DType::F32)? } else { x.clone() });
        }
        Ok(maps)
    }

    /// Fixes every layer's evaluation.
    pub(crate) fn fix(&mut self) -> Result<()> {
        for block in &mut self.blocks {
            block.layers.iter_mut().try_for_each(ConvNorm::fix)?;
            if let Shortcut::Projection(layer) = &mut block.shortcut {
                layer.fix()?;
            }
        }
        Ok(())
    }

    fn run(&self, x: &Tensor, blocks: Range<usize>, mode: Mode, groups: usize) -> Result<Tensor> {
        let blocks = &self.blocks[blocks];
        match mode {
            Mode::Train | Mode::TrainNoGrad => train(x, blocks, mode, groups),
            Mode::Eval | Mode::EvalNoGrad => {
                blocks.iter().try_fold(x.clone(), |x, block| block.forward_eval(&x, mode))
            }
        }
    }
}

/// Blocks in training, as one operation; their running statistics move.
fn train(x: &Tensor, blocks: &[Residual], mode: Mode, groups: usize) -> Result<Tensor> {
    let norm = BatchNormConfig { eps: BATCH_NORM_EPS, groups, ..BatchNormConfig::default() };
    let params: Vec<Vec<[Tensor; 3]>> = blocks
        .iter()
        .map(|block| block.layers.iter().chain(block.projection()).map(|layer| layer.params(mode)).collect())
        .collect();
    let kernels: Vec<ResidualBlock<'_>> =
        blocks.iter().zip(&params).map(|(block, params)| block.as_kernel(params)).collect();
    let out = residual_blocks_train(x, &kernels, norm)?;
    let layers = blocks.iter().flat_map(|block| block.layers.iter().chain(block.projection()));
    for (layer, batch) in layers.zip(&out.statistics) {
        layer.update(batch)?;
    }
    Ok(out.y)
}

/// One block: convolutions with their normalisations, and what goes round them.
#[derive(Debug, Clone)]
struct Residual {
    layers: Vec<ConvNorm>,
    shortcut: Shortcut,
}

/// What is added to a block's last layer.
#[derive(Debug, Clone)]
enum Shortcut {
    /// Nothing: the stem.
    Nothing,
    Identity,
    /// Where shapes change.
    Projection(ConvNorm),
}

impl Residual {
    fn new(block: Block, c: usize, width: usize, stride: usize, build: &ParamBuilder) -> Result<Self> {
        let out = width * block.expansion();
        let inner = block.inner(width);
        let plan: &[(usize, usize, usize, usize)] = match block {
            Block::Basic => &[(c, width, 3, stride), (width, out, 3, 1)],
            Block::Bottleneck | Block::WideBottleneck => {
                &[(c, inner, 1, 1), (inner, inner, 3, stride), (inner, out, 1, 1)]
            }
            Block::BottleneckV1 => &[(c, inner, 1, stride), (inner, inner, 3, 1), (inner, out, 1, 1)],
        };
        let mut layers = Vec::with_capacity(plan.len());
        for (i, &(c, k, kernel, stride)) in plan.iter().enumerate() {
            let part = |name: &str| build.part(format_args!("{name}{}", i + 1));
            layers.push(ConvNorm::new((c, k), kernel, stride, &part("conv"), &part("bn"))?);
        }
        let shortcut = if stride != 1 || c != out {
            let (conv, norm) = (build.part("downsample.0"), build.part("downsample.1"));
            Shortcut::Projection(ConvNorm::new((c, out), 1, stride, &conv, &norm)?)
        } else {
            Shortcut::Identity
        };
        Ok(Self { layers, shortcut })
    }

    fn projection(&self) -> Option<&ConvNorm> {
        match &self.shortcut {
            Shortcut::Projection(layer) => Some(layer),
            _ => None,
        }
    }

    /// With each layer's parameters, the projection's last.
    fn as_kernel<'a>(&self, params: &'a [[Tensor; 3]]) -> ResidualBlock<'a> {
        let (own, behind) = params.split_at(self.layers.len());
        ResidualBlock {
            layers: self.layers.iter().zip(own).map(|(layer, params)| layer.as_kernel(params)).collect(),
            shortcut: match &self.shortcut {
                Shortcut::Nothing => selfsup_kernels::Shortcut::Nothing,
                Shortcut::Identity => selfsup_kernels::Shortcut::Identity,
                Shortcut::Projection(layer) => {
                    selfsup_kernels::Shortcut::Projection(layer.as_kernel(&behind[0]))
                }
            },
        }
    }

    fn forward_eval(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let shortcut = match &self.shortcut {
            Shortcut::Nothing => None,
            Shortcut::Identity => Some(x.clone()),
            Shortcut::Projection(layer) => Some(layer.forward_eval(x, None, false, mode)?),
        };
        let mut y = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            let residual = shortcut.as_ref().filter(|_| i + 1 == self.layers.len());
            y = layer.forward_eval(&y, residual, true, mode)?;
        }
        Ok(y)
    }
}
