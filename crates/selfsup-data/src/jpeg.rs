//! JPEG: zune-jpeg, told to refuse damage, behind a look at the markers (ITU-T T.81, annex B).
//!
//! Four channels: the samples are taken as Adobe writes them, inverted, with or without Adobe's marker; so
//! does Pillow. R = C·K/255 in the file's inverted samples. With Adobe's transform 2 (YCCK) the first three
//! go through YCbCr → RGB first and are complemented. Three channels with transform 0 are RGB as they stand.

use crate::decode::{DecodeError, Decoded, check_pixels, oriented};
use image::RgbImage;
use image::metadata::Orientation;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

/// More scans than this in one progressive file are an attack on the reader's time; encoders write about ten.
const MAX_SCANS: usize = 100;

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;

/// Decodes a JPEG file by the rules of [`crate::decode`].
pub(crate) fn decode(bytes: &[u8], max_pixels: u64) -> Result<Decoded, DecodeError> {
    let markers = Markers::read(bytes);
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_max_scans(MAX_SCANS)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let error = |e| from_zune(e, markers.complete);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(error)?;
    let (width, height) = decoder.dimensions().expect("the headers were read");
    check_pixels(width as u64, height as u64, max_pixels)?;
    if !markers.complete {
        return Err(truncated("no end-of-image marker"));
    }
    let mut rgb = vec![0; width * height * 3];
    decoder.decode_into(&mut rgb).map_err(error)?;
    let orientation =
        decoder.exif().and_then(|e| Orientation::from_exif_chunk(e)).unwrap_or(Orientation::NoTransforms);
    let image = RgbImage::from_raw(width as u32, height as u32, rgb).expect("three bytes a pixel");
    let colour = match markers.components {
        Some(1) => "l8",
        Some(4) => "cmyk8",
        _ => "rgb8",
    };
    Ok(Decoded { image: oriented(image, orientation), format: "jpeg", colour: colour.into() })
}

/// What a walk over the markers tells.
#[derive(Debug, Default, PartialEq)]
struct Markers {
    /// Whether the end-of-image marker comes after the last scan.
    complete: bool,
    components: Option<u8>,
}

impl Markers {
    fn read(bytes: &[u8]) -> Self {
        let mut markers = Self::default();
        let mut at = 0;
        while let Some(marker) = next_marker(bytes, &mut at) {
            match marker {
                EOI => {
                    markers.complete = true;
                    break;
                }
                SOI | 0x01 | 0xd0..=0xd7 => continue, // these stand alone
                _ => {}
            }
            let Some(&[high, low]) = bytes.get(at..at + 2) else { break };
            let length = usize::from(u16::from_be_bytes([high, low])).max(2);
            let body = bytes.get(at + 2..(at + length).min(bytes.len())).unwrap_or(&[]);
            match marker {
                // Start of frame, but not DHT (c4), JPG (c8) and DAC (cc), which share the row.
                0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                    markers.components = body.get(5).copied();
                }
                // What follows the first scan's header is almost always one file: when it ends as it should,
                // spare the walk over the compressed data.
                SOS if bytes.ends_with(&[0xff, EOI]) => {
                    markers.complete = true;
                    break;
                }
                _ => {}
            }
            at += length;
        }
        markers
    }
}

/// The second byte of the next marker at or after `at`, which moves behind it. In compressed data ff 00 and
/// the restart markers are not ends; between segments stray bytes are passed over.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        *at += bytes.get(*at..)?.iter().position(|&b| b == 0xff)? + 1;
        match *bytes.get(*at)? {
            0x00 | 0xff => {}
            marker => {
                *at += 1;
                return Some(marker);
            }
        }
    }
}

fn from_zune(error: DecodeErrors, complete: bool) -> DecodeError {
    let reason = error.to_string();
    match error {
        DecodeErrors::Unsupported(_) => DecodeError::Unsupported { format: "jpeg", reason },
        DecodeErrors::ExhaustedData => truncated(&reason),
        _ if !complete => truncated(&reason),
        _ => DecodeError::Corrupt { format: "jpeg", reason },
    }
}

fn truncated(reason: &str) -> DecodeError {
    DecodeError::Truncated { format: "jpeg", reason: reason.into() }
}
