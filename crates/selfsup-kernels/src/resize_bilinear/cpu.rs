//! A product with a sparse matrix along each side, for images and for their gradients. A task owns a row of the
//! result, so that no sum depends on the number of threads.

use super::Taps;
use crate::element::Element;
use crate::output::in_chunks;
use crate::simd::vectorized;

/// x `[n, rows.size, columns.size, c]` → `[n, rows.out, columns.out, c]`.
pub(super) fn resample<T: Element>(x: &[T], rows: &Taps, columns: &Taps, c: usize) -> Vec<T> {
    let (line, out_line) = (columns.size * c, columns.out * c);
    let images = x.len() / (rows.size * line);
    let row_weights = cast::<T>(rows);
    let column_weights = cast::<T>(columns);
    let (y, _) = in_chunks(images * rows.out * out_line, out_line, |at, y: &mut [T]| {
        let (n, i) = (at / out_line / rows.out, at / out_line % rows.out);
        let image = &x[n * rows.size * line..][..rows.size * line];
        let taps = &row_weights[rows.starts[i]..rows.starts[i + 1]];
        T::with_scratch(line, |mixed| {
            vectorized(
                #[inline(always)]
                || match *taps {
                    // A row that nothing goes into: of a gradient, where the image shrank below half.
                    [] => {}
                    // The row as it is.
                    [(k, weight)] if weight == T::ONE => {
                        mix_pixels(y, &image[k * line..][..line], columns, &column_weights, c);
                    }
                    _ => {
                        // Over rows first: all their numbers are neighbours, however few channels there are.
                        add_rows(mixed, image, taps);
                        mix_pixels(y, mixed, columns, &column_weights, c);
                    }
                },
            );
        });
    });
    y
}

fn cast<T: Element>(taps: &Taps) -> Vec<(usize, T)> {
    taps.entries.iter().map(|(k, weight)| (*k, T::from_f64(*weight))).collect()
}

/// Each pixel of the result from those of a row.
#[inline(always)]
fn mix_pixels<T: Element>(y: &mut [T], row: &[T], columns: &Taps, weights: &[(usize, T)], c: usize) {
    match c {
        // Loops of a known length become straight code.
        1 => pixels::<T, 1>(y, row, columns, weights),
        3 => pixels::<T, 3>(y, row, columns, weights),
        4 => pixels::<T, 4>(y, row, columns, weights),
        _ => {
            for (j, y) in y.chunks_exact_mut(c).enumerate() {
                add_rows(y, row, &weights[columns.starts[j]..columns.starts[j + 1]]);
            }
        }
    }
}

#[inline(always)]
fn pixels<T: Element, const C: usize>(y: &mut [T], row: &[T], columns: &Taps, weights: &[(usize, T)]) {
    for (y, range) in y.chunks_exact_mut(C).zip(columns.starts.windows(2)) {
        let mut sum = [T::ZERO; C];
        for (k, weight) in &weights[range[0]..range[1]] {
            let pixel = &row[k * C..][..C];
            for i in 0..C {
                sum[i] += pixel[i] * *weight;
            }
        }
        y.copy_from_slice(&sum);
    }
}

/// Σ weight · row k of a matrix whose rows are as long as the sum.
#[inline(always)]
fn add_rows<T: Element>(sum: &mut [T], matrix: &[T], taps: &[(usize, T)]) {
    let len = sum.len();
    let row = |k: usize| &matrix[k * len..][..len];
    match *taps {
        [] => sum.fill(T::ZERO),
        [(k, weight)] => {
            for (sum, x) in sum.iter_mut().zip(row(k)) {
                *sum = *x * weight;
            }
        }
        [(k, weight), (k2, weight2), ref rest @ ..] => {
            for ((sum, x), x2) in sum.iter_mut().zip(row(k)).zip(row(k2)) {
                *sum = *x * weight + *x2 * weight2;
            }
            for (k, weight) in rest {
                for (sum, x) in sum.iter_mut().zip(row(*k)) {
                    *sum += *x * *weight;
                }
            }
        }
    }
}
