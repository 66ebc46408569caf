//! Embeddings moved along NT-Xent's gradient alone, without any model: pairs that begin at random places find
//! each other and spread over the sphere. A sign error would do the reverse.
//!
//! `cargo run --release -p selfsup-objectives --example contrast`

use candle_core::{Device, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use selfsup_objectives::{Result, contrastive_accuracy, effective_rank, embedding_std, nt_xent};

const N: usize = 64;
const D: usize = 16;

fn main() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    // All begin near one point: almost collapsed.
    let mut view = || {
        let values: Vec<f32> = (0..N * D).map(|_| 1.0 + rng.random_range(-0.5..0.5)).collect();
        Var::from_vec(values, (N, D), &Device::Cpu)
    };
    let (z1, z2) = (view()?, view()?);
    println!("{:>5}  {:>7}  {:>8}  {:>6}  {:>14}", "step", "loss", "accuracy", "std", "effective rank");
    for step in 0..=200 {
        let loss = nt_xent(&z1, &z2, 0.5)?;
        if step % 40 == 0 {
            println!(
                "{step:>5}  {:>7.4}  {:>8.3}  {:>6.3}  {:>14.2}",
                loss.to_scalar::<f32>()?,
                contrastive_accuracy(&z1, &z2)?,
                embedding_std(&z1)?,
                effective_rank(&z1)?
            );
        }
        let grads = loss.backward()?;
        for z in [&z1, &z2] {
            if let Some(grad) = grads.get(z) {
                z.set(&(z.as_tensor() - (grad * 20.0)?)?)?;
            }
        }
    }
    Ok(())
}
