//! Sums and maxima of slices in a fixed number of lanes, so that they vectorise and do not depend on the vectors'
//! width.
//!
//! Call them within [`vectorized`](crate::simd::vectorized), and give `#[inline(always)]` to the closures.

use crate::element::Element;

/// Two of the widest vectors of f32: an addition need not wait for the one before it.
const LANES: usize = 32;
/// Numbers summed in T before the sum goes to f64.
const BLOCK: usize = 32 * LANES;

/// The sums of M functions of N slices of one length, in blocks that go to f64.
#[inline(always)]
pub(crate) fn sums<T: Element, const N: usize, const M: usize>(
    x: [&[T]; N],
    f: impl Fn([T; N]) -> [T; M],
) -> [f64; M] {
    let len = x[0].len();
    let mut total = [0.0; M];
    let mut start = 0;
    while start < len {
        let end = (start + BLOCK).min(len);
        let mut lanes = [[T::ZERO; LANES]; M];
        let mut at = start;
        while at + LANES <= end {
            let x: [&[T]; N] = x.map(
                #[inline(always)]
                |x| &x[at..at + LANES],
            );
            for i in 0..LANES {
                let values = f(x.map(
                    #[inline(always)]
                    |x| x[i],
                ));
                for (lanes, value) in lanes.iter_mut().zip(values) {
                    lanes[i] += value;
                }
            }
            at += LANES;
        }
        for i in 0..end - at {
            let values = f(x.map(
                #[inline(always)]
                |x| x[at + i],
            ));
            for (lanes, value) in lanes.iter_mut().zip(values) {
                lanes[i] += value;
            }
        }
        for (total, lanes) in total.iter_mut().zip(&lanes) {
            *total += lanes.iter().map(|lane| lane.to_f64()).sum::<f64>();
        }
        start = end;
    }
    total
}

/// The largest number of a slice that is not empty. NaN is passed over.
#[inline(always)]
pub(crate) fn max<T: Element>(x: &[T]) -> T {
    let mut lanes = [x[0]; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(x[0], |a, b| if *b > a { *b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_gives_the_plain_sums_and_maximum() {
        for len in
            [1, 2, LANES - 1, LANES, LANES + 1, 3 * LANES - 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]
        {
            // Integers, whose sums are exact in any order.
            let x: Vec<f64> = (0..len).map(|i| ((i * 37 + 11) % 101) as f64 - 50.0).collect();
            let y: Vec<f64> = x.iter().rev().copied().collect();
            assert_eq!(sums([&x], |[v]| [v * 2.0]), [x.iter().sum::<f64>() * 2.0], "{len}");
            let product: f64 = x.iter().zip(&y).map(|(a, b)| a * b).sum();
            assert_eq!(sums([&x, &y], |[a, b]| [a - b, a * b]), [0.0, product], "{len}");
            assert_eq!(max(&x), x.iter().copied().fold(f64::NEG_INFINITY, f64::max), "{len}");
        }
    }
}
