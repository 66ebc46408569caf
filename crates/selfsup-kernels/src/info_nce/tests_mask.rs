//! Positives by a mask, and what bf16 loses.

use super::positives::{Listed, Positives};
use super::tests::{agree, fused, oracle, same_labels, scalar};
use super::*;
use crate::gradcheck::GradCheck;
use crate::testing::{assert_close, assert_same_bits, random, values, with_threads};
use candle_core::{Device, Var};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A mask, not symmetric, with a diagonal at random, and some rows without positives.
fn random_mask(n: usize, share: f64, seed: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut mask: Vec<u8> =
        (0..n * n).map(|_| if rng.random_bool(share) { rng.random_range(1..=255) } else { 0 }).collect();
    for row in mask.chunks_mut(n).skip(1).step_by(5) {
        row.fill(0);
    }
    mask
}

fn lists(mask: &[u8], n: usize) -> Vec<Vec<usize>> {
    (0..n).map(|i| (0..n).filter(|&k| k != i && mask[i * n + k] != 0).collect()).collect()
}

fn tensor(mask: &[u8], n: usize) -> Tensor {
    Tensor::from_slice(mask, (n, n), &Device::Cpu).unwrap()
}

fn listed(mask: &[u8], n: usize) -> Positives {
    Positives::Listed(Listed::from_mask(mask, n))
}

#[test]
fn any_mask_gives_the_oracle_s_loss_and_gradient() {
    for (n, d) in [(1, 3), (2, 1), (7, 4), (33, 5), (130, 16)] {
        for share in [0.0, 0.1, 0.6, 1.0] {
            for temperature in [0.02, 0.3] {
                let mask = random_mask(n, share, n as u64);
                let z = random((n, d), 8);
                for block in [None, Some(5)] {
                    let got = fused(&z, listed(&mask, n), temperature, block);
                    agree(&z, &lists(&mask, n), temperature, got, 1e-12);
                    let narrow = z.to_dtype(DType::F32).unwrap();
                    let got = fused(&narrow, listed(&mask, n), temperature, block);
                    // As for the other positives: exp S is known to as much as S.
                    agree(&narrow, &lists(&mask, n), temperature, got, 5e-7 * (1.0 + 1.0 / temperature));
                }
            }
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for temperature in [0.02, 0.5] {
        let mask = tensor(&random_mask(7, 0.4, 3), 7);
        GradCheck::f64().check(&[random((7, 4), 2)], |t| sup_con_mask(&t[0], &mask, temperature)).unwrap();
    }
}

#[test]
fn equal_labels_as_a_mask_are_sup_con_and_other_views_nt_xent() {
    let labels = [0, 4, 0, 0, 1, 1, 9, 4];
    let z = Var::from_tensor(&random((8, 3), 8)).unwrap();
    let mut mask = vec![0; 64];
    same_labels(&labels).iter().enumerate().for_each(|(i, all)| all.iter().for_each(|k| mask[i * 8 + k] = 1));
    let by_mask = sup_con_mask(&z, &tensor(&mask, 8), 0.3).unwrap();
    let by_label = sup_con(&z, &labels, 0.3).unwrap();
    assert_close(&by_mask, &by_label, 1e-14);
    let grad = |loss: Tensor| loss.backward().unwrap().remove(&z).unwrap();
    assert_close(&grad(by_mask), &grad(by_label), 1e-14);
    let views: Vec<u8> = (0..64).map(|at| u8::from((at / 8 + 4) % 8 == at % 8)).collect();
    let by_mask = sup_con_mask(&z, &tensor(&views, 8), 0.3).unwrap();
    assert_close(&by_mask, &nt_xent(&z, 0.3).unwrap(), 1e-14);
}

#[test]
fn the_diagonal_and_the_values_do_not_matter() {
    let (z, mut mask) = (random((9, 4), 1), random_mask(9, 0.3, 5));
    let loss = sup_con_mask(&z, &tensor(&mask, 9), 0.2).unwrap();
    for (at, m) in mask.iter_mut().enumerate() {
        *m = if at % 10 == 0 { 1 - (*m).min(1) } else { (*m).min(1) };
    }
    assert_same_bits(&sup_con_mask(&z, &tensor(&mask, 9), 0.2).unwrap(), &loss);
    // A view of the mask, transposed twice.
    let twice = tensor(&mask, 9).t().unwrap().contiguous().unwrap().t().unwrap();
    assert_same_bits(&sup_con_mask(&z, &twice, 0.2).unwrap(), &loss);
}

#[test]
fn without_anchors_loss_and_gradient_are_0() {
    let got = fused(&random((5, 3), 1), listed(&[0; 25], 5), 0.1, None);
    assert_eq!(scalar(&got.0), 0.0);
    assert!(values(&got.1).iter().all(|g| *g == 0.0));
}

#[test]
fn the_reference_is_the_same_loss() {
    let mask = random_mask(11, 0.3, 2);
    let z = Var::from_tensor(&random((11, 4), 2)).unwrap();
    let loss = reference::self_contrast(&z, &listed(&mask, 11), 0.2).unwrap();
    let grad = loss.backward().unwrap().remove(&z).unwrap();
    let got = fused(&z, listed(&mask, 11), 0.2, Some(4));
    assert_close(&got.0, &loss, 1e-13);
    assert_close(&got.1, &grad, 1e-13);
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let z = random((330, 20), 9).to_dtype(DType::F32).unwrap();
    let mask = random_mask(330, 0.05, 4);
    let run = |threads| with_threads(threads, || fused(&z, listed(&mask, 330), 0.5, Some(32)));
    let (one, five) = (run(1), run(5));
    assert_same_bits(&one.0, &five.0);
    assert_same_bits(&one.1, &five.1);
}

#[test]
fn bad_masks_are_refused_by_name() {
    let z = random((4, 3), 1);
    let fails = |mask: &Tensor| sup_con_mask(&z, mask, 0.5).unwrap_err().to_string();
    assert!(fails(&tensor(&[0; 9], 3)).contains("a mask of [4, 4]"));
    assert!(fails(&random((4, 4), 1)).contains("U8"));
    let error = sup_con_mask(&z, &tensor(&[0; 16], 4), 0.0).unwrap_err().to_string();
    assert!(error.starts_with("sup_con_mask: temperature"), "{error}");
}

/// |got − expected| ≤ half a unit of `got`'s last place in bf16 for every number, and f32's rounding of what the number
/// is a sum of.
#[track_caller]
fn within_a_rounding(got: &Tensor, expected: &Tensor, noise: f64) {
    assert_eq!(got.dtype(), DType::BF16);
    for (got, expected) in values(got).iter().zip(values(expected)) {
        // Eight bits of significand: half a unit is 2⁻⁹ of the power of two below.
        let half = 2f64.powi(expected.abs().log2().floor() as i32 - 8);
        assert!((got - expected).abs() <= half + noise, "{got}, expected {expected}");
    }
}

#[test]
fn bf16_loses_nothing_but_the_result_s_rounding() {
    // Long rows and many of them: sums in bf16 would be off by several per cent.
    let (n, d, temperature) = (300, 256, 0.1);
    let z = random((n, d), 4).to_dtype(DType::BF16).unwrap();
    let mask = random_mask(n, 0.05, 6);
    let other_views: Vec<Vec<usize>> = (0..n).map(|i| vec![(i + n / 2) % n]).collect();
    type Loss<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;
    let cases: [(Loss, Vec<Vec<usize>>); 2] = [
        (&|z| nt_xent(z, temperature), other_views),
        (&|z| sup_con_mask(z, &tensor(&mask, n), temperature), lists(&mask, n)),
    ];
    for (f, positives) in cases {
        // The oracle widens the rounded input without a change.
        let (loss, grad) = oracle(&z, &positives, temperature);
        let z = Var::from_tensor(&z).unwrap();
        let got = f(&z).unwrap();
        assert_eq!(got.dtype(), DType::F32);
        assert!((scalar(&got) - loss).abs() < 2e-6 * loss, "{got}, expected {loss}");
        // The terms of a gradient are w/(τ‖z_i‖), of which f32 keeps 10⁻⁷ and some.
        let norm = (d as f64 / 3.0).sqrt();
        let noise = 1e-6 / (n as f64 * temperature * norm);
        within_a_rounding(&got.backward().unwrap().remove(&z).unwrap(), &grad, noise);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_mask_in_any_blocks(n in 1usize..40, d in 1usize..20, block in 1usize..50, t in 0.01f64..2.0, share in 0.0f64..1.0, seed in 0u64..1000) {
        let (z, mask) = (random((n, d), seed), random_mask(n, share, seed));
        agree(&z, &lists(&mask, n), t, fused(&z, listed(&mask, n), t, Some(block)), 1e-12);
    }
}
