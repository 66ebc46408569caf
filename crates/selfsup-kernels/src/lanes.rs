//! Sums and maxima of slices in a fixed number of lanes, so that they vectorise and do not depend on the vectors'
//! width.
//!
//! Sums go to f64 after every [`BLOCK`] numbers. Call these functions within [`vectorized`](crate::simd::vectorized), and give `#[inline(always)]` to the closures.

use crate::element::Element;

/// Two of the widest vectors of f32: an addition need not wait for the one before it.
pub(crate) const LANES: usize = 32;
/// Numbers summed in T before the sum goes to f64.
pub(crate) const BLOCK: usize = 32 * LANES;

/// Σ f(x).
#[inline(always)]
pub(crate) fn sum<T: Element>(x: &[T], f: impl Fn(T) -> T) -> f64 {
    let mut total = 0.0;
    for x in x.chunks(BLOCK) {
        let mut lanes = [T::ZERO; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for x in chunks {
            for i in 0..LANES {
                lanes[i] += f(x[i]);
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += f(*x);
        }
        total += over_lanes(lanes);
    }
    total
}

/// The sums of two functions of three slices of one length.
#[inline(always)]
pub(crate) fn two_sums<T: Element>([x, y, z]: [&[T]; 3], f: impl Fn(T, T, T) -> (T, T)) -> (f64, f64) {
    let mut total = (0.0, 0.0);
    for ((x, y), z) in x.chunks(BLOCK).zip(y.chunks(BLOCK)).zip(z.chunks(BLOCK)) {
        let (mut first, mut second) = ([T::ZERO; LANES], [T::ZERO; LANES]);
        let [(x, x_rest), (y, y_rest), (z, z_rest)] = [x, y, z].map(|v| v.as_chunks::<LANES>());
        for ((x, y), z) in x.iter().zip(y).zip(z) {
            for i in 0..LANES {
                let (p, q) = f(x[i], y[i], z[i]);
                first[i] += p;
                second[i] += q;
            }
        }
        let lanes = first.iter_mut().zip(&mut second);
        for ((first, second), ((x, y), z)) in lanes.zip(x_rest.iter().zip(y_rest).zip(z_rest)) {
            let (p, q) = f(*x, *y, *z);
            *first += p;
            *second += q;
        }
        total.0 += over_lanes(first);
        total.1 += over_lanes(second);
    }
    total
}

/// The sum of the lanes in halves: one after another, each addition would wait for the one before it.
#[inline(always)]
pub(crate) fn over_lanes<T: Element>(lanes: [T; LANES]) -> f64 {
    let mut wide = [0.0; LANES];
    for i in 0..LANES {
        wide[i] = lanes[i].to_f64();
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            wide[i] += wide[i + half];
        }
        half /= 2;
    }
    wide[0]
}

/// The largest number of a slice that is not empty. NaN is passed over.
#[inline(always)]
pub(crate) fn max<T: Element>(x: &[T]) -> T {
    let mut lanes = [x[0]; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for i in 0..LANES {
            lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
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
            assert_eq!(sum(&x, |v| v * 2.0), x.iter().sum::<f64>() * 2.0, "{len}");
            let product: f64 = x.iter().zip(&y).map(|(a, b)| a * b).sum();
            let sums = two_sums([&x, &y, &x], |a, b, c| (c - b, a * b));
            assert_eq!(sums, (0.0, product), "{len}");
            assert_eq!(max(&x), x.iter().copied().fold(f64::NEG_INFINITY, f64::max), "{len}");
        }
    }
}
