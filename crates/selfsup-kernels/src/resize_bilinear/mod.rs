//! Bilinear resizing of NHWC images, without antialiasing, as `torch.nn.functional.interpolate(mode="bilinear")`.
//!
//! Along each side, from `size` to `out` places, place i of the result lies at u in the image:
//!
//! ```text
//! u = max((i + ½)·size/out − ½, 0)        pixels are squares (align_corners = false)
//! u = i·(size − 1)/(out − 1)              pixels are points, the corners' stay (align_corners = true; 0 if out = 1)
//! ```
//!
//! With k = ⌊u⌋ and λ = u − k it is (1 − λ)·x[k] + λ·x[k + 1], the last pixel standing for those beyond it. So
//! y = R_h·x·R_wᵀ for each channel with sparse matrices R, and dx = R_hᵀ·dy·R_w.

mod cpu;

use crate::element::{View, on_fast_path, slice, with_element};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor, WithDType};

const OP: &str = "resize_bilinear";

/// x `[n, h, w, c]` → `[n, out_h, out_w, c]`. Gradient: x.
///
/// `align_corners` is false where images are resized (and in PyTorch by default). Places and weights are worked out
/// in f64. A pixel with weight 0 is left out, so that NaN and infinity reach no place that does not see them; of
/// the image's own size, the result is the image. Where the image shrinks below half, pixels are skipped: see
/// `selfsup-augment` for resizing with antialiasing.
///
/// # Errors
/// Other than four dimensions, one of them 0, an integer dtype, an output side of 0.
pub fn resize_bilinear(x: &Tensor, out_h: usize, out_w: usize, align_corners: bool) -> Result<Tensor> {
    check::float(OP, x)?;
    let [n, h, w, c] = check::nhwc(OP, x)?;
    for (name, value) in [("out_h", out_h), ("out_w", out_w)] {
        if value == 0 {
            return Err(check::parameter_error(OP, name, "at least 1", value));
        }
    }
    let op = ResizeBilinear {
        n,
        c,
        rows: Taps::new(h, out_h, align_corners),
        columns: Taps::new(w, out_w, align_corners),
    };
    if !on_fast_path(x) {
        return reference(x, &op);
    }
    Ok(x.contiguous()?.apply_op1(op)?)
}

/// The same in candle's operations: a product with each side's matrix. bf16 and f16 run in f32.
fn reference(x: &Tensor, op: &ResizeBilinear) -> Result<Tensor> {
    let dtype = x.dtype();
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let matrix = |taps: &Taps| -> candle_core::Result<Tensor> {
        let mut matrix = vec![0f64; taps.out * taps.size];
        for i in 0..taps.out {
            for (k, weight) in taps.at(i) {
                matrix[i * taps.size + k] += weight;
            }
        }
        Tensor::from_vec(matrix, (1, taps.out, taps.size), x.device())?.to_dtype(wide)
    };
    let (n, h, w, c) = (op.n, op.rows.size, op.columns.size, op.c);
    let rows = x.to_dtype(wide)?.reshape((n, h, w * c))?;
    let rows = matrix(&op.rows)?.broadcast_matmul(&rows)?.reshape((n * op.rows.out, w, c))?;
    let y = matrix(&op.columns)?.broadcast_matmul(&rows)?;
    Ok(y.reshape((n, op.rows.out, op.columns.out, c))?.to_dtype(dtype)?)
}

/// A sparse matrix `[out, size]`: which places of a side go into each place of the other, and how much.
#[derive(Debug)]
struct Taps {
    size: usize,
    out: usize,
    /// Row i's entries are `starts[i]..starts[i + 1]`.
    starts: Vec<usize>,
    entries: Vec<(usize, f64)>,
}

impl Taps {
    fn new(size: usize, out: usize, align_corners: bool) -> Self {
        let place = |i: usize| {
            let u = if !align_corners {
                (i as f64 + 0.5) * size as f64 / out as f64 - 0.5
            } else if out > 1 {
                (i * (size - 1)) as f64 / (out - 1) as f64
            } else {
                0.0
            };
            u.max(0.0)
        };
        let pairs = (0..out).map(|i| {
            let u = place(i);
            let k = (u as usize).min(size - 1);
            let share = if k + 1 < size { u - k as f64 } else { 0.0 };
            [(k, 1.0 - share), (k + 1, share)]
        });
        Self::from_rows(
            size,
            pairs.map(|pair| pair.into_iter().filter(|(_, weight)| *weight > 0.0).collect()),
        )
    }

    fn from_rows(size: usize, rows: impl Iterator<Item = Vec<(usize, f64)>>) -> Self {
        let (mut starts, mut entries) = (vec![0], Vec::new());
        for row in rows {
            entries.extend(row);
            starts.push(entries.len());
        }
        Self { size, out: starts.len() - 1, starts, entries }
    }

    fn transposed(&self) -> Self {
        let mut rows = vec![Vec::new(); self.size];
        for i in 0..self.out {
            for (k, weight) in self.at(i) {
                rows[k].push((i, weight));
            }
        }
        Self::from_rows(self.out, rows.into_iter())
    }

    /// Row i's entries in ascending order of their places.
    #[inline(always)]
    fn at(&self, i: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.entries[self.starts[i]..self.starts[i + 1]].iter().copied()
    }
}

struct ResizeBilinear {
    n: usize,
    c: usize,
    rows: Taps,
    columns: Taps,
}

impl CustomOp1 for ResizeBilinear {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = with_element!(x.dtype(), T => {
            T::to_cpu_storage_owned(cpu::resample::<T>(slice(x, layout)?, &self.rows, &self.columns, self.c))
        });
        Ok((y, Shape::from((self.n, self.rows.out, self.columns.out, self.c))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let grad = View::new(&grad)?;
        let (rows, columns) = (self.rows.transposed(), self.columns.transposed());
        with_element!(x.dtype(), T => {
            let dx = cpu::resample::<T>(grad.as_slice()?, &rows, &columns, self.c);
            Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
        })
    }
}

#[cfg(test)]
mod tests;
