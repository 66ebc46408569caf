//! Colorization and reconstruction: the papers' formulas in loops, closed forms, finite differences, bad input.

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use selfsup_kernels::gradcheck::GradCheck;
use selfsup_objectives::{
    SoftBins, ab_bins, annealed_mean, binary_cross_entropy, colorization, psnr, rebalancing_weights,
    soft_bins, weighted_l2,
};

const Q: usize = 313;

fn random(shape: &[usize], scale: f64, seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| scale * rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn scalar(t: &Tensor) -> f64 {
    t.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

fn colours() -> SoftBins {
    let ab = [[3.0f32, -4.0], [60.0, 40.0], [-30.0, 30.0], [0.0, 0.0]];
    soft_bins(&Tensor::new(&ab, &Device::Cpu).unwrap()).unwrap()
}

#[test]
fn colorization_is_the_paper_s_weighted_cross_entropy() {
    let (logits, colours) = (random(&[4, Q], 3.0, 1), colours());
    let weights: Vec<f32> = (0..Q).map(|q| 0.5 + q as f32 / 100.0).collect();
    let got = colorization(&logits, &colours, &Tensor::new(&weights[..], &Device::Cpu).unwrap()).unwrap();
    let (bins, shares) = (colours.bins.to_vec2::<u32>().unwrap(), colours.shares.to_vec2::<f32>().unwrap());
    let mut expected = 0.0;
    for (p, row) in logits.to_vec2::<f64>().unwrap().iter().enumerate() {
        let lse = row.iter().map(|v| v.exp()).sum::<f64>().ln();
        let own: f64 =
            bins[p].iter().zip(&shares[p]).map(|(&q, &z)| f64::from(z) * (lse - row[q as usize])).sum();
        expected += f64::from(weights[bins[p][0] as usize]) * own / 4.0;
    }
    assert!((scalar(&got) - expected).abs() < 1e-6 * expected, "{got}, expected {expected}");
    let ones = Tensor::ones(Q, DType::F32, &Device::Cpu).unwrap();
    let nothing = Tensor::zeros((4, Q), DType::F32, &Device::Cpu).unwrap();
    let loss = scalar(&colorization(&nothing, &colours, &ones).unwrap());
    assert!((loss - (Q as f64).ln()).abs() < 1e-5, "{loss}");
}

#[test]
fn gradients_are_difference_quotients() {
    let colours = colours();
    let weights = Tensor::ones(Q, DType::F32, &Device::Cpu).unwrap();
    GradCheck::f64().check(&[random(&[4, Q], 1.0, 2)], |x| colorization(&x[0], &colours, &weights)).unwrap();
    let (truth, w) = (random(&[2, 3, 3, 2], 1.0, 3), random(&[1, 3, 3, 1], 1.0, 4).abs().unwrap());
    GradCheck::f64().check(&[random(&[2, 3, 3, 2], 1.0, 5)], |x| weighted_l2(&x[0], &truth, &w)).unwrap();
    for answer in [true, false] {
        GradCheck::f64().check(&[random(&[5, 1], 4.0, 6)], |x| binary_cross_entropy(&x[0], answer)).unwrap();
    }
}

#[test]
fn rare_colours_weigh_more_and_the_mean_weight_is_one() {
    let bins = ab_bins().unwrap();
    let gray = bins.iter().position(|b| *b == [0.0, 0.0]).unwrap();
    let red = bins.iter().position(|b| *b == [70.0, 50.0]).unwrap();
    let mut counts = vec![1u64; Q];
    counts[gray] = 10_000;
    let weights = rebalancing_weights(&counts, 0.5).unwrap();
    assert!(weights[red] > 5.0 * weights[gray], "{} and {}", weights[red], weights[gray]);
    // By the formula, in a plain double loop.
    let total: u64 = counts.iter().sum();
    let k = |x: &[f32; 2], y: &[f32; 2]| {
        (-(f64::from(x[0] - y[0]).powi(2) + f64::from(x[1] - y[1]).powi(2)) / 50.0).exp()
    };
    let blurred: Vec<f64> = bins
        .iter()
        .map(|to| {
            let of = |(from, count): (&[f32; 2], &u64)| {
                let norm: f64 = bins.iter().map(|b| k(from, b)).sum();
                *count as f64 / total as f64 * k(from, to) / norm
            };
            bins.iter().zip(&counts).map(of).sum()
        })
        .collect();
    assert!((blurred.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    let raw: Vec<f64> = blurred.iter().map(|p| 1.0 / (0.5 * p + 0.5 / Q as f64)).collect();
    let mean: f64 = raw.iter().zip(&blurred).map(|(w, p)| w * p).sum();
    for (got, raw) in weights.iter().zip(&raw) {
        assert!((f64::from(*got) - raw / mean).abs() < 1e-5 * raw / mean);
    }
    assert!(rebalancing_weights(&counts, 1.0).unwrap().iter().all(|w| (w - 1.0).abs() < 1e-6));
}

#[test]
fn the_annealed_mean_lies_between_the_mean_and_the_likeliest_bin() {
    let bins = ab_bins().unwrap();
    let mut logits = vec![f32::NEG_INFINITY; Q];
    let at = |ab: [f32; 2]| bins.iter().position(|b| *b == ab).unwrap();
    (logits[at([0.0, 0.0])], logits[at([50.0, 0.0])]) = (0.25f32.ln(), 0.75f32.ln());
    let logits = Tensor::from_slice(&logits, (1, Q), &Device::Cpu).unwrap();
    let a = |temperature| annealed_mean(&logits, temperature).unwrap().to_vec2::<f32>().unwrap()[0].clone();
    assert!((a(1.0)[0] - 37.5).abs() < 1e-3 && a(1.0)[1].abs() < 1e-3);
    assert!((a(1e-3)[0] - 50.0).abs() < 1e-3);
    let share = 3f64.powf(1.0 / 0.38) / (1.0 + 3f64.powf(1.0 / 0.38));
    assert!((f64::from(a(0.38)[0]) - 50.0 * share).abs() < 1e-3);
}

#[test]
fn errors_count_where_there_is_weight() {
    let t = |v: &[f32]| Tensor::from_slice(v, v.len(), &Device::Cpu).unwrap();
    let (x, y) = (t(&[1.0, 2.0, 5.0]), t(&[0.0, 0.0, 0.0]));
    assert_eq!(scalar(&weighted_l2(&x, &y, &t(&[1.0, 10.0, 0.0])).unwrap()), (1.0 + 40.0) / 2.0);
    let decibel = psnr(&x, &y, &t(&[1.0, 10.0, 0.0]), 2.0).unwrap();
    assert!(
        (decibel - 10.0 * (4.0f64 / 2.5).log10()).abs() < 1e-5,
        "the weight counts but by its sign: {decibel}"
    );
    assert_eq!(psnr(&x, &x, &t(&[1.0; 3]), 2.0).unwrap(), f64::INFINITY);
}

#[test]
fn the_adversary_s_loss_is_finite_for_any_logit() {
    let t = |v: f32| Tensor::new(&[[v]], &Device::Cpu).unwrap();
    for (z, answer, expected) in [
        (0.0, true, 2f64.ln()),
        (2.0, true, (1.0 + (-2.0f64).exp()).ln()),
        (2.0, false, (1.0 + 2.0f64.exp()).ln()),
        (1e4, false, 1e4),
        (1e4, true, 0.0),
        (-1e4, true, 1e4),
    ] {
        let got = scalar(&binary_cross_entropy(&t(z), answer).unwrap());
        assert!((got - expected).abs() < 1e-6 * expected.max(1.0), "{z} {answer}: {got}");
    }
}

#[test]
fn bad_input_is_an_error_that_says_so() {
    let (x, y) = (random(&[2, 3], 1.0, 1), random(&[3, 2], 1.0, 1));
    let w = Tensor::zeros((1, 3), DType::F32, &Device::Cpu).unwrap();
    let fails = |r: selfsup_objectives::Result<Tensor>, part: &str| {
        let error = r.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    fails(weighted_l2(&x, &y, &w), "truth must be [2, 3]");
    fails(weighted_l2(&x, &x, &w), "at least 1");
    fails(weighted_l2(&x, &x, &random(&[5], 1.0, 1)), "broadcastable");
    fails(binary_cross_entropy(&Tensor::zeros(2, DType::U8, &Device::Cpu).unwrap(), true), "floating-point");
    fails(annealed_mean(&x, 0.38), "313");
    fails(annealed_mean(&random(&[1, Q], 1.0, 1), 1e-40), "temperature");
    let weights = Tensor::ones(Q, DType::F32, &Device::Cpu).unwrap();
    fails(colorization(&random(&[3, Q], 1.0, 1), &colours(), &weights), "a row a pixel");
    fails(colorization(&random(&[4, 9], 1.0, 1), &colours(), &weights), "313");
    fails(colorization(&random(&[4, Q], 1.0, 1), &colours(), &w), "one a bin");
    assert!(rebalancing_weights(&[1; 5], 0.5).unwrap_err().to_string().contains("313"));
    assert!(rebalancing_weights(&[0; Q], 0.5).unwrap_err().to_string().contains("counts"));
    assert!(rebalancing_weights(&[1; Q], 0.0).unwrap_err().to_string().contains("(0, 1]"));
}
