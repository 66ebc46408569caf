//! ResNets against torchvision's: tensor names and shapes, features in evaluation and training, gradients,
//! running statistics. The golden file comes from `golden/make_golden.py`.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{assert_sample, fill, uniform};
use selfsup_models::params::{ParamBuilder, Params};
use selfsup_models::{Backbone, Encoder, Mode, Preprocessing, arch};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

const IMAGE: usize = 40;
const BATCH: usize = 3;
const ARCHS: [&str; 6] =
    ["resnet18", "resnet34", "resnet50", "resnet50-v1", "resnet18-cifar", "resnet50-cifar"];

fn golden() -> HashMap<String, Value> {
    serde_json::from_str(include_str!("golden/torchvision.json")).unwrap()
}

fn shapes(entry: &Value) -> BTreeMap<String, Vec<usize>> {
    serde_json::from_value(entry["shapes"].clone()).unwrap()
}

fn encoder(name: &str, entry: &Value) -> Encoder {
    let preprocessing = Preprocessing::rgb(IMAGE, [0.5; 3], [0.25; 3]);
    let encoder = Encoder::untrained(arch(name).unwrap(), preprocessing, 0, &Device::Cpu).unwrap();
    encoder.params().load_file(&tensors(entry), name).unwrap();
    encoder
}

/// The backbone alone, in f64.
fn backbone(name: &str, entry: &Value) -> (Backbone, Params) {
    let build = ParamBuilder::with_dtype(0, &Device::Cpu, DType::F64);
    let backbone = Backbone::new(&arch(name).unwrap().config, &build).unwrap();
    let params = build.finish();
    params.load_file(&tensors(entry), name).unwrap();
    (backbone, params)
}

fn tensors(entry: &Value) -> HashMap<String, Tensor> {
    shapes(entry).into_iter().map(|(name, shape)| (name.clone(), fill(&name, &shape))).collect()
}

fn images() -> Tensor {
    let pixels: Vec<u8> = uniform(BATCH * IMAGE * IMAGE * 3, 5)
        .into_iter()
        .map(|v| (128.0 + 128.0 * v).floor() as u8)
        .collect();
    Tensor::from_vec(pixels, (BATCH, IMAGE, IMAGE, 3), &Device::Cpu).unwrap()
}

#[test]
fn names_and_shapes_are_torchvisions() {
    for name in ARCHS {
        let golden = golden();
        let preprocessing = Preprocessing::rgb(32, [0.5; 3], [0.5; 3]);
        let encoder = Encoder::untrained(arch(name).unwrap(), preprocessing, 0, &Device::Cpu).unwrap();
        let own: BTreeMap<String, Vec<usize>> =
            encoder.params().to_file().unwrap().into_iter().map(|(n, t)| (n, t.dims().to_vec())).collect();
        assert_eq!(own, shapes(&golden[name]), "{name}");
    }
}

/// Features, gradients of the mean square of the features and, in training, running statistics, in f64. In f32 a
/// ReLU's input within rounding of 0 is cut on one side and not on the other, and gradients differ by parts in a hundred:
/// PyTorch's own, of a ResNet-50 in evaluation, by 0.8 % from those in f64.
#[test]
fn features_gradients_and_statistics_are_torchvisions_in_f64() {
    let golden = golden();
    let x = ((images().to_dtype(DType::F64).unwrap() / 255.0).unwrap() - 0.5).unwrap();
    let x = (x / 0.25).unwrap();
    for name in ARCHS {
        for (mode, part) in [(Mode::Eval, "eval"), (Mode::Train, "train")] {
            let (backbone, params) = backbone(name, &golden[name]);
            let expected = &golden[name][part];
            let what = format!("{name}, {part}");
            let features = backbone.forward(&x, mode, 1).unwrap();
            assert_sample(&features, &expected["features"], 1e-8, &what);
            let grads = features.sqr().unwrap().mean_all().unwrap().backward().unwrap();
            let mut compared = 0;
            for t in params.iter() {
                if let Some(expected) = expected["gradients"].get(&t.name) {
                    let grad = t.layout.to_file(grads.get(t.var.as_tensor()).unwrap()).unwrap();
                    assert_sample(&grad, expected, 1e-8, &format!("{what}, gradient of {}", t.name));
                    compared += 1;
                }
                if mode == Mode::Train
                    && let Some(expected) = golden[name]["running"].get(&t.name)
                {
                    assert_sample(t.var.as_tensor(), expected, 1e-8, &format!("{what}, {}", t.name));
                    compared += 1;
                }
            }
            assert_eq!(compared, if mode == Mode::Train { 7 } else { 4 }, "{what}");
        }
    }
}

#[test]
fn features_are_torchvisions_in_f32() {
    let golden = golden();
    for name in ARCHS {
        for (mode, part, tolerance) in [(Mode::Eval, "eval", 1e-5), (Mode::Train, "train", 1e-3)] {
            // In training, statistics of 12 values magnify the rounding: PyTorch's features of a ResNet-50 are off by 1e-4.
            let features = encoder(name, &golden[name]).forward(&images(), mode).unwrap();
            assert_sample(&features, &golden[name][part]["features"], tolerance, &format!("{name}, {part}"));
        }
    }
}

/// Mixed precision against f32: features, gradients and running statistics.
#[test]
fn training_in_bf16_is_near_that_in_f32() {
    let golden = golden();
    let entry = &golden["resnet18-cifar"];
    let images =
        Tensor::rand(0f32, 255.0, (8, 16, 16, 3), &Device::Cpu).unwrap().to_dtype(DType::U8).unwrap();
    let run = |dtype| {
        let encoder = encoder("resnet18-cifar", entry).with_train_dtype(dtype).unwrap();
        let features = encoder.forward(&images, Mode::Train).unwrap();
        assert_eq!(features.dtype(), DType::F32);
        let grads = features.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let gradients: Vec<Tensor> =
            encoder.params().trainable().map(|t| grads.get(&t.var).unwrap().clone()).collect();
        let buffers: Vec<Tensor> = encoder.params().iter().map(|t| t.var.as_tensor().detach()).collect();
        (vec![features.detach()], gradients, buffers, encoder)
    };
    let (wide, narrow) = (run(DType::F32), run(DType::BF16));
    let distance = |a: &[Tensor], b: &[Tensor]| {
        let all = |tensors: &[Tensor]| {
            let flat: Vec<Tensor> = tensors.iter().map(|t| t.flatten_all().unwrap()).collect();
            Tensor::cat(&flat, 0).unwrap().to_dtype(DType::F64).unwrap()
        };
        let norm = |t: Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
        norm((all(a) - all(b)).unwrap()) / norm(all(b))
    };
    let found = [distance(&narrow.0, &wide.0), distance(&narrow.1, &wide.1), distance(&narrow.2, &wide.2)];
    // PyTorch's autocast is 0.02 and 0.30 to 0.33 off on noise (golden/autocast.py): bf16's roundings
    // move many values to the other side of a ReLU.
    assert!(found[0] < 0.04 && found[1] < 0.4 && found[2] < 2e-3, "{found:?}");
    assert!(found.iter().all(|d| *d > 1e-6), "that was f32: {found:?}");
    assert!(narrow.1.iter().all(|gradient| gradient.dtype() == DType::F32));
    // Evaluation is the same arithmetic.
    let evaluated = |encoder: &Encoder| encoder.forward(&images, Mode::Eval).unwrap();
    let again = encoder("resnet18-cifar", entry).with_train_dtype(DType::BF16).unwrap();
    let fresh = encoder("resnet18-cifar", entry);
    assert_eq!(distance(&[evaluated(&again)], &[evaluated(&fresh)]), 0.0);
    let error = fresh.with_train_dtype(DType::F16).unwrap_err().to_string();
    assert_eq!(error, "an encoder trains in F32 or BF16, not in F16");
}
