//! Numbers that both sides make alike, and what tells that both have computed the same.

use anyhow::Result;
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// Uniform in ±0.5: a hash of the index (Wellons's lowbias32), of which the upper 24 bits are exact in f32.
/// `peers/compare.py` has the same.
pub fn uniform(count: usize, stream: u32) -> Vec<f32> {
    let offset = stream.wrapping_mul(0x9E37_79B9);
    (0..count as u32)
        .map(|i| {
            let mut h = i.wrapping_add(offset);
            for (shift, factor) in [(16, 0x7FEB_352D), (15, 0x846C_A68B)] {
                h = (h ^ (h >> shift)).wrapping_mul(factor);
            }
            h ^= h >> 16;
            (h >> 8) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect()
}

/// A result without its layout.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// How many numbers.
    pub elements: usize,
    /// Their sum.
    pub sum: f64,
    /// The sum of their absolute values.
    pub absolute: f64,
}

impl Fingerprint {
    /// Sums in f64.
    pub fn new(tensor: &Tensor) -> Result<Self> {
        let values = tensor.detach().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let (mut sum, mut absolute) = (0.0, 0.0);
        for value in &values {
            sum += f64::from(*value);
            absolute += f64::from(value.abs());
        }
        Ok(Self { elements: values.len(), sum, absolute })
    }

    /// Whether two sides that round in another order may differ so. A tensor whose terms cancel is held to the size of
    /// its terms. A wrong stride, padding, mask or scale is far outside.
    pub fn agrees(&self, other: &Self) -> bool {
        const TOLERANCE: f64 = 1e-3;
        let size = self.absolute.max(other.absolute);
        self.elements == other.elements
            && (self.absolute - other.absolute).abs() <= TOLERANCE * size
            && (self.sum - other.sum).abs() <= TOLERANCE * size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_centred_and_differ_between_streams() {
        let (a, b) = (uniform(10_000, 0), uniform(10_000, 1));
        assert!(a.iter().all(|x| (-0.5..0.5).contains(x)));
        assert!(a.iter().sum::<f32>().abs() < 100.0);
        let product: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
        assert!(product.abs() < 50.0, "{product}");
        // What peers/compare.py makes.
        assert_eq!(a[..3], [-0.5, -0.091_650_96, 0.316_698_13]);
        assert_eq!(b[..2], [-0.492_234_9, 0.122_319_58]);
    }

    #[test]
    fn another_result_does_not_agree() {
        let one = Fingerprint { elements: 10, sum: 1.0, absolute: 5.0 };
        assert!(one.agrees(&Fingerprint { sum: 1.001, absolute: 5.001, ..one }));
        assert!(!one.agrees(&Fingerprint { elements: 9, ..one }));
        assert!(!one.agrees(&Fingerprint { sum: 1.1, ..one }));
        assert!(!one.agrees(&Fingerprint { absolute: 5.1, ..one }));
        assert!(!one.agrees(&Fingerprint { sum: f64::NAN, ..one }));
    }
}
