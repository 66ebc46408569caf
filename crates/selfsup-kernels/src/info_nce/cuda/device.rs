//! The launches on a CUDA device, and the forms as candle's custom operations.

use super::forms::{Form, Gradients, Inputs, Saved};
use super::launch::{Address, Argument, Gpu, Launch};
use super::tiles::{Matrix, Passes, Precision, shared_bytes};
use crate::{Result, check};
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute};
use candle_core::cuda_backend::cudarc::driver::{
    CudaModule, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::op::BackpropOp;
use candle_core::{
    CudaDevice, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Shape, Storage, Tensor,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Dynamic shared memory that needs no leave.
const FREE_SHARED: usize = 48 * 1024;

const TILES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tiles.fatbin"));
const ROWS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rows.fatbin"));

/// Whether the kernels take these matrices: f32 or narrower, of at most 256 columns, on a device with tensor cores for
/// bf16 and enough shared memory. What they do not take runs in candle's operations.
pub(in crate::info_nce) fn takes(z: &Tensor) -> Result<bool> {
    let (Device::Cuda(device), Ok(d)) = (z.device(), z.dim(1)) else { return Ok(false) };
    let Some(shared) = shared_bytes(d, precision(z)) else { return Ok(false) };
    let stream = device.cuda_stream();
    let attribute = |attribute| stream.context().attribute(attribute).w();
    let most = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
    let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let rows = z.dim(0).is_ok_and(|n| n <= i32::MAX as usize);
    Ok(z.dtype() != DType::F64 && rows && major >= 8 && shared <= usize::try_from(most).unwrap_or(0))
}

fn precision(z: &Tensor) -> Precision {
    if z.dtype() == DType::BF16 { Precision::Bf16 } else { Precision::Split }
}

/// The loss of a form that is checked. `inputs` are its matrices, and of two towers also the scale.
pub(in crate::info_nce) fn apply(
    op: &'static str,
    form: Form,
    inputs: &[&Tensor],
    scale: f64,
) -> Result<Tensor> {
    let precision = precision(inputs[0]);
    let inputs: Vec<Tensor> =
        inputs.iter().map(|x| Ok(x.to_dtype(DType::F32)?.contiguous()?)).collect::<Result<_>>()?;
    let fused = Fused { op, form, scale, precision, saved: OnceLock::new() };
    match &inputs[..] {
        [z] => Ok(z.apply_op1(fused)?),
        [a, b] => Ok(a.apply_op2(b, fused)?),
        [a, b, c] => Ok(a.apply_op3(b, c, fused)?),
        _ => Err(check::parameter_error(op, "inputs", "one to three", inputs.len())),
    }
}

struct Fused {
    op: &'static str,
    form: Form,
    scale: f64,
    precision: Precision,
    saved: OnceLock<Saved<CudaSlice<u32>>>,
}

impl Fused {
    fn forward(&self, inputs: &[(&CudaStorage, &Layout)]) -> candle_core::Result<(CudaStorage, Shape)> {
        let device = &inputs[0].0.device;
        let gpu = Cuda::new(device);
        let (loss, saved) =
            self.with_inputs(&gpu, inputs, [true; 3], |passes, inputs| self.form.forward(passes, inputs))?;
        // A second forward pass of one operation would be of the same inputs.
        let _ = self.saved.set(saved);
        Ok((gpu.storage(loss, 1), Shape::from(())))
    }

    fn backward(&self, inputs: &[&Tensor], grad: &Tensor) -> candle_core::Result<[Option<Tensor>; 3]> {
        let Device::Cuda(device) = inputs[0].device() else {
            candle_core::bail!("{} was given a tensor of another device in its backward pass", self.op)
        };
        let Some(saved) = self.saved.get() else {
            candle_core::bail!("{}'s backward pass without its forward pass", self.op)
        };
        let gpu = Cuda::new(device);
        let grad = grad.to_dtype(DType::F32)?.contiguous()?;
        let (grad_storage, grad_layout) = grad.storage_and_layout();
        let grad_view = view(cuda_storage(&grad_storage)?, grad_layout)?;
        let (grad_address, _grad_in_use) = grad_view.device_ptr(&gpu.stream);
        let guards: Vec<_> = inputs.iter().map(|x| x.storage_and_layout()).collect();
        let storages = guards
            .iter()
            .map(|(storage, layout)| Ok((cuda_storage(storage)?, *layout)))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let mut wanted = [false; 3];
        wanted.iter_mut().zip(inputs).for_each(|(wanted, x)| *wanted = x.track_op());
        let gradients: Gradients<_> = self.with_inputs(&gpu, &storages, wanted, |passes, inputs| {
            self.form.backward(passes, inputs, saved, Address(grad_address))
        })?;
        let mut out = [None, None, None];
        for ((out, gradient), x) in out.iter_mut().zip(gradients).zip(inputs) {
            *out = gradient.map(|gradient| {
                let storage = Storage::Cuda(gpu.storage(gradient, x.elem_count()));
                Tensor::from_storage(storage, x.shape(), BackpropOp::none(), false)
            });
        }
        Ok(out)
    }

    /// Calls `f` with the matrices among the inputs, which stay in use until it returns.
    fn with_inputs<R>(
        &self,
        gpu: &Cuda,
        inputs: &[(&CudaStorage, &Layout)],
        wanted: [bool; 3],
        f: impl FnOnce(&Passes<'_, Cuda>, &Inputs) -> candle_core::Result<R>,
    ) -> candle_core::Result<R> {
        let matrices = &inputs[..self.form.matrices()];
        let views = matrices
            .iter()
            .map(|(storage, layout)| view(storage, layout))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let in_use: Vec<_> = views.iter().map(|view| view.device_ptr(&gpu.stream)).collect();
        let matrices = in_use
            .iter()
            .zip(matrices)
            .map(|((address, _), (_, layout))| Matrix { address: Address(*address), rows: layout.dims()[0] })
            .collect();
        let passes = Passes::new(gpu, inputs[0].1.dims()[1], self.precision, self.scale)?;
        f(&passes, &Inputs { matrices, wanted })
    }
}

fn cuda_storage(storage: &Storage) -> candle_core::Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => candle_core::bail!("a CUDA kernel was called on another device"),
    }
}

/// The f32 of a contiguous tensor.
fn view<'a>(
    storage: &'a CudaStorage,
    layout: &Layout,
) -> candle_core::Result<candle_core::cuda_backend::cudarc::driver::CudaView<'a, f32>> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a CUDA kernel was called on a tensor that is not contiguous")
    };
    Ok(storage.as_cuda_slice::<f32>()?.slice(start..end))
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(
        &self,
        _: &candle_core::CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(candle_core::CpuStorage, Shape)> {
        candle_core::bail!("a CUDA kernel was called on the CPU")
    }

    fn cuda_fwd(&self, z: &CudaStorage, layout: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        self.forward(&[(z, layout)])
    }

    fn bwd(&self, z: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let [dz, _, _] = self.backward(&[z], grad)?;
        Ok(dz)
    }
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(
        &self,
        _: &candle_core::CpuStorage,
        _: &Layout,
        _: &candle_core::CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(candle_core::CpuStorage, Shape)> {
        candle_core::bail!("a CUDA kernel was called on the CPU")
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        a_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        self.forward(&[(a, a_layout), (b, b_layout)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let [da, db, _] = self.backward(&[a, b], grad)?;
        Ok((da, db))
    }
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(
        &self,
        _: &candle_core::CpuStorage,
        _: &Layout,
        _: &candle_core::CpuStorage,
        _: &Layout,
        _: &candle_core::CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(candle_core::CpuStorage, Shape)> {
        candle_core::bail!("a CUDA kernel was called on the CPU")
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        a_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
        c: &CudaStorage,
        c_layout: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        self.forward(&[(a, a_layout), (b, b_layout), (c, c_layout)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dc] = self.backward(&[a, b, c], grad)?;
        Ok((da, db, dc))
    }
}

/// By the GPU's number, and whether it is that of the tiles.
type Modules = HashMap<(usize, bool), Arc<CudaModule>>;

/// A device, and the stream that its tensors are worked on in.
struct Cuda {
    device: CudaDevice,
    stream: Arc<CudaStream>,
}

impl Cuda {
    fn new(device: &CudaDevice) -> Self {
        Self { device: device.clone(), stream: device.cuda_stream() }
    }

    /// The first `len` f32 of memory that kernels have written.
    fn storage(&self, buffer: CudaSlice<u32>, len: usize) -> CudaStorage {
        // SAFETY: the pointer is that of a live allocation, which `leak` gives up the ownership of; it is of at least
        // `len` numbers of four bytes, since the launches size a gradient as its input and the loss as one, and any
        // four bytes are an f32. Work on it goes on in the same stream.
        let slice = unsafe { self.stream.upgrade_device_ptr::<f32>(buffer.leak(), len) };
        CudaStorage::wrap_cuda_slice(slice, self.device.clone())
    }

    /// The kernels' machine code, loaded once for each GPU.
    fn module(&self, kernel: &str) -> candle_core::Result<Arc<CudaModule>> {
        static MODULES: Mutex<Option<Modules>> = Mutex::new(None);
        let of_tiles = kernel.ends_with("_bound") || kernel.ends_with("_online");
        let context = self.stream.context();
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        let modules = modules.get_or_insert_default();
        let key = (context.ordinal(), of_tiles);
        if let Some(module) = modules.get(&key) {
            return Ok(module.clone());
        }
        let code = Ptx::from_binary(if of_tiles { TILES } else { ROWS }.to_vec());
        let module = context.load_module(code).w()?;
        modules.insert(key, module.clone());
        Ok(module)
    }
}

impl Gpu for Cuda {
    type Buffer = CudaSlice<u32>;

    fn allocate(&self, bytes: usize) -> candle_core::Result<CudaSlice<u32>> {
        // SAFETY: any bytes are u32; nothing but kernels reads the memory, each after one that writes it.
        unsafe { self.device.alloc::<u32>(bytes.div_ceil(4)) }
    }

    fn upload(&self, words: &[u32]) -> candle_core::Result<CudaSlice<u32>> {
        self.device.clone_htod(words)
    }

    fn launch(
        &self,
        launch: Launch,
        arguments: &mut [Argument<'_, CudaSlice<u32>>],
    ) -> candle_core::Result<()> {
        let function = self.module(launch.kernel)?.load_function(launch.kernel).w()?;
        if launch.shared > FREE_SHARED {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(most, launch.shared as i32).w()?;
        }
        enum Value {
            Address(u64),
            U32(u32),
            F32(f32),
            F64(f64),
        }
        // Dropped after the launch: it tells other streams what this one does to the memory.
        let mut in_use = Vec::new();
        let values: Vec<Value> = arguments
            .iter_mut()
            .map(|argument| match argument {
                Argument::In(buffer) => {
                    let (address, guard) = buffer.device_ptr(&self.stream);
                    in_use.push(guard);
                    Value::Address(address)
                }
                Argument::Out(buffer) => {
                    let (address, guard) = buffer.device_ptr_mut(&self.stream);
                    in_use.push(guard);
                    Value::Address(address)
                }
                Argument::Tensor(address) => Value::Address(address.0),
                Argument::Null => Value::Address(0),
                Argument::U32(x) => Value::U32(*x),
                Argument::F32(x) => Value::F32(*x),
                Argument::F64(x) => Value::F64(*x),
            })
            .collect();
        let mut builder = self.stream.launch_builder(&function);
        for value in &values {
            match value {
                Value::Address(x) => builder.arg(x),
                Value::U32(x) => builder.arg(x),
                Value::F32(x) => builder.arg(x),
                Value::F64(x) => builder.arg(x),
            };
        }
        let config = LaunchConfig {
            grid_dim: (launch.grid[0] as u32, launch.grid[1] as u32, 1),
            block_dim: (launch.threads as u32, 1, 1),
            shared_mem_bytes: launch.shared as u32,
        };
        // SAFETY: the arguments are the kernel's parameters in number and type, and each array is as long as the
        // kernel's grid and sizes reach: the same launches run in the tests, between margins. Inputs are borrowed
        // and outputs borrowed mutably or not shared until the launch is in the stream, which orders what follows.
        unsafe { builder.launch(config) }.w()?;
        drop(in_use);
        Ok(())
    }
}
