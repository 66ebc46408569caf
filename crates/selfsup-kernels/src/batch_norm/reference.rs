//! The formula in candle's operations: the oracle, and what other devices and dtypes run.

use super::{BatchNormConfig, BatchNormOutput};
use crate::{Result, relu};
use candle_core::Tensor;

pub(super) fn train(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    residual: Option<&Tensor>,
    config: BatchNormConfig,
) -> Result<BatchNormOutput> {
    let c = weight.dims1()?;
    let rows = x.reshape(((), c))?;
    let mean = rows.mean(0)?;
    let var = rows.broadcast_sub(&mean)?.sqr()?.mean(0)?;
    let y = normalize(x, weight, bias, &mean, &var, residual, config)?;
    Ok(BatchNormOutput { y, mean: mean.detach(), var: var.detach() })
}

pub(super) fn eval(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    residual: Option<&Tensor>,
    config: BatchNormConfig,
) -> Result<Tensor> {
    normalize(x, weight, bias, &mean.detach(), &var.detach(), residual, config)
}

fn normalize(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    residual: Option<&Tensor>,
    config: BatchNormConfig,
) -> Result<Tensor> {
    let std = (var + config.eps)?.sqrt()?;
    let y = x.broadcast_sub(mean)?.broadcast_div(&std)?.broadcast_mul(weight)?.broadcast_add(bias)?;
    let y = match residual {
        Some(residual) => (y + residual)?,
        None => y,
    };
    if config.relu { relu::reference(&y) } else { Ok(y) }
}
