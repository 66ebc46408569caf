//! The number types that the CPU code works in, and a tensor's numbers as a slice.

use candle_core::{CpuStorage, DType, Layout, Storage, StorageRef, Tensor, WithDType};
use std::cell::RefCell;
use std::ops::Neg;
use std::ops::Range;

/// f32 or f64.
pub(crate) trait Element: WithDType + Neg<Output = Self> {
    const ZERO: Self;
    const ONE: Self;
    fn exp(self) -> Self;
    /// Calls `f` with a buffer of `len` numbers of any value, kept by the thread from call to call.
    fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [Self]) -> R) -> R;
}

macro_rules! element {
    ($T:ident) => {
        impl Element for $T {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            #[inline(always)]
            fn exp(self) -> Self {
                $T::exp(self)
            }
            fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [Self]) -> R) -> R {
                thread_local!(static SCRATCH: RefCell<Vec<$T>> = const { RefCell::new(Vec::new()) });
                SCRATCH.with_borrow_mut(|buffer| {
                    if buffer.len() < len {
                        buffer.resize(len, 0.0);
                    }
                    f(&mut buffer[..len])
                })
            }
        }
    };
}
element!(f32);
element!(f64);

/// Whether the CPU code takes the tensor: it lies in main memory, as f32 or f64.
pub(crate) fn on_fast_path(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && matches!(tensor.dtype(), DType::F32 | DType::F64)
}

/// Evaluates `$body` with `$T` standing for the number type of a tensor that is [`on_fast_path`].
macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}
pub(crate) use with_element;

/// The numbers of a contiguous CPU tensor, borrowed for as long as the view lives.
pub(crate) struct View<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> View<'a> {
    /// Fails if the tensor is not contiguous: callers make it so first.
    pub(crate) fn new(tensor: &'a Tensor) -> candle_core::Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        Ok(Self { storage, range: range(layout)? })
    }

    /// The numbers, in row-major order. Fails if they are of another type, or not in main memory.
    pub(crate) fn as_slice<T: WithDType>(&self) -> candle_core::Result<&[T]> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok(&T::cpu_storage_as_slice(storage)?[self.range.clone()]),
            _ => candle_core::bail!("a CPU kernel was called on another device"),
        }
    }
}

/// The numbers of a custom op's contiguous argument.
pub(crate) fn slice<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    Ok(&T::cpu_storage_as_slice(storage)?[range(layout)?])
}

fn range(layout: &Layout) -> candle_core::Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => candle_core::bail!("a CPU kernel was called on a tensor that is not contiguous"),
    }
}
