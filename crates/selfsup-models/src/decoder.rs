//! The head of the methods that predict pictures: maps → maps of more pixels.
//!
//! Letters: n images, h rows, w columns, c channels in, k channels out.

use crate::layers::{BatchNorm, Conv, ConvTranspose, Mode};
use crate::{Error, Result, params::ParamBuilder};
use candle_core::Tensor;

/// Transposed convolutions of 4×4 pixels and stride 2, each normalised and with ReLU, then a 3×3 convolution with a bias:
/// `[n, h, w, c]` → `[n, 2ᵗ·h, 2ᵗ·w, k]` with t widths (the shape of DCGAN's generator and of the context encoder's decoder).
#[derive(Debug, Clone)]
pub struct Decoder {
    doublings: Vec<(ConvTranspose, BatchNorm)>,
    last: Conv,
}

impl Decoder {
    /// Declares `0.weight`, `0.bn.weight`, …, the widths being those behind each doubling.
    pub fn new(c: usize, widths: &[usize], k: usize, build: &ParamBuilder) -> Result<Self> {
        if widths.contains(&0) || k == 0 {
            return Err(Error::Size { name: "a decoder's width", expected: "at least 1", got: 0 });
        }
        let mut c = c;
        let mut doublings = Vec::with_capacity(widths.len());
        for (i, &width) in widths.iter().enumerate() {
            let part = build.part(i);
            doublings
                .push((ConvTranspose::new((c, width), &part)?, BatchNorm::new(width, &part.part("bn"))?));
            c = width;
        }
        let last = Conv::new((c, k), 3, 1, &build.part(widths.len()))?;
        Ok(Self { doublings, last })
    }

    /// Applies the layers.
    pub fn forward(&self, map: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = map.clone();
        for (doubling, norm) in &self.doublings {
            x = norm.forward(&doubling.forward(&x, mode)?, None, true, mode)?;
        }
        self.last.forward(&x, mode)
    }
}

/// Widths that halve from `first`, down to `least`, one for each of `doublings`.
pub fn halving_widths(first: usize, least: usize, doublings: usize) -> Vec<usize> {
    (0..doublings as u32).map(|i| (first >> i.min(usize::BITS - 1)).max(least)).collect()
}
