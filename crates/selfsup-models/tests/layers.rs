//! What stands behind a network's layers: names, sizes, and that the features are the last one's.

use candle_core::{DType, Device, Tensor};
use selfsup_kernels::global_avg_pool;
use selfsup_models::{
    Colors, Decoder, Encoder, Mode, Preprocessing, arch, halving_widths, params::ParamBuilder,
};

fn encoder(name: &str, image_size: usize) -> Encoder {
    let preprocessing = Preprocessing::rgb(image_size, [0.5; 3], [0.25; 3]);
    Encoder::untrained(arch(name).unwrap(), preprocessing, 0, &Device::Cpu).unwrap()
}

fn images(n: usize, side: usize) -> Tensor {
    let pixels: Vec<u8> = (0..n * side * side * 3).map(|i| ((i * 2_654_435_761) >> 9) as u8).collect();
    Tensor::from_vec(pixels, (n, side, side, 3), &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn each_layer_has_the_sides_and_channels_that_it_says() {
    for (name, sides) in [
        ("resnet10-mini", vec![32, 28, 9]),
        ("resnet18-cifar", vec![12]),
        ("resnet50", vec![64, 65]),
        ("resnet50-v1", vec![64, 65, 47]),
        ("vit-mini-cifar", vec![32, 16]),
    ] {
        for side in sides {
            let (encoder, network) = (encoder(name, side), arch(name).unwrap().config);
            let layers: Vec<_> = network.layers().iter().map(|(l, _)| network.layer(l).unwrap()).collect();
            let maps = encoder.maps(&images(2, side), Mode::Eval, &layers).unwrap();
            assert_eq!(maps.len(), layers.len());
            for (layer, map) in layers.iter().zip(&maps) {
                let s = network.map_side(*layer, side);
                assert_eq!(map.dims(), [2, s, s, layer.channels()], "{name} {layer:?}");
            }
            assert_eq!(network.last_layer(), *layers.last().unwrap());
        }
    }
}

#[test]
fn features_are_the_last_layer_s_mean_and_a_layer_does_not_depend_on_those_asked_beside_it() {
    for mode in [Mode::Eval, Mode::Train] {
        for name in ["resnet10-mini", "resnet18"] {
            let (x, network) = (images(3, 33), arch(name).unwrap().config);
            let layer = |l: &str| network.layer(l).unwrap();
            let all = [layer("stem"), layer("layer2"), layer("layer4")];
            let maps = encoder(name, 33).maps(&x, mode, &all).unwrap();
            let features = encoder(name, 33).forward(&x, mode).unwrap();
            let near = |a: &Tensor, b: &Tensor| {
                values(a).iter().zip(values(b)).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + b.abs()))
            };
            assert!(near(&global_avg_pool(&maps[2]).unwrap(), &features), "{name} {mode:?}");
            let last = encoder(name, 33).last_map(&x, mode).unwrap();
            assert!(near(&last, &maps[2]), "{name} {mode:?}");
            let alone = encoder(name, 33).maps(&x, mode, &all[1..2]).unwrap();
            assert!(near(&alone[0], &maps[1]), "{name} {mode:?}");
        }
    }
}

/// Fresh, the normalisation has weight 1 and bias 0; and every tensor has a part in the map.
#[test]
fn a_transformer_s_last_map_is_its_patches_normalised() {
    let encoder = encoder("vit-mini-cifar", 16);
    let map = encoder.last_map(&images(2, 16), Mode::Train).unwrap();
    assert_eq!(map.dims(), [2, 4, 4, encoder.feature_dim()]);
    for token in values(&map).chunks_exact(encoder.feature_dim()) {
        let n = token.len() as f32;
        let mean = token.iter().sum::<f32>() / n;
        let variance = token.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n;
        assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-2, "{mean} {variance}");
    }
    let grads = map.sqr().unwrap().sqr().unwrap().mean_all().unwrap().backward().unwrap();
    for t in encoder.params().trainable() {
        assert!(grads.get(&t.var).is_some(), "{}", t.name);
    }
}

#[test]
fn gradients_reach_the_weights_before_each_layer_and_no_others() {
    let (encoder, network) = (encoder("resnet10-mini", 16), arch("resnet10-mini").unwrap().config);
    let layers = [network.layer("layer1").unwrap(), network.layer("layer3").unwrap()];
    let maps = encoder.maps(&images(4, 16), Mode::Train, &layers).unwrap();
    let loss =
        (maps[0].sqr().unwrap().mean_all().unwrap() + maps[1].sqr().unwrap().mean_all().unwrap()).unwrap();
    let grads = loss.backward().unwrap();
    for t in encoder.params().trainable() {
        let reached = grads.get(&t.var).is_some();
        assert_eq!(reached, !t.name.starts_with("layer4"), "{}", t.name);
    }
}

#[test]
fn names_are_torchvision_s_and_a_stage_s_is_its_last_block_s() {
    let network = arch("resnet18").unwrap().config;
    let names: Vec<String> = network.layers().into_iter().map(|(name, _)| name).collect();
    let blocks =
        ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1"];
    assert_eq!(names, [&["stem"], &blocks[..]].concat());
    assert_eq!(network.layer("layer3").unwrap(), network.layer("layer3.1").unwrap());
    assert_eq!(network.layer("layer3").unwrap().channels(), 256);
    let error = |name: &str| network.layer(name).unwrap_err().to_string();
    assert!(
        error("layer5").contains("`layer5`") && error("layer5").contains("did you mean `layer"),
        "{}",
        error("layer5")
    );
    assert!(error("nonsense").contains("the layers are stem, layer1.0"), "{}", error("nonsense"));
    assert!(error("layer").contains("there is no layer `layer`"));
    assert_eq!(arch("vit-mini-cifar").unwrap().config.layer("blocks.5").unwrap().channels(), 96);
}

#[test]
fn an_encoder_of_lightness_sees_no_colours() {
    let preprocessing =
        Preprocessing { colors: Colors::Lightness, ..Preprocessing::rgb(8, [0.4; 3], [0.2; 3]) };
    let encoder = Encoder::untrained(arch("resnet10-mini").unwrap(), preprocessing, 0, &Device::Cpu).unwrap();
    // Red and a gray of the same lightness, 53.24 (levels 127 and 128 have 53.2 and 53.6).
    let of = |rgb: [u8; 3]| {
        let pixels: Vec<u8> = rgb.iter().copied().cycle().take(8 * 8 * 3).collect();
        let image = Tensor::from_vec(pixels, (1, 8, 8, 3), &Device::Cpu).unwrap();
        values(&encoder.forward(&image, Mode::Eval).unwrap())
    };
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    let (red, gray, white) = (of([255, 0, 0]), of([127; 3]), of([255; 3]));
    assert!(
        apart(&red, &gray) < 0.02 * apart(&red, &white),
        "{} of {}",
        apart(&red, &gray),
        apart(&red, &white)
    );
    // It says so in its file.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("encoder.safetensors");
    encoder.save(&path, &Default::default()).unwrap();
    assert_eq!(Encoder::load(&path, &Device::Cpu).unwrap().preprocessing(), encoder.preprocessing());
}

#[test]
fn a_decoder_doubles_as_often_as_it_has_widths() {
    let build = ParamBuilder::new(0, &Device::Cpu);
    let decoder = Decoder::new(6, &[8, 4], 5, &build.part("decoder")).unwrap();
    let x = Tensor::rand(-1f32, 1.0, (2, 3, 4, 6), &Device::Cpu).unwrap();
    let y = decoder.forward(&x, Mode::Train).unwrap();
    assert_eq!((y.dims(), y.dtype()), (&[2, 12, 16, 5][..], DType::F32));
    let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let params = build.finish();
    assert!(params.trainable().all(|t| grads.get(&t.var).is_some()));
    // PyTorch's ConvTranspose2d holds [c, k, 4, 4].
    let file = params.to_file().unwrap();
    let shape = |name: &str| file.iter().find(|(n, _)| n == name).unwrap().1.dims().to_vec();
    assert_eq!(shape("decoder.0.weight"), [6, 8, 4, 4]);
    assert_eq!(shape("decoder.2.weight"), [5, 4, 3, 3]);
    assert_eq!(halving_widths(64, 16, 4), [64, 32, 16, 16]);
    assert!(Decoder::new(6, &[0], 5, &ParamBuilder::new(0, &Device::Cpu)).is_err());
}

#[test]
fn a_frozen_encoder_has_the_same_features_and_does_not_follow() {
    for name in ["resnet10-mini", "resnet50-cifar", "alexnet_bn", "vit-mini-cifar"] {
        let side = if name == "alexnet_bn" { 64 } else { 32 };
        let encoder = encoder(name, side);
        let images = images(2, side);
        // Running statistics that are not those of the beginning.
        encoder.forward(&images, Mode::Train).unwrap();
        let frozen = encoder.frozen().unwrap();
        let features = |encoder: &Encoder| values(&encoder.forward(&images, Mode::Eval).unwrap());
        let before = features(&encoder);
        assert_eq!(features(&frozen), before, "{name}");
        if name.starts_with("resnet") {
            for tensor in encoder.params().trainable().filter(|t| t.name.ends_with("conv1.weight")) {
                tensor.var.set(&(tensor.var.as_tensor() * -2.0).unwrap()).unwrap();
            }
            assert_ne!(features(&encoder), before, "{name}");
            assert_eq!(features(&frozen), before, "{name}");
        }
    }
}
