//! What stands behind every stage, in f32 and evaluation, against torchvision's in f64. The golden file comes from
//! `golden/make_stages.py`.

mod common;

use candle_core::{Device, Tensor};
use common::{assert_sample, fill, uniform};
use selfsup_models::{Encoder, Mode, Preprocessing, arch};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

const IMAGE: usize = 40;
const BATCH: usize = 3;
/// Of the values' root mean square.
const TOLERANCE: f64 = 1e-4;

#[test]
fn every_stage_is_torchvisions() {
    let golden: BTreeMap<String, Value> = serde_json::from_str(include_str!("golden/stages.json")).unwrap();
    let pixels: Vec<u8> = uniform(BATCH * IMAGE * IMAGE * 3, 5)
        .into_iter()
        .map(|v| (128.0 + 128.0 * v).floor() as u8)
        .collect();
    let images = Tensor::from_vec(pixels, (BATCH, IMAGE, IMAGE, 3), &Device::Cpu).unwrap();
    assert_eq!(golden.len(), 8);
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
            assert_sample(map, &entry["stages"][stage], TOLERANCE, &format!("{name} {stage}"));
        }
        assert_sample(
            &encoder.forward(&images, Mode::Eval).unwrap(),
            &entry["stages"]["features"],
            TOLERANCE,
            &name,
        );
    }
}
