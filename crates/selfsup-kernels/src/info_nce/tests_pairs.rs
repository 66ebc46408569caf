//! The forms with two or three matrices: each against f64 loops over the formula, against candle's operations with
//! their gradients, and against finite differences.

use super::pairs::Pairs;
use super::query_key::QueryKey;
use super::two_tower::TwoTower;
use super::*;
use crate::gradcheck::GradCheck;
use crate::testing::{assert_close, assert_same_bits, random, values, with_threads};
use candle_core::{Device, Var};

const TEMPERATURES: [f64; 3] = [0.01, 0.07, 2.0];

type Form<'a> = dyn Fn([&Tensor; 3]) -> Result<Tensor> + Sync + 'a;

fn rows(x: &Tensor) -> Vec<Vec<f64>> {
    let d = *x.dims().last().unwrap();
    values(x)
        .chunks(d)
        .map(|row| {
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            row.iter().map(|v| if norm == 0.0 { 0.0 } else { v / norm }).collect()
        })
        .collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// ln Σ exp of the logits, less the first.
fn first_is_right(logits: &[f64]) -> f64 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + logits.iter().map(|s| (s - max).exp()).sum::<f64>().ln() - logits[0]
}

fn mean(terms: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = terms.len() as f64;
    terms.sum::<f64>() / n
}

fn variables<const N: usize>(inputs: [&Tensor; N]) -> [Var; N] {
    inputs.map(|x| Var::from_tensor(x).unwrap())
}

/// The loss, and its gradients of every input.
fn with_gradients<const N: usize>(
    inputs: [&Tensor; N],
    f: impl Fn([&Tensor; N]) -> Result<Tensor>,
) -> (Tensor, Vec<Option<Tensor>>) {
    let vars = variables(inputs);
    let loss = f(std::array::from_fn(|i| vars[i].as_tensor())).unwrap();
    let mut grads = loss.backward().unwrap();
    (loss, vars.iter().map(|v| grads.remove(v)).collect())
}

/// Both functions give the expected loss, and equal gradients for the inputs that have one.
#[track_caller]
fn agree<const N: usize>(
    inputs: [&Tensor; N],
    loss: f64,
    fused: impl Fn([&Tensor; N]) -> Result<Tensor>,
    reference: impl Fn([&Tensor; N]) -> Result<Tensor>,
) {
    let (got, gradients) = with_gradients(inputs, fused);
    let (other, expected) = with_gradients(inputs, reference);
    for value in [values(&got)[0], values(&other)[0]] {
        assert!((value - loss).abs() < 1e-12 * (1.0 + loss.abs()), "{value}, expected {loss}");
    }
    for (got, expected) in gradients.iter().zip(&expected) {
        match (got, expected) {
            (Some(got), Some(expected)) => assert_close(got, expected, 1e-11),
            (None, None) => {}
            _ => panic!("only one of the two has a gradient"),
        }
    }
}

#[test]
fn anchors_against_candidates() {
    for (n, m, d) in [(1, 1, 1), (1, 2, 3), (3, 9, 5), (9, 3, 5), (7, 7, 16), (70, 130, 4)] {
        let (a, c) = (random((n, d), 1), random((m, d), 2));
        let positives: Vec<u32> = (0..n).map(|i| (i * 5 % m) as u32).collect();
        let excluded: Vec<u32> = (0..n).map(|i| ((i * 5 + 1) % m) as u32).collect();
        for excluded in [None, Some(&excluded[..])].into_iter().take(if m > 1 { 2 } else { 1 }) {
            for t in TEMPERATURES {
                let (va, vc) = (rows(&a), rows(&c));
                let loss = mean((0..n).map(|i| {
                    let p = positives[i] as usize;
                    let others = (0..m).filter(|&k| k != p && excluded.is_none_or(|e| e[i] as usize != k));
                    let logits: Vec<f64> =
                        std::iter::once(p).chain(others).map(|k| cosine(&va[i], &vc[k]) / t).collect();
                    first_is_right(&logits)
                }));
                for block in [None, Some(1), Some(4)] {
                    agree(
                        [&a, &c],
                        loss,
                        |[a, c]| {
                            let mut op = Pairs::new(&positives, excluded, t);
                            op.block = block;
                            Ok(a.apply_op2(c, op)?)
                        },
                        |[a, c]| reference::pairs(a, c, &positives, excluded, t),
                    );
                }
            }
        }
    }
}

#[test]
fn views_against_themselves_are_nt_xent() {
    let z = random((10, 4), 3);
    let positives: Vec<u32> = (0..10).map(|i| (i + 5) % 10).collect();
    let itself: Vec<u32> = (0..10).collect();
    for t in TEMPERATURES {
        let (loss, grad) = with_gradients([&z], |[z]| nt_xent(z, t));
        let (pairs, both) = with_gradients([&z], |[z]| info_nce(z, z, &positives, Some(&itself), t));
        assert_close(&pairs, &loss, 1e-13);
        assert_close(both[0].as_ref().unwrap(), grad[0].as_ref().unwrap(), 1e-12);
        // Two ranks of five anchors each, whose candidates are the views of both: the mean of their losses.
        let half = |from: usize| {
            let anchors = z.narrow(0, from, 5).unwrap();
            let (positives, itself) = (&positives[from..from + 5], &itself[from..from + 5]);
            values(&info_nce(&anchors, &z, positives, Some(itself), t).unwrap())[0]
        };
        assert!(((half(0) + half(5)) / 2.0 - values(&loss)[0]).abs() < 1e-13);
    }
}

#[test]
fn candidates_without_a_variable_get_no_gradient() {
    let (a, c) = (Var::from_tensor(&random((3, 4), 1)).unwrap(), random((5, 4), 2));
    let run = |c: &Tensor| {
        let loss = info_nce(&a, c, &[0, 1, 2], None, 0.1).unwrap();
        let grads = loss.backward().unwrap();
        (grads.get(&a).unwrap().clone(), grads.get(c).is_some())
    };
    let (alone, none) = run(&c);
    let variable = Var::from_tensor(&c).unwrap();
    let (both, some) = run(&variable);
    assert!(!none && some);
    assert_same_bits(&alone, &both);
}

#[test]
fn two_towers() {
    for (n, d) in [(1, 1), (2, 3), (7, 5), (70, 4)] {
        let (a, b) = (random((n, d), 1), random((n, d), 2));
        for t in TEMPERATURES {
            let (va, vb) = (rows(&a), rows(&b));
            let order = |i: usize| std::iter::once(i).chain((0..n).filter(move |&k| k != i));
            let there = |i: usize| order(i).map(|k| cosine(&va[i], &vb[k]) / t).collect::<Vec<_>>();
            let back = |i: usize| order(i).map(|k| cosine(&va[k], &vb[i]) / t).collect::<Vec<_>>();
            let loss = mean((0..n).map(|i| 0.5 * (first_is_right(&there(i)) + first_is_right(&back(i)))));
            let scale = Tensor::new(1.0 / t, &Device::Cpu).unwrap();
            for block in [None, Some(1), Some(3)] {
                agree(
                    [&a, &b, &scale],
                    loss,
                    |[a, b, scale]| {
                        let mut op = TwoTower::default();
                        op.block = block;
                        Ok(a.apply_op3(b, scale, op)?)
                    },
                    |[a, b, scale]| reference::two_tower(a, b, scale),
                );
            }
        }
    }
}

#[test]
fn queries_keys_and_queue() {
    for (n, m, d) in [(1, 1, 1), (2, 5, 3), (7, 3, 5), (70, 200, 4)] {
        let (q, k, queue) = (random((n, d), 1), random((n, d), 2), random((m, d), 3));
        for t in TEMPERATURES {
            let (vq, vk, vqueue) = (rows(&q), rows(&k), rows(&queue));
            let loss = mean((0..n).map(|i| {
                let others = vqueue.iter().map(|v| cosine(&vq[i], v) / t);
                let logits: Vec<f64> = std::iter::once(cosine(&vq[i], &vk[i]) / t).chain(others).collect();
                first_is_right(&logits)
            }));
            for block in [None, Some(1), Some(3)] {
                agree(
                    [&q, &k, &queue],
                    loss,
                    |[q, k, queue]| {
                        let mut op = QueryKey::new(t);
                        op.block = block;
                        Ok(q.apply_op3(k, &queue.detach(), op)?)
                    },
                    |[q, k, queue]| reference::query_key(q, k, &queue.detach(), t),
                );
            }
        }
    }
    let (_, gradients) =
        with_gradients([&random((3, 4), 1), &random((3, 4), 2), &random((5, 4), 3)], |[q, k, queue]| {
            info_nce_queue(q, k, queue, 0.07)
        });
    assert!(gradients[0].is_some() && gradients[1].is_some() && gradients[2].is_none());
}

#[test]
fn explicit_negatives() {
    for (n, m, d) in [(1, 1, 1), (2, 5, 3), (7, 3, 5)] {
        let (a, p, negatives) = (random((n, d), 1), random((n, d), 2), random((n, m, d), 3));
        for t in TEMPERATURES {
            let (va, vp, vn) = (rows(&a), rows(&p), rows(&negatives));
            let loss = mean((0..n).map(|i| {
                let others = (0..m).map(|j| cosine(&va[i], &vn[i * m + j]) / t);
                let logits: Vec<f64> = std::iter::once(cosine(&va[i], &vp[i]) / t).chain(others).collect();
                first_is_right(&logits)
            }));
            agree(
                [&a, &p, &negatives],
                loss,
                |[a, p, negatives]| info_nce_explicit(a, p, negatives, t),
                |[a, p, negatives]| reference::explicit(a, p, negatives, t),
            );
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let (a, b, c) = (random((4, 3), 1), random((4, 3), 2), random((6, 3), 3));
    let check = GradCheck::f64();
    for t in [0.05, 0.5] {
        check
            .check(&[a.clone(), c.clone()], |x| info_nce(&x[0], &x[1], &[5, 0, 0, 2], Some(&[1, 1, 2, 3]), t))
            .unwrap();
        let scale = Tensor::new(1.0 / t, &Device::Cpu).unwrap();
        check.check(&[a.clone(), b.clone(), scale], |x| two_tower(&x[0], &x[1], &x[2])).unwrap();
        check.check(&[a.clone(), b.clone()], |x| info_nce_queue(&x[0], &x[1], &c, t)).unwrap();
        let negatives = random((4, 2, 3), 4);
        check
            .check(&[a.clone(), b.clone(), negatives], |x| info_nce_explicit(&x[0], &x[1], &x[2], t))
            .unwrap();
    }
}

#[test]
fn f32_is_near_f64_and_has_the_same_bits_on_any_number_of_threads() {
    let (a, b) = (random((150, 24), 1), random((150, 24), 2));
    let queue = random((700, 24), 3);
    let positives: Vec<u32> = (0..150).collect();
    let narrow = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
    for t in [0.02, 0.2] {
        let forms: [&Form; 3] = [
            &|[a, b, _]| info_nce(a, b, &positives, None, t),
            &|[a, b, queue]| info_nce_queue(a, b, queue, t),
            &|[a, b, _]| two_tower(a, b, &Tensor::new(1.0 / t, &Device::Cpu)?.to_dtype(a.dtype())?),
        ];
        for form in forms {
            let inputs = [narrow(&a), narrow(&b), narrow(&queue)];
            let wide = inputs.each_ref().map(|x| x.to_dtype(DType::F64).unwrap());
            let expected = with_gradients(wide.each_ref(), form);
            let run = |threads| with_threads(threads, || with_gradients(inputs.each_ref(), form));
            let (got, again) = (run(1), run(3));
            assert_close(&got.0, &expected.0, 1e-6 / t);
            assert_same_bits(&got.0, &again.0);
            for i in 0..2 {
                let [got, again, expected] = [&got, &again, &expected].map(|x| x.1[i].as_ref().unwrap());
                assert_close(got, expected, 1e-7 / t);
                assert_same_bits(got, again);
            }
        }
    }
}

#[test]
fn bad_input_is_refused_by_name() {
    let (a, c, wide) = (random((4, 3), 1), random((6, 3), 2), random((4, 5), 3));
    let says = |result: Result<Tensor>, words: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words), "`{words}` is not in: {error}");
    };
    says(info_nce(&a, &wide, &[0; 4], None, 0.1), "candidates of [m, 3]");
    says(info_nce(&a, &c, &[0; 3], None, 0.1), "positives must be one for each anchor");
    says(info_nce(&a, &c, &[0, 1, 2, 6], None, 0.1), "positives must be rows of the candidates, got 6");
    says(info_nce(&a, &c, &[0; 4], Some(&[9; 4]), 0.1), "excluded must be rows");
    says(info_nce(&a, &c, &[0; 4], Some(&[1, 0, 1, 1]), 0.1), "excluded must be other than the positive");
    says(info_nce(&a, &c, &[0; 4], None, 0.0), "temperature");
    says(info_nce(&a, &c.to_dtype(DType::F32).unwrap(), &[0; 4], None, 0.1), "candidates of x's F64");
    says(info_nce_queue(&a, &a, &wide, 0.1), "queue of [m, 3]");
    says(info_nce_queue(&a, &c, &c, 0.1), "keys of [4, d]");
    says(info_nce_queue(&a, &a, &Tensor::zeros((0, 3), DType::F64, &Device::Cpu).unwrap(), 0.1), "m ≥ 1");
    says(info_nce_explicit(&a, &c, &random((4, 2, 3), 1), 0.1), "positives of [4, 3]");
    says(info_nce_explicit(&a, &a, &random((3, 2, 3), 1), 0.1), "negatives of [4, m, 3]");
    let one = Tensor::new(1.0, &Device::Cpu).unwrap();
    says(two_tower(&a, &c, &one), "b of [4, d]");
    says(two_tower(&a, &a, &one.unsqueeze(0).unwrap()), "a scale of []");
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        says(two_tower(&a, &a, &Tensor::new(bad, &Device::Cpu).unwrap()), "scale must be above 0");
    }
}
