//! New slices, each written by parallel tasks that own a part of it.
//!
//! A vector of zeros from the allocator would be cleared by one thread, and its memory written twice. Here each task
//! clears its own part, which then lies in its core's cache.

use crate::element::Element;
use crate::stored::Stored;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// A vector of `len` numbers in chunks of `chunk`, and what `f` returns for each. `f` gets the place of the chunk's
/// first number and the chunk, all zeros.
pub(crate) fn in_chunks<T: Stored, R: Send>(
    len: usize,
    chunk: usize,
    f: impl Fn(usize, &mut [T]) -> R + Sync,
) -> (Vec<T>, Vec<R>) {
    let ([out], results) = in_segments(len, len, chunk, |at, [out]| f(at, out));
    (out, results)
}

/// [`in_chunks`] for N vectors of one length at once, made of segments of `segment` numbers that no chunk leaves.
pub(crate) fn in_segments<T: Stored, const N: usize, R: Send>(
    len: usize,
    segment: usize,
    chunk: usize,
    f: impl Fn(usize, [&mut [T]; N]) -> R + Sync,
) -> ([Vec<T>; N], Vec<R>) {
    let mut out: [Vec<T>; N] = std::array::from_fn(|_| Vec::with_capacity(len));
    let mut rest = out.each_mut().map(|out| &mut out.spare_capacity_mut()[..len]);
    let mut tasks = Vec::with_capacity(len.div_ceil(chunk));
    let mut at = 0;
    while at < len {
        let size = chunk.min(segment - at % segment).min(len - at);
        let parts = rest.each_mut().map(|rest| rest.split_off_mut(..size).expect("as much is left"));
        tasks.push((at, parts));
        at += size;
    }
    let results = tasks.into_par_iter().map(|(at, parts)| f(at, parts.map(cleared))).collect();
    for out in &mut out {
        // SAFETY: the capacity is at least `len`, and the chunks, which `cleared` has initialised one and all, make up
        // the first `len` numbers. A task that panicked would not have let us come here.
        unsafe { out.set_len(len) };
    }
    (out, results)
}

/// The same memory, all zeros.
fn cleared<T: Stored>(chunk: &mut [MaybeUninit<T>]) -> &mut [T] {
    for number in chunk.iter_mut() {
        number.write(T::ZERO);
    }
    // SAFETY: every element has just been initialised; MaybeUninit<T> has T's layout; the borrow passes on, with its
    // lifetime and its exclusiveness.
    unsafe { &mut *(std::ptr::from_mut(chunk) as *mut [T]) }
}

/// N row-major matrices `[rows, columns]`, worked out in tiles of `tile` rows and columns, at most. `f` gets a tile's
/// rows and columns and a buffer for each matrix, of any content, that it fills with the tile, row after row. It runs
/// within [`Element::with_scratch`] and must not call it.
pub(crate) fn in_tiles<T: Element, const N: usize>(
    (rows, columns): (usize, usize),
    tile: (usize, usize),
    f: impl Fn(Range<usize>, Range<usize>, [&mut [T]; N]) + Sync,
) -> [Vec<T>; N] {
    let mut out: [Vec<T>; N] = std::array::from_fn(|_| Vec::with_capacity(rows * columns));
    let across = columns.div_ceil(tile.1);
    // The part of each row that a tile owns, tile by tile.
    let mut tasks: Vec<Vec<[&mut [MaybeUninit<T>]; N]>> = Vec::new();
    tasks.resize_with(rows.div_ceil(tile.0) * across, || Vec::with_capacity(tile.0));
    let mut rest = out.each_mut().map(|out| &mut out.spare_capacity_mut()[..rows * columns]);
    for row in 0..rows {
        for column in 0..across {
            let size = tile.1.min(columns - column * tile.1);
            let parts = rest.each_mut().map(|rest| rest.split_off_mut(..size).expect("as much is left"));
            tasks[row / tile.0 * across + column].push(parts);
        }
    }
    tasks.into_par_iter().enumerate().for_each(|(i, task)| {
        let (row, column) = (i / across * tile.0, i % across * tile.1);
        let (height, width) = (task.len(), tile.1.min(columns - column));
        T::with_scratch(N * height * width, |scratch| {
            let mut buffers = scratch.chunks_exact_mut(height * width);
            let mut buffers = [(); N].map(|()| buffers.next().expect("room for N tiles"));
            let lent = buffers.each_mut().map(|buffer| &mut **buffer);
            f(row..row + height, column..column + width, lent);
            for (i, parts) in task.into_iter().enumerate() {
                for (part, buffer) in parts.into_iter().zip(&buffers) {
                    for (to, from) in part.iter_mut().zip(&buffer[i * width..(i + 1) * width]) {
                        to.write(*from);
                    }
                }
            }
        });
    });
    for out in &mut out {
        // SAFETY: the capacity is at least rows · columns, and each number belongs to one tile, which has written it.
        unsafe { out.set_len(rows * columns) };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_cleared_in_order_and_whole() {
        for (len, segment, chunk) in
            [(0, 1, 3), (1, 1, 3), (6, 6, 3), (7, 7, 3), (100, 100, 1), (5, 5, 9), (30, 10, 4)]
        {
            let ([a, b], results) = in_segments(len, segment, chunk, |at, [a, b]: [&mut [f32]; 2]| {
                assert!(a.iter().chain(b.iter()).all(|v| *v == 0.0) && a.len() == b.len());
                assert!(at % segment + a.len() <= segment && a.len() <= chunk);
                a.fill((at / segment) as f32);
                b.iter_mut().enumerate().for_each(|(j, b)| *b = (at + j) as f32);
                at..at + a.len()
            });
            assert_eq!(results.into_iter().flatten().collect::<Vec<_>>(), (0..len).collect::<Vec<_>>());
            assert_eq!(a, (0..len).map(|i| (i / segment) as f32).collect::<Vec<_>>());
            assert_eq!(b, (0..len).map(|i| i as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn tiles_make_up_the_matrix() {
        for (shape, tile) in
            [((1, 1), (1, 1)), ((7, 5), (3, 2)), ((4, 6), (4, 6)), ((3, 9), (8, 4)), ((8, 3), (2, 9))]
        {
            let [a, b] = in_tiles(shape, tile, |rows, columns, [a, b]: [&mut [f64]; 2]| {
                let places = rows.flat_map(|r| columns.clone().map(move |c| r * shape.1 + c));
                for ((place, a), b) in places.zip(a).zip(b) {
                    (*a, *b) = (place as f64, -(place as f64));
                }
            });
            assert_eq!(a, (0..shape.0 * shape.1).map(|i| i as f64).collect::<Vec<_>>());
            assert!(a.iter().zip(&b).all(|(a, b)| *a == -b));
        }
    }
}
