//! Convolution whose weights do not change: for networks that are trained no more.

use super::packed::Packed;
use super::{Conv2dConfig, Epilogue, checked, conv2d_with, cpu};
use crate::Result;
use crate::element::View;
use candle_core::{DType, Tensor};
use pulp::Arch;
use std::sync::Arc;

/// A convolution with bias, its weights kept as the CPU's sums of products read them: packed once, not each time, which with one small
/// image takes longer than the sums. The numbers are those of [`conv2d_with`], to the bit.
///
/// It gives no gradients: where x or a residual leads to a variable, in other dtypes than f32 and on other devices it is [`conv2d_with`].
/// Packed weights are two to three times as large as the weights, and are there from the first image on.
#[derive(Clone)]
pub struct FixedConv2d {
    weight: Tensor,
    bias: Tensor,
    config: Conv2dConfig,
    packed: Arc<Packed<f32>>,
}

impl std::fmt::Debug for FixedConv2d {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FixedConv2d({:?}, {:?})", self.weight.dims(), self.config)
    }
}

impl FixedConv2d {
    /// Of a weight `[kh, kw, c/g, k]` and a bias `[k]`, whose numbers nobody sets from now on.
    ///
    /// # Errors
    /// candle's, for what cannot be made contiguous.
    pub fn new(weight: &Tensor, bias: &Tensor, config: Conv2dConfig) -> Result<Self> {
        let (weight, bias) = (weight.detach().contiguous()?, bias.detach().contiguous()?);
        Ok(Self { weight, bias, config, packed: Arc::default() })
    }

    /// x `[n, h, w, c]` → `[n, h', w', k]`, with the residual and ReLU of [`Epilogue`].
    ///
    /// # Errors
    /// Those of [`conv2d_with`].
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>, relu: bool) -> Result<Tensor> {
        let epilogue = Epilogue { bias: Some(&self.bias), residual, relu };
        let constant = !x.track_op() && residual.is_none_or(|residual| !residual.track_op());
        if !(constant && x.dtype() == DType::F32 && x.device().is_cpu()) {
            return conv2d_with(x, &self.weight, epilogue, self.config);
        }
        let geometry = checked(x, &self.weight, epilogue, self.config)?;
        let (x, residual) = (x.contiguous()?, residual.map(Tensor::contiguous).transpose()?);
        let (x, weight, bias) = (View::new(&x)?, View::new(&self.weight)?, View::new(&self.bias)?);
        let residual = residual.as_ref().map(View::new).transpose()?;
        let finish = cpu::Finish {
            bias: Some(bias.as_slice()?),
            residual: residual.as_ref().map(View::as_slice).transpose()?,
            relu,
        };
        let path = cpu::path(&geometry);
        let (x, weight) = (x.as_slice()?, weight.as_slice()?);
        let y = cpu::forward(Arch::new(), path, &geometry, x, weight, Some(&self.packed), finish);
        Ok(Tensor::from_vec(y, geometry.output_shape(), self.weight.device())?)
    }
}
