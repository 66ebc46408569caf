//! Groups, exemptions, and gradients that do not fit.

use candle_core::{DType, Device, Tensor, Var};
use selfsup_optim::{Error, OptimizerConfig, Param, ParamGroup, SgdConfig, check_gradients};

fn param(name: &str, values: &[f32], shape: &[usize]) -> Param {
    let tensor = Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
    Param { name: name.into(), var: Var::from_tensor(&tensor).unwrap() }
}

fn plain(lr: f64, weight_decay: f64) -> OptimizerConfig {
    OptimizerConfig::Sgd(SgdConfig { momentum: 0.0, weight_decay, ..SgdConfig::new(lr) })
}

fn values(p: &Param) -> Vec<f32> {
    p.var.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn rank_decides_the_exemptions() {
    let all = vec![
        param("conv", &[1.0; 16], &[2, 2, 2, 2]),
        param("scale", &[1.0; 3], &[3]),
        param("linear", &[1.0; 6], &[2, 3]),
        param("temperature", &[1.0], &[]),
    ];
    let groups = OptimizerConfig::lars(0.1).groups(all);
    let names = |g: &ParamGroup| g.params.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&groups[0]), ["conv", "linear"]);
    assert_eq!((groups[0].weight_decay, groups[0].adapt, groups[0].lr_scale), (1e-6, true, 1.0));
    assert_eq!(names(&groups[1]), ["scale", "temperature"]);
    assert_eq!((groups[1].weight_decay, groups[1].adapt, groups[1].lr_scale), (0.0, false, 1.0));
    assert_eq!(OptimizerConfig::sgd(0.1).groups(vec![param("b", &[1.0], &[1])]).len(), 1);
}

#[test]
fn a_group_s_scale_multiplies_the_rate() {
    for config in [plain(1.0, 0.0), OptimizerConfig::lars(1.0), OptimizerConfig::adamw(1.0)] {
        let moved = |lr_scale, lr| {
            let p = param("p", &[1.0, -2.0], &[1, 2]);
            let group = ParamGroup { params: vec![p.clone()], weight_decay: 0.1, adapt: true, lr_scale };
            let mut optimizer = config.build(vec![group]).unwrap();
            for _ in 0..2 {
                let grads = p.var.as_tensor().sqr().unwrap().sum_all().unwrap().backward().unwrap();
                optimizer.step(&grads, lr).unwrap();
            }
            values(&p)
        };
        assert_eq!(moved(0.25, 0.5), moved(1.0, 0.125), "{config:?}");
        assert_ne!(moved(0.25, 0.5), moved(1.0, 0.5), "{config:?}");
        assert_eq!(moved(0.0, 0.5), [1.0, -2.0], "{config:?}");
    }
}

#[test]
fn a_transposed_gradient_reaches_its_elements() {
    // The gradient of w in x·wᵀ is a transposed view.
    let w = param("w", &[0.0; 6], &[2, 3]);
    let x = Tensor::new(&[[1f32, 2., 3.], [10., 20., 30.]], &Device::Cpu).unwrap();
    let pick = Tensor::new(&[[1f32, 0.], [0., 1.]], &Device::Cpu).unwrap();
    let y = x.matmul(&w.var.as_tensor().t().unwrap()).unwrap();
    let grads = (y * pick).unwrap().sum_all().unwrap().backward().unwrap();
    let mut optimizer = plain(1.0, 0.0).build(plain(1.0, 0.0).groups(vec![w.clone()])).unwrap();
    optimizer.step(&grads, 1.0).unwrap();
    assert_eq!(values(&w), [-1.0, -2.0, -3.0, -10.0, -20.0, -30.0]);
}

#[test]
fn a_missing_gradient_is_named_and_nothing_moves() {
    let (a, b) = (param("a", &[1.0], &[1]), param("b", &[1.0], &[1]));
    let config = plain(0.1, 0.0);
    let mut optimizer = config.build(config.groups(vec![a.clone(), b.clone()])).unwrap();
    let grads = a.var.as_tensor().sum_all().unwrap().backward().unwrap();
    let error = optimizer.step(&grads, 0.1).unwrap_err();
    assert!(matches!(&error, Error::MissingGradients(names) if names == &["b"]), "{error}");
    assert_eq!(values(&a), [1.0]);
    let error = check_gradients(&grads, &[a, b]).unwrap_err().to_string();
    assert_eq!(error, "no gradient for `b`");
}

#[test]
fn what_does_not_fit_is_an_error() {
    let config = plain(0.1, 0.0);
    let build = |groups| config.build(groups).err().map(|e| e.to_string());
    assert_eq!(build(vec![]).unwrap(), "the optimiser has no parameter");
    let a = param("a", &[1.0], &[1]);
    let twice = config.groups(vec![a.clone(), param("a", &[1.0], &[1])]);
    assert_eq!(build(twice).unwrap(), "the parameter `a` is given twice");
    let shared = config.groups(vec![a.clone(), Param { name: "b".into(), var: a.var.clone() }]);
    assert_eq!(build(shared).unwrap(), "the parameter `b` is given twice");
    let whole = Var::zeros(2, DType::U32, &Device::Cpu).unwrap();
    let error = build(config.groups(vec![Param { name: "n".into(), var: whole }])).unwrap();
    assert!(error.contains("`n` must hold floating-point numbers, got U32"), "{error}");
    for (weight_decay, lr_scale) in [(-1.0, 1.0), (f64::NAN, 1.0), (0.0, -1.0), (0.0, f64::INFINITY)] {
        let group = ParamGroup { params: vec![a.clone()], weight_decay, adapt: true, lr_scale };
        assert!(build(vec![group]).unwrap().contains("must be finite and 0 or more"));
    }

    let mut optimizer = config.build(config.groups(vec![a.clone()])).unwrap();
    let mut grads = a.var.as_tensor().sum_all().unwrap().backward().unwrap();
    for lr in [f64::NAN, -0.1, f64::INFINITY] {
        assert!(optimizer.step(&grads, lr).is_err(), "{lr}");
    }
    grads.insert(&a.var, Tensor::zeros((1, 1), DType::F32, &Device::Cpu).unwrap());
    let error = optimizer.step(&grads, 0.1).unwrap_err().to_string();
    assert_eq!(error, "the gradient of `a` must have the shape [1], got [1, 1]");
    // A gradient that is the variable itself shares its memory.
    grads.insert(&a.var, a.var.as_tensor().clone());
    optimizer.step(&grads, 0.5).unwrap();
    assert_eq!(values(&a), [0.5]);
}
