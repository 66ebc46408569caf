//! Each method's defaults by kind of data.
//!
//! | kind | what | why |
//! |---|---|---|
//! | first look | the shipped images | minutes on two cores |
//! | small | CIFAR-10, MNIST's format, anything asked for at 64 pixels or less | the papers' CIFAR recipes |
//! | photographs | the rest, at 224 pixels | the papers' ImageNet recipes |

use crate::method::{METHODS, MethodConfig, SimClrConfig};
use crate::{Error, Normalization, PretrainConfig, Result, nearest};
use selfsup_augment::{ColorJitter, HorizontalFlip, Pipeline, RandomResizedCrop, Transform};
use selfsup_models::ProjectorConfig;
use selfsup_optim::{OptimizerConfig, Schedule, SgdConfig};

/// The source where none is given.
pub const DATA: &str = "fashion-mnist";
/// Images up to this side are small.
const SMALL: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    FirstLook,
    Small,
    Photographs,
}

/// The defaults of a method for a source at an image size (its kind's usual one if `None`).
pub fn config(method: &str, data: &str, image_size: Option<usize>) -> Result<PretrainConfig> {
    let kind = match data.split('#').next().unwrap_or(data) {
        DATA => Kind::FirstLook,
        d if d.starts_with("cifar10:") || d.starts_with("idx:") => Kind::Small,
        _ if image_size.is_some_and(|size| size <= SMALL) => Kind::Small,
        _ => Kind::Photographs,
    };
    match method {
        "simclr" => Ok(simclr(kind, data, image_size)),
        _ => {
            let hint = nearest(method, METHODS.iter().map(|m| m.name));
            let hint = hint.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
            Err(Error::Config(format!("unknown method `{method}`{hint}")))
        }
    }
}

fn simclr(kind: Kind, data: &str, image_size: Option<usize>) -> PretrainConfig {
    let image_size = image_size.unwrap_or(match kind {
        Kind::FirstLook => 28,
        Kind::Small => 32,
        Kind::Photographs => 224,
    });
    let side = image_size as u32;
    let base = PretrainConfig {
        data: data.to_owned(),
        arch: String::new(),
        image_size,
        batch_size: 256,
        epochs: 100,
        steps: None,
        seed: 0,
        device: "auto".into(),
        dtype: "f32".into(),
        workers: 2,
        strict: false,
        allow_small_images: false,
        log_every_steps: 10,
        checkpoint_every_steps: 200,
        keep_every_steps: 0,
        clip_grad_norm: 0.0,
        normalization: Normalization::IMAGENET,
        method: MethodConfig::SimClr(SimClrConfig {
            temperature: 0.1,
            projector: ProjectorConfig::default(),
            augmentation: Pipeline::simclr(side, 1.0),
        }),
        optimizer: OptimizerConfig::lars(0.3),
        schedule: Schedule::cosine(10.0),
    };
    match kind {
        // Settings were compared by the probes on a fifth of the training images, held out. That earlier defaults gained
        // little over raw pixels had been seen on the test part.
        Kind::FirstLook => PretrainConfig {
            arch: "resnet10-mini".into(),
            batch_size: 128,
            epochs: 11,
            normalization: Normalization::FASHION_MNIST,
            method: MethodConfig::SimClr(SimClrConfig {
                temperature: 0.15,
                projector: ProjectorConfig::default(),
                augmentation: simclr_gray(side),
            }),
            optimizer: OptimizerConfig::adamw(3e-3),
            schedule: Schedule::cosine(0.3),
            ..base
        },
        // Chen et al. 2020, B.9: temperature 0.5, strength 0.5, no blur. Its LARS with a rate of 1 is for batches
        // of thousands; SGD at 0.06 for 128 images is what lightly's CIFAR-10 benchmark uses.
        Kind::Small => PretrainConfig {
            arch: "resnet18-cifar".into(),
            epochs: 200,
            normalization: Normalization::CIFAR10,
            method: MethodConfig::SimClr(SimClrConfig {
                temperature: 0.5,
                projector: ProjectorConfig::default(),
                augmentation: Pipeline::simclr_cifar(side),
            }),
            optimizer: OptimizerConfig::Sgd(SgdConfig { weight_decay: 5e-4, ..SgdConfig::new(0.12) }),
            schedule: Schedule::cosine(10.0),
            ..base
        },
        // Chen et al. 2020, §2.2: LARS at 0.3 × batch / 256, decay 1e-6, ten epochs of warm-up, τ 0.1.
        Kind::Photographs => PretrainConfig { arch: "resnet50".into(), ..base },
    }
}

/// SimCLR's crops, flips and jitter for gray images that are all aligned: strong brightness and contrast, no colour,
/// and crops of a quarter or more, since where a thing is tells much of what it is.
fn simclr_gray(size: u32) -> Pipeline {
    Pipeline(vec![
        Transform::RandomResizedCrop(RandomResizedCrop::new(size, [0.25, 1.0])),
        Transform::HorizontalFlip(HorizontalFlip { p: 0.5 }),
        Transform::ColorJitter(ColorJitter {
            p: 0.8,
            brightness: 0.9,
            contrast: 0.9,
            saturation: 0.0,
            hue: 0.0,
        }),
    ])
}
