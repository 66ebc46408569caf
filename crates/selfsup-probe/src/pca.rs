//! Principal components: the directions in which features spread most.
//!
//! Letters: n samples, d features, k components.

use crate::error::setting;
use crate::{Features, Result};

/// Rounds of subspace iteration, at most.
const ROUNDS: usize = 500;
/// A component stands still when its direction turns by less (1 − cos).
const STILL: f64 = 1e-12;

/// The first k principal components of features, and where each sample lies along them.
#[derive(Debug, Clone, PartialEq)]
pub struct Pca {
    /// `[n, k]`, row-major: coordinates, mean 0.
    pub coordinates: Vec<f64>,
    /// Share of the whole variance that each component has, in 0…1, descending.
    pub explained: Vec<f64>,
}

/// Projects features onto their first `k` principal components, by subspace iteration on the d × d covariance. A component's sign is such
/// that its largest weight is positive, so that the same features give the same picture.
///
/// # Errors
/// Fewer than two samples, k of 0 or above d.
pub fn pca(features: &Features, k: usize) -> Result<Pca> {
    let (n, d) = (features.len(), features.dim);
    if n < 2 {
        return Err(setting("the number of samples", "at least 2", n));
    }
    if k == 0 || k > d {
        return Err(setting("the number of components", "1 to the features' width", k));
    }
    let mut mean = vec![0f64; d];
    for row in features.values.chunks_exact(d) {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / n as f64);
    }
    let centred = |i: usize| features.row(i).iter().zip(&mean).map(|(v, m)| f64::from(*v) - m);
    let mut covariance = vec![0f64; d * d];
    let mut row = vec![0f64; d];
    for i in 0..n {
        row.iter_mut().zip(centred(i)).for_each(|(to, v)| *to = v);
        for (a, out) in row.iter().zip(covariance.chunks_exact_mut(d)) {
            out.iter_mut().zip(&row).for_each(|(c, b)| *c += a * b / n as f64);
        }
    }
    let total: f64 = (0..d).map(|i| covariance[i * d + i]).sum();
    let apply = |x: &[f64]| -> Vec<f64> { covariance.chunks_exact(d).map(|row| dot(row, x)).collect() };
    // The first guess is the unit vectors with a little of the rest, so that none is at right angles to a component.
    let mut basis: Vec<Vec<f64>> = (0..k)
        .map(|c| (0..d).map(|i| if i == c { 1.0 } else { 0.01 / (1 + (i + c) % 7) as f64 }).collect())
        .collect();
    orthonormalize(&mut basis);
    for _ in 0..ROUNDS {
        let mut next: Vec<Vec<f64>> = basis.iter().map(|x| apply(x)).collect();
        orthonormalize(&mut next);
        let moved = basis.iter().zip(&next).map(|(a, b)| 1.0 - dot(a, b).abs()).fold(0.0, f64::max);
        basis = next;
        if moved < STILL {
            break;
        }
    }
    for x in &mut basis {
        let largest = x.iter().copied().fold(0.0, |l: f64, v| if v.abs() > l.abs() { v } else { l });
        if largest < 0.0 {
            x.iter_mut().for_each(|v| *v = -*v);
        }
    }
    let share = |x: &Vec<f64>| if total > 0.0 { dot(x, &apply(x)) / total } else { 0.0 };
    let mut order: Vec<(f64, &Vec<f64>)> = basis.iter().map(|x| (share(x), x)).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut coordinates = Vec::with_capacity(n * k);
    for i in 0..n {
        row.iter_mut().zip(centred(i)).for_each(|(to, v)| *to = v);
        coordinates.extend(order.iter().map(|(_, x)| dot(x, &row)));
    }
    Ok(Pca { coordinates, explained: order.iter().map(|(share, _)| *share).collect() })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Gram and Schmidt. What vanishes, as there is no more variance, becomes the first unit vector that is not in the others' space.
fn orthonormalize(basis: &mut [Vec<f64>]) {
    for c in 0..basis.len() {
        let (before, rest) = basis.split_at_mut(c);
        let x = &mut rest[0];
        let d = x.len();
        let mut unit = 0;
        loop {
            let length = dot(x, x).sqrt();
            for b in &*before {
                let along = dot(b, x);
                x.iter_mut().zip(b).for_each(|(x, b)| *x -= along * b);
            }
            let left = dot(x, x).sqrt();
            if left > 1e-10 * length && left > 0.0 {
                x.iter_mut().for_each(|v| *v /= left);
                break;
            }
            x.iter_mut().enumerate().for_each(|(i, v)| *v = f64::from(i == unit % d));
            unit += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(values: Vec<f32>, dim: usize) -> Features {
        let n = values.len() / dim;
        let ids = (0..n).map(|i| i.to_string()).collect();
        Features { values, dim, labels: vec![None; n], ids, ..Features::default() }
    }

    /// Points along a known line, with a little across it.
    #[test]
    fn the_first_component_is_where_the_points_lie() {
        let mut values = Vec::new();
        for i in 0..200 {
            let (t, s) = ((i as f32 - 99.5) / 10.0, ((i * 37 % 200) as f32 - 99.5) / 100.0);
            // (3, 4)/5 and across it (−4, 3)/5, and a third direction without spread.
            values.extend([0.6 * t - 0.8 * s + 7.0, 0.8 * t + 0.6 * s - 2.0, 5.0]);
        }
        let pca = pca(&features(values, 3), 2).unwrap();
        for i in 0..200 {
            let t = (i as f64 - 99.5) / 10.0;
            assert!((pca.coordinates[2 * i] - t).abs() < 0.1, "{i}: {} and {t}", pca.coordinates[2 * i]);
        }
        assert!(
            pca.explained[0] > 0.98 && pca.explained.iter().sum::<f64>() > 1.0 - 1e-9,
            "{:?}",
            pca.explained
        );
    }

    #[test]
    fn features_without_spread_have_coordinates_all_the_same() {
        let pca = pca(&features(vec![1.0; 12], 4), 3).unwrap();
        assert!(pca.coordinates.iter().all(|v| *v == 0.0));
        assert_eq!(pca.explained, [0.0; 3]);
    }

    #[test]
    fn what_cannot_be_projected_is_an_error() {
        assert!(pca(&features(vec![1.0; 4], 4), 2).unwrap_err().to_string().contains("samples"));
        for k in [0, 5] {
            assert!(pca(&features(vec![1.0; 8], 4), k).unwrap_err().to_string().contains("components"));
        }
    }
}
