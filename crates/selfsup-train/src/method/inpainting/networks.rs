//! What completes a picture from an encoder's map, and what judges it.
//!
//! Letters: n images, s side of the map, c channels.

use crate::Result;
use candle_core::{Device, Tensor, Var};
use selfsup_models::params::{ParamBuilder, Params};
use selfsup_models::{BatchNorm, Conv, Decoder, Encoder, Init, Linear, Mode, halving_widths};

/// Decoders and discriminators do not grow thinner or wider than this.
const LEAST_WIDTH: usize = 16;
const MOST_WIDTH: usize = 512;
/// Side of the map that the discriminator's verdict is made of, at most.
const VERDICT_SIDE: usize = 4;
/// Slope of the discriminator's leaky ReLU below 0 (DCGAN's).
const LEAK: f64 = 0.2;

/// Map `[n, s, s, c]` → picture `[n, side, side, 3]` in −1…1.
pub(super) struct Completion {
    /// `[c, s², s²]`: each channel's pixels to all of its pixels.
    across: Var,
    along: Linear,
    norm: BatchNorm,
    decoder: Decoder,
    side: usize,
    pub params: Params,
}

impl Completion {
    pub fn new(encoder: &Encoder, side: usize, width: usize, seed: u64) -> Result<Self> {
        let config = &encoder.arch().config;
        let (c, image_size) = (config.last_layer().channels(), encoder.preprocessing().image_size);
        let s = config.map_side(config.last_layer(), image_size);
        let build = ParamBuilder::new(seed, encoder.device());
        let part = build.part("decoder");
        let init = Init::LinearUniform { fan_in: s * s };
        let across = part.weight("across.weight", &[c, s * s, s * s], init)?;
        let along = Linear::new(c, width, false, &part.part("along"))?;
        let norm = BatchNorm::new(width, &part.part("along.bn"))?;
        let doublings = (side as f64 / s as f64).log2().round().max(0.0) as usize;
        let widths = halving_widths(width / 2, LEAST_WIDTH, doublings);
        let decoder = Decoder::new(width, &widths, 3, &part)?;
        Ok(Self { across, along, norm, decoder, side, params: build.finish() })
    }

    pub fn forward(&self, map: &Tensor, mode: Mode) -> Result<Tensor> {
        let (n, h, w, c) = map.dims4()?;
        // [n, s², c] → [c, n, s²]·[c, s², s²] → [n, s², c].
        let x = map.reshape((n, h * w, c))?.permute((2, 0, 1))?.contiguous()?;
        let across = if mode == Mode::TrainNoGrad {
            self.across.as_detached_tensor()
        } else {
            self.across.as_tensor().clone()
        };
        let x = x.matmul(&across)?.permute((1, 2, 0))?.contiguous()?.reshape((n, h, w, c))?;
        let x = self.norm.forward(&self.along.forward(&x, mode)?, None, true, mode)?;
        let x = self.decoder.forward(&x, mode)?;
        let x = if x.dim(1)? == self.side {
            x
        } else {
            selfsup_kernels::resize_bilinear(&x, self.side, self.side, false)?
        };
        Ok(x.tanh()?)
    }
}

/// Pictures `[n, side, side, 3]` → logits `[n, 1]` of being true: 4×4 convolutions of stride 2, normalised but for the first, then a linear
/// layer (DCGAN's discriminator).
pub(super) struct Discriminator {
    layers: Vec<(Conv, Option<BatchNorm>)>,
    verdict: Linear,
    pub params: Params,
}

impl Discriminator {
    pub fn new(side: usize, width: usize, device: &Device, seed: u64) -> Result<Self> {
        let build = ParamBuilder::new(seed, device);
        let part = build.part("discriminator");
        let (mut side, mut c, mut next) = (side, 3, width);
        let mut layers = Vec::new();
        while side > VERDICT_SIDE || layers.is_empty() {
            let part = part.part(layers.len());
            let norm = (!layers.is_empty()).then(|| BatchNorm::new(next, &part.part("bn"))).transpose()?;
            layers.push((Conv::new((c, next), 4, 2, &part)?, norm));
            (side, c) = (side / 2, next);
            next = (2 * next).min(MOST_WIDTH.max(width));
        }
        let verdict = Linear::new(side * side * c, 1, true, &part.part("verdict"))?;
        Ok(Self { layers, verdict, params: build.finish() })
    }

    pub fn forward(&self, pictures: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = pictures.clone();
        for (conv, norm) in &self.layers {
            x = conv.forward(&x, mode)?;
            if let Some(norm) = norm {
                x = norm.forward(&x, None, false, mode)?;
            }
            x = ((selfsup_kernels::relu(&x)? * (1.0 - LEAK))? + (x * LEAK)?)?;
        }
        Ok(self.verdict.forward(&x.flatten_from(1)?, mode)?)
    }
}
