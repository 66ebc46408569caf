//! Whole training steps of SimCLR without the data: normalisation, encoder, projector, loss, gradients, SGD.

use super::{Case, Ours};
use crate::args::Peer;
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use selfsup_models::resnet::{Block, Stem};
use selfsup_models::{Encoder, Network, arch};
use selfsup_optim::{OptimizerConfig, Param, SgdConfig};
use selfsup_train::method::Progress;
use selfsup_train::{MethodConfig, Normalization, PretrainConfig, parse_setting};
use serde_json::json;

const TEMPERATURE: f64 = 0.5;
const MOMENTUM: f64 = 0.9;
const WEIGHT_DECAY: f64 = 1e-4;
/// Too small to move the weights to where numbers grow, however often the same batch comes.
const LR: f64 = 1e-4;

pub(super) fn all() -> Vec<Case> {
    // Both sides' images are of their own making: pixels take the same time whatever they are.
    let sizes = [("resnet18-cifar", 128, 32), ("resnet50", 16, 224)];
    let cases = sizes.into_iter().flat_map(|size| [(size, DType::F32, ""), (size, DType::BF16, "/bf16")]);
    cases
        .map(|((name, views, side), dtype, suffix)| Case {
            name: format!("simclr_step/{name}/{views}x{side}x{side}x3{suffix}"),
            operation: "simclr_step",
            inputs: Vec::new(),
            parameters: json!({
                "arch": name, "views": views, "side": side, "temperature": TEMPERATURE,
                "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY, "lr": LR,
                "dtype": dtype.as_str(),
            }),
            flop: Some(flop(&arch(name).expect("a known name").config, views, side)),
            peers: &[Peer::Eager, Peer::Compiled],
            ours: Ours::Step(Box::new(move || simclr(name, views, side, dtype))),
        })
        .collect()
}

fn simclr(name: &str, views: usize, side: usize, dtype: DType) -> Result<Box<dyn FnMut() -> Result<()>>> {
    let size = parse_setting(&format!("image_size={side}"))?;
    let mut config = PretrainConfig::resolve("simclr", &[size])?;
    config.normalization = Normalization::IMAGENET;
    match &mut config.method {
        MethodConfig::SimClr(simclr) => simclr.temperature = TEMPERATURE,
        other => anyhow::bail!("simclr is {}", other.name()),
    }
    let encoder =
        Encoder::untrained(arch(name)?, config.preprocessing(), 0, &Device::Cpu)?.with_train_dtype(dtype)?;
    let mut method = config.method.build(encoder, 0)?;
    let optimizer = OptimizerConfig::Sgd(SgdConfig {
        momentum: MOMENTUM,
        weight_decay: WEIGHT_DECAY,
        ..SgdConfig::new(LR)
    });
    let params = method.tensors();
    let params = params.trainable().map(|t| Param { name: t.name.clone(), var: t.var.clone() }).collect();
    let mut optimizer = optimizer.build(optimizer.groups(params))?;
    let images = views / 2;
    let view = |stream| {
        let pixels = super::data::uniform(images * side * side * 3, stream);
        let pixels = pixels.iter().map(|x| (x * 256.0 + 128.0) as u8).collect::<Vec<u8>>();
        Tensor::from_vec(pixels, (images, side, side, 3), &Device::Cpu)
    };
    let batch = [view(0)?, view(1)?].into();
    let mut at = Progress { step: 0, total: u64::MAX, lr: LR };
    Ok(Box::new(move || {
        let out = method.step(&batch, at)?;
        optimizer.step(&out.loss.backward()?, LR)?;
        method.after_update(at)?;
        at.step += 1;
        Ok(())
    }))
}

/// Three products of every convolution and linear layer, two of the first; the rest is not counted.
fn flop(network: &Network, views: usize, side: usize) -> f64 {
    let Network::ResNet(config) = network else { unreachable!("only residual networks are compared") };
    let (stem, others) = products(network, side);
    let c = config.feature_dim();
    (2 * views * (2 * stem + 3 * (others + c * c + c * 128))) as f64
}

/// Multiply-adds of an image in the first convolution and in the others.
pub(super) fn products(network: &Network, side: usize) -> (usize, usize) {
    let Network::ResNet(config) = network else { unreachable!("only residual networks are compared") };
    let (kernel, stride) = match config.stem {
        Stem::ImageNet => (7, 2),
        Stem::Cifar => (3, 1),
        Stem::Halving => (3, 2),
    };
    let mut side = side / stride;
    let stem = side * side * kernel * kernel * 3 * config.width;
    if config.stem == Stem::ImageNet {
        side /= 2;
    }
    let (mut c, mut others) = (config.width, 0);
    for (stage, &count) in config.stages.iter().enumerate() {
        let width = config.width << stage;
        let k = width * config.block.expansion();
        for index in 0..count {
            let before = side;
            if stage > 0 && index == 0 {
                side /= 2;
            }
            let pixels = side * side;
            others += match config.block {
                Block::Basic => pixels * 9 * (c * width + width * k),
                Block::Bottleneck | Block::BottleneckV1 | Block::WideBottleneck => {
                    let inner = config.block.inner(width);
                    let first = if config.block == Block::BottleneckV1 { pixels } else { before * before };
                    first * c * inner + pixels * (9 * inner * inner + inner * k)
                }
            };
            if c != k || before != side {
                others += pixels * c * k;
            }
            c = k;
        }
    }
    (stem, others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flops_are_those_of_the_literature() {
        // He et al. 2016, table 1, count multiply-adds of a forward pass: 1.8·10⁹ for ResNet-18, 3.8·10⁹ for ResNet-50; with the stride in
        // the 3×3 convolution this has 4.1·10⁹. Three passes, a multiply-add being two.
        let of = |name: &str| flop(&arch(name).unwrap().config, 1, 224) / 6e9;
        assert!((1.75..1.85).contains(&of("resnet18")), "{}", of("resnet18"));
        assert!((4.0..4.15).contains(&of("resnet50")), "{}", of("resnet50"));
        assert!((3.75..3.9).contains(&of("resnet50-v1")), "{}", of("resnet50-v1"));
    }
}
