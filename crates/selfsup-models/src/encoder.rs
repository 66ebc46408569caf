//! An encoder: a backbone, its weights, and how images must be prepared for it.

use crate::Result;
use crate::arch::Arch;
use crate::backbone::{Backbone, Layer, Network};
use crate::layers::Mode;
use crate::params::{ParamBuilder, Params};
use crate::preprocessing::{Colors, Preprocessing};
use crate::weights::{self, WeightFile};
use candle_core::{D, DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

/// A backbone with its weights and its input's preparation.
#[derive(Debug, Clone)]
pub struct Encoder {
    arch: &'static Arch,
    preprocessing: Preprocessing,
    backbone: Backbone,
    params: Params,
    device: Device,
    train_dtype: DType,
    /// Whether evaluation is fixed, and gives no gradients.
    frozen: bool,
}

impl Encoder {
    /// An untrained encoder, its weights drawn from `seed`.
    pub fn untrained(
        arch: &'static Arch,
        preprocessing: Preprocessing,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        Self::build(arch, preprocessing, ParamBuilder::new(seed, device), device)
    }

    /// An encoder of zeros, whose weights are still to come.
    pub(crate) fn blank(arch: &'static Arch, preprocessing: Preprocessing, device: &Device) -> Result<Self> {
        Self::build(arch, preprocessing, ParamBuilder::zeros(device), device)
    }

    fn build(
        arch: &'static Arch,
        preprocessing: Preprocessing,
        build: ParamBuilder,
        device: &Device,
    ) -> Result<Self> {
        preprocessing.check()?;
        arch.config.check_side(preprocessing.image_size)?;
        let backbone = Backbone::new(&arch.config.for_images(preprocessing.image_size), &build)?;
        Ok(Self {
            arch,
            preprocessing,
            backbone,
            params: build.finish(),
            device: device.clone(),
            train_dtype: DType::F32,
            frozen: false,
        })
    }

    /// The same encoder, whose training keeps what stands between its layers in `dtype`, F32 or BF16, and multiplies in it.
    /// Weights, their gradients, statistics and features stay f32, and so does all of evaluation.
    ///
    /// # Errors
    /// Another dtype, and BF16 for a vision transformer.
    pub fn with_train_dtype(self, dtype: DType) -> Result<Self> {
        self.arch.config.check_train_dtype(dtype)?;
        Ok(Self { train_dtype: dtype, ..self })
    }

    /// Another encoder with the same values, in memory of its own.
    pub fn copy(&self) -> Result<Self> {
        let twin = Self::blank(self.arch, self.preprocessing.clone(), &self.device)?;
        for (to, from) in twin.params.iter().zip(self.params.iter()) {
            to.var.set(&from.var.as_detached_tensor())?;
        }
        twin.with_train_dtype(self.train_dtype)
    }

    /// The same encoder for evaluation of many images one by one: what follows from the weights alone, such as normalisations folded into
    /// convolutions, is computed now and not each time. It shares the weights, but does not follow them: who trains on must ask for another.
    /// In evaluation its features are the same, to the bit, and [`Mode::Eval`] is [`Mode::EvalNoGrad`].
    pub fn frozen(&self) -> Result<Self> {
        let mut frozen = self.clone();
        frozen.backbone.fix()?;
        frozen.frozen = true;
        Ok(frozen)
    }

    /// Reads an encoder from a weight file, ours or another's, as [`load_file`](crate::load_file) does without options.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        Ok(crate::load_file(path, &crate::LoadOptions::default(), device)?.encoder)
    }

    /// Writes the backbone's tensors under torchvision's names (OIHW) with the metadata that [`Encoder::load`]
    /// needs and `more`. The file appears whole or not at all.
    pub fn save(&self, path: &Path, more: &BTreeMap<String, String>) -> Result<()> {
        weights::write(path, &self.to_file(more)?)
    }

    /// What [`Encoder::save`] writes.
    pub fn to_file(&self, more: &BTreeMap<String, String>) -> Result<WeightFile> {
        let mut metadata = more.clone();
        metadata.extend(self.preprocessing.metadata(self.arch));
        Ok(WeightFile { tensors: self.params.to_file()?.into_iter().collect(), metadata })
    }

    /// u8 images `[n, h, w, 3]` on the encoder's device → features `[n, d]` f32.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward_in_groups(images, mode, 1)
    }

    /// The same of a batch in `groups` equal parts one after the other, which training normalises each by its own
    /// statistics, as if each were on a device of its own. `groups` must divide n.
    pub fn forward_in_groups(&self, images: &Tensor, mode: Mode, groups: usize) -> Result<Tensor> {
        self.backbone.forward(&self.input(images, mode)?, self.as_frozen(mode), groups)
    }

    /// Images, normalised, in the dtype that the mode works in.
    fn input(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        let Preprocessing { mean, std, colors, .. } = &self.preprocessing;
        let x = match colors {
            Colors::Rgb => selfsup_kernels::normalize_u8(images, mean, std)?,
            Colors::Lightness => {
                let lightness = (selfsup_kernels::rgb_to_lab(images)?.narrow(D::Minus1, 0, 1)? / 100.0)?;
                let channel = |values: &[f32; 3]| Tensor::new(values, images.device());
                lightness
                    .broadcast_as(images.shape())?
                    .broadcast_sub(&channel(mean)?)?
                    .broadcast_div(&channel(std)?)?
            }
        };
        self.in_dtype(&x, mode)
    }

    fn as_frozen(&self, mode: Mode) -> Mode {
        if self.frozen && mode == Mode::Eval { Mode::EvalNoGrad } else { mode }
    }

    fn in_dtype(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(if mode.is_training() { x.to_dtype(self.train_dtype)? } else { x.clone() })
    }

    /// Images `[n, h, w, 3]` f32 that are normalised in another way than this encoder's own → features `[n, d]` f32.
    pub fn forward_normalized(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.backbone.forward(&self.in_dtype(x, mode)?, self.as_frozen(mode), 1)
    }

    /// What stands behind some layers, ascending, of u8 images `[n, h, w, 3]`: `[n, h', w', c]` f32 each. What comes after the
    /// last of them is not computed.
    pub fn maps(&self, images: &Tensor, mode: Mode, layers: &[Layer]) -> Result<Vec<Tensor>> {
        self.backbone.maps(&self.input(images, mode)?, self.as_frozen(mode), 1, layers)
    }

    /// The map `[n, h', w', d]` f32 that a decoder reads, of u8 images `[n, h, w, 3]`: see [`Backbone::last_map`].
    pub fn last_map(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.backbone.last_map(&self.input(images, mode)?, self.as_frozen(mode), 1)
    }

    /// The same of images `[n, h, w, 3]` f32 that are normalised already, whatever by.
    pub fn last_map_normalized(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.backbone.last_map(&self.in_dtype(x, mode)?, self.as_frozen(mode), 1)
    }

    /// The architecture.
    pub fn arch(&self) -> &'static Arch {
        self.arch
    }

    /// The network: the architecture's, for images of this encoder's side.
    pub fn network(&self) -> Network {
        self.arch.config.for_images(self.preprocessing.image_size)
    }

    /// How images are prepared.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// The width d of the features.
    pub fn feature_dim(&self) -> usize {
        self.arch.config.feature_dim()
    }

    /// Every tensor, by torchvision's name.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Where the weights live.
    pub fn device(&self) -> &Device {
        &self.device
    }
}
