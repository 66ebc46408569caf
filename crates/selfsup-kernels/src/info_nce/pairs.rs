//! Anchors against candidates, one positive each: the general InfoNCE, in one direction.

use super::cpu::{LogSumExp, Rows, Softmax, Tiles};
#[cfg(feature = "cuda")]
use super::cuda;
use super::{check_like, check_rows, check_temperature, reference, widen};
use crate::element::{Element, View, on_fast_path, slice, with_element};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Shape, Tensor, WithDType};
use std::sync::OnceLock;

const OP: &str = "info_nce";

/// anchors `[n, d]`, candidates `[m, d]`, not normalised; `positives[i]` is the candidate that belongs to anchor i, and
/// `excluded[i]`, where given, one that it never meets: itself, among gathered views. Returns a scalar.
///
/// ```text
/// loss = 1/n Σ_i [ ln Σ_{k ≠ excluded i} exp S(i, k) − S(i, positive i) ],   S(i, k) = cos(anchor i, candidate k)/τ
/// ```
///
/// Gradients: anchors, and candidates where a variable is behind them. With several ranks the candidates are
/// the gathered views of all, the lists' entries are rows of these, and the mean is over the rank's own
/// anchors. Numbers, memory and devices as for [`nt_xent`](super::nt_xent).
///
/// # Errors
/// Shapes, dtypes or devices that do not fit; a list that has not n entries, an entry that is no candidate, an
/// anchor whose positive is excluded; the temperature.
pub fn info_nce(
    anchors: &Tensor,
    candidates: &Tensor,
    positives: &[u32],
    excluded: Option<&[u32]>,
    temperature: f64,
) -> Result<Tensor> {
    let n = check_rows(OP, anchors, "anchors of [n, d] with n, d ≥ 1")?;
    let m = check_like(OP, "candidates", anchors, candidates)?;
    check_temperature(OP, temperature)?;
    for (name, list) in [("positives", Some(positives)), ("excluded", excluded)] {
        let Some(list) = list else { continue };
        if list.len() != n {
            return Err(check::parameter_error(OP, name, "one for each anchor", list.len()));
        }
        if let Some(&bad) = list.iter().find(|&&k| k as usize >= m) {
            return Err(check::parameter_error(OP, name, "rows of the candidates", bad));
        }
    }
    if let Some(i) = excluded.and_then(|e| (0..n).find(|&i| e[i] == positives[i])) {
        return Err(check::parameter_error(OP, "excluded", "other than the positive", positives[i]));
    }
    #[cfg(feature = "cuda")]
    if cuda::takes(anchors)? && m <= i32::MAX as usize {
        let (positives, excluded) = (positives.to_vec(), excluded.map(<[u32]>::to_vec));
        let form = cuda::Form::Pairs { positives, excluded };
        return cuda::apply(OP, form, &[anchors, candidates], 1.0 / temperature);
    }
    let (anchors, candidates) = (widen(anchors)?, widen(candidates)?);
    #[cfg(feature = "metal")]
    if super::metal::applies(&[&anchors, &candidates]) {
        return super::metal::pairs(OP, &anchors, &candidates, positives, excluded, temperature);
    }
    if !on_fast_path(&anchors) {
        return reference::pairs(&anchors, &candidates, positives, excluded, temperature);
    }
    let op = Pairs::new(positives, excluded, temperature);
    Ok(anchors.contiguous()?.apply_op2(&candidates.contiguous()?, op)?)
}

/// Both sides' rows are scaled to `length` = τ^(−1/2).
pub(super) struct Pairs {
    positives: Vec<u32>,
    excluded: Option<Vec<u32>>,
    length: f64,
    pub(super) block: Option<usize>,
    lse: OnceLock<LogSumExp>,
}

impl Pairs {
    pub(super) fn new(positives: &[u32], excluded: Option<&[u32]>, temperature: f64) -> Self {
        let (positives, excluded) = (positives.to_vec(), excluded.map(<[u32]>::to_vec));
        let length = temperature.recip().sqrt();
        Self { positives, excluded, length, block: None, lse: OnceLock::new() }
    }

    fn tiles<'a, T: Element>(&'a self, a: &'a Rows<T>, b: &'a Rows<T>) -> Tiles<'a, T> {
        Tiles::rectangle(a, b, self.excluded.as_deref())
            .with_positives(&self.positives)
            .with_block(self.block)
    }

    fn forward<T: Element>(&self, a: &[T], b: &[T], d: usize) -> T {
        let (a, b) = (Rows::new(a, d, self.length), Rows::new(b, d, self.length));
        let lse = self.lse.get_or_init(|| self.tiles(&a, &b).log_sum_exp(false));
        let sum: f64 = lse.rows.iter().zip(&lse.positives).map(|(lse, s)| lse - s).sum();
        T::from_f64(sum / a.len() as f64)
    }

    fn backward<T: Element>(&self, a: &[T], b: &[T], d: usize, grad: f64, with_db: bool) -> (Vec<T>, Vec<T>) {
        let (a, b) = (Rows::new(a, d, self.length), Rows::new(b, d, self.length));
        let tiles = self.tiles(&a, &b);
        let lse = &self.lse.get_or_init(|| tiles.log_sum_exp(false)).rows;
        let weight = grad / a.len() as f64;
        let weights = vec![weight; a.len()];
        let (mut da, mut db) = tiles.weighted_sums(Softmax { weights: &weights, lse }, None, with_db);
        for (i, &p) in self.positives.iter().enumerate() {
            let p = p as usize;
            pull(&mut da[i * d..(i + 1) * d], b.row(p), weight);
            if with_db {
                pull(&mut db[p * d..(p + 1) * d], a.row(i), weight);
            }
        }
        a.backward(&mut da);
        if with_db {
            b.backward(&mut db);
        }
        (da, db)
    }
}

/// dv ← dv − weight·v.
pub(super) fn pull<T: Element>(dv: &mut [T], v: &[T], weight: f64) {
    for (dv, v) in dv.iter_mut().zip(v) {
        *dv = T::from_f64(dv.to_f64() - weight * v.to_f64());
    }
}

impl CustomOp2 for Pairs {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let d = a_layout.dims()[1];
        let loss = with_element!(a.dtype(), T => {
            T::to_cpu_storage_owned(vec![self.forward::<T>(slice(a, a_layout)?, slice(b, b_layout)?, d)])
        });
        Ok((loss, Shape::from(())))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (d, with_db) = (a.dim(1)?, b.track_op());
        let grad = grad.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let (av, bv) = (View::new(a)?, View::new(b)?);
        with_element!(a.dtype(), T => {
            let (da, db) = self.backward::<T>(av.as_slice()?, bv.as_slice()?, d, grad, with_db);
            let da = Tensor::from_vec(da, a.shape(), a.device())?;
            let db = if with_db { Some(Tensor::from_vec(db, b.shape(), b.device())?) } else { None };
            Ok((Some(da), db))
        })
    }
}
