//! The architectures by name.
//!
//! torchvision's names; `-v1` for the stride in a bottleneck's first convolution; `vit-SIZE-PATCH` for vision transformers, `-h12` for one
//! with more heads than others of its size; `-cifar` for the 3×3 stem without pooling. `resnet10-narrow-cifar` and `resnet10-mini` (which halves the image in its stem) are ours: small enough to
//! pretrain in minutes on two cores.
//!
//! Of AlexNet there are three widths: torchvision's (`alexnet`), RotNet's, which is the same with batch normalisation everywhere
//! (`alexnet_bn`), and DeepCluster's (`alexnet_2012_bn`), of the paper of 2012 without its groups. `_sobel` is DeepCluster's input.

use crate::backbone::Network;
use crate::convnet::{ConvConfig, ConvNetConfig, Draw, Input, Normalized};
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
const CHEN_2021: &str = "Chen et al. 2021 (MoCo v3), arXiv:2104.02057: vits.py of facebookresearch/moco-v3";
const CARON_2021: &str = "Caron et al. 2021 (DINO), arXiv:2104.14294, table 1";
const KRIZHEVSKY_2014: &str = "Krizhevsky 2014, arXiv:1404.5997, as torchvision has it";
const GIDARIS_2018: &str = "Gidaris et al. 2018 (RotNet), arXiv:1803.07728: architectures/AlexNet.py of gidariss/FeatureLearningRotNet";
const CARON_2018: &str =
    "Caron et al. 2018 (DeepCluster), arXiv:1807.05520, §3.3: models/ of facebookresearch/deepcluster";
const SIMONYAN_2015: &str = "Simonyan & Zisserman 2015, arXiv:1409.1556, table 1, D";
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

const fn conv(name: &'static str, k: usize, [kernel, stride]: [usize; 2], pool: Option<usize>) -> ConvConfig {
    // AlexNet's first convolution has less than would keep the size.
    let padding = if kernel == 11 { 2 } else { kernel / 2 };
    ConvConfig { name, k, kernel, stride, padding, pool }
}

const fn alexnet_convolutions([k1, k2, k3, k4, k5]: [usize; 5]) -> [ConvConfig; 5] {
    [
        conv("conv1", k1, [11, 4], Some(3)),
        conv("conv2", k2, [5, 1], Some(3)),
        conv("conv3", k3, [3, 1], None),
        conv("conv4", k4, [3, 1], None),
        conv("conv5", k5, [3, 1], Some(3)),
    ]
}

const ALEXNET: &[ConvConfig] = &alexnet_convolutions([64, 192, 384, 256, 256]);
const ALEXNET_2012: &[ConvConfig] = &alexnet_convolutions([96, 256, 384, 384, 256]);
const VGG16: &[ConvConfig] = &[
    conv("conv1_1", 64, [3, 1], None),
    conv("conv1_2", 64, [3, 1], Some(2)),
    conv("conv2_1", 128, [3, 1], None),
    conv("conv2_2", 128, [3, 1], Some(2)),
    conv("conv3_1", 256, [3, 1], None),
    conv("conv3_2", 256, [3, 1], None),
    conv("conv3_3", 256, [3, 1], Some(2)),
    conv("conv4_1", 512, [3, 1], None),
    conv("conv4_2", 512, [3, 1], None),
    conv("conv4_3", 512, [3, 1], Some(2)),
    conv("conv5_1", 512, [3, 1], None),
    conv("conv5_2", 512, [3, 1], None),
    conv("conv5_3", 512, [3, 1], Some(2)),
];

const fn alexnet(
    name: &'static str,
    convolutions: &'static [ConvConfig],
    (input, normalized, draw): (Input, Normalized, Draw),
    source: &'static str,
) -> Arch {
    let config = ConvNetConfig { input, convolutions, normalized, grid: 6, fully_connected: [1, 4], draw };
    Arch { name, config: Network::ConvNet(config), image_size: 224, source }
}

const fn vgg16(name: &'static str, input: Input, normalized: Normalized, source: &'static str) -> Arch {
    let (grid, fully_connected, draw) = (7, [0, 3], Draw::Normal);
    let config = ConvNetConfig { input, convolutions: VGG16, normalized, grid, fully_connected, draw };
    Arch { name, config: Network::ConvNet(config), image_size: 224, source }
}

/// Every architecture, small to large in each family.
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
    resnet("resnet50-v1", Stem::ImageNet, Block::BottleneckV1, &[3, 4, 6, 3], 64),
    resnet("resnet101-v1", Stem::ImageNet, Block::BottleneckV1, &[3, 4, 23, 3], 64),
    resnet("resnet152-v1", Stem::ImageNet, Block::BottleneckV1, &[3, 8, 36, 3], 64),
    resnet("wide_resnet50_2", Stem::ImageNet, Block::WideBottleneck, &[3, 4, 6, 3], 64),
    resnet("wide_resnet101_2", Stem::ImageNet, Block::WideBottleneck, &[3, 4, 23, 3], 64),
    vit("vit-mini-cifar", [32, 4], [96, 6, 3], OURS),
    vit("vit-tiny-16", [224, 16], [192, 12, 3], TOUVRON_2021),
    vit("vit-small-16", [224, 16], [384, 12, 6], TOUVRON_2021),
    vit("vit-small-16-h12", [224, 16], [384, 12, 12], CHEN_2021),
    vit("vit-small-8", [224, 8], [384, 12, 6], CARON_2021),
    vit("vit-base-16", [224, 16], [768, 12, 12], TOUVRON_2021),
    vit("vit-base-8", [224, 8], [768, 12, 12], CARON_2021),
    alexnet("alexnet", ALEXNET, (Input::Colors, Normalized::Nothing, Draw::Uniform), KRIZHEVSKY_2014),
    alexnet("alexnet_bn", ALEXNET, (Input::Colors, Normalized::Everything, Draw::Uniform), GIDARIS_2018),
    alexnet(
        "alexnet_2012_bn",
        ALEXNET_2012,
        (Input::Colors, Normalized::Convolutions, Draw::Normal),
        CARON_2018,
    ),
    alexnet(
        "alexnet_2012_bn_sobel",
        ALEXNET_2012,
        (Input::Sobel, Normalized::Convolutions, Draw::Normal),
        CARON_2018,
    ),
    vgg16("vgg16", Input::Colors, Normalized::Nothing, SIMONYAN_2015),
    vgg16("vgg16_bn", Input::Colors, Normalized::Convolutions, SIMONYAN_2015),
    vgg16("vgg16_bn_sobel", Input::Sobel, Normalized::Convolutions, CARON_2018),
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
