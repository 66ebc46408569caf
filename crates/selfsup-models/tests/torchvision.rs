//! ResNets against torchvision's: tensor names and shapes, features in evaluation and training, gradients,
//! running statistics. The golden file comes from `golden/make_golden.py`.

use candle_core::{DType, Device, Tensor};
use selfsup_models::{Encoder, Mode, Preprocessing, arch};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

const IMAGE: usize = 40;
const BATCH: usize = 3;
const ARCHS: [&str; 5] = ["resnet18", "resnet34", "resnet50", "resnet18-cifar", "resnet50-cifar"];

/// The numbers of make_golden.py's `uniform`.
fn uniform(count: usize, key: u64) -> Vec<f64> {
    let at = |i: u64| {
        let mut z = (i + (key << 32) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count as u64).map(at).collect()
}

/// make_golden.py's `fill`.
fn fill(name: &str, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let key = name.bytes().map(u64::from).sum();
    let scale = (6.0 / (count / shape[0]) as f64).sqrt();
    let value = |v: f64| {
        if name.ends_with("running_var") {
            1.0 + 0.5 * v * v
        } else if name.ends_with("running_mean") {
            0.1 * v
        } else if shape.len() == 1 {
            (if name.ends_with("weight") { 1.0 } else { 0.0 }) + 0.2 * v
        } else {
            v * scale
        }
    };
    let values: Vec<f32> = uniform(count, key).into_iter().map(|v| value(v) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn golden() -> HashMap<String, Value> {
    serde_json::from_str(include_str!("golden/torchvision.json")).unwrap()
}

fn shapes(entry: &Value) -> BTreeMap<String, Vec<usize>> {
    serde_json::from_value(entry["shapes"].clone()).unwrap()
}

fn encoder(name: &str, entry: &Value) -> Encoder {
    let preprocessing = Preprocessing { image_size: IMAGE, mean: [0.5; 3], std: [0.25; 3] };
    let encoder = Encoder::untrained(arch(name).unwrap(), preprocessing, 0, &Device::Cpu).unwrap();
    let tensors =
        shapes(entry).into_iter().map(|(name, shape)| (name.clone(), fill(&name, &shape))).collect();
    encoder.params().load_file(&tensors, name).unwrap();
    encoder
}

fn images() -> Tensor {
    let pixels: Vec<u8> = uniform(BATCH * IMAGE * IMAGE * 3, 5)
        .into_iter()
        .map(|v| (128.0 + 128.0 * v).floor() as u8)
        .collect();
    Tensor::from_vec(pixels, (BATCH, IMAGE, IMAGE, 3), &Device::Cpu).unwrap()
}

/// make_golden.py's `sample`, within `tolerance` of the largest value.
fn assert_sample(tensor: &Tensor, expected: &Value, tolerance: f64, what: &str) {
    let flat = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let values: Vec<f64> = serde_json::from_value(expected["values"].clone()).unwrap();
    let norm = expected["norm"].as_f64().unwrap();
    let rms = norm / (flat.len() as f64).sqrt();
    for (i, expected) in values.iter().enumerate() {
        // torch.linspace(0, n − 1, 16).long()
        let at = ((flat.len() - 1) as f64 * i as f64 / 15.0) as usize;
        let difference = (flat[at] - expected).abs();
        assert!(
            difference <= tolerance * rms.max(expected.abs()),
            "{what}[{at}]: {} and {expected}",
            flat[at]
        );
    }
    let own = flat.iter().map(|v| v * v).sum::<f64>().sqrt();
    assert!((own / norm - 1.0).abs() <= tolerance, "{what}: norm {own} and {norm}");
}

#[test]
fn names_and_shapes_are_torchvisions() {
    for name in ARCHS {
        let golden = golden();
        let preprocessing = Preprocessing { image_size: 32, mean: [0.5; 3], std: [0.5; 3] };
        let encoder = Encoder::untrained(arch(name).unwrap(), preprocessing, 0, &Device::Cpu).unwrap();
        let own: BTreeMap<String, Vec<usize>> =
            encoder.params().to_file().unwrap().into_iter().map(|(n, t)| (n, t.dims().to_vec())).collect();
        assert_eq!(own, shapes(&golden[name]), "{name}");
    }
}

/// Features and gradients of the mean square of the features.
fn assert_forward_and_backward(encoder: &Encoder, mode: Mode, expected: &Value, tolerance: f64, what: &str) {
    let features = encoder.forward(&images(), mode).unwrap();
    assert_sample(&features, &expected["features"], tolerance, what);
    let grads = features.sqr().unwrap().mean_all().unwrap().backward().unwrap();
    let mut compared = 0;
    for t in encoder.params().iter() {
        if let Some(expected) = expected["gradients"].get(&t.name) {
            let grad = t.layout.to_file(grads.get(t.var.as_tensor()).unwrap()).unwrap();
            assert_sample(&grad, expected, tolerance, &format!("{what}, gradient of {}", t.name));
            compared += 1;
        }
    }
    assert_eq!(compared, 4, "{what}");
}

#[test]
fn features_and_gradients_are_torchvisions_in_evaluation() {
    let golden = golden();
    for name in ARCHS {
        // f32 sums against f64, through up to 53 convolutions and back.
        assert_forward_and_backward(
            &encoder(name, &golden[name]),
            Mode::Eval,
            &golden[name]["eval"],
            1e-3,
            name,
        );
    }
}

#[test]
fn features_gradients_and_statistics_are_torchvisions_in_training() {
    let golden = golden();
    // Not the deeper ones: random weights and statistics of 12 values make f32 gradients uncertain by 2 %, in
    // PyTorch too.
    for name in ["resnet18", "resnet18-cifar"] {
        let expected = &golden[name];
        let encoder = encoder(name, expected);
        assert_forward_and_backward(&encoder, Mode::Train, &expected["train"], 1e-3, name);
        let mut compared = 0;
        for t in encoder.params().iter() {
            if let Some(expected) = expected["running"].get(&t.name) {
                assert_sample(t.var.as_tensor(), expected, 1e-4, &format!("{name}, {}", t.name));
                compared += 1;
            }
        }
        assert_eq!(compared, 3, "{name}");
    }
}
