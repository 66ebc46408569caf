//! candle's convolution between two permutations: the oracle, and what other devices and dtypes run.
//!
//! candle's backward pass takes the rows and the columns that no window reaches to be equally many. So the image
//! is padded here and cut to what the windows see.

use super::geometry::Geometry;
use crate::Result;
use candle_core::Tensor;

pub(super) fn conv2d(x: &Tensor, weight: &Tensor, g: &Geometry) -> Result<Tensor> {
    let x = x.permute((0, 3, 1, 2))?;
    let x = x.pad_with_zeros(2, g.pad_h, g.pad_h)?.pad_with_zeros(3, g.pad_w, g.pad_w)?;
    let seen = |out: usize, kernel: usize| (out - 1) * g.stride + g.dilation * (kernel - 1) + 1;
    let x = x.narrow(2, 0, seen(g.out_h, g.kh))?.narrow(3, 0, seen(g.out_w, g.kw))?.contiguous()?;
    let weight = weight.permute((3, 2, 0, 1))?.contiguous()?;
    let y = x.conv2d(&weight, 0, g.stride, g.dilation, g.groups)?;
    Ok(y.permute((0, 2, 3, 1))?.contiguous()?)
}

/// The convolution, with the weight's taps in reverse, of x with s − 1 zeros between its pixels. `g` is the
/// geometry of the convolution from y to x.
pub(super) fn conv_transpose2d(x: &Tensor, weight: &Tensor, g: &Geometry) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    let s = g.stride;
    let x = x.reshape((n, h, 1, w, 1, c))?.pad_with_zeros(2, 0, s - 1)?.pad_with_zeros(4, 0, s - 1)?;
    let x = x.reshape((n, h * s, w * s, c))?;
    // y's pixel i sees the stuffed x at i + p − a·d.
    let x = fit(&x, 1, g.dilation * (g.kh - 1), g.pad_h, g.h)?;
    let x = fit(&x, 2, g.dilation * (g.kw - 1), g.pad_w, g.w)?;
    let (groups, group_k, group_c) = (g.groups, g.group_c(), g.group_k());
    let mut flipped = weight.clone();
    for dim in 0..2 {
        let taps = flipped.dim(dim)? as u32;
        let reversed: Vec<u32> = (0..taps).rev().collect();
        flipped = flipped.index_select(&Tensor::new(reversed, weight.device())?, dim)?;
    }
    let weight = flipped.reshape((g.kh * g.kw, group_k, groups, group_c))?.permute((0, 3, 2, 1))?;
    let weight = weight.reshape((g.kh, g.kw, group_c, groups * group_k))?;
    let plain = Geometry {
        h: x.dim(1)?,
        w: x.dim(2)?,
        c,
        k: g.c,
        out_h: g.h,
        out_w: g.w,
        stride: 1,
        pad_h: 0,
        pad_w: 0,
        ..*g
    };
    conv2d(&x, &weight, &plain)
}

/// Pads or cuts an axis so that a kernel that reaches over `reach` more pixels leaves `out`.
fn fit(x: &Tensor, dim: usize, reach: usize, padding: usize, out: usize) -> Result<Tensor> {
    let x = x.pad_with_zeros(dim, reach, (out + reach + padding).saturating_sub(x.dim(dim)?))?;
    Ok(x.narrow(dim, padding, out + reach)?)
}
