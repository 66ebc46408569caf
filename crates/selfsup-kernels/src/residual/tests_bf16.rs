//! bf16 beside parameters in f32: the composition in f64, rounded wherever the operation keeps bf16.

use super::tests::{FORWARDS, blocks, norm, run, wide_params};
use super::*;
use crate::testing::{assert_same_bits, random, values, with_threads};
use candle_core::{CustomOp1, DType, Var};
use half::bf16;

/// f64 rounded to bf16, by way of f32 as the operation's sums are; its gradient too, or as it is.
struct Round {
    gradient: bool,
}

fn rounded(x: f64) -> f64 {
    f64::from(bf16::from_f32(x as f32))
}

fn round(x: &Tensor, gradient: bool) -> Result<Tensor> {
    Ok(x.contiguous()?.apply_op1(Round { gradient })?)
}

impl CustomOp1 for Round {
    fn name(&self) -> &'static str {
        "round"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = slice::<f64>(x, layout)?.iter().map(|&x| rounded(x)).collect();
        Ok((CpuStorage::F64(y), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if !self.gradient {
            return Ok(Some(dy.clone()));
        }
        let d = values(dy).into_iter().map(rounded).collect::<Vec<f64>>();
        Tensor::from_vec(d, dy.shape(), dy.device()).map(Some)
    }
}

/// The operation in f64 on numbers that bf16 holds.
fn exact(x: &Tensor, blocks: &[ResidualBlock<'_>], norm: BatchNormConfig) -> Result<ResidualOutput> {
    let mut statistics = Vec::new();
    // Each reader of h rounds the gradient that it sends back; the sum of these is rounded where h is.
    let layer = |h: &Tensor, layer: &ConvNorm<'_>, residual: Option<&Tensor>, relu| -> Result<_> {
        let z = conv2d(&round(h, true)?, &round(layer.weight, false)?, layer.config)?;
        let config = BatchNormConfig { relu, ..norm };
        let out = batch_norm_train(&round(&z, true)?, layer.gamma, layer.beta, residual, config)?;
        Ok((round(&out.y, true)?, LayerStatistics { mean: out.mean, var: out.var, count: 0 }))
    };
    let mut y = round(x, true)?;
    for block in blocks {
        let (mut behind, input) = (None, y.clone());
        let shortcut = match &block.shortcut {
            Shortcut::Nothing => None,
            Shortcut::Identity => Some(input),
            Shortcut::Projection(projection) => {
                let (shortcut, own) = layer(&input, projection, None, false)?;
                behind = Some(own);
                Some(shortcut)
            }
        };
        for (i, l) in block.layers.iter().enumerate() {
            let residual = shortcut.as_ref().filter(|_| i + 1 == block.layers.len());
            let (result, own) = layer(&y, l, residual, true)?;
            y = result;
            statistics.push(own);
        }
        statistics.extend(behind);
    }
    Ok(ResidualOutput { y, statistics })
}

/// x in bf16 and parameters in f32.
fn mixed(shape: (usize, usize, usize, usize), times: usize) -> (Tensor, Vec<Tensor>) {
    let params = wide_params(shape.3, times).iter().map(|p| p.to_dtype(DType::F32).unwrap()).collect();
    (random(shape, 1).to_dtype(DType::BF16).unwrap(), params)
}

/// ‖got − expected‖ / ‖expected‖.
fn distance(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.dims(), expected.dims());
    let (got, expected) = (values(got), values(expected));
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(&expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

#[test]
fn it_is_the_rounded_composition() {
    // One block at a time: a sum that falls to the other side of a rounding is rare, but changes all that comes after it.
    // Few channels go by way of f32, many by pairs where the processor has them.
    for (times, groups, tolerance) in [(1, 1, 2e-4), (1, 2, 2e-4), (16, 1, 2e-3), (16, 2, 2e-3)] {
        let (mut x, params) = mixed((4, 9, 7, 3), times);
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        for block in 0..4 {
            let alone = |f: fn(&Tensor, &[ResidualBlock<'_>], BatchNormConfig) -> Result<ResidualOutput>| {
                move |x: &Tensor, blocks: &[ResidualBlock<'_>], norm| f(x, &blocks[block..=block], norm)
            };
            let params_f64: Vec<Tensor> = params.iter().map(wide).collect();
            let got = run(&x, &params, groups, alone(residual_blocks_train));
            let expected = run(&wide(&x), &params_f64, groups, alone(exact));
            assert_eq!(got.len(), expected.len());
            for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let distance = distance(got, expected);
                assert!(
                    distance < tolerance,
                    "{times}, {groups}, block {block}: result {i} is {distance:e} off"
                );
            }
            x = got[0].detach();
        }
    }
}

#[test]
fn gradients_of_parameters_are_kept_whole() {
    let (x, params) = mixed((4, 9, 7, 3), 16);
    let got = run(&x, &params, 1, residual_blocks_train);
    for gradient in &got[1 + 2 * 10 + 1..] {
        assert_eq!(gradient.dtype(), DType::F32);
        assert!(values(gradient).into_iter().any(|g| g != rounded(g)), "{:?}", gradient.dims());
    }
}

#[test]
fn results_do_not_depend_on_threads_nor_on_an_earlier_backward_pass() {
    for times in [1, 16] {
        let (x, params) = mixed((4, 9, 7, 3), times);
        let expected = run(&x, &params, 1, residual_blocks_train);
        for threads in [1, 3] {
            let got = with_threads(threads, || run(&x, &params, 1, residual_blocks_train));
            got.iter().zip(&expected).for_each(|(got, expected)| assert_same_bits(got, expected));
        }
        let vars: Vec<Var> = params.iter().map(|p| Var::from_tensor(p).unwrap()).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let y = residual_blocks_train(&x, &blocks(3, &tensors), norm(1)).unwrap().y;
        let loss = (&y * random(y.shape(), 9).to_dtype(DType::BF16).unwrap()).unwrap().sum_all().unwrap();
        for gradients in [loss.backward().unwrap(), loss.backward().unwrap()] {
            for (var, expected) in vars.iter().zip(&expected[1 + 2 * 10 + 1..]) {
                assert_same_bits(gradients.get(var).unwrap(), expected);
            }
        }
    }
}

#[test]
fn it_is_taken_and_wants_parameters_in_f32() {
    let (x, params) = mixed((4, 9, 7, 3), 1);
    FORWARDS.set(0);
    let out = residual_blocks_train(&x, &blocks(3, &params), norm(1)).unwrap();
    assert_eq!((FORWARDS.get(), out.y.dtype()), (1, DType::BF16));
    assert!(out.statistics.iter().all(|own| (own.mean.dtype(), own.var.dtype()) == (DType::F32, DType::F32)));
    // What other devices run has the same types.
    let other = composition(&x, &blocks(3, &params), norm(1)).unwrap();
    assert!(distance(&other.y, &out.y) < 2e-3);
    assert!(
        other.statistics.iter().all(|own| (own.mean.dtype(), own.var.dtype()) == (DType::F32, DType::F32))
    );

    let narrow: Vec<Tensor> = params.iter().map(|p| p.to_dtype(DType::BF16).unwrap()).collect();
    let error = residual_blocks_train(&x, &blocks(3, &narrow), norm(1)).unwrap_err().to_string();
    assert!(error.contains("weight of F32 beside x of BF16"), "{error}");
}
