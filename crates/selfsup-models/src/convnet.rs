//! Plain convolutional networks, AlexNet and VGG (Krizhevsky et al. 2012; Simonyan & Zisserman 2015, arXiv:1409.1556), NHWC, with
//! torchvision's tensor names.
//!
//! Convolutions with a bias, some normalised, each with ReLU and some with max-pooling of stride 2 behind them; average pooling to a grid
//! of 6×6 or 7×7, which at 224 pixels is the map itself; then two fully connected layers of 4096 with ReLU, fc6 and fc7. The features are
//! what stands behind fc7's ReLU, as the papers take it. The last linear layer (`classifier.6`, DeepCluster's `top_layer`) is a head and
//! no part of an encoder.
//!
//! There is no dropout, by which torchvision's and DeepCluster's training leaves out half of what goes into fc6 and fc7, or comes out of
//! them; and no local response normalisation, which none of the codes has that these networks come from.

use crate::adaptive_pool::adaptive_avg_pool2d;
use crate::layers::{BatchNorm, Linear, Mode};
use crate::{Error, Init, Result, params::ParamBuilder};
use candle_core::{Tensor, Var};
use selfsup_kernels::{Activation, Conv2dConfig, Epilogue, conv2d, conv2d_with, max_pool2d};

/// Width of fc6 and fc7.
const WIDTH: usize = 4096;
/// Pixels from one window of a pooling to the next.
const POOL_STRIDE: usize = 2;
/// Deviation of fully connected weights by [`Draw::Normal`]: torchvision's and DeepCluster's.
const LINEAR_STD: f64 = 0.01;
/// Derivatives along columns and rows, `[3, 3, 2]`.
const SOBEL: [[[f64; 2]; 3]; 3] = [
    [[1.0, 1.0], [0.0, 2.0], [-1.0, 1.0]],
    [[2.0, 0.0], [0.0, 0.0], [-2.0, 0.0]],
    [[1.0, -1.0], [0.0, -2.0], [-1.0, -1.0]],
];

/// What the first convolution sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The image's three channels.
    Colors,
    /// Sobel's derivatives of the mean of its channels, normalised as they are, with zeros around: two channels. DeepCluster's input
    /// (Caron et al. 2018, §3.3).
    Sobel,
}

/// Where batch normalisation stands between sums and ReLU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalized {
    /// Nowhere.
    Nothing,
    /// In the convolutions.
    Convolutions,
    /// In the convolutions and in fc6 and fc7, which have no bias then.
    Everything,
}

/// How first weights are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// As PyTorch's layers do it: weights and biases uniform in ±1/√fan_in.
    Uniform,
    /// Convolutions by He et al. (fan-out), fully connected weights normal with deviation 0.01, biases 0: torchvision's VGG,
    /// DeepCluster's networks.
    Normal,
}

/// A square convolution with a bias and ReLU, and the pooling behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvConfig {
    /// What the papers call it.
    pub name: &'static str,
    /// Channels out.
    pub k: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Pixels from one window to the next.
    pub stride: usize,
    /// Zeros on each side of the image.
    pub padding: usize,
    /// Side of the window of the max-pooling of stride 2 that follows, if one does.
    pub pool: Option<usize>,
}

/// The shape of a plain convolutional network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvNetConfig {
    /// What the first convolution sees.
    pub input: Input,
    /// The convolutions; at least one.
    pub convolutions: &'static [ConvConfig],
    /// Where there is batch normalisation.
    pub normalized: Normalized,
    /// Side of the grid that fc6 sees.
    pub grid: usize,
    /// The numbers of fc6 and fc7 among torchvision's `classifier.N`, where dropout and ReLU count too.
    pub fully_connected: [usize; 2],
    /// How first weights are drawn.
    pub draw: Draw,
}

impl ConvNetConfig {
    /// The width d of the features.
    pub const fn feature_dim(&self) -> usize {
        WIDTH
    }

    /// The least side of an image of which the last pooling leaves something, in pixels: torchvision's `min_size`.
    pub fn least_side(&self) -> usize {
        self.convolutions.iter().rev().fold(1, |side, conv| {
            let pooled = conv.pool.map_or(side, |kernel| (side - 1) * POOL_STRIDE + kernel);
            ((pooled - 1) * conv.stride + conv.kernel).saturating_sub(2 * conv.padding).max(1)
        })
    }

    /// Fails if images of a side are too small.
    pub fn check_side(&self, side: usize) -> Result<()> {
        let least = self.least_side();
        if side < least { Err(Error::SmallImage { least, side }) } else { Ok(()) }
    }
}

/// A plain convolutional network without its last layer: `[n, h, w, 3]` f32 → features `[n, 4096]`.
#[derive(Debug, Clone)]
pub struct ConvNet {
    config: ConvNetConfig,
    convolutions: Vec<Convolution>,
    fully_connected: Vec<FullyConnected>,
}

impl ConvNet {
    /// Declares every tensor under torchvision's names: `features.N.…`, where N counts convolutions, normalisations, ReLUs and poolings,
    /// and `classifier.N.…`.
    pub fn new(config: &ConvNetConfig, build: &ParamBuilder) -> Result<Self> {
        let mut c = match config.input {
            Input::Colors => 3,
            Input::Sobel => 2,
        };
        let mut convolutions = Vec::with_capacity(config.convolutions.len());
        let mut number = 0;
        for of in config.convolutions {
            let part = |number: usize| build.part(format_args!("features.{number}"));
            let norm = (config.normalized != Normalized::Nothing).then(|| part(number + 1));
            convolutions.push(Convolution::new(c, of, config.draw, &part(number), norm.as_ref())?);
            number += 2 + usize::from(norm.is_some()) + usize::from(of.pool.is_some());
            c = of.k;
        }
        let mut fully_connected = Vec::with_capacity(config.fully_connected.len());
        let mut c = c * config.grid * config.grid;
        for number in config.fully_connected {
            let part = |number: usize| build.part(format_args!("classifier.{number}"));
            let norm = (config.normalized == Normalized::Everything).then(|| part(number + 1));
            fully_connected.push(FullyConnected::new(c, config.draw, &part(number), norm.as_ref())?);
            c = WIDTH;
        }
        Ok(Self { config: *config, convolutions, fully_connected })
    }

    /// The layers in order, by name and channels, each behind its ReLU: the convolutions, before a pooling that follows, which is where
    /// RotNet and DeepCluster probe them (`conv1` … `conv5` of gidariss/FeatureLearningRotNet, eval_linear.py of
    /// facebookresearch/deepcluster); then fc6 and fc7.
    pub fn layers(config: &ConvNetConfig) -> Vec<(String, usize)> {
        let convolutions = config.convolutions.iter().map(|conv| (conv.name, conv.k));
        convolutions.chain([("fc6", WIDTH), ("fc7", WIDTH)]).map(|(name, k)| (name.to_owned(), k)).collect()
    }

    /// Side of the map behind a place in [`ConvNet::layers`], of images of a side that fits; 1 behind fc6 and fc7.
    pub fn map_side(config: &ConvNetConfig, place: usize, image_side: usize) -> usize {
        let side = |side: usize, kernel: usize, stride: usize| side.saturating_sub(kernel) / stride + 1;
        let Some(before) = config.convolutions.get(..=place) else { return 1 };
        let mut pool = None;
        before.iter().fold(image_side, |mut map, conv| {
            map = pool.map_or(map, |kernel| side(map, kernel, POOL_STRIDE));
            pool = conv.pool;
            side(map + 2 * conv.padding, conv.kernel, conv.stride)
        })
    }

    /// Images `[n, h, w, 3]`, normalised, to features `[n, d]`: what stands behind fc7.
    ///
    /// In training the batch consists of `groups` equal parts one after the other, each normalised by its own statistics.
    ///
    /// # Errors
    /// [`Error::SmallImage`] for a side below [`ConvNetConfig::least_side`].
    pub fn forward(&self, x: &Tensor, mode: Mode, groups: usize) -> Result<Tensor> {
        let last = self.convolutions.len() + self.fully_connected.len() - 1;
        Ok(self.maps(x, mode, groups, &[last])?.remove(0).flatten_from(1)?)
    }

    /// The map behind the last convolution: `[n, h, w, c]`. Fc6 and fc7 have no part in it.
    pub fn last_map(&self, x: &Tensor, mode: Mode, groups: usize) -> Result<Tensor> {
        Ok(self.maps(x, mode, groups, &[self.convolutions.len() - 1])?.remove(0))
    }

    /// The same, but what stands behind some layers: `[n, h, w, c]` each, `[n, 1, 1, 4096]` of fc6 and fc7. `at` are places in
    /// [`ConvNet::layers`], ascending; what comes after the last of them is not computed.
    pub fn maps(&self, x: &Tensor, mode: Mode, groups: usize, at: &[usize]) -> Result<Vec<Tensor>> {
        let (_, h, w, _) = x.dims4()?;
        self.config.check_side(h.min(w))?;
        let mut x = self.input(x)?;
        let mut maps = Vec::with_capacity(at.len());
        let mut next = 0;
        for &place in at {
            for layer in next..place + 1 {
                x = self.layer(layer, &x, mode, groups)?;
            }
            next = place + 1;
            maps.push(x.clone());
        }
        Ok(maps)
    }

    /// What the first convolution sees of images.
    fn input(&self, x: &Tensor) -> Result<Tensor> {
        match self.config.input {
            Input::Colors => Ok(x.clone()),
            Input::Sobel => {
                let filters = (Tensor::new(&SOBEL, x.device())? / 3.0)?.to_dtype(x.dtype())?;
                let filters = filters.unsqueeze(2)?.broadcast_as((3, 3, 3, 2))?.contiguous()?;
                Ok(conv2d(x, &filters, Conv2dConfig { padding: 1, ..Conv2dConfig::default() })?)
            }
        }
    }

    /// One of [`ConvNet::layers`], of what stands behind the one before it.
    fn layer(&self, place: usize, x: &Tensor, mode: Mode, groups: usize) -> Result<Tensor> {
        // A pooling comes with the layer after it, as nobody asks for what stands behind it.
        let pool = place.checked_sub(1).and_then(|before| self.config.convolutions.get(before)?.pool);
        let mut x = match pool {
            Some(kernel) => max_pool2d(x, kernel, POOL_STRIDE, 0)?,
            None => x.clone(),
        };
        if let Some(convolution) = self.convolutions.get(place) {
            return convolution.forward(&x, mode, groups);
        }
        if place == self.convolutions.len() {
            let cells = adaptive_avg_pool2d(&x, self.config.grid)?;
            // Weights are for PyTorch's order: channels, rows, columns.
            x = cells.permute((0, 3, 1, 2))?.contiguous()?.flatten_from(1)?.unsqueeze(1)?.unsqueeze(1)?;
        }
        self.fully_connected[place - self.convolutions.len()].forward(&x, mode, groups)
    }
}

/// A convolution with a bias, a normalisation or none, and ReLU.
#[derive(Debug, Clone)]
struct Convolution {
    weight: Var,
    bias: Var,
    config: Conv2dConfig,
    norm: Option<BatchNorm>,
}

impl Convolution {
    fn new(
        c: usize,
        of: &ConvConfig,
        draw: Draw,
        build: &ParamBuilder,
        norm: Option<&ParamBuilder>,
    ) -> Result<Self> {
        let ConvConfig { k, kernel, stride, padding, .. } = *of;
        let fan_in = Init::LinearUniform { fan_in: c * kernel * kernel };
        let (weight, bias) = match draw {
            Draw::Uniform => (fan_in, fan_in),
            Draw::Normal => (Init::KaimingNormal { fan_out: k * kernel * kernel }, Init::Constant(0.0)),
        };
        Ok(Self {
            weight: build.conv_weight("weight", [kernel, kernel, c, k], weight)?,
            bias: build.weight("bias", &[k], bias)?,
            config: Conv2dConfig { stride, padding, ..Conv2dConfig::default() },
            norm: norm.map(|norm| BatchNorm::new(k, norm)).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode, groups: usize) -> Result<Tensor> {
        let (weight, bias) = (mode.tensor(&self.weight), mode.tensor(&self.bias));
        let convolve = |weight: &Tensor, bias: &Tensor, relu: bool| {
            conv2d_with(x, weight, Epilogue { bias: Some(bias), relu, residual: None }, self.config)
        };
        match &self.norm {
            None => Ok(convolve(&weight, &bias, true)?),
            Some(norm) if !mode.is_training() => {
                let [factor, shift] = norm.affine(mode)?;
                Ok(convolve(&weight.broadcast_mul(&factor)?, &((bias * factor)? + shift)?, true)?)
            }
            Some(norm) => norm.forward_in_groups(&convolve(&weight, &bias, false)?, mode, groups),
        }
    }
}

/// An affine map with ReLU, or without a bias and normalised before it: `[.., c]` → `[.., 4096]`.
#[derive(Debug, Clone)]
struct FullyConnected {
    linear: Linear,
    norm: Option<BatchNorm>,
}

impl FullyConnected {
    fn new(c: usize, draw: Draw, build: &ParamBuilder, norm: Option<&ParamBuilder>) -> Result<Self> {
        let fan_in = Init::LinearUniform { fan_in: c };
        let (weight, bias) = match draw {
            Draw::Uniform => (fan_in, fan_in),
            Draw::Normal => (Init::Normal { std: LINEAR_STD }, Init::Constant(0.0)),
        };
        Ok(Self {
            linear: Linear::with_init((c, WIDTH), weight, norm.is_none().then_some(bias), build)?,
            norm: norm.map(|norm| BatchNorm::new(WIDTH, norm)).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode, groups: usize) -> Result<Tensor> {
        match &self.norm {
            None => self.linear.forward_with(x, Activation::Relu, mode),
            Some(norm) => norm.forward_in_groups(&self.linear.forward(x, mode)?, mode, groups),
        }
    }
}
