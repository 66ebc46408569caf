//! Transposed convolution of NHWC images: the map that a convolution's input gradient is.
//!
//! Dimension letters: n batch, h height, w width, c channels in, k channels out, s stride, p padding, d dilation,
//! o output padding, g groups. With h' = (h − 1)·s − 2p + d·(kh − 1) + o + 1, and w' alike,
//!
//! y[n, i·s + a·d − p, j·s + b·d − p, k] += x[n, i, j, c] · weight[a, b, k, c]
//!
//! over all (i, j, a, b) and the channels c of k's group, places outside y being dropped.

use super::geometry::Geometry;
use super::number::Number;
use super::{Conv2dConfig, cpu, reference};
use crate::element::{View, slice};
use crate::stored::{is_stored, with_stored};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor, WithDType};

pub(super) const OP: &str = "conv_transpose2d";

/// Convolves x `[n, h, w, c]` transposed with weight `[kh, kw, k/g, c]` to `[n, h', w', k]`.
///
/// The weight is that of PyTorch's ConvTranspose2d, `[c, k/g, kh, kw]`, permuted by (2, 3, 1, 0). `output_padding` adds
/// rows and columns at the end, to choose among the sizes that a convolution of the same stride takes to x's.
/// Gradients: x and weight. bf16 is summed and rounded as in [`conv2d`](crate::conv2d()).
///
/// # Errors
/// Shapes that do not fit each other or the groups, an output without pixels, a stride, dilation or group count of
/// 0, an output padding not below the stride, tensors of different dtypes or devices.
pub fn conv_transpose2d(
    x: &Tensor,
    weight: &Tensor,
    output_padding: usize,
    config: Conv2dConfig,
) -> Result<Tensor> {
    check::float(OP, x)?;
    check::like(OP, "weight", x, weight)?;
    let geometry = Geometry::of_transposed(x, weight, output_padding, config)?;
    if !is_stored(x) {
        return reference::conv_transpose2d(x, weight, &geometry);
    }
    Ok(x.contiguous()?.apply_op2(&weight.contiguous()?, ConvTranspose2d(geometry))?)
}

/// The geometry is that of the convolution from y to x.
struct ConvTranspose2d(Geometry);

impl ConvTranspose2d {
    fn output_shape(&self) -> Shape {
        Shape::from((self.0.n, self.0.h, self.0.w, self.0.c))
    }

    fn backward<T: Number>(
        &self,
        x: &Tensor,
        weight: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let g = &self.0;
        let dy = dy.contiguous()?;
        let views = [View::new(x)?, View::new(weight)?, View::new(&dy)?];
        let [x_data, weight_data, dy] =
            [views[0].as_slice::<T>()?, views[1].as_slice()?, views[2].as_slice()?];
        let dx = x.track_op().then(|| {
            let dx = T::forward(g, dy, weight_data, cpu::Finish::default());
            Tensor::from_vec(dx, x.shape(), x.device())
        });
        let dweight = weight.track_op().then(|| {
            let dweight = T::backward_weight(g, dy, x_data);
            Tensor::from_vec(T::narrowed(dweight.into()).into_owned(), weight.shape(), x.device())
        });
        Ok((dx.transpose()?, dweight.transpose()?))
    }
}

impl CustomOp2 for ConvTranspose2d {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let g = &self.0;
        let y = with_stored!(x.dtype(), T => {
            let (x, weight) = (slice::<T>(x, x_layout)?, slice(weight, weight_layout)?);
            T::to_cpu_storage_owned(T::backward_input(g, x, weight))
        });
        Ok((y, self.output_shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        with_stored!(x.dtype(), T => self.backward::<T>(x, weight, dy))
    }
}
