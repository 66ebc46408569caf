//! Custom ops of any number of parameters, where candle's own take three tensors.
//!
//! Each parameter goes into an op of no work whose result, one number, the next one takes with the next parameter. The
//! last result is an argument of the real op. candle's backward pass then comes from the real op, which leaves each
//! parameter's gradient in a shared place, to these ops one by one, and each hands its parameter's on. Nothing is copied.

use crate::Result;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor, WithDType};
use std::sync::{Arc, Mutex, PoisonError};

/// The place where the gradients lie between the real op's backward pass and the ties'.
#[derive(Clone, Default)]
pub(crate) struct Gradients(Arc<Mutex<Vec<Option<Tensor>>>>);

impl Gradients {
    /// Leaves the gradients, one a parameter.
    pub(crate) fn put(&self, gradients: Vec<Option<Tensor>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = gradients;
    }

    fn take(&self, index: usize) -> Option<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index)?.take()
    }
}

/// One number that leads to every parameter, and where to [put](Gradients::put) their gradients. At least one parameter; CPU only.
pub(crate) fn tie(params: &[&Tensor]) -> Result<(Tensor, Gradients)> {
    let gradients = Gradients::default();
    let mut knot = Tensor::zeros(1, params[0].dtype(), params[0].device())?;
    for (index, param) in params.iter().enumerate() {
        knot = param.apply_op2(&knot, Tie { index, gradients: gradients.clone() })?;
    }
    Ok((knot, gradients))
}

struct Tie {
    index: usize,
    gradients: Gradients,
}

impl CustomOp2 for Tie {
    fn name(&self) -> &'static str {
        "tie"
    }

    fn cpu_fwd(
        &self,
        _param: &CpuStorage,
        _param_layout: &Layout,
        knot: &CpuStorage,
        _knot_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        crate::element::with_element!(knot.dtype(), T => {
            Ok((T::to_cpu_storage(&[<T as crate::stored::Stored>::ZERO]), Shape::from(1)))
        })
    }

    fn bwd(
        &self,
        _param: &Tensor,
        knot: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.gradients.take(self.index), knot.track_op().then(|| grad.clone())))
    }
}
