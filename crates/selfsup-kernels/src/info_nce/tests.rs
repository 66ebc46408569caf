use super::positives::Positives;
use super::self_contrast::SelfContrast;
use super::*;
use crate::gradcheck::GradCheck;
use crate::testing::{assert_close, assert_same_bits, random, values, with_threads};
use candle_core::{Device, Var};
use proptest::prelude::*;

/// Loss and gradient from the formulas at the head of the module, with every matrix written out.
pub(super) fn oracle(z: &Tensor, positives: &[Vec<usize>], temperature: f64) -> (f64, Tensor) {
    let (n, d) = z.dims2().unwrap();
    // values() widens without a change.
    let z: Vec<Vec<f64>> = values(z).chunks(d).map(<[f64]>::to_vec).collect();
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norms: Vec<f64> = z.iter().map(|z| product(z, z).sqrt()).collect();
    let v: Vec<Vec<f64>> = (0..n)
        .map(|i| z[i].iter().map(|x| if norms[i] == 0.0 { 0.0 } else { x / norms[i] }).collect())
        .collect();
    let anchors = positives.iter().filter(|p| !p.is_empty()).count() as f64;
    let mut loss = 0.0;
    let mut ds = vec![vec![0.0; n]; n];
    for i in (0..n).filter(|&i| !positives[i].is_empty()) {
        let s: Vec<f64> = (0..n).map(|k| product(&v[i], &v[k]) / temperature).collect();
        let others = || (0..n).filter(|&k| k != i);
        let max = others().map(|k| s[k]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = others().map(|k| (s[k] - max).exp()).sum();
        for k in others() {
            ds[i][k] += (s[k] - max).exp() / sum / anchors;
        }
        for &p in &positives[i] {
            let share = 1.0 / positives[i].len() as f64 / anchors;
            loss += share * (max + sum.ln() - s[p]);
            ds[i][p] -= share;
        }
    }
    let mut dz = Vec::with_capacity(n * d);
    for i in 0..n {
        let dv: Vec<f64> = (0..d)
            .map(|c| (0..n).map(|k| (ds[i][k] + ds[k][i]) * v[k][c]).sum::<f64>() / temperature)
            .collect();
        let along = product(&v[i], &dv);
        dz.extend((0..d).map(|c| if norms[i] == 0.0 { 0.0 } else { (dv[c] - v[i][c] * along) / norms[i] }));
    }
    (loss, Tensor::from_vec(dz, (n, d), &Device::Cpu).unwrap())
}

fn other_views(n: usize) -> Vec<Vec<usize>> {
    (0..n).map(|i| vec![(i + n / 2) % n]).collect()
}

pub(super) fn same_labels(labels: &[u32]) -> Vec<Vec<usize>> {
    let same = |i: usize| (0..labels.len()).filter(move |&k| k != i && labels[k] == labels[i]).collect();
    (0..labels.len()).map(same).collect()
}

/// Loss and gradient by the fused operation in blocks of `block` rows.
pub(super) fn fused(
    z: &Tensor,
    positives: Positives,
    temperature: f64,
    block: Option<usize>,
) -> (Tensor, Tensor) {
    let z = Var::from_tensor(z).unwrap();
    let mut op = SelfContrast::new("test", positives, temperature);
    op.block = block;
    let loss = z.apply_op1(op).unwrap();
    let grad = loss.backward().unwrap().remove(&z).unwrap();
    (loss, grad)
}

pub(super) fn scalar(loss: &Tensor) -> f64 {
    values(loss)[0]
}

/// Loss and gradient agree with the oracle's to `tolerance`; the gradient relative to the size of the terms that it
/// is a sum of, w/(τ‖z_i‖) for row i, since where they cancel nothing but their rounding is left.
#[track_caller]
pub(super) fn agree(
    z: &Tensor,
    positives: &[Vec<usize>],
    temperature: f64,
    got: (Tensor, Tensor),
    tolerance: f64,
) {
    let (loss, grad) = oracle(z, positives, temperature);
    let got_loss = scalar(&got.0);
    assert!((got_loss - loss).abs() <= tolerance * (1.0 + loss.abs()), "{got_loss}, expected {loss}");
    let anchors = positives.iter().filter(|p| !p.is_empty()).count().max(1) as f64;
    let squares = z.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_keepdim(1).unwrap();
    let scale = (squares.sqrt().unwrap() * (temperature * anchors)).unwrap();
    let scaled = |t: &Tensor| t.to_dtype(DType::F64).unwrap().broadcast_mul(&scale).unwrap();
    assert_close(&scaled(&got.1), &scaled(&grad), tolerance);
}

#[test]
fn every_size_and_temperature_gives_the_oracle_s_loss_and_gradient() {
    for n in [2, 4, 6, 18, 50, 130] {
        for d in [1, 2, 7, 16, 33] {
            for temperature in [0.01, 0.024, 0.07, 0.5, 10.0] {
                let z = random((n, d), (n * d) as u64);
                let narrow = z.to_dtype(DType::F32).unwrap();
                for block in [None, Some(1), Some(5), Some(16)] {
                    let got = fused(&z, Positives::OtherView, temperature, block);
                    agree(&z, &other_views(n), temperature, got, 1e-12);
                    let got = fused(&narrow, Positives::OtherView, temperature, block);
                    // exp S is known to as much as S, which is known to some units in the last place of 1/τ.
                    let tolerance = 5e-7 * (1.0 + 1.0 / temperature);
                    agree(&narrow, &other_views(n), temperature, got, tolerance);
                }
            }
        }
    }
}

#[test]
fn a_wide_and_a_long_matrix() {
    for (n, d) in [(6, 2048), (1100, 3), (1500, 40)] {
        let z = random((n, d), 5).to_dtype(DType::F32).unwrap();
        let got = fused(&z, Positives::OtherView, 0.2, None);
        agree(&z, &other_views(n), 0.2, got, 3e-6);
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for temperature in [0.02, 0.5] {
        GradCheck::f64().check(&[random((10, 5), 1)], |t| nt_xent(&t[0], temperature)).unwrap();
        let labels = [3, 1, 3, 3, 7, 1, 9];
        GradCheck::f64().check(&[random((7, 4), 2)], |t| sup_con(&t[0], &labels, temperature)).unwrap();
    }
}

#[test]
fn the_gradient_is_scaled_by_what_comes_from_above() {
    let z = Var::from_tensor(&random((6, 4), 1)).unwrap();
    let loss = nt_xent(&z, 0.5).unwrap();
    let once = loss.backward().unwrap().remove(&z).unwrap();
    let thrice = (loss * -3.0).unwrap().backward().unwrap().remove(&z).unwrap();
    assert_close(&thrice, &(once * -3.0).unwrap(), 1e-14);
}

#[test]
fn equal_embeddings_leave_a_guess_among_the_others() {
    for temperature in [0.01, 0.1, 1.0] {
        let z = Tensor::new(&[[0.3f32, -1.0, 2.0]], &Device::Cpu).unwrap().repeat((8, 1)).unwrap();
        let (loss, grad) = fused(&z, Positives::OtherView, temperature, Some(3));
        assert!((scalar(&loss) - 7f64.ln()).abs() < 1e-5, "{loss}");
        assert_close(&grad, &grad.zeros_like().unwrap(), 1e-5 / temperature);
    }
}

#[test]
fn a_single_pair_has_no_negatives() {
    let (loss, grad) = fused(&random((2, 5), 1), Positives::OtherView, 0.1, None);
    assert!(scalar(&loss).abs() < 1e-14);
    assert_close(&grad, &grad.zeros_like().unwrap(), 1e-14);
}

#[test]
fn rows_of_zeros_are_defined_and_stay() {
    for temperature in [0.01, 0.5] {
        let mut numbers = values(&random((6, 4), 3));
        numbers[4..8].fill(0.0);
        numbers[16..20].fill(0.0);
        let z = Tensor::from_vec(numbers, (6, 4), &Device::Cpu).unwrap();
        let got = fused(&z, Positives::OtherView, temperature, Some(2));
        let grad = got.1.clone();
        agree(&z, &other_views(6), temperature, got, 1e-12);
        assert!(values(&grad)[4..8].iter().all(|g| *g == 0.0));
        let zeros = z.zeros_like().unwrap();
        let (loss, grad) = fused(&zeros, Positives::OtherView, temperature, None);
        assert!((scalar(&loss) - 5f64.ln()).abs() < 1e-12);
        assert_same_bits(&grad, &zeros);
    }
}

#[test]
fn logits_that_overflow_exp_and_vectors_of_any_length() {
    let z = random((8, 3), 7);
    for (temperature, length) in [(1e-3, 1.0), (1e-6, 1.0), (0.5, 1e15), (0.5, 1e-15)] {
        let z = (&z * length).unwrap();
        let got = fused(&z, Positives::OtherView, temperature, Some(3));
        agree(&z, &other_views(8), temperature, got, 1e-15 * (1e3 + 1.0 / temperature));
        let got = fused(&z.to_dtype(DType::F32).unwrap(), Positives::OtherView, temperature, Some(3));
        assert!(scalar(&got.0).is_finite() && values(&got.1).iter().all(|g| g.is_finite()));
    }
}

#[test]
fn no_number_comes_out_where_none_went_in() {
    for temperature in [0.01, 0.5] {
        for bad in [f64::NAN, f64::INFINITY] {
            for place in [0, 7, 15] {
                let mut numbers = values(&random((8, 2), 3));
                numbers[place] = bad;
                let z = Tensor::from_vec(numbers, (8, 2), &Device::Cpu).unwrap();
                for z in [z.clone(), z.to_dtype(DType::F32).unwrap()] {
                    let (loss, _) = fused(&z, Positives::OtherView, temperature, Some(3));
                    assert!(scalar(&loss).is_nan(), "{bad} at {place}, temperature {temperature}: {loss}");
                }
            }
        }
    }
}

#[test]
fn any_layout_and_narrow_numbers() {
    let z = random((5, 12), 4);
    let columns = z.t().unwrap();
    assert_same_bits(
        &nt_xent(&columns, 0.3).unwrap(),
        &nt_xent(&columns.contiguous().unwrap(), 0.3).unwrap(),
    );
    for dtype in [DType::BF16, DType::F16] {
        let narrow = Var::from_tensor(&z.t().unwrap().to_dtype(dtype).unwrap()).unwrap();
        let loss = nt_xent(&narrow, 0.3).unwrap();
        let wide = narrow.to_dtype(DType::F32).unwrap();
        assert_same_bits(&loss, &nt_xent(&wide, 0.3).unwrap());
        let grad = loss.backward().unwrap().remove(&narrow).unwrap();
        let expected = fused(&wide, Positives::OtherView, 0.3, None).1;
        assert_eq!(grad.dtype(), dtype);
        assert_same_bits(&grad, &expected.to_dtype(dtype).unwrap());
    }
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    for temperature in [0.02, 0.5] {
        let z = random((330, 20), 9).to_dtype(DType::F32).unwrap();
        let run = |threads| with_threads(threads, || fused(&z, Positives::OtherView, temperature, Some(32)));
        let (one, five) = (run(1), run(5));
        assert_same_bits(&one.0, &five.0);
        assert_same_bits(&one.1, &five.1);
    }
}

#[test]
fn the_cpu_takes_the_fused_operation() {
    let z = random((300, 24), 6).to_dtype(DType::F32).unwrap();
    let fused = fused(&z, Positives::OtherView, 0.2, None).0;
    assert_same_bits(&nt_xent(&z, 0.2).unwrap(), &fused);
    // The reference would be told apart: it sums in another order.
    let var = Var::from_tensor(&z).unwrap();
    let gradient = |loss: Tensor| values(loss.backward().unwrap().get(&var).unwrap());
    let reference = reference::self_contrast(&var, &Positives::OtherView, 0.2).unwrap();
    assert_ne!(gradient(nt_xent(&var, 0.2).unwrap()), gradient(reference));
}

#[test]
fn labels_give_the_oracle_s_loss_and_gradient() {
    let labels: [&[u32]; 5] =
        [&[0, 1, 2, 0, 1, 2], &[5, 5, 5, 5], &[0, 0, 0, 1, 1, 9, 4_000_000_000], &[0, 1], &[7]];
    for labels in labels {
        for temperature in [0.02, 0.3] {
            let z = random((labels.len(), 3), 8);
            for block in [None, Some(2)] {
                let got = fused(&z, Positives::SameLabel(labels.to_vec()), temperature, block);
                agree(&z, &same_labels(labels), temperature, got, 1e-12);
            }
        }
    }
    let z = random((8, 3), 8);
    let pairs = sup_con(&z, &[0, 1, 2, 3, 0, 1, 2, 3], 0.3).unwrap();
    assert_close(&pairs, &nt_xent(&z, 0.3).unwrap(), 1e-14);
}

#[test]
fn the_reference_is_the_same_loss() {
    let labels = vec![0, 0, 0, 1, 1, 9];
    for positives in [Positives::OtherView, Positives::SameLabel(labels)] {
        let z = Var::from_tensor(&random((6, 4), 2)).unwrap();
        let loss = reference::self_contrast(&z, &positives, 0.2).unwrap();
        let grad = loss.backward().unwrap().remove(&z).unwrap();
        let got = fused(&z, positives, 0.2, Some(2));
        assert_close(&got.0, &loss, 1e-13);
        assert_close(&got.1, &grad, 1e-13);
    }
}

#[test]
fn bad_input_is_refused_by_name() {
    let z = random((4, 3), 1);
    for temperature in [0.0, -1.0, 1e-7, f64::NAN, f64::INFINITY] {
        let error = nt_xent(&z, temperature).unwrap_err().to_string();
        assert!(error.starts_with("nt_xent: temperature"), "{error}");
    }
    for shape in [vec![3, 3], vec![4], vec![0, 3], vec![4, 0], vec![2, 2, 3]] {
        let z = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        assert!(nt_xent(&z, 0.5).unwrap_err().to_string().contains("[2n, d]"));
    }
    assert!(nt_xent(&z.to_dtype(DType::U8).unwrap(), 0.5).unwrap_err().to_string().contains("U8"));
    let error = sup_con(&z, &[1, 2, 3], 0.5).unwrap_err().to_string();
    assert!(error.contains("each of 3 labels"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_shape_in_any_blocks(n in 1usize..40, d in 1usize..20, block in 1usize..50, t in 0.01f64..2.0, seed in 0u64..1000) {
        let z = random((2 * n, d), seed);
        let got = fused(&z, Positives::OtherView, t, Some(block));
        agree(&z, &other_views(2 * n), t, got, 1e-12);
    }
}
