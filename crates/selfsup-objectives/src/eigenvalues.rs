//! Eigenvalues of a real symmetric matrix: Householder reflections to a tridiagonal one, then the implicit QL
//! iteration with Wilkinson's shift (Golub & Van Loan, "Matrix Computations", §8.3). No eigenvectors, so the
//! cost is 4/3 m³ for the reflections and O(m²) for the rest.

/// Each eigenvalue is found within a few steps; this is a stop for what can only be a fault.
const MAX_ITERATIONS: usize = 100;

/// The eigenvalues of the symmetric `m × m` matrix `a` (row by row, finite), in ascending order.
pub(crate) fn symmetric_eigenvalues(a: Vec<f64>, m: usize) -> Vec<f64> {
    let (mut diagonal, mut off) = tridiagonal(a, m);
    ql(&mut diagonal, &mut off);
    diagonal.sort_by(f64::total_cmp);
    diagonal
}

/// Diagonal (`m` values) and side diagonal (`m − 1`) of a tridiagonal matrix with the same eigenvalues.
fn tridiagonal(mut a: Vec<f64>, m: usize) -> (Vec<f64>, Vec<f64>) {
    let mut off = Vec::with_capacity(m.saturating_sub(1));
    let (mut v, mut p) = (vec![0.0; m], vec![0.0; m]);
    for k in 0..m.saturating_sub(1) {
        // Reflect the column below the diagonal onto its first axis: H = 1 − 2vvᵀ with |v| = 1.
        let rest = k + 1..m;
        let norm = rest.clone().map(|i| a[i * m + k].powi(2)).sum::<f64>().sqrt();
        let first = a[(k + 1) * m + k];
        let alpha = if first > 0.0 { -norm } else { norm };
        off.push(alpha);
        rest.clone().for_each(|i| v[i] = a[i * m + k]);
        v[k + 1] -= alpha;
        let length = rest.clone().map(|i| v[i] * v[i]).sum::<f64>().sqrt();
        if length == 0.0 {
            continue;
        }
        v[rest.clone()].iter_mut().for_each(|v| *v /= length);
        // A ← HAH = A − 2vwᵀ − 2wvᵀ with p = Av and w = p − (vᵀp)v.
        for i in rest.clone() {
            p[i] = a[i * m + k + 1..(i + 1) * m].iter().zip(&v[k + 1..]).map(|(a, v)| a * v).sum();
        }
        let dot: f64 = rest.clone().map(|i| v[i] * p[i]).sum();
        rest.clone().for_each(|i| p[i] -= dot * v[i]);
        for i in rest {
            let (vi, wi) = (2.0 * v[i], 2.0 * p[i]);
            let row = &mut a[i * m + k + 1..(i + 1) * m];
            for ((a, v), w) in row.iter_mut().zip(&v[k + 1..]).zip(&p[k + 1..]) {
                *a -= vi * w + wi * v;
            }
        }
    }
    ((0..m).map(|i| a[i * m + i]).collect(), off)
}

/// Turns the diagonal into the eigenvalues.
fn ql(d: &mut [f64], e: &mut Vec<f64>) {
    let m = d.len();
    e.push(0.0);
    for l in 0..m {
        for _ in 0..MAX_ITERATIONS {
            // The block from l ends where the side diagonal is negligible.
            let end = (l..m - 1)
                .find(|&i| e[i].abs() <= f64::EPSILON * (d[i].abs() + d[i + 1].abs()))
                .unwrap_or(m - 1);
            if end == l {
                break;
            }
            let half = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let root = half.hypot(1.0).copysign(half);
            let mut g = d[end] - d[l] + e[l] / (half + root);
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut split = None;
            for i in (l..end).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    split = Some(i);
                    break;
                }
                s = f / r;
                c = g / r;
                let h = d[i + 1] - p;
                let t = (d[i] - h) * s + 2.0 * c * b;
                p = s * t;
                d[i + 1] = h + p;
                g = c * t - b;
            }
            if split.is_none() {
                d[l] -= p;
                e[l] = g;
            }
            e[end] = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// QΛQᵀ with a product of random reflections as Q.
    fn with_eigenvalues(eigenvalues: &[f64], seed: u64) -> Vec<f64> {
        let m = eigenvalues.len();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut a = vec![0.0; m * m];
        eigenvalues.iter().enumerate().for_each(|(i, v)| a[i * m + i] = *v);
        for _ in 0..3 {
            let mut v: Vec<f64> = (0..m).map(|_| rng.random_range(-1.0..1.0)).collect();
            let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
            v.iter_mut().for_each(|v| *v /= norm);
            let reflect = |a: &[f64]| -> Vec<f64> {
                // (HA)ᵀ; twice gives HAH for a symmetric A.
                let mut out = vec![0.0; m * m];
                for j in 0..m {
                    let dot: f64 = (0..m).map(|k| v[k] * a[k * m + j]).sum();
                    (0..m).for_each(|i| out[j * m + i] = a[i * m + j] - 2.0 * v[i] * dot);
                }
                out
            };
            a = reflect(&reflect(&a));
        }
        a
    }

    #[test]
    fn known_eigenvalues_are_found() {
        let many: Vec<f64> = (0..50).map(|i| f64::from(i) * 0.37 - 5.0).collect();
        let spectra: [&[f64]; 9] = [
            &[2.5],
            &[-1.0, 3.0],
            &[1.0, 1.0, 1.0],
            &[0.0, 0.0, 0.0, 5.0],
            &[0.0; 6],
            &[1e-12, 1e-6, 1.0, 1e6],
            &[-3.0, -3.0, 0.0, 7.0, 7.0],
            &[-1.0, 1.0, -2.0, 2.0],
            &many,
        ];
        for (seed, spectrum) in spectra.iter().enumerate() {
            let m = spectrum.len();
            let mut want = spectrum.to_vec();
            want.sort_by(f64::total_cmp);
            let scale = want.iter().fold(0.0, |s: f64, v| s.max(v.abs()));
            let got = symmetric_eigenvalues(with_eigenvalues(spectrum, seed as u64), m);
            assert_eq!(got.len(), m);
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() <= 1e-13 * scale, "{got:?}, expected {want:?}");
            }
        }
    }

    #[test]
    fn matrices_with_zeros_need_no_special_care() {
        // Diagonal, and two blocks that do not touch.
        assert_eq!(symmetric_eigenvalues(vec![3.0, 0.0, 0.0, -1.0], 2), [-1.0, 3.0]);
        #[rustfmt::skip]
        let blocks = vec![
            0.0, 1.0, 0.0, 0.0,
            1.0, 0.0, 0.0, 0.0,
            0.0, 0.0, 2.0, 1.0,
            0.0, 0.0, 1.0, 2.0,
        ];
        for (g, w) in symmetric_eigenvalues(blocks, 4).iter().zip([-1.0, 1.0, 1.0, 3.0]) {
            assert!((g - w).abs() < 1e-14, "{g}, expected {w}");
        }
    }
}
