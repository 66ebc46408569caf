//! Transforms in a row, as data.

use crate::{
    CenterCrop, ColorJitter, Error, GaussianBlur, Grayscale, HorizontalFlip, Interpolation, PixelOp,
    RandomResizedCrop, Region, Resize, Result, Solarize, apply_pixel_ops, flip_horizontal, gaussian_blur,
    resize_region,
};
use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// One transform of a pipeline. A configuration names it in the field `name`, in snake case.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Transform {
    /// A random crop, resized.
    RandomResizedCrop(RandomResizedCrop),
    /// The shorter side resized.
    Resize(Resize),
    /// The central square.
    CenterCrop(CenterCrop),
    /// A random mirror image.
    HorizontalFlip(HorizontalFlip),
    /// Random brightness, contrast, saturation and hue.
    ColorJitter(ColorJitter),
    /// Randomly without colours.
    Grayscale(Grayscale),
    /// A random blur.
    GaussianBlur(GaussianBlur),
    /// Bright levels randomly inverted.
    Solarize(Solarize),
}

/// Transforms that happen one after the other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pipeline(pub Vec<Transform>);

/// What happens to one image, all random parameters drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// A region is cut out, resized and, with `flip`, mirrored.
    Resize {
        /// The region.
        region: Region,
        /// Pixels a row afterwards.
        width: u32,
        /// Rows afterwards.
        height: u32,
        /// The filter.
        interpolation: Interpolation,
        /// Whether left and right change places.
        flip: bool,
    },
    /// Left and right change places.
    Flip,
    /// Each pixel by itself.
    Pixel(PixelOp),
    /// A blur.
    Blur {
        /// Taps a side.
        kernel_size: u32,
        /// Standard deviation in pixels.
        sigma: f64,
    },
}

impl Transform {
    /// Checks the settings.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::RandomResizedCrop(t) => t.validate(),
            Self::Resize(t) => t.validate(),
            Self::CenterCrop(t) => t.validate(),
            Self::HorizontalFlip(t) => t.validate(),
            Self::ColorJitter(t) => t.validate(),
            Self::Grayscale(t) => t.validate(),
            Self::GaussianBlur(t) => t.validate(),
            Self::Solarize(t) => t.validate(),
        }
    }
}

impl Pipeline {
    /// Checks every transform's settings; the error names the transform's place and the field.
    pub fn validate(&self) -> Result<()> {
        for (i, transform) in self.0.iter().enumerate() {
            transform.validate().map_err(|e| Error::Transform { number: i + 1, source: Box::new(e) })?;
        }
        Ok(())
    }

    /// Side of the square that comes out of any image, or `None` when the shape depends on the image.
    pub fn output_size(&self) -> Option<u32> {
        self.0.iter().fold(None, |side, transform| match transform {
            Transform::RandomResizedCrop(t) => Some(t.size),
            Transform::CenterCrop(t) => Some(t.size),
            Transform::Resize(t) => side.and(Some(t.size)),
            _ => side,
        })
    }

    /// One view of `image`: draws all parameters from `rng`, then applies them.
    ///
    /// The same image, settings and generator state give the same bits on every machine.
    pub fn apply(&self, image: &RgbImage, rng: &mut ChaCha8Rng) -> Result<RgbImage> {
        let steps = self.draw(image.width(), image.height(), rng)?;
        run(image, &steps)
    }

    /// What [`apply`](Self::apply) would do to an image of `width` × `height`.
    ///
    /// A flip is moved into the resize before it where there is one: it changes places with operations on
    /// single pixels and with blurs, which are symmetric, without changing a bit.
    pub fn draw(&self, width: u32, height: u32, rng: &mut ChaCha8Rng) -> Result<Vec<Step>> {
        self.validate()?;
        if width == 0 || height == 0 {
            return Err(Error::EmptyImage { width, height });
        }
        let (mut width, mut height) = (width, height);
        let mut steps = Vec::with_capacity(8);
        for transform in &self.0 {
            let resized = match transform {
                Transform::RandomResizedCrop(t) => {
                    Some((t.draw(width, height, rng), (t.size, t.size), t.interpolation))
                }
                Transform::Resize(t) => {
                    Some((Region::whole(width, height), t.output_size(width, height), t.interpolation))
                }
                Transform::CenterCrop(t) => {
                    Some((t.region(width, height)?, (t.size, t.size), Interpolation::default()))
                }
                Transform::HorizontalFlip(t) => {
                    if t.draw(rng) {
                        push_flip(&mut steps);
                    }
                    None
                }
                Transform::ColorJitter(t) => {
                    steps.extend(t.draw(rng).into_iter().flatten().map(Step::Pixel));
                    None
                }
                Transform::Grayscale(t) => {
                    steps.extend(t.draw(rng).map(Step::Pixel));
                    None
                }
                Transform::Solarize(t) => {
                    steps.extend(t.draw(rng).map(Step::Pixel));
                    None
                }
                Transform::GaussianBlur(t) => {
                    steps.extend(
                        t.draw(rng)
                            .map(|sigma| Step::Blur { kernel_size: t.kernel_size(width, height), sigma }),
                    );
                    None
                }
            };
            if let Some((region, size, interpolation)) = resized {
                (width, height) = size;
                steps.push(Step::Resize { region, width, height, interpolation, flip: false });
            }
        }
        Ok(steps)
    }
}

/// Applies drawn steps to `image`.
pub fn run(image: &RgbImage, steps: &[Step]) -> Result<RgbImage> {
    let mut result: Option<RgbImage> = None;
    let mut rest = steps;
    while let Some((&step, after)) = rest.split_first() {
        rest = after;
        if let Step::Resize { region, width, height, interpolation, flip } = step {
            result = Some(resize_region(
                result.as_ref().unwrap_or(image),
                region,
                width,
                height,
                interpolation,
                flip,
            )?);
            continue;
        }
        let pixels = result.get_or_insert_with(|| image.clone());
        match step {
            Step::Flip => flip_horizontal(pixels),
            Step::Blur { kernel_size, sigma } => gaussian_blur(pixels, kernel_size, sigma)?,
            Step::Pixel(first) => {
                // Neighbours go into one pass.
                let mut ops = vec![first];
                while let Some((&Step::Pixel(op), after)) = rest.split_first() {
                    ops.push(op);
                    rest = after;
                }
                apply_pixel_ops(pixels, &ops);
            }
            Step::Resize { .. } => unreachable!("taken above"),
        }
    }
    Ok(result.unwrap_or_else(|| image.clone()))
}

/// Puts a flip into the resize before it, or at the end.
fn push_flip(steps: &mut Vec<Step>) {
    let resize = steps.iter_mut().rev().find_map(|step| match step {
        Step::Resize { flip, .. } => Some(flip),
        _ => None,
    });
    match resize {
        Some(flip) => *flip = !*flip,
        None => steps.push(Step::Flip),
    }
}
