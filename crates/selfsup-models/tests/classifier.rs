//! A file's own classifier: its logits are PyTorch's, and nothing else is taken for one. The golden file comes from
//! `golden/make_heads.py`.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{assert_sample, fill, uniform};
use selfsup_models::weights::{self, WeightFile};
use selfsup_models::{Classifier, Encoder, LoadOptions, Loaded, Mode, Preprocessing, arch, load_file};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

const BATCH: usize = 3;
const CLASSES: usize = 7;
/// Of the values' root mean square.
const TOLERANCE: f64 = 1e-4;

fn load(tensors: HashMap<String, Tensor>, options: &LoadOptions) -> Result<Loaded, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    weights::write(&path, &WeightFile { tensors, metadata: BTreeMap::new() }).unwrap();
    load_file(&path, options, &Device::Cpu).map_err(|e| e.to_string())
}

#[test]
fn logits_are_the_libraries_own() {
    let golden: BTreeMap<String, Value> = serde_json::from_str(include_str!("golden/heads.json")).unwrap();
    assert_eq!(golden.len(), 4);
    for (key, entry) in golden {
        let words: Vec<&str> = key.split(' ').collect();
        let [convention, network, side] = words[..] else { panic!("{key}") };
        let side: usize = side.parse().unwrap();
        let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_value(entry["shapes"].clone()).unwrap();
        let tensors = shapes.into_iter().map(|(name, shape)| (name.clone(), fill(&name, &shape))).collect();
        let (mean, std) = (Some([0.5; 3]), Some([0.25; 3]));
        let options = LoadOptions { image_size: Some(side), mean, std, ..LoadOptions::default() };
        let loaded = load(tensors, &options).unwrap();
        assert_eq!((loaded.account.convention.name, loaded.encoder.arch().name), (convention, network));
        let head = loaded.head.expect("it has one");
        assert_eq!(head.weight().dims(), [CLASSES, loaded.encoder.feature_dim()]);
        assert_eq!((head.bias().dims(), head.classes()), (&[CLASSES][..], CLASSES));
        assert_eq!(loaded.account.head.len(), 2);
        assert_eq!(loaded.account.dropped, [""; 0], "{key}");
        let pixels: Vec<u8> = uniform(BATCH * side * side * 3, 5)
            .into_iter()
            .map(|v| (128.0 + 128.0 * v).floor() as u8)
            .collect();
        let images = Tensor::from_vec(pixels, (BATCH, side, side, 3), &Device::Cpu).unwrap();
        let features = loaded.encoder.forward(&images, Mode::Eval).unwrap();
        let logits = head.forward(&features).unwrap();
        assert_eq!((logits.dims(), logits.dtype()), (&[BATCH, CLASSES][..], DType::F32));
        assert_sample(&logits, &entry["logits"], TOLERANCE, &key);
    }
}

/// What a file has at its end, and whether it is a classifier of the features.
#[test]
fn only_a_linear_layer_on_the_features_is_a_head() {
    let encoder = |name: &str| {
        let preprocessing = Preprocessing::rgb(arch(name).unwrap().image_size, [0.5; 3], [0.5; 3]);
        Encoder::untrained(arch(name).unwrap(), preprocessing, 0, &Device::Cpu).unwrap()
    };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let backbones: HashMap<&str, HashMap<String, Tensor>> = ["resnet10-narrow-cifar", "vit-mini-cifar"]
        .into_iter()
        .map(|name| (name, encoder(name).params().to_file().unwrap().into_iter().collect()))
        .collect();
    let (resnet, vit) = ("resnet10-narrow-cifar", "vit-mini-cifar"); // 256 and 96 features
    let linear = |name: &str, k: usize, d: usize| -> Vec<(String, Vec<usize>)> {
        vec![(format!("{name}.weight"), vec![k, d]), (format!("{name}.bias"), vec![k])]
    };
    let one = |name: &str, shape: &[usize]| vec![(name.to_owned(), shape.to_vec())];
    for (arch, prefix, more, head) in [
        (resnet, "", linear("fc", 9, 256), true),
        (resnet, "state_dict.", linear("state_dict.fc", 9, 256), true),
        (resnet, "module.", linear("module.fc", 9, 256), true),
        (vit, "model.", linear("model.head", 9, 96), true),
        (resnet, "", linear("fc", 9, 255), false),
        (resnet, "", one("fc.weight", &[9, 256]), false),
        (resnet, "", one("fc.bias", &[9]), false),
        (resnet, "", [one("fc.weight", &[9, 256]), one("fc.bias", &[8])].concat(), false),
        (resnet, "", [one("fc.weight", &[9, 256, 1, 1]), one("fc.bias", &[9])].concat(), false),
        // A projection, by its convention.
        (resnet, "encoder_q.", linear("encoder_q.fc", 128, 256), false),
        (resnet, "backbone.", linear("projector", 9, 256), false),
        // Another layer stands before it.
        (vit, "", [linear("head", 9, 96), linear("pre_logits.fc", 96, 96)].concat(), false),
        (resnet, "", vec![], false),
    ] {
        let what = format!("{arch} `{prefix}` {more:?}");
        let mut tensors: HashMap<String, Tensor> =
            backbones[arch].iter().map(|(name, t)| (format!("{prefix}{name}"), t.clone())).collect();
        let count = tensors.len() + more.len();
        tensors.extend(more.into_iter().map(|(name, shape)| (name, zeros(&shape))));
        let options = LoadOptions { arch: Some(arch.into()), ..LoadOptions::default() };
        let Loaded { head: found, account, .. } =
            load(tensors, &options).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(found.is_some(), head, "{what}");
        assert_eq!(account.head.len(), if head { 2 } else { 0 }, "{what}");
        assert_eq!(account.backbone.len() + account.head.len() + account.dropped.len(), count, "{what}");
    }
}

#[test]
fn a_head_is_f32_and_of_one_shape() {
    let half = |shape: &[usize]| Tensor::ones(shape, DType::F16, &Device::Cpu).unwrap();
    let head = Classifier::new(&half(&[3, 2]), &half(&[3])).unwrap();
    let features = Tensor::new(&[[1f32, 2.0], [0.5, 0.25]], &Device::Cpu).unwrap();
    let logits = head.forward(&features).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(logits, [[4.0; 3], [1.75; 3]]);
    assert!(head.forward(&features.narrow(1, 0, 1).unwrap().contiguous().unwrap()).is_err());
    for (weight, bias) in
        [(vec![3, 2], vec![2]), (vec![3], vec![3]), (vec![3, 2, 1], vec![3]), (vec![3, 2], vec![3, 1])]
    {
        assert!(Classifier::new(&half(&weight), &half(&bias)).is_err(), "{weight:?} {bias:?}");
    }
}
