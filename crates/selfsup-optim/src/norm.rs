//! Sums of squares in f64, in one fixed order: the same bits for any number of threads and any instruction
//! set.
//!
//! A tensor is cut into chunks of a fixed length, a chunk is summed in eight lanes, the lanes and then the
//! chunks are added in their order.

use crate::Result;
use candle_core::{CpuStorage, DType, Storage, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Elements that one thread takes at a time.
pub(crate) const CHUNK: usize = 1 << 14;
const LANES: usize = 8;

/// Σ x² over a tensor of any floating-point dtype and layout.
pub(crate) fn sum_of_squares(x: &Tensor) -> Result<f64> {
    let x = x.contiguous()?;
    {
        let (storage, layout) = x.storage_and_layout();
        if let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
            (&*storage, layout.contiguous_offsets())
        {
            return Ok(sum_chunks(&values[start..end]));
        }
    }
    let wide = if matches!(x.dtype(), DType::F64) { x } else { x.to_dtype(DType::F32)? };
    Ok(wide.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar()?)
}

/// Σ x².
pub(crate) fn sum_chunks(x: &[f32]) -> f64 {
    if x.len() <= CHUNK {
        return sum_chunk(x);
    }
    x.par_chunks(CHUNK).map(sum_chunk).collect::<Vec<_>>().iter().sum()
}

/// (Σ w², Σ (g + decay·w)²).
pub(crate) fn sum_pair(w: &[f32], g: &[f32], decay: f64) -> (f64, f64) {
    if w.len() <= CHUNK {
        return sum_pair_chunk(w, g, decay);
    }
    let sums: Vec<_> =
        w.par_chunks(CHUNK).zip(g.par_chunks(CHUNK)).map(|(w, g)| sum_pair_chunk(w, g, decay)).collect();
    sums.iter().fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d))
}

fn sum_chunk(x: &[f32]) -> f64 {
    Arch::new().dispatch(Sum(x))
}

/// Two loops over a chunk that the cache holds.
fn sum_pair_chunk(w: &[f32], g: &[f32], decay: f64) -> (f64, f64) {
    (sum_chunk(w), Arch::new().dispatch(SumDecayed { w, g, decay }))
}

/// Σ x². A loop that is to be compiled for each instruction set is the body of a `with_simd`: a closure may
/// stay a function of its own, compiled for the oldest processor.
struct Sum<'a>(&'a [f32]);

impl WithSimd for Sum<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let mut acc = [0.0; LANES];
        let (lanes, rest) = self.0.as_chunks::<LANES>();
        for x in lanes {
            for (acc, x) in acc.iter_mut().zip(x) {
                let x = f64::from(*x);
                *acc += x * x;
            }
        }
        for (acc, x) in acc.iter_mut().zip(rest) {
            let x = f64::from(*x);
            *acc += x * x;
        }
        acc.iter().sum()
    }
}

/// Σ (g + decay·w)².
struct SumDecayed<'a> {
    w: &'a [f32],
    g: &'a [f32],
    decay: f64,
}

impl WithSimd for SumDecayed<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let Self { w, g, decay } = self;
        let mut acc = [0.0; LANES];
        let (w_lanes, w_rest) = w.as_chunks::<LANES>();
        let (g_lanes, g_rest) = g.as_chunks::<LANES>();
        for (w, g) in w_lanes.iter().zip(g_lanes) {
            for ((acc, w), g) in acc.iter_mut().zip(w).zip(g) {
                let u = f64::from(*g) + decay * f64::from(*w);
                *acc += u * u;
            }
        }
        for ((acc, w), g) in acc.iter_mut().zip(w_rest).zip(g_rest) {
            let u = f64::from(*g) + decay * f64::from(*w);
            *acc += u * u;
        }
        acc.iter().sum()
    }
}
