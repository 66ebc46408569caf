//! Vision transformers against timm's: tensor names and shapes, features, gradients, another size. The golden file comes from
//! `golden/make_vit.py`.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{assert_sample, fill, uniform};
use selfsup_models::params::ParamBuilder;
use selfsup_models::{Backbone, Encoder, LoadOptions, Mode, Preprocessing, arch, load_file};
use serde_json::Value;
use std::collections::HashMap;

const ARCH: &str = "vit-mini-cifar";
const BATCH: usize = 3;
const TOLERANCE: f64 = 1e-9;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/vit.json")).unwrap()
}

fn tensors(golden: &Value) -> HashMap<String, Tensor> {
    let shapes: HashMap<String, Vec<usize>> = serde_json::from_value(golden["shapes"].clone()).unwrap();
    shapes.into_iter().map(|(name, shape)| (name.clone(), fill(&name, &shape))).collect()
}

#[test]
fn features_and_gradients_are_timm_s_in_f64() {
    let golden = golden();
    for side in [32, 20] {
        let build = ParamBuilder::with_dtype(0, &Device::Cpu, DType::F64);
        let backbone = Backbone::new(&arch(ARCH).unwrap().config, &build).unwrap();
        let params = build.finish();
        params.load_file(&tensors(&golden), ARCH).unwrap();
        let pixels: Vec<f64> = uniform(BATCH * side * side * 3, 5)
            .into_iter()
            .map(|v| ((128.0 + 128.0 * v).floor() / 255.0 - 0.5) / 0.25)
            .collect();
        let x = Tensor::from_vec(pixels, (BATCH, side, side, 3), &Device::Cpu).unwrap();
        let features = backbone.forward(&x, Mode::Train, 1).unwrap();
        let expected = &golden[side.to_string()];
        assert_sample(&features, &expected["features"], TOLERANCE, &format!("features at {side}"));
        let grads = features.sqr().unwrap().mean_all().unwrap().backward().unwrap();
        for (name, values) in expected["gradients"].as_object().unwrap() {
            let t = params.iter().find(|t| t.name == *name).unwrap();
            let gradient = t.layout.to_file(grads.get(&t.var).unwrap()).unwrap();
            assert_sample(&gradient, values, TOLERANCE, &format!("gradient of {name} at {side}"));
        }
        // Every tensor is used.
        assert!(params.trainable().all(|t| grads.get(&t.var).is_some()));
        // Without gradients the values are the same, and lead nowhere.
        let silent = backbone.forward(&x, Mode::TrainNoGrad, 1).unwrap();
        assert_sample(&silent, &expected["features"], TOLERANCE, "features without gradients");
        assert!(!silent.track_op());
    }
}

#[test]
fn images_are_whole_patches_and_training_is_in_f32() {
    let preprocessing = |image_size| Preprocessing::rgb(image_size, [0.5; 3], [0.25; 3]);
    let encoder = |side| Encoder::untrained(arch(ARCH).unwrap(), preprocessing(side), 0, &Device::Cpu);
    let error = encoder(30).unwrap_err().to_string();
    assert_eq!(error, "images of 30 pixels cannot be cut into patches of 4");
    let encoder = encoder(28).unwrap();
    let images = Tensor::zeros((2, 28, 28, 3), DType::U8, &Device::Cpu).unwrap();
    assert_eq!(encoder.forward(&images, Mode::Eval).unwrap().dims(), [2, 96]);
    let error = encoder.with_train_dtype(DType::BF16).unwrap_err().to_string();
    assert!(error.contains("vision transformers train in F32"), "{error}");
}

/// A file whose positions are another grid's: they are resampled as timm does it, and the rest is as it was.
#[test]
fn positions_of_another_grid_are_timm_s() {
    use selfsup_models::weights::{self, WeightFile};
    let golden: HashMap<String, Vec<f32>> =
        serde_json::from_str(include_str!("golden/positions.json")).unwrap();
    let d = arch(ARCH).unwrap().config.feature_dim();
    let preprocessing = Preprocessing::rgb(32, [0.5; 3], [0.25; 3]);
    let encoder = Encoder::untrained(arch(ARCH).unwrap(), preprocessing, 0, &Device::Cpu).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vit.safetensors");
    let mut tensors: HashMap<String, Tensor> = encoder.params().to_file().unwrap().into_iter().collect();
    let mut load = |positions: Tensor| {
        tensors.insert("pos_embed".into(), positions);
        let file = WeightFile { tensors: tensors.clone(), metadata: Default::default() };
        weights::write(&path, &file).unwrap();
        let options = LoadOptions { image_size: Some(32), ..LoadOptions::default() };
        load_file(&path, &options, &Device::Cpu).map(|loaded| loaded.encoder).map_err(|e| e.to_string())
    };
    let of = |encoder: &Encoder| {
        let positions = encoder.params().iter().find(|t| t.name == "pos_embed").unwrap();
        positions.var.as_tensor().narrow(2, 0, 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    // The network's grid is 8×8. Embeddings that are the same in every direction stay so.
    for grid in [4usize, 8, 14] {
        let tokens = 1 + grid * grid;
        let loaded = load(Tensor::full(0.25f32, (1, tokens, d), &Device::Cpu).unwrap()).unwrap();
        let values = of(&loaded);
        assert_eq!(values.len(), 65);
        assert!(values.iter().all(|v| (v - 0.25).abs() < 1e-6), "{values:?}");
    }
    let error = load(Tensor::zeros((1, 60, d), DType::F32, &Device::Cpu).unwrap()).unwrap_err();
    assert!(error.contains("square grid"), "{error}");
    for (sizes, expected) in golden {
        let (old, new) = sizes.split_once(' ').unwrap();
        let (old, new): (usize, usize) = (old.parse().unwrap(), new.parse().unwrap());
        let values: Vec<f32> = uniform((1 + old * old) * 2, 9).into_iter().map(|v| v as f32).collect();
        let positions = Tensor::from_vec(values, (1, 1 + old * old, 2), &Device::Cpu).unwrap();
        let own = selfsup_models::resample_positions(&positions, new).unwrap();
        let own = own.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(own.len(), expected.len());
        let off = own.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 2e-6, "{sizes}: {off}");
    }
}
