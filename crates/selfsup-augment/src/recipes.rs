//! The published augmentations, as pipelines.

use crate::{
    CenterCrop, ColorJitter, GaussianBlur, Grayscale, HorizontalFlip, Interpolation, Pipeline,
    RandomResizedCrop, Resize, Transform,
};

/// σ of SimCLR's and MoCo v2's blur, in pixels.
const SIGMA: [f64; 2] = [0.1, 2.0];

impl Pipeline {
    /// SimCLR on ImageNet (arXiv 2002.05709, appendix A): crop of .08…1 of the area, flip, jitter of
    /// (.8, .8, .8, .2)·`strength` with p .8, gray with p .2, blur over a tenth of the side with p .5. The
    /// paper's strength is 1.
    ///
    /// The authors' code resizes with a bicubic filter; this is bilinear, as in torchvision and lightly.
    pub fn simclr(size: u32, strength: f64) -> Self {
        let mut pipeline = Self::simclr_without_blur(size, strength);
        pipeline.0.push(Transform::GaussianBlur(GaussianBlur { p: 0.5, sigma: SIGMA, kernel_size: None }));
        pipeline
    }

    /// SimCLR on CIFAR-10 (arXiv 2002.05709, appendix B.9): as on ImageNet with strength .5 and no blur.
    pub fn simclr_cifar(size: u32) -> Self {
        Self::simclr_without_blur(size, 0.5)
    }

    /// MoCo v1 (arXiv 1911.05722; `main_moco.py` of the authors' code): crop of .2…1 of the area, gray with
    /// p .2, jitter of .4 each, always, flip.
    pub fn moco_v1(size: u32) -> Self {
        Self(vec![
            Transform::RandomResizedCrop(RandomResizedCrop::new(size, [0.2, 1.0])),
            Transform::Grayscale(Grayscale { p: 0.2 }),
            Transform::ColorJitter(ColorJitter {
                p: 1.0,
                brightness: 0.4,
                contrast: 0.4,
                saturation: 0.4,
                hue: 0.4,
            }),
            Transform::HorizontalFlip(HorizontalFlip { p: 0.5 }),
        ])
    }

    /// MoCo v2 (arXiv 2003.04297; `main_moco.py --aug-plus`): crop of .2…1 of the area, jitter of
    /// (.4, .4, .4, .1) with p .8, gray with p .2, blur with p .5, flip.
    ///
    /// The authors blur with PIL's approximation, which has no kernel size; here the kernel reaches to 4σ of the
    /// widest σ.
    pub fn moco_v2(size: u32) -> Self {
        Self(vec![
            Transform::RandomResizedCrop(RandomResizedCrop::new(size, [0.2, 1.0])),
            Transform::ColorJitter(ColorJitter {
                p: 0.8,
                brightness: 0.4,
                contrast: 0.4,
                saturation: 0.4,
                hue: 0.1,
            }),
            Transform::Grayscale(Grayscale { p: 0.2 }),
            Transform::GaussianBlur(GaussianBlur { p: 0.5, sigma: SIGMA, kernel_size: Some(17) }),
            Transform::HorizontalFlip(HorizontalFlip { p: 0.5 }),
        ])
    }

    /// No randomness: the shorter side resized to `size`, then the central square.
    pub fn none(size: u32) -> Self {
        Self(vec![
            Transform::Resize(Resize { size, interpolation: Interpolation::Bilinear }),
            Transform::CenterCrop(CenterCrop { size }),
        ])
    }

    fn simclr_without_blur(size: u32, strength: f64) -> Self {
        let jitter = ColorJitter {
            p: 0.8,
            brightness: 0.8 * strength,
            contrast: 0.8 * strength,
            saturation: 0.8 * strength,
            hue: 0.2 * strength,
        };
        Self(vec![
            Transform::RandomResizedCrop(RandomResizedCrop::new(size, [0.08, 1.0])),
            Transform::HorizontalFlip(HorizontalFlip { p: 0.5 }),
            Transform::ColorJitter(jitter),
            Transform::Grayscale(Grayscale { p: 0.2 }),
        ])
    }
}
