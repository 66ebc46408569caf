//! Extraction: the right images in the right order, whatever the batches, from an encoder that stays as it is.

use candle_core::Device;
use image::{Rgb, RgbImage};
use selfsup_augment::CenterView;
use selfsup_data::{Sample, Source};
use selfsup_models::{CropMode, Encoder, Interpolation, Mode, Preprocessing, arch};
use selfsup_probe::{Error, ExtractConfig, Features, Frozen, extract};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Images of several sizes made from their index; every `broken`-th cannot be decoded.
struct Images {
    samples: Vec<Sample>,
    broken: usize,
    /// An encoder that is disturbed when the last image is read.
    disturb: Option<Encoder>,
    disturbed: AtomicBool,
}

impl Images {
    fn new(n: usize, broken: usize) -> Self {
        let sample = |i| Sample {
            id: format!("folder/{i:03}.png"),
            label: (i % 5 != 4).then_some(i as u32 % 3),
            caption: None,
        };
        Self {
            samples: (0..n).map(sample).collect(),
            broken,
            disturb: None,
            disturbed: AtomicBool::new(false),
        }
    }
}

fn image(i: usize) -> RgbImage {
    let size = if i.is_multiple_of(3) { (8, 8) } else { (10, 8 + i as u32 % 7) };
    RgbImage::from_fn(size.0, size.1, |x, y| {
        let v = |c: u32| (i as u32 * 41 + x * 17 + y * 29 + c * 83 + x * y * 5) as u8;
        Rgb([v(0), v(1), v(2)])
    })
}

impl Source for Images {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn sample(&self, index: usize) -> &Sample {
        &self.samples[index]
    }

    fn image(&self, index: usize) -> selfsup_data::Result<RgbImage> {
        if let Some(encoder) = &self.disturb
            && index + 1 == self.len()
            && !self.disturbed.swap(true, Ordering::SeqCst)
        {
            let tensor = encoder.params().iter().next().unwrap();
            tensor.var.set(&(tensor.var.as_tensor() + 1.0).unwrap()).unwrap();
        }
        if index % self.broken == self.broken - 1 {
            let source = selfsup_data::decode(b"no image", 1000).unwrap_err();
            return Err(selfsup_data::Error::Decode { id: self.samples[index].id.clone(), source });
        }
        Ok(image(index))
    }
}

/// What the encoder sees of an image.
const VIEW: CenterView =
    CenterView { size: 8, resize: 11, interpolation: selfsup_augment::Interpolation::Bicubic, squash: true };

fn encoder() -> Encoder {
    let preprocessing = Preprocessing {
        resize: VIEW.resize as usize,
        interpolation: Interpolation::Bicubic,
        crop_mode: CropMode::Squash,
        ..Preprocessing::rgb(8, [0.5; 3], [0.25; 3])
    };
    Encoder::untrained(arch("resnet10-narrow-cifar").unwrap(), preprocessing, 1, &Device::Cpu).unwrap()
}

fn all(frozen: &Frozen, data: Images, batch_size: usize, workers: usize) -> Features {
    let config = ExtractConfig { batch_size, workers, strict: false };
    extract(frozen, Arc::new(data), &config, &mut |_| ()).unwrap()
}

#[test]
fn pixels_are_the_centre_views() {
    let features = all(&Frozen::Pixels { image_size: 8 }, Images::new(20, 100), 6, 2);
    assert_eq!((features.len(), features.dim), (20, 192));
    for i in 0..20 {
        let view = selfsup_augment::center_view(&image(i), 8).unwrap();
        let expected: Vec<f32> = view.as_raw().iter().map(|&p| f32::from(p) / 255.0).collect();
        assert_eq!(features.row(i), expected, "image {i}");
    }
}

#[test]
fn order_ids_and_labels_are_the_sources_and_broken_images_are_listed() {
    for workers in [0, 3] {
        let mut told = Vec::new();
        let config = ExtractConfig { batch_size: 4, workers, strict: false };
        let pixels = Frozen::Pixels { image_size: 8 };
        let features =
            extract(&pixels, Arc::new(Images::new(23, 6)), &config, &mut |done| told.push(done)).unwrap();
        let kept: Vec<usize> = (0..23).filter(|i| i % 6 != 5).collect();
        let ids: Vec<String> = kept.iter().map(|i| format!("folder/{i:03}.png")).collect();
        assert_eq!(features.ids, ids);
        let labels: Vec<Option<u32>> = kept.iter().map(|&i| (i % 5 != 4).then_some(i as u32 % 3)).collect();
        assert_eq!(features.labels, labels);
        let skipped: Vec<&str> = features.skipped.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(skipped, ["folder/005.png", "folder/011.png", "folder/017.png"]);
        assert!(features.skipped.iter().all(|(_, reason)| !reason.is_empty()));
        assert_eq!(told.last(), Some(&23));
        assert!(told.windows(2).all(|w| w[0] < w[1]), "{told:?}");
    }
}

#[test]
fn batches_do_not_change_the_features_nor_extraction_the_encoder() {
    let encoder = encoder();
    let before = encoder.params().sha256().unwrap();
    let frozen = Frozen::Encoder(encoder.clone());
    let one = all(&frozen, Images::new(30, 100), 1, 0);
    assert_eq!((one.len(), one.dim), (30, encoder.feature_dim()));
    let spread = one.values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    assert!(spread > 1e-3, "features are not all zero");
    for batch_size in [7, 30, 64] {
        let many = all(&frozen, Images::new(30, 100), batch_size, 2);
        for (i, (a, b)) in one.values.iter().zip(&many.values).enumerate() {
            assert!(
                (a - b).abs() < 1e-5 * spread.max(1.0),
                "value {i} at batch size {batch_size}: {a} and {b}"
            );
        }
    }
    assert_eq!(encoder.params().sha256().unwrap(), before);
    // Evaluation mode: in training mode the statistics of the batch would enter.
    let pixels: Vec<u8> = (0..2).flat_map(|i| VIEW.apply(&image(i)).unwrap().into_raw()).collect();
    let images = candle_core::Tensor::from_vec(pixels, (2, 8, 8, 3), &Device::Cpu).unwrap();
    let expected = encoder.forward(&images, Mode::Eval).unwrap().to_vec2::<f32>().unwrap();
    for (i, expected) in expected.iter().enumerate() {
        assert!(
            one.row(i).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5 * spread.max(1.0)),
            "image {i}"
        );
    }
}

#[test]
fn a_changed_encoder_is_an_error() {
    let encoder = encoder();
    let data = Images { disturb: Some(encoder.clone()), ..Images::new(6, 100) };
    let config = ExtractConfig { batch_size: 2, workers: 0, strict: false };
    let error = extract(&Frozen::Encoder(encoder), Arc::new(data), &config, &mut |_| ()).unwrap_err();
    assert!(matches!(error, Error::EncoderChanged { .. }), "{error}");
}

#[test]
fn says_what_is_wrong() {
    let run = |frozen: &Frozen, batch_size, strict| {
        let config = ExtractConfig { batch_size, workers: 0, strict };
        extract(frozen, Arc::new(Images::new(6, 3)), &config, &mut |_| ()).unwrap_err().to_string()
    };
    let pixels = Frozen::Pixels { image_size: 8 };
    assert_eq!(run(&pixels, 0, false), "batch_size must be at least 1, got 0");
    let none = Frozen::Pixels { image_size: 0 };
    assert_eq!(run(&none, 1, false), "center_view: `size` must be in 1…16384, got 0");
    let huge = Preprocessing { resize: 1 << 20, ..encoder().preprocessing().clone() };
    let huge = Encoder::untrained(encoder().arch(), huge, 1, &Device::Cpu).unwrap();
    let huge = run(&Frozen::Encoder(huge), 1, false);
    assert_eq!(huge, "center_view: `resize` must be in 1…16384, got 1048576");
    assert!(run(&pixels, 4, true).contains("folder/002.png"));
}
