//! Rows of one matrix against each other: NT-Xent, the supervised contrastive loss, and any positives by a mask.

use super::cpu::{LogSumExp, Rows, Softmax, Tiles, dot};
#[cfg(feature = "cuda")]
use super::cuda;
use super::positives::{Listed, Positives};
use super::{check_rows, check_temperature, reference, widen};
use crate::element::{Element, View, on_fast_path, slice, with_element};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor, WithDType};
use std::sync::OnceLock;

/// NT-Xent of 2n views (Chen et al. 2020, eq. 1 and algorithm 1): z `[2n, d]`, where rows i and i + n are views of
/// one image, not normalised. Returns a scalar, the mean over the 2n anchors. Gradient: z.
///
/// An anchor's positive is its other view; every other row but itself is a negative. f64 is computed in f64, any
/// narrower type in f32. A row of zeros has similarity 0 to all and gets no gradient. NaN and infinite input
/// gives NaN. For n = 1 loss and gradient are 0. The CPU, and CUDA and Apple GPUs with their features (see the
/// [module](super)), need O(n·d) memory beside z; other devices run in candle's operations and hold the (2n)² similarities.
///
/// # Errors
/// z that is not `[2n, d]` with n, d ≥ 1; an integer dtype; a temperature that is not finite or below
/// [`MIN_TEMPERATURE`](super::MIN_TEMPERATURE).
pub fn nt_xent(z: &Tensor, temperature: f64) -> Result<Tensor> {
    const OP: &str = "nt_xent";
    let n = check_rows(OP, z, "z of [2n, d] with n, d ≥ 1")?;
    if n % 2 != 0 {
        return Err(check::shape_error(OP, "z of [2n, d] with n, d ≥ 1", z));
    }
    apply(OP, z, Positives::OtherView, temperature)
}

/// The supervised contrastive loss (Khosla et al. 2020, arXiv:2004.11362, eq. 2, "L_out"): z `[n, d]`, not
/// normalised; the positives of a row are all other rows with its label. Returns a scalar. Gradient: z.
///
/// ```text
/// loss = mean over the anchors i of  1/|P(i)| Σ_{p ∈ P(i)} [ lse_i − S(i, p) ]
/// ```
///
/// A row that is alone with its label is a negative of the others and no anchor itself; without any anchor the
/// loss is 0. With two views of n images, labelled 0…n twice, it is [`nt_xent`]. Otherwise as there. The authors'
/// code multiplies by τ/0.07.
///
/// # Errors
/// z that is not `[n, d]` with n, d ≥ 1; a number of labels other than n; else those of [`nt_xent`].
pub fn sup_con(z: &Tensor, labels: &[u32], temperature: f64) -> Result<Tensor> {
    const OP: &str = "sup_con";
    let n = check_rows(OP, z, "z of [n, d] with n, d ≥ 1")?;
    if labels.len() != n {
        return Err(check::shape_error(OP, format!("z with a row for each of {} labels", labels.len()), z));
    }
    apply(OP, z, Positives::SameLabel(labels.to_vec()), temperature)
}

/// The same with any positives: mask `[n, n]`, u8, where row k is a positive of row i if mask[i, k] ≠ 0. The diagonal does
/// not matter, and the mask need not be symmetric.
///
/// A row without positives is a negative of the others and no anchor itself. With the mask of equal labels it is
/// [`sup_con`], and otherwise as there. The mask is read on the host, wherever it lies.
///
/// # Errors
/// z that is not `[n, d]` with n, d ≥ 1; a mask that is not `[n, n]` or not u8; else those of [`nt_xent`].
pub fn sup_con_mask(z: &Tensor, mask: &Tensor, temperature: f64) -> Result<Tensor> {
    const OP: &str = "sup_con_mask";
    let n = check_rows(OP, z, "z of [n, d] with n, d ≥ 1")?;
    if mask.dtype() != DType::U8 {
        return Err(check::dtype_error(OP, "a mask of U8", mask.dtype()));
    }
    if mask.dims() != [n, n] {
        return Err(check::shape_error(OP, format!("a mask of [{n}, {n}], as z has {n} rows"), mask));
    }
    check_temperature(OP, temperature)?;
    let mask = mask.flatten_all()?.to_vec1::<u8>()?;
    apply(OP, z, Positives::Listed(Listed::from_mask(&mask, n)), temperature)
}

fn apply(op: &'static str, z: &Tensor, positives: Positives, temperature: f64) -> Result<Tensor> {
    check_temperature(op, temperature)?;
    #[cfg(feature = "cuda")]
    if !matches!(positives, Positives::Listed(_)) && cuda::takes(z)? {
        return cuda::apply(op, cuda::Form::SelfContrast(positives), &[z], 1.0 / temperature);
    }
    let z = widen(z)?;
    #[cfg(feature = "metal")]
    if super::metal::applies(&[&z]) {
        return super::metal::self_contrast(op, &z, &positives, temperature);
    }
    if !on_fast_path(&z) {
        return reference::self_contrast(&z, &positives, temperature);
    }
    Ok(z.contiguous()?.apply_op1(SelfContrast::new(op, positives, temperature))?)
}

/// All rows are scaled to `length` = τ^(−1/2), so that S = v vᵀ.
pub(super) struct SelfContrast {
    op: &'static str,
    positives: Positives,
    length: f64,
    /// Rows of a tile, if not what their number suggests.
    pub(super) block: Option<usize>,
    lse: OnceLock<LogSumExp>,
}

impl SelfContrast {
    pub(super) fn new(op: &'static str, positives: Positives, temperature: f64) -> Self {
        Self { op, positives, length: temperature.recip().sqrt(), block: None, lse: OnceLock::new() }
    }

    fn tiles<'a, T: Element>(&self, rows: &'a Rows<T>) -> Tiles<'a, T> {
        Tiles::triangle(rows).with_block(self.block)
    }

    fn lse<T: Element>(&self, rows: &Rows<T>) -> &LogSumExp {
        self.lse.get_or_init(|| match self.positives.single(rows.len()) {
            Some(positives) => self.tiles(rows).with_positives(&positives).log_sum_exp(false),
            None => self.tiles(rows).log_sum_exp(false),
        })
    }

    fn forward<T: Element>(&self, z: &[T], d: usize) -> T {
        let rows = Rows::new(z, d, self.length);
        let targets = self.positives.targets(&rows);
        let lse = self.lse(&rows);
        let positive = |i: usize| match self.positives {
            Positives::OtherView => lse.positives[i],
            Positives::SameLabel(_) | Positives::Listed(_) => dot(rows.row(i), targets.mean(i)),
        };
        let anchors = (0..rows.len()).filter(|&i| targets.weights[i] > 0.0);
        T::from_f64(anchors.map(|i| targets.weights[i] * (lse.rows[i] - positive(i))).sum())
    }

    fn backward<T: Element>(&self, z: &[T], d: usize, grad: f64) -> Vec<T> {
        let rows = Rows::new(z, d, self.length);
        let targets = self.positives.targets(&rows);
        let tiles = self.tiles(&rows);
        let softmax = Softmax { weights: &targets.weights, lse: &self.lse(&rows).rows };
        let (mut dv, _) = tiles.weighted_sums(softmax, None, false);
        for (i, dv) in dv.chunks_mut(d).enumerate() {
            let (along, pull) = targets.pull(i);
            for (dv, v) in dv.iter_mut().zip(along) {
                *dv = T::from_f64((dv.to_f64() - pull * v.to_f64()) * grad);
            }
        }
        rows.backward(&mut dv);
        dv
    }
}

impl CustomOp1 for SelfContrast {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(&self, z: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let d = layout.dims()[1];
        let loss = with_element!(z.dtype(), T => {
            T::to_cpu_storage_owned(vec![self.forward::<T>(slice(z, layout)?, d)])
        });
        Ok((loss, Shape::from(())))
    }

    fn bwd(&self, z: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let d = z.dim(1)?;
        let grad = grad.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let view = View::new(z)?;
        with_element!(z.dtype(), T => {
            Tensor::from_vec(self.backward::<T>(view.as_slice()?, d, grad), z.shape(), z.device()).map(Some)
        })
    }
}
