//! A linear map learnt from noisy pairs by each optimiser, with warm-up and cosine; half of the run is done by
//! an optimiser that takes up the first one's saved state.
//!
//! `cargo run --release -p selfsup-optim --example least_squares`

use candle_core::{DType, Device, Tensor, Var};
use selfsup_optim::{LarsConfig, OptimizerConfig, Param, Result, Schedule, check_gradients, clip_grad_norm};
use std::collections::HashMap;

const STEPS: u64 = 400;
const STEPS_PER_EPOCH: u64 = 10;

fn main() -> Result<()> {
    let (n, d, k) = (512, 16, 4);
    let x = waves(n * d, 1.7, (n, d))?;
    let map = waves(d * k, 0.9, (d, k))?;
    let y = (x.matmul(&map)? + (waves(n * k, 2.3, (n, k))? * 0.01)?)?;
    println!("{:>6}  {:>10}  {:>10}  {:>10}", "", "first loss", "half-way", "last");
    for config in [
        OptimizerConfig::sgd(0.05),
        // The trust coefficient of ImageNet training would take a thousand times as many steps here.
        OptimizerConfig::Lars(LarsConfig { trust_coefficient: 1.0, ..LarsConfig::new(0.05) }),
        OptimizerConfig::adamw(0.05),
    ] {
        config.validate()?;
        let weight = Var::from_tensor(&waves(d * k, 3.1, (d, k))?)?;
        let bias = Var::zeros(k, DType::F32, &Device::Cpu)?;
        let params = vec![
            Param { name: "weight".into(), var: weight.clone() },
            Param { name: "bias".into(), var: bias.clone() },
        ];
        let loss =
            || x.matmul(weight.as_tensor())?.broadcast_add(bias.as_tensor())?.sub(&y)?.sqr()?.mean_all();
        let schedule = Schedule::cosine(2.0);
        let mut optimizer = config.build(config.groups(params.clone()))?;
        let mut shown = vec![loss()?.to_scalar::<f32>()?];
        for step in 0..STEPS {
            if step == STEPS / 2 {
                let saved: HashMap<String, Tensor> = optimizer.state()?.into_iter().collect();
                optimizer = config.build(config.groups(params.clone()))?;
                optimizer.load_state(&saved)?;
                shown.push(loss()?.to_scalar()?);
            }
            let mut grads = loss()?.backward()?;
            if step == 0 {
                check_gradients(&grads, &params)?;
            }
            clip_grad_norm(&mut grads, &params, 10.0)?;
            optimizer.step(&grads, config.lr() * schedule.factor(step, STEPS, STEPS_PER_EPOCH))?;
        }
        shown.push(loss()?.to_scalar()?);
        println!("{:>6}  {:>10.5}  {:>10.5}  {:>10.5}", config.name(), shown[0], shown[1], shown[2]);
    }
    Ok(())
}

/// Numbers in −1…1 that look random and are the same everywhere.
fn waves(count: usize, frequency: f64, shape: (usize, usize)) -> Result<Tensor> {
    let values: Vec<f32> = (0..count).map(|i| ((i * i) as f64 * frequency + i as f64).sin() as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
