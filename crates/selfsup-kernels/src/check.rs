//! The checks that every operation makes of its input before it does any work.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// A shape error.
pub(crate) fn shape_error(op: &'static str, expected: impl Into<String>, tensor: &Tensor) -> Error {
    Error::Shape { op, expected: expected.into(), got: format!("{:?}", tensor.dims()) }
}

/// A parameter error.
pub(crate) fn parameter_error(
    op: &'static str,
    name: &'static str,
    expected: &'static str,
    got: impl std::fmt::Debug,
) -> Error {
    Error::Parameter { op, name, expected, got: format!("{got:?}") }
}

/// Refuses integers.
pub(crate) fn float(op: &'static str, x: &Tensor) -> Result<()> {
    if x.dtype().is_float() { Ok(()) } else { Err(dtype_error(op, "a float type", x.dtype())) }
}

/// Refuses a second tensor of another dtype or on another device than the first.
pub(crate) fn like(op: &'static str, name: &'static str, x: &Tensor, other: &Tensor) -> Result<()> {
    if other.dtype() != x.dtype() {
        let expected = format!("{name} of x's {:?}", x.dtype());
        return Err(Error::DType { op, expected, got: other.dtype() });
    }
    on_device_of(op, name, x, other)
}

/// What parameters are kept in beside x: f32 beside bf16, which would lose most of a training step's changes, else x's dtype.
pub(crate) fn params_dtype(x: &Tensor) -> DType {
    if x.dtype() == DType::BF16 { DType::F32 } else { x.dtype() }
}

/// Refuses a parameter of another dtype than [`params_dtype`] or on another device than x.
pub(crate) fn param(op: &'static str, name: &'static str, x: &Tensor, param: &Tensor) -> Result<()> {
    if params_dtype(x) == x.dtype() {
        return like(op, name, x, param);
    }
    if param.dtype() != params_dtype(x) {
        let expected = format!("{name} of {:?} beside x of {:?}", params_dtype(x), x.dtype());
        return Err(Error::DType { op, expected, got: param.dtype() });
    }
    on_device_of(op, name, x, param)
}

fn on_device_of(op: &'static str, name: &'static str, x: &Tensor, other: &Tensor) -> Result<()> {
    if !other.device().same_device(x.device()) {
        return Err(Error::Device { op, name, expected: place(x.device()), got: place(other.device()) });
    }
    Ok(())
}

/// Refuses a tensor without elements.
pub(crate) fn not_empty(op: &'static str, x: &Tensor) -> Result<()> {
    if x.elem_count() == 0 {
        return Err(shape_error(op, "dimensions of at least 1", x));
    }
    Ok(())
}

/// The four dimensions of an NHWC tensor, none of them 0.
pub(crate) fn nhwc(op: &'static str, x: &Tensor) -> Result<[usize; 4]> {
    let &[n, h, w, c] = x.dims() else {
        return Err(shape_error(op, "x of [n, h, w, c]", x));
    };
    not_empty(op, x)?;
    Ok([n, h, w, c])
}

/// Refuses a tensor that has not one number a channel.
pub(crate) fn channels(op: &'static str, name: &'static str, c: usize, tensor: &Tensor) -> Result<()> {
    if tensor.dims() != [c] {
        return Err(shape_error(op, format!("{name} of [{c}], one a channel"), tensor));
    }
    Ok(())
}

/// Refuses an ε that cannot be added to a variance.
pub(crate) fn eps(op: &'static str, eps: f64) -> Result<()> {
    if eps > 0.0 && eps.is_finite() {
        Ok(())
    } else {
        Err(parameter_error(op, "eps", "above 0 and finite", eps))
    }
}

/// A dtype error.
pub(crate) fn dtype_error(op: &'static str, expected: &str, got: DType) -> Error {
    Error::DType { op, expected: expected.to_owned(), got }
}

fn place(device: &Device) -> String {
    format!("{:?}", device.location())
}
