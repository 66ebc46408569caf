//! Eight steps of each optimiser against PyTorch's numbers (SGD, AdamW) and against SimCLR's definition in
//! numpy and lightly (LARS), all in f64. An f32 parameter goes by the fused pass, an f64 one by candle's
//! operations, so both are held against the same numbers.

use candle_core::{DType, Device, Tensor, Var};
use selfsup_optim::{OptimizerConfig, Param};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Golden {
    params: Vec<Start>,
    grads: Vec<BTreeMap<String, Vec<f64>>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Start {
    name: String,
    shape: Vec<usize>,
    values: Vec<f64>,
}

#[derive(Deserialize)]
struct Case {
    case: String,
    config: OptimizerConfig,
    lrs: Vec<f64>,
    after: Vec<BTreeMap<String, Vec<f64>>>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/optimizers.json")).expect("the golden file")
}

fn tensor(values: &[f64], shape: &[usize], dtype: DType) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// Runs a case and fails at the first value that is further off than `tolerance` of its size (at least 0.1,
/// near which the parameters lie).
fn check(golden: &Golden, case: &Case, dtype: DType, tolerance: f64) {
    let params: Vec<Param> = golden
        .params
        .iter()
        .map(|p| Param {
            name: p.name.clone(),
            var: Var::from_tensor(&tensor(&p.values, &p.shape, dtype)).unwrap(),
        })
        .collect();
    let mut optimizer = case.config.build(case.config.groups(params.clone())).unwrap();
    for (step, (lr, grads)) in case.lrs.iter().zip(&golden.grads).enumerate() {
        // The gradient of Σ p·g is g.
        let mut loss = Tensor::zeros((), dtype, &Device::Cpu).unwrap();
        for p in &params {
            let g = tensor(&grads[&p.name], p.var.dims(), dtype);
            loss = (loss + (p.var.as_tensor() * g).unwrap().sum_all().unwrap()).unwrap();
        }
        optimizer.step(&loss.backward().unwrap(), *lr).unwrap();
        for p in &params {
            let got: Vec<f64> = p.var.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap();
            for (i, (got, want)) in got.iter().zip(&case.after[step][&p.name]).enumerate() {
                let off = (got - want).abs() / want.abs().max(0.1);
                // Written so that NaN fails.
                assert!(
                    off <= tolerance,
                    "{}: {dtype:?}, after step {}, {}[{i}] is {got}, expected {want}",
                    case.case,
                    step + 1,
                    p.name
                );
            }
        }
    }
}

#[test]
fn f32_steps_are_the_reference_s() {
    let golden = golden();
    assert_eq!(golden.cases.len(), 9);
    for case in &golden.cases {
        assert!(case.after.len() >= 5);
        // A few roundings of 6e-8 a step, over eight steps.
        check(&golden, case, DType::F32, 2e-6);
    }
}

#[test]
fn f64_steps_are_the_reference_s() {
    let golden = golden();
    for case in &golden.cases {
        // lightly's ratio has an eps of 1e-8 that ours has not.
        let tolerance = if case.case.ends_with("lightly") { 1e-7 } else { 1e-12 };
        check(&golden, case, DType::F64, tolerance);
    }
}
