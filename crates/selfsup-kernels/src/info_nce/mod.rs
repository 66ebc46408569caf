//! InfoNCE, fused: from embeddings as they come to the mean loss and its gradient, without the matrix of
//! similarities (van den Oord, Li & Vinyals 2018, eq. 4; Chen et al. 2020, eq. 1; Khosla et al. 2020, eq. 2).
//!
//! Letters: n rows, d width, τ temperature, v_i = z_i/‖z_i‖ (0 for a row of zeros).
//!
//! ```text
//! S(i, k) = v_i·v_k / τ                  lse_i = ln Σ_{k ≠ i} exp S(i, k)
//! loss    = Σ_i w_i [ lse_i − S(i, i⁺) ]
//! dv_i    = 1/τ Σ_k [ w_i exp(S(i, k) − lse_i) + w_k exp(S(i, k) − lse_k) ] v_k − 1/τ · 2 w_i v_{i⁺}
//! dz_i    = (dv_i − v_i⟨v_i, dv_i⟩)/‖z_i‖
//! ```
//!
//! i⁺ is i's positive, or stands for the mean over several; w_i = 1/(number of anchors). S is symmetric, so a tile
//! above the diagonal serves its mirror image too: the forward pass takes half a matrix product of n·n·d
//! multiplications, the backward pass, which works the tiles out again from the saved lse, one and a half. PyTorch
//! takes three and holds n·n numbers several times over; here memory is linear in n.
//!
//! On Apple GPUs (feature `metal`) every form but the one with explicit negatives has the kernels of `info_nce.metal`,
//! one forward product and two for each matrix's gradient. No Apple GPU has run them yet: the test `metal_shader`
//! compiles the shader as C++ and runs it on the CPU. `cargo test -p selfsup-kernels --features metal --test
//! metal_gpu` holds them against the CPU where there is one.
//!
//! With the `cuda` feature a CUDA device of compute capability 8.0 or later has kernels of its own for every form but
//! [`info_nce_explicit`], up to d = 256: memory is linear in n there too. They take bf16 as it is, rounding the v_i
//! and the gradient's softmax to it, and split wider numbers into two bf16, which gives results of f32's to about
//! 10⁻⁵/τ. Wider rows, f64, and devices without the shared memory for a width run in candle's operations. The
//! kernels' arithmetic is tested by an emulation on the CPU; they have not yet been run on a GPU.

mod cpu;
#[cfg(any(feature = "cuda", all(test, target_os = "linux")))]
mod cuda;
mod explicit;
#[cfg(feature = "metal")]
mod launch;
#[cfg(feature = "metal")]
mod metal;
mod pairs;
mod positives;
mod query_key;
mod reference;
#[cfg(feature = "metal")]
mod roles;
mod self_contrast;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_mask;
#[cfg(test)]
mod tests_pairs;
mod two_tower;

pub use explicit::info_nce_explicit;
pub use pairs::info_nce;
pub use query_key::info_nce_queue;
pub use self_contrast::{nt_xent, sup_con, sup_con_mask};
pub use two_tower::two_tower;

use crate::{Result, check};
use candle_core::{DType, Tensor};

/// The smallest temperature taken: below it, two cosines that f32 can just tell apart already differ by more
/// than any logit matters.
pub const MIN_TEMPERATURE: f64 = 1e-6;

fn check_rows(op: &'static str, z: &Tensor, expected: &str) -> Result<usize> {
    check::float(op, z)?;
    match *z.dims() {
        [n, d] if n > 0 && d > 0 => Ok(n),
        _ => Err(check::shape_error(op, expected, z)),
    }
}

/// Refuses a second matrix that does not have the first one's dtype, device and width; returns its rows.
fn check_like(op: &'static str, name: &'static str, x: &Tensor, other: &Tensor) -> Result<usize> {
    check::like(op, name, x, other)?;
    match *other.dims() {
        [m, d] if m > 0 && d == x.dim(1)? => Ok(m),
        _ => Err(check::shape_error(op, format!("{name} of [m, {}] with m ≥ 1", x.dim(1)?), other)),
    }
}

fn check_temperature(op: &'static str, temperature: f64) -> Result<()> {
    if temperature.is_finite() && temperature >= MIN_TEMPERATURE {
        return Ok(());
    }
    Err(check::parameter_error(op, "temperature", "finite and at least 1e-6", temperature))
}

/// f64 stays, anything narrower becomes f32.
fn widen(z: &Tensor) -> Result<Tensor> {
    Ok(if z.dtype() == DType::F64 { z.clone() } else { z.to_dtype(DType::F32)? })
}
