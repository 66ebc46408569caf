//! Cross-entropy of a classification, and how often it is right.
//!
//! Letters: n samples, c classes.

use crate::embeddings::check;
use crate::{Error, Result};
use candle_core::{D, DType, Tensor};

/// Mean cross-entropy of logits `[n, c]`, floating-point, with labels `[n]`, u32 below c.
///
/// ```text
/// loss = 1/n Σᵢ [ log Σⱼ exp xᵢⱼ − xᵢ,labelᵢ ]
/// ```
///
/// A scalar of the logits' dtype; its gradient reaches the logits. ln c is the loss of logits that say nothing.
///
/// Errors: shapes that do not fit, labels that are no u32 or not below c.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    check_labels(logits, labels)?;
    let log = selfsup_kernels::log_softmax(logits)?;
    Ok(log.gather(&labels.unsqueeze(1)?, 1)?.mean_all()?.neg()?)
}

/// The share of the samples whose label has the largest logit, in 0…1; of equal ones the first counts.
///
/// Errors: those of [`cross_entropy`].
pub fn accuracy(logits: &Tensor, labels: &Tensor) -> Result<f64> {
    check_labels(logits, labels)?;
    let right = logits.detach().argmax(D::Minus1)?.eq(labels)?;
    Ok(f64::from(right.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?))
}

fn check_labels(logits: &Tensor, labels: &Tensor) -> Result<()> {
    let (n, c) = check("logits", logits)?;
    if labels.dims() != [n] {
        let expected = format!("[{n}], one a row of the logits");
        return Err(Error::Shape { what: "labels", expected, got: labels.dims().to_vec() });
    }
    if labels.dtype() != DType::U32 {
        return Err(Error::DType { what: "labels", expected: "U32".into(), got: labels.dtype() });
    }
    let largest = labels.max_all()?.to_scalar::<u32>()?;
    if largest as usize >= c {
        let expected = "below the number of logits";
        return Err(Error::Value { name: "a label", expected, got: f64::from(largest) });
    }
    Ok(())
}
