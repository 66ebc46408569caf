//! What is told of samples: minimum, median, and ratios with their spread.

use serde::Serialize;

/// The smallest sample; NaN if there is none.
pub fn minimum(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::min)
}

/// The largest sample; NaN if there is none.
pub fn maximum(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::max)
}

/// The middle sample, or the mean of the two in the middle; NaN if there is none.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// How many times as fast ours is: the peer's time over ours.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Of the medians.
    pub of_medians: f64,
    /// Of the minima.
    pub of_minima: f64,
    /// The smallest of a round.
    pub lowest: f64,
    /// The largest of a round.
    pub highest: f64,
}

impl Ratio {
    /// `ours[i]` and `peer[i]` are of one round. None without samples.
    pub fn new(ours: &[f64], peer: &[f64]) -> Option<Self> {
        let rounds: Vec<f64> = ours.iter().zip(peer).map(|(ours, peer)| peer / ours).collect();
        (!rounds.is_empty()).then(|| Self {
            of_medians: median(peer) / median(ours),
            of_minima: minimum(peer) / minimum(ours),
            lowest: minimum(&rounds),
            highest: maximum(&rounds),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_samples() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(&[]).is_nan() && minimum(&[]).is_nan() && maximum(&[]).is_nan());
    }

    #[test]
    fn ratios_are_the_peers_time_over_ours() {
        let ratio = Ratio::new(&[1.0, 2.0, 4.0], &[3.0, 10.0, 4.0]).unwrap();
        assert_eq!(ratio.of_medians, 2.0); // 4 / 2
        assert_eq!(ratio.of_minima, 3.0); // 3 / 1
        assert_eq!((ratio.lowest, ratio.highest), (1.0, 5.0)); // of 3, 5 and 1
        assert_eq!(Ratio::new(&[], &[]), None);
    }
}
