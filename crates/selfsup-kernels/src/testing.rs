//! What the tests share: seeded tensors, and a comparison that fails on NaN and names the worst place.

use candle_core::{DType, Device, Shape, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers uniform in −1…1, f64.
pub(crate) fn random<S: Into<Shape>>(shape: S, seed: u64) -> Tensor {
    let shape = shape.into();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..shape.elem_count()).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The same in f32.
pub(crate) fn random_f32<S: Into<Shape>>(shape: S, seed: u64) -> Tensor {
    random(shape, seed).to_dtype(DType::F32).unwrap()
}

/// A tensor's numbers.
pub(crate) fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Every |got − expected| ≤ tolerance · (1 + |expected|); NaN and infinities only where expected.
#[track_caller]
pub(crate) fn assert_close(got: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), expected.dims());
    let mut worst = (0, 0.0);
    let (got, expected) = (values(got), values(expected));
    for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
        let same = g == e || (g.is_nan() && e.is_nan());
        let error = if same { 0.0 } else { (g - e).abs() / (1.0 + e.abs()) };
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > worst.1 {
            worst = (i, error);
        }
    }
    let (i, error) = worst;
    assert!(error <= tolerance, "number {i}: got {}, expected {}, error {error:e}", got[i], expected[i]);
}

/// Whether two tensors have the same bits.
#[track_caller]
pub(crate) fn assert_same_bits(a: &Tensor, b: &Tensor) {
    assert_eq!((a.dims(), a.dtype()), (b.dims(), b.dtype()));
    let bits = |t: &Tensor| values(t).into_iter().map(f64::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(a), bits(b));
}

/// What `f` returns within a pool of `threads` threads.
pub(crate) fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

/// A golden file's tensors by name. `tests/golden/make_golden.py` writes them.
pub(crate) fn golden(name: &str) -> std::collections::HashMap<String, Tensor> {
    let path = format!("{}/tests/golden/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}
