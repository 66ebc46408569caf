//! Bytes of an image file → RGB, 8 bits a channel.
//!
//! The format is told by content, never by the file's name. Rules, the same for all formats:
//!
//! - dimensions are read from the header first; more than `max_pixels` is refused before pixels are allocated;
//! - the EXIF (or TIFF) orientation is applied, so an image comes out as a viewer shows it;
//! - gray is repeated to three channels, palettes are looked up;
//! - 16 bits become 8 by rounding to the nearest, `round(v / 257)`; floating point is clamped to 0…1 first;
//! - transparency is laid over white, `c·a + 255·(1 − a)`;
//! - of an animation the first frame is taken;
//! - colour profiles and gamma are ignored, as torchvision's loaders do;
//! - a file that is cut off or damaged is an error, never a half-gray image.

use crate::jpeg;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use std::io::Cursor;
use std::panic::catch_unwind;

/// More pixels than this are refused by default; a 100-megapixel image takes 300 MB as RGB.
pub const DEFAULT_MAX_PIXELS: u64 = 100_000_000;

/// Beyond the pixels, a decoder may allocate this much for its own tables and metadata.
const DECODER_OVERHEAD: u64 = 64 << 20;

/// Why an image could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The file could not be read.
    #[error("cannot read the file: {0}")]
    Read(String),
    /// The content is no image of a known format.
    #[error("not an image: expected JPEG, PNG, WebP, BMP, GIF or TIFF, got {0}")]
    UnknownFormat(String),
    /// The header promises more pixels than are allowed.
    #[error("{width}x{height} pixels are more than the limit of {max_pixels}")]
    TooManyPixels {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// The limit on their product.
        max_pixels: u64,
    },
    /// The file ends too early.
    #[error("{format}: the file is cut off: {reason}")]
    Truncated {
        /// The format.
        format: &'static str,
        /// Where it ends.
        reason: String,
    },
    /// The file is damaged.
    #[error("{format}: the file is damaged: {reason}")]
    Corrupt {
        /// The format.
        format: &'static str,
        /// What the decoder found.
        reason: String,
    },
    /// A variant of a format that is not decoded.
    #[error("{format}: not supported: {reason}")]
    Unsupported {
        /// The format.
        format: &'static str,
        /// Which variant.
        reason: String,
    },
}

/// An image and what its file held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The pixels.
    pub image: RgbImage,
    /// The file's format: `jpeg`, `png`, `webp`, `bmp`, `gif` or `tiff`.
    pub format: &'static str,
    /// The file's own channels and bits, such as `l8`, `rgb8`, `rgba16` or `cmyk8`.
    pub colour: String,
}

/// Decodes an image file's bytes to RGB, by the rules above.
///
/// ```
/// let png = image::RgbImage::from_pixel(2, 1, image::Rgb([9, 8, 7]));
/// let mut bytes = std::io::Cursor::new(Vec::new());
/// png.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
/// let decoded = selfsup_data::decode(bytes.get_ref(), selfsup_data::DEFAULT_MAX_PIXELS).unwrap();
/// assert_eq!(decoded.image, png);
/// assert_eq!((decoded.format, decoded.colour.as_str()), ("png", "rgb8"));
/// ```
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<Decoded, DecodeError> {
    let format = image::guess_format(bytes).map_err(|_| DecodeError::UnknownFormat(describe_start(bytes)))?;
    let name = name(format).ok_or_else(|| DecodeError::UnknownFormat(format!("{format:?}")))?;
    // The decoders are meant never to panic. Should one do so on a damaged file, that file is skipped like
    // any other.
    catch_unwind(|| match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, max_pixels),
        _ => decode_other(bytes, format, name, max_pixels),
    })
    .unwrap_or_else(|_| Err(DecodeError::Corrupt { format: name, reason: "the decoder panicked".into() }))
}

/// Refuses what has more pixels than allowed.
pub(crate) fn check_pixels(width: u64, height: u64, max_pixels: u64) -> Result<(), DecodeError> {
    match width.checked_mul(height) {
        Some(pixels) if pixels <= max_pixels => Ok(()),
        _ => Err(DecodeError::TooManyPixels { width, height, max_pixels }),
    }
}

/// Turns and mirrors an image as its orientation says.
pub(crate) fn oriented(image: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    image.into_rgb8()
}

fn decode_other(
    bytes: &[u8],
    format: ImageFormat,
    name: &'static str,
    max_pixels: u64,
) -> Result<Decoded, DecodeError> {
    if format == ImageFormat::WebP {
        check_riff_length(bytes)?;
    }
    let error = |e| from_image_error(e, name);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_pixels.saturating_mul(16).saturating_add(DECODER_OVERHEAD));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(error)?;
    let (width, height) = decoder.dimensions();
    check_pixels(width.into(), height.into(), max_pixels)?;
    let colour = format!("{:?}", decoder.original_color_type()).to_lowercase();
    // A damaged orientation does not make the pixels worthless.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let image = to_rgb8(DynamicImage::from_decoder(decoder).map_err(error)?);
    Ok(Decoded { image: oriented(image, orientation), format: name, colour })
}

/// WebP says its length in the header; its decoder would fill in what is missing.
fn check_riff_length(bytes: &[u8]) -> Result<(), DecodeError> {
    let promised = bytes.get(4..8).map(|b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])) + 8);
    match promised {
        Some(promised) if promised > bytes.len() as u64 => Err(DecodeError::Truncated {
            format: "webp",
            reason: format!("expected {promised} bytes, got {}", bytes.len()),
        }),
        _ => Ok(()),
    }
}

/// Any pixel type to RGB8: gray repeated, alpha over white, depth by rounding.
fn to_rgb8(image: DynamicImage) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let rgb = match image {
        DynamicImage::ImageRgb8(image) => return image,
        DynamicImage::ImageLuma8(i) => i.into_raw().into_iter().flat_map(|v| [v; 3]).collect(),
        DynamicImage::ImageLumaA8(i) => pixels(i.as_raw(), |&[v, a]: &[u8; 2]| [over_white_8(v, a); 3]),
        DynamicImage::ImageRgba8(i) => {
            pixels(i.as_raw(), |&[r, g, b, a]: &[u8; 4]| [r, g, b].map(|v| over_white_8(v, a)))
        }
        DynamicImage::ImageLuma16(i) => pixels(i.as_raw(), |&[v]: &[u16; 1]| [over_white_16(v, u16::MAX); 3]),
        DynamicImage::ImageLumaA16(i) => pixels(i.as_raw(), |&[v, a]: &[u16; 2]| [over_white_16(v, a); 3]),
        DynamicImage::ImageRgb16(i) => {
            pixels(i.as_raw(), |p: &[u16; 3]| p.map(|v| over_white_16(v, u16::MAX)))
        }
        DynamicImage::ImageRgba16(i) => {
            pixels(i.as_raw(), |&[r, g, b, a]: &[u16; 4]| [r, g, b].map(|v| over_white_16(v, a)))
        }
        DynamicImage::ImageRgb32F(i) => pixels(i.as_raw(), |p: &[f32; 3]| p.map(|v| over_white_f32(v, 1.0))),
        DynamicImage::ImageRgba32F(i) => {
            pixels(i.as_raw(), |&[r, g, b, a]: &[f32; 4]| [r, g, b].map(|v| over_white_f32(v, a)))
        }
        other => return other.to_rgb8(),
    };
    RgbImage::from_raw(width, height, rgb).expect("three bytes a pixel")
}

fn pixels<T, const N: usize>(raw: &[T], convert: impl Fn(&[T; N]) -> [u8; 3]) -> Vec<u8> {
    let (pixels, _) = raw.as_chunks::<N>();
    pixels.iter().flat_map(convert).collect()
}

fn over_white_8(value: u8, alpha: u8) -> u8 {
    let (v, a) = (u32::from(value), u32::from(alpha));
    ((v * a + 255 * (255 - a) + 127) / 255) as u8
}

/// One rounding for both steps: 255 · (v·a + m·(m − a)) / m² with m = 65535.
fn over_white_16(value: u16, alpha: u16) -> u8 {
    const M: u64 = 65_535;
    let (v, a) = (u64::from(value), u64::from(alpha));
    ((255 * (v * a + M * (M - a)) + M * M / 2) / (M * M)) as u8
}

fn over_white_f32(value: f32, alpha: f32) -> u8 {
    let (v, a) = (value.clamp(0.0, 1.0), alpha.clamp(0.0, 1.0));
    (255.0 * (v * a + (1.0 - a))).round() as u8
}

fn name(format: ImageFormat) -> Option<&'static str> {
    Some(match format {
        ImageFormat::Jpeg => "jpeg",
        ImageFormat::Png => "png",
        ImageFormat::WebP => "webp",
        ImageFormat::Bmp => "bmp",
        ImageFormat::Gif => "gif",
        ImageFormat::Tiff => "tiff",
        _ => return None,
    })
}

fn from_image_error(error: ImageError, format: &'static str) -> DecodeError {
    let reason = error.to_string();
    match error {
        ImageError::Unsupported(_) => DecodeError::Unsupported { format, reason },
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated { format, reason }
        }
        _ => DecodeError::Corrupt { format, reason },
    }
}

fn describe_start(bytes: &[u8]) -> String {
    match bytes {
        [] => "an empty file".into(),
        _ => format!(
            "{} bytes that begin with {}",
            bytes.len(),
            bytes.iter().take(4).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
        ),
    }
}
