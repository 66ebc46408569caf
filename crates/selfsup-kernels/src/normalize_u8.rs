//! Bytes to normalised floats: y = (x/255 − mean)/std, a channel.

use crate::simd::vectorized;
use crate::{Result, check};
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

const OP: &str = "normalize_u8";
const CHANNELS: usize = 3;
/// Numbers of the inner loop: a multiple of the channels and of every vector's width.
const BLOCK: usize = 16 * CHANNELS;
/// Blocks in a task.
const TASK: usize = 1024;

/// Images u8 `[n, h, w, 3]` → f32 of the same shape, in one pass. mean and std are in 0…1, as torchvision's are. There is no
/// gradient: bytes are no variables, and nothing before them is trained.
///
/// # Errors
/// Another dtype or shape, a mean that is not finite, a std that is not above 0.
pub fn normalize_u8(images: &Tensor, mean: &[f32; CHANNELS], std: &[f32; CHANNELS]) -> Result<Tensor> {
    if images.dtype() != DType::U8 {
        return Err(check::dtype_error(OP, "images of U8", images.dtype()));
    }
    let [.., c] = check::nhwc(OP, images)?;
    if c != CHANNELS {
        return Err(check::shape_error(OP, "images of [n, h, w, 3]", images));
    }
    if !mean.iter().all(|m| m.is_finite()) {
        return Err(check::parameter_error(OP, "mean", "finite", mean));
    }
    if !std.iter().all(|s| *s > 0.0 && s.is_finite()) {
        return Err(check::parameter_error(OP, "std", "above 0 and finite", std));
    }
    // (x/255 − mean)/std = x·scale + offset, with both rounded once.
    let scale = std.map(|s| (1.0 / (255.0 * f64::from(s))) as f32);
    let offset = [0, 1, 2].map(|i| (-f64::from(mean[i]) / f64::from(std[i])) as f32);
    if !images.device().is_cpu() {
        return reference(images, &scale, &offset);
    }
    Ok(images.contiguous()?.apply_op1_no_bwd(&NormalizeU8 { scale, offset })?)
}

/// The same in candle's operations.
fn reference(images: &Tensor, scale: &[f32; CHANNELS], offset: &[f32; CHANNELS]) -> Result<Tensor> {
    let scale = Tensor::new(scale, images.device())?;
    let offset = Tensor::new(offset, images.device())?;
    Ok(images.to_dtype(DType::F32)?.broadcast_mul(&scale)?.broadcast_add(&offset)?)
}

struct NormalizeU8 {
    scale: [f32; CHANNELS],
    offset: [f32; CHANNELS],
}

impl CustomOp1 for NormalizeU8 {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, images: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let images: &[u8] = crate::element::slice(images, layout)?;
        let scale: [f32; BLOCK] = std::array::from_fn(|i| self.scale[i % CHANNELS]);
        let offset: [f32; BLOCK] = std::array::from_fn(|i| self.offset[i % CHANNELS]);
        let mut y = vec![0f32; images.len()];
        y.par_chunks_mut(TASK * BLOCK).zip(images.par_chunks(TASK * BLOCK)).for_each(|(y, x)| {
            vectorized(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_mut(BLOCK).zip(x.chunks(BLOCK)) {
                        for (((y, x), scale), offset) in y.iter_mut().zip(x).zip(&scale).zip(&offset) {
                            *y = f32::from(*x) * scale + offset;
                        }
                    }
                },
            );
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};
    use candle_core::Device;

    /// ImageNet's.
    const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
    const STD: [f32; 3] = [0.229, 0.224, 0.225];

    fn images(shape: (usize, usize, usize, usize)) -> Tensor {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let bytes: Vec<u8> = (0..count).map(|i| (i * 37 % 256) as u8).collect();
        Tensor::from_vec(bytes, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn values_are_those_of_the_formula() {
        for shape in [(1, 1, 1, 3), (2, 5, 7, 3), (3, 131, 133, 3)] {
            let x = images(shape);
            let expected: Vec<f64> = values(&x)
                .iter()
                .enumerate()
                .map(|(i, v)| (v / 255.0 - f64::from(MEAN[i % 3])) / f64::from(STD[i % 3]))
                .collect();
            let expected = Tensor::from_vec(expected, shape, x.device()).unwrap();
            let y = normalize_u8(&x, &MEAN, &STD).unwrap();
            assert_eq!(y.dtype(), DType::F32);
            assert_close(&y, &expected, 5e-7);
        }
    }

    #[test]
    fn a_view_and_the_reference_give_the_same() {
        let view = images((2, 3, 5, 4)).permute((0, 2, 3, 1)).unwrap();
        let y = normalize_u8(&view, &MEAN, &STD).unwrap();
        assert_close(&y, &normalize_u8(&view.contiguous().unwrap(), &MEAN, &STD).unwrap(), 0.0);
        let x = images((2, 4, 5, 3));
        let expected = reference(&x, &[0.5, 1.0, 2.0], &[-1.0, 0.0, 1.0]).unwrap();
        let op = NormalizeU8 { scale: [0.5, 1.0, 2.0], offset: [-1.0, 0.0, 1.0] };
        assert_close(&x.apply_op1_no_bwd(&op).unwrap(), &expected, 0.0);
    }

    #[test]
    fn what_does_not_fit_is_an_error_that_says_so() {
        let fails = |x: &Tensor, mean, std| normalize_u8(x, mean, std).unwrap_err().to_string();
        let x = images((1, 2, 2, 3));
        assert!(fails(&x.to_dtype(DType::F32).unwrap(), &MEAN, &STD).contains("U8"));
        assert!(fails(&images((1, 2, 3, 2)), &MEAN, &STD).contains("[n, h, w, 3]"));
        assert!(fails(&x, &MEAN, &[1.0, 0.0, 1.0]).contains("std"));
        assert!(fails(&x, &[f32::NAN, 0.0, 0.0], &STD).contains("mean"));
    }
}
