//! Memory that the CPU code works in.

/// A pointer that tasks share, each of which writes to places of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T);

impl<T> Shared<T> {
    pub(crate) fn new(first: *mut T) -> Self {
        Self(first)
    }

    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

// SAFETY: it is only an address; whoever writes through it says why no one else touches the place.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

/// Numbers that begin at a cache line, so that no vector lies across two.
pub(crate) struct Aligned<T> {
    buffer: Vec<T>,
    start: usize,
    len: usize,
}

/// Bytes in a cache line.
const LINE: usize = 64;

impl<T: Copy + Default> Aligned<T> {
    /// `len` zeros, which a number type's default is.
    pub(crate) fn zeros(len: usize) -> Self {
        let buffer = vec![T::default(); len + LINE / size_of::<T>()];
        let start = buffer.as_ptr().align_offset(LINE).min(LINE / size_of::<T>());
        Self { buffer, start, len }
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &self.buffer[self.start..self.start + self.len]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.buffer[self.start..self.start + self.len]
    }
}
