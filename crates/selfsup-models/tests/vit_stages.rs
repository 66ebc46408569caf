//! What stands behind the blocks of vision transformers, in f32 and evaluation, against timm's in f64. The golden file comes from
//! `golden/make_vit_stages.py`.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{assert_sample, fill, uniform};
use selfsup_models::params::ParamBuilder;
use selfsup_models::{Backbone, Layer, Mode, arch};
use serde_json::{Map, Value};

const SIDE: usize = 224;
const CLASSES: usize = 10;
/// Of the values' root mean square.
const TOLERANCE: f64 = 1e-4;

#[test]
fn every_block_is_timm_s() {
    let golden: Map<String, Value> = serde_json::from_str(include_str!("golden/vit_stages.json")).unwrap();
    assert_eq!(golden.len(), 5);
    let pixel = |v: f64| ((128.0 + 128.0 * v).floor() / 255.0 - 0.5) / 0.25;
    let pixels: Vec<f64> = uniform(SIDE * SIDE * 3, 5).into_iter().map(pixel).collect();
    let x = Tensor::from_vec(pixels, (1, SIDE, SIDE, 3), &Device::Cpu).unwrap();
    let x = x.to_dtype(DType::F32).unwrap();
    for (name, entry) in golden {
        let network = &arch(&name).unwrap().config;
        let build = ParamBuilder::zeros(&Device::Cpu);
        let backbone = Backbone::new(network, &build).unwrap();
        let params = build.finish();
        assert_eq!(params.iter().count() as u64, entry["tensors"].as_u64().unwrap(), "{name}");
        for t in params.iter() {
            let value = fill(&t.name, &t.layout.file_shape(t.var.dims()));
            t.var.set(&t.layout.from_file(&value).unwrap()).unwrap();
        }
        let mut blocks: Vec<(usize, &Value)> =
            entry.as_object().unwrap().iter().filter_map(|(i, v)| Some((i.parse().ok()?, v))).collect();
        blocks.sort_by_key(|(i, _)| *i);
        assert_eq!(blocks.len(), if name == "vit-tiny-16" { 12 } else { 3 });
        let layers: Vec<Layer> =
            blocks.iter().map(|(i, _)| network.layer(&format!("blocks.{i}")).unwrap()).collect();
        let maps = backbone.maps(&x, Mode::Eval, 1, &layers).unwrap();
        for ((i, expected), map) in blocks.iter().zip(&maps) {
            assert_sample(map, expected, TOLERANCE, &format!("{name}, block {i}"));
        }
        let features = backbone.forward(&x, Mode::Eval, 1).unwrap();
        assert_sample(&features, &entry["features"], TOLERANCE, &format!("{name}, features"));
        let d = network.feature_dim();
        let (weight, bias) = (fill("head.weight", &[CLASSES, d]), fill("head.bias", &[CLASSES]));
        let logits = features.matmul(&weight.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
        assert_sample(&logits, &entry["logits"], TOLERANCE, &format!("{name}, logits"));
    }
}
