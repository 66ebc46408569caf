//! What a step of each method without negatives computes, put together again from encoders, heads and the papers' formulas in loops.

use candle_core::{D, Device, Tensor};
use selfsup_kernels::{Activation, Gelu, linear};
use selfsup_models::params::ParamBuilder;
use selfsup_models::{Encoder, HeadNorm, Mode, Projector, ProjectorConfig, arch};
use selfsup_train::method::{Method, Progress};
use selfsup_train::{MethodConfig, PretrainConfig, parse_setting};

const SIDE: usize = 16;
const BATCH: usize = 6;
const AT: Progress = Progress { step: 0, total: 10, lr: 0.1 };

fn config(method: &str) -> PretrainConfig {
    let settings = ["image_size=16", "batch_size=6", "arch=resnet10-mini"];
    let layers: Vec<_> = settings.iter().map(|s| parse_setting(s).unwrap()).collect();
    PretrainConfig::resolve(method, &layers).unwrap()
}

fn encoder(config: &PretrainConfig) -> Encoder {
    Encoder::untrained(arch(&config.arch).unwrap(), config.preprocessing(), 0, &Device::Cpu).unwrap()
}

fn method(config: &PretrainConfig) -> Box<dyn Method> {
    config.method.build(encoder(config), 0).unwrap()
}

fn view(seed: usize, side: usize) -> Tensor {
    let pixels = (0..BATCH * side * side * 3).map(|i| (((i + 7919 * seed) * 2_654_435_761) >> 9) as u8);
    Tensor::from_vec(pixels.collect::<Vec<u8>>(), (BATCH, side, side, 3), &Device::Cpu).unwrap()
}

fn step(method: &mut dyn Method, views: &[Tensor]) -> f64 {
    f64::from(method.step(&views.to_vec().into(), AT).unwrap().loss.to_scalar::<f32>().unwrap())
}

/// The head of a name, with the values that `seed` 0 draws.
fn head(name: &str, config: &ProjectorConfig, width: usize) -> Projector {
    Projector::new(width, config, &ParamBuilder::new(0, &Device::Cpu).part(name)).unwrap()
}

fn rows(t: &Tensor) -> Vec<Vec<f64>> {
    t.to_vec2::<f32>().unwrap().into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect()
}

fn mean_cosine(a: &Tensor, b: &Tensor) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (a, b) = (rows(a), rows(b));
    a.iter().zip(&b).map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).sum::<f64>() / a.len() as f64
}

fn assert_near(got: f64, expected: f64, what: &str) {
    assert!((got - expected).abs() <= 2e-4 * expected.abs().max(1.0), "{what}: {got}, expected {expected}");
}

/// Embeddings of both views, and predictions from them.
fn embedded(config: &PretrainConfig, projector: &ProjectorConfig, hidden_dim: usize) -> [[Tensor; 2]; 2] {
    let encoder = encoder(config);
    let z_head = head("projector", projector, encoder.feature_dim());
    let width = projector.out_dim;
    let p_config = ProjectorConfig { layers: 2, hidden_dim, out_dim: width, batch_norm: HeadNorm::Hidden };
    let p_head = head("predictor", &p_config, width);
    [1, 2].map(|seed| {
        let features = encoder.forward(&view(seed, SIDE), Mode::Train).unwrap();
        let z = z_head.forward(&features, Mode::Train).unwrap();
        let p = p_head.forward(&z, Mode::Train).unwrap();
        [z, p]
    })
}

#[test]
fn simsiam_and_byol_compare_each_view_with_the_other() {
    let config = config("simsiam");
    let MethodConfig::SimSiam(own) = &config.method else { panic!() };
    let [[z1, p1], [z2, p2]] = embedded(&config, &own.projector, own.predictor_hidden_dim);
    let expected = -0.5 * (mean_cosine(&p1, &z2) + mean_cosine(&p2, &z1));
    assert!((mean_cosine(&p1, &z2) - mean_cosine(&p1, &z1)).abs() > 1e-3, "the pairs can be told apart");
    let got = step(method(&config).as_mut(), &[view(1, SIDE), view(2, SIDE)]);
    assert_near(got, expected, "simsiam");

    // Before the first update the target network is the online one.
    let config = self::config("byol");
    let MethodConfig::Byol(own) = &config.method else { panic!() };
    let [[z1, p1], [z2, p2]] = embedded(&config, &own.projector, own.predictor_hidden_dim);
    let expected = 4.0 - 2.0 * (mean_cosine(&p1, &z2) + mean_cosine(&p2, &z1));
    let got = step(method(&config).as_mut(), &[view(1, SIDE), view(2, SIDE)]);
    assert_near(got, expected, "byol");
}

#[test]
fn barlow_twins_and_vicreg_take_both_views_embeddings() {
    for name in ["barlow-twins", "vicreg"] {
        let config = config(name);
        let projector = match &config.method {
            MethodConfig::BarlowTwins(own) => &own.projector,
            MethodConfig::VicReg(own) => &own.projector,
            _ => panic!(),
        };
        let [[z1, _], [z2, _]] = embedded(&config, projector, 8);
        let loss = match &config.method {
            MethodConfig::BarlowTwins(own) => selfsup_objectives::barlow_twins(&z1, &z2, own.lambda),
            MethodConfig::VicReg(own) => {
                let weights = selfsup_objectives::VicRegWeights {
                    invariance: own.invariance,
                    variance: own.variance,
                    covariance: own.covariance,
                };
                selfsup_objectives::vicreg(&z1, &z2, weights)
            }
            _ => panic!(),
        };
        let expected = f64::from(loss.unwrap().to_scalar::<f32>().unwrap());
        let got = step(method(&config).as_mut(), &[view(1, SIDE), view(2, SIDE)]);
        assert_near(got, expected, name);
    }
}

/// What only the online network's gradient may reach, and what follows it.
#[test]
fn momentum_networks_follow_and_get_no_gradient() {
    for (name, prefix, momentum) in [("byol", "target_", 0.99), ("dino", "teacher_", 0.99)] {
        let config = config(name);
        let mut method = method(&config);
        let all = method.tensors();
        let slow = |own: &str| all.iter().find(|t| t.name == format!("{prefix}{own}")).cloned();
        let local = match &config.method {
            MethodConfig::Dino(own) => own.local_augmentation.output_size().unwrap() as usize,
            _ => SIDE,
        };
        let sides = [SIDE, SIDE, local, local];
        let views: Vec<Tensor> = (1..).zip(sides).map(|(seed, side)| view(seed, side)).collect();
        let views = if name == "byol" { &views[..2] } else { &views[..] };
        let loss = method.step(&views.to_vec().into(), AT).unwrap().loss;
        let grads = loss.backward().unwrap();
        for t in all.iter() {
            assert_eq!(grads.get(&t.var).is_some(), t.trainable, "{name}: {}", t.name);
        }
        for t in all.trainable() {
            t.var.set(&(t.var.as_detached_tensor() + 1.0).unwrap()).unwrap();
        }
        method.after_update(AT).unwrap();
        let mut followed = 0;
        for t in all.trainable() {
            let Some(slow) = slow(&t.name) else { continue };
            let off =
                ((t.var.as_detached_tensor() - slow.var.as_detached_tensor()).unwrap() - momentum).unwrap();
            let off = off.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off < 1e-5, "{name}: {} is {off} off", t.name);
            followed += 1;
        }
        assert!(followed > 10, "{name}: {followed} tensors");
    }
}

#[test]
fn dino_compares_every_crop_with_the_other_large_ones() {
    let config = config("dino");
    let MethodConfig::Dino(own) = &config.method else { panic!() };
    let local = own.local_augmentation.output_size().unwrap() as usize;
    let views: Vec<Tensor> =
        [(1, SIDE), (2, SIDE), (3, local), (4, local)].map(|(seed, side)| view(seed, side)).into();
    let mut method = method(&config);
    let all = method.tensors();
    let tensor = |name: &str| all.iter().find(|t| t.name == name).unwrap().var.as_detached_tensor();
    let encoder = encoder(&config);
    // One pass for each size: the statistics are those of both crops.
    let outputs = |pair: &[Tensor]| -> Vec<Vec<Vec<f64>>> {
        let mut x = encoder.forward(&Tensor::cat(pair, 0).unwrap(), Mode::Train).unwrap();
        for i in 0..3 {
            let part = |part: &str| tensor(&format!("projector.{i}.{part}"));
            let act = if i < 2 { Activation::Gelu(Gelu::Exact) } else { Activation::None };
            x = linear(&x, &part("weight"), Some(&part("bias")), act).unwrap();
        }
        let unit =
            |t: &Tensor| t.broadcast_div(&t.sqr().unwrap().sum_keepdim(D::Minus1).unwrap().sqrt().unwrap());
        let directions = unit(&tensor("projector.last.weight")).unwrap().t().unwrap();
        let y = unit(&x).unwrap().matmul(&directions).unwrap();
        (0..2).map(|i| rows(&y.narrow(0, i * BATCH, BATCH).unwrap())).collect()
    };
    let (large, small) = (outputs(&views[..2]), outputs(&views[2..]));
    let softmax = |row: &[f64], temperature: f64| -> Vec<f64> {
        let e: Vec<f64> = row.iter().map(|v| (v / temperature).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.into_iter().map(|e| e / sum).collect()
    };
    let students: Vec<_> = large.iter().chain(&small).collect();
    let (mut total, mut terms) = (0.0, 0.0);
    for (t, taught) in large.iter().enumerate() {
        for (s, learnt) in students.iter().enumerate() {
            if s == t {
                continue;
            }
            for (a, b) in taught.iter().zip(*learnt) {
                let (p, q) = (softmax(a, own.teacher_temperature_start), softmax(b, own.student_temperature));
                total -= p.iter().zip(&q).map(|(p, q)| p * q.ln()).sum::<f64>();
                terms += 1.0;
            }
        }
    }
    assert_near(step(method.as_mut(), &views), total / terms, "dino");
    // The centre moves a tenth of the way to the teacher's mean output.
    method.after_update(AT).unwrap();
    let center = rows(&tensor("center"));
    let k = center[0].len();
    let mean = |j: usize| large.iter().flatten().map(|row| row[j]).sum::<f64>() / (2 * BATCH) as f64;
    assert!((0..k).all(|j| (center[0][j] - 0.1 * mean(j)).abs() < 1e-5));
}
