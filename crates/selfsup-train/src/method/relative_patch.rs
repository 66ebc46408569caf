//! Relative patch location: given two patches of an image, the network says on which of eight sides of the first the second lies.
//!
//! Doersch, Gupta & Efros 2015, "Unsupervised Visual Representation Learning by Context Prediction", arXiv:1505.05192, §3 and §4. Against
//! solutions that need no understanding: a gap between the patches and a jitter of both (edges and textures that run on), colours
//! dropped or noise in their place (lenses bend colours apart towards the image's corners, which tells a patch's absolute place), each
//! patch's own mean and contrast taken out (shadings over the image), some patches of a coarser resolution.
//!
//! Letters: S side of the image, p of a patch, g gap, j jitter, in pixels. Each side is as likely as another; the pair that it makes, of p or
//! 2p + g pixels and 2j more each way, lies anywhere in the image.

use super::classifier::Classifier;
use super::{
    Batch, Example, Method, MethodInfo, Metrics, Prepare, Progress, Settings, Sizes, StepOutput, by_area,
    nine, validate_views,
};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use image::RgbImage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use selfsup_augment::{Interpolation, Pipeline, Region, resize_region};
use selfsup_models::params::Params;
use selfsup_models::{Encoder, Mode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(super) const INFO: MethodInfo = MethodInfo {
    name: "relative-patch",
    title: "Unsupervised Visual Representation Learning by Context Prediction",
    paper: "Doersch, Gupta, Efros, arXiv:1505.05192",
    year: 2015,
    idea: "says on which of eight sides of a patch another one lies",
};

/// Column and row of the second patch beside the first: the classes, row by row.
const SIDES: [(i32, i32); 8] = [(-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1)];
/// Standard deviation of the noise in a dropped channel, as a share of that of the channel that stays (§3.1).
const NOISE: f64 = 0.01;

/// Added to a patch's root mean square, in levels.
const EPS: f64 = 1e-3;
/// The mean level of a dropped channel.
const DROPPED: f64 = 127.5;

/// What keeps colours from telling where a patch was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColorGuard {
    /// Nothing.
    None,
    /// Two of the three channels, drawn for each patch, become faint noise (the paper's "color dropping").
    Drop,
    /// The axis from green to magenta, along which lenses err most, is taken out (the paper's "projection").
    Project,
}

/// Relative patch location's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelativePatchConfig {
    /// p: side of a patch, in pixels. 96 in the paper.
    pub patch: u32,
    /// g: pixels between two patches. 48 in the paper.
    pub gap: u32,
    /// j: by how many pixels each patch is off its place at most, each way. 7 in the paper.
    pub jitter: u32,
    /// What keeps colours from telling where a patch was.
    pub color: ColorGuard,
    /// Chance of a patch to be of a coarser resolution.
    pub downsample_p: f64,
    /// The least side of a coarser patch before it is enlarged again, in pixels. 10 in the paper.
    pub downsample_least: u32,
    /// Widths of the pair's hidden layers.
    pub hidden_dims: Vec<usize>,
    /// What happens to an image before its patches are cut out.
    pub augmentation: Pipeline,
}

impl RelativePatchConfig {
    /// The paper's sizes, brought to images of another side: 448 pixels would have the paper's own.
    pub(crate) fn sized(side: u32, augmentation: Pipeline) -> Self {
        let part = |of: u32| (f64::from(side * of) / 448.0).round().max(1.0) as u32;
        let patch = part(96).max(MIN_PATCH);
        Self {
            patch,
            gap: patch / 2,
            jitter: part(7),
            color: ColorGuard::Drop,
            downsample_p: 0.33,
            downsample_least: (patch * 10 / 96).max(4),
            hidden_dims: vec![512],
            augmentation,
        }
    }

    /// What two patches side by side take, in pixels.
    fn pair(&self) -> u64 {
        2 * u64::from(self.patch) + u64::from(self.gap) + 2 * u64::from(self.jitter)
    }
}

/// Smaller patches hold next to nothing.
const MIN_PATCH: u32 = 8;

impl Settings for RelativePatchConfig {
    fn views(&self, image: usize) -> f64 {
        by_area(2, self.patch, image)
    }

    fn validate(&self, sizes: Sizes) -> Result<()> {
        let fail = |name: &str, expected: String, got: &dyn std::fmt::Display| {
            Err(Error::Config(format!("method.{name} must be {expected}, got {got}")))
        };
        validate_views(&self.augmentation, sizes.image)?;
        sizes.part("patch", self.patch)?;
        if self.patch < 4 {
            return fail("patch", "at least 4 pixels".into(), &self.patch);
        }
        if self.pair() > sizes.image as u64 {
            let (pair, image) = (self.pair(), sizes.image);
            return Err(Error::Config(format!(
                "two patches of {}, with a gap of {} and a jitter of {}, take {pair} pixels, but image_size is {image}; \
                 choose a smaller method.patch, method.gap or method.jitter",
                self.patch, self.gap, self.jitter
            )));
        }
        if self.gap < self.jitter.saturating_mul(2) {
            let expected = format!("at least twice method.jitter, {}, or patches overlap", self.jitter);
            return fail("gap", expected, &self.gap);
        }
        if !(0.0..=1.0).contains(&self.downsample_p) {
            return fail("downsample_p", "in 0…1".into(), &self.downsample_p);
        }
        if !(1..=self.patch).contains(&self.downsample_least) {
            return fail("downsample_least", format!("1 to {}", self.patch), &self.downsample_least);
        }
        match self.hidden_dims.iter().find(|&&width| width == 0) {
            Some(width) => fail("hidden_dims", "widths of at least 1".into(), width),
            None => Ok(()),
        }
    }

    fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        Ok(Arc::new(PatchPair(self.clone())))
    }

    fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>> {
        Ok(Box::new(RelativePatch::new(self, encoder, seed)?))
    }
}

/// A patch, one of its neighbours, and where that lies.
struct PatchPair(RelativePatchConfig);

impl Prepare for PatchPair {
    fn view_names(&self) -> &[&'static str] {
        &["patch", "neighbour"]
    }

    fn prepare(&self, image: &RgbImage, rng: &dyn Fn(u64) -> ChaCha8Rng) -> Result<Example> {
        let RelativePatchConfig { patch, gap, jitter, .. } = self.0;
        let image = self.0.augmentation.apply(image, &mut rng(0))?;
        let rng = &mut rng(1);
        let side = rng.random_range(0..SIDES.len());
        // Along each axis, where the two would be without jitter.
        let mut along = |step: i32, whole: u32| {
            let apart = step.unsigned_abs() * (patch + gap);
            let first = jitter + rng.random_range(0..=whole - apart - patch - 2 * jitter);
            if step < 0 { [first + apart, first] } else { [first, first + apart] }
        };
        let (x, y) = (along(SIDES[side].0, image.width()), along(SIDES[side].1, image.height()));
        let mut off = |at: u32| at - jitter + rng.random_range(0..=2 * jitter);
        let places = [0, 1].map(|which| [off(x[which]), off(y[which])]);
        let views = places.map(|place| self.cut(&image, place, rng)).into_iter();
        Ok(Example { views: views.collect::<Result<_>>()?, targets: vec![side as u32] })
    }

    /// The pair, and the neighbour on its side.
    fn pictures(&self, Example { views, targets }: &Example) -> Result<Vec<(&'static str, RgbImage)>> {
        let mut places = [None; 9];
        let (column, row) = SIDES[targets[0] as usize];
        places[4] = Some(&views[0]);
        places[(3 * (row + 1) + column + 1) as usize] = Some(&views[1]);
        Ok(vec![("patch", views[0].clone()), ("neighbour", views[1].clone()), ("its side", nine(places))])
    }
}

impl PatchPair {
    fn cut(&self, image: &RgbImage, [left, top]: [u32; 2], rng: &mut ChaCha8Rng) -> Result<RgbImage> {
        let RelativePatchConfig { patch, color, downsample_p, downsample_least, .. } = self.0;
        let resize = |image: &RgbImage, region, to| {
            resize_region(image, region, to, to, Interpolation::Bilinear, false)
        };
        let mut cut = resize(image, Region { left, top, width: patch, height: patch }, patch)?;
        if rng.random::<f64>() < downsample_p {
            let coarse = rng.random_range(downsample_least..=patch);
            let small = resize(&cut, Region::whole(patch, patch), coarse)?;
            cut = resize(&small, Region::whole(coarse, coarse), patch)?;
        }
        match color {
            ColorGuard::None => {}
            ColorGuard::Drop => drop_colors(&mut cut, rng.random_range(0..3), rng),
            ColorGuard::Project => project(&mut cut),
        }
        Ok(cut)
    }
}

/// Faint noise in two channels, about a level that is the same for every patch: what the colours were, and how they lie to each other, is
/// gone. Levels are whole: a fraction is rounded up or down by chance, so that the noise keeps its mean and is not lost where its
/// deviation is below a level.
fn drop_colors(patch: &mut RgbImage, kept: usize, rng: &mut ChaCha8Rng) {
    let n = f64::from(patch.width() * patch.height());
    let levels = || patch.pixels().map(|pixel| f64::from(pixel[kept]));
    let mean = levels().sum::<f64>() / n;
    let deviation = NOISE * (levels().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
    for pixel in patch.pixels_mut() {
        for c in (0..3).filter(|&c| c != kept) {
            let level = DROPPED + deviation * rng.sample::<f64, _>(StandardNormal);
            pixel[c] = (level + rng.random::<f64>()).floor().clamp(0.0, 255.0) as u8;
        }
    }
}

/// x − a·(a·x)/(a·a) with a = (−1, 2, −1), the axis from magenta to green (§3.1). The result reaches from −42.5 to 297.5 and is brought
/// into 0…255: cut off there it would show the axis again.
fn project(patch: &mut RgbImage) {
    const AXIS: [f64; 3] = [-1.0, 2.0, -1.0];
    const LEAST: f64 = -42.5;
    const RANGE: f64 = 340.0;
    for pixel in patch.pixels_mut() {
        let dot: f64 = AXIS.iter().zip(pixel.0).map(|(a, v)| a * f64::from(v)).sum();
        for (v, a) in pixel.0.iter_mut().zip(AXIS) {
            *v = ((f64::from(*v) - a * dot / 6.0 - LEAST) * 255.0 / RANGE).round() as u8;
        }
    }
}

/// Each patch `[n, p, p, 3]`, u8, without its own mean of each channel, over the root mean square of what is left in all three: f32. One
/// scale for all channels leaves the faint noise of dropped ones faint. As the authors' code does, against shadings (§4).
pub fn normalize_patches(patches: &Tensor) -> Result<Tensor> {
    let x = patches.to_dtype(DType::F32)?;
    let centred = x.broadcast_sub(&x.mean_keepdim((1, 2))?)?;
    let scale = (centred.sqr()?.mean_keepdim((1, 2, 3))?.sqrt()? + EPS)?;
    Ok(centred.broadcast_div(&scale)?)
}

/// Relative patch location with its model.
pub struct RelativePatch {
    prepare: Arc<dyn Prepare>,
    encoder: Encoder,
    classifier: Classifier,
}

impl RelativePatch {
    /// Puts a classifier of pairs, drawn from `seed`, on an encoder.
    pub fn new(config: &RelativePatchConfig, encoder: Encoder, seed: u64) -> Result<Self> {
        let width = 2 * encoder.feature_dim();
        let classifier = Classifier::new(width, &config.hidden_dims, SIDES.len(), encoder.device(), seed)?;
        Ok(Self { prepare: config.prepare()?, encoder, classifier })
    }
}

impl Method for RelativePatch {
    fn prepare(&self) -> Arc<dyn Prepare> {
        self.prepare.clone()
    }

    fn step(&mut self, Batch { views, targets }: &Batch, _at: Progress) -> Result<StepOutput> {
        let n = views[0].dim(0)?;
        // One tower for both, which sees them as one batch.
        let patches = normalize_patches(&Tensor::cat(views, 0)?)?;
        let features = self.encoder.forward_normalized(&patches, Mode::Train)?;
        let pair = Tensor::cat(&[features.narrow(0, 0, n)?, features.narrow(0, n, n)?], 1)?;
        let logits = self.classifier.forward(&pair, Mode::Train)?;
        let loss = selfsup_objectives::cross_entropy(&logits, &targets[0])?;
        let (logits, sides) = (logits.detach(), targets[0].clone());
        let metrics: Metrics =
            Box::new(move || Ok(vec![("side_top1", selfsup_objectives::accuracy(&logits, &sides)?)]));
        Ok(StepOutput { loss, embeddings: features.narrow(0, 0, n)?.detach(), metrics })
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    fn tensors(&self) -> Params {
        self.classifier.tensors_with(&self.encoder)
    }
}
