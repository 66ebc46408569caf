//! A tensor's numbers out of a storage's bytes, as PyTorch lays them: kinds of numbers, shape, strides and offset.

use super::pickle::Problem;
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Kind {
    /// Of a storage's class or a dtype.
    pub fn of(global: &str) -> Option<Self> {
        Some(match global.rsplit('.').next()? {
            "DoubleStorage" | "float64" => Kind::F64,
            "FloatStorage" | "float32" => Kind::F32,
            "HalfStorage" | "float16" => Kind::F16,
            "BFloat16Storage" | "bfloat16" => Kind::BF16,
            "LongStorage" | "int64" => Kind::I64,
            "IntStorage" | "int32" => Kind::I32,
            "ShortStorage" | "int16" => Kind::I16,
            "CharStorage" | "int8" => Kind::I8,
            // An untyped storage is of bytes until a tensor says its dtype.
            "ByteStorage" | "UntypedStorage" | "uint8" => Kind::U8,
            "BoolStorage" | "bool" => Kind::Bool,
            _ => return None,
        })
    }

    pub fn width(self) -> usize {
        match self {
            Kind::F64 | Kind::I64 => 8,
            Kind::F32 | Kind::I32 => 4,
            Kind::F16 | Kind::BF16 | Kind::I16 => 2,
            Kind::I8 | Kind::U8 | Kind::Bool => 1,
        }
    }
}

/// How many numbers a tensor of a shape has. Strides are products of sizes, which must not overflow where another size is 0 either.
pub fn count_of(shape: &[usize]) -> Result<usize, Problem> {
    let product = |least: usize| shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size.max(least)));
    product(1).and_then(|_| product(0)).ok_or_else(|| format!("a tensor of shape {shape:?} is too large"))
}

/// Which numbers of a storage a tensor has.
pub struct View {
    pub shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
    pub count: usize,
    /// One past the last number.
    pub end: usize,
}

impl View {
    pub fn new(shape: Vec<usize>, strides: Vec<usize>, offset: usize) -> Result<Self, Problem> {
        let large = || format!("a tensor of shape {shape:?} is too large");
        if shape.len() != strides.len() {
            return Err(format!("a tensor of shape {shape:?} has {} strides", strides.len()));
        }
        let count = count_of(&shape)?;
        let mut last = offset;
        for (&size, &stride) in shape.iter().zip(&strides).filter(|_| count > 0) {
            last = (size - 1).checked_mul(stride).and_then(|far| far.checked_add(last)).ok_or_else(large)?;
        }
        let end = if count == 0 { 0 } else { last.checked_add(1).ok_or_else(large)? };
        Ok(Self { shape, strides, offset, count, end })
    }

    /// The tensor's bytes in row-major order.
    pub fn gather(&self, data: &[u8], width: usize) -> Vec<u8> {
        let mut contiguous = 1usize;
        let is_contiguous = self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == contiguous;
            contiguous = contiguous.saturating_mul(size.max(1));
            fits
        });
        if is_contiguous {
            let start = self.offset * width;
            return data[if self.count == 0 { 0..0 } else { start..start + self.count * width }].to_vec();
        }
        let mut bytes = Vec::with_capacity(self.count * width);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..self.count {
            let at = self.offset + index.iter().zip(&self.strides).map(|(i, s)| i * s).sum::<usize>();
            bytes.extend_from_slice(&data[at * width..][..width]);
            for (i, &size) in index.iter_mut().zip(&self.shape).rev() {
                *i += 1;
                if *i < size {
                    break;
                }
                *i = 0;
            }
        }
        bytes
    }
}

/// Floats stay as they are; integers become I64, but bytes.
pub fn tensor_of(bytes: &[u8], kind: Kind, shape: &[usize], device: &Device) -> candle_core::Result<Tensor> {
    fn each<const N: usize, T>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|&chunk| from(chunk)).collect()
    }
    let integers = |values: Vec<i64>| Tensor::from_vec(values, shape, device);
    match kind {
        Kind::F64 => Tensor::from_vec(each(bytes, f64::from_le_bytes), shape, device),
        Kind::F32 => Tensor::from_vec(each(bytes, f32::from_le_bytes), shape, device),
        Kind::F16 => Tensor::from_vec(each(bytes, f16::from_le_bytes), shape, device),
        Kind::BF16 => Tensor::from_vec(each(bytes, bf16::from_le_bytes), shape, device),
        Kind::U8 | Kind::Bool => Tensor::from_raw_buffer(bytes, DType::U8, shape, device),
        Kind::I64 => integers(each(bytes, i64::from_le_bytes)),
        Kind::I32 => integers(each(bytes, |b| i32::from_le_bytes(b).into())),
        Kind::I16 => integers(each(bytes, |b| i16::from_le_bytes(b).into())),
        Kind::I8 => integers(each(bytes, |b| i8::from_le_bytes(b).into())),
    }
}
