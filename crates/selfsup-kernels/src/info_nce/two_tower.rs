//! Two towers, both directions, a learnable scale: CLIP's loss (Radford et al. 2021, arXiv:2103.00020, figure 3).

use super::cpu::{LogSumExp, Rows, Softmax, Tiles, dot};
#[cfg(feature = "cuda")]
use super::cuda;
use super::pairs::pull;
use super::{MIN_TEMPERATURE, check_like, check_rows, reference, widen};
use crate::element::{Element, View, on_fast_path, slice, with_element};
use crate::{Result, check};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor, WithDType};
use std::sync::OnceLock;

const OP: &str = "two_tower";

/// a, b `[n, d]`, not normalised; rows a_i and b_i belong together. `scale` is a scalar, 1/τ: CLIP's exp(logit_scale)
/// after its clamp. Returns a scalar.
///
/// ```text
/// S(i, k) = scale · cos(a_i, b_k)
/// loss    = 1/2n Σ_i [ ln Σ_k exp S(i, k) − S(i, i) ]  +  1/2n Σ_k [ ln Σ_i exp S(i, k) − S(k, k) ]
/// ```
///
/// Gradients: a, b, scale. Numbers, memory and devices as for [`nt_xent`](super::nt_xent).
///
/// # Errors
/// Shapes, dtypes or devices that do not fit; a scale that is no scalar of that dtype, not positive or above 10⁶.
pub fn two_tower(a: &Tensor, b: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let n = check_rows(OP, a, "a of [n, d] with n, d ≥ 1")?;
    if check_like(OP, "b", a, b)? != n {
        return Err(check::shape_error(OP, format!("b of [{n}, d] as a"), b));
    }
    check::like(OP, "scale", a, scale)?;
    if scale.rank() != 0 {
        return Err(check::shape_error(OP, "a scale of []", scale));
    }
    let value = scale.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    if !(value > 0.0 && value <= 1.0 / MIN_TEMPERATURE) {
        return Err(check::parameter_error(OP, "scale", "above 0 and at most 1e6", value));
    }
    #[cfg(feature = "cuda")]
    if cuda::takes(a)? {
        return cuda::apply(OP, cuda::Form::TwoTower, &[a, b, scale], value);
    }
    let (a, b, scale) = (widen(a)?, widen(b)?, widen(scale)?);
    #[cfg(feature = "metal")]
    if super::metal::applies(&[&a, &b]) {
        return super::metal::two_tower(OP, [&a, &b, &scale]);
    }
    if !on_fast_path(&a) {
        return reference::two_tower(&a, &b, &scale);
    }
    Ok(a.contiguous()?.apply_op3(&b.contiguous()?, &scale.contiguous()?, TwoTower::default())?)
}

/// Both sides' rows are scaled to √scale.
#[derive(Default)]
pub(super) struct TwoTower {
    pub(super) block: Option<usize>,
    lse: OnceLock<LogSumExp>,
}

struct Gradients<T> {
    da: Vec<T>,
    db: Vec<T>,
    dscale: f64,
}

impl TwoTower {
    fn tiles<'a, T: Element>(&self, a: &'a Rows<T>, b: &'a Rows<T>) -> Tiles<'a, T> {
        Tiles::rectangle(a, b, None).with_block(self.block)
    }

    fn forward<T: Element>(&self, a: &[T], b: &[T], d: usize, scale: f64) -> T {
        let (a, b) = (Rows::new(a, d, scale.sqrt()), Rows::new(b, d, scale.sqrt()));
        let lse = self.lse.get_or_init(|| {
            let itself: Vec<u32> = (0..a.len() as u32).collect();
            self.tiles(&a, &b).with_positives(&itself).log_sum_exp(true)
        });
        let both = lse.rows.iter().zip(&lse.columns).zip(&lse.positives);
        let sum: f64 = both.map(|((row, column), s)| (row - s) + (column - s)).sum();
        T::from_f64(sum / (2 * a.len()) as f64)
    }

    fn backward<T: Element>(&self, a: &[T], b: &[T], d: usize, scale: f64, grad: f64) -> Gradients<T> {
        let (a, b) = (Rows::new(a, d, scale.sqrt()), Rows::new(b, d, scale.sqrt()));
        let tiles = self.tiles(&a, &b);
        let lse = self.lse.get_or_init(|| tiles.log_sum_exp(true));
        let weight = grad / (2 * a.len()) as f64;
        let weights = &vec![weight; a.len()][..];
        let (rows, columns) = (Softmax { weights, lse: &lse.rows }, Softmax { weights, lse: &lse.columns });
        let (mut da, mut db) = tiles.weighted_sums(rows, Some(columns), true);
        let mut dscale = 0.0;
        for (i, (da, db)) in da.chunks_mut(d).zip(db.chunks_mut(d)).enumerate() {
            pull(da, b.row(i), 2.0 * weight);
            pull(db, a.row(i), 2.0 * weight);
            // Σ_k dS(i, k) S(i, k), and S is proportional to the scale.
            dscale += dot(a.row(i), da) / scale;
        }
        a.backward(&mut da);
        b.backward(&mut db);
        Gradients { da, db, dscale }
    }
}

impl CustomOp3 for TwoTower {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let d = a_layout.dims()[1];
        let loss = with_element!(a.dtype(), T => {
            let scale = slice::<T>(scale, scale_layout)?[0].to_f64();
            T::to_cpu_storage_owned(vec![self.forward::<T>(slice(a, a_layout)?, slice(b, b_layout)?, d, scale)])
        });
        Ok((loss, Shape::from(())))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        scale: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let d = a.dim(1)?;
        let number = |t: &Tensor| t.to_dtype(DType::F64)?.to_scalar::<f64>();
        let (s, grad) = (number(scale)?, number(grad)?);
        let (av, bv) = (View::new(a)?, View::new(b)?);
        with_element!(a.dtype(), T => {
            let Gradients { da, db, dscale } =
                self.backward::<T>(av.as_slice()?, bv.as_slice()?, d, s, grad);
            let dscale = Tensor::new(dscale, scale.device())?.to_dtype(scale.dtype())?;
            let da = Tensor::from_vec(da, a.shape(), a.device())?;
            Ok((Some(da), Some(Tensor::from_vec(db, b.shape(), b.device())?), Some(dscale)))
        })
    }
}
