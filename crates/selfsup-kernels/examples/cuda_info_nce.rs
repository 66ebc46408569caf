//! On a GPU: every form of InfoNCE, and with `cudnn` the convolution, against the CPU's in f64, then InfoNCE's speed.
//!
//!     cargo run --release -p selfsup-kernels --features cudnn --example cuda_info_nce -- [D] [LARGEST_N]
//!
//! Fails if a loss or a gradient is off. Times are the shortest of five calls. TFLOP/s count 2·n²·d operations for the
//! forward pass and 4·n²·d for the backward pass, which works the similarities out again: what a fused kernel must do at
//! least without the symmetry. f32 takes three products of bf16 for each of these, which are not counted.

use candle_core::{DType, Device, Result, Tensor, Var};
use selfsup_kernels::info_nce::{info_nce, info_nce_queue, nt_xent, sup_con, two_tower};
use selfsup_kernels::{Conv2dConfig, conv2d};
use std::time::Instant;

type Loss<'a> = dyn Fn(&[Var], &Device, DType) -> selfsup_kernels::Result<Tensor> + 'a;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>().expect("a number"));
    let d = arguments.next().unwrap_or(128);
    let largest = arguments.next().unwrap_or(65_536);
    let gpu = Device::new_cuda(0)?;
    let mut failures = check_forms(&gpu)?;
    if cfg!(feature = "cudnn") {
        failures += check_convolutions(&gpu)?;
    }
    if failures > 0 {
        candle_core::bail!("{failures} results are off");
    }
    println!(
        "\n{:>6} {:>7} {:>6} {:>11} {:>11} {:>11} {:>11}",
        "n", "d", "dtype", "f, ms", "TFLOP/s", "f+b, ms", "TFLOP/s"
    );
    let mut n = 4096;
    while n <= largest {
        for dtype in [DType::BF16, DType::F32] {
            let z = Var::from_tensor(&Tensor::randn(0f32, 1.0, (n, d), &gpu)?.to_dtype(dtype)?)?;
            let loss = || nt_xent(&z, 0.1).map_err(candle_core::Error::wrap);
            let forward = shortest(&gpu, || loss().map(drop))?;
            let both = shortest(&gpu, || loss()?.backward().map(drop))?;
            let flop = 2.0 * (n * n * d) as f64;
            println!(
                "{n:>6} {d:>7} {:>6} {:>11.3} {:>11.1} {:>11.3} {:>11.1}",
                dtype.as_str(),
                forward * 1e3,
                flop / forward / 1e12,
                both * 1e3,
                3.0 * flop / both / 1e12
            );
        }
        n *= 2;
    }
    Ok(())
}

/// Prints each form's errors in each dtype; returns how many are off.
fn check_forms(gpu: &Device) -> Result<usize> {
    let labels: Vec<u32> = (0..600).map(|i| i * i % 37).collect();
    let positives: Vec<u32> = (0..600).map(|i| i * 7 % 300).collect();
    let excluded: Vec<u32> = positives.iter().map(|p| p + 1).collect();
    let mut failures = 0;
    for temperature in [0.5, 0.07, 0.02] {
        let forms: [(&str, &[usize], &Loss); 6] = [
            ("nt_xent", &[600], &|z, _, _| nt_xent(&z[0], temperature)),
            ("sup_con", &[600], &|z, _, _| sup_con(&z[0], &labels, temperature)),
            ("info_nce", &[600, 301], &|z, _, _| info_nce(&z[0], &z[1], &positives, None, temperature)),
            ("info_nce, excluded", &[600, 301], &|z, _, _| {
                info_nce(&z[0], &z[1], &positives, Some(&excluded), temperature)
            }),
            ("info_nce_queue", &[600, 600, 1111], &|z, _, _| {
                info_nce_queue(&z[0], &z[1], &z[2], temperature)
            }),
            ("two_tower", &[600, 600], &|z, device, dtype| {
                let scale = Tensor::new(1.0 / temperature, device)?.to_dtype(dtype)?;
                two_tower(&z[0], &z[1], &scale)
            }),
        ];
        for (name, rows, loss) in forms {
            for d in [16, 64, 100, 128, 256, 300] {
                for dtype in [DType::F32, DType::BF16] {
                    let inputs = rows
                        .iter()
                        .map(|&n| Tensor::randn(0f32, 1.0, (n, d), &Device::Cpu)?.to_dtype(dtype))
                        .collect::<Result<Vec<_>>>()?;
                    let call = |z: &[Var], device: &Device| {
                        let dtype = z[0].dtype();
                        loss(z, device, dtype).map_err(candle_core::Error::wrap)
                    };
                    let off = errors(&inputs, gpu, call)?;
                    // The rounding of cosines (see the module's documentation), and of bf16's gradients to bf16.
                    let rounding = if dtype == DType::BF16 { 2f64.powi(-8) } else { 3.0 * 2f64.powi(-18) };
                    failures += report(
                        &format!("{name}, d = {d}, τ = {temperature}"),
                        dtype,
                        &off,
                        rounding * (1.0 + 1.0 / temperature),
                    );
                }
            }
        }
    }
    Ok(failures)
}

fn check_convolutions(gpu: &Device) -> Result<usize> {
    let mut failures = 0;
    for (c, k, kernel, config) in [
        (16, 32, 3, Conv2dConfig { padding: 1, ..Default::default() }),
        (16, 32, 3, Conv2dConfig { padding: 1, stride: 2, ..Default::default() }),
        (3, 64, 7, Conv2dConfig { padding: 3, stride: 2, ..Default::default() }),
        (16, 8, 1, Conv2dConfig::default()),
        (16, 32, 3, Conv2dConfig { padding: 2, dilation: 2, ..Default::default() }),
        (16, 32, 3, Conv2dConfig { padding: 1, groups: 4, ..Default::default() }),
        (16, 16, 3, Conv2dConfig { padding: 1, groups: 16, ..Default::default() }),
    ] {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let x = Tensor::randn(0f32, 1.0, (4, 17, 15, c), &Device::Cpu)?.to_dtype(dtype)?;
            let weight = Tensor::randn(0f32, 0.1, (kernel, kernel, c / config.groups, k), &Device::Cpu)?;
            let inputs = [x, weight.to_dtype(dtype)?];
            let call = |z: &[Var], _: &Device| {
                let y = conv2d(&z[0], &z[1], config).map_err(candle_core::Error::wrap)?;
                y.to_dtype(DType::F32)?.sqr()?.mean_all()
            };
            let off = errors(&inputs, gpu, call)?;
            let tolerance = match dtype {
                DType::F32 => 1e-5,
                DType::F16 => 2e-3,
                _ => 2e-2,
            };
            failures +=
                report(&format!("conv2d {c}→{k}, kernel {kernel}, {config:?}"), dtype, &off, tolerance);
        }
    }
    Ok(failures)
}

/// The relative error of the value on the GPU, and that of each gradient relative to its largest number, against the
/// CPU's in f64.
fn errors(
    inputs: &[Tensor],
    gpu: &Device,
    call: impl Fn(&[Var], &Device) -> Result<Tensor>,
) -> Result<Vec<f64>> {
    let run = |device: &Device, dtype: Option<DType>| -> Result<Vec<Vec<f64>>> {
        let vars = inputs
            .iter()
            .map(|x| Var::from_tensor(&x.to_dtype(dtype.unwrap_or(x.dtype()))?.to_device(device)?))
            .collect::<Result<Vec<_>>>()?;
        let y = call(&vars, device)?;
        let gradients = y.backward()?;
        let numbers = |t: &Tensor| t.to_dtype(DType::F64)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1();
        let mut all = vec![numbers(&y)?];
        for var in &vars {
            all.extend(gradients.get(var).map(&numbers).transpose()?);
        }
        Ok(all)
    };
    let (got, expected) = (run(gpu, None)?, run(&Device::Cpu, Some(DType::F64))?);
    if got.len() != expected.len() {
        candle_core::bail!("{} gradients on the GPU, {} on the CPU", got.len() - 1, expected.len() - 1);
    }
    Ok(got
        .iter()
        .zip(&expected)
        .map(|(got, expected)| {
            let largest = expected.iter().fold(f64::MIN_POSITIVE, |most, e| most.max(e.abs()));
            let errors = got.iter().zip(expected).map(|(g, e)| (g - e).abs() / largest);
            errors.fold(0f64, |most, error| if most.is_nan() || error <= most { most } else { error })
        })
        .collect())
}

fn report(what: &str, dtype: DType, errors: &[f64], tolerance: f64) -> usize {
    let off = errors.iter().any(|error| error.is_nan() || *error > tolerance);
    let errors: Vec<String> = errors.iter().map(|error| format!("{error:.1e}")).collect();
    let verdict = if off { "OFF" } else { "ok" };
    println!("{verdict:3} {what}, {}: {} (allowed {tolerance:.1e})", dtype.as_str(), errors.join(" "));
    off.into()
}

/// The shortest time of a call in seconds, after one that loads the kernels.
fn shortest(gpu: &Device, f: impl Fn() -> Result<()>) -> Result<f64> {
    let mut shortest = f64::INFINITY;
    for round in 0..6 {
        gpu.synchronize()?;
        let start = Instant::now();
        f()?;
        gpu.synchronize()?;
        if round > 0 {
            shortest = shortest.min(start.elapsed().as_secs_f64());
        }
    }
    Ok(shortest)
}
