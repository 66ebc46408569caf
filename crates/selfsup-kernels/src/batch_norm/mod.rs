//! Batch normalisation (Ioffe & Szegedy 2015, algorithm 1) with an optional residual and ReLU in the same pass.
//!
//! Dimension letters: c channels, m the product of all other dimensions. For each channel, with μ and σ² its mean
//! and biased variance (over the batch in training, the running ones in evaluation),
//!
//! x̂ = (x − μ)/√(σ² + ε),  y = act(x̂·γ + β + residual),  act = ReLU or nothing.
//!
//! With g = dy where act passes it and 0 elsewhere, the gradients are dresidual = g, dβ = Σ g, dγ = Σ g·x̂ and, in
//! training, dx = γ/√(σ² + ε) · (g − dβ/m − x̂·dγ/m); in evaluation the last two terms are absent.

pub(crate) mod cpu;
mod reference;
pub(crate) mod statistics;

use crate::element::{Element, View, on_fast_path, slice, with_element};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};
use cpu::{Affine, Gate};
use statistics::BatchStatistics;
use std::borrow::Cow;

const TRAIN: &str = "batch_norm_train";
const EVAL: &str = "batch_norm_eval";

/// The parameters of a batch normalisation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormConfig {
    /// Added to the variance; above 0.
    pub eps: f64,
    /// Whether ReLU follows. Its gradient at 0 is 0.
    pub relu: bool,
    /// How many equal consecutive parts of the batch [`batch_norm_train`] gives statistics of their own, as several
    /// devices do that each hold a part (MoCo's shuffled normalisation: He et al. 2020, §3.3). 1 is the whole batch;
    /// it must divide the first dimension.
    pub groups: usize,
}

impl Default for BatchNormConfig {
    /// ε = 10⁻⁵, PyTorch's default, no ReLU, one group.
    fn default() -> Self {
        Self { eps: 1e-5, relu: false, groups: 1 }
    }
}

/// What a normalisation over the batch's own statistics returns.
#[derive(Debug, Clone)]
pub struct BatchNormOutput {
    /// The result, of x's shape.
    pub y: Tensor,
    /// Each channel's mean `[c]`, without gradient.
    pub mean: Tensor,
    /// Each channel's biased variance Σ(x − μ)²/m `[c]`, without gradient. PyTorch puts m/(m − 1) times this
    /// into its running variance.
    ///
    /// Of several groups, mean and variance are the means over the groups' own, and m is a group's: what running
    /// statistics take is then the expected statistics of a group, as that is what the network saw in training.
    /// PyTorch's data-parallel training keeps those of the first device, which are the same but noisier.
    pub var: Tensor,
}

/// Normalises x `[.., c]` with the batch's statistics, or those of each of its groups; weight γ and bias β `[c]`, the residual of x's shape.
///
/// The statistics are summed as differences from each chunk's own mean and merged in f64 (Chan et al. 1983), so
/// that a mean far above the deviation does no harm. Gradients: x, weight, bias and residual.
///
/// # Errors
/// Shapes, dtypes or devices that do not fit, fewer than two values a channel in a group, ε ≤ 0, no groups, or a
/// number that does not divide the first dimension.
pub fn batch_norm_train(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    residual: Option<&Tensor>,
    config: BatchNormConfig,
) -> Result<BatchNormOutput> {
    let c = validate(TRAIN, x, &[("weight", weight), ("bias", bias)], residual, config)?;
    let groups = config.groups;
    if groups == 0 {
        return Err(check::parameter_error(TRAIN, "groups", "at least 1", groups));
    }
    if groups > 1 && (x.rank() < 2 || !x.dims()[0].is_multiple_of(groups)) {
        let expected = format!("a first dimension of x that is a multiple of {groups} groups");
        return Err(check::shape_error(TRAIN, expected, x));
    }
    if x.elem_count() / c / groups < 2 {
        return Err(check::shape_error(TRAIN, "at least two values a channel (of each group) in x", x));
    }
    if !on_fast_path(x) {
        return reference::train(x, weight, bias, residual, config);
    }
    let x = x.contiguous()?;
    let BatchStatistics { affines, mean, var } = {
        let view = View::new(&x)?;
        with_element!(x.dtype(), T => BatchStatistics::new(view.as_slice::<T>()?, c, groups, config.eps))
    };
    let op = BatchNorm { name: TRAIN, own_statistics: true, c, config, affines };
    let y = op.apply(&x, weight, bias, residual)?;
    let statistic = |values: Vec<f64>| Tensor::from_vec(values, c, x.device())?.to_dtype(x.dtype());
    Ok(BatchNormOutput { y, mean: statistic(mean)?, var: statistic(var)? })
}

/// Normalises x `[.., c]` with given statistics `[c]`; the rest as [`batch_norm_train`].
///
/// Gradients: x, weight, bias and residual, but neither mean nor variance. Groups do not matter here.
///
/// # Errors
/// Shapes, dtypes or devices that do not fit, ε ≤ 0.
pub fn batch_norm_eval(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    residual: Option<&Tensor>,
    config: BatchNormConfig,
) -> Result<Tensor> {
    let channels = [("weight", weight), ("bias", bias), ("mean", mean), ("var", var)];
    let c = validate(EVAL, x, &channels, residual, config)?;
    if !on_fast_path(x) {
        return reference::eval(x, weight, bias, mean, var, residual, config);
    }
    let values = |t: &Tensor| t.detach().to_dtype(candle_core::DType::F64)?.to_vec1::<f64>();
    let affines = vec![Affine::new(&values(mean)?, &values(var)?, config.eps)];
    let op = BatchNorm { name: EVAL, own_statistics: false, c, config, affines };
    op.apply(&x.contiguous()?, weight, bias, residual)
}

fn validate(
    op: &'static str,
    x: &Tensor,
    channels: &[(&'static str, &Tensor)],
    residual: Option<&Tensor>,
    config: BatchNormConfig,
) -> Result<usize> {
    check::float(op, x)?;
    let Some(&c) = x.dims().last() else {
        return Err(check::shape_error(op, "x of [.., c]", x));
    };
    check::not_empty(op, x)?;
    for &(name, tensor) in channels {
        check::like(op, name, x, tensor)?;
        check::channels(op, name, c, tensor)?;
    }
    if let Some(residual) = residual {
        check::like(op, "residual", x, residual)?;
        if residual.dims() != x.dims() {
            return Err(check::shape_error(op, format!("residual of x's shape {:?}", x.dims()), residual));
        }
    }
    check::eps(op, config.eps)?;
    Ok(c)
}

/// The normalisation with known statistics. As candle's custom ops take at most three tensors, weight and bias
/// come as one `[2c]`.
struct BatchNorm {
    name: &'static str,
    own_statistics: bool,
    c: usize,
    config: BatchNormConfig,
    /// One a group.
    affines: Vec<Affine>,
}

impl BatchNorm {
    fn apply(self, x: &Tensor, weight: &Tensor, bias: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let params = Tensor::cat(&[weight, bias], 0)?;
        Ok(match residual {
            Some(residual) => x.apply_op3(&params, &residual.contiguous()?, self)?,
            None => x.apply_op2(&params, self)?,
        })
    }

    fn with_params<T: Element>(&self, params: &[T]) -> Vec<Affine<T>> {
        self.affines.iter().map(|affine| affine.with_params(params)).collect()
    }

    fn forward<T: Element>(&self, x: &[T], params: &[T], residual: Option<&[T]>) -> CpuStorage {
        T::to_cpu_storage_owned(cpu::normalize(x, &self.with_params(params), residual, self.config.relu))
    }

    fn backward<T: Element>(
        &self,
        [x, params, y, grad]: [&Tensor; 4],
        residual: bool,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let views = [View::new(x)?, View::new(params)?, View::new(y)?, View::new(&grad)?];
        let gate = match (self.config.relu, residual) {
            (false, _) => Gate::Open,
            (true, false) => Gate::Again,
            (true, true) => Gate::Output(views[2].as_slice()?),
        };
        let affines = self.with_params(views[1].as_slice::<T>()?);
        let own = self.own_statistics;
        let d = cpu::gradients(
            Cow::Borrowed(views[0].as_slice::<T>()?),
            gate,
            views[3].as_slice()?,
            &affines,
            own,
        );
        let like_x = |values: Vec<T>| Tensor::from_vec(values, x.shape(), x.device());
        let dparams: Vec<T> = d.weight.iter().chain(&d.bias).map(|&d| T::from_f64(d)).collect();
        let dparams = Tensor::from_vec(dparams, 2 * self.c, x.device())?;
        // Without ReLU, dy is the residual's gradient.
        let dresidual = d.gated.map_or_else(|| Ok(grad.clone()), like_x)?;
        Ok((Some(like_x(d.x)?), Some(dparams), Some(dresidual)))
    }
}

impl CustomOp2 for BatchNorm {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        params: &CpuStorage,
        params_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = with_element!(x.dtype(), T => {
            self.forward::<T>(slice(x, x_layout)?, slice(params, params_layout)?, None)
        });
        Ok((y, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        params: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dparams, _) =
            with_element!(x.dtype(), T => self.backward::<T>([x, params, y, grad], false))?;
        Ok((tracked(x, dx), tracked(params, dparams)))
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        params: &CpuStorage,
        params_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = with_element!(x.dtype(), T => {
            let residual = slice::<T>(residual, residual_layout)?;
            self.forward(slice(x, x_layout)?, slice(params, params_layout)?, Some(residual))
        });
        Ok((y, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        params: &Tensor,
        residual: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dparams, dresidual) =
            with_element!(x.dtype(), T => self.backward::<T>([x, params, y, grad], true))?;
        Ok((tracked(x, dx), tracked(params, dparams), tracked(residual, dresidual)))
    }
}

/// A gradient, unless it leads to no variable: candle would add it to zeros for nothing.
fn tracked(tensor: &Tensor, gradient: Option<Tensor>) -> Option<Tensor> {
    gradient.filter(|_| tensor.track_op())
}

#[cfg(test)]
mod tests;
