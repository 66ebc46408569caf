//! What the golden files' scripts fill tensors with.

use candle_core::{Device, Tensor};

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
