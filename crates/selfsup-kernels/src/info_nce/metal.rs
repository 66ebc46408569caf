//! The fused forms on candle's Metal device: the shader's pipelines, memory, and the custom operation.
//!
//! **No Apple GPU has run this.** The shader and the order of its launches are tested on the CPU (`tests/metal_shader`);
//! what is written here is only compiled.

use super::launch::{Argument, Contrast, Device, Gradients, Scale, THREADS};
use super::positives::Positives;
use super::reference;
use super::roles::Role;
use crate::Result;
use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, MetalDevice, MetalError, MetalStorage, Shape,
    Storage, Tensor,
};
use candle_metal_kernels::metal::{ComputeCommandEncoder, ComputePipeline};
use objc2_metal::{MTLCompileOptions, MTLDevice, MTLGPUFamily, MTLSize};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

const SOURCE: &str = include_str!("info_nce.metal");

const KERNELS: [&str; 7] = [
    "normalize_rows",
    "own_similarities",
    "log_sum_exp",
    "weighted_sums",
    "own_gradients",
    "project",
    "sum_terms",
];

/// The most rows or columns of an input: the shader counts rows in 32 bits.
const MOST: usize = 1 << 30;

/// Whether the kernels take these tensors of one device: f32, on an Apple GPU with simdgroup matrices. A shader that
/// does not compile takes none, and is reported once on stderr.
pub(super) fn applies(tensors: &[&Tensor]) -> bool {
    let fits = |x: &&Tensor| x.dtype() == DType::F32 && x.dims().iter().all(|d| *d <= MOST);
    let Ok(device) = tensors[0].device().as_metal_device() else { return false };
    tensors.iter().all(fits) && pipelines(device).is_some()
}

/// nt_xent and sup_con of z `[n, d]`; lists of positives have no kernel here.
pub(super) fn self_contrast(
    name: &'static str,
    z: &Tensor,
    positives: &Positives,
    temperature: f64,
) -> Result<Tensor> {
    let roles = match positives {
        Positives::OtherView => Role::other_views(z.dim(0)?),
        Positives::SameLabel(labels) => Role::same_labels(labels),
        Positives::Listed(_) => return reference::self_contrast(z, positives, temperature),
    };
    Ok(z.contiguous()?.apply_op1(Fused::new(name, Form::Itself(roles), Some(temperature)))?)
}

/// info_nce of anchors and candidates.
pub(super) fn pairs(
    name: &'static str,
    anchors: &Tensor,
    candidates: &Tensor,
    positives: &[u32],
    excluded: Option<&[u32]>,
    temperature: f64,
) -> Result<Tensor> {
    let roles = Role::pairs(positives, excluded, candidates.dim(0)?);
    let op = Fused::new(name, Form::Between(roles), Some(temperature));
    Ok(anchors.contiguous()?.apply_op2(&candidates.contiguous()?, op)?)
}

/// info_nce_queue of queries, keys and a queue.
pub(super) fn query_key(name: &'static str, [q, k, queue]: [&Tensor; 3], temperature: f64) -> Result<Tensor> {
    let op = Fused::new(name, Form::Queue, Some(temperature));
    Ok(q.contiguous()?.apply_op3(&k.contiguous()?, &queue.contiguous()?, op)?)
}

/// two_tower of a, b and a scale.
pub(super) fn two_tower(name: &'static str, [a, b, scale]: [&Tensor; 3]) -> Result<Tensor> {
    let roles = Role::two_towers(a.dim(0)?);
    let op = Fused::new(name, Form::Between([roles.clone(), roles]), None);
    Ok(a.contiguous()?.apply_op3(&b.contiguous()?, &scale.contiguous()?, op)?)
}

enum Form {
    Itself(Vec<Role>),
    Between([Vec<Role>; 2]),
    Queue,
}

/// One form of the loss as an operation. Without a temperature, the last input is the scale.
struct Fused {
    name: &'static str,
    form: Form,
    temperature: Option<f64>,
    /// What the loss leaves to the gradients.
    saved: OnceLock<Contrast<Memory>>,
}

impl Fused {
    fn new(name: &'static str, form: Form, temperature: Option<f64>) -> Self {
        Self { name, form, temperature, saved: OnceLock::new() }
    }

    fn forward(&self, inputs: &[(&MetalStorage, &Layout)]) -> candle_core::Result<(MetalStorage, Shape)> {
        let gpu = Gpu(inputs[0].0.device());
        let x: Vec<Memory> = inputs
            .iter()
            .map(|(storage, layout)| Memory::new(storage, layout))
            .collect::<candle_core::Result<_>>()?;
        let rows = |i: usize| inputs[i].1.dims()[0];
        let d = inputs[0].1.dims()[1];
        let scale = match self.temperature {
            Some(temperature) => Scale::Number((1.0 / temperature) as f32),
            None => Scale::Scalar(x[x.len() - 1].clone()),
        };
        let (contrast, loss) = match &self.form {
            Form::Itself(roles) => Contrast::itself(&gpu, &x[0], roles, d, scale)?,
            Form::Between([a, b]) => Contrast::between(&gpu, [&x[0], &x[1]], [a, b], d, scale)?,
            Form::Queue => Contrast::queue(&gpu, [&x[0], &x[1], &x[2]], [rows(0), rows(2)], d, scale)?,
        };
        // An operation is applied once.
        let _ = self.saved.set(contrast);
        Ok((loss.storage, Shape::from(())))
    }

    /// The gradients of a, of b or the keys, and of the scale.
    fn backward(
        &self,
        a: &Tensor,
        b: Option<&Tensor>,
        grad: &Tensor,
    ) -> candle_core::Result<[Option<Tensor>; 3]> {
        let Some(saved) = self.saved.get() else {
            candle_core::bail!("{}: the gradient is asked for before the loss", self.name)
        };
        let gpu = Gpu(a.device().as_metal_device()?);
        let grad = grad.contiguous()?;
        let grad = match &*grad.storage_and_layout().0 {
            Storage::Metal(storage) => Memory::new(storage, grad.layout())?,
            _ => candle_core::bail!("{}: the gradient from above is on another device", self.name),
        };
        let b = b.filter(|b| b.track_op());
        let Gradients { a: da, b: db, scale } = saved.gradients(&gpu, &grad, b.is_some())?;
        let db = b.zip(db).map(|(b, db)| db.into_tensor(b.shape()));
        Ok([Some(da.into_tensor(a.shape())), db, scale.map(|scale| scale.into_tensor(&Shape::from(())))])
    }

    fn not_here<T>(&self) -> candle_core::Result<T> {
        candle_core::bail!("{}: Metal's kernel was called on another device", self.name)
    }
}

/// f32 or words on the device, from a byte on.
#[derive(Clone)]
struct Memory {
    storage: MetalStorage,
    offset: usize,
}

impl Memory {
    fn new(storage: &MetalStorage, layout: &Layout) -> candle_core::Result<Self> {
        match layout.contiguous_offsets() {
            Some((start, _)) => {
                Ok(Self { storage: storage.clone(), offset: start * storage.dtype().size_in_bytes() })
            }
            None => candle_core::bail!("a Metal kernel was called on a tensor that is not contiguous"),
        }
    }

    fn into_tensor(self, shape: &Shape) -> Tensor {
        Tensor::from_storage(Storage::Metal(self.storage), shape, BackpropOp::none(), false)
    }
}

struct Gpu<'a>(&'a MetalDevice);

impl Device for Gpu<'_> {
    type Buffer = Memory;
    type Error = candle_core::Error;

    fn floats(&self, len: usize) -> candle_core::Result<Memory> {
        let buffer = self.0.new_buffer(len, DType::F32, "info_nce")?;
        let storage = MetalStorage::new(buffer, self.0.clone(), len, DType::F32);
        Ok(Memory { storage, offset: 0 })
    }

    fn roles(&self, roles: &[Role]) -> candle_core::Result<Memory> {
        let words: Vec<u32> = roles.iter().flat_map(Role::words).collect();
        let buffer = self.0.new_buffer_with_data(&words)?;
        let storage = MetalStorage::new(buffer, self.0.clone(), words.len(), DType::U32);
        Ok(Memory { storage, offset: 0 })
    }

    fn run(
        &self,
        kernel: &'static str,
        arguments: &[Argument<'_, Memory>],
        shared: usize,
        groups: usize,
    ) -> candle_core::Result<()> {
        let pipelines = pipelines(self.0);
        let Some(pipeline) = pipelines.as_ref().and_then(|p| p.get(kernel)) else {
            candle_core::bail!("{kernel}: the Metal kernel is not compiled")
        };
        let commands = self.0.command_encoder()?;
        let encoder: &ComputeCommandEncoder = commands.as_ref();
        encoder.set_compute_pipeline_state(pipeline);
        for (i, argument) in arguments.iter().enumerate() {
            // candle's encoder orders launches by which memory is read and which is written.
            match argument {
                Argument::In(x) => encoder.set_input_buffer(i, Some(x.storage.buffer()), x.offset),
                Argument::Out(x) => encoder.set_output_buffer(i, Some(x.storage.buffer()), x.offset),
                Argument::U32(value) => encoder.set_bytes(i, value),
                Argument::F32(value) => encoder.set_bytes(i, value),
                Argument::Sizes(sizes) => encoder.set_bytes(i, sizes),
            }
        }
        if shared > 0 {
            encoder.set_threadgroup_memory_length(0, shared);
        }
        let line = |width| MTLSize { width, height: 1, depth: 1 };
        encoder.dispatch_thread_groups(line(groups), line(THREADS));
        Ok(())
    }
}

type Pipelines = HashMap<&'static str, ComputePipeline>;

/// The GPU's kernels, compiled the first time; None if it cannot run them.
fn pipelines(device: &MetalDevice) -> Option<Arc<Pipelines>> {
    static COMPILED: LazyLock<Mutex<HashMap<u64, Option<Arc<Pipelines>>>>> = LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let compile = || {
        let device = device.metal_device();
        if !device.as_ref().supportsFamily(MTLGPUFamily::Apple7) {
            return None;
        }
        compile(device)
            .map(Arc::new)
            .inspect_err(|error| {
                eprintln!("info_nce.metal does not compile; candle's operations stand in for it: {error}");
            })
            .ok()
    };
    compiled.entry(device.registry_id()).or_insert_with(compile).clone()
}

fn compile(device: &candle_metal_kernels::metal::Device) -> candle_core::Result<Pipelines> {
    let options = MTLCompileOptions::new();
    // Its successor is only in macOS 15 and later. Without it exp and log are the precise ones, too.
    #[allow(deprecated)]
    options.setFastMathEnabled(false);
    let library = device.new_library_with_source(SOURCE, Some(&options)).map_err(MetalError::from)?;
    let pipeline = |name| {
        let function = library.get_function(name, None).map_err(MetalError::from)?;
        let pipeline =
            device.new_compute_pipeline_state_with_function(&function).map_err(MetalError::from)?;
        if pipeline.max_total_threads_per_threadgroup() < THREADS {
            candle_core::bail!("{name} has not {THREADS} threads a threadgroup");
        }
        Ok((name, pipeline))
    };
    KERNELS.into_iter().map(pipeline).collect()
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.not_here()
    }

    fn metal_fwd(&self, z: &MetalStorage, layout: &Layout) -> candle_core::Result<(MetalStorage, Shape)> {
        self.forward(&[(z, layout)])
    }

    fn bwd(&self, z: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let [dz, ..] = self.backward(z, None, grad)?;
        Ok(dz)
    }
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.not_here()
    }

    fn metal_fwd(
        &self,
        a: &MetalStorage,
        a_layout: &Layout,
        b: &MetalStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<(MetalStorage, Shape)> {
        self.forward(&[(a, a_layout), (b, b_layout)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let [da, db, _] = self.backward(a, Some(b), grad)?;
        Ok((da, db))
    }
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.not_here()
    }

    fn metal_fwd(
        &self,
        a: &MetalStorage,
        a_layout: &Layout,
        b: &MetalStorage,
        b_layout: &Layout,
        c: &MetalStorage,
        c_layout: &Layout,
    ) -> candle_core::Result<(MetalStorage, Shape)> {
        self.forward(&[(a, a_layout), (b, b_layout), (c, c_layout)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dscale] = self.backward(a, Some(b), grad)?;
        Ok((da, db, dscale))
    }
}
