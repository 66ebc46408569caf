//! Decoding against Pillow's pixels, and on files that are damaged or lie.

use image::{DynamicImage, ImageBuffer, ImageFormat, Rgb, RgbImage, Rgba};
use proptest::prelude::*;
use selfsup_data::{DEFAULT_MAX_PIXELS, DecodeError, decode};
use std::io::Cursor;
use std::path::{Path, PathBuf};

#[derive(serde::Deserialize)]
struct Golden {
    file: String,
    expected: String,
    max: u8,
    mean: f64,
    colour: Option<String>,
}

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn golden() -> Vec<Golden> {
    serde_json::from_slice(&std::fs::read(golden_dir().join("golden.json")).unwrap()).unwrap()
}

fn golden_bytes(file: &str) -> Vec<u8> {
    std::fs::read(golden_dir().join(file)).unwrap()
}

fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(9 * x) as u8, (7 * y) as u8, (5 * x * y) as u8]))
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image.into().write_to(&mut out, format).unwrap();
    out.into_inner()
}

#[test]
fn pixels_are_pillows() {
    let mut wrong = Vec::new();
    for Golden { file, expected, max, mean, colour } in golden() {
        // Not through the decoder under test.
        let expected = image::open(golden_dir().join(expected)).unwrap().into_rgb8();
        let got = match decode(&golden_bytes(&file), DEFAULT_MAX_PIXELS) {
            Ok(got) => got,
            Err(error) => {
                wrong.push(format!("{file}: {error}"));
                continue;
            }
        };
        if got.image.dimensions() != expected.dimensions() {
            wrong.push(format!(
                "{file}: size {:?}, expected {:?}",
                got.image.dimensions(),
                expected.dimensions()
            ));
            continue;
        }
        let off: Vec<u8> = got.image.iter().zip(expected.iter()).map(|(a, b)| a.abs_diff(*b)).collect();
        let (worst, average) =
            (*off.iter().max().unwrap(), off.iter().map(|&d| f64::from(d)).sum::<f64>() / off.len() as f64);
        if worst > max || average > mean {
            wrong.push(format!(
                "{file}: off by up to {worst} ({max} allowed), {average:.3} in the mean ({mean})"
            ));
        }
        if colour.is_some_and(|c| c != got.colour) {
            wrong.push(format!("{file}: colour {}", got.colour));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The references themselves must tell the orientations apart, else the test above proves nothing.
#[test]
fn the_eight_orientations_differ() {
    let images: Vec<_> = (1..=8)
        .map(|o| decode(&golden_bytes(&format!("orientation-{o}.jpg")), DEFAULT_MAX_PIXELS).unwrap().image)
        .collect();
    for (i, a) in images.iter().enumerate() {
        assert_eq!(a.dimensions(), if i < 4 { (11, 7) } else { (7, 11) });
        for b in &images[..i] {
            let same =
                a.dimensions() == b.dimensions() && a.iter().zip(b.iter()).all(|(a, b)| a.abs_diff(*b) < 20);
            assert!(!same, "orientation {} looks like another", i + 1);
        }
    }
}

#[test]
fn lossless_formats_return_what_was_written() {
    use ImageFormat::*;
    for (width, height) in [(1, 1), (1, 9), (17, 3), (64, 64)] {
        let image = picture(width, height);
        for format in [Png, Bmp, Tiff, WebP] {
            let got = decode(&encoded(image.clone(), format), DEFAULT_MAX_PIXELS).unwrap();
            assert_eq!(got.image, image, "{format:?} {width}x{height}");
        }
    }
}

/// 16 bits: the nearest of the 256 levels, computed in floating point.
#[test]
fn sixteen_bits_are_rounded() {
    let values: Vec<u16> = (0..=u16::MAX).collect();
    let image = ImageBuffer::<image::Luma<u16>, _>::from_raw(256, 256, values.clone()).unwrap();
    let got = decode(&encoded(image, ImageFormat::Png), DEFAULT_MAX_PIXELS).unwrap().image;
    for (v, pixel) in values.iter().zip(got.pixels()) {
        let expected = (f64::from(*v) * 255.0 / 65535.0).round() as u8;
        assert_eq!(pixel.0, [expected; 3], "{v}");
    }
}

#[test]
fn alpha_is_laid_over_white() {
    let eight =
        ImageBuffer::<Rgba<u8>, _>::from_fn(256, 256, |c, a| Rgba([c as u8, 255 - c as u8, 7, a as u8]));
    let got = decode(&encoded(eight.clone(), ImageFormat::Png), DEFAULT_MAX_PIXELS).unwrap().image;
    let sixteen = ImageBuffer::<Rgba<u16>, _>::from_fn(256, 256, |c, a| {
        Rgba([257 * c as u16, 65535 - 257 * c as u16, 1799, 257 * a as u16])
    });
    let got16 = decode(&encoded(sixteen, ImageFormat::Png), DEFAULT_MAX_PIXELS).unwrap().image;
    for ((pixel, got), got16) in eight.pixels().zip(got.pixels()).zip(got16.pixels()) {
        let a = f64::from(pixel.0[3]) / 255.0;
        for c in 0..3 {
            let expected = (f64::from(pixel.0[c]) * a + 255.0 * (1.0 - a)).round();
            assert_eq!(f64::from(got.0[c]), expected, "{pixel:?}");
            assert_eq!(f64::from(got16.0[c]), expected, "16 bits: {pixel:?}");
        }
    }
}

#[test]
fn floating_point_is_clamped_and_rounded() {
    let values = [-1.0f32, 0.0, 0.25, 0.5, 1.0, 7.0];
    let image = ImageBuffer::<Rgb<f32>, _>::from_fn(6, 1, |x, _| Rgb([values[x as usize]; 3]));
    let got = decode(&encoded(image, ImageFormat::Tiff), DEFAULT_MAX_PIXELS).unwrap().image;
    let got: Vec<u8> = got.pixels().map(|p| p.0[0]).collect();
    assert_eq!(got, [0, 0, 64, 128, 255, 255]);
}

#[test]
fn what_is_no_image_says_what_it_is() {
    let error = |bytes: &[u8]| decode(bytes, DEFAULT_MAX_PIXELS).unwrap_err().to_string();
    assert!(error(b"").contains("an empty file"));
    assert!(error(b"hello there").contains("68 65 6c 6c"), "{}", error(b"hello there"));
    // A format that `image` knows by name but that is not decoded here.
    assert!(matches!(decode(b"qoif\0\0\0\x01", 10), Err(DecodeError::UnknownFormat(_))));
}

/// Cut anywhere, a file is an error, or every pixel was there already: nothing is made up, nothing panics.
#[test]
fn a_file_that_is_cut_off_is_an_error() {
    for Golden { file, .. } in golden() {
        let whole_bytes = golden_bytes(&file);
        let whole = decode(&whole_bytes, DEFAULT_MAX_PIXELS).unwrap();
        // These say how long they are; the others may end after the last pixel, or hold more than the first
        // frame.
        let strict = file.ends_with(".jpg") || file.ends_with(".webp");
        let mut complete = 0;
        for length in 0..whole_bytes.len() {
            if let Ok(got) = decode(&whole_bytes[..length], DEFAULT_MAX_PIXELS) {
                assert!(!strict && got == whole, "{file}: {length} of {} bytes decode", whole_bytes.len());
                complete += 1;
            }
        }
        let single = !file.starts_with("animated") && !file.ends_with(".tif");
        assert!(!single || complete <= 16, "{file}: complete without its last {complete} bytes");
    }
}

/// A large photograph cut at many places: between markers, in the middle of the last rows, one byte short.
#[test]
fn a_large_jpeg_that_is_cut_off_is_an_error() {
    let whole = encoded(picture(500, 375), ImageFormat::Jpeg);
    for length in (0..whole.len()).step_by(997).chain(whole.len() - 40..whole.len()) {
        match decode(&whole[..length], DEFAULT_MAX_PIXELS) {
            Err(DecodeError::Truncated { .. }) => {}
            Err(DecodeError::UnknownFormat(_)) if length < 4 => {}
            other => panic!("{length} of {}: {other:?}", whole.len()),
        }
    }
    // Bytes after the end do no harm.
    let mut longer = whole.clone();
    longer.extend([0; 100]);
    assert_eq!(decode(&longer, DEFAULT_MAX_PIXELS).unwrap(), decode(&whole, DEFAULT_MAX_PIXELS).unwrap());
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    // Headers that promise 65500 × 65500 pixels; what follows would take gigabytes.
    let mut png = encoded(picture(8, 8), ImageFormat::Png);
    png[16..24].copy_from_slice(&[0, 0, 0xff, 0xdc, 0, 0, 0xff, 0xdc]);
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let mut jpeg = encoded(picture(8, 8), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    let mut bmp = encoded(picture(8, 8), ImageFormat::Bmp);
    bmp[18..26].copy_from_slice(&[0xdc, 0xff, 0, 0, 0xdc, 0xff, 0, 0]);
    let mut gif = golden_bytes("palette.gif");
    gif[6..10].copy_from_slice(&[0xdc, 0xff, 0xdc, 0xff]);
    for (name, bytes) in [("png", png), ("jpeg", jpeg), ("bmp", bmp), ("gif", gif)] {
        match decode(&bytes, DEFAULT_MAX_PIXELS) {
            Err(DecodeError::TooManyPixels { width: 65500, height: 65500, .. }) => {}
            other => panic!("{name}: {other:?}"),
        }
    }
    for format in [ImageFormat::WebP, ImageFormat::Tiff, ImageFormat::Jpeg, ImageFormat::Png] {
        let bytes = encoded(picture(20, 30), format);
        assert!(decode(&bytes, 600).is_ok(), "{format:?}");
        let expected = DecodeError::TooManyPixels { width: 20, height: 30, max_pixels: 599 };
        assert_eq!(decode(&bytes, 599), Err(expected), "{format:?}");
    }
}

#[test]
fn damaged_jpeg_data_is_an_error() {
    let mut bytes = encoded(picture(200, 200), ImageFormat::Jpeg);
    let middle = bytes.len() / 2;
    bytes[middle..middle + 40].fill(0xff); // no code is all ones
    assert!(decode(&bytes, DEFAULT_MAX_PIXELS).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever bytes are changed, the result is an image or an error.
    #[test]
    fn damage_never_panics(
        which in 0usize..1000,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let files = golden();
        let mut bytes = golden_bytes(&files[which % files.len()].file);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(got) = decode(&bytes, 1 << 20) {
            prop_assert!(got.image.width() * got.image.height() <= 1 << 20);
        }
        else if let Err(DecodeError::Corrupt { reason, .. }) = decode(&bytes, 1 << 20) {
            prop_assert!(!reason.contains("panicked"), "a decoder panicked");
        }
    }

    #[test]
    fn noise_never_panics(start in 0usize..6, noise in prop::collection::vec(any::<u8>(), 0..300)) {
        const STARTS: [&[u8]; 6] =
            [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFF\xff\0\0\0WEBP"];
        let bytes = [STARTS[start], &noise].concat();
        let _ = decode(&bytes, 1 << 20);
    }
}

/// CRC-32 as PNG has it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}
