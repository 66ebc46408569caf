//! Saving and restoring: a resumed run is the uninterrupted one bit by bit, and a state that is not the
//! optimiser's is refused whole.

use candle_core::{DType, Device, Tensor, Var};
use selfsup_optim::{AdamWConfig, LarsConfig, Optimizer, OptimizerConfig, Param, SgdConfig};
use std::collections::HashMap;

fn configs() -> Vec<OptimizerConfig> {
    vec![
        OptimizerConfig::Sgd(SgdConfig { momentum: 0.0, ..SgdConfig::new(0.1) }),
        OptimizerConfig::Sgd(SgdConfig { nesterov: true, ..SgdConfig::new(0.1) }),
        OptimizerConfig::Lars(LarsConfig { trust_coefficient: 0.1, ..LarsConfig::new(0.1) }),
        OptimizerConfig::AdamW(AdamWConfig::new(0.1)),
    ]
}

fn params(dtype: DType) -> Vec<Param> {
    [("a", vec![3usize, 5]), ("b", vec![7])]
        .into_iter()
        .map(|(name, shape)| {
            let count = shape.iter().product::<usize>();
            let values: Vec<f64> = (0..count).map(|i| (i as f64 * 1.7 + 0.3).sin()).collect();
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            let var = Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap();
            Param { name: name.into(), var }
        })
        .collect()
}

fn steps(optimizer: &mut dyn Optimizer, params: &[Param], count: usize) {
    for _ in 0..count {
        let mut loss = Tensor::zeros((), params[0].var.dtype(), &Device::Cpu).unwrap();
        for p in params {
            let x = p.var.as_tensor();
            loss = (loss + (x.sin().unwrap() + x.sqr().unwrap()).unwrap().sum_all().unwrap()).unwrap();
        }
        optimizer.step(&loss.backward().unwrap(), 0.05).unwrap();
    }
}

fn bits(params: &[Param]) -> Vec<Vec<u64>> {
    let values = |p: &Param| {
        let wide = p.var.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        wide.to_vec1::<f64>().unwrap().into_iter().map(f64::to_bits).collect()
    };
    params.iter().map(values).collect()
}

fn copies(params: &[Param]) -> Vec<Param> {
    let copy = |p: &Param| Param {
        name: p.name.clone(),
        var: Var::from_tensor(&p.var.as_detached_tensor().copy().unwrap()).unwrap(),
    };
    params.iter().map(copy).collect()
}

#[test]
fn a_restored_optimiser_goes_on_bit_by_bit() {
    for dtype in [DType::F32, DType::F64, DType::BF16] {
        for config in configs() {
            let whole = params(dtype);
            let mut optimizer = config.build(config.groups(whole.clone())).unwrap();
            steps(optimizer.as_mut(), &whole, 3);
            let saved: HashMap<String, Tensor> = optimizer.state().unwrap().into_iter().collect();
            let resumed = copies(&whole);
            // What was saved is a copy: going on does not change it.
            steps(optimizer.as_mut(), &whole, 3);

            let mut other = config.build(config.groups(resumed.clone())).unwrap();
            other.load_state(&saved).unwrap();
            steps(other.as_mut(), &resumed, 3);
            assert_eq!(bits(&whole), bits(&resumed), "{config:?} {dtype:?}");

            // The state counts: without it the run goes elsewhere. SGD without momentum has none.
            if !saved.is_empty() && dtype != DType::BF16 {
                let forgetful = params(dtype);
                let mut first = config.build(config.groups(forgetful.clone())).unwrap();
                steps(first.as_mut(), &forgetful, 3);
                let mut second = config.build(config.groups(forgetful.clone())).unwrap();
                steps(second.as_mut(), &forgetful, 3);
                assert_ne!(bits(&whole), bits(&forgetful), "{config:?} {dtype:?}");
            }
        }
    }
}

#[test]
fn the_state_has_a_name_for_everything() {
    let names = |config: &OptimizerConfig| -> Vec<String> {
        let optimizer = config.build(config.groups(params(DType::F32))).unwrap();
        optimizer.state().unwrap().into_iter().map(|(name, _)| name).collect()
    };
    let all: Vec<Vec<String>> = configs().iter().map(names).collect();
    assert!(all[0].is_empty());
    assert_eq!(all[1], ["a.momentum", "b.momentum"]);
    assert_eq!(all[2], ["a.momentum", "b.momentum"]);
    assert_eq!(all[3], ["a.first_moment", "a.second_moment", "b.first_moment", "b.second_moment", "step"]);
}

#[test]
fn a_foreign_state_is_refused_by_name_and_changes_nothing() {
    let config = OptimizerConfig::AdamW(AdamWConfig::new(0.1));
    let p = params(DType::F32);
    let mut optimizer = config.build(config.groups(p.clone())).unwrap();
    steps(optimizer.as_mut(), &p, 2);
    let good: HashMap<String, Tensor> = optimizer.state().unwrap().into_iter().collect();
    let before = |o: &dyn Optimizer| {
        format!("{:?}", o.state().unwrap().iter().map(|(n, t)| format!("{n}{t}")).collect::<Vec<_>>())
    };
    let snapshot = before(optimizer.as_ref());

    let cpu = &Device::Cpu;
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, cpu).unwrap();
    type Edit<'a> = &'a dyn Fn(&mut HashMap<String, Tensor>);
    let edits: [(&str, Edit); 6] = [
        ("missing: `b.first_moment`", &|s| drop(s.remove("b.first_moment"))),
        ("missing: `step`", &|s| drop(s.remove("step"))),
        ("unexpected: `c.first_moment`", &|s| {
            drop(s.insert("c.first_moment".into(), zeros(&[1], DType::F32)))
        }),
        ("`b.second_moment` must be F32 [7], got F32 [8]", &|s| {
            drop(s.insert("b.second_moment".into(), zeros(&[8], DType::F32)))
        }),
        ("`a.first_moment` must be F32 [3, 5], got F64 [3, 5]", &|s| {
            drop(s.insert("a.first_moment".into(), zeros(&[3, 5], DType::F64)))
        }),
        ("`step` must be I64 [], got F32 [1]", &|s| drop(s.insert("step".into(), zeros(&[1], DType::F32)))),
    ];
    for (message, edit) in edits {
        let mut state = good.clone();
        // All else in the state is new too: after a refusal none of it may have been taken.
        for (name, tensor) in state.iter_mut().filter(|(name, _)| *name != "step") {
            *tensor = (&*tensor + 1.0).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        edit(&mut state);
        let error = optimizer.load_state(&state).unwrap_err().to_string();
        assert!(error.contains(message), "expected `{message}` in `{error}`");
        assert_eq!(before(optimizer.as_ref()), snapshot, "after `{message}`");
    }
    optimizer.load_state(&good).unwrap();
}
