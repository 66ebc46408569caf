//! The architectures by name.
//!
//! torchvision's names; `vit-SIZE-PATCH` for vision transformers; `-cifar` for the 3×3 stem without pooling. `resnet10-narrow-cifar` and `resnet10-mini`
//! (which halves the image in its stem) are ours: small enough to pretrain in minutes on two cores.

use crate::backbone::Network;
use crate::resnet::{Block, ResNetConfig, Stem};
use crate::vit::VitConfig;
use crate::{Error, Result};

/// A named architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arch {
    /// Its name on the command line and in files.
    pub name: &'static str,
    /// The network.
    pub config: Network,
    /// The side of the square images that it is usually trained on, in pixels.
    pub image_size: usize,
    /// Where it comes from.
    pub source: &'static str,
}

const HE_2016: &str = "He et al. 2016, arXiv:1512.03385, tables 1 and 6";
const TOUVRON_2021: &str = "Touvron et al. 2021 (DeiT), arXiv:2012.12877, table 1";
const CARON_2021: &str = "Caron et al. 2021 (DINO), arXiv:2104.14294, table 1";
const OURS: &str = "ours: a vision transformer that trains in minutes on two cores";

const fn resnet(
    name: &'static str,
    stem: Stem,
    block: Block,
    stages: &'static [usize],
    width: usize,
) -> Arch {
    let image_size = match stem {
        Stem::ImageNet => 224,
        Stem::Cifar | Stem::Halving => 32,
    };
    let config = Network::ResNet(ResNetConfig { stem, block, stages, width });
    Arch { name, config, image_size, source: HE_2016 }
}

const fn vit(
    name: &'static str,
    [image_size, patch]: [usize; 2],
    [width, depth, heads]: [usize; 3],
    source: &'static str,
) -> Arch {
    let config = Network::Vit(VitConfig { patch, width, depth, heads, image_size });
    Arch { name, config, image_size, source }
}

/// Every architecture, small to large.
pub const ARCHS: &[Arch] = &[
    resnet("resnet10-mini", Stem::Halving, Block::Basic, &[1, 1, 1, 1], 32),
    resnet("resnet10-narrow-cifar", Stem::Cifar, Block::Basic, &[1, 1, 1, 1], 32),
    resnet("resnet18-cifar", Stem::Cifar, Block::Basic, &[2, 2, 2, 2], 64),
    resnet("resnet34-cifar", Stem::Cifar, Block::Basic, &[3, 4, 6, 3], 64),
    resnet("resnet50-cifar", Stem::Cifar, Block::Bottleneck, &[3, 4, 6, 3], 64),
    resnet("resnet18", Stem::ImageNet, Block::Basic, &[2, 2, 2, 2], 64),
    resnet("resnet34", Stem::ImageNet, Block::Basic, &[3, 4, 6, 3], 64),
    resnet("resnet50", Stem::ImageNet, Block::Bottleneck, &[3, 4, 6, 3], 64),
    resnet("resnet101", Stem::ImageNet, Block::Bottleneck, &[3, 4, 23, 3], 64),
    resnet("resnet152", Stem::ImageNet, Block::Bottleneck, &[3, 8, 36, 3], 64),
    resnet("wide_resnet50_2", Stem::ImageNet, Block::WideBottleneck, &[3, 4, 6, 3], 64),
    resnet("wide_resnet101_2", Stem::ImageNet, Block::WideBottleneck, &[3, 4, 23, 3], 64),
    vit("vit-mini-cifar", [32, 4], [96, 6, 3], OURS),
    vit("vit-tiny-16", [224, 16], [192, 12, 3], TOUVRON_2021),
    vit("vit-small-16", [224, 16], [384, 12, 6], TOUVRON_2021),
    vit("vit-small-8", [224, 8], [384, 12, 6], CARON_2021),
    vit("vit-base-16", [224, 16], [768, 12, 12], TOUVRON_2021),
    vit("vit-base-8", [224, 8], [768, 12, 12], CARON_2021),
];

/// The architecture of a name; an unknown one is an error that says the nearest.
pub fn arch(name: &str) -> Result<&'static Arch> {
    ARCHS.iter().find(|a| a.name == name).ok_or_else(|| Error::UnknownArch {
        name: name.to_owned(),
        nearest: nearest(name, ARCHS.iter().map(|a| a.name)),
    })
}

/// The candidate most like `name`, if one is near enough to be a slip of the fingers.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    candidates
        .map(|c| (strsim::jaro_winkler(name, c), c))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c.to_owned())
}
