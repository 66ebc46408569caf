//! The order in which an epoch visits the samples.

use crate::rng::sample_rng;
use rand::RngCore;

/// A permutation of `0..len`, drawn from (seed, epoch) alone and uniform over all permutations.
pub fn shuffled(seed: u64, epoch: u64, len: usize) -> Vec<usize> {
    permutation(&mut sample_rng(seed, epoch, u64::MAX, u64::MAX), len)
}

/// A permutation of `0..len`, uniform over all permutations.
///
/// Fisher–Yates (Durstenfeld 1964) with unbiased draws; written out here, because a run can only be repeated
/// as long as the shuffle gives the same order, and libraries change theirs.
pub fn permutation(rng: &mut impl RngCore, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    for i in (1..len).rev() {
        order.swap(i, below(rng, i as u64 + 1) as usize);
    }
    order
}

/// Uniform in `0..n`: the high half of a 128-bit product, redrawn in the few cases that would favour some
/// values (Lemire 2019, arXiv:1805.10941, algorithm 5).
fn below(rng: &mut impl RngCore, n: u64) -> u64 {
    let mut product = u128::from(rng.next_u64()) * u128::from(n);
    if (product as u64) < n {
        let unfair = n.wrapping_neg() % n;
        while (product as u64) < unfair {
            product = u128::from(rng.next_u64()) * u128::from(n);
        }
    }
    (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_permutation() {
        for len in [0, 1, 2, 3, 10, 1000] {
            let mut order = shuffled(5, 9, len);
            order.sort_unstable();
            assert_eq!(order, (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        assert_eq!(shuffled(1, 2, 100), shuffled(1, 2, 100));
        assert_ne!(shuffled(1, 2, 100), shuffled(1, 3, 100));
        assert_ne!(shuffled(1, 2, 100), shuffled(2, 2, 100));
        assert_ne!(shuffled(1, 2, 100), (0..100).collect::<Vec<_>>());
    }

    /// Chi-squared over the 24 orders of four: 23 degrees of freedom, the 0.9999 quantile is 55.
    #[test]
    fn every_permutation_is_equally_likely() {
        const EPOCHS: u64 = 24_000;
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..EPOCHS {
            *counts.entry(shuffled(3, epoch, 4)).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 24);
        let expected = EPOCHS as f64 / 24.0;
        let chi2: f64 = counts.values().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
        assert!(chi2 < 55.0, "chi² is {chi2}");
    }

    /// Each sample comes to each place equally often: the mean place of each is near the middle.
    #[test]
    fn places_are_uniform() {
        const LEN: usize = 10;
        let mut counts = [[0f64; LEN]; LEN];
        for epoch in 0..10_000 {
            for (place, sample) in shuffled(0, epoch, LEN).into_iter().enumerate() {
                counts[sample][place] += 1.0;
            }
        }
        // 81 degrees of freedom, the 0.9999 quantile is 137.
        let chi2: f64 = counts.iter().flatten().map(|c| (c - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi2 < 137.0, "chi² is {chi2}");
    }

    #[test]
    fn draws_below_a_bound_are_unbiased() {
        // With n = 3·2^62 a biased product would give the values below 2^62 … twice as often.
        let mut rng = sample_rng(0, 0, 0, 0);
        let n = 3u64 << 62;
        let low = (0..30_000).filter(|_| below(&mut rng, n) < 1 << 62).count() as f64;
        assert!((low - 10_000.0).abs() < 4.5 * (30_000.0f64 * 2.0 / 9.0).sqrt(), "{low} of 30000");
    }
}
