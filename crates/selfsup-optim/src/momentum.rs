//! The weights of a momentum encoder (He et al. 2020, eq. 2; "target network" in BYOL, "teacher" in DINO).

use crate::error::ensure;
use crate::norm::CHUNK;
use crate::slots::address;
use crate::{Error, Result};
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Var};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// target ← m·target + (1 − m)·source, in place.
///
/// On the CPU f32 is one pass over memory, elsewhere candle's operations. Each number is computed alone, so that its bits
/// do not depend on threads.
///
/// # Errors
/// A momentum outside 0…1, another shape or dtype.
pub fn momentum_update(target: &Var, source: &Var, momentum: f64) -> Result<()> {
    ensure((0.0..=1.0).contains(&momentum), "momentum", "in [0, 1]", momentum)?;
    if (target.dims(), target.dtype()) != (source.dims(), source.dtype()) {
        let of = |var: &Var| format!("{:?} {:?}", var.dtype(), var.dims());
        return Err(Error::Momentum { expected: of(source), got: of(target) });
    }
    let mut source = source.as_detached_tensor().contiguous()?;
    if address(&source) == address(target) {
        source = source.copy()?; // one memory cannot be locked for reading and writing
    }
    if target.device().is_cpu() && target.dtype() == DType::F32 && target.is_contiguous() {
        return Ok(
            target.inplace_op2(&source, &Blend { kept: momentum as f32, new: (1.0 - momentum) as f32 })?
        );
    }
    Ok(target.set(&((target.as_detached_tensor() * momentum)? + (source * (1.0 - momentum))?)?)?)
}

struct Blend {
    kept: f32,
    new: f32,
}

impl InplaceOp2 for Blend {
    fn name(&self) -> &'static str {
        "momentum update"
    }

    fn cpu_fwd(
        &self,
        target: &mut CpuStorage,
        target_layout: &Layout,
        source: &CpuStorage,
        source_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (CpuStorage::F32(target), CpuStorage::F32(source)) = (target, source) else {
            candle_core::bail!("the fused update takes f32");
        };
        let (Some((t_start, t_end)), Some((s_start, s_end))) =
            (target_layout.contiguous_offsets(), source_layout.contiguous_offsets())
        else {
            candle_core::bail!("the fused update takes contiguous tensors");
        };
        let (target, source) = (&mut target[t_start..t_end], &source[s_start..s_end]);
        let arch = Arch::new();
        target.par_chunks_mut(CHUNK).zip(source.par_chunks(CHUNK)).for_each(|(target, source)| {
            arch.dispatch(Pass { blend: self, target, source });
        });
        Ok(())
    }
}

/// The loop, compiled for each instruction set.
struct Pass<'a> {
    blend: &'a Blend,
    target: &'a mut [f32],
    source: &'a [f32],
}

impl WithSimd for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Blend { kept, new } = *self.blend;
        for (target, source) in self.target.iter_mut().zip(self.source) {
            *target = *target * kept + *source * new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    fn var(values: &[f64], dtype: DType) -> Var {
        Var::from_tensor(&Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()).unwrap()
    }

    fn values(var: &Var) -> Vec<f64> {
        var.as_tensor().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn it_is_the_formula_in_every_dtype() {
        let count = 3 * CHUNK + 5;
        let (a, b): (Vec<f64>, Vec<f64>) =
            (0..count).map(|i| ((i % 101) as f64 - 50.0, ((i * 7) % 13) as f64)).unzip();
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-5), (DType::BF16, 0.5)] {
            for momentum in [0.0, 0.25, 0.99, 1.0] {
                let (target, source) = (var(&a, dtype), var(&b, dtype));
                momentum_update(&target, &source, momentum).unwrap();
                for ((got, a), b) in values(&target).iter().zip(&a).zip(&b) {
                    let expected = momentum * a + (1.0 - momentum) * b;
                    assert!((got - expected).abs() <= tolerance, "{dtype:?}, {momentum}: {got}, {expected}");
                }
                assert_eq!(values(&source), b, "the source stays");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let fails = |a: &Var, b: &Var, m| momentum_update(a, b, m).unwrap_err().to_string();
        let (a, b) = (var(&[1.0, 2.0], DType::F32), var(&[1.0, 2.0, 3.0], DType::F32));
        assert!(fails(&a, &b, 0.5).contains("[3]"));
        assert!(fails(&a, &var(&[1.0, 2.0], DType::F64), 0.5).contains("F64"));
        momentum_update(&a, &a, 0.5).unwrap();
        assert_eq!(values(&a), [1.0, 2.0]);
        for momentum in [-0.1, 1.1, f64::NAN] {
            assert!(fails(&a, &a, momentum).contains("in [0, 1]"));
        }
    }
}
