//! A step of the pretext tasks: what the encoder sees, and who pays for what.

mod common;

use candle_core::{Device, Tensor};
use common::{SIDE, WHOLE, example, map, noise, resolve};
use image::{Rgb, RgbImage};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use selfsup_train::method::{Batch, Colorization, Progress};
use selfsup_train::{MethodConfig, PretrainConfig};

/// A step of a fresh model on two images: the features, and what it would log.
fn stepped(
    config: &PretrainConfig,
    views: Vec<Tensor>,
    steps: u64,
) -> (Vec<f32>, Vec<(&'static str, f64)>, f64) {
    let mut method = config.method.build(config.encoder(&Device::Cpu).unwrap(), 0).unwrap();
    let batch = views.into();
    let mut out = None;
    for step in 0..steps {
        out = Some(method.step(&batch, Progress { step, total: steps, lr: 0.01 }).unwrap());
    }
    let out = out.unwrap();
    let loss = f64::from(out.loss.to_scalar::<f32>().unwrap());
    (out.embeddings.flatten_all().unwrap().to_vec1().unwrap(), (out.metrics)().unwrap(), loss)
}

fn stack(images: &[RgbImage]) -> Tensor {
    let pixels: Vec<u8> = images.iter().flat_map(|image| image.as_raw().clone()).collect();
    Tensor::from_vec(pixels, (images.len(), SIDE as usize, SIDE as usize, 3), &Device::Cpu).unwrap()
}

/// Two batches that differ in the hole alone have the same features, in training as in the pictures; a pixel outside it changes them.
#[test]
fn the_encoder_does_not_see_what_is_missing() {
    for hole in ["center", "blocks", "region"] {
        let config = resolve("inpainting", &[WHOLE, &format!("method.hole={hole}")]).unwrap();
        let mask = example(config.method.prepare().unwrap().as_ref(), &map(), 3).views[1].clone();
        let with = |missing: [u8; 3], corner: u8| {
            let mut image = noise(7);
            image.put_pixel(0, 0, Rgb([corner; 3]));
            for (pixel, hole) in image.pixels_mut().zip(mask.pixels()) {
                if hole.0 == [255; 3] {
                    *pixel = Rgb(missing);
                }
            }
            vec![stack(&[image, noise(8)]), stack(&[mask.clone(), mask.clone()])]
        };
        let features = |views| stepped(&config, views, 1).0;
        let first = features(with([0; 3], 0));
        assert_eq!(first, features(with([250, 10, 90], 0)), "{hole}");
        if mask.get_pixel(0, 0).0 != [255; 3] {
            assert_ne!(first, features(with([0; 3], 255)), "{hole}");
        }
    }
}

/// Against a network that stands still the discriminator wins: it knows its pictures, for which the network pays.
#[test]
fn the_network_pays_for_what_the_discriminator_knows() {
    let config =
        resolve("inpainting", &[WHOLE, "method.adversarial=0.5", "method.discriminator_lr_scale=0.2"])
            .unwrap();
    let mask = example(config.method.prepare().unwrap().as_ref(), &map(), 0).views[1].clone();
    let views = vec![stack(&[noise(1), noise(2), noise(3), noise(4)]), stack(&vec![mask; 4])];
    let (_, metrics, loss) = stepped(&config, views, 25);
    let of = |name: &str| metrics.iter().find(|(known, _)| *known == name).unwrap().1;
    assert!(of("discriminator_loss") < 0.4, "{metrics:?}");
    assert!(of("adversarial_loss") > 1.0, "more than ln 2, which a guess costs: {metrics:?}");
    let expected = 0.5 * of("l2") + 0.5 * of("adversarial_loss");
    assert!((loss - expected).abs() < 1e-4, "{loss}, expected {expected}");
}

#[test]
fn colorization_sees_lightness_alone() {
    assert_eq!(
        resolve("colorization", &[]).unwrap().preprocessing().colors,
        selfsup_models::Colors::Lightness
    );
    assert_eq!(resolve("rotation", &[]).unwrap().preprocessing().colors, selfsup_models::Colors::Rgb);
}

fn colorization(settings: &[&str]) -> Colorization {
    let config = resolve("colorization", settings).unwrap();
    let MethodConfig::Colorization(method) = &config.method else { panic!("another method") };
    Colorization::new(method, config.encoder(&Device::Cpu).unwrap(), 3).unwrap()
}

/// What is left of a wide image is coloured as it was, wherever the image ends: also at a side that is no multiple of the stride.
#[test]
fn colours_do_not_move_with_an_images_end() {
    let model = colorization(&["method.temperature=0.001"]);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let levels: Vec<u8> = (0..64 * 8).map(|_| rng.random()).collect();
    let wide = RgbImage::from_fn(256, 32, |x, y| Rgb([levels[(y / 4 * 64 + x / 4) as usize]; 3]));
    let coloured = |width: u32| {
        let cut = image::imageops::crop_imm(&wide, 0, 0, width, 32).to_image();
        model.colorize_whole(&cut).unwrap()
    };
    let whole = coloured(256);
    for width in [201, 202, 207] {
        let cut = coloured(width);
        // Far from the end, where nothing of it is seen.
        let places = (0..100).flat_map(|x| (0..32).map(move |y| (x, y)));
        let off = places.filter(|&(x, y)| cut.get_pixel(x, y) != whole.get_pixel(x, y)).count();
        assert!(off <= 32, "{width}: {off} of 3200 pixels");
    }
    // The colours are not one for all.
    let hues: std::collections::HashSet<_> =
        whole.pixels().map(|p| i32::from(p[0]) - i32::from(p[2])).collect();
    assert!(hues.len() > 50, "{}", hues.len());
}

/// An image that is coloured band by band is coloured as at once: an enlarged one as a small one that is enlarged, each pixel with its own
/// lightness. And an image may be very long.
#[test]
fn large_and_long_images_are_coloured() {
    let model = colorization(&[]);
    let waves = |side: u32| {
        RgbImage::from_fn(side, side, |x, y| {
            let [x, y] = [x, y].map(|at| (f64::from(at) + 0.5) / f64::from(side));
            Rgb([(128.0 + 60.0 * (9.0 * x).sin() + 60.0 * (7.0 * y).cos()) as u8; 3])
        })
    };
    let (small, large) = (waves(32), waves(1504));
    let (a, b) = (model.colorize_whole(&small).unwrap(), model.colorize_whole(&large).unwrap());
    assert_eq!(b.dimensions(), (1504, 1504));
    let off: u32 = (0..32)
        .flat_map(|x| (0..32).map(move |y| (x, y)))
        .map(|(x, y)| {
            let (a, b) = (a.get_pixel(x, y), b.get_pixel(47 * x + 23, 47 * y + 23));
            (0..3).map(|c| u32::from(a[c].abs_diff(b[c]))).max().unwrap()
        })
        .max()
        .unwrap();
    assert!(off <= 3, "{off} levels");
    for (width, height) in [(20_000, 8), (1, 3000)] {
        let long = RgbImage::from_fn(width, height, |x, y| Rgb([(x + y) as u8; 3]));
        assert_eq!(model.colorize_whole(&long).unwrap().dimensions(), (width, height));
    }
}

/// What is added to a patch, and what it is multiplied by, does not reach the network.
#[test]
fn a_patch_is_seen_without_its_level_and_contrast() {
    let config = resolve("relative-patch", &[]).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let levels: Vec<u8> = (0..4 * 8 * 8 * 3).map(|_| rng.random_range(0..60)).collect();
    let patches = |changed: &dyn Fn(u8) -> u8| {
        let levels = levels.iter().map(|&level| changed(level)).collect();
        Tensor::from_vec(levels, (4, 8, 8, 3), &Device::Cpu).unwrap()
    };
    let features = |first| -> Vec<f32> {
        let mut method = config.method.build(config.encoder(&Device::Cpu).unwrap(), 0).unwrap();
        let views = vec![first, patches(&|level| level)];
        let batch = Batch { views, targets: vec![Tensor::new(&[0u32, 3, 5, 7], &Device::Cpu).unwrap()] };
        let out = method.step(&batch, Progress { step: 0, total: 1, lr: 0.01 }).unwrap();
        out.embeddings.flatten_all().unwrap().to_vec1().unwrap()
    };
    let plain = features(patches(&|level| level));
    let off = |other: &dyn Fn(u8) -> u8| {
        let other = features(patches(other));
        plain.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(off(&|level| level + 40) < 1e-3, "{}", off(&|level| level + 40));
    // ε, 1e-3 of a deviation of 17 levels, is less beside one of 51: the inputs differ by 4e-5 of themselves, and normalisation by few
    // images' statistics enlarges that.
    assert!(off(&|level| 3 * level) < 1e-2, "{}", off(&|level| 3 * level));
    // Another picture is seen.
    assert!(off(&|level| level / 30) > 0.1);
}

#[test]
fn a_tile_has_mean_0_and_deviation_1_in_each_channel() {
    let mut flat = noise(3);
    flat.pixels_mut().for_each(|pixel| pixel[1] = 77);
    // Another contrast and level a channel.
    flat.pixels_mut().for_each(|pixel| (pixel[0], pixel[2]) = (pixel[0] / 8 + 100, pixel[2] / 2));
    let seen = selfsup_train::method::normalize_each(&stack(&[flat, noise(4)])).unwrap();
    let values = seen.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for tile in 0..2 {
        for c in 0..3 {
            let channel: Vec<f64> =
                values[tile * 3072..][..3072].iter().skip(c).step_by(3).map(|v| f64::from(*v)).collect();
            let mean = channel.iter().sum::<f64>() / 1024.0;
            let deviation = (channel.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 1024.0).sqrt();
            let wanted = if (tile, c) == (0, 1) { 0.0 } else { 1.0 };
            assert!(
                mean.abs() < 1e-4 && (deviation - wanted).abs() < 1e-3,
                "{tile} {c}: {mean}, {deviation}"
            );
        }
    }
}

/// The adversary's judgement reaches the network that is judged, and the discriminator is not moved by it.
#[test]
fn the_adversarial_loss_has_gradients_in_the_decoder_alone() {
    let gradient = |adversarial: &str| {
        let config = resolve("inpainting", &[WHOLE, adversarial]).unwrap();
        let mask = example(config.method.prepare().unwrap().as_ref(), &map(), 0).views[1].clone();
        let mut method = config.method.build(config.encoder(&Device::Cpu).unwrap(), 0).unwrap();
        let batch = vec![stack(&[noise(1), noise(2)]), stack(&vec![mask; 2])].into();
        let out = method.step(&batch, Progress { step: 0, total: 1, lr: 0.0 }).unwrap();
        let grads = out.loss.backward().unwrap();
        let mut of = Vec::new();
        for t in method.tensors().iter() {
            match grads.get(&t.var) {
                Some(grad) if t.name.starts_with("decoder") => {
                    of.extend(grad.flatten_all().unwrap().to_vec1::<f32>().unwrap());
                }
                grad => assert!(grad.is_none() || !t.name.starts_with("discriminator"), "{}", t.name),
            }
        }
        assert!(!of.is_empty());
        of
    };
    // At .9 L2's part of the gradient is a tenth of what it is alone; the rest is the adversary's.
    let (plain, mixed) = (gradient("method.adversarial=0.0"), gradient("method.adversarial=0.9"));
    let apart: f64 = plain.iter().zip(&mixed).map(|(p, m)| f64::from(0.1 * p - m).powi(2)).sum();
    let whole: f64 = mixed.iter().map(|m| f64::from(*m).powi(2)).sum();
    assert!(apart > 0.1 * whole, "{apart} of {whole}");
}
