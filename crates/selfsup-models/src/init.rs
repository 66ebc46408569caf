//! First values of weights.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// A distribution of first values, independent for each number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// One value everywhere.
    Constant(f32),
    /// Normal with mean 0.
    Normal {
        /// The standard deviation.
        std: f64,
    },
    /// Normal with mean 0 and standard deviation √(2 / fan_out), where fan_out = c_out · kh · kw: what
    /// torchvision gives every convolution of a ResNet (He et al. 2015, eq. 14).
    KaimingNormal {
        /// c_out · kh · kw.
        fan_out: usize,
    },
    /// Uniform in ±1/√fan_in: `torch.nn.Linear`'s default for weight and bias.
    LinearUniform {
        /// The layer's input width.
        fan_in: usize,
    },
}

impl Init {
    /// `count` values, drawn in memory order.
    pub(crate) fn values(self, count: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        match self {
            Init::Constant(value) => vec![value; count],
            Init::Normal { std } => {
                (0..count).map(|_| (rng.sample::<f64, _>(StandardNormal) * std) as f32).collect()
            }
            Init::KaimingNormal { fan_out } => {
                let std = (2.0 / fan_out as f64).sqrt();
                (0..count).map(|_| (rng.sample::<f64, _>(StandardNormal) * std) as f32).collect()
            }
            Init::LinearUniform { fan_in } => {
                let bound = 1.0 / (fan_in as f64).sqrt();
                (0..count).map(|_| rng.random_range(-bound..bound) as f32).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        (mean, (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn kaiming_normal_has_the_stated_moments() {
        let values = Init::KaimingNormal { fan_out: 288 }.values(100_000, &mut ChaCha8Rng::seed_from_u64(1));
        let (mean, std) = moments(&values);
        let expected = (2.0f64 / 288.0).sqrt();
        assert!(mean.abs() < 4.0 * expected / 100_000f64.sqrt(), "mean {mean}");
        assert!((std / expected - 1.0).abs() < 0.01, "std {std}, expected {expected}");
    }

    #[test]
    fn linear_uniform_fills_its_interval() {
        let values = Init::LinearUniform { fan_in: 64 }.values(100_000, &mut ChaCha8Rng::seed_from_u64(1));
        assert!(values.iter().all(|v| v.abs() <= 0.125));
        assert!(values.iter().any(|v| *v > 0.124) && values.iter().any(|v| *v < -0.124));
        assert!((moments(&values).1 / (0.125 / 3f64.sqrt()) - 1.0).abs() < 0.01);
    }
}
