//! Vision transformers (Dosovitskiy et al. 2021, arXiv:2010.11929), with timm's tensor names.
//!
//! Letters: n images, t tokens, d width, h heads. An image is cut into square patches, each mapped to d numbers; a class token
//! stands before them, whose last state is the features. Blocks are
//!
//! x ← x + MSA(LN(x)),  x ← x + W₂·gelu(W₁·LN(x)),   MSA: softmax(q·kᵀ/√(d/h))·v in each head, then a linear map.
//!
//! Images of another size than the positional embeddings' get them resized, bilinearly (DINO's code does so bicubically). There is no
//! dropout and no stochastic depth.

use crate::layers::{LayerNorm, Linear, Mode};
use crate::{Error, Init, Result, params::ParamBuilder};
use candle_core::{D, Tensor, Var};
use selfsup_kernels::{Activation, Conv2dConfig, Epilogue, Gelu, conv2d_with, resize_bilinear, softmax};

/// ε of the layer normalisations: timm's.
pub(crate) const EPS: f64 = 1e-6;
/// Standard deviation of the first weights, as in DeiT, DINO and timm (whose truncation at 2 no draw reaches).
const STD: f64 = 0.02;
/// Width of the hidden layer over d.
pub(crate) const MLP_RATIO: usize = 4;

/// The shape of a vision transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VitConfig {
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// d.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// h, which divides d.
    pub heads: usize,
    /// Side of the images that the positional embeddings are for, in pixels.
    pub image_size: usize,
}

/// A vision transformer without classifier: `[n, side, side, 3]` f32 → features `[n, d]`.
#[derive(Debug, Clone)]
pub struct VisionTransformer {
    config: VitConfig,
    patch_weight: Var,
    patch_bias: Var,
    class_token: Var,
    /// `[1, 1 + grid², d]`, the class token's first.
    positions: Var,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

#[derive(Debug, Clone)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    projection: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl VisionTransformer {
    /// Declares every tensor under timm's names.
    pub fn new(config: &VitConfig, build: &ParamBuilder) -> Result<Self> {
        let VitConfig { patch, width: d, depth, .. } = *config;
        let grid = config.image_size / patch;
        let normal = Init::Normal { std: STD };
        let fan_in = Init::LinearUniform { fan_in: 3 * patch * patch };
        let class_token = build.weight("cls_token", &[1, 1, d], normal)?;
        let positions = build.weight("pos_embed", &[1, 1 + grid * grid, d], normal)?;
        let embed = build.part("patch_embed.proj");
        let patch_weight = embed.conv_weight("weight", [patch, patch, 3, d], fan_in)?;
        let patch_bias = embed.weight("bias", &[d], fan_in)?;
        let linear =
            |c, k, build: &ParamBuilder| Linear::with_init((c, k), normal, Some(Init::Constant(0.0)), build);
        let blocks = (0..depth)
            .map(|i| {
                let build = build.part(format_args!("blocks.{i}"));
                Ok(Block {
                    norm1: LayerNorm::new(d, EPS, &build.part("norm1"))?,
                    qkv: linear(d, 3 * d, &build.part("attn.qkv"))?,
                    projection: linear(d, d, &build.part("attn.proj"))?,
                    norm2: LayerNorm::new(d, EPS, &build.part("norm2"))?,
                    fc1: linear(d, MLP_RATIO * d, &build.part("mlp.fc1"))?,
                    fc2: linear(MLP_RATIO * d, d, &build.part("mlp.fc2"))?,
                })
            })
            .collect::<Result<_>>()?;
        let norm = LayerNorm::new(d, EPS, &build.part("norm"))?;
        Ok(Self { config: *config, patch_weight, patch_bias, class_token, positions, blocks, norm })
    }

    /// The layers in order, by name and width: each block under timm's name.
    pub fn layers(config: &VitConfig) -> Vec<(String, usize)> {
        (0..config.depth).map(|i| (format!("blocks.{i}"), config.width)).collect()
    }

    /// Images, normalised, whose sides are multiples of the patch's, to features: the class token behind the last normalisation.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let (n, d) = (x.dim(0)?, self.config.width);
        let (mut x, _) = self.tokens(x, mode)?;
        for block in &self.blocks {
            x = block.forward(&x, self.config.heads, mode)?;
        }
        // The normalisation goes token by token: only the class token's is needed.
        self.norm.forward(&x.narrow(1, 0, 1)?.reshape((n, d))?, mode)
    }

    /// The same, but the patches' tokens behind some blocks, in their places: `[n, height, width, d]` each, not normalised. `at`
    /// are places in [`VisionTransformer::layers`], ascending; what comes after the last of them is not computed.
    pub fn maps(&self, x: &Tensor, mode: Mode, at: &[usize]) -> Result<Vec<Tensor>> {
        let (n, d) = (x.dim(0)?, self.config.width);
        let (mut x, (height, width)) = self.tokens(x, mode)?;
        let mut maps = Vec::with_capacity(at.len());
        let mut next = 0;
        for &place in at {
            for block in &self.blocks[next..place + 1] {
                x = block.forward(&x, self.config.heads, mode)?;
            }
            next = place + 1;
            maps.push(x.narrow(1, 1, height * width)?.contiguous()?.reshape((n, height, width, d))?);
        }
        Ok(maps)
    }

    /// The patches' tokens behind the last normalisation, in their places: `[n, height, width, d]`.
    pub fn last_map(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let map = self.maps(x, mode, &[self.blocks.len() - 1])?.remove(0);
        self.norm.forward(&map, mode)
    }

    /// Class token and patches `[n, t, d]` with their positions, and the grid's height and width.
    fn tokens(&self, x: &Tensor, mode: Mode) -> Result<(Tensor, (usize, usize))> {
        let VitConfig { patch, width: d, .. } = self.config;
        let (n, rows, columns, _) = x.dims4()?;
        for side in [rows, columns] {
            if !side.is_multiple_of(patch) {
                return Err(Error::Patch { patch, side });
            }
        }
        let bias = mode.tensor(&self.patch_bias);
        let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
        let config = Conv2dConfig { stride: patch, ..Conv2dConfig::default() };
        let patches = conv2d_with(x, &mode.tensor(&self.patch_weight), epilogue, config)?;
        let (height, width) = (rows / patch, columns / patch);
        let patches = patches.reshape((n, height * width, d))?;
        let class = mode.tensor(&self.class_token).broadcast_as((n, 1, d))?;
        let positions = self.positions_of(height, width, mode)?;
        Ok((Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&positions)?, (height, width)))
    }

    /// The positional embeddings of a grid of patches.
    fn positions_of(&self, height: usize, width: usize, mode: Mode) -> Result<Tensor> {
        let grid = self.config.image_size / self.config.patch;
        let all = mode.tensor(&self.positions);
        if (height, width) == (grid, grid) {
            return Ok(all);
        }
        let d = self.config.width;
        let patches = all.narrow(1, 1, grid * grid)?.reshape((1, grid, grid, d))?;
        let patches = resize_bilinear(&patches, height, width, false)?.reshape((1, height * width, d))?;
        Ok(Tensor::cat(&[&all.narrow(1, 0, 1)?, &patches], 1)?)
    }
}

impl Block {
    fn forward(&self, x: &Tensor, heads: usize, mode: Mode) -> Result<Tensor> {
        let x = (x + self.attention(&self.norm1.forward(x, mode)?, heads, mode)?)?;
        let gelu = Activation::Gelu(Gelu::Exact);
        let hidden = self.fc1.forward_with(&self.norm2.forward(&x, mode)?, gelu, mode)?;
        Ok((x + self.fc2.forward(&hidden, mode)?)?)
    }

    fn attention(&self, x: &Tensor, heads: usize, mode: Mode) -> Result<Tensor> {
        let (n, t, d) = x.dims3()?;
        let width = d / heads;
        let qkv = self.qkv.forward(x, mode)?.reshape((n, t, 3, heads, width))?.permute((2, 0, 3, 1, 4))?;
        let part = |i: usize| qkv.narrow(0, i, 1)?.squeeze(0)?.contiguous();
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scores =
            (q.matmul(&k.transpose(D::Minus2, D::Minus1)?.contiguous()?)? * (width as f64).powf(-0.5))?;
        let mixed = softmax(&scores)?.matmul(&v)?;
        self.projection.forward(&mixed.transpose(1, 2)?.contiguous()?.reshape((n, t, d))?, mode)
    }
}
