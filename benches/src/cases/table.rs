//! The table of cases. To add one: an input list and a closure here, a function in `peers/compare.py`.

use super::{Case, Function, Input, Layout, Ours, features, layers, steps};
use crate::args::Peer;
use candle_core::Tensor;
use selfsup_kernels::{BatchNormConfig, Conv2dConfig, batch_norm_train, conv2d, log_softmax, max_pool2d};
use selfsup_objectives::nt_xent;
use serde_json::{Value, json};

/// Operations that stand alone, which torch.compile hands to the same library.
pub(super) const EAGER: &[Peer] = &[Peer::Eager];
/// Formulas that torch.compile can fuse.
pub(super) const BOTH: &[Peer] = &[Peer::Eager, Peer::Compiled];

/// Every case, in the order of reports.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in convolutions() {
        cases.extend(shape.cases());
    }
    cases.extend(normalisations());
    cases.extend(others());
    cases.extend(layers::all());
    cases.extend(objectives());
    cases.extend(features::all());
    cases.extend(steps::all());
    cases
}

/// A function forward, and forward and backward. `flop` are those of each.
pub(super) fn both(
    name: &str,
    operation: &'static str,
    inputs: Vec<Input>,
    parameters: Value,
    flop: Option<[f64; 2]>,
    peers: &'static [Peer],
    function: impl Fn(&[Tensor]) -> anyhow::Result<Tensor> + Clone + 'static,
) -> [Case; 2] {
    let wrap: [fn(Function) -> Ours; 2] = [Ours::Forward, Ours::Backward];
    [0, 1].map(|pass| Case {
        name: format!("{name}/{}", ["f", "f+b"][pass]),
        operation,
        inputs: inputs.clone(),
        parameters: parameters.clone(),
        flop: flop.map(|flop| flop[pass]),
        peers,
        ours: wrap[pass](Box::new(function.clone())),
    })
}

/// Only forward and backward.
pub(super) fn backward(cases: [Case; 2]) -> [Case; 1] {
    let [_, both] = cases;
    [both]
}

/// A convolution: batch, side of the image, channels in and out, side of the kernel, and what is not the default.
#[derive(Clone, Copy)]
struct Convolution {
    n: usize,
    side: usize,
    c: usize,
    k: usize,
    kernel: usize,
    config: Conv2dConfig,
    /// Pixels need no gradient.
    image: bool,
}

impl Convolution {
    /// Padded so that stride 1 keeps the size.
    fn new(n: usize, side: usize, c: usize, k: usize, kernel: usize) -> Self {
        let config = Conv2dConfig { padding: kernel / 2, ..Default::default() };
        Self { n, side, c, k, kernel, config, image: c == 3 }
    }

    fn stride(mut self, stride: usize) -> Self {
        self.config.stride = stride;
        self
    }

    fn dilation(mut self, dilation: usize) -> Self {
        self.config.dilation = dilation;
        self.config.padding = dilation * (self.kernel / 2);
        self
    }

    fn depthwise(mut self) -> Self {
        self.config.groups = self.c;
        self
    }

    fn name(&self) -> String {
        let Self { n, side, c, k, kernel, config, .. } = self;
        let mut name = format!("conv2d/{n}x{side}x{side}x{c}/{kernel}x{kernel}-{k}");
        for (letter, value) in [("s", config.stride), ("d", config.dilation), ("g", config.groups)] {
            if value != 1 {
                name += &format!("-{letter}{value}");
            }
        }
        name
    }

    /// Without the products with the padding's zeros, which a library may leave out: on 4×4 pixels they are a third.
    fn flop(&self) -> f64 {
        let Conv2dConfig { stride, padding, dilation, groups } = self.config;
        let out = (self.side + 2 * padding - dilation * (self.kernel - 1) - 1) / stride + 1;
        let seen = |i: usize, a: usize| (padding..padding + self.side).contains(&(i * stride + a * dilation));
        let products = (0..out).map(|i| (0..self.kernel).filter(|&a| seen(i, a)).count()).sum::<usize>();
        (2 * self.n * products.pow(2) * self.c / groups * self.k) as f64
    }

    fn cases(self) -> [Case; 2] {
        let Conv2dConfig { stride, padding, dilation, groups } = self.config;
        let x = Input::new(Layout::Nhwc, &[self.n, self.side, self.side, self.c]);
        let x = if self.image { x.constant() } else { x };
        let weight = Input::new(Layout::Hwio, &[self.kernel, self.kernel, self.c / groups, self.k]);
        let products = if self.image { 2.0 } else { 3.0 };
        both(
            &self.name(),
            "conv2d",
            vec![x, weight],
            json!({"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}),
            Some([self.flop(), products * self.flop()]),
            EAGER,
            move |t| Ok(conv2d(&t[0], &t[1], self.config)?),
        )
    }
}

fn convolutions() -> Vec<Convolution> {
    let conv = Convolution::new;
    vec![
        // A ResNet-18's on 32-pixel images.
        conv(128, 32, 64, 64, 3),
        conv(128, 16, 128, 128, 3),
        conv(128, 8, 256, 256, 3),
        conv(128, 4, 512, 512, 3),
        conv(128, 32, 64, 128, 3).stride(2),
        conv(128, 32, 3, 64, 3),
        // A ResNet-50's on 224-pixel images.
        conv(16, 56, 256, 64, 1),
        conv(16, 56, 64, 256, 1),
        conv(16, 224, 3, 64, 7).stride(2),
        // Other kernels, strides and dilations.
        conv(16, 28, 64, 64, 5),
        conv(16, 56, 64, 64, 3).stride(3),
        conv(16, 56, 64, 64, 4).stride(4),
        conv(16, 28, 64, 64, 3).dilation(2),
        conv(16, 56, 128, 128, 3).depthwise(),
        // One image; one pixel.
        conv(1, 56, 64, 64, 3),
        conv(1, 1, 512, 512, 1),
        // Channels that fill no vector.
        conv(16, 32, 17, 31, 3),
        conv(16, 32, 37, 41, 3),
    ]
}

fn normalisations() -> Vec<Case> {
    let x = || Input::new(Layout::Nhwc, &[128, 32, 32, 64]);
    let c = || Input::new(Layout::Plain, &[64]);
    let config = BatchNormConfig { relu: true, ..Default::default() };
    let plain = both(
        "batch_norm+relu/128x32x32x64",
        "batch_norm_relu",
        vec![x(), c(), c()],
        json!({}),
        None,
        BOTH,
        move |t| Ok(batch_norm_train(&t[0], &t[1], &t[2], None, config)?.y),
    );
    let residual = both(
        "batch_norm+residual+relu/128x32x32x64",
        "batch_norm_residual_relu",
        vec![x(), c(), c(), x()],
        json!({}),
        None,
        BOTH,
        move |t| Ok(batch_norm_train(&t[0], &t[1], &t[2], Some(&t[3]), config)?.y),
    );
    backward(plain).into_iter().chain(backward(residual)).collect()
}

fn others() -> Vec<Case> {
    let images = Input::new(Layout::Nhwc, &[16, 112, 112, 64]);
    let pool = json!({"kernel": 3, "stride": 2, "padding": 1});
    let pool = both(
        "max_pool2d/16x112x112x64/3-s2",
        "max_pool2d",
        vec![images],
        pool,
        None,
        EAGER,
        |t: &[Tensor]| Ok(max_pool2d(&t[0], 3, 2, 1)?),
    );
    let logits = Input::new(Layout::Plain, &[4096, 1000]);
    let softmax = both(
        "log_softmax/4096x1000",
        "log_softmax",
        vec![logits],
        json!({}),
        None,
        BOTH,
        |t: &[Tensor]| Ok(log_softmax(&t[0])?),
    );
    pool.into_iter().chain(softmax).collect()
}

/// The plain formula's products of n·n·d: one forward, three with the backward pass. The fused operation takes a half
/// and two.
fn objectives() -> Vec<Case> {
    const D: usize = 128;
    const TEMPERATURE: f64 = 0.5;
    [1024, 4096, 8192]
        .into_iter()
        .flat_map(|views| {
            let z = Input::new(Layout::Plain, &[views / 2, D]);
            let product = (2 * views * views * D) as f64;
            both(
                &format!("nt_xent/{views}x{D}"),
                "nt_xent",
                vec![z.clone(), z],
                json!({"temperature": TEMPERATURE}),
                Some([product, 3.0 * product]),
                BOTH,
                |t: &[Tensor]| Ok(nt_xent(&t[0], &t[1], TEMPERATURE)?),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_where_taps_see_the_image() {
        // Each of 4 rows sees 3 taps, but the first and the last only 2: 10, and so for columns.
        assert_eq!(Convolution::new(2, 4, 5, 7, 3).flop(), (2 * 2 * 10 * 10 * 5 * 7) as f64);
        assert_eq!(Convolution::new(1, 8, 3, 5, 1).flop(), (2 * 64 * 3 * 5) as f64);
        // Taps two apart: each of 4 rows sees 2 of 3.
        assert_eq!(Convolution::new(1, 4, 1, 1, 3).dilation(2).flop(), (2 * 8 * 8) as f64);
        assert_eq!(Convolution::new(1, 4, 6, 6, 3).depthwise().flop(), (2 * 10 * 10 * 6) as f64);
        // Windows at −1 and 1: 2 and 3 taps.
        assert_eq!(Convolution::new(1, 4, 1, 1, 3).stride(2).flop(), (2 * 5 * 5) as f64);
    }
}
