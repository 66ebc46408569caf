//! Features of a source's images, computed once.
//!
//! Letters: n samples, h = w the side of the view in pixels, d features.

use crate::error::setting;
use crate::{Error, Features, Result};
use candle_core::{DType, Tensor};
use selfsup_augment::CenterView;
use selfsup_data::{BatchLoader, Dataset, LoaderConfig, Order, Source};
use selfsup_kernels::global_avg_pool;
use selfsup_models::{CropMode, Encoder, Interpolation, Layer, Mode, Preprocessing};
use std::sync::Arc;

/// What turns images into features and is not trained any more.
#[expect(clippy::large_enum_variant, reason = "there is one of them")]
#[derive(Debug, Clone)]
pub enum Frozen {
    /// An encoder's backbone, in evaluation mode.
    Encoder(Encoder),
    /// The pixels themselves, divided by 255: the baseline that every encoder must beat.
    Pixels {
        /// The side of the view, in pixels; d = 3 · image_size².
        image_size: u32,
    },
}

impl Frozen {
    /// The side of the view that the features are computed from, in pixels.
    pub fn image_size(&self) -> usize {
        match self {
            Frozen::Encoder(encoder) => encoder.preprocessing().image_size,
            Frozen::Pixels { image_size } => *image_size as usize,
        }
    }

    /// What of an image the features are computed from.
    ///
    /// # Errors
    /// Sides beyond those of [`CenterView`].
    fn view(&self) -> Result<CenterView> {
        match self {
            Frozen::Encoder(encoder) => view(encoder.preprocessing()),
            Frozen::Pixels { image_size } => checked(CenterView::new(*image_size)),
        }
    }

    /// The width d of the features.
    pub fn feature_dim(&self) -> usize {
        match self {
            Frozen::Encoder(encoder) => encoder.feature_dim(),
            Frozen::Pixels { image_size } => 3 * (*image_size as usize).pow(2),
        }
    }

    /// Of the weights; pixels have none.
    fn fingerprint(&self) -> Result<Option<u64>> {
        match self {
            Frozen::Encoder(encoder) => Ok(Some(encoder.params().fingerprint()?)),
            Frozen::Pixels { .. } => Ok(None),
        }
    }

    /// Appends the features of n views, u8 HWC one after the other in `pixels`.
    fn append(&self, pixels: Vec<u8>, n: usize, values: &mut Vec<f32>) -> Result<()> {
        match self {
            Frozen::Pixels { .. } => values.extend(pixels.iter().map(|&p| f32::from(p) / 255.0)),
            Frozen::Encoder(encoder) => {
                let side = self.image_size();
                let images = Tensor::from_vec(pixels, (n, side, side, 3), encoder.device())?;
                let features = encoder.forward(&images, Mode::EvalNoGrad)?;
                values.extend(features.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
            }
        }
        Ok(())
    }
}

/// The view that an encoder evaluates.
fn view(p: &Preprocessing) -> Result<CenterView> {
    let side = |name, side| u32::try_from(side).map_err(|_| setting(name, "at most 2^32 - 1 pixels", side));
    checked(CenterView {
        size: side("image_size", p.image_size)?,
        resize: side("resize", p.resize)?,
        interpolation: filter(p.interpolation),
        squash: p.crop_mode == CropMode::Squash,
    })
}

fn checked(view: CenterView) -> Result<CenterView> {
    view.validate()?;
    Ok(view)
}

/// The augmentations' name of a filter.
pub(crate) fn filter(interpolation: Interpolation) -> selfsup_augment::Interpolation {
    match interpolation {
        Interpolation::Bilinear => selfsup_augment::Interpolation::Bilinear,
        Interpolation::Bicubic => selfsup_augment::Interpolation::Bicubic,
    }
}

/// How features are computed. None of it changes what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractConfig {
    /// Images a forward pass.
    pub batch_size: usize,
    /// Threads that decode; 0 decodes in the calling thread.
    pub workers: usize,
    /// Make an image that cannot be decoded an error, not a skipped sample.
    pub strict: bool,
}

impl Default for ExtractConfig {
    fn default() -> Self {
        Self { batch_size: 256, workers: 2, strict: false }
    }
}

/// The samples that can be decoded, in their order, and of the others the ids and why; with `strict` the first of these is an error.
/// `progress` is told after each batch how many were looked at.
pub fn decodable(
    data: &Dataset,
    workers: usize,
    strict: bool,
    progress: &mut dyn FnMut(usize),
) -> Result<(Dataset, Vec<(String, String)>)> {
    let loader = LoaderConfig { batch_size: 256, workers, strict, ..LoaderConfig::default() };
    let (mut whole, mut skipped) = (Vec::with_capacity(data.len()), Vec::new());
    let nothing = |_: &image::RgbImage, _: &_| Ok(());
    for batch in BatchLoader::new(Arc::new(data.clone()), loader, Order::Sequential, Arc::new(nothing)) {
        let batch = batch?;
        whole.extend(batch.indices);
        skipped.extend(batch.skipped.into_iter().map(|s| (s.id, s.reason)));
        progress(whole.len() + skipped.len());
    }
    Ok((data.subset(&whole), skipped))
}

/// The features of every sample that can be decoded, in the source's order.
///
/// Views are the [`CenterView`]s of the encoder's [`Preprocessing`]; nothing is random.
/// `progress` is told after each batch how many samples are done, those skipped included. The returned
/// [`Features::source`] is empty: a [`Source`] has no name.
///
/// # Errors
///
/// [`Error::EncoderChanged`] if the weights are not the same before and after; [`Error::Setting`] for sizes of
/// 0; [`Error::Data`] for an image that cannot be decoded where `strict` is set; [`Error::Model`].
pub fn extract(
    frozen: &Frozen,
    data: Arc<dyn Source>,
    config: &ExtractConfig,
    progress: &mut dyn FnMut(usize),
) -> Result<Features> {
    let before = frozen.fingerprint()?;
    let fixed = match frozen {
        Frozen::Encoder(encoder) => Frozen::Encoder(fixed(encoder, &data, config)?),
        pixels => pixels.clone(),
    };
    let mut append = |pixels, n, values: &mut [Vec<f32>]| fixed.append(pixels, n, &mut values[0]);
    let view = frozen.view()?;
    let features = pass(view, &[frozen.feature_dim()], data, config, &mut append, progress)?.remove(0);
    match (before, frozen.fingerprint()?) {
        (Some(before), Some(after)) if before != after => Err(Error::EncoderChanged { before, after }),
        _ => Ok(features),
    }
}

/// The same of several layers in one pass: features behind each, the mean over its pixels. `layers` ascend.
///
/// # Errors
///
/// Those of [`extract`].
pub fn extract_layers(
    encoder: &Encoder,
    layers: &[Layer],
    data: Arc<dyn Source>,
    config: &ExtractConfig,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Features>> {
    let view = view(encoder.preprocessing())?;
    let side = view.size as usize;
    let dims: Vec<usize> = layers.iter().map(|layer| layer.channels()).collect();
    let before = encoder.params().fingerprint()?;
    let fixed = fixed(encoder, &data, config)?;
    let mut append = |pixels, n, values: &mut [Vec<f32>]| {
        let images = Tensor::from_vec(pixels, (n, side, side, 3), encoder.device())?;
        for (map, values) in fixed.maps(&images, Mode::EvalNoGrad, layers)?.iter().zip(values) {
            values.extend(global_avg_pool(map)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(())
    };
    let features = pass(view, &dims, data, config, &mut append, progress)?;
    let after = encoder.params().fingerprint()?;
    if before == after { Ok(features) } else { Err(Error::EncoderChanged { before, after }) }
}

/// The encoder, frozen if there are more images than a batch: one batch does not make good for it.
fn fixed(encoder: &Encoder, data: &Arc<dyn Source>, config: &ExtractConfig) -> Result<Encoder> {
    Ok(if data.len() > config.batch_size { encoder.frozen()? } else { encoder.clone() })
}

/// Appends the features of n views, u8 HWC one after the other, to each list.
type Append<'a> = dyn FnMut(Vec<u8>, usize, &mut [Vec<f32>]) -> Result<()> + 'a;

/// Features of widths `dims` from one pass over the data.
fn pass(
    view: CenterView,
    dims: &[usize],
    data: Arc<dyn Source>,
    config: &ExtractConfig,
    append: &mut Append<'_>,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Features>> {
    if config.batch_size == 0 {
        return Err(setting("batch_size", "at least 1", 0));
    }
    let mut values: Vec<Vec<f32>> =
        dims.iter().map(|dim| Vec::with_capacity(data.len().saturating_mul(*dim))).collect();
    let mut common = Features::default();
    let mut done = 0;
    let loader = LoaderConfig {
        batch_size: config.batch_size,
        workers: config.workers,
        strict: config.strict,
        ..LoaderConfig::default()
    };
    let view = move |image: &image::RgbImage, _: &_| Ok(view.apply(image)?.into_raw());
    for batch in BatchLoader::new(data.clone(), loader, Order::Sequential, Arc::new(view)) {
        let batch = batch?;
        let n = batch.indices.len();
        if n > 0 {
            append(batch.examples.concat(), n, &mut values)?;
        }
        for &i in &batch.indices {
            let sample = data.sample(i);
            common.labels.push(sample.label);
            common.ids.push(sample.id.clone());
        }
        done += n + batch.skipped.len();
        common.skipped.extend(batch.skipped.into_iter().map(|s| (s.id, s.reason)));
        progress(done);
    }
    let of = |(values, &dim)| Features { values, dim, ..common.clone() };
    Ok(values.into_iter().zip(dims).map(of).collect())
}
