//! Residual blocks (He et al. 2016, section 3.2), one after the other, as one operation.
//!
//! A block has L layers, each a convolution without bias and its batch normalisation over the batch's statistics:
//!
//! h₀ = x,  hᵢ = relu(BNᵢ(convᵢ(hᵢ₋₁))) for i < L,  y = relu(BN_L(conv_L(h_{L−1})) + s(x)),
//!
//! s being nothing, x itself, or BN(conv(x)). The values and gradients are those of
//! [`conv2d`](crate::conv2d()) and [`batch_norm_train`](crate::batch_norm_train); this operation saves what stands between
//! them. candle's backward pass makes zeros of every tensor's size and adds the gradient to them, in new memory: three
//! more passes over each activation, which cost as much as the normalisation. Within this operation a layer's
//! gradient goes straight to the layer before it, and takes the place of numbers that are no longer needed.

mod cpu;

use crate::conv2d::Geometry;
use crate::conv2d::Number;
use crate::element::{View, slice};
use crate::stored::{is_stored, with_stored};
use crate::ties::{Gradients, tie};
use crate::{BatchNormConfig, Conv2dConfig, Result, batch_norm_train, check, conv2d};
use candle_core::{CpuStorage, CustomOp2, D, Layout, Shape, Tensor};
use cpu::{Network, Saved};
use std::sync::{Arc, Mutex, PoisonError};

const OP: &str = "residual_blocks_train";

/// A convolution without bias and the batch normalisation of its result.
#[derive(Debug, Clone, Copy)]
pub struct ConvNorm<'a> {
    /// The convolution's weight `[kh, kw, c/g, k]`.
    pub weight: &'a Tensor,
    /// The normalisation's weight γ `[k]`.
    pub gamma: &'a Tensor,
    /// The normalisation's bias β `[k]`.
    pub beta: &'a Tensor,
    /// The convolution's parameters.
    pub config: Conv2dConfig,
}

/// What is added to a block's last layer.
#[derive(Debug, Clone, Copy)]
pub enum Shortcut<'a> {
    /// Nothing: the block is a chain of layers.
    Nothing,
    /// The block's input.
    Identity,
    /// The block's input, convolved and normalised.
    Projection(ConvNorm<'a>),
}

/// One block: its layers, at least one, and its shortcut.
#[derive(Debug, Clone)]
pub struct ResidualBlock<'a> {
    /// First to last.
    pub layers: Vec<ConvNorm<'a>>,
    /// What goes round them.
    pub shortcut: Shortcut<'a>,
}

impl<'a> ResidualBlock<'a> {
    /// Its layers in the order of [`ResidualOutput::statistics`]: the projection last.
    fn all_layers(&self) -> impl Iterator<Item = &ConvNorm<'a>> {
        let projection = match &self.shortcut {
            Shortcut::Projection(layer) => Some(layer),
            _ => None,
        };
        self.layers.iter().chain(projection)
    }
}

/// The statistics that a layer has normalised with, as in [`BatchNormOutput`](crate::BatchNormOutput).
#[derive(Debug, Clone)]
pub struct LayerStatistics {
    /// Each channel's mean `[k]`, without gradient.
    pub mean: Tensor,
    /// Each channel's biased variance `[k]`, without gradient.
    pub var: Tensor,
    /// Values m that each is of; m/(m − 1) times the variance is unbiased.
    pub count: usize,
}

/// What the blocks return.
#[derive(Debug, Clone)]
pub struct ResidualOutput {
    /// The last block's result `[n, h', w', k]`.
    pub y: Tensor,
    /// Those of every layer: block by block, the projection behind the block's layers.
    pub statistics: Vec<LayerStatistics>,
}

/// Applies blocks to x `[n, h, w, c]`; every normalisation with `norm`'s ε and groups, whose `relu` is not looked at.
///
/// x in bf16 takes parameters in f32 (mixed precision, Micikevicius et al. 2018): convolutions multiply bf16 numbers, the
/// weights rounded to such, and sum in f32; what stands between the layers, y and the gradients that go from layer to
/// layer are kept in bf16, rounded once to the nearest even; normalisation, its statistics and the
/// parameters' gradients are f32. In all other dtypes x and parameters are of the same one.
///
/// Gradients: x and every weight, γ and β. Where none of them leads to a variable, nothing is kept for a backward pass; else
/// what backward needs is freed as backward goes; a second backward pass over
/// the same result works the forward pass out again. On other devices and in other dtypes than f32, f64 and bf16 it
/// is a composition of [`conv2d`](crate::conv2d()) and [`batch_norm_train`](crate::batch_norm_train).
///
/// # Errors
/// Those of these two for any layer, no blocks, a block without layers, a shortcut whose shape is not the last layer's.
pub fn residual_blocks_train(
    x: &Tensor,
    blocks: &[ResidualBlock<'_>],
    norm: BatchNormConfig,
) -> Result<ResidualOutput> {
    let shape = check::nhwc(OP, x)?;
    let network = network(x, shape, blocks, norm)?;
    if !is_stored(x) {
        return composition(x, blocks, norm);
    }
    let (x, dtype) = (x.contiguous()?, check::params_dtype(x));
    let params: Vec<Tensor> = blocks
        .iter()
        .flat_map(ResidualBlock::all_layers)
        .flat_map(|layer| [layer.weight, layer.gamma, layer.beta])
        .map(Tensor::contiguous)
        .collect::<candle_core::Result<_>>()?;
    let (knot, gradients) = tie(&params.iter().collect::<Vec<_>>())?;
    let counts = network.counts();
    let (y, statistics) = with_stored!(x.dtype(), T => {
        let saved = Arc::new(Mutex::new(None));
        let differentiable = x.track_op() || params.iter().any(Tensor::track_op);
        let op = Residual::<T> { network, params, differentiable, gradients, saved: saved.clone() };
        let y = x.apply_op2(&knot, op)?;
        let saved = saved.lock().unwrap_or_else(PoisonError::into_inner);
        (y, saved.as_ref().map(Saved::statistics).unwrap_or_default())
    });
    let tensor = |values: Vec<f64>| {
        let c = values.len();
        Tensor::from_vec(values, c, x.device())?.to_dtype(dtype)
    };
    let statistics = statistics
        .into_iter()
        .zip(counts)
        .map(|((mean, var), count)| Ok(LayerStatistics { mean: tensor(mean)?, var: tensor(var)?, count }))
        .collect::<Result<_>>()?;
    Ok(ResidualOutput { y, statistics })
}

/// Checks all layers and puts their sizes together.
fn network(
    x: &Tensor,
    mut shape: [usize; 4],
    blocks: &[ResidualBlock<'_>],
    norm: BatchNormConfig,
) -> Result<Network> {
    check::float(OP, x)?;
    check::eps(OP, norm.eps)?;
    if norm.groups == 0 || !shape[0].is_multiple_of(norm.groups) {
        return Err(check::parameter_error(OP, "groups", "a divisor of the batch", norm.groups));
    }
    if blocks.is_empty() {
        return Err(check::parameter_error(OP, "blocks", "at least one", 0));
    }
    let geometry = |shape: [usize; 4], layer: &ConvNorm<'_>| -> Result<Geometry> {
        check::param(OP, "weight", x, layer.weight)?;
        let g = Geometry::of(shape, layer.weight, layer.config)?;
        for (name, tensor) in [("gamma", layer.gamma), ("beta", layer.beta)] {
            check::param(OP, name, x, tensor)?;
            check::channels(OP, name, g.k, tensor)?;
        }
        if g.n / norm.groups * g.out_h * g.out_w < 2 {
            let expected = "at least two values a channel (of each group) in every layer";
            return Err(check::shape_error(OP, expected, x));
        }
        Ok(g)
    };
    let mut plan = Vec::with_capacity(blocks.len());
    for block in blocks {
        let input = shape;
        let mut layers = Vec::with_capacity(block.layers.len());
        for layer in &block.layers {
            let g = geometry(shape, layer)?;
            shape = [g.n, g.out_h, g.out_w, g.k];
            layers.push(g);
        }
        if layers.is_empty() {
            return Err(check::parameter_error(OP, "layers", "at least one", 0));
        }
        let (shortcut, aside) = match &block.shortcut {
            Shortcut::Nothing => (cpu::Shortcut::Nothing, shape),
            Shortcut::Identity => (cpu::Shortcut::Identity, input),
            Shortcut::Projection(layer) => {
                let g = geometry(input, layer)?;
                (cpu::Shortcut::Projection(g), [g.n, g.out_h, g.out_w, g.k])
            }
        };
        if aside != shape {
            return Err(check::parameter_error(
                OP,
                "shortcut",
                "of the last layer's shape",
                format_args!("{aside:?} beside {shape:?}"),
            ));
        }
        plan.push(cpu::Block { layers, shortcut });
    }
    Ok(Network { blocks: plan, eps: norm.eps, groups: norm.groups })
}

/// The same of the single operations.
fn composition(x: &Tensor, blocks: &[ResidualBlock<'_>], norm: BatchNormConfig) -> Result<ResidualOutput> {
    let mut statistics = Vec::new();
    let apply = |x: &Tensor, layer: &ConvNorm<'_>, residual: Option<&Tensor>, relu| -> Result<_> {
        // Beside bf16 the convolution takes a rounded weight, and the normalisation is worked out in f32.
        let dtype = check::params_dtype(x);
        let z = conv2d(x, &layer.weight.to_dtype(x.dtype())?, layer.config)?.to_dtype(dtype)?;
        let residual = residual.map(|residual| residual.to_dtype(dtype)).transpose()?;
        let config = BatchNormConfig { relu, ..norm };
        let out = batch_norm_train(&z, layer.gamma, layer.beta, residual.as_ref(), config)?;
        let count = z.elem_count() / z.dim(D::Minus1)? / norm.groups;
        let y = out.y.to_dtype(x.dtype())?;
        Ok((y, LayerStatistics { mean: out.mean, var: out.var, count }))
    };
    let mut y = x.clone();
    for block in blocks {
        let mut behind = Vec::new();
        let shortcut = match &block.shortcut {
            Shortcut::Nothing => None,
            Shortcut::Identity => Some(y.clone()),
            Shortcut::Projection(layer) => {
                let (shortcut, own) = apply(&y, layer, None, false)?;
                behind.push(own);
                Some(shortcut)
            }
        };
        for (i, layer) in block.layers.iter().enumerate() {
            let residual = shortcut.as_ref().filter(|_| i + 1 == block.layers.len());
            let (result, own) = apply(&y, layer, residual, true)?;
            y = result;
            statistics.push(own);
        }
        statistics.append(&mut behind);
    }
    Ok(ResidualOutput { y, statistics })
}

struct Residual<T: Number> {
    network: Network,
    /// Weight, γ and β of every layer.
    params: Vec<Tensor>,
    /// Whether anything leads to a variable.
    differentiable: bool,
    gradients: Gradients,
    /// What the forward pass has left for the backward pass, which takes it.
    saved: Arc<Mutex<Option<Saved<T>>>>,
}

impl<T: Number> Residual<T> {
    /// Calls `f` with the parameters' numbers.
    fn with_params<R>(&self, f: impl FnOnce(&[&[T::Wide]]) -> R) -> candle_core::Result<R> {
        let views = self.params.iter().map(View::new).collect::<candle_core::Result<Vec<_>>>()?;
        let params = views.iter().map(View::as_slice).collect::<candle_core::Result<Vec<_>>>()?;
        Ok(f(&params))
    }
}

impl<T: Number> CustomOp2 for Residual<T> {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        _knot: &CpuStorage,
        _knot_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        #[cfg(test)]
        tests::FORWARDS.set(tests::FORWARDS.get() + 1);
        let x = slice::<T>(x, x_layout)?;
        let (y, saved) = self.with_params(|params| self.network.forward(x, params, self.differentiable))?;
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        Ok((T::to_cpu_storage_owned(y), self.network.output_shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        knot: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let dy_contiguous = dy.contiguous()?;
        let (x_view, y_view, dy_view) = (View::new(x)?, View::new(y)?, View::new(&dy_contiguous)?);
        let (x_data, y_data, dy_data) = (x_view.as_slice::<T>()?, y_view.as_slice()?, dy_view.as_slice()?);
        let wanted: Vec<bool> = self.params.iter().map(Tensor::track_op).collect();
        let (dx, dparams) = self.with_params(|params| {
            let saved = saved.unwrap_or_else(|| self.network.forward(x_data, params, true).1);
            self.network.backward(saved, [x_data, y_data, dy_data], params, x.track_op(), &wanted)
        })?;
        let dparams = dparams.into_iter().zip(&self.params).map(|(gradient, param)| {
            gradient.map(|g| Tensor::from_vec(g, param.shape(), param.device())).transpose()
        });
        self.gradients.put(dparams.collect::<candle_core::Result<_>>()?);
        let dx = dx.map(|dx| Tensor::from_vec(dx, x.shape(), x.device())).transpose()?;
        Ok((dx, knot.track_op().then(|| knot.zeros_like()).transpose()?))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_bf16;
