//! Layers beside convolution and max pooling, at sizes that networks have.

use super::table::{BOTH, EAGER, backward, both};
use super::{Case, Input, Layout};
use candle_core::{CpuStorage, CustomOp1, Shape, Tensor};
use selfsup_kernels::{
    Activation, AvgPool2dConfig, BatchNormConfig, Conv2dConfig, Gelu, avg_pool2d, batch_norm_train,
    conv_transpose2d, gelu, layer_norm, linear, resize_bilinear, softmax,
};
use serde_json::json;
use std::sync::OnceLock;

/// Tokens of 16 images of 224 pixels in a vision transformer: 14·14 patches and the class.
const TOKENS: usize = 16 * 197;
/// Its width, and that of its hidden layers (ViT-B).
const WIDTH: usize = 768;
const HIDDEN: usize = 3072;

pub(super) fn all() -> Vec<Case> {
    let mut cases = pooling();
    cases.extend(resizing());
    cases.extend(transformer());
    cases.extend(linears());
    cases.extend(transposed());
    cases.extend(grouped_normalisation());
    cases.extend(graph());
    cases
}

/// What each side's graph takes for an operation that does nothing: y is zeros, x's gradient lies ready.
fn graph() -> Vec<Case> {
    backward(both(
        &format!("nothing/{TOKENS}x{WIDTH}"),
        "nothing",
        vec![Input::new(Layout::Plain, &[TOKENS, WIDTH])],
        json!({}),
        None,
        EAGER,
        {
            let gradient = OnceLock::new();
            move |t: &[Tensor]| {
                let gradient = gradient.get_or_init(|| t[0].ones_like().expect("memory for a few megabytes"));
                Ok(t[0].apply_op1(Nothing(gradient.clone()))?)
            }
        },
    ))
    .into_iter()
    .collect()
}

struct Nothing(Tensor);

impl CustomOp1 for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        layout: &candle_core::Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0; layout.shape().elem_count()]), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

/// ResNet-D's shortcut, Inception-v3's branch.
fn pooling() -> Vec<Case> {
    let pool = |n, side, c, config: AvgPool2dConfig| {
        let AvgPool2dConfig { kernel, stride, padding, count_include_pad } = config;
        both(
            &format!("avg_pool2d/{n}x{side}x{side}x{c}/{kernel}-s{stride}"),
            "avg_pool2d",
            vec![Input::new(Layout::Nhwc, &[n, side, side, c])],
            json!({"kernel": kernel, "stride": stride, "padding": padding, "include": count_include_pad}),
            None,
            EAGER,
            move |t: &[Tensor]| Ok(avg_pool2d(&t[0], config)?),
        )
    };
    let overlapping = AvgPool2dConfig { kernel: 3, stride: 1, padding: 1, count_include_pad: true };
    [pool(16, 56, 256, AvgPool2dConfig::new(2)), pool(16, 35, 288, overlapping)]
        .into_iter()
        .flatten()
        .collect()
}

/// A feature pyramid's step, and descriptors to the image's size as Dense Object Nets have them.
fn resizing() -> Vec<Case> {
    let resize = |n, (h, w), c, (out_h, out_w), align_corners| {
        both(
            &format!("resize_bilinear/{n}x{h}x{w}x{c}/{out_h}x{out_w}"),
            "resize_bilinear",
            vec![Input::new(Layout::Nhwc, &[n, h, w, c])],
            json!({"size": [out_h, out_w], "align_corners": align_corners}),
            None,
            EAGER,
            move |t: &[Tensor]| Ok(resize_bilinear(&t[0], out_h, out_w, align_corners)?),
        )
    };
    [resize(16, (28, 28), 256, (56, 56), false), resize(2, (60, 80), 16, (480, 640), true)]
        .into_iter()
        .flatten()
        .collect()
}

fn transformer() -> Vec<Case> {
    let plain = |shape: &[usize]| Input::new(Layout::Plain, shape);
    let mut cases = Vec::new();
    cases.extend(both(
        &format!("layer_norm/{TOKENS}x{WIDTH}"),
        "layer_norm",
        vec![plain(&[TOKENS, WIDTH]), plain(&[WIDTH]), plain(&[WIDTH])],
        json!({"eps": 1e-6}),
        None,
        BOTH,
        |t: &[Tensor]| Ok(layer_norm(&t[0], &t[1], &t[2], 1e-6)?),
    ));
    // Attention of 12 heads. Forward alone: ones as y's gradient give 0 and rounding errors, which prove nothing.
    let [forward, _] = both(
        "softmax/8x12x197x197",
        "softmax",
        vec![plain(&[8, 12, 197, 197])],
        json!({}),
        None,
        BOTH,
        |t: &[Tensor]| Ok(softmax(&t[0])?),
    );
    cases.push(forward);
    for (name, approximate, kind) in [("gelu", "none", Gelu::Exact), ("gelu-tanh", "tanh", Gelu::Tanh)] {
        cases.extend(backward(both(
            &format!("{name}/{TOKENS}x{HIDDEN}"),
            "gelu",
            vec![plain(&[TOKENS, HIDDEN])],
            json!({"approximate": approximate}),
            None,
            BOTH,
            move |t: &[Tensor]| Ok(gelu(&t[0], kind)?),
        )));
    }
    cases
}

/// A transformer's layers, and a projector's.
fn linears() -> Vec<Case> {
    let layer = |n, c, k, name: &str, activation| {
        let product = (2 * n * c * k) as f64;
        backward(both(
            &format!("linear+{name}/{n}x{c}-{k}"),
            "linear",
            [vec![n, c], vec![k, c], vec![k]].map(|shape| Input::new(Layout::Plain, &shape)).to_vec(),
            json!({"activation": name}),
            Some([product, 3.0 * product]),
            BOTH,
            move |t: &[Tensor]| Ok(linear(&t[0], &t[1], Some(&t[2]), activation)?),
        ))
    };
    [
        layer(TOKENS, WIDTH, HIDDEN, "gelu", Activation::Gelu(Gelu::Exact)),
        layer(TOKENS, HIDDEN, WIDTH, "bias", Activation::None),
        layer(512, 2048, 2048, "relu", Activation::Relu),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A decoder's layer (DCGAN's kernel), and a U-Net's.
fn transposed() -> Vec<Case> {
    let layer = |n, side: usize, c, k, kernel, padding| {
        let config = Conv2dConfig { stride: 2, padding, ..Default::default() };
        let x = Input::new(Layout::Nhwc, &[n, side, side, c]);
        let weight = Input::new(Layout::Hwio, &[kernel, kernel, k, c]);
        // Each output row sees kernel/2 input rows, but for those at the border.
        let out = (side - 1) * 2 + kernel - 2 * padding;
        let rows = (0..side).flat_map(|i| (0..kernel).map(move |a| 2 * i + a));
        let products = rows.filter(|at| (padding..padding + out).contains(at)).count();
        let product = (2 * n * products.pow(2) * c * k) as f64;
        backward(both(
            &format!("conv_transpose2d/{n}x{side}x{side}x{c}/{kernel}x{kernel}-{k}-s2"),
            "conv_transpose2d",
            vec![x, weight],
            json!({"stride": 2, "padding": padding}),
            Some([product, 3.0 * product]),
            EAGER,
            move |t: &[Tensor]| Ok(conv_transpose2d(&t[0], &t[1], 0, config)?),
        ))
    };
    [layer(16, 14, 256, 128, 4, 1), layer(16, 28, 128, 64, 2, 0)].into_iter().flatten().collect()
}

/// Statistics of each eighth of the batch, as MoCo on eight devices has them.
fn grouped_normalisation() -> Vec<Case> {
    let config = BatchNormConfig { relu: true, groups: 8, ..Default::default() };
    let channels = || Input::new(Layout::Plain, &[64]);
    backward(both(
        "batch_norm+relu/128x32x32x64-g8",
        "batch_norm_groups_relu",
        vec![Input::new(Layout::Nhwc, &[128, 32, 32, 64]), channels(), channels()],
        json!({"groups": 8}),
        None,
        BOTH,
        move |t: &[Tensor]| Ok(batch_norm_train(&t[0], &t[1], &t[2], None, config)?.y),
    ))
    .into_iter()
    .collect()
}
