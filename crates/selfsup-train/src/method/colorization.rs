//! Colorization: from an image's lightness the network predicts its colours, as a distribution over bins for each pixel.
//!
//! Zhang, Isola & Efros 2016, "Colorful Image Colorization", arXiv:1603.08511, §2. The encoder sees L alone; a decoder goes from its last map to
//! a quarter of the image's side, where each fourth pixel's a and b, as a mixture of the nearest of 313 bins, are the target. Rare
//! colours weigh more, by their frequencies in the data that the run is trained on, which are counted before its first step and kept in
//! its checkpoint.
//!
//! Letters: n images, S side of the image, s = S/4, q bins.

mod full_size;

use super::classifier::encoder_tensors;
use super::{
    Batch, Example, Method, MethodInfo, Metrics, Prepare, Progress, Settings, Sizes, StepOutput,
    validate_views,
};
use crate::{Error, Result};
use candle_core::{D, Device, Tensor, Var};
use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use selfsup_augment::{Pipeline, center_view};
use selfsup_data::{BatchLoader, Dataset, LoaderConfig, Order, Source};
use selfsup_kernels::{lab_to_rgb, resize_bilinear, rgb_to_lab};
use selfsup_models::params::{Layout, NamedTensor, ParamBuilder, Params};
use selfsup_models::{Colors, Decoder, Encoder, Init, Mode, Network, halving_widths};
use selfsup_objectives::{ab_bins, annealed_mean, colorization, count_bins, rebalancing_weights, soft_bins};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub(super) const INFO: MethodInfo = MethodInfo {
    name: "colorization",
    title: "Colorful Image Colorization",
    paper: "Zhang, Isola, Efros, arXiv:1603.08511",
    year: 2016,
    idea: "predicts an image's colours from its lightness",
};

/// The image's side over that of the predicted map.
const REDUCTION: usize = 4;
/// The decoder does not grow thinner than this.
const LEAST_WIDTH: usize = 64;
/// Images whose colours are counted, at most, spread over the data.
const COUNTED: usize = 20_000;
const COUNTED_AT_ONCE: usize = 64;
/// A saturation, √(a² + b²), below which a pixel counts as gray.
const GRAY: f32 = 2.0;
/// The share of gray pixels from which the data cannot teach colours.
const MOST_GRAY: f64 = 0.98;

/// Colorization's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColorizationConfig {
    /// λ of eq. 4: how much of the rebalancing is taken back. ½ in the paper, 1 is none.
    pub uniform: f64,
    /// T of eq. 5, by which predictions become colours: .38 in the paper. Training does not depend on it.
    pub temperature: f64,
    /// Channels behind the decoder's first doubling, halved by each.
    pub decoder_width: usize,
    /// What happens to an image before its colours are taken away.
    pub augmentation: Pipeline,
}

impl Settings for ColorizationConfig {
    fn colors(&self) -> Colors {
        Colors::Lightness
    }

    fn views(&self, _image: usize) -> f64 {
        1.0
    }

    fn validate(&self, sizes: Sizes) -> Result<()> {
        let fail = |name: &str, expected: &str, got: &dyn std::fmt::Display| {
            Err(Error::Config(format!("method.{name} must be {expected}, got {got}")))
        };
        validate_views(&self.augmentation, sizes.image)?;
        sizes.network.check_map()?;
        if sizes.image < 2 * REDUCTION {
            return fail("augmentation", "of images of at least 8 pixels", &sizes.image);
        }
        if !(self.uniform > 0.0 && self.uniform <= 1.0) {
            return fail("uniform", "in (0, 1]", &self.uniform);
        }
        if !(self.temperature.is_finite() && self.temperature >= 1e-3) {
            return fail("temperature", "at least 0.001", &self.temperature);
        }
        if self.decoder_width == 0 {
            return fail("decoder_width", "at least 1", &self.decoder_width);
        }
        Ok(())
    }

    fn prepare(&self) -> Result<Arc<dyn Prepare>> {
        Ok(Arc::new(OneView(self.augmentation.clone())))
    }

    fn build(&self, encoder: Encoder, seed: u64) -> Result<Box<dyn Method>> {
        Ok(Box::new(Colorization::new(self, encoder, seed)?))
    }
}

/// The coloured image.
struct OneView(Pipeline);

impl Prepare for OneView {
    fn view_names(&self) -> &[&'static str] {
        &["image"]
    }

    fn prepare(&self, image: &RgbImage, rng: &dyn Fn(u64) -> ChaCha8Rng) -> Result<Example> {
        Ok(vec![self.0.apply(image, &mut rng(0))?].into())
    }

    /// What the network sees, and the image whose colours it is to tell.
    fn pictures(&self, Example { views, .. }: &Example) -> Result<Vec<(&'static str, RgbImage)>> {
        let (width, height) = views[0].dimensions();
        let sides = (1, height as usize, width as usize, 3);
        let gray = without_colours(&Tensor::from_vec(views[0].as_raw().clone(), sides, &Device::Cpu)?)?;
        let gray = RgbImage::from_raw(width, height, gray.flatten_all()?.to_vec1()?);
        Ok(vec![("lightness", gray.expect("three bytes a pixel")), ("image", views[0].clone())])
    }
}

/// The lightness of images u8 `[n, h, w, 3]`, as such.
fn without_colours(images: &Tensor) -> Result<Tensor> {
    let lightness = rgb_to_lab(images)?.narrow(D::Minus1, 0, 1)?;
    let nothing = lightness.zeros_like()?;
    Ok(lab_to_rgb(&Tensor::cat(&[&lightness, &nothing, &nothing], D::Minus1)?)?)
}

/// Colorization with encoder and decoder.
pub struct Colorization {
    config: ColorizationConfig,
    prepare: Arc<dyn Prepare>,
    encoder: Encoder,
    decoder: Decoder,
    /// Whether the decoder's cells are of four pixels each: then those past the image's end, of a side that is no multiple of the
    /// encoder's stride, are cut off. Otherwise its map is that of the whole image, and resampled.
    aligned: bool,
    decoder_params: Params,
    /// f32 `[q]`.
    weights: Var,
}

impl Colorization {
    /// Puts a decoder, drawn from `seed`, on an encoder. All bins weigh 1 until [`Method::measure`] is called.
    pub fn new(config: &ColorizationConfig, encoder: Encoder, seed: u64) -> Result<Self> {
        let network = &encoder.arch().config;
        let last = network.last_layer();
        let image_size = encoder.preprocessing().image_size;
        let (from, to) = (network.map_side(last, image_size), image_size.div_ceil(REDUCTION));
        let doublings = (to as f64 / from as f64).log2().round().max(0.0) as usize;
        let widths = halving_widths(config.decoder_width, LEAST_WIDTH, doublings);
        let build = ParamBuilder::new(seed, encoder.device());
        let bins = ab_bins()?.len();
        let decoder = Decoder::new(last.channels(), &widths, bins, &build.part("decoder"))?;
        let decoder_params = build.finish();
        let weights =
            ParamBuilder::new(seed, encoder.device()).buffer("weights", &[bins], Init::Constant(1.0))?;
        Ok(Self {
            config: config.clone(),
            prepare: config.prepare()?,
            aligned: stride(network) == REDUCTION << doublings,
            encoder,
            decoder,
            decoder_params,
            weights,
        })
    }

    /// Images u8 `[n, h, w, 3]` → features `[n, d]` and logits `[n, h/4, w/4, q]`.
    fn logits(&self, images: &Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let map = self.encoder.last_map(images, mode)?;
        let features = selfsup_kernels::global_avg_pool(&map)?;
        let logits = self.decoder.forward(&map, mode)?;
        let [h, w] = [images.dim(1)?.div_ceil(REDUCTION), images.dim(2)?.div_ceil(REDUCTION)];
        if logits.dims()[1..3] == [h, w] {
            return Ok((features, logits));
        }
        if self.aligned {
            return Ok((features, logits.narrow(1, 0, h)?.narrow(2, 0, w)?.contiguous()?));
        }
        Ok((features, resize_bilinear(&logits, h, w, false)?))
    }

    /// The annealed means for images `[n, h, w, 3]`: f32 `[n, ⌈h/4⌉, ⌈w/4⌉, 2]`.
    fn predict(&self, images: &Tensor) -> Result<Tensor> {
        let (_, logits) = self.logits(images, Mode::Eval)?;
        let (n, rows, columns, bins) = logits.dims4()?;
        let ab = annealed_mean(&logits.reshape((n * rows * columns, bins))?, self.config.temperature)?;
        Ok(ab.reshape((n, rows, columns, 2))?)
    }
}

/// Pixels from one of the encoder's last cells to the next.
fn stride(network: &Network) -> usize {
    const MANY: usize = 4096;
    match network {
        Network::Vit(config) => config.patch,
        Network::ResNet(_) | Network::ConvNet(_) => MANY / network.map_side(network.last_layer(), MANY),
    }
}

/// Every fourth pixel's a and b, row by row: `[n, ⌈h/4⌉, ⌈w/4⌉, 2]`, as in the authors' network.
fn every_fourth(images: &Tensor) -> Result<Tensor> {
    let places = |side: usize| -> Result<Tensor> {
        let places: Vec<u32> = (0..side as u32).step_by(REDUCTION).collect();
        Ok(Tensor::from_vec(places, side.div_ceil(REDUCTION), images.device())?)
    };
    let (_, h, w, _) = images.dims4()?;
    let few = images.index_select(&places(h)?, 1)?.index_select(&places(w)?, 2)?;
    Ok(rgb_to_lab(&few)?.narrow(D::Minus1, 1, 2)?.contiguous()?)
}

impl Method for Colorization {
    fn prepare(&self) -> Arc<dyn Prepare> {
        self.prepare.clone()
    }

    fn step(&mut self, Batch { views, .. }: &Batch, _at: Progress) -> Result<StepOutput> {
        let (features, logits) = self.logits(&views[0], Mode::Train)?;
        let (n, rows, columns, bins) = logits.dims4()?;
        let logits = logits.reshape((n * rows * columns, bins))?;
        let ab = every_fourth(&views[0])?;
        let colours = soft_bins(&ab)?;
        let loss = colorization(&logits, &colours, &self.weights.as_detached_tensor())?;
        let (logits, temperature) = (logits.detach(), self.config.temperature);
        let metrics: Metrics = Box::new(move || {
            let predicted = annealed_mean(&logits, temperature)?;
            let off =
                (predicted - ab.reshape((n * rows * columns, 2))?)?.sqr()?.sum(1)?.sqrt()?.mean_all()?;
            let nearest = colours.bins.narrow(1, 0, 1)?.flatten_all()?;
            Ok(vec![
                ("bin_top1", selfsup_objectives::accuracy(&logits, &nearest)?),
                ("ab_error", f64::from(off.to_scalar::<f32>()?)),
            ])
        });
        Ok(StepOutput { loss, embeddings: features.detach(), metrics })
    }

    /// Counts the colours of the images (eq. 4's p̃).
    fn measure(&mut self, data: &Dataset) -> Result<()> {
        let size = self.encoder.preprocessing().image_size as u32;
        let every = data.len().div_ceil(COUNTED).max(1);
        let some = Arc::new(data.subset(&(0..data.len()).step_by(every).collect::<Vec<_>>()));
        let view = move |image: &RgbImage, _: &_| Ok(center_view(image, size)?.into_raw());
        let loader = LoaderConfig { batch_size: COUNTED_AT_ONCE, workers: 2, ..LoaderConfig::default() };
        let mut counts = vec![0; ab_bins()?.len()];
        let (mut gray, mut all) = (0, 0);
        for batch in BatchLoader::new(some, loader, Order::Sequential, Arc::new(view)) {
            let batch = batch?;
            let (n, side) = (batch.examples.len(), size as usize);
            if n == 0 {
                continue; // none could be decoded
            }
            let images = Tensor::from_vec(batch.examples.concat(), (n, side, side, 3), &Device::Cpu)?;
            let ab = every_fourth(&images)?;
            count_bins(&ab, &mut counts)?;
            let values = ab.flatten_all()?.to_vec1::<f32>()?;
            gray += values.chunks_exact(2).filter(|ab| ab[0].hypot(ab[1]) < GRAY).count();
            all += values.len() / 2;
        }
        if gray as f64 >= MOST_GRAY * all as f64 {
            return Err(Error::Config(format!(
                "colorization needs coloured images; of those of `{}` {:.1} % of the pixels are gray",
                data.name(),
                100.0 * gray as f64 / all.max(1) as f64
            )));
        }
        let weights = rebalancing_weights(&counts, self.config.uniform)?;
        Ok(self.weights.set(&Tensor::new(weights, self.encoder.device())?)?)
    }

    fn pictures(&self, Batch { views, .. }: &Batch) -> Result<Vec<(&'static str, Tensor)>> {
        let (gray, predicted) = (without_colours(&views[0])?, self.colorize(&views[0])?);
        Ok(vec![("lightness", gray), ("predicted", predicted), ("truth", views[0].clone())])
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    fn tensors(&self) -> Params {
        let mut all = encoder_tensors(&self.encoder);
        all.extend(self.decoder_params.iter().cloned());
        all.push(NamedTensor {
            name: "weights".into(),
            var: self.weights.clone(),
            trainable: false,
            layout: Layout::Plain,
        });
        all.into()
    }
}
