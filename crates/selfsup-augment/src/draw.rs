//! Random numbers as the transforms use them.

use rand::Rng;

/// True with probability `p`.
pub(crate) fn chance(p: f64, rng: &mut impl Rng) -> bool {
    rng.random::<f64>() < p
}

/// Uniform in low…high; exactly `low` when both are equal.
pub(crate) fn uniform([low, high]: [f64; 2], rng: &mut impl Rng) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// Uniform in 0, 1, …, max.
pub(crate) fn up_to(max: u32, rng: &mut impl Rng) -> u32 {
    rng.random_range(0..=max)
}
