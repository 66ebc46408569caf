//! What the machine can do on the threads given: f32 multiply-adds without memory, and memory without arithmetic
//! (the roofline's two roofs; Williams, Waterman & Patterson 2009).

use crate::statistics::maximum;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use serde::Serialize;
use std::hint::black_box;
use std::time::Instant;

/// Chains of multiply-adds that do not wait for each other: two units with a latency of four cycles need eight, and
/// AVX2 has sixteen registers.
const CHAINS: usize = 12;
/// Links of each chain in a sample: about 20 ms.
const LINKS: usize = 5_000_000;
/// f32 numbers in the memory tests: 256 MiB, beyond the caches.
const NUMBERS: usize = 64 << 20;
/// Numbers of one task.
const TASK: usize = 256 << 10;
/// The best of so many counts.
const SAMPLES: usize = 15;

/// The best of several samples each.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Peak {
    /// f32 multiply-adds, each two operations.
    pub gflop_per_second: f64,
    /// a ← b + s·c over 256 MiB; the three arrays count once each.
    pub triad_gb_per_second: f64,
    /// The sum of 256 MiB.
    pub sum_gb_per_second: f64,
    /// f32 numbers in a vector.
    pub lanes: usize,
}

impl Peak {
    /// Measures on rayon's threads; takes about two seconds.
    pub fn measure() -> Self {
        let lanes = Arch::new().dispatch(Lanes);
        let flop = (2 * CHAINS * LINKS * lanes * rayon::current_num_threads()) as f64;
        let gflop_per_second = best(flop, || {
            rayon::broadcast(|_| black_box(Arch::new().dispatch(MultiplyAdd)));
        });
        let bytes = (NUMBERS * size_of::<f32>()) as f64;
        let sum_gb_per_second = {
            let x = vec![1f32; NUMBERS];
            best(bytes, || {
                black_box(x.par_chunks(TASK).map(sum).collect::<Vec<f32>>());
            })
        };
        let third = NUMBERS / 3;
        let (mut a, b, c) = (vec![0f32; third], vec![1f32; third], vec![2f32; third]);
        let triad_gb_per_second = best(bytes, || {
            let s = black_box(3f32);
            a.par_chunks_mut(TASK)
                .zip(b.par_chunks(TASK))
                .zip(c.par_chunks(TASK))
                .for_each(|((a, b), c)| triad(a, b, c, s));
            black_box(&a);
        });
        Self { gflop_per_second, triad_gb_per_second, sum_gb_per_second, lanes }
    }

    /// The better of each: on a shared machine every measurement is a lower bound.
    pub fn max(self, other: Self) -> Self {
        Self {
            gflop_per_second: self.gflop_per_second.max(other.gflop_per_second),
            triad_gb_per_second: self.triad_gb_per_second.max(other.triad_gb_per_second),
            sum_gb_per_second: self.sum_gb_per_second.max(other.sum_gb_per_second),
            lanes: self.lanes,
        }
    }

    /// The bandwidth that bounds work which may read more than it writes.
    pub fn gb_per_second(&self) -> f64 {
        self.triad_gb_per_second.max(self.sum_gb_per_second)
    }

    /// The roof over work of an arithmetic intensity, in GFLOP/s.
    pub fn roof(&self, flop_per_byte: f64) -> f64 {
        self.gflop_per_second.min(flop_per_byte * self.gb_per_second())
    }
}

/// The largest rate of `work` in 10⁹ a second.
fn best(work: f64, mut f: impl FnMut()) -> f64 {
    f();
    let rates: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let start = Instant::now();
            f();
            work / start.elapsed().as_secs_f64() / 1e9
        })
        .collect();
    maximum(&rates)
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

struct MultiplyAdd;

impl WithSimd for MultiplyAdd {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        // The fixed point is 1: nothing grows, nothing becomes subnormal.
        let (factor, addend) = (simd.splat_f32s(black_box(0.5)), simd.splat_f32s(black_box(0.5)));
        let mut chains = [simd.splat_f32s(black_box(0.5)); CHAINS];
        for _ in 0..LINKS {
            for chain in &mut chains {
                *chain = simd.mul_add_f32s(*chain, factor, addend);
            }
        }
        chains.iter().map(|&chain| simd.reduce_sum_f32s(chain)).sum()
    }
}

fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 128];
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for x in x.chunks_exact(lanes.len()) {
                for (lane, x) in lanes.iter_mut().zip(x) {
                    *lane += x;
                }
            }
        },
    );
    lanes.iter().sum()
}

fn triad(a: &mut [f32], b: &[f32], c: &[f32], s: f32) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                *a = b + s * c;
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roof_is_the_lower_of_both() {
        let peak =
            Peak { gflop_per_second: 100.0, triad_gb_per_second: 10.0, sum_gb_per_second: 20.0, lanes: 8 };
        assert_eq!(peak.roof(1.0), 20.0);
        assert_eq!(peak.roof(5.0), 100.0);
        assert_eq!(peak.roof(500.0), 100.0);
        let other = Peak { gflop_per_second: 50.0, triad_gb_per_second: 30.0, ..peak };
        assert_eq!(peak.max(other), Peak { triad_gb_per_second: 30.0, ..peak });
    }

    #[test]
    fn sums_and_triads_are_right() {
        assert_eq!(sum(&vec![1.0; 1280]), 1280.0);
        let (mut a, b, c) = ([0.0; 100], [1.0; 100], [2.0; 100]);
        triad(&mut a, &b, &c, 3.0);
        assert_eq!(a, [7.0; 100]);
        let ones = Arch::new().dispatch(MultiplyAdd);
        assert_eq!(ones, (CHAINS * Arch::new().dispatch(Lanes)) as f32);
    }
}
