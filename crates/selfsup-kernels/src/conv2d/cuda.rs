//! Convolution on a CUDA device by cuDNN: NHWC tensors in f32, f16 and bf16, the forward pass and both gradients.
//!
//! cuDNN wants the filter of NHWC tensors as `[k, kh, kw, c/g]`; the weight is copied to that order, which for
//! candle is an operation with a gradient of its own. Sums are in f32 for every dtype. f32 is multiplied as f32:
//! TF32, which cuDNN takes by default, keeps ten bits. The algorithms asked for give the same bits in every run;
//! where cuDNN has not the one for a shape, its own choice is taken, which in the gradients may add up in
//! another order from run to run.

use super::OP;
use super::geometry::Geometry;
use crate::Result;
use candle_core::cuda_backend::cudarc::cudnn::result::CudnnError;
use candle_core::cuda_backend::cudarc::cudnn::sys::{
    cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t, cudnnConvolutionFwdAlgo_t,
    cudnnConvolutionMode_t, cudnnMathType_t, cudnnTensorFormat_t,
};
use candle_core::cuda_backend::cudarc::cudnn::{
    ConvBackwardData, ConvBackwardFilter, ConvDescriptor, ConvForward, Cudnn, CudnnDataType,
    FilterDescriptor, TensorDescriptor,
};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, DeviceRepr};
use candle_core::cuda_backend::{CudaDType, DeviceId};
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp2, DType, Layout, Shape, Storage, Tensor, WithDType,
};
use half::{bf16, f16};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// Whether cuDNN takes the tensors: a float type that it has in NHWC, and sizes that its 32-bit integers count.
pub(super) fn takes(x: &Tensor, weight: &Tensor, g: &Geometry) -> bool {
    let counted = |count: usize| i32::try_from(count).is_ok();
    let parameters = [g.stride, g.dilation, g.groups, g.pad_h, g.pad_w];
    x.device().is_cuda()
        && matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16)
        && [x.elem_count(), weight.elem_count(), g.output_shape().elem_count()].into_iter().all(counted)
        && parameters.into_iter().all(counted)
}

/// The convolution of tensors that cuDNN takes.
pub(super) fn conv2d(x: &Tensor, weight: &Tensor, g: &Geometry) -> Result<Tensor> {
    let filter = weight.permute((3, 0, 1, 2))?.contiguous()?;
    Ok(x.contiguous()?.apply_op2(&filter, Conv2d(*g))?)
}

/// Of x `[n, h, w, c]` and a filter `[k, kh, kw, c/g]`.
struct Conv2d(Geometry);

/// Evaluates `$body` with `$T` standing for the number type.
macro_rules! with_number {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $T = f32;
                $body
            }
            DType::F16 => {
                type $T = f16;
                $body
            }
            DType::BF16 => {
                type $T = bf16;
                $body
            }
            other => candle_core::bail!("cuDNN's {OP} was called on {other:?}"),
        }
    };
}

impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        candle_core::bail!("cuDNN's {OP} was called on the CPU")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        filter: &CudaStorage,
        filter_layout: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let device = &x.device;
        let y = with_number!(candle_core::backend::BackendStorage::dtype(x), T => {
            let y = Call::<T>::new(&self.0, device)?.forward(&view(x, x_layout)?, &view(filter, filter_layout)?)?;
            CudaStorage::wrap_cuda_slice(y, device.clone())
        });
        Ok((y, self.0.output_shape()))
    }

    /// The gradients of those of x and the filter that lead to a variable.
    fn bwd(
        &self,
        x: &Tensor,
        filter: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let device = x.device().as_cuda_device()?;
        with_number!(x.dtype(), T => {
            let call = Call::<T>::new(&self.0, device)?;
            let (grad_storage, grad_layout) = grad.storage_and_layout();
            let dy = view::<T>(cuda_storage(&grad_storage)?, grad_layout)?;
            let tensor = |slice, like: &Tensor| {
                let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice::<T>(slice, device.clone()));
                Tensor::from_storage(storage, like.shape(), BackpropOp::none(), false)
            };
            let dx = if x.track_op() {
                let (storage, layout) = filter.storage_and_layout();
                Some(tensor(call.backward_input(&view(cuda_storage(&storage)?, layout)?, &dy)?, x))
            } else {
                None
            };
            let dfilter = if filter.track_op() {
                let (storage, layout) = x.storage_and_layout();
                Some(tensor(call.backward_filter(&view(cuda_storage(&storage)?, layout)?, &dy)?, filter))
            } else {
                None
            };
            Ok((dx, dfilter))
        })
    }
}

fn cuda_storage(storage: &Storage) -> candle_core::Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => candle_core::bail!("cuDNN's {OP} was called on another device"),
    }
}

/// A contiguous tensor's numbers.
fn view<'a, T: CudaDType>(storage: &'a CudaStorage, layout: &Layout) -> candle_core::Result<CudaView<'a, T>> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("cuDNN's {OP} was called on a tensor that is not contiguous")
    };
    Ok(storage.as_cuda_slice::<T>()?.slice(start..end))
}

/// What a tensor's numbers must be for cuDNN and for candle.
trait Number: CudnnDataType + CudaDType + DeviceRepr + WithDType {}
impl<T: CudnnDataType + CudaDType + DeviceRepr + WithDType> Number for T {}

/// The descriptors of one convolution.
struct Call<'a, T> {
    geometry: &'a Geometry,
    device: &'a CudaDevice,
    conv: ConvDescriptor<f32>,
    x: TensorDescriptor<T>,
    filter: FilterDescriptor<T>,
    y: TensorDescriptor<T>,
}

impl<'a, T: Number> Call<'a, T> {
    fn new(g: &'a Geometry, device: &'a CudaDevice) -> candle_core::Result<Self> {
        const NHWC: cudnnTensorFormat_t = cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let cudnn = handle(device)?;
        // All were found to fit when the tensors were taken. Sizes are named in the order n, c, h, w in any format.
        let int = |size: usize| size as i32;
        let mut conv = cudnn.create_conv2d::<f32>(
            [g.pad_h, g.pad_w].map(int),
            [g.stride; 2].map(int),
            [g.dilation; 2].map(int),
            cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
        )?;
        conv.set_group_count(int(g.groups))?;
        conv.set_math_type(match T::DTYPE {
            DType::F32 => cudnnMathType_t::CUDNN_FMA_MATH,
            _ => cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        })?;
        Ok(Self {
            geometry: g,
            device,
            conv,
            x: cudnn.create_4d_tensor(NHWC, [g.n, g.c, g.h, g.w].map(int))?,
            filter: cudnn.create_4d_filter(NHWC, [g.k, g.group_c(), g.kh, g.kw].map(int))?,
            y: cudnn.create_4d_tensor(NHWC, [g.n, g.k, g.out_h, g.out_w].map(int))?,
        })
    }

    fn allocate<N: DeviceRepr>(&self, count: usize) -> candle_core::Result<CudaSlice<N>> {
        // SAFETY: T and bytes are numbers of any bits; cuDNN writes all of a result (its β is 0) before it is read,
        // and of its workspace reads what it has written.
        unsafe { self.device.alloc::<N>(count) }
    }

    fn workspace(&self, bytes: usize) -> candle_core::Result<CudaSlice<u8>> {
        // Memory of no bytes cannot be had.
        self.allocate(bytes.max(1))
    }

    fn forward(&self, x: &CudaView<T>, filter: &CudaView<T>) -> candle_core::Result<CudaSlice<T>> {
        let operation = ConvForward { conv: &self.conv, x: &self.x, w: &self.filter, y: &self.y };
        let mut y = self.allocate::<T>(self.geometry.output_shape().elem_count())?;
        let run = |algorithm| {
            let mut workspace = self.workspace(operation.get_workspace_size(algorithm)?)?;
            // SAFETY: x, the filter and y hold the numbers that their descriptors name, all made from one geometry
            // that the tensors were checked against; the workspace is of the size asked for. All live until the
            // launch is in the stream, and y and the workspace are nobody else's.
            let launched = unsafe {
                operation.launch(algorithm, Some(&mut workspace), (T::one(), T::zero()), x, filter, &mut y)
            };
            Ok(launched?)
        };
        let asked = cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
        or_else_picked(asked, || operation.pick_algorithm(), run)?;
        Ok(y)
    }

    fn backward_input(&self, filter: &CudaView<T>, dy: &CudaView<T>) -> candle_core::Result<CudaSlice<T>> {
        let operation = ConvBackwardData { conv: &self.conv, dx: &self.x, w: &self.filter, dy: &self.y };
        let g = self.geometry;
        let mut dx = self.allocate::<T>(g.n * g.h * g.w * g.c)?;
        let run = |algorithm| {
            let mut workspace = self.workspace(operation.get_workspace_size(algorithm)?)?;
            // SAFETY: as in `forward`, with dx in y's place.
            let launched = unsafe {
                operation.launch(algorithm, Some(&mut workspace), (T::one(), T::zero()), &mut dx, filter, dy)
            };
            Ok(launched?)
        };
        let asked = cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
        or_else_picked(asked, || operation.pick_algorithm(), run)?;
        Ok(dx)
    }

    fn backward_filter(&self, x: &CudaView<T>, dy: &CudaView<T>) -> candle_core::Result<CudaSlice<T>> {
        let operation = ConvBackwardFilter { conv: &self.conv, x: &self.x, dw: &self.filter, dy: &self.y };
        let g = self.geometry;
        let mut dfilter = self.allocate::<T>(g.k * g.taps() * g.group_c())?;
        let run = |algorithm| {
            let mut workspace = self.workspace(operation.get_workspace_size(algorithm)?)?;
            // SAFETY: as in `forward`, with the filter's gradient in y's place.
            let launched = unsafe {
                operation.launch(algorithm, Some(&mut workspace), (T::one(), T::zero()), x, &mut dfilter, dy)
            };
            Ok(launched?)
        };
        let asked = cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;
        or_else_picked(asked, || operation.pick_algorithm(), run)?;
        Ok(dfilter)
    }
}

/// Runs the algorithm asked for, or if cuDNN has it not for the shape, its own choice.
fn or_else_picked<A>(
    asked: A,
    pick: impl Fn() -> std::result::Result<A, CudnnError>,
    mut run: impl FnMut(A) -> candle_core::Result<()>,
) -> candle_core::Result<()> {
    run(asked).or_else(|_| run(pick()?))
}

/// cuDNN's handle of a device, one for each thread: it may not be shared.
fn handle(device: &CudaDevice) -> candle_core::Result<Arc<Cudnn>> {
    thread_local!(static HANDLES: RefCell<HashMap<DeviceId, Arc<Cudnn>>> = RefCell::default());
    HANDLES.with_borrow_mut(|handles| {
        if let Some(handle) = handles.get(&device.id()) {
            return Ok(handle.clone());
        }
        let handle = Cudnn::new(device.cuda_stream())?;
        handles.insert(device.id(), handle.clone());
        Ok(handle)
    })
}
