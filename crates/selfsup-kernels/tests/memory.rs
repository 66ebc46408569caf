//! NT-Xent of many views stays within linear memory: a test with a process of its own, as it reads the process's peak.
//! It takes some 20 s of two cores.

#![cfg(target_os = "linux")]

use candle_core::{Device, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use selfsup_kernels::info_nce::nt_xent;
use std::time::Instant;

const VIEWS: usize = 65_536;
const WIDTH: usize = 128;

/// The largest resident size that the process has had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux's /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a VmHWM line");
    let kilobytes = line.trim().strip_suffix("kB").expect("kB").trim();
    kilobytes.parse::<usize>().expect("a number") * 1024
}

#[test]
fn sixty_five_thousand_views_stay_below_two_gigabytes() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let numbers: Vec<f32> = (0..VIEWS * WIDTH).map(|_| rng.random_range(-1.0..1.0)).collect();
    let z = Var::from_vec(numbers, (VIEWS, WIDTH), &Device::Cpu).expect("memory");
    let start = Instant::now();
    let loss = nt_xent(&z, 0.5).expect("a loss");
    let forward = start.elapsed();
    let gradients = loss.backward().expect("gradients");
    let both = start.elapsed();
    let loss = loss.to_scalar::<f32>().expect("a scalar");
    println!(
        "loss {loss}, forward {forward:.1?}, forward+backward {both:.1?}, peak {} MB",
        peak() / 1_000_000
    );
    assert!(gradients.get(&z).is_some());
    // Random directions of 128 dimensions are nearly orthogonal: the positive is one guess among 2n − 1, and cosines
    // with a variance of 1/d over τ = ½ add their half to the mean's logarithm.
    let expected = ((VIEWS - 1) as f32).ln() + 0.5 * 4.0 / WIDTH as f32;
    assert!((loss - expected).abs() < 0.01, "{loss}, expected {expected}");
    // The similarities alone would take 17 GB.
    assert!(peak() < 2_000_000_000, "{} bytes", peak());
}
