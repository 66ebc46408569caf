//! Each anchor with its own negatives: CPC's loss (van den Oord, Li & Vinyals 2018, arXiv:1807.03748, eq. 4).

use super::cpu::{Rows, add_exp, dot};
use super::pairs::pull;
use super::{check_rows, check_temperature, reference, widen};
use crate::element::{Element, View, on_fast_path, slice, with_element};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

const OP: &str = "info_nce_explicit";

/// anchors, positives `[n, d]` and negatives `[n, m, d]`, none of them normalised: row i of the negatives is anchor i's.
/// Returns a scalar.
///
/// ```text
/// loss = 1/n Σ_i [ ln( exp s_i + Σ_j exp s_ij ) − s_i ],   s_i = cos(anchor i, positive i)/τ,  s_ij = cos(anchor i, negative ij)/τ
/// ```
///
/// Gradients: all three. Numbers as for [`nt_xent`](super::nt_xent); memory is that of the negatives.
///
/// # Errors
/// Shapes, dtypes or devices that do not fit, n, m or d of 0, the temperature.
pub fn info_nce_explicit(
    anchors: &Tensor,
    positives: &Tensor,
    negatives: &Tensor,
    temperature: f64,
) -> Result<Tensor> {
    let n = check_rows(OP, anchors, "anchors of [n, d] with n, d ≥ 1")?;
    let d = anchors.dim(1)?;
    check::like(OP, "positives", anchors, positives)?;
    check::like(OP, "negatives", anchors, negatives)?;
    if positives.dims() != [n, d] {
        return Err(check::shape_error(OP, format!("positives of [{n}, {d}] as anchors"), positives));
    }
    match *negatives.dims() {
        [rows, m, width] if rows == n && m > 0 && width == d => {}
        _ => {
            return Err(check::shape_error(OP, format!("negatives of [{n}, m, {d}] with m ≥ 1"), negatives));
        }
    }
    check_temperature(OP, temperature)?;
    let (a, p, negatives) = (widen(anchors)?, widen(positives)?, widen(negatives)?);
    if !on_fast_path(&a) {
        return reference::explicit(&a, &p, &negatives, temperature);
    }
    let op = Explicit { length: temperature.recip().sqrt() };
    Ok(a.contiguous()?.apply_op3(&p.contiguous()?, &negatives.contiguous()?, op)?)
}

/// All rows are scaled to `length` = τ^(−1/2).
struct Explicit {
    length: f64,
}

impl Explicit {
    fn rows<T: Element>(&self, inputs: [&[T]; 3], d: usize) -> [Rows<T>; 3] {
        inputs.map(|x| Rows::new(x, d, self.length))
    }

    fn forward<T: Element>(&self, inputs: [&[T]; 3], d: usize) -> T {
        let [a, p, negatives] = &self.rows(inputs, d);
        let terms: Vec<f64> = (0..a.len())
            .into_par_iter()
            .map(|i| {
                let (lse, s) = lse(a, p, negatives, i);
                lse - s
            })
            .collect();
        T::from_f64(terms.iter().sum::<f64>() / a.len() as f64)
    }

    fn backward<T: Element>(&self, inputs: [&[T]; 3], d: usize, grad: f64) -> [Vec<T>; 3] {
        let [a, p, negatives] = &self.rows(inputs, d);
        let m = negatives.len() / a.len();
        let weight = grad / a.len() as f64;
        let [mut da, mut dp, mut dn] = [a, p, negatives].map(|x| vec![T::ZERO; x.values.len()]);
        let rows = da.par_chunks_mut(d).zip(dp.par_chunks_mut(d)).zip(dn.par_chunks_mut(m * d));
        rows.enumerate().for_each(|(i, ((da, dp), dn))| {
            let (lse, s) = lse(a, p, negatives, i);
            // 1 − exp(s − lse), exactly where the positive takes nearly all.
            let miss = -(s - lse).exp_m1();
            pull(da, p.row(i), weight * miss);
            pull(dp, a.row(i), weight * miss);
            for (j, dn) in dn.chunks_mut(d).enumerate() {
                let negative = negatives.row(i * m + j);
                let share = weight * (dot(a.row(i), negative) - lse).exp();
                pull(da, negative, -share);
                pull(dn, a.row(i), -share);
            }
        });
        a.backward(&mut da);
        p.backward(&mut dp);
        negatives.backward(&mut dn);
        [da, dp, dn]
    }
}

/// ln(exp s_i + Σ_j exp s_ij) and s_i of anchor i.
fn lse<T: Element>(a: &Rows<T>, p: &Rows<T>, negatives: &Rows<T>, i: usize) -> (f64, f64) {
    let m = negatives.len() / a.len();
    let s = dot(a.row(i), p.row(i));
    let all = (0..m).map(|j| dot(a.row(i), negatives.row(i * m + j)));
    (all.fold(s, add_exp), s)
}

impl CustomOp3 for Explicit {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        p: &CpuStorage,
        p_layout: &Layout,
        negatives: &CpuStorage,
        negatives_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let d = a_layout.dims()[1];
        let loss = with_element!(a.dtype(), T => {
            let inputs = [slice(a, a_layout)?, slice(p, p_layout)?, slice(negatives, negatives_layout)?];
            T::to_cpu_storage_owned(vec![self.forward::<T>(inputs, d)])
        });
        Ok((loss, Shape::from(())))
    }

    fn bwd(
        &self,
        a: &Tensor,
        p: &Tensor,
        negatives: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let d = a.dim(1)?;
        let grad = grad.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let inputs = [a, p, negatives];
        let [av, pv, nv] = [View::new(a)?, View::new(p)?, View::new(negatives)?];
        with_element!(a.dtype(), T => {
            let slices = [av.as_slice()?, pv.as_slice()?, nv.as_slice()?];
            let mut gradients = inputs.iter().zip(self.backward::<T>(slices, d, grad));
            let mut next = || gradients.next().map(|(x, g)| Tensor::from_vec(g, x.shape(), x.device())).transpose();
            Ok((next()?, next()?, next()?))
        })
    }
}
