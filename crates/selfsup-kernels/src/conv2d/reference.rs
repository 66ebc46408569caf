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
