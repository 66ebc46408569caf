//! What a file's tensors do not say, or say wrongly: who is asked, and what is refused.

use candle_core::{DType, Device, Tensor};
use selfsup_models::names::Convention;
use selfsup_models::weights::{self, WeightFile};
use selfsup_models::{Encoder, LoadOptions, Preprocessing, arch, convert_file, load_file};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

fn tensors(name: &str) -> HashMap<String, Tensor> {
    let arch = arch(name).unwrap();
    let preprocessing = Preprocessing::rgb(arch.image_size, [0.5; 3], [0.25; 3]);
    let encoder = Encoder::untrained(arch, preprocessing, 7, &Device::Cpu).unwrap();
    encoder.params().to_file().unwrap().into_iter().collect()
}

fn write(folder: &tempfile::TempDir, tensors: HashMap<String, Tensor>) -> PathBuf {
    let path = folder.path().join("weights.safetensors");
    weights::write(&path, &WeightFile { tensors, metadata: BTreeMap::new() }).unwrap();
    path
}

/// Networks that differ in what tensors do not show: the convention or the configuration beside the file says it.
#[test]
fn what_tensors_do_not_show_is_taken_from_who_says_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = |json: &str| std::fs::write(folder.path().join("config.json"), json).unwrap();
    let load = |file: HashMap<String, Tensor>| {
        load_file(&write(&folder, file), &LoadOptions::default(), &Device::Cpu)
    };
    let small = tensors("vit-small-16");
    let moco: HashMap<_, _> =
        small.iter().map(|(name, t)| (format!("state_dict.module.base_encoder.{name}"), t.clone())).collect();
    assert_eq!(load(moco.clone()).unwrap().encoder.arch().name, "vit-small-16-h12");
    assert_eq!(load(small.clone()).unwrap().encoder.arch().name, "vit-small-16");
    // Converted, the names say no more whose it was.
    let (converted, _) =
        convert_file(&write(&folder, moco), None, Convention::named("timm").unwrap()).unwrap();
    assert_eq!(converted.metadata["arch"], "vit-small-16-h12");
    let path = folder.path().join("weights.safetensors");
    weights::write(&path, &converted).unwrap();
    let loaded = load_file(&path, &LoadOptions::default(), &Device::Cpu).unwrap();
    assert_eq!((loaded.encoder.arch().name, loaded.says_itself()), ("vit-small-16-h12", true));

    config(r#"{"model_type": "vit", "num_attention_heads": 12}"#);
    assert_eq!(load(small.clone()).unwrap().encoder.arch().name, "vit-small-16-h12");
    config(r#"{"model_type": "vit", "num_attention_heads": 8}"#);
    let error = load(small.clone()).unwrap_err().to_string();
    assert!(error.contains("8 heads") && error.contains("in place of 6"), "{error}");
    config(r#"{"model_type": "vit", "num_attention_heads": 6, "hidden_act": "relu"}"#);
    assert!(load(small).unwrap_err().to_string().contains("hidden_act relu"));

    let residual = tensors("resnet50");
    config(r#"{"model_type": "resnet", "downsample_in_bottleneck": true}"#);
    assert_eq!(load(residual.clone()).unwrap().encoder.arch().name, "resnet50-v1");
    config(r#"{"architecture": "resnetblur50", "num_classes": 1000}"#);
    let error = load(residual).unwrap_err().to_string();
    assert!(error.contains("those of resnet50") && error.contains("resnetblur50"), "{error}");
    let told = LoadOptions { arch: Some("resnet50".into()), ..LoadOptions::default() };
    load_file(&folder.path().join("weights.safetensors"), &told, &Device::Cpu).unwrap();
}

/// Numbers that are no weights' are refused by the tensor's name.
#[test]
fn numbers_that_weights_have_not_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ours = tensors("resnet18");
    let with = |name: &str, change: &dyn Fn(&Tensor) -> Tensor| {
        let mut file = ours.clone();
        file.insert(name.into(), change(&ours[name]));
        load_file(&write(&folder, file), &LoadOptions::default(), &Device::Cpu).unwrap_err().to_string()
    };
    let text = with("layer2.0.conv1.weight", &|t| t.to_dtype(DType::U8).unwrap());
    assert!(text.contains("`layer2.0.conv1.weight` holds u8"), "{text}");
    let text = with("layer2.0.bn1.running_var", &|t| (t * -1.0).unwrap());
    assert!(text.contains("`layer2.0.bn1.running_var` has negative variances"), "{text}");
}

/// A vision transformer's positions say of which side its images were.
#[test]
fn images_are_of_the_side_that_positions_are_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = tensors("vit-tiny-16");
    file.insert("pos_embed".into(), Tensor::zeros((1, 1 + 24 * 24, 192), DType::F32, &Device::Cpu).unwrap());
    let loaded = load_file(&write(&folder, file), &LoadOptions::default(), &Device::Cpu).unwrap();
    assert_eq!(loaded.encoder.preprocessing().image_size, 384);
}
