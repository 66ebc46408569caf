//! New slices, each written by parallel tasks that own a chunk of it.
//!
//! A vector of zeros from the allocator would be cleared by one thread, and memory would be written twice. Here each
//! task clears its own chunk, which then lies in its core's cache.

use crate::element::Element;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// A vector of `len` numbers in chunks of `chunk`, and what `f` returns for each. `f` gets the chunk's number and the
/// chunk, all zeros.
pub(crate) fn in_chunks<T: Element, R: Send>(
    len: usize,
    chunk: usize,
    f: impl Fn(usize, &mut [T]) -> R + Sync,
) -> (Vec<T>, Vec<R>) {
    let ([out], results) = many_in_chunks(len, chunk, |i, [out]| f(i, out));
    (out, results)
}

/// [`in_chunks`] for N vectors of one length at once.
pub(crate) fn many_in_chunks<T: Element, const N: usize, R: Send>(
    len: usize,
    chunk: usize,
    f: impl Fn(usize, [&mut [T]; N]) -> R + Sync,
) -> ([Vec<T>; N], Vec<R>) {
    let mut out: [Vec<T>; N] = std::array::from_fn(|_| Vec::with_capacity(len));
    let mut chunks = out.each_mut().map(|out| out.spare_capacity_mut()[..len].chunks_mut(chunk));
    let tasks: Vec<[&mut [MaybeUninit<T>]; N]> = (0..len.div_ceil(chunk))
        .map(|_| chunks.each_mut().map(|chunks| chunks.next().expect("as many chunks as tasks")))
        .collect();
    let results = tasks.into_par_iter().enumerate().map(|(i, task)| f(i, task.map(cleared))).collect();
    for out in &mut out {
        // SAFETY: the capacity is at least `len`, and the chunks, which `cleared` has initialised one and all, make up
        // the first `len` numbers. A task that panicked would not have let us come here.
        unsafe { out.set_len(len) };
    }
    (out, results)
}

/// The same memory, all zeros.
fn cleared<T: Element>(chunk: &mut [MaybeUninit<T>]) -> &mut [T] {
    for number in chunk.iter_mut() {
        number.write(T::ZERO);
    }
    // SAFETY: every element has just been initialised; MaybeUninit<T> has T's layout; the borrow passes on, with its
    // lifetime and its exclusiveness.
    unsafe { &mut *(std::ptr::from_mut(chunk) as *mut [T]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_cleared_in_order_and_whole() {
        for (len, chunk) in [(0, 3), (1, 3), (6, 3), (7, 3), (100, 1), (5, 9)] {
            let ([a, b], results) = many_in_chunks(len, chunk, |i, [a, b]: [&mut [f32]; 2]| {
                assert!(a.iter().chain(b.iter()).all(|v| *v == 0.0) && a.len() == b.len());
                a.fill(i as f32);
                b.iter_mut().enumerate().for_each(|(j, b)| *b = (i * chunk + j) as f32);
                i
            });
            assert_eq!(results, (0..len.div_ceil(chunk)).collect::<Vec<_>>());
            assert_eq!(a, (0..len).map(|i| (i / chunk) as f32).collect::<Vec<_>>());
            assert_eq!(b, (0..len).map(|i| i as f32).collect::<Vec<_>>());
        }
    }
}
