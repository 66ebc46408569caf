//! InfoNCE on a CUDA device: the similarities' tiles on tensor cores, in memory linear in the number of rows.
//!
//! `tiles.cu` holds the passes over tiles of S (forward: one matrix product of n·m·d multiplications; backward: that
//! one again and one more for each matrix), `rows.cu` what a row needs before and after, [`tiles`] and [`rows`]
//! their launches, and [`forms`] puts these together. All of it is tested without a GPU: `emulate.h` makes C++ of
//! the same kernels, and the same launches run them.
//!
//! z in bf16 is worked on in bf16: v is rounded to it, and so are the softmax's weights in the gradient. Wider z are
//! split into two bf16, which gives f32's results to about 10⁻⁵/τ for three times the products. Sums, norms,
//! lse and the rows' own gradients are f32 or f64 in both.

#[cfg(feature = "cuda")]
mod device;
#[cfg(all(test, target_os = "linux"))]
mod emulator;
mod forms;
mod launch;
mod rows;
#[cfg(all(test, target_os = "linux"))]
mod tests;
mod tiles;

#[cfg(feature = "cuda")]
pub(super) use device::{apply, takes};
#[cfg(feature = "cuda")]
pub(super) use forms::Form;
