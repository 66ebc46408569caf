//! Each method's defaults by kind of data.
//!
//! | kind | what | why |
//! |---|---|---|
//! | first look | the shipped images | minutes on two cores |
//! | small | CIFAR-10, MNIST's format, anything asked for at 64 pixels or less | the papers' CIFAR recipes |
//! | photographs | the rest, at 224 pixels | the papers' ImageNet recipes |

use crate::method::{
    BarlowTwinsConfig, ByolConfig, ColorGuard, ColorizationConfig, DinoConfig, Hole, InpaintingConfig,
    JigsawConfig, METHODS, MethodConfig, MocoConfig, RelativePatchConfig, RotationConfig, SimClrConfig,
    SimSiamConfig, VicRegConfig,
};
use crate::{Error, Normalization, PretrainConfig, Result, nearest};
use selfsup_augment::{ColorJitter, Grayscale, HorizontalFlip, Pipeline, RandomResizedCrop, Transform};
use selfsup_models::{HeadNorm, ProjectorConfig};
use selfsup_optim::{AdamWConfig, LarsConfig, OptimizerConfig, Schedule, SgdConfig, Step};

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
        "rotation" => Ok(rotation(kind, data, image_size)),
        "relative-patch" => Ok(relative_patch(kind, data, image_size)),
        "jigsaw" => Ok(jigsaw(kind, data, image_size)),
        "inpainting" => Ok(inpainting(kind, data, image_size)),
        "colorization" => Ok(colorization(kind, data, image_size)),
        "simclr" => Ok(simclr(kind, data, image_size)),
        "moco-v1" => Ok(moco(Version::V1, kind, data, image_size)),
        "moco-v2" => Ok(moco(Version::V2, kind, data, image_size)),
        "byol" => Ok(byol(kind, data, image_size)),
        "simsiam" => Ok(simsiam(kind, data, image_size)),
        "barlow-twins" => Ok(barlow_twins(kind, data, image_size)),
        "vicreg" => Ok(vicreg(kind, data, image_size)),
        "dino" => Ok(dino(kind, data, image_size)),
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

/// A pretext task's run. What the kind of data decides alike for all methods comes from SimCLR's.
///
/// Photographs: SGD at 0.1 for 256 images, 35 epochs, 5 of them to warm up, a tenth of the rate from epochs 15 and 25 on (Kolesnikov, Zhai &
/// Beyer 2019, arXiv:1901.09005, §3.5, which trains these tasks alike). Small images: RotNet's 100 epochs of 128 images, 0.1 with Nesterov's momentum and
/// decay 5e-4, a fifth of the rate from epochs 30, 60 and 80 on.
fn pretext(kind: Kind, data: &str, image_size: Option<usize>, method: MethodConfig) -> PretrainConfig {
    let base = PretrainConfig { method, ..simclr(kind, data, image_size) };
    match kind {
        Kind::FirstLook => base,
        Kind::Small => PretrainConfig {
            batch_size: 128,
            epochs: 100,
            optimizer: OptimizerConfig::Sgd(SgdConfig {
                nesterov: true,
                weight_decay: 5e-4,
                ..SgdConfig::new(0.1)
            }),
            schedule: Schedule::step(vec![30.0, 60.0, 80.0], 0.2),
            ..base
        },
        Kind::Photographs => PretrainConfig {
            epochs: 35,
            optimizer: OptimizerConfig::Sgd(SgdConfig::new(0.1)),
            schedule: Schedule::Step(Step {
                warmup_epochs: 5.0,
                milestones_epochs: vec![15.0, 25.0],
                gamma: 0.1,
            }),
            ..base
        },
    }
}

/// A square of much of the image, as often as not mirrored, its aspect kept.
fn mild_crop(side: u32) -> Pipeline {
    Pipeline(vec![
        Transform::RandomResizedCrop(RandomResizedCrop {
            ratio: [1.0, 1.0],
            ..RandomResizedCrop::new(side, [0.6, 1.0])
        }),
        Transform::HorizontalFlip(HorizontalFlip { p: 0.5 }),
    ])
}

fn side(kind: Kind, data: &str, image_size: Option<usize>) -> u32 {
    simclr(kind, data, image_size).image_size as u32
}

fn rotation(kind: Kind, data: &str, image_size: Option<usize>) -> PretrainConfig {
    let augmentation = mild_crop(side(kind, data, image_size));
    pretext(kind, data, image_size, MethodConfig::Rotation(RotationConfig { augmentation }))
}

fn relative_patch(kind: Kind, data: &str, image_size: Option<usize>) -> PretrainConfig {
    let side = side(kind, data, image_size);
    // Patches of small images are small enough: the whole image is used.
    let augmentation = match kind {
        Kind::Photographs => mild_crop(side),
        _ => {
            let mut whole = Pipeline::none(side);
            whole.0.push(Transform::HorizontalFlip(HorizontalFlip { p: 0.5 }));
            whole
        }
    };
    let mut config = RelativePatchConfig::sized(side, augmentation);
    if kind == Kind::FirstLook {
        config.color = ColorGuard::None; // gray images
    }
    pretext(kind, data, image_size, MethodConfig::RelativePatch(config))
}

/// Noroozi & Favaro 2016, §3 and §4.2: tiles of 64 in cells of 85, widths of 512 and 4096, gray images among coloured ones.
fn jigsaw(kind: Kind, data: &str, image_size: Option<usize>) -> PretrainConfig {
    let side = side(kind, data, image_size);
    let mut augmentation = mild_crop(side);
    if kind != Kind::FirstLook {
        augmentation.0.push(Transform::Grayscale(Grayscale { p: 0.66 }));
    }
    let photographs = kind == Kind::Photographs;
    let config = JigsawConfig {
        permutations: if photographs { 1000 } else { 64 },
        permutation_file: None,
        permutation_sha256: None,
        tile: JigsawConfig::tile_of(side),
        tile_dim: if photographs { 512 } else { 128 },
        hidden_dim: if photographs { 4096 } else { 512 },
        augmentation,
    };
    pretext(kind, data, image_size, MethodConfig::Jigsaw(config))
}

/// Pathak et al. 2016, §3 and §4, and its code: images of 128 pixels, Adam at 0.002 with β₁ .5 for the generator, λ_adv .001.
fn inpainting(kind: Kind, data: &str, image_size: Option<usize>) -> PretrainConfig {
    let image_size = if kind == Kind::Photographs { image_size.or(Some(128)) } else { image_size };
    let side = side(kind, data, image_size);
    let photographs = kind == Kind::Photographs;
    let config = InpaintingConfig {
        hole: Hole::Center,
        overlap: side.div_ceil(32),
        overlap_weight: 10.0,
        adversarial: 1e-3,
        discriminator_lr_scale: 0.1,
        decoder_width: if photographs { 512 } else { 128 },
        discriminator_width: if photographs { 64 } else { 32 },
        augmentation: mild_crop(side),
    };
    let base = pretext(kind, data, image_size, MethodConfig::Inpainting(config));
    let adam = AdamWConfig { beta1: 0.5, weight_decay: 0.0, ..AdamWConfig::new(2e-3) };
    PretrainConfig { optimizer: OptimizerConfig::AdamW(adam), schedule: Schedule::cosine(0.0), ..base }
}

/// Zhang et al. 2016, §3.1: Adam at 3e-5 with β .9 and .99 and decay 1e-3, T .38, λ ½. That rate is for batches of 40 and a VGG trained from
/// k-means' weights; ours is AdamW's usual one.
fn colorization(kind: Kind, data: &str, image_size: Option<usize>) -> PretrainConfig {
    let side = side(kind, data, image_size);
    let config = ColorizationConfig {
        uniform: 0.5,
        temperature: 0.38,
        decoder_width: if kind == Kind::Photographs { 512 } else { 128 },
        augmentation: mild_crop(side),
    };
    let base = pretext(kind, data, image_size, MethodConfig::Colorization(config));
    let adamw = AdamWConfig { beta2: 0.99, weight_decay: 1e-3, ..AdamWConfig::new(1e-3) };
    PretrainConfig { optimizer: OptimizerConfig::AdamW(adamw), schedule: Schedule::cosine(1.0), ..base }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// What the kind of data decides alike for all methods comes from SimCLR's.
fn moco(version: Version, kind: Kind, data: &str, image_size: Option<usize>) -> PretrainConfig {
    let base = simclr(kind, data, image_size);
    let side = base.image_size as u32;
    // He et al. 2020, §3.3 and §4, and Chen et al. 2020b, §3: 65,536 keys, m .999, batches of 256 on 8 devices, SGD at 0.03.
    // v1: a linear head, τ .07, a tenth of the rate from epochs 120 and 160 of 200 on. v2: an MLP with a hidden layer of the
    // features' width, τ .2, cosine.
    let method = |temperature, momentum, queue, augmentation| {
        let layers = if version == Version::V1 { 1 } else { 2 };
        let projector = ProjectorConfig { layers, batch_norm: HeadNorm::None, ..ProjectorConfig::default() };
        let config = MocoConfig {
            temperature,
            momentum,
            momentum_ramp: false,
            queue,
            symmetric: false,
            bn_groups: 8,
            projector,
            augmentation,
        };
        if version == Version::V1 { MethodConfig::MocoV1(config) } else { MethodConfig::MocoV2(config) }
    };
    let augmentation = match version {
        Version::V1 => Pipeline::moco_v1(side),
        Version::V2 => Pipeline::moco_v2(side),
    };
    match kind {
        Kind::FirstLook => {
            let weak = version == Version::V1;
            let augmentation = if weak { moco_v1_gray(side) } else { simclr_gray(side) };
            PretrainConfig { method: method(0.15, 0.99, 2048, augmentation), ..base }
        }
        // The authors' CIFAR-10 notebook: 4,096 keys, m .99, τ .1, statistics in 8 groups, SGD at 0.06 for 512 images with
        // decay 5e-4, a cosine, no blur.
        Kind::Small => {
            let augmentation = Pipeline(
                augmentation.0.into_iter().filter(|t| !matches!(t, Transform::GaussianBlur(_))).collect(),
            );
            PretrainConfig {
                method: method(0.1, 0.99, 4096, augmentation),
                optimizer: OptimizerConfig::Sgd(SgdConfig { weight_decay: 5e-4, ..SgdConfig::new(0.03) }),
                schedule: Schedule::cosine(0.0),
                ..base
            }
        }
        Kind::Photographs => PretrainConfig {
            epochs: 200,
            method: method(if version == Version::V1 { 0.07 } else { 0.2 }, 0.999, 65_536, augmentation),
            optimizer: OptimizerConfig::Sgd(SgdConfig::new(0.03)),
            schedule: match version {
                Version::V1 => Schedule::step(vec![120.0, 160.0], 0.1),
                Version::V2 => Schedule::cosine(0.0),
            },
            ..base
        },
    }
}

/// SimCLR's views, which these methods take too, and its optimiser where it is not the paper's photographs.
fn neighbour(
    kind: Kind,
    data: &str,
    image_size: Option<usize>,
    optimizer: OptimizerConfig,
    method: impl FnOnce(Pipeline) -> MethodConfig,
) -> PretrainConfig {
    let base = simclr(kind, data, image_size);
    let side = base.image_size as u32;
    let augmentation = match kind {
        Kind::FirstLook => simclr_gray(side),
        Kind::Small => Pipeline::simclr_cifar(side),
        Kind::Photographs => Pipeline::simclr(side, 0.5),
    };
    let optimizer = if kind == Kind::Photographs { optimizer } else { base.optimizer.clone() };
    PretrainConfig { method: method(augmentation), optimizer, ..base }
}

/// A head as in the paper on photographs; on small images narrower, as its widths are for ResNet-50's 2048 features.
fn head(
    kind: Kind,
    layers: usize,
    [hidden_dim, out_dim]: [usize; 2],
    batch_norm: HeadNorm,
) -> ProjectorConfig {
    let shrink = match kind {
        Kind::FirstLook => 16,
        Kind::Small => 4,
        Kind::Photographs => 1,
    };
    let narrow = |width: usize| (width / shrink).max(width.min(128));
    ProjectorConfig { layers, hidden_dim: narrow(hidden_dim), out_dim: narrow(out_dim), batch_norm }
}

/// Grill et al. 2020, §3.2: hidden layers of 4096, 256 outputs, τ .996, LARS at 0.2 for 256 images with decay 1.5e-6.
fn byol(kind: Kind, data: &str, image_size: Option<usize>) -> PretrainConfig {
    let lars = LarsConfig { weight_decay: 1.5e-6, ..LarsConfig::new(0.2) };
    neighbour(kind, data, image_size, OptimizerConfig::Lars(lars), |augmentation| {
        MethodConfig::Byol(ByolConfig {
            momentum: if kind == Kind::Photographs { 0.996 } else { 0.99 },
            momentum_ramp: true,
            projector: head(kind, 2, [4096, 256], HeadNorm::Hidden),
            predictor_hidden_dim: head(kind, 2, [4096, 256], HeadNorm::Hidden).hidden_dim,
            augmentation,
        })
    })
}

/// Chen & He 2021, §3: three layers of 2048, a predictor with 512 hidden, SGD at 0.05 for 256 images, decay 1e-4, MoCo v2's views.
fn simsiam(kind: Kind, data: &str, image_size: Option<usize>) -> PretrainConfig {
    neighbour(kind, data, image_size, OptimizerConfig::Sgd(SgdConfig::new(0.05)), |augmentation| {
        let projector = head(kind, 3, [2048, 2048], HeadNorm::All);
        MethodConfig::SimSiam(SimSiamConfig {
            predictor_hidden_dim: projector.out_dim / 4,
            projector,
            augmentation,
        })
    })
}

/// Zbontar et al. 2021, §2.2: three layers of 8192, LARS at 0.2 for 256 images with decay 1.5e-6 (its biases at 0.0048).
fn barlow_twins(kind: Kind, data: &str, image_size: Option<usize>) -> PretrainConfig {
    let lars = LarsConfig { weight_decay: 1.5e-6, ..LarsConfig::new(0.2) };
    neighbour(kind, data, image_size, OptimizerConfig::Lars(lars), |augmentation| {
        let projector = head(kind, 3, [8192, 8192], HeadNorm::Hidden);
        MethodConfig::BarlowTwins(BarlowTwinsConfig { lambda: 0.0051, projector, augmentation })
    })
}

/// Bardes et al. 2022, §4.2: three layers of 8192, weights 25, 25, 1, LARS at 0.2 for 256 images with decay 1e-6.
fn vicreg(kind: Kind, data: &str, image_size: Option<usize>) -> PretrainConfig {
    let lars = LarsConfig { weight_decay: 1e-6, ..LarsConfig::new(0.2) };
    neighbour(kind, data, image_size, OptimizerConfig::Lars(lars), |augmentation| {
        MethodConfig::VicReg(VicRegConfig {
            invariance: 25.0,
            variance: 25.0,
            covariance: 1.0,
            projector: head(kind, 3, [8192, 8192], HeadNorm::Hidden),
            augmentation,
        })
    })
}

/// Caron et al. 2021, §3.2 and A: ViT-S/16, AdamW at 0.0005 for 256 images, decay 0.04 (which they raise to 0.4), gradients cut
/// at a norm of 3, two global crops of .4…1 of the area and eight local ones of .05….4 at 96 of 224 pixels.
fn dino(kind: Kind, data: &str, image_size: Option<usize>) -> PretrainConfig {
    let base = simclr(kind, data, image_size);
    let side = base.image_size as u32;
    // Small images' local crops are of half the side, of whole patches.
    let (arch, local_side, patch) = match kind {
        Kind::Photographs => ("vit-small-16", side * 96 / 224, 16),
        Kind::Small => ("vit-mini-cifar", side / 2, 4),
        // A transformer takes several times as long.
        Kind::FirstLook => ("resnet10-mini", side / 2, 4),
    };
    let local_side = (local_side / patch).max(1) * patch;
    let crops = |size: u32, area: [f64; 2]| {
        let mut pipeline = match kind {
            Kind::FirstLook => simclr_gray(size),
            Kind::Small => Pipeline::simclr_cifar(size),
            Kind::Photographs => Pipeline::simclr(size, 0.5),
        };
        pipeline.0[0] = Transform::RandomResizedCrop(RandomResizedCrop::new(size, area));
        pipeline
    };
    // With the paper's, some hundreds of steps do not leave the beginning, where the teacher says next to nothing.
    let short = kind == Kind::FirstLook;
    let [out_dim, hidden_dim, bottleneck_dim] = match kind {
        Kind::Photographs => [65_536, 2048, 256],
        _ => [1024, 512, 128],
    };
    let method = DinoConfig {
        student_temperature: 0.1,
        teacher_temperature: if short { 0.04 } else { 0.07 },
        teacher_temperature_start: if short { 0.02 } else { 0.04 },
        teacher_warmup: 0.3,
        momentum: if short { 0.99 } else { 0.996 },
        momentum_ramp: true,
        center_momentum: 0.9,
        out_dim,
        hidden_dim,
        bottleneck_dim,
        local_views: match kind {
            Kind::FirstLook => 2,
            Kind::Small => 4,
            Kind::Photographs => 8,
        },
        augmentation: crops(side, [0.4, 1.0]),
        local_augmentation: crops(local_side, [0.05, 0.4]),
    };
    let lr = match kind {
        Kind::FirstLook => 3e-3,
        Kind::Small => 1e-3,
        Kind::Photographs => 5e-4,
    };
    let adamw = AdamWConfig { weight_decay: 0.04, ..AdamWConfig::new(lr) };
    PretrainConfig {
        arch: arch.into(),
        clip_grad_norm: 3.0,
        method: MethodConfig::Dino(method),
        optimizer: OptimizerConfig::AdamW(adamw),
        ..base
    }
}

/// MoCo v1's crops, flips and weaker jitter for gray images that are all aligned.
fn moco_v1_gray(size: u32) -> Pipeline {
    Pipeline(vec![
        Transform::RandomResizedCrop(RandomResizedCrop::new(size, [0.25, 1.0])),
        Transform::ColorJitter(ColorJitter {
            p: 1.0,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.0,
            hue: 0.0,
        }),
        Transform::HorizontalFlip(HorizontalFlip { p: 0.5 }),
    ])
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
