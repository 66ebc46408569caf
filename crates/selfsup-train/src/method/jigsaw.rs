//! Jigsaw: the network says in which of a set of orders the nine tiles of an image are laid out.
//!
//! Noroozi & Favaro 2016, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", arXiv:1603.09246, §3. Nine towers
//! that share their weights see a tile each; their features meet in the head. The orders are far from each other
//! ([`distant_permutations`]), so that all tiles count. Against solutions that need no understanding (§3.3): each tile lies anywhere in its
//! cell, is normalised by itself, and some images are gray.
//!
//! Letters: n images, c cell, t tile, in pixels, d features.

use super::classifier::{Classifier, encoder_tensors};
use super::{
    Batch, Example, Method, MethodInfo, Metrics, Prepare, Progress, Settings, Sizes, StepOutput, by_area,
    nine, validate_views,
};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use image::RgbImage;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use selfsup_augment::{Interpolation, Pipeline, Region, resize_region};
use selfsup_models::params::{ParamBuilder, Params};
use selfsup_models::{BatchNorm, Encoder, Linear, Mode};
use selfsup_objectives::{Permutation, TILES, distant_permutations};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) const INFO: MethodInfo = MethodInfo {
    name: "jigsaw",
    title: "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles",
    paper: "Noroozi, Favaro, arXiv:1603.09246",
    year: 2016,
    idea: "says in which order the nine tiles of an image are laid out",
};

const NAMES: [&str; TILES] =
    ["tile 1", "tile 2", "tile 3", "tile 4", "tile 5", "tile 6", "tile 7", "tile 8", "tile 9"];
const GRID: u32 = 3;
/// What a file of orders is called in the folder of a run.
pub(super) const KEPT_AS: &str = "permutations.txt";
/// 9!, of all orders.
const ALL_ORDERS: usize = 362_880;
/// Added to a tile's standard deviation, in levels.
const EPS: f64 = 1e-3;

/// Jigsaw's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JigsawConfig {
    /// Orders that are told apart: 64 to 1000 in the paper.
    pub permutations: usize,
    /// A file of that many orders in place of the built-in ones: nine numbers 0…8 a line, as `selfsup permutations` prints them.
    /// A run keeps a copy in its folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permutation_file: Option<PathBuf>,
    /// SHA-256 of that file in hexadecimal, filled in: a run is not taken up with other orders than it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permutation_sha256: Option<String>,
    /// t: side of a tile, in pixels. 64 of a cell of 85 in the paper.
    pub tile: u32,
    /// Width of each tile's features before they meet: 512 in the paper.
    pub tile_dim: usize,
    /// Width of the head's hidden layer: 4096 in the paper.
    pub hidden_dim: usize,
    /// What happens to an image before it is cut: gray with a chance of .3 in the paper, .66 in later work (see
    /// the method's page).
    pub augmentation: Pipeline,
}

impl JigsawConfig {
    /// The paper's tile, brought to images of another side.
    pub(crate) fn tile_of(side: u32) -> u32 {
        (f64::from(side / GRID) * 64.0 / 85.0).round().max(4.0) as u32
    }

    fn orders(&self) -> Result<Vec<Permutation>> {
        let Some(path) = &self.permutation_file else { return Ok(distant_permutations(self.permutations)?) };
        let text = read(path)?;
        match &self.permutation_sha256 {
            Some(known) if *known != sha256(&text) => Err(wrong_file(
                path,
                format!("it is not the file that the run began with, whose SHA-256 is {known}"),
            )),
            _ => parse_orders(path, &text, self.permutations),
        }
    }

    /// The file's whole path and its hash.
    pub(super) fn settle(&mut self) -> Result<()> {
        if let Some(path) = &mut self.permutation_file {
            *path = std::path::absolute(&*path).map_err(|e| wrong_file(path, e.to_string()))?;
            if self.permutation_sha256.is_none() {
                self.permutation_sha256 = Some(sha256(&read(path)?));
            }
        }
        Ok(())
    }
}

impl Settings for JigsawConfig {
    fn views(&self, image: usize) -> f64 {
        by_area(TILES, self.tile, image)
    }

    fn validate(&self, sizes: Sizes) -> Result<()> {
        let fail = |name: &str, expected: String, got: &dyn std::fmt::Display| {
            Err(Error::Config(format!("method.{name} must be {expected}, got {got}")))
        };
        validate_views(&self.augmentation, sizes.image)?;
        let cell = sizes.image / GRID as usize;
        if cell < 4 {
            return Err(Error::Config(format!(
                "jigsaw cuts images into 3×3 cells of at least 4 pixels: image_size must be at least 12, got {}",
                sizes.image
            )));
        }
        sizes.part("tile", self.tile)?;
        if !(4..=cell).contains(&(self.tile as usize)) {
            let expected = format!("4 to {cell} pixels, a third of image_size = {}", sizes.image);
            return fail("tile", expected, &self.tile);
        }
        for (name, got) in [("tile_dim", self.tile_dim), ("hidden_dim", self.hidden_dim)] {
            if got == 0 {
                return fail(name, "at least 1".into(), &got);
            }
        }
        if !(2..=ALL_ORDERS).contains(&self.permutations) {
            return fail("permutations", format!("2 to {ALL_ORDERS}"), &self.permutations);
        }
        // The built-in ones take a second, and are right.
        if self.permutation_file.is_some() {
            self.orders()?;
        }
        Ok(())
    }

    fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        Ok(Arc::new(Tiles { config: self.clone(), orders: self.orders()? }))
    }

    fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>> {
        Ok(Box::new(Jigsaw::new(self, encoder, seed)?))
    }
}

fn wrong_file(path: &Path, why: String) -> Error {
    Error::Config(format!("method.permutation_file {}: {why}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| wrong_file(path, e.to_string()))
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `count` different orders, from a file's text.
fn parse_orders(path: &Path, text: &str, count: usize) -> Result<Vec<Permutation>> {
    let fail = |why: String| wrong_file(path, why);
    let mut orders: Vec<Permutation> = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let numbers = line.split(|c: char| c.is_whitespace() || c == ',').filter(|n| !n.is_empty());
        let order = numbers.map(|n| n.parse().ok()).collect::<Option<Vec<u8>>>();
        let order = order.and_then(|numbers| Permutation::try_from(numbers).ok()).filter(|order| {
            let mut sorted = *order;
            sorted.sort_unstable();
            sorted.iter().copied().eq(0..TILES as u8)
        });
        let Some(order) = order else {
            let got = line.trim();
            let wanted = "must be the numbers 0 to 8 in some order";
            return Err(fail(format!("line {} {wanted}, got `{got}`", i + 1)));
        };
        if orders.contains(&order) {
            return Err(fail(format!("line {} repeats an order", i + 1)));
        }
        orders.push(order);
    }
    if orders.len() != count {
        return Err(fail(format!("it has {} orders, method.permutations is {count}", orders.len())));
    }
    Ok(orders)
}

/// The tiles of an image in one of the orders.
struct Tiles {
    config: JigsawConfig,
    orders: Vec<Permutation>,
}

impl Prepare for Tiles {
    fn view_names(&self) -> &[&'static str] {
        &NAMES
    }

    fn prepare(&self, image: &RgbImage, rng: &dyn Fn(u64) -> ChaCha8Rng) -> Result<Example> {
        let image = self.config.augmentation.apply(image, &mut rng(0))?;
        let rng = &mut rng(1);
        let (side, tile) = (image.width(), self.config.tile);
        let cell = side / GRID;
        // Where the grid does not take the whole image, it lies anywhere in it.
        let start = [0, 1].map(|_| rng.random_range(0..=side - GRID * cell));
        let mut tiles = Vec::with_capacity(TILES);
        for place in 0..TILES as u32 {
            let [left, top] =
                [place % GRID, place / GRID].map(|at| at * cell + rng.random_range(0..=cell - tile));
            let region = Region { left: start[0] + left, top: start[1] + top, width: tile, height: tile };
            tiles.push(resize_region(&image, region, tile, tile, Interpolation::Bilinear, false)?);
        }
        let label = rng.random_range(0..self.orders.len());
        let views = self.orders[label].iter().map(|&tile| tiles[tile as usize].clone()).collect();
        Ok(Example { views, targets: vec![label as u32] })
    }

    /// The tiles as they are laid out, and put together.
    fn pictures(&self, Example { views, targets }: &Example) -> Result<Vec<(&'static str, RgbImage)>> {
        let mut places = [None; TILES];
        for (view, place) in views.iter().zip(self.orders[targets[0] as usize]) {
            places[place as usize] = Some(view);
        }
        let laid_out = std::array::from_fn(|i| views.get(i));
        Ok(vec![("tiles laid out", nine(laid_out)), ("put together", nine(places))])
    }
}

/// Jigsaw with its model.
pub struct Jigsaw {
    prepare: Arc<dyn Prepare>,
    encoder: Encoder,
    tile: (Linear, BatchNorm),
    tile_params: Params,
    classifier: Classifier,
}

impl Jigsaw {
    /// Puts a head, drawn from `seed`, on an encoder.
    pub fn new(config: &JigsawConfig, encoder: Encoder, seed: u64) -> Result<Self> {
        let device = encoder.device();
        let build = ParamBuilder::new(seed, device);
        let part = build.part("tile");
        let width = config.tile_dim;
        let tile = (
            Linear::new(encoder.feature_dim(), width, false, &part)?,
            BatchNorm::new(width, &part.part("bn"))?,
        );
        let classifier =
            Classifier::new(TILES * width, &[config.hidden_dim], config.permutations, device, seed)?;
        Ok(Self { prepare: config.prepare()?, tile, tile_params: build.finish(), classifier, encoder })
    }
}

/// Each tile `[n, t, t, 3]`, u8, by its own mean and standard deviation, channel by channel: f32 of mean 0 and deviation 1, or 0 where a
/// tile has one level.
pub fn normalize_each(tiles: &Tensor) -> Result<Tensor> {
    let x = tiles.to_dtype(DType::F32)?;
    let centred = x.broadcast_sub(&x.mean_keepdim((1, 2))?)?;
    let deviation = (centred.sqr()?.mean_keepdim((1, 2))?.sqrt()? + EPS)?;
    Ok(centred.broadcast_div(&deviation)?)
}

impl Method for Jigsaw {
    fn prepare(&self) -> Arc<dyn Prepare> {
        self.prepare.clone()
    }

    fn step(&mut self, Batch { views, targets }: &Batch, _at: Progress) -> Result<StepOutput> {
        let n = views[0].dim(0)?;
        let tiles = normalize_each(&Tensor::cat(views, 0)?)?;
        let features = self.encoder.forward_normalized(&tiles, Mode::Train)?;
        let (linear, norm) = &self.tile;
        let tiles = norm.forward(&linear.forward(&features, Mode::Train)?, None, true, Mode::Train)?;
        // [9·n, d], tile by tile, to [n, 9·d].
        let width = tiles.dim(1)?;
        let together = tiles.reshape((TILES, n, width))?.transpose(0, 1)?.contiguous()?;
        let logits = self.classifier.forward(&together.reshape((n, TILES * width))?, Mode::Train)?;
        let loss = selfsup_objectives::cross_entropy(&logits, &targets[0])?;
        let (logits, orders) = (logits.detach(), targets[0].clone());
        let metrics: Metrics =
            Box::new(move || Ok(vec![("permutation_top1", selfsup_objectives::accuracy(&logits, &orders)?)]));
        Ok(StepOutput { loss, embeddings: features.narrow(0, 0, n)?.detach(), metrics })
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    fn tensors(&self) -> Params {
        let mut all = encoder_tensors(&self.encoder);
        all.extend(self.tile_params.iter().cloned());
        all.extend(self.classifier.params().iter().cloned());
        all.into()
    }
}
