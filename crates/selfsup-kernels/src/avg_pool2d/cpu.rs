//! Average pooling, row by row: first the sum over a window's rows, whose numbers are neighbours for any number of
//! channels, then the sum over its columns. Windows that share no pixels, of many channels, are summed at once. A task owns a row
//! of the result, so that windows may overlap.

use super::Geometry;
use crate::element::Element;
use crate::output::in_chunks;
use crate::simd::vectorized;

/// Fewer channels make loops too short for windows to be summed pixel by pixel.
const FEW: usize = 16;

pub(super) fn forward<T: Element>(g: &Geometry, x: &[T]) -> Vec<T> {
    let (line, out_line) = (g.w * g.c, g.out_w * g.c);
    let (y, _) = in_chunks(g.n * g.out_h * out_line, out_line, |at, y: &mut [T]| {
        let (n, i) = (at / out_line / g.out_h, at / out_line % g.out_h);
        let image = &x[n * g.h * line..][..g.h * line];
        let share = g.share(i, g.h);
        if g.config.stride >= g.config.kernel && g.c >= FEW {
            return vectorized(
                #[inline(always)]
                || {
                    for (j, y) in y.chunks_exact_mut(g.c).enumerate() {
                        let share = T::from_f64(share * g.share(j, g.w));
                        let columns = g.window(j, g.w);
                        for row in g.window(i, g.h) {
                            let from = row * line + columns.start * g.c;
                            for pixel in image[from..][..columns.len() * g.c].chunks_exact(g.c) {
                                for (y, x) in y.iter_mut().zip(pixel) {
                                    *y += *x * share;
                                }
                            }
                        }
                    }
                },
            );
        }
        T::with_scratch(line, |sum| {
            vectorized(
                #[inline(always)]
                || {
                    add_rows(sum, image, g.window(i, g.h));
                    for (j, y) in y.chunks_exact_mut(g.c).enumerate() {
                        let share = T::from_f64(share * g.share(j, g.w));
                        add_rows(y, sum, g.window(j, g.w));
                        for y in y.iter_mut() {
                            *y *= share;
                        }
                    }
                },
            );
        });
    });
    y
}

/// dx.
pub(super) fn backward<T: Element>(g: &Geometry, dy: &[T]) -> Vec<T> {
    let (line, out_line) = (g.w * g.c, g.out_w * g.c);
    let (dx, _) = in_chunks(g.n * g.h * line, line, |at, dx: &mut [T]| {
        let (n, i) = (at / line / g.h, at / line % g.h);
        let image = &dy[n * g.out_h * out_line..][..g.out_h * out_line];
        T::with_scratch(out_line, |sum| {
            vectorized(
                #[inline(always)]
                || {
                    sum.fill(T::ZERO);
                    for window in g.windows_at(i, g.out_h) {
                        let share = g.share(window, g.h);
                        let row = &image[window * out_line..][..out_line];
                        let pixels = sum.chunks_exact_mut(g.c).zip(row.chunks_exact(g.c)).enumerate();
                        for (j, (sum, dy)) in pixels {
                            let share = T::from_f64(share * g.share(j, g.w));
                            for (sum, dy) in sum.iter_mut().zip(dy) {
                                *sum += *dy * share;
                            }
                        }
                    }
                    for (j, dx) in dx.chunks_exact_mut(g.c).enumerate() {
                        add_rows(dx, sum, g.windows_at(j, g.out_w));
                    }
                },
            );
        });
    });
    dx
}

/// The sum of some rows of a matrix, each as long as the sum.
#[inline(always)]
fn add_rows<T: Element>(sum: &mut [T], matrix: &[T], rows: std::ops::Range<usize>) {
    let len = sum.len();
    let mut rows = matrix[rows.start * len..rows.end * len].chunks_exact(len);
    match rows.next() {
        Some(first) => sum.copy_from_slice(first),
        None => sum.fill(T::ZERO),
    }
    for row in rows {
        for (sum, x) in sum.iter_mut().zip(row) {
            *sum += *x;
        }
    }
}
