//! A guard of the fast paths that needs no Python and compares no time with a constant: in one run, in turn, each must be
//! clearly faster than the same formula in candle's own operations.
//!
//! A factor demanded is at most half of what two cores with AVX-512 gave (5.4, 64, 15 and 3.3), so that a machine that is
//! shared does not fail it. A fast path that is no longer taken gives less than 1.

use crate::args::GuardArgs;
use crate::report;
use crate::statistics::{Ratio, minimum};
use anyhow::Result;
use candle_core::{D, DType, Device, Tensor, Var};
use selfsup_kernels::{BatchNormConfig, Conv2dConfig, batch_norm_train, conv2d};
use selfsup_objectives::nt_xent;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

type Side = Box<dyn Fn() -> Result<Tensor>>;

/// Both sides run forward and backward.
struct Check {
    name: &'static str,
    fast: Side,
    plain: Side,
    /// How many times as fast it must be.
    demanded: f64,
}

/// Runs every check.
pub fn run(args: &GuardArgs) -> Result<ExitCode> {
    let mut failed = 0;
    for check in checks()? {
        let ratio = check.measure(args.rounds.get())?;
        let verdict = if passes(&ratio, check.demanded) { "ok" } else { "FAILED" };
        failed += u32::from(verdict != "ok");
        println!(
            "{verdict:6} {:32} {:6.2} times as fast as candle ({:.2}–{:.2} over the rounds), demanded {}",
            check.name, ratio.of_minima, ratio.lowest, ratio.highest, check.demanded
        );
    }
    if failed > 0 {
        eprintln!("error: {failed} fast paths are not clearly faster than the plain ones");
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Of the minima: what else runs on the machine only adds to a time.
fn passes(ratio: &Ratio, demanded: f64) -> bool {
    ratio.of_minima >= demanded
}

impl Check {
    fn measure(&self, rounds: usize) -> Result<Ratio> {
        let (mut fast, mut plain) = (Vec::new(), Vec::new());
        // The first round warms up.
        for round in 0..=rounds {
            let sides = [(&self.fast, &mut fast), (&self.plain, &mut plain)];
            for (side, seconds) in sides {
                let start = Instant::now();
                black_box(side()?.backward()?);
                let elapsed = start.elapsed().as_secs_f64();
                if round > 0 {
                    seconds.push(elapsed);
                }
            }
        }
        eprintln!(
            "{}: {} against {}",
            self.name,
            report::duration(minimum(&fast)),
            report::duration(minimum(&plain))
        );
        Ratio::new(&fast, &plain).ok_or_else(|| anyhow::anyhow!("no rounds"))
    }
}

fn checks() -> Result<Vec<Check>> {
    Ok(vec![
        convolution("conv2d/32x32x32x64/3x3-64", 64, 1, 2.0)?,
        convolution("conv2d/32x32x32x64/3x3-64-g64", 64, 64, 5.0)?,
        normalisation()?,
        objective()?,
    ])
}

fn random(shape: &[usize]) -> Result<Var> {
    Ok(Var::randn(0f32, 1.0, shape, &Device::Cpu)?)
}

/// Against candle's own convolution in its own layout.
fn convolution(name: &'static str, c: usize, groups: usize, demanded: f64) -> Result<Check> {
    let (x, weight) = (random(&[32, 32, 32, c])?, random(&[3, 3, c / groups, c])?);
    let nchw = Var::from_tensor(&x.permute((0, 3, 1, 2))?.contiguous()?)?;
    let oihw = Var::from_tensor(&weight.permute((3, 2, 0, 1))?.contiguous()?)?;
    let config = Conv2dConfig { padding: 1, groups, ..Default::default() };
    Ok(Check {
        name,
        fast: Box::new(move || Ok(conv2d(&x, &weight, config)?)),
        plain: Box::new(move || Ok(nchw.conv2d(&oihw, 1, 1, 1, groups)?)),
        demanded,
    })
}

fn normalisation() -> Result<Check> {
    let (x, weight, bias) = (random(&[32, 32, 32, 64])?, random(&[64])?, random(&[64])?);
    let config = BatchNormConfig { relu: true, ..Default::default() };
    let of = (x.clone(), weight.clone(), bias.clone());
    Ok(Check {
        name: "batch_norm+relu/32x32x32x64",
        fast: Box::new(move || Ok(batch_norm_train(&x, &weight, &bias, None, config)?.y)),
        plain: Box::new(move || {
            let (x, weight, bias) = &of;
            let rows = x.reshape(((), 64))?;
            let centred = rows.broadcast_sub(&rows.mean_keepdim(0)?)?;
            let std = (centred.sqr()?.mean_keepdim(0)? + config.eps)?.sqrt()?;
            Ok(centred.broadcast_div(&std)?.broadcast_mul(weight)?.broadcast_add(bias)?.relu()?)
        }),
        demanded: 3.0,
    })
}

fn objective() -> Result<Check> {
    const VIEWS: usize = 2048;
    const TEMPERATURE: f64 = 0.5;
    let (z1, z2) = (random(&[VIEWS / 2, 128])?, random(&[VIEWS / 2, 128])?);
    let ids = Tensor::arange(0u32, VIEWS as u32, &Device::Cpu)?;
    let itself = ids.unsqueeze(1)?.broadcast_eq(&ids.unsqueeze(0)?)?;
    let out = (itself.to_dtype(DType::F32)? * -1e9)?;
    let half = VIEWS as u32 / 2;
    let other = Tensor::from_iter((half..2 * half).chain(0..half), &Device::Cpu)?.unsqueeze(1)?;
    let of = (z1.clone(), z2.clone());
    Ok(Check {
        name: "nt_xent/2048x128",
        fast: Box::new(move || Ok(nt_xent(&z1, &z2, TEMPERATURE)?)),
        plain: Box::new(move || {
            let z = Tensor::cat(&[of.0.as_tensor(), of.1.as_tensor()], 0)?;
            let z = z.broadcast_div(&z.sqr()?.sum_keepdim(1)?.sqrt()?)?;
            let logits = ((z.matmul(&z.t()?)? / TEMPERATURE)? + &out)?;
            let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
            let log_p = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?;
            Ok(log_p.gather(&other, 1)?.mean_all()?.neg()?)
        }),
        demanded: 1.6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_a_check_compute_the_same() {
        for check in checks().unwrap() {
            let sum = |t: Tensor| t.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
            let (fast, plain) = (sum((check.fast)().unwrap()), sum((check.plain)().unwrap()));
            assert!((fast / plain - 1.0).abs() < 1e-3, "{}: {fast} and {plain}", check.name);
        }
    }

    #[test]
    fn a_path_that_is_as_slow_as_the_plain_one_fails() {
        let ratio = |plain: f64| Ratio::new(&[1.0, 2.0], &[plain, 5.0]).unwrap();
        assert!(!passes(&ratio(1.0), 1.5));
        assert!(passes(&ratio(1.6), 1.5));
        assert!(!passes(&Ratio { of_minima: f64::NAN, ..ratio(1.0) }, 1.5));
    }
}
