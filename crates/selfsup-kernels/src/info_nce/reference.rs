//! The same in candle's operations, for devices without a kernel: it holds the n × n similarities.

use super::positives::Positives;
use crate::{Result, l2_normalize, log_softmax};
use candle_core::{D, DType, Tensor};

/// The length below which a vector counts as 0.
const EPS: f64 = 1e-30;

pub(super) fn self_contrast(z: &Tensor, positives: &Positives, temperature: f64) -> Result<Tensor> {
    let n = z.dim(0)?;
    let (device, dtype) = (z.device(), z.dtype());
    let z = l2_normalize(z, EPS)?;
    // The temperature divides n rows here instead of n × n logits.
    let logits = (&z * (1.0 / temperature))?.matmul(&z.t()?)?;
    let ids = Tensor::arange(0u32, n as u32, device)?;
    let itself = ids.unsqueeze(1)?.broadcast_eq(&ids.unsqueeze(0)?)?;
    let out = Tensor::full(f32::NEG_INFINITY, (n, n), device)?.to_dtype(dtype)?;
    let log_p = log_softmax(&itself.where_cond(&out, &logits)?)?;
    match positives {
        Positives::OtherView => {
            let half = (n / 2) as u32;
            let other = Tensor::from_iter((half..2 * half).chain(0..half), device)?.unsqueeze(1)?;
            Ok(log_p.gather(&other, 1)?.mean_all()?.neg()?)
        }
        Positives::SameLabel(labels) => {
            let labels = Tensor::from_slice(labels, n, device)?;
            let same = labels.unsqueeze(1)?.broadcast_eq(&labels.unsqueeze(0)?)?;
            mean_over_positives(&log_p, &same.to_dtype(dtype)?, &itself)
        }
        Positives::Listed(listed) => {
            let mask = Tensor::from_vec(listed.mask(n), (n, n), device)?;
            mean_over_positives(&log_p, &mask.to_dtype(dtype)?, &itself)
        }
    }
}

/// −1/anchors Σ_i 1/|P(i)| Σ_{p ∈ P(i)} log p(i, p), with positives where `mask` is 1 but not on the diagonal.
fn mean_over_positives(log_p: &Tensor, mask: &Tensor, itself: &Tensor) -> Result<Tensor> {
    let zeros = mask.zeros_like()?;
    let mask = itself.where_cond(&zeros, mask)?;
    // −∞ at itself would make NaN of 0 · −∞.
    let log_p = itself.where_cond(&zeros, log_p)?;
    let counts = mask.sum(1)?;
    let anchors =
        counts.ne(0.0)?.to_dtype(log_p.dtype())?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    let means = ((log_p * mask)?.sum(1)? / counts.maximum(1.0)?)?;
    Ok((means.sum_all()? * (-1.0 / anchors.max(1.0)))?)
}

pub(super) fn pairs(
    anchors: &Tensor,
    candidates: &Tensor,
    positives: &[u32],
    excluded: Option<&[u32]>,
    temperature: f64,
) -> Result<Tensor> {
    let (n, m) = (anchors.dim(0)?, candidates.dim(0)?);
    let device = anchors.device();
    let (a, c) = (l2_normalize(anchors, EPS)?, l2_normalize(candidates, EPS)?);
    let mut logits = (a * (1.0 / temperature))?.matmul(&c.t()?)?;
    if let Some(excluded) = excluded {
        let excluded = Tensor::from_slice(excluded, (n, 1), device)?;
        let out = excluded.broadcast_eq(&Tensor::arange(0u32, m as u32, device)?.unsqueeze(0)?)?;
        let infinity = Tensor::full(f32::NEG_INFINITY, (n, m), device)?.to_dtype(logits.dtype())?;
        logits = out.where_cond(&infinity, &logits)?;
    }
    let positives = Tensor::from_slice(positives, (n, 1), device)?;
    Ok(log_softmax(&logits)?.gather(&positives, 1)?.mean_all()?.neg()?)
}

pub(super) fn two_tower(a: &Tensor, b: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let n = a.dim(0)?;
    let (a, b) = (l2_normalize(a, EPS)?, l2_normalize(b, EPS)?);
    let logits = a.matmul(&b.t()?)?.broadcast_mul(scale)?;
    let itself = Tensor::arange(0u32, n as u32, logits.device())?.unsqueeze(1)?;
    let half = |logits: &Tensor| -> Result<Tensor> {
        Ok((log_softmax(logits)?.gather(&itself, 1)?.mean_all()? * -0.5)?)
    };
    Ok((half(&logits)? + half(&logits.t()?.contiguous()?)?)?)
}

pub(super) fn query_key(q: &Tensor, k: &Tensor, queue: &Tensor, temperature: f64) -> Result<Tensor> {
    let [q, k, queue] = [q, k, queue].map(|x| l2_normalize(x, EPS));
    let (q, k) = (q?, k?);
    let own = (&q * &k)?.sum_keepdim(D::Minus1)?;
    first_is_right(&Tensor::cat(&[own, q.matmul(&queue?.t()?)?], 1)?, temperature)
}

pub(super) fn explicit(a: &Tensor, p: &Tensor, negatives: &Tensor, temperature: f64) -> Result<Tensor> {
    let [a, p, negatives] = [a, p, negatives].map(|x| l2_normalize(x, EPS));
    let (a, p) = (a?, p?);
    let own = (&a * &p)?.sum_keepdim(D::Minus1)?;
    let others = negatives?.matmul(&a.unsqueeze(2)?)?.squeeze(2)?;
    first_is_right(&Tensor::cat(&[own, others], 1)?, temperature)
}

fn first_is_right(cosines: &Tensor, temperature: f64) -> Result<Tensor> {
    Ok(log_softmax(&(cosines * (1.0 / temperature))?)?.narrow(1, 0, 1)?.mean_all()?.neg()?)
}
