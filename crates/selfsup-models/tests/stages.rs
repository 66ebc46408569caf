//! What stands behind every stage, in f32 and evaluation, against torchvision's in f64. The golden file comes from
//! `golden/make_stages.py`.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{fill, uniform};
use selfsup_models::{Encoder, Mode, Preprocessing, arch};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

const IMAGE: usize = 40;
const BATCH: usize = 3;
/// Of the values' root mean square.
const TOLERANCE: f64 = 1e-4;

fn assert_near(tensor: &Tensor, expected: &Value, what: &str) {
    let flat = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let values: Vec<f64> = serde_json::from_value(expected["values"].clone()).unwrap();
    let norm = expected["norm"].as_f64().unwrap();
    let rms = norm / (flat.len() as f64).sqrt();
    for (i, expected) in values.iter().enumerate() {
        // torch.linspace(0, n − 1, 16).long()
        let at = ((flat.len() - 1) as f64 * i as f64 / 15.0) as usize;
        assert!(
            (flat[at] - expected).abs() <= TOLERANCE * rms.max(expected.abs()),
            "{what}[{at}]: {} and {expected}",
            flat[at]
        );
    }
    let own = flat.iter().map(|v| v * v).sum::<f64>().sqrt();
    assert!((own / norm - 1.0).abs() <= TOLERANCE, "{what}: norm {own} and {norm}");
}

#[test]
fn every_stage_is_torchvisions() {
    let golden: BTreeMap<String, Value> = serde_json::from_str(include_str!("golden/stages.json")).unwrap();
    let pixels: Vec<u8> = uniform(BATCH * IMAGE * IMAGE * 3, 5)
        .into_iter()
        .map(|v| (128.0 + 128.0 * v).floor() as u8)
        .collect();
    let images = Tensor::from_vec(pixels, (BATCH, IMAGE, IMAGE, 3), &Device::Cpu).unwrap();
    assert_eq!(golden.len(), 7);
    for (name, entry) in golden {
        let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_value(entry["shapes"].clone()).unwrap();
        let tensors: HashMap<String, Tensor> =
            shapes.into_iter().map(|(name, shape)| (name.clone(), fill(&name, &shape))).collect();
        let network = arch(&name).unwrap();
        let preprocessing = Preprocessing::rgb(IMAGE, [0.5; 3], [0.25; 3]);
        let encoder = Encoder::untrained(network, preprocessing, 0, &Device::Cpu).unwrap();
        encoder.params().load_file(&tensors, &name).unwrap();
        let stages = ["stem", "layer1", "layer2", "layer3", "layer4"];
        let layers = stages.map(|stage| network.config.layer(stage).unwrap());
        let maps = encoder.maps(&images, Mode::Eval, &layers).unwrap();
        for (stage, map) in stages.iter().zip(&maps) {
            assert_near(map, &entry["stages"][stage], &format!("{name} {stage}"));
        }
        assert_near(&encoder.forward(&images, Mode::Eval).unwrap(), &entry["stages"]["features"], &name);
    }
}
