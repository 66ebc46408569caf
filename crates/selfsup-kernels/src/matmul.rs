//! Matrix products on slices: a safe face for the `gemm` crate, which picks its kernel at run time.

use crate::element::Element;
use gemm::Parallelism;

/// A matrix within a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A row-major matrix whose rows are `row_stride` apart.
    pub(crate) fn new(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// A row-major matrix to write to.
pub(crate) struct MatrixMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
}

impl<'a, T> MatrixMut<'a, T> {
    /// A row-major matrix whose rows are `row_stride` apart.
    pub(crate) fn new(data: &'a mut [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(row_stride >= columns, "the rows of a matrix that is written to must not overlap");
        Self { data, rows, columns, row_stride }
    }
}

/// dst = a · b, or dst += a · b, in the calling thread: the callers' tasks are the parallelism.
///
/// # Panics
/// If the sizes do not fit, which is a fault in this crate.
pub(crate) fn matmul<T: Element>(dst: MatrixMut<T>, a: Matrix<T>, b: Matrix<T>, accumulate: bool) {
    let (m, n, depth) = (dst.rows, dst.columns, a.columns);
    assert!(a.rows == m && b.columns == n && b.rows == depth, "sizes of a matrix product");
    if m == 0 || n == 0 || depth == 0 {
        return;
    }
    let last = |rows: usize, columns: usize, rs: usize, cs: usize| (rows - 1) * rs + (columns - 1) * cs;
    assert!(last(a.rows, a.columns, a.row_stride, a.column_stride) < a.data.len(), "a leaves its slice");
    assert!(last(b.rows, b.columns, b.row_stride, b.column_stride) < b.data.len(), "b leaves its slice");
    assert!(last(m, n, dst.row_stride, 1) < dst.data.len(), "dst leaves its slice");
    // SAFETY: each pointer, with its strides and sizes, stays within its slice: the last element of each was
    // checked above and strides are not negative. `dst` is borrowed mutably, so it overlaps neither `a` nor
    // `b`, and its rows do not overlap each other (checked by `MatrixMut::new`). T is f32 or f64, which gemm
    // knows. No borrow outlives the call.
    unsafe {
        gemm::gemm(
            m,
            n,
            depth,
            dst.data.as_mut_ptr(),
            1,
            dst.row_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
