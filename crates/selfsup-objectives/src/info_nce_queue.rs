//! InfoNCE with a queue of negatives, the loss of MoCo (He, Fan, Wu, Xie & Girshick 2020, eq. 1 and algorithm 1).
//!
//! Letters: n queries, m keys in the queue, d embedding width, τ temperature.

use crate::embeddings::{check, check_pair, normalize_rows, values};
use crate::{Error, Result, validate_temperature};
use candle_core::{Device, Tensor};

/// Cross-entropy of each query's own key among the queue's.
///
/// `queries`, `keys`: `[n, d]`, `queue`: `[m, d]`, floating-point, none of them normalised; rows i of queries and keys
/// are views of one image. With all rows scaled to length 1 (a row of zeros stays zeros):
///
/// ```text
/// loss = 1/n Σᵢ [ log( exp(qᵢ·kᵢ/τ) + Σⱼ exp(qᵢ·queueⱼ/τ) ) − qᵢ·kᵢ/τ ]
/// ```
///
/// Other queries' keys are no negatives, as in the paper and the authors' code. The result is a scalar: f64 for f64 input,
/// otherwise computed and returned in f32. Gradients reach the queries, and the keys unless they are
/// detached, as MoCo's are; the queue gets none. On the CPU the n × m similarities are never held.
///
/// Errors: shapes, dtypes or widths that differ, n, m or d of 0, a temperature that [`validate_temperature`] refuses.
pub fn info_nce_queue(queries: &Tensor, keys: &Tensor, queue: &Tensor, temperature: f64) -> Result<Tensor> {
    check_queue(queries, keys, queue)?;
    validate_temperature(temperature)?;
    Ok(selfsup_kernels::info_nce::info_nce_queue(queries, keys, queue, temperature)?)
}

/// The share of the queries whose own key has a greater cosine than each of the queue's.
///
/// Shapes as for [`info_nce_queue`]. A tie is a miss. Computed in f64; no gradient. Errors: shapes, dtypes or widths that
/// differ, n, m or d of 0, values that are not finite.
pub fn queue_accuracy(queries: &Tensor, keys: &Tensor, queue: &Tensor) -> Result<f64> {
    let (n, d) = check_queue(queries, keys, queue)?;
    let unit = |z: &Tensor| -> Result<Vec<f64>> {
        let mut values = values(z)?;
        normalize_rows(&mut values, d);
        Ok(values)
    };
    let (q, k, negatives) = (unit(queries)?, unit(keys)?, unit(queue)?);
    let m = negatives.len() / d;
    let matrix = |values: &[f64], rows| Tensor::from_slice(values, (rows, d), &Device::Cpu);
    let similarities = matrix(&q, n)?.matmul(&matrix(&negatives, m)?.t()?)?.to_vec2::<f64>()?;
    let hits = similarities.iter().zip(q.chunks(d).zip(k.chunks(d))).filter(|(row, (q, k))| {
        let own: f64 = q.iter().zip(*k).map(|(q, k)| q * k).sum();
        row.iter().all(|other| *other < own)
    });
    Ok(hits.count() as f64 / n as f64)
}

fn check_queue(queries: &Tensor, keys: &Tensor, queue: &Tensor) -> Result<(usize, usize)> {
    let (n, d) = check_pair(queries, keys)?;
    let (_, width) = check("queue", queue)?;
    if width != d {
        let expected = format!("[m, {d}] as the queries' width");
        return Err(Error::Shape { what: "queue", expected, got: queue.dims().to_vec() });
    }
    if queue.dtype() != queries.dtype() {
        let expected = format!("{:?} as the queries", queries.dtype());
        return Err(Error::DType { what: "queue", expected, got: queue.dtype() });
    }
    Ok((n, d))
}
