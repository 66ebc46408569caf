//! What an objective asks of embeddings, and their values as plain numbers.

use crate::{Error, Result};
use candle_core::{DType, Tensor};

/// Fails unless `z` is `[n, d]` with n, d ≥ 1 and holds floating-point numbers.
pub(crate) fn check(what: &'static str, z: &Tensor) -> Result<(usize, usize)> {
    match *z.dims() {
        [n, d] if n > 0 && d > 0 => {
            if z.dtype().is_float() {
                return Ok((n, d));
            }
            Err(Error::DType { what, expected: "floating-point numbers".into(), got: z.dtype() })
        }
        _ => Err(Error::Shape { what, expected: "[n, d] with n, d ≥ 1".into(), got: z.dims().to_vec() }),
    }
}

/// Fails unless both views are embeddings of one shape and dtype.
pub(crate) fn check_pair(z1: &Tensor, z2: &Tensor) -> Result<(usize, usize)> {
    let dims = check("z1", z1)?;
    check("z2", z2)?;
    if z2.dims() != z1.dims() {
        let expected = format!("{:?} as z1", z1.dims());
        return Err(Error::Shape { what: "z2", expected, got: z2.dims().to_vec() });
    }
    if z2.dtype() != z1.dtype() {
        let expected = format!("{:?} as z1", z1.dtype());
        return Err(Error::DType { what: "z2", expected, got: z2.dtype() });
    }
    Ok(dims)
}

/// The same of at least two images, whose statistics are taken.
pub(crate) fn check_batch(z1: &Tensor, z2: &Tensor) -> Result<(usize, usize)> {
    let dims = check_pair(z1, z2)?;
    if dims.0 < 2 {
        return Err(Error::Shape {
            what: "z1",
            expected: "[n, d] with n ≥ 2".into(),
            got: z1.dims().to_vec(),
        });
    }
    Ok(dims)
}

/// The values in f64, row by row.
pub(crate) fn values(z: &Tensor) -> Result<Vec<f64>> {
    let values: Vec<f64> = z.detach().flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
    if values.iter().all(|v| v.is_finite()) { Ok(values) } else { Err(Error::NonFinite) }
}

/// Scales each row of `d` values to length 1. A row of zeros stays.
pub(crate) fn normalize_rows(values: &mut [f64], d: usize) {
    for row in values.chunks_mut(d) {
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.iter_mut().for_each(|v| *v /= norm);
        }
    }
}
