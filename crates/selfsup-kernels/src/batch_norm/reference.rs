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
    let size = x.dim(0)? / config.groups;
    let (mut y, mut mean, mut var) = (Vec::new(), Vec::new(), Vec::new());
    for group in 0..config.groups {
        let part = |t: &Tensor| t.narrow(0, group * size, size);
        let x = part(x)?;
        let rows = x.reshape(((), c))?;
        let own_mean = rows.mean(0)?;
        let own_var = rows.broadcast_sub(&own_mean)?.sqr()?.mean(0)?;
        let residual = residual.map(part).transpose()?;
        y.push(normalize(&x, weight, bias, &own_mean, &own_var, residual.as_ref(), config)?);
        mean.push(own_mean.detach());
        var.push(own_var.detach());
    }
    let mean_over_groups = |all: &[Tensor]| Tensor::stack(all, 0)?.mean(0);
    Ok(BatchNormOutput {
        y: Tensor::cat(&y, 0)?,
        mean: mean_over_groups(&mean)?,
        var: mean_over_groups(&var)?,
    })
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
