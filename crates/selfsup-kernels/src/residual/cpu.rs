//! Residual blocks on the CPU: the order of the kernels, and what is kept between forward and backward.

use crate::batch_norm::cpu::{Affine, Gate, gradients, normalize};
use crate::batch_norm::statistics::BatchStatistics;
use crate::conv2d::Geometry;
use crate::conv2d::Number;
use crate::conv2d::cpu::Finish;
use crate::element::Element;
use crate::stored::Stored;
use candle_core::Shape;
use rayon::prelude::*;
use std::borrow::Cow;

/// Numbers of a task that goes through memory once.
const CHUNK: usize = 16 * 1024;

/// Blocks with all their sizes.
pub(super) struct Network {
    pub blocks: Vec<Block>,
    pub eps: f64,
    pub groups: usize,
}

pub(super) struct Block {
    pub layers: Vec<Geometry>,
    pub shortcut: Shortcut,
}

pub(super) enum Shortcut {
    Nothing,
    Identity,
    Projection(Geometry),
}

/// What the forward pass leaves.
pub(super) struct Saved<T> {
    blocks: Vec<SavedBlock<T>>,
}

struct SavedBlock<T> {
    layers: Vec<SavedLayer<T>>,
    projection: Option<SavedLayer<T>>,
    /// The block's result; empty for the last block, whose result candle keeps.
    y: Vec<T>,
}

struct SavedLayer<T> {
    /// What the convolution read; empty where that is the block's input.
    input: Vec<T>,
    /// The convolution's result, which the normalisation read.
    z: Vec<T>,
    statistics: BatchStatistics,
}

impl<T> Saved<T> {
    /// How many numbers are kept beside the statistics.
    #[cfg(test)]
    pub(super) fn numbers(&self) -> usize {
        let layer = |layer: &SavedLayer<T>| layer.input.len() + layer.z.len();
        let block = |block: &SavedBlock<T>| {
            block.y.len() + block.layers.iter().chain(&block.projection).map(layer).sum::<usize>()
        };
        self.blocks.iter().map(block).sum()
    }

    /// Means and variances of all layers.
    pub(super) fn statistics(&self) -> Vec<(Vec<f64>, Vec<f64>)> {
        let layers = self.blocks.iter().flat_map(|block| block.layers.iter().chain(&block.projection));
        layers.map(|layer| (layer.statistics.mean.clone(), layer.statistics.var.clone())).collect()
    }
}

/// Those of the parameters that want one.
type ParamGradients<T> = Vec<Option<Vec<<T as Stored>::Wide>>>;

/// The parameters of a layer.
#[derive(Clone, Copy)]
struct Params<'a, W> {
    weight: &'a [W],
    gamma: &'a [W],
    beta: &'a [W],
}

impl<W: Element> Params<'_, W> {
    fn affines(&self, statistics: &BatchStatistics) -> Vec<Affine<W>> {
        let params = [self.gamma, self.beta].concat();
        statistics.affines.iter().map(|affine| affine.with_params(&params)).collect()
    }
}

impl Block {
    fn projection(&self) -> Option<&Geometry> {
        match &self.shortcut {
            Shortcut::Projection(g) => Some(g),
            _ => None,
        }
    }

    fn all_layers(&self) -> impl Iterator<Item = &Geometry> {
        self.layers.iter().chain(self.projection())
    }
}

impl Network {
    pub(super) fn output_shape(&self) -> Shape {
        let last = self.blocks.last().and_then(|block| block.layers.last());
        last.expect("at least one layer").output_shape()
    }

    /// Values of a channel of each group, of all layers.
    pub(super) fn counts(&self) -> Vec<usize> {
        let layers = self.blocks.iter().flat_map(Block::all_layers);
        layers.map(|g| g.n / self.groups * g.out_h * g.out_w).collect()
    }

    /// Each block with its layers' parameters and the number of the first of them.
    fn with_params<'a, W>(&'a self, params: &'a [&'a [W]]) -> Vec<(&'a Block, usize, Vec<Params<'a, W>>)> {
        let mut first = 0;
        let blocks = self.blocks.iter().map(|block| {
            let layers = block.all_layers().count();
            let own = params[first..first + 3 * layers].chunks_exact(3);
            let own = own.map(|p| Params { weight: p[0], gamma: p[1], beta: p[2] }).collect();
            first += 3 * layers;
            (block, first - 3 * layers, own)
        });
        blocks.collect()
    }

    fn convolve<T: Number>(
        &self,
        g: &Geometry,
        x: &[T],
        params: Params<'_, T::Wide>,
    ) -> (Vec<T>, BatchStatistics) {
        let z = T::forward(g, x, &T::narrowed(params.weight.into()), Finish::default());
        let statistics = BatchStatistics::new(&z, g.k, self.groups, self.eps);
        (z, statistics)
    }

    /// y, and what the backward pass needs, which is no more than the statistics where there will be none.
    pub(super) fn forward<T: Number>(
        &self,
        x: &[T],
        params: &[&[T::Wide]],
        differentiable: bool,
    ) -> (Vec<T>, Saved<T>) {
        let kept = |values: Vec<T>| if differentiable { values } else { Vec::new() };
        let mut saved: Vec<SavedBlock<T>> = Vec::with_capacity(self.blocks.len());
        for (block, _, params) in self.with_params(params) {
            let x = saved.last().map_or(x, |before| &before.y);
            let mut projected = None;
            let projection = block.projection().map(|g| {
                let params = params[block.layers.len()];
                let (z, statistics) = self.convolve(g, x, params);
                projected = Some(normalize(&z, &params.affines(&statistics), None, false));
                SavedLayer { input: Vec::new(), z: kept(z), statistics }
            });
            let mut layers: Vec<SavedLayer<T>> = Vec::with_capacity(block.layers.len());
            let mut h: Vec<T> = Vec::new();
            for (i, (g, params)) in block.layers.iter().zip(&params).enumerate() {
                let (z, statistics) = self.convolve(g, if i == 0 { x } else { &h }, *params);
                let residual = match &block.shortcut {
                    _ if i + 1 < block.layers.len() => None,
                    Shortcut::Nothing => None,
                    Shortcut::Identity => Some(x),
                    Shortcut::Projection(_) => projected.as_deref(),
                };
                let y = normalize(&z, &params.affines(&statistics), residual, true);
                let input = kept(std::mem::replace(&mut h, y));
                layers.push(SavedLayer { input, z: kept(z), statistics });
            }
            if let Some(before) = saved.last_mut() {
                before.y = kept(std::mem::take(&mut before.y));
            }
            saved.push(SavedBlock { layers, projection, y: h });
        }
        let y = saved.last_mut().map(|last| std::mem::take(&mut last.y)).unwrap_or_default();
        (y, Saved { blocks: saved })
    }

    /// dx, if it is wanted, and the gradients of the parameters that are.
    pub(super) fn backward<T: Number>(
        &self,
        mut saved: Saved<T>,
        [x, y, dy]: [&[T]; 3],
        params: &[&[T::Wide]],
        x_wanted: bool,
        wanted: &[bool],
    ) -> (Option<Vec<T>>, ParamGradients<T>) {
        let mut dparams: ParamGradients<T> = vec![None; params.len()];
        let mut dy = Cow::Borrowed(dy);
        let mut y = Cow::Borrowed(y);
        for (block, first, params) in self.with_params(params).into_iter().rev() {
            let SavedBlock { layers, projection, .. } = saved.blocks.pop().expect("one for each block");
            // The result of the block before is this one's input.
            let before = saved.blocks.last_mut().map(|before| std::mem::take(&mut before.y));
            let input = before.as_deref().unwrap_or(x);
            let input_wanted = before.is_some() || x_wanted;
            let wanted = &wanted[first..];
            let mut store = |layer: usize, gradients: [Vec<T::Wide>; 3]| {
                for (i, gradient) in gradients.into_iter().enumerate() {
                    dparams[first + 3 * layer + i] = wanted[3 * layer + i].then_some(gradient);
                }
            };
            let mut aside: Option<Vec<T>> = None;
            let last = layers.len() - 1;
            for (i, layer) in layers.into_iter().enumerate().rev() {
                let gate = match block.shortcut {
                    _ if i < last => Gate::Again,
                    Shortcut::Nothing => Gate::Again,
                    _ => Gate::Output(&y[..]),
                };
                let g = &block.layers[i];
                let SavedLayer { input: own, z, statistics } = layer;
                let d = gradients(Cow::Owned(z), gate, &dy, &params[i].affines(&statistics), true);
                if i == last {
                    // The result is not needed any more, nor its gradient.
                    (y, aside) = (Cow::Owned(Vec::new()), d.gated);
                }
                let read = if i == 0 { input } else { &own };
                let dweight = weight_gradient(g, read, &d.x, wanted[3 * i]);
                store(i, [dweight, cast(&d.weight), cast(&d.bias)]);
                drop(own);
                if i > 0 || input_wanted {
                    dy = Cow::Owned(input_gradient(g, &d.x, params[i].weight));
                }
            }
            if let (Some(layer), Some(g)) = (projection, block.projection()) {
                let at = params.len() - 1;
                let from = aside.take().expect("a block with a shortcut gates by its result");
                let affines = params[at].affines(&layer.statistics);
                let d = gradients(Cow::Owned(layer.z), Gate::Open, &from, &affines, true);
                drop(from);
                store(at, [weight_gradient(g, input, &d.x, wanted[3 * at]), cast(&d.weight), cast(&d.bias)]);
                if input_wanted {
                    aside = Some(input_gradient(g, &d.x, params[at].weight));
                }
            }
            if let (Some(aside), true) = (aside, input_wanted) {
                let mut sum = dy.into_owned();
                add(&mut sum, &aside);
                dy = Cow::Owned(sum);
            }
            y = Cow::Owned(before.unwrap_or_default());
        }
        (x_wanted.then(|| dy.into_owned()), dparams)
    }
}

/// The gradient of a convolution's weight, or nothing, where nobody wants it.
fn weight_gradient<T: Number>(g: &Geometry, x: &[T], dz: &[T], wanted: bool) -> Vec<T::Wide> {
    if wanted { T::backward_weight(g, x, dz) } else { Vec::new() }
}

fn input_gradient<T: Number>(g: &Geometry, dz: &[T], weight: &[T::Wide]) -> Vec<T> {
    T::backward_input(g, dz, &T::narrowed(weight.into()))
}

fn cast<W: Element>(values: &[f64]) -> Vec<W> {
    values.iter().map(|&v| W::from_f64(v)).collect()
}

/// to += from.
fn add<T: Stored>(to: &mut [T], from: &[T]) {
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        crate::simd::vectorized(
            #[inline(always)]
            || {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = T::narrow(to.wide() + from.wide());
                }
            },
        );
    });
}
