//! What the golden files' scripts fill tensors with.

// Each test file is a crate that uses a part of this.
#![allow(dead_code)]

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

/// The numbers of the golden scripts' `uniform`.
pub fn uniform(count: usize, key: u64) -> Vec<f64> {
    let at = |i: u64| {
        let mut z = (i + (key << 32) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count as u64).map(at).collect()
}

/// The golden scripts' `fill`: a tensor whose numbers follow from its name and shape.
pub fn fill(name: &str, shape: &[usize]) -> Tensor {
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

/// The golden scripts' `sample`, a handful of numbers all over a tensor and its norm, within `tolerance` of the largest value.
pub fn assert_sample(tensor: &Tensor, expected: &Value, tolerance: f64, what: &str) {
    let flat = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let values: Vec<f64> = serde_json::from_value(expected["values"].clone()).unwrap();
    let norm = expected["norm"].as_f64().unwrap();
    let rms = norm / (flat.len() as f64).sqrt();
    for (i, expected) in values.iter().enumerate() {
        // (n − 1)·i // 15
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
