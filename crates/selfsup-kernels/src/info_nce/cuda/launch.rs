//! What runs kernels: a device's memory, and launches.

use candle_core::Result;

/// A GPU's memory and launches, in the order of one stream. There are two: CUDA's, and the tests' on a CPU.
pub(super) trait Gpu {
    type Buffer;

    /// Memory of any content, aligned to 16 bytes.
    fn allocate(&self, bytes: usize) -> Result<Self::Buffer>;

    fn upload(&self, words: &[u32]) -> Result<Self::Buffer>;

    /// The arguments are the kernel's parameters, in its order and of its types, and every array is as long as the
    /// kernel takes it to be.
    fn launch(&self, launch: Launch, arguments: &mut [Argument<'_, Self::Buffer>]) -> Result<()>;
}

pub(super) struct Launch<'a> {
    pub(super) kernel: &'a str,
    pub(super) grid: [usize; 2],
    pub(super) threads: usize,
    /// Bytes of dynamic shared memory.
    pub(super) shared: usize,
}

/// A parameter of a kernel.
pub(super) enum Argument<'a, B> {
    In(&'a B),
    Out(&'a mut B),
    /// A tensor's contiguous f32, read only.
    Tensor(Address),
    Null,
    U32(u32),
    F32(f32),
    F64(f64),
}
impl<'a, B> Argument<'a, B> {
    pub(super) fn maybe(buffer: Option<&'a B>) -> Self {
        buffer.map_or(Self::Null, Self::In)
    }

    pub(super) fn maybe_out(buffer: Option<&'a mut B>) -> Self {
        buffer.map_or(Self::Null, Self::Out)
    }
}

/// Where in the device's memory a tensor's numbers begin.
#[derive(Clone, Copy)]
pub(super) struct Address(pub(super) u64);
