//! A convolution whose weights are kept packed is the plain one, to the bit.

use candle_core::{DType, Device, Result, Tensor, Var};
use selfsup_kernels::{Conv2dConfig, Epilogue, FixedConv2d, conv2d_with};

fn numbers(shape: &[usize], seed: u32) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count as u32)
        .map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed) >> 8) as f32 / 8_388_608.0 - 1.0)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn every_way_gives_the_same_bits_every_time() {
    let mut compared = 0;
    let plain = Conv2dConfig::default();
    for (kernel, [c, k], config) in [
        // Winograd, also where few pixels are written; by taps; by few pixels; a stem; groups; channel by channel; dilation.
        (3, [32, 48], Conv2dConfig { padding: 1, ..plain }),
        (3, [32, 48], Conv2dConfig { padding: 1, stride: 2, ..plain }),
        (1, [64, 40], plain),
        (7, [3, 24], Conv2dConfig { padding: 3, stride: 2, ..plain }),
        (3, [3, 16], Conv2dConfig { padding: 1, ..plain }),
        (3, [32, 32], Conv2dConfig { padding: 1, groups: 4, ..plain }),
        (3, [24, 24], Conv2dConfig { padding: 1, groups: 24, ..plain }),
        (3, [32, 16], Conv2dConfig { padding: 2, dilation: 2, ..plain }),
    ] {
        let weight = numbers(&[kernel, kernel, c / config.groups, k], 1);
        let bias = numbers(&[k], 2);
        let fixed = FixedConv2d::new(&weight, &bias, config).unwrap();
        // Large first, then small, then large again: what is kept is of one and right for all.
        for [n, h, w] in [[2, 14, 15], [1, 7, 7], [1, 8, 1], [1, 14, 15], [2, 14, 15]] {
            let x = numbers(&[n, h, w, c], 3);
            let Ok(y) =
                conv2d_with(&x, &weight, Epilogue { bias: Some(&bias), ..Epilogue::default() }, config)
            else {
                continue;
            };
            let residual = numbers(y.dims(), 4);
            for (residual, relu) in [(None, false), (Some(&residual), true)] {
                let epilogue = Epilogue { bias: Some(&bias), residual, relu };
                let expected = conv2d_with(&x, &weight, epilogue, config).unwrap();
                let got = fixed.forward(&x, residual, relu).unwrap();
                assert_eq!(got.dims(), expected.dims());
                assert!(bits(&got) == bits(&expected), "{kernel} {config:?} {n}x{h}x{w}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 8 * 4 * 2, "{compared}");
}

#[test]
fn gradients_are_there_where_they_are_wanted() -> Result<()> {
    let weight = Var::from_tensor(&numbers(&[3, 3, 16, 16], 1))?;
    let bias = numbers(&[16], 2);
    let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
    let fixed = FixedConv2d::new(weight.as_tensor(), &bias, config).unwrap();
    let x = numbers(&[1, 6, 6, 16], 3);
    let image = Var::from_tensor(&x)?;
    let y = fixed.forward(image.as_tensor(), None, false).unwrap();
    let gradients = y.sum_all()?.backward()?;
    assert!(gradients.get(image.as_tensor()).is_some() && gradients.get(weight.as_tensor()).is_none());
    // Another type is worked out as ever.
    let wide = FixedConv2d::new(&weight.to_dtype(DType::F64)?, &bias.to_dtype(DType::F64)?, config).unwrap();
    assert_eq!(wide.forward(&x.to_dtype(DType::F64)?, None, false).unwrap().dtype(), DType::F64);
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() {
    let (weight, bias) = (numbers(&[3, 3, 8, 8], 1), numbers(&[8], 2));
    let fixed = FixedConv2d::new(&weight, &bias, Conv2dConfig::default()).unwrap();
    assert!(fixed.forward(&numbers(&[1, 6, 6, 7], 3), None, false).is_err(), "channels");
    assert!(fixed.forward(&numbers(&[1, 2, 2, 8], 3), None, false).is_err(), "smaller than the kernel");
    let residual = numbers(&[1, 6, 6, 8], 4);
    assert!(fixed.forward(&numbers(&[1, 6, 6, 8], 3), Some(&residual), false).is_err(), "residual");
    let short = FixedConv2d::new(&weight, &numbers(&[7], 2), Conv2dConfig::default()).unwrap();
    assert!(short.forward(&numbers(&[1, 6, 6, 8], 3), None, false).is_err(), "bias");
}
