//! MoCo: two updates against a transcription of the paper's algorithm in PyTorch, and what moves what.

use candle_core::{DType, Device, Tensor};
use selfsup_models::{Encoder, arch};
use selfsup_optim::{Optimizer, Param, check_gradients};
use selfsup_train::method::{Method, Progress};
use selfsup_train::{PretrainConfig, parse_setting};
use serde_json::Value;
use std::collections::HashMap;

const SIDE: usize = 20;
const BATCH: usize = 8;
const LR: f64 = 0.05;

/// The numbers of make_moco.py's `uniform`.
fn uniform(count: usize, key: u64) -> Vec<f64> {
    let at = |i: u64| {
        let mut z = (i + (key << 32) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count as u64).map(at).collect()
}

/// make_moco.py's `fill`.
fn fill(name: &str, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let scale = (6.0 / (count / shape[0]) as f64).sqrt();
    let shift = if name.ends_with("weight") { 1.0 } else { 0.0 };
    let value = |v: f64| if shape.len() == 1 { shift + 0.2 * v } else { v * scale };
    let key = name.bytes().map(u64::from).sum();
    let values: Vec<f32> = uniform(count, key).into_iter().map(|v| value(v) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn view(step: usize, view: usize) -> Tensor {
    let pixels = uniform(BATCH * SIDE * SIDE * 3, (10 * step + view) as u64);
    let pixels: Vec<u8> = pixels.into_iter().map(|v| (128.0 + 128.0 * v).floor() as u8).collect();
    Tensor::from_vec(pixels, (BATCH, SIDE, SIDE, 3), &Device::Cpu).unwrap()
}

fn config(settings: &[&str]) -> PretrainConfig {
    let own = [
        "image_size=20",
        "batch_size=8",
        "arch=resnet10-mini",
        "method.temperature=0.2",
        "method.momentum=0.9",
        "method.queue=16",
        "method.bn_groups=2",
        "method.projector.out_dim=12",
        "optimizer={name=\"sgd\", lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=false}",
        "normalization={mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25]}",
    ];
    let layers: Vec<_> = own.iter().chain(settings).map(|s| parse_setting(s).unwrap()).collect();
    PretrainConfig::resolve("moco-v2", &layers).unwrap()
}

type Built = (Box<dyn Method>, Box<dyn Optimizer>, Vec<Param>);

fn build(config: &PretrainConfig) -> Built {
    let encoder =
        Encoder::untrained(arch(&config.arch).unwrap(), config.preprocessing(), 0, &Device::Cpu).unwrap();
    let method = config.method.build(encoder, config.seed).unwrap();
    let params: Vec<Param> =
        method.tensors().trainable().map(|t| Param { name: t.name.clone(), var: t.var.clone() }).collect();
    let optimizer = config.optimizer.build(config.optimizer.groups(params.clone())).unwrap();
    (method, optimizer, params)
}

fn tensors(method: &dyn Method) -> HashMap<String, Tensor> {
    let copies = method.tensors().to_file().unwrap().into_iter().map(|(name, t)| (name, t.copy().unwrap()));
    copies.collect()
}

fn step((method, optimizer, params): &mut Built, index: usize) -> f64 {
    let at = Progress { step: index as u64, total: 10, lr: 0.1 };
    let out = method.step(&[view(index, 1), view(index, 2)].into(), at).unwrap();
    let grads = out.loss.backward().unwrap();
    check_gradients(&grads, params).unwrap();
    optimizer.step(&grads, LR).unwrap();
    method.after_update(at).unwrap();
    f64::from(out.loss.to_scalar::<f32>().unwrap())
}

fn assert_sample(tensor: &Tensor, expected: &Value, what: &str) {
    let flat = tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
    let norm = expected["norm"].as_f64().unwrap();
    let close = |got: f64, expected: f64, scale: f64| {
        assert!((got - expected).abs() <= 1e-5 * scale, "{what}: {got}, expected {expected}");
    };
    close(flat.iter().map(|v| v * v).sum::<f64>().sqrt(), norm, norm);
    let values = expected["values"].as_array().unwrap();
    let largest = flat.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    for (i, value) in values.iter().enumerate() {
        let at = (i as f64 * (flat.len() - 1) as f64 / (values.len() - 1) as f64) as usize;
        close(flat[at], value.as_f64().unwrap(), largest);
    }
}

#[test]
fn updates_are_those_of_the_paper_s_algorithm() {
    let golden: Value = serde_json::from_str(include_str!("golden/moco.json")).unwrap();
    let mut run = build(&config(&[]));
    let filled: HashMap<String, Tensor> = tensors(run.0.as_ref())
        .into_iter()
        .map(|(name, t)| {
            let value = match &name[..] {
                "queue" => selfsup_kernels::l2_normalize(&fill("queue", t.dims()), 1e-12).unwrap(),
                name if name.contains("running") || name == "queue_next" => t.clone(),
                // Both encoders begin alike.
                own => fill(own.strip_prefix("key_").unwrap_or(own), t.dims()),
            };
            (name, value)
        })
        .collect();
    run.0.tensors().load_file(&filled, "moco").unwrap();
    for (index, expected) in golden["steps"].as_array().unwrap().iter().enumerate() {
        let loss = step(&mut run, index);
        let wanted = expected["loss"].as_f64().unwrap();
        assert!((loss / wanted - 1.0).abs() < 1e-5, "step {index}: loss {loss}, expected {wanted}");
        let got = tensors(run.0.as_ref());
        let next = got["queue_next"].to_scalar::<i64>().unwrap();
        assert_eq!(Some(next), expected["pointer"].as_i64());
        assert_sample(&got["queue"], &expected["queue"], &format!("step {index}, queue"));
        for (prefix, part) in [("", "query"), ("key_", "key")] {
            for (name, values) in expected[part].as_object().unwrap() {
                let name = format!("{prefix}{name}");
                assert_sample(&got[&name], values, &format!("step {index}, {name}"));
            }
        }
    }
}

/// The optimiser is given the queries' encoder alone, the loss leads to nothing else, and the rest moves by the rule.
#[test]
fn only_the_queries_encoder_gets_gradients() {
    for settings in [vec![], vec!["method.symmetric=true"]] {
        let (mut method, _, params) = build(&config(&settings));
        assert!(params.iter().all(|p| p.name.starts_with("encoder.") || p.name.starts_with("projector.")));
        let all = method.tensors();
        let others: Vec<_> = all.iter().filter(|t| !t.trainable).collect();
        assert!(others.iter().any(|t| t.name == "queue"));
        assert!(others.iter().any(|t| t.name == "key_encoder.conv1.weight"));
        let at = Progress { step: 0, total: 10, lr: 0.1 };
        let out = method.step(&[view(0, 1), view(0, 2)].into(), at).unwrap();
        let grads = out.loss.backward().unwrap();
        check_gradients(&grads, &params).unwrap();
        for other in others {
            assert!(grads.get(&other.var).is_none(), "{} got a gradient", other.name);
        }
    }
}

#[test]
fn the_queue_turns_and_the_key_encoder_follows() {
    let mut run = build(&config(&["method.momentum=0.75"]));
    let before = tensors(run.0.as_ref());
    let norms = |queue: &Tensor| queue.sqr().unwrap().sum(1).unwrap().to_vec1::<f32>().unwrap();
    assert!(norms(&before["queue"]).iter().all(|norm| (norm - 1.0).abs() < 1e-5), "random unit keys");
    step(&mut run, 0);
    let after = tensors(run.0.as_ref());
    let row = |queue: &Tensor, i: usize| queue.get(i).unwrap().to_vec1::<f32>().unwrap();
    for i in 0..16 {
        // The first eight are new, the others wait for their turn.
        assert_eq!(row(&before["queue"], i) == row(&after["queue"], i), i >= 8, "row {i}");
    }
    assert!(norms(&after["queue"]).iter().all(|norm| (norm - 1.0).abs() < 1e-5));
    for (name, fast) in &after {
        let Some(slow) = after.get(&format!("key_{name}")) else { continue };
        if name.contains("running") {
            continue;
        }
        let expected = ((&before[&format!("key_{name}")] * 0.75).unwrap() + (fast * 0.25).unwrap()).unwrap();
        let off = (slow - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(off < 1e-6, "{name} is {off} off");
        assert_ne!(slow.to_string(), before[name].to_string(), "{name} has not moved");
    }
    step(&mut run, 1);
    step(&mut run, 2);
    assert_eq!(
        tensors(run.0.as_ref())["queue_next"].to_scalar::<i64>().unwrap(),
        8,
        "24 keys in a queue of 16"
    );
}

#[test]
fn groups_have_statistics_of_their_own() {
    let loss = |groups: &str| step(&mut build(&config(&[groups])), 0);
    let (whole, grouped) = (loss("method.bn_groups=1"), loss("method.bn_groups=4"));
    assert!((whole - grouped).abs() > 1e-4, "{whole} and {grouped}");
}

/// Both directions' mean; the keys of both views enter the queue, the first view's first.
#[test]
fn the_symmetric_loss_is_the_mean_of_both_directions() {
    let settings = ["method.bn_groups=1", "method.symmetric=true"];
    let of = |settings: &[&str], views: [usize; 2]| {
        let (mut method, ..) = build(&config(settings));
        let at = Progress { step: 0, total: 10, lr: 0.1 };
        let loss = method.step(&views.map(|v| view(0, v)).into(), at).unwrap().loss;
        method.after_update(at).unwrap();
        (
            f64::from(loss.to_scalar::<f32>().unwrap()),
            tensors(method.as_ref())["queue"].to_vec2::<f32>().unwrap(),
        )
    };
    let (both, queue) = of(&settings, [1, 2]);
    let (first, of_second) = of(&settings[..1], [1, 2]);
    let (second, of_first) = of(&settings[..1], [2, 1]);
    assert!((first - second).abs() > 1e-4, "the directions can be told apart");
    assert!((both - (first + second) / 2.0).abs() < 1e-5, "{both}, {first}, {second}");
    let near = |a: &[Vec<f32>], b: &[Vec<f32>]| {
        a.iter().flatten().zip(b.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-4)
    };
    assert!(near(&queue[..8], &of_first[..8]) && near(&queue[8..], &of_second[..8]));
}

#[test]
fn the_ramp_ends_at_one() {
    let mut run = build(&config(&["method.momentum_ramp=true"]));
    let momentum = |run: &mut Built, at: Progress| {
        let out = run.0.step(&[view(0, 1), view(0, 2)].into(), at).unwrap();
        let metrics = (out.metrics)().unwrap();
        run.0.after_update(at).unwrap();
        metrics.iter().find(|(name, _)| *name == "momentum").unwrap().1
    };
    let of = |run: &mut Built, step| momentum(run, Progress { step, total: 10, lr: 0.1 });
    assert!((of(&mut run, 0) - 0.9).abs() < 1e-12);
    assert!((of(&mut run, 5) - 0.95).abs() < 1e-12);
    assert!((of(&mut run, 10) - 1.0).abs() < 1e-12);
}

#[test]
fn bad_settings_are_errors_before_training() {
    let error = |settings: &[&str]| {
        let layers: Vec<_> = settings.iter().map(|s| parse_setting(s).unwrap()).collect();
        PretrainConfig::resolve("moco-v2", &layers).unwrap_err().to_string()
    };
    for (settings, parts) in [
        (
            &["batch_size=100", "method.bn_groups=4"][..],
            ["method.queue", "a multiple of 100 (batch_size), got 2048"],
        ),
        (&["method.queue=0"], ["method.queue", "got 0"]),
        (
            &["method.symmetric=true", "batch_size=256", "method.queue=256"],
            ["a multiple of 512", "both views are keys"],
        ),
        (&["method.momentum=1.5"], ["method.momentum", "in 0…1, got 1.5"]),
        (&["method.temperature=0"], ["method.temperature", "positive"]),
        (&["method.bn_groups=3"], ["method.bn_groups", "a divisor of batch_size (128)"]),
        (&["method.bn_groups=128"], ["method.bn_groups", "two images a group"]),
        (&["method.bn_groups=0"], ["method.bn_groups", "got 0"]),
        (&["batch_size=1"], ["batch_size", "at least 2"]),
    ] {
        let error = error(settings);
        assert!(parts.iter().all(|part| error.contains(part)), "{settings:?}: {error}");
    }
}
