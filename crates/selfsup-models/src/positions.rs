//! Positional embeddings of another grid of patches, resampled when a file is loaded.
//!
//! Bicubic with a = −½, and, where the new grid is coarser, over as much more of the old one (Keys 1981, eq. 15 of the kernel; the
//! support of Pillow's resampling): what timm's `resample_abs_pos_embed` does.

use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// Of the cubic kernel.
const A: f64 = -0.5;
/// The kernel's reach at scale 1.
const REACH: f64 = 2.0;

/// Positions `[1, 1 + g², d]`, the class token's and those of a g×g grid, on a grid of `new`×`new`. Worked out in f64.
///
/// # Errors
/// A shape that is no such one.
pub fn resample(positions: &Tensor, new: usize) -> Result<Tensor> {
    let (_, tokens, d) = positions.dims3()?;
    let old = tokens.saturating_sub(1).isqrt();
    if old == 0 || 1 + old * old != tokens {
        return Err(Error::Size {
            name: "the number of positions",
            expected: "1 + g² of a square grid",
            got: tokens,
        });
    }
    if old == new {
        return Ok(positions.clone());
    }
    let weights = Tensor::from_vec(weights(old, new), (new, old), positions.device())?;
    let grid = positions.narrow(1, 1, old * old)?.to_dtype(DType::F64)?.contiguous()?;
    // Rows, then columns.
    let rows = weights.matmul(&grid.reshape((old, old * d))?)?.reshape((new, old, d))?;
    let turned = rows.transpose(0, 1)?.contiguous()?.reshape((old, new * d))?;
    let both = weights.matmul(&turned)?.reshape((new, new, d))?.transpose(0, 1)?.contiguous()?;
    let both = both.reshape((1, new * new, d))?.to_dtype(positions.dtype())?;
    Ok(Tensor::cat(&[&positions.narrow(1, 0, 1)?, &both], 1)?)
}

/// A row for each new place: the shares of the old ones.
fn weights(old: usize, new: usize) -> Vec<f64> {
    let scale = old as f64 / new as f64;
    // A coarser grid takes the mean of more.
    let stretch = scale.max(1.0);
    let mut weights = vec![0f64; new * old];
    for (place, row) in weights.chunks_exact_mut(old).enumerate() {
        let centre = (place as f64 + 0.5) * scale;
        for (at, weight) in row.iter_mut().enumerate() {
            *weight = cubic((at as f64 + 0.5 - centre) / stretch);
        }
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|weight| *weight /= sum);
    }
    weights
}

fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < REACH {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
