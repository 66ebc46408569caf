//! Where a sample's pixels are, and how they become an image.

use crate::decode::{DecodeError, Decoded, decode};
use image::RgbImage;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A sample's pixels: a file, or a place in a block that many samples share.
#[derive(Debug, Clone)]
pub(crate) enum Pixels {
    File(PathBuf),
    Block { block: Arc<Block>, index: u32 },
}

/// Many images of one size, one after another in memory.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) data: BlockData,
    /// Bytes before the first image.
    pub(crate) start: usize,
    /// Bytes from one image to the next.
    pub(crate) stride: usize,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) layout: Layout,
    pub(crate) format: &'static str,
}

#[derive(Debug)]
pub(crate) enum BlockData {
    /// The bytes.
    Raw(Cow<'static, [u8]>),
    /// A picture whose rows are the images: decoded when the first of them is wanted.
    Picture { path: PathBuf, pixels: OnceLock<Result<Vec<u8>, DecodeError>> },
}

/// How the bytes of one image lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One channel.
    Gray,
    /// Red, green, blue of each pixel.
    Interleaved,
    /// All red, all green, all blue.
    Planar,
}

impl Pixels {
    pub(crate) fn image(&self, max_pixels: u64) -> Result<RgbImage, DecodeError> {
        match self {
            Pixels::File(path) => Ok(decode(&read(path)?, max_pixels)?.image),
            Pixels::Block { block, index } => block.image(*index as usize),
        }
    }

    pub(crate) fn decoded(&self, max_pixels: u64) -> Result<Decoded, DecodeError> {
        match self {
            Pixels::File(path) => decode(&read(path)?, max_pixels),
            Pixels::Block { block, index } => {
                let colour = if block.layout == Layout::Gray { "l8" } else { "rgb8" };
                Ok(Decoded {
                    image: block.image(*index as usize)?,
                    format: block.format,
                    colour: colour.into(),
                })
            }
        }
    }
}

impl Block {
    /// How many bytes there are; of a picture not yet decoded, none.
    pub(crate) fn data_len(&self) -> usize {
        match &self.data {
            BlockData::Raw(bytes) => bytes.len(),
            BlockData::Picture { .. } => 0,
        }
    }

    fn image(&self, index: usize) -> Result<RgbImage, DecodeError> {
        let area = self.width as usize * self.height as usize;
        let size = if self.layout == Layout::Gray { area } else { 3 * area };
        let start = self.start + index * self.stride;
        let bytes = self.data.bytes()?.get(start..start + size).ok_or_else(|| DecodeError::Truncated {
            format: self.format,
            reason: format!("image {index} lies beyond the end"),
        })?;
        let rgb = match self.layout {
            Layout::Gray => {
                let mut rgb = vec![0; 3 * area];
                for (pixel, &v) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(bytes) {
                    *pixel = [v; 3];
                }
                rgb
            }
            Layout::Interleaved => bytes.to_vec(),
            Layout::Planar => {
                let (r, gb) = bytes.split_at(area);
                let (g, b) = gb.split_at(area);
                r.iter().zip(g).zip(b).flat_map(|((&r, &g), &b)| [r, g, b]).collect()
            }
        };
        Ok(RgbImage::from_raw(self.width, self.height, rgb).expect("three bytes a pixel"))
    }
}

impl BlockData {
    fn bytes(&self) -> Result<&[u8], DecodeError> {
        match self {
            BlockData::Raw(bytes) => Ok(bytes),
            BlockData::Picture { path, pixels } => pixels
                .get_or_init(|| Ok(decode(&read(path)?, u64::MAX)?.image.into_raw()))
                .as_deref()
                .map_err(Clone::clone),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, DecodeError> {
    std::fs::read(path).map_err(|e| DecodeError::Read(format!("{}: {e}", path.display())))
}
