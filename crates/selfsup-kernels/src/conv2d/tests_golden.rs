//! PyTorch's values and gradients in f64: convolution with its epilogue, and transposed.

use super::cpu::{Path, path};
use super::geometry::Geometry;
use super::{Conv2dConfig, Epilogue, conv_transpose2d, conv2d_with};
use crate::testing::{assert_close, golden};
use candle_core::{Tensor, Var};

/// Both sides sum at most 300 products of f64, in different orders.
const TOLERANCE: f64 = 1e-13;

/// Holds y of the variables of these names, and their gradients, to the golden ones.
fn agrees(golden: impl Fn(&str) -> Tensor, names: &[&str], f: impl Fn(&[Tensor]) -> Tensor) {
    let vars: Vec<Var> = names.iter().map(|name| Var::from_tensor(&golden(name)).unwrap()).collect();
    let y = f(&vars.iter().map(|v| v.as_tensor().clone()).collect::<Vec<_>>());
    assert_close(&y, &golden("y"), TOLERANCE);
    let grads = (&y * golden("dy")).unwrap().sum_all().unwrap().backward().unwrap();
    for (name, var) in names.iter().zip(&vars) {
        assert_close(grads.get(var).unwrap(), &golden(&format!("d{name}")), TOLERANCE);
    }
}

#[test]
fn epilogues_agree_with_pytorch() {
    let g = golden("conv2d_with");
    for (name, stride, padding, groups, expected) in [
        ("plain", 2, 1, 1, Path::Direct),
        ("winograd", 1, 1, 1, Path::Winograd),
        ("image", 1, 1, 1, Path::Direct),
        ("depthwise", 1, 1, 4, Path::Depthwise),
        ("pixel", 1, 0, 2, Path::FewPixels),
    ] {
        let config = Conv2dConfig { stride, padding, groups, dilation: 1 };
        let golden = |part: &str| g[&format!("{name}.{part}")].clone();
        let geometry = Geometry::new(&golden("x"), &golden("weight"), config).unwrap();
        assert_eq!(path(&geometry), expected, "{name}");
        agrees(golden, &["x", "weight", "bias", "residual"], |t| {
            let epilogue = Epilogue { bias: Some(&t[2]), residual: Some(&t[3]), relu: true };
            conv2d_with(&t[0], &t[1], epilogue, config).unwrap()
        });
    }
}

#[test]
fn transposed_convolutions_agree_with_pytorch() {
    let g = golden("conv_transpose2d");
    for (name, stride, padding, output_padding, groups, dilation) in [
        ("plain", 1, 1, 0, 1, 1),
        ("doubling", 2, 1, 0, 1, 1),
        ("unseen", 3, 0, 2, 1, 1),
        ("grouped", 2, 2, 1, 2, 2),
        ("depthwise", 2, 1, 1, 4, 1),
    ] {
        let config = Conv2dConfig { stride, padding, dilation, groups };
        let golden = |part: &str| g[&format!("{name}.{part}")].clone();
        agrees(golden, &["x", "weight"], |t| conv_transpose2d(&t[0], &t[1], output_padding, config).unwrap());
    }
}
