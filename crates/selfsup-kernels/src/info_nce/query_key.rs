//! Queries against their own keys and a queue of earlier ones: MoCo's loss (He et al. 2020, arXiv:1911.05722, eq. 1).

use super::cpu::{Rows, Softmax, Tiles, add_exp, dot};
#[cfg(feature = "cuda")]
use super::cuda;
use super::pairs::pull;
use super::{check_like, check_rows, check_temperature, reference, widen};
use crate::element::{Element, View, on_fast_path, slice, with_element};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor, WithDType};
use std::sync::OnceLock;

const OP: &str = "info_nce_queue";

/// queries, keys `[n, d]` and queue `[m, d]`, none of them normalised. Returns a scalar.
///
/// ```text
/// loss = 1/n Σ_i [ ln( exp s_i + Σ_j exp S(i, j) ) − s_i ],   s_i = cos(query i, key i)/τ,  S(i, j) = cos(query i, queue j)/τ
/// ```
///
/// Another query's key is no negative. Gradients: queries, and keys where a variable is behind them (MoCo detaches
/// them); the queue takes none. Numbers, memory and devices as for [`nt_xent`](super::nt_xent).
///
/// # Errors
/// Shapes, dtypes or devices that do not fit, an empty queue, the temperature.
pub fn info_nce_queue(queries: &Tensor, keys: &Tensor, queue: &Tensor, temperature: f64) -> Result<Tensor> {
    let n = check_rows(OP, queries, "queries of [n, d] with n, d ≥ 1")?;
    if check_like(OP, "keys", queries, keys)? != n {
        return Err(check::shape_error(OP, format!("keys of [{n}, d] as queries"), keys));
    }
    check_like(OP, "queue", queries, queue)?;
    check_temperature(OP, temperature)?;
    #[cfg(feature = "cuda")]
    if cuda::takes(queries)? && queue.dim(0)? <= i32::MAX as usize {
        let inputs = [queries, keys, &queue.detach()];
        return cuda::apply(OP, cuda::Form::QueryKey, &inputs, 1.0 / temperature);
    }
    let (q, k, queue) = (widen(queries)?, widen(keys)?, widen(&queue.detach())?);
    #[cfg(feature = "metal")]
    if super::metal::applies(&[&q, &k, &queue]) {
        return super::metal::query_key(OP, [&q, &k, &queue], temperature);
    }
    if !on_fast_path(&q) {
        return reference::query_key(&q, &k, &queue, temperature);
    }
    let op = QueryKey::new(temperature);
    Ok(q.contiguous()?.apply_op3(&k.contiguous()?, &queue.contiguous()?, op)?)
}

/// All rows are scaled to `length` = τ^(−1/2).
pub(super) struct QueryKey {
    length: f64,
    pub(super) block: Option<usize>,
    lse: OnceLock<Vec<f64>>,
}

impl QueryKey {
    pub(super) fn new(temperature: f64) -> Self {
        Self { length: temperature.recip().sqrt(), block: None, lse: OnceLock::new() }
    }

    fn tiles<'a, T: Element>(&self, q: &'a Rows<T>, queue: &'a Rows<T>) -> Tiles<'a, T> {
        Tiles::rectangle(q, queue, None).with_block(self.block)
    }

    /// ln(exp s_i + Σ_j exp S(i, j)) of each query.
    fn lse<T: Element>(&self, q: &Rows<T>, k: &Rows<T>, queue: &Rows<T>) -> &[f64] {
        self.lse.get_or_init(|| {
            let negatives = self.tiles(q, queue).log_sum_exp(false).rows;
            negatives.iter().enumerate().map(|(i, lse)| add_exp(*lse, dot(q.row(i), k.row(i)))).collect()
        })
    }

    fn rows<T: Element>(&self, [q, k, queue]: [&[T]; 3], d: usize) -> [Rows<T>; 3] {
        [q, k, queue].map(|x| Rows::new(x, d, self.length))
    }

    fn forward<T: Element>(&self, inputs: [&[T]; 3], d: usize) -> T {
        let [q, k, queue] = &self.rows(inputs, d);
        let terms = self.lse(q, k, queue).iter().enumerate();
        let sum: f64 = terms.map(|(i, lse)| lse - dot(q.row(i), k.row(i))).sum();
        T::from_f64(sum / q.len() as f64)
    }

    fn backward<T: Element>(&self, inputs: [&[T]; 3], d: usize, grad: f64) -> (Vec<T>, Vec<T>) {
        let [q, k, queue] = &self.rows(inputs, d);
        let lse = self.lse(q, k, queue);
        let weight = grad / q.len() as f64;
        let weights = vec![weight; q.len()];
        let (mut dq, _) = self.tiles(q, queue).weighted_sums(Softmax { weights: &weights, lse }, None, false);
        let mut dk = vec![T::ZERO; k.values.len()];
        for (i, (dq, dk)) in dq.chunks_mut(d).zip(dk.chunks_mut(d)).enumerate() {
            // 1 − exp(s − lse), exactly where the positive takes nearly all.
            let miss = -(dot(q.row(i), k.row(i)) - lse[i]).exp_m1();
            pull(dq, k.row(i), weight * miss);
            pull(dk, q.row(i), weight * miss);
        }
        q.backward(&mut dq);
        k.backward(&mut dk);
        (dq, dk)
    }
}

impl CustomOp3 for QueryKey {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        queue: &CpuStorage,
        queue_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let d = q_layout.dims()[1];
        let loss = with_element!(q.dtype(), T => {
            let inputs = [slice(q, q_layout)?, slice(k, k_layout)?, slice(queue, queue_layout)?];
            T::to_cpu_storage_owned(vec![self.forward::<T>(inputs, d)])
        });
        Ok((loss, Shape::from(())))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        queue: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let d = q.dim(1)?;
        let grad = grad.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let [qv, kv, queue] = [View::new(q)?, View::new(k)?, View::new(queue)?];
        with_element!(q.dtype(), T => {
            let inputs = [qv.as_slice()?, kv.as_slice()?, queue.as_slice()?];
            let (dq, dk) = self.backward::<T>(inputs, d, grad);
            let dk = if k.track_op() { Some(Tensor::from_vec(dk, k.shape(), k.device())?) } else { None };
            Ok((Some(Tensor::from_vec(dq, q.shape(), q.device())?), dk, None))
        })
    }
}
