//! The colours that colorization chooses from, and how a colour is written as a mixture of them.
//!
//! Zhang, Isola & Efros 2016, "Colorful Image Colorization", arXiv:1603.08511, §2. The plane of a and b (CIE L*a*b*) is divided into
//! bins of 10 units; those about the colours of sRGB remain, Q = 313.
//!
//! Letters: p pixels, q bins, k nearest bins.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Side of a bin.
const GRID: i32 = 10;
/// Bins, in grid steps, of the authors' list (`pts_in_hull`) that are no corner of a square that sRGB reaches. The paper gives no rule
/// for its 313 bins. The corners of all squares of the grid that hold a colour of sRGB are 309, every one of them in the list; these
/// four are what is left of it.
const BESIDE: [(i32, i32); 4] = [(4, 9), (10, -9), (10, -1), (10, 0)];
/// Nearest bins that a colour is written by (§2.1; the authors' code takes 10).
const NEAREST: usize = 5;
/// σ of their weights (§2.1).
const SIGMA: f32 = 5.0;

/// The bins' centres (a, b), by a, then by b.
///
/// # Errors
/// None but candle's.
pub fn ab_bins() -> Result<&'static [[f32; 2]]> {
    static BINS: OnceLock<Vec<[f32; 2]>> = OnceLock::new();
    if let Some(bins) = BINS.get() {
        return Ok(bins);
    }
    let bins = in_gamut()?;
    Ok(BINS.get_or_init(|| bins))
}

/// Every colour's projection to a and b lies within that of the RGB cube's six faces: a line of constant a and b leaves the cube
/// through them.
fn in_gamut() -> Result<Vec<[f32; 2]>> {
    let mut faces = Vec::with_capacity((6 * 3) << 16);
    for (axis, end) in (0..3).flat_map(|axis| [(axis, 0u8), (axis, 255)]) {
        for u in 0..=255u8 {
            for v in 0..=255u8 {
                let mut rgb = [end; 3];
                (rgb[(axis + 1) % 3], rgb[(axis + 2) % 3]) = (u, v);
                faces.extend(rgb);
            }
        }
    }
    let n = faces.len() / 3;
    let lab = selfsup_kernels::rgb_to_lab(&Tensor::from_vec(faces, (n, 3), &Device::Cpu)?)?;
    let mut corners = std::collections::BTreeSet::from(BESIDE);
    for row in lab.flatten_all()?.to_vec1::<f32>()?.chunks_exact(3) {
        let [i, j] = [row[1], row[2]].map(|v| v / GRID as f32).map(|v| [v.floor() as i32, v.ceil() as i32]);
        corners.extend(i.into_iter().flat_map(|i| j.map(|j| (i, j))));
    }
    Ok(corners.into_iter().map(|(i, j)| [i, j].map(|at| (at * GRID) as f32)).collect())
}

fn distance2([a, b]: [f32; 2], [c, d]: [f32; 2]) -> f32 {
    (a - c).powi(2) + (b - d).powi(2)
}

/// Colours as mixtures of bins.
#[derive(Debug, Clone)]
pub struct SoftBins {
    /// u32 `[p, k]`: each pixel's nearest bins, the nearest first.
    pub bins: Tensor,
    /// f32 `[p, k]`: their shares, which add up to 1.
    pub shares: Tensor,
}

/// Writes colours `[.., 2]`, f32, as mixtures of their five nearest bins, by a Gaussian of σ = 5 of the distance (§2.1). Worked out
/// on the host. Of bins as near, the one with the lower number comes first.
///
/// # Errors
/// Another dtype or last dimension, no pixel, a colour that is not finite.
pub fn soft_bins(ab: &Tensor) -> Result<SoftBins> {
    let bins = ab_bins()?;
    let values = colours(ab)?;
    let encode = |row: &[f32]| -> [(u32, f32); NEAREST] {
        let mut nearest = [(0u32, f32::INFINITY); NEAREST];
        for (q, &centre) in bins.iter().enumerate() {
            let d = distance2([row[0], row[1]], centre);
            if d < nearest[NEAREST - 1].1 {
                let place = nearest.iter().position(|&(_, other)| d < other).unwrap_or(NEAREST - 1);
                nearest[place..].rotate_right(1);
                nearest[place] = (q as u32, d);
            }
        }
        // Relative to the nearest: a colour far from every bin still has shares.
        let least = nearest[0].1;
        let weights = nearest.map(|(_, d)| ((least - d) / (2.0 * SIGMA * SIGMA)).exp());
        let sum: f32 = weights.iter().sum();
        std::array::from_fn(|k| (nearest[k].0, weights[k] / sum))
    };
    let coded: Vec<[(u32, f32); NEAREST]> = values.par_chunks_exact(2).map(encode).collect();
    let shape = (coded.len(), NEAREST);
    let (bins, shares): (Vec<u32>, Vec<f32>) = coded.into_iter().flatten().unzip();
    Ok(SoftBins {
        bins: Tensor::from_vec(bins, shape, ab.device())?,
        shares: Tensor::from_vec(shares, shape, ab.device())?,
    })
}

/// How many of the colours `[.., 2]`, f32, lie nearest to each bin, added to `counts`, one a bin.
///
/// # Errors
/// Those of [`soft_bins`], and another number of counts.
pub fn count_bins(ab: &Tensor, counts: &mut [u64]) -> Result<()> {
    if counts.len() != ab_bins()?.len() {
        let expected = format!("[{}], one a bin", ab_bins()?.len());
        return Err(Error::Shape { what: "counts", expected, got: vec![counts.len()] });
    }
    for q in soft_bins(ab)?.bins.narrow(1, 0, 1)?.flatten_all()?.to_vec1::<u32>()? {
        counts[q as usize] += 1;
    }
    Ok(())
}

fn colours(ab: &Tensor) -> Result<Vec<f32>> {
    if ab.dtype() != DType::F32 {
        return Err(Error::DType { what: "ab", expected: "F32".into(), got: ab.dtype() });
    }
    if ab.dims().last() != Some(&2) || ab.elem_count() == 0 {
        let expected = "[.., 2] with at least one pixel".into();
        return Err(Error::Shape { what: "ab", expected, got: ab.dims().to_vec() });
    }
    let values: Vec<f32> = ab.flatten_all()?.to_vec1()?;
    if values.iter().all(|v| v.is_finite()) { Ok(values) } else { Err(Error::NonFinite) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paper_s_313_bins() {
        let bins = ab_bins().unwrap();
        assert_eq!(bins.len(), 313);
        assert!(bins.is_sorted_by(|x, y| x < y));
        // The authors' list, `pts_in_hull`: of each a from −90 to 100 the first and the last b; all between them are in it.
        let rows: [(i32, i32); 20] = [
            (50, 90),
            (20, 90),
            (0, 90),
            (-20, 90),
            (-30, 100),
            (-40, 100),
            (-50, 100),
            (-50, 100),
            (-60, 100),
            (-70, 100),
            (-80, 90),
            (-80, 90),
            (-90, 90),
            (-100, 90),
            (-100, 80),
            (-110, 80),
            (-110, 80),
            (-110, 70),
            (-110, 70),
            (-90, 0),
        ];
        let listed: Vec<[f32; 2]> = (-90..=100)
            .step_by(10)
            .zip(rows)
            .flat_map(|(a, (first, last))| (first..=last).step_by(10).map(move |b| [a as f32, b as f32]))
            .collect();
        assert_eq!(bins, listed);
    }

    #[test]
    fn a_colour_is_the_mean_of_its_mixture_and_its_shares_the_gaussian_s() {
        let bins = ab_bins().unwrap();
        let ab = [[3.0f32, -4.0], [0.0, 0.0], [12.0, 31.5]];
        let coded = soft_bins(&Tensor::new(&ab, &Device::Cpu).unwrap()).unwrap();
        let (q, w) = (coded.bins.to_vec2::<u32>().unwrap(), coded.shares.to_vec2::<f32>().unwrap());
        for ((row, q), w) in ab.iter().zip(&q).zip(&w) {
            // By a plain sort.
            let mut all: Vec<(f64, usize)> = bins
                .iter()
                .enumerate()
                .map(|(i, c)| (f64::from((c[0] - row[0]).powi(2) + (c[1] - row[1]).powi(2)), i))
                .collect();
            all.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.cmp(&y.1)));
            let weights: Vec<f64> = all[..5].iter().map(|(d, _)| (-d / 50.0).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for k in 0..5 {
                assert_eq!(q[k] as usize, all[k].1);
                assert!((f64::from(w[k]) - weights[k] / sum).abs() < 1e-6);
            }
        }
        let mut counts = vec![0; 313];
        count_bins(&Tensor::new(&ab, &Device::Cpu).unwrap(), &mut counts).unwrap();
        assert_eq!(counts.iter().sum::<u64>(), 3);
        assert_eq!(
            counts[bins.iter().position(|b| *b == [0.0, 0.0]).unwrap()],
            2,
            "(3, −4) is nearest to it too"
        );
    }

    #[test]
    fn bad_input_is_an_error_that_says_so() {
        let f = |t: Tensor| soft_bins(&t).unwrap_err().to_string();
        assert!(f(Tensor::new(&[[1f32, 2.0, 3.0]], &Device::Cpu).unwrap()).contains("[.., 2]"));
        assert!(f(Tensor::new(&[[1f64, 2.0]], &Device::Cpu).unwrap()).contains("F32"));
        assert!(f(Tensor::new(&[[1f32, f32::NAN]], &Device::Cpu).unwrap()).contains("finite"));
        let ab = Tensor::new(&[[1f32, 2.0]], &Device::Cpu).unwrap();
        assert!(count_bins(&ab, &mut [0; 12]).unwrap_err().to_string().contains("313"));
    }
}
