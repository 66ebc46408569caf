//! How images are prepared for an encoder.

use crate::arch::Arch;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What of an image's colours a backbone sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colors {
    /// Red, green and blue.
    #[default]
    Rgb,
    /// CIE lightness L/100 in each of three channels.
    Lightness,
}

/// The filter that resizes images, antialiased, as PIL's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// A triangle.
    #[default]
    Bilinear,
    /// Keys' cubic with a = −1/2.
    Bicubic,
}

/// What is resized of an image that is not square, by timm's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CropMode {
    /// The shorter side, in proportion.
    #[default]
    Center,
    /// Both sides, to a square.
    Squash,
}

/// How images become the backbone's input: the shorter side, or both, are resized to `resize`, the central square of `image_size` taken, and
/// x = (u8/255 − mean)/std a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// The side of the square input, in pixels.
    pub image_size: usize,
    /// The side, the shorter one by [`CropMode::Center`], of what the square is cut from, in pixels; at least `image_size`. timm's `crop_pct` is image_size/resize.
    pub resize: usize,
    /// The filter of that resizing.
    pub interpolation: Interpolation,
    /// Whether it keeps an image's proportions.
    pub crop_mode: CropMode,
    /// Mean of each channel, in 0…1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel, in 0…1.
    pub std: [f32; 3],
    /// What the channels are.
    pub colors: Colors,
}

impl Preprocessing {
    /// That of coloured images, of which the largest square is seen, resized bilinearly.
    pub fn rgb(image_size: usize, mean: [f32; 3], std: [f32; 3]) -> Self {
        Self {
            image_size,
            resize: image_size,
            interpolation: Interpolation::Bilinear,
            crop_mode: CropMode::Center,
            mean,
            std,
            colors: Colors::Rgb,
        }
    }

    /// The same for inputs of another side, which show as much of an image.
    pub fn at(&self, image_size: usize) -> Self {
        let resize = image_size.saturating_mul(self.resize) / self.image_size.max(1);
        Self { image_size, resize: resize.max(image_size), ..self.clone() }
    }

    /// Fails for sizes that no image can be prepared at.
    pub(crate) fn check(&self) -> Result<()> {
        if self.image_size == 0 {
            return Err(Error::Size { name: "image_size", expected: "at least 1 pixel", got: 0 });
        }
        if self.resize < self.image_size {
            return Err(Error::Size {
                name: "resize",
                expected: "at least the side of the square that is cut from it",
                got: self.resize,
            });
        }
        Ok(())
    }

    /// What a file says of itself so that [`Encoder::load`](crate::Encoder::load) needs nothing else.
    pub(crate) fn metadata(&self, arch: &Arch) -> BTreeMap<String, String> {
        let name = |value: serde_json::Result<String>| value.expect("a name");
        let mut metadata = BTreeMap::from([
            ("arch".to_owned(), arch.name.to_owned()),
            ("image_size".to_owned(), self.image_size.to_string()),
            ("mean".to_owned(), format!("{:?}", self.mean)),
            ("std".to_owned(), format!("{:?}", self.std)),
        ]);
        if self.resize != self.image_size {
            metadata.insert("resize".into(), self.resize.to_string());
        }
        if self.interpolation != Interpolation::default() {
            metadata.insert("interpolation".into(), name(serde_json::to_string(&self.interpolation)));
        }
        if self.crop_mode != CropMode::default() {
            metadata.insert("crop_mode".into(), name(serde_json::to_string(&self.crop_mode)));
        }
        if self.colors != Colors::Rgb {
            metadata.insert("colors".into(), name(serde_json::to_string(&self.colors)));
        }
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_side_shows_as_much_of_an_image() {
        let timm = Preprocessing { resize: 256, ..Preprocessing::rgb(224, [0.5; 3], [0.25; 3]) };
        assert_eq!((timm.at(112).image_size, timm.at(112).resize), (112, 128));
        assert_eq!(timm.at(224), timm);
        assert_eq!(Preprocessing::rgb(32, [0.5; 3], [0.25; 3]).at(7).resize, 7);
    }
}
