//! AlexNets and VGGs against PyTorch's: every layer, logits, gradients, running statistics, and sizes that do not fit. The golden file
//! comes from `golden/make_convnets.py`.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{assert_sample, fill, uniform};
use selfsup_models::params::{ParamBuilder, Params};
use selfsup_models::{Backbone, Encoder, Layer, Mode, Network, Preprocessing, arch};
use serde_json::Value;
use std::collections::BTreeMap;

const BATCH: usize = 2;
const TRAINED_BATCH: usize = 6;
const CLASSES: usize = 10;
/// Of the values' root mean square.
const TOLERANCE: f64 = 1e-4;

fn golden() -> BTreeMap<String, Value> {
    serde_json::from_str(include_str!("golden/convnets.json")).unwrap()
}

/// The backbone alone, of zeros.
fn blank(name: &str) -> (Backbone, Params) {
    let build = ParamBuilder::zeros(&Device::Cpu);
    (Backbone::new(&arch(name).unwrap().config, &build).unwrap(), build.finish())
}

/// The same filled by its tensors' names.
fn backbone(name: &str, dtype: DType) -> (Backbone, Params) {
    let (backbone, params) = if dtype == DType::F32 {
        blank(name)
    } else {
        let build = ParamBuilder::with_dtype(0, &Device::Cpu, dtype);
        (Backbone::new(&arch(name).unwrap().config, &build).unwrap(), build.finish())
    };
    for t in params.iter() {
        let value = fill(&t.name, &t.layout.file_shape(t.var.dims()));
        t.var.set(&t.layout.from_file(&value).unwrap().to_dtype(dtype).unwrap()).unwrap();
    }
    (backbone, params)
}

/// Normalised by 0.5 and 0.25.
fn images(n: usize, [h, w]: [usize; 2], dtype: DType) -> Tensor {
    let pixel = |v: f64| ((128.0 + 128.0 * v).floor() / 255.0 - 0.5) / 0.25;
    let pixels: Vec<f64> = uniform(n * h * w * 3, 5).into_iter().map(pixel).collect();
    Tensor::from_vec(pixels, (n, h, w, 3), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn layers(network: &Network) -> Vec<Layer> {
    network.layers().iter().map(|(name, _)| network.layer(name).unwrap()).collect()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_near(a: &Tensor, b: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    for (i, (a, b)) in values(a).into_iter().zip(values(b)).enumerate() {
        assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{what}[{i}]: {a} and {b}");
    }
}

#[test]
fn every_layer_and_the_logits_are_pytorch_s() {
    let golden = golden();
    assert_eq!(golden.len(), 6);
    for (name, entry) in golden {
        let (backbone, params) = backbone(&name, DType::F32);
        assert_eq!(params.iter().count() as u64, entry["tensors"].as_u64().unwrap(), "{name}");
        let network = &arch(&name).unwrap().config;
        let head = [fill("classifier.6.weight", &[CLASSES, 4096]), fill("classifier.6.bias", &[CLASSES])];
        let sizes = entry.as_object().unwrap().iter().filter_map(|(size, expected)| {
            let (h, w) = size.split_once(' ')?;
            Some(([h.parse().ok()?, w.parse().ok()?], expected))
        });
        let mut compared = 0;
        for (size, expected) in sizes {
            let x = images(BATCH, size, DType::F32);
            let maps = backbone.maps(&x, Mode::Eval, 1, &layers(network)).unwrap();
            let samples = expected["layers"].as_array().unwrap();
            assert_eq!(maps.len(), samples.len(), "{name}");
            for ((map, sample), (layer, _)) in maps.iter().zip(samples).zip(network.layers()) {
                assert_sample(map, sample, TOLERANCE, &format!("{name} {layer} at {size:?}"));
            }
            let last = backbone.last_map(&x, Mode::Eval, 1).unwrap();
            assert_near(&last, &maps[maps.len() - 3], 0.0, &name);
            let one = &layers(network)[2..3];
            assert_near(&backbone.maps(&x, Mode::Eval, 1, one).unwrap()[0], &maps[2], 0.0, &name);
            let features = backbone.forward(&x, Mode::Eval, 1).unwrap();
            assert_eq!(features.dims(), [BATCH, network.feature_dim()]);
            let logits = features.matmul(&head[0].t().unwrap()).unwrap().broadcast_add(&head[1]).unwrap();
            assert_sample(&logits, &expected["logits"], TOLERANCE, &format!("{name} at {size:?}"));
            compared += 1;
        }
        assert_eq!(compared, if name.starts_with("vgg") { 1 } else { 3 });
    }
}

/// In f64: see `features_gradients_and_statistics_are_torchvisions_in_f64`. Here behind a bias, which the normalisation takes away
/// but for the running mean.
#[test]
fn training_is_pytorch_s_in_f64() {
    let expected = &golden()["alexnet_bn"]["trained"];
    let (backbone, params) = backbone("alexnet_bn", DType::F64);
    let x = images(TRAINED_BATCH, [63, 95], DType::F64);
    let features = backbone.forward(&x, Mode::Train, 1).unwrap();
    assert_sample(&features, &expected["features"], 1e-8, "features");
    let grads = features.sqr().unwrap().mean_all().unwrap().backward().unwrap();
    let mut compared = 0;
    for t in params.iter() {
        if let Some(sample) = expected["gradients"].get(&t.name) {
            let grad = t.layout.to_file(grads.get(t.var.as_tensor()).unwrap()).unwrap();
            assert_sample(&grad, sample, 1e-8, &format!("gradient of {}", t.name));
            compared += 1;
        }
        if let Some(sample) = expected["running"].get(&t.name) {
            assert_sample(t.var.as_tensor(), sample, 1e-8, &t.name);
            compared += 1;
        }
    }
    assert_eq!(compared, 8 + 4);
    let silent = backbone.forward(&x, Mode::TrainNoGrad, 1).unwrap();
    assert_sample(&silent, &expected["features"], 1e-8, "features without gradients");
    assert!(!silent.track_op());
}

#[test]
fn gradients_reach_every_tensor() {
    for (name, side) in [("alexnet", 63), ("vgg16_bn", 32)] {
        let (backbone, params) = backbone(name, DType::F32);
        let features = backbone.forward(&images(3, [side, side], DType::F32), Mode::Train, 1).unwrap();
        let grads = features.sqr().unwrap().mean_all().unwrap().backward().unwrap();
        for t in params.trainable() {
            let sum = grads.get(&t.var).unwrap_or_else(|| panic!("{name} {}", t.name));
            let sum = sum.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(sum.is_finite(), "{name} {}", t.name);
            // What is added before a normalisation, it takes away.
            let norm = t.name.strip_suffix("bias").map(|of| of.to_owned());
            let norm = norm.and_then(|of| of.split('.').nth(1)?.parse::<usize>().ok());
            let shifted = norm.is_some_and(|n| {
                let next = format!("features.{}.running_mean", n + 1);
                t.name.starts_with("features.") && params.iter().any(|t| t.name == next)
            });
            assert!(shifted || sum > 0.0, "{name} {}", t.name);
        }
    }
}

/// Each half by its own statistics; the running ones take the mean of both, of batches of half the size.
#[test]
fn parts_of_a_batch_are_normalised_apart() {
    let (backbone, params) = backbone("alexnet_bn", DType::F32);
    let x = images(8, [63, 63], DType::F32);
    let running = |params: &Params| -> Vec<Tensor> {
        let running = params.iter().filter(|t| !t.trainable);
        running.map(|t| t.var.as_tensor().copy().unwrap()).collect()
    };
    let start = running(&params);
    let whole = backbone.forward(&x, Mode::TrainNoGrad, 2).unwrap();
    let moved = running(&params);
    let mut halves = Vec::new();
    let mut means: Vec<Tensor> = start.iter().map(|t| t.zeros_like().unwrap()).collect();
    for half in [0, 4] {
        for (t, start) in params.iter().filter(|t| !t.trainable).zip(&start) {
            t.var.set(start).unwrap();
        }
        halves.push(backbone.forward(&x.narrow(0, half, 4).unwrap(), Mode::TrainNoGrad, 1).unwrap());
        for (mean, t) in means.iter_mut().zip(running(&params)) {
            *mean = (&*mean + (t * 0.5).unwrap()).unwrap();
        }
    }
    assert_near(&whole, &Tensor::cat(&halves, 0).unwrap(), 1e-3, "features");
    for (moved, mean) in moved.iter().zip(&means) {
        assert_near(moved, mean, 1e-4, "running statistics");
    }
    let together = values(&backbone.forward(&x, Mode::TrainNoGrad, 1).unwrap());
    let apart = together.iter().zip(values(&whole)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart > 0.1, "{apart}");
}

#[test]
fn layers_have_the_papers_names_and_the_sides_that_they_say() {
    let names = |name: &str| -> Vec<String> {
        arch(name).unwrap().config.layers().into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names("alexnet_bn"), ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]);
    let vgg = arch("vgg16").unwrap().config;
    assert_eq!(names("vgg16")[..3], ["conv1_1", "conv1_2", "conv2_1"]);
    assert_eq!(vgg.layer("conv3").unwrap(), vgg.layer("conv3_3").unwrap());
    assert_eq!((vgg.layer("conv3").unwrap().channels(), vgg.layer("fc6").unwrap().channels()), (256, 4096));
    assert_eq!(vgg.last_layer(), vgg.layer("conv5_3").unwrap());
    let known = vgg.layer("conv6_1").unwrap_err().to_string();
    assert!(known.contains("did you mean `conv"), "{known}");
    // The papers' sides at 224.
    let sides = |name: &str| -> Vec<usize> {
        let network = arch(name).unwrap().config;
        layers(&network).into_iter().map(|layer| network.map_side(layer, 224)).collect()
    };
    assert_eq!(sides("alexnet"), [55, 27, 13, 13, 13, 1, 1]);
    assert_eq!(sides("vgg16"), [224, 224, 112, 112, 56, 56, 56, 28, 28, 28, 14, 14, 14, 1, 1]);
    for (name, side) in [("alexnet", 63), ("alexnet_bn", 100), ("vgg16", 33)] {
        let (backbone, _) = blank(name);
        let network = arch(name).unwrap().config;
        let x = images(1, [side, side], DType::F32);
        let maps = backbone.maps(&x, Mode::Eval, 1, &layers(&network)).unwrap();
        for (layer, map) in layers(&network).into_iter().zip(&maps) {
            let s = network.map_side(layer, side);
            assert_eq!(map.dims(), [1, s, s, layer.channels()], "{name} {layer:?}");
        }
    }
}

#[test]
fn images_that_are_too_small_are_an_error() {
    for (name, least) in [("alexnet", 63), ("alexnet_2012_bn_sobel", 63), ("vgg16_bn", 32)] {
        let network = &arch(name).unwrap();
        let preprocessing = Preprocessing::rgb(least - 1, [0.5; 3], [0.25; 3]);
        let error = Encoder::untrained(network, preprocessing, 0, &Device::Cpu).unwrap_err().to_string();
        let expected =
            format!("images must have at least {least} pixels a side for this network, got {}", least - 1);
        assert_eq!(error, expected);
        network.config.check_side(least).unwrap();
        // Nor does the network see a smaller one.
        let (backbone, _) = blank(name);
        for size in [[least - 1, 80], [80, least - 1], [1, 80]] {
            let x = images(1, size, DType::F32);
            for mode in [Mode::Eval, Mode::Train] {
                assert!(backbone.forward(&x, mode, 1).unwrap_err().to_string().contains("at least"));
                assert!(backbone.last_map(&x, mode, 1).is_err());
            }
        }
        let features = backbone.forward(&images(1, [least, least], DType::F32), Mode::Eval, 1).unwrap();
        assert_eq!(features.dims(), [1, 4096]);
    }
}

#[test]
fn they_train_in_f32_and_not_by_their_maps_alone() {
    let network = arch("vgg16_bn").unwrap().config;
    let error = network.check_train_dtype(DType::BF16).unwrap_err().to_string();
    assert_eq!(error, "plain convolutional networks train in F32, not in BF16");
    network.check_train_dtype(DType::F32).unwrap();
    let error = network.check_map().unwrap_err().to_string();
    assert!(error.contains("would stay untrained"), "{error}");
    arch("resnet18").unwrap().config.check_map().unwrap();
}
