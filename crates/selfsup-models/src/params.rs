//! The named tensors of a model, in the order of their declaration, and the builder that declares them.
//!
//! A tensor's first value depends on (seed, name) alone: adding a layer changes no other layer's draw, and
//! the same seed gives the same weights on any machine and with any number of threads. candle's own CPU
//! generator cannot be seeded, so nothing here uses it.

use crate::{Error, Result, init::Init, nearest};
use candle_core::{DType, Device, Tensor, Var};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// How a tensor lies in memory, against how files hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The same in both.
    Plain,
    /// A convolution's weight: `[kh, kw, c_in / groups, c_out]` in memory, PyTorch's
    /// `[c_out, c_in / groups, kh, kw]` in files.
    Conv,
}

impl Layout {
    /// Memory to file.
    pub fn to_file(self, tensor: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Layout::Plain => tensor.contiguous()?,
            Layout::Conv => tensor.permute((3, 2, 0, 1))?.contiguous()?,
        })
    }

    /// The shape in a file, of that in memory.
    pub fn file_shape(self, dims: &[usize]) -> Vec<usize> {
        match (self, dims) {
            (Layout::Conv, &[kh, kw, c, k]) => vec![k, c, kh, kw],
            _ => dims.to_vec(),
        }
    }

    /// File to memory.
    pub fn from_file(self, tensor: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Layout::Plain => tensor.contiguous()?,
            Layout::Conv if tensor.rank() == 4 => tensor.permute((2, 3, 1, 0))?.contiguous()?,
            Layout::Conv => tensor.clone(), // of a wrong rank: the caller compares shapes and says so
        })
    }
}

/// A named tensor of a model.
#[derive(Debug, Clone)]
pub struct NamedTensor {
    /// The full name, torchvision's where it has one (`layer1.0.conv1.weight`).
    pub name: String,
    /// The value. A clone shares it.
    pub var: Var,
    /// Whether the optimiser moves it; running statistics are not trainable.
    pub trainable: bool,
    /// How files hold it.
    pub layout: Layout,
}

/// Every tensor of a model, in the order of declaration.
#[derive(Debug, Clone, Default)]
pub struct Params(Vec<NamedTensor>);

impl From<Vec<NamedTensor>> for Params {
    /// The tensors of several models as one list; their names must be unique.
    fn from(tensors: Vec<NamedTensor>) -> Self {
        Self(tensors)
    }
}

impl Params {
    /// All tensors: weights and running statistics.
    pub fn iter(&self) -> impl Iterator<Item = &NamedTensor> {
        self.0.iter()
    }

    /// The tensors that the optimiser moves.
    pub fn trainable(&self) -> impl Iterator<Item = &NamedTensor> {
        self.0.iter().filter(|t| t.trainable)
    }

    /// How many numbers the trainable tensors hold.
    pub fn trainable_count(&self) -> usize {
        self.trainable().map(|t| t.var.elem_count()).sum()
    }

    /// Name and value of each tensor as files hold it (OIHW convolutions).
    pub fn to_file(&self) -> Result<Vec<(String, Tensor)>> {
        self.iter().map(|t| Ok((t.name.clone(), t.layout.to_file(t.var.as_tensor())?))).collect()
    }

    /// Sets every tensor from a file's. Nothing is changed unless all of them fit: a missing, left-over or
    /// wrongly shaped tensor is an error that names it. `what` names the model in that error.
    pub fn load_file(&self, tensors: &HashMap<String, Tensor>, what: &str) -> Result<()> {
        let known: HashSet<&str> = self.iter().map(|t| t.name.as_str()).collect();
        let mut problems = Vec::new();
        let mut new = Vec::with_capacity(self.0.len());
        for t in self.iter() {
            let Some(value) = tensors.get(&t.name) else {
                let left = tensors.keys().map(String::as_str).filter(|name| !known.contains(name));
                let near = nearest(&t.name, left).map(|n| format!(" (is it `{n}`?)")).unwrap_or_default();
                problems.push(format!("`{}` is missing{near}", t.name));
                continue;
            };
            let value = t.layout.from_file(value)?;
            if value.dims() == t.var.dims() {
                new.push(value.to_dtype(t.var.dtype())?.to_device(t.var.device())?);
            } else {
                problems.push(format!(
                    "`{}` has shape {:?}, expected {:?}",
                    t.name,
                    t.layout.file_shape(value.dims()),
                    t.layout.file_shape(t.var.dims())
                ));
            }
        }
        let mut left: Vec<_> = tensors.keys().filter(|name| !known.contains(name.as_str())).collect();
        left.sort();
        problems.extend(left.iter().map(|name| format!("`{name}` is left over")));
        if !problems.is_empty() {
            const SHOWN: usize = 8;
            let more = problems.len().saturating_sub(SHOWN);
            problems.truncate(SHOWN);
            if more > 0 {
                problems.push(format!("and {more} more"));
            }
            return Err(Error::Mismatch { what: what.to_owned(), problems: problems.join("; ") });
        }
        for (t, value) in self.iter().zip(new) {
            t.var.set(&value)?;
        }
        Ok(())
    }

    /// SHA-256 over each tensor's name, shape and SHA-256 of its values in f32, in hexadecimal: equal exactly if the models are.
    pub fn sha256(&self) -> Result<String> {
        let hashes = self.each(|values| {
            let mut hash = Sha256::new();
            // Many at once: the hash is much faster than four bytes at a time.
            for some in values.chunks(4096) {
                hash.update(some.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
            }
            hash.finalize()
        })?;
        let mut hash = Sha256::new();
        for (t, values) in self.iter().zip(hashes) {
            hash.update(t.name.as_bytes());
            hash.update(format!("{:?}", t.var.dims()).as_bytes());
            hash.update(values);
        }
        Ok(hex(&hash.finalize()))
    }

    /// A number that another one's is not, unless by chance or on purpose, where a value is another: to find out in little time whether
    /// something has changed.
    pub fn fingerprint(&self) -> Result<u64> {
        // Knuth's multiplier (The Art of Computer Programming 2, 3.3.4), in four lanes that do not wait for each other.
        const FACTOR: u64 = 6_364_136_223_846_793_005;
        let step = |sum: u64, value: u64| (sum ^ value).wrapping_mul(FACTOR).rotate_left(29);
        let sums = self.each(|values| {
            let mut lanes = [1u64, 2, 3, 4];
            for some in values.chunks(lanes.len()) {
                for (lane, value) in lanes.iter_mut().zip(some) {
                    *lane = step(*lane, u64::from(value.to_bits()));
                }
            }
            lanes.into_iter().fold(values.len() as u64, step)
        })?;
        Ok(sums.into_iter().fold(0, step))
    }

    /// Something of each tensor's values in f32, several tensors at a time.
    fn each<R: Send>(&self, of: impl Fn(&[f32]) -> R + Sync) -> Result<Vec<R>> {
        let values = |t: &NamedTensor| -> Result<R> {
            Ok(of(&t.var.as_detached_tensor().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?))
        };
        self.0.par_iter().map(values).collect()
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Declares tensors under a prefix. Clones share one list.
#[derive(Clone)]
pub struct ParamBuilder {
    shared: Rc<Shared>,
    prefix: String,
}

/// What tensors hold first.
#[derive(Debug, Clone, Copy)]
enum First {
    /// What a seed draws.
    Drawn(u64),
    /// 0.
    Zeros,
    /// Nothing: a scalar stands for each, and only its shape is kept.
    Shapes,
}

struct Shared {
    first: First,
    device: Device,
    dtype: DType,
    list: RefCell<Vec<NamedTensor>>,
    /// Of each of the list, in memory.
    shapes: RefCell<Vec<Vec<usize>>>,
}

impl ParamBuilder {
    /// An empty list of f32 tensors on a device; `seed` decides every first value.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self::with_dtype(seed, device, DType::F32)
    }

    /// The same with tensors of another float type: in f64, a model can be held against another implementation
    /// without the ReLUs whose input rounding carries across 0.
    pub fn with_dtype(seed: u64, device: &Device, dtype: DType) -> Self {
        Self::with(First::Drawn(seed), device, dtype)
    }

    /// Tensors of zeros, for a model whose weights come from a file: no number is drawn, and no memory touched before they are set.
    pub fn zeros(device: &Device) -> Self {
        Self::with(First::Zeros, device, DType::F32)
    }

    /// Names and shapes alone, which [`ParamBuilder::file_shapes`] gives: what is built of it cannot be used. It takes no memory.
    pub(crate) fn shapes() -> Self {
        Self::with(First::Shapes, &Device::Cpu, DType::F32)
    }

    /// Names and shapes, as files have them.
    pub(crate) fn file_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (list, shapes) = (self.shared.list.borrow(), self.shared.shapes.borrow());
        list.iter()
            .zip(shapes.iter())
            .map(|(t, shape)| (t.name.clone(), t.layout.file_shape(shape)))
            .collect()
    }

    fn with(first: First, device: &Device, dtype: DType) -> Self {
        let (list, shapes) = Default::default();
        let shared = Shared { first, device: device.clone(), dtype, list, shapes };
        Self { shared: Rc::new(shared), prefix: String::new() }
    }

    /// The builder for a part: its names begin with `name` and a dot.
    pub fn part(&self, name: impl std::fmt::Display) -> Self {
        Self { shared: self.shared.clone(), prefix: format!("{}{name}.", self.prefix) }
    }

    /// A trainable tensor.
    pub fn weight(&self, name: &str, shape: &[usize], init: Init) -> Result<Var> {
        self.declare(name, shape, init, true, Layout::Plain)
    }

    /// A trainable convolution weight `[kh, kw, c_in / groups, c_out]`.
    pub fn conv_weight(&self, name: &str, shape: [usize; 4], init: Init) -> Result<Var> {
        self.declare(name, &shape, init, true, Layout::Conv)
    }

    /// A tensor that is saved but not trained, such as a running mean.
    pub fn buffer(&self, name: &str, shape: &[usize], init: Init) -> Result<Var> {
        self.declare(name, shape, init, false, Layout::Plain)
    }

    /// The list so far.
    pub fn finish(&self) -> Params {
        Params(self.shared.list.borrow().clone())
    }

    fn declare(
        &self,
        name: &str,
        shape: &[usize],
        init: Init,
        trainable: bool,
        layout: Layout,
    ) -> Result<Var> {
        let name = format!("{}{name}", self.prefix);
        if self.shared.list.borrow().iter().any(|t| t.name == name) {
            return Err(Error::DuplicateName(name));
        }
        let Shared { device, dtype, .. } = &*self.shared;
        let var = match self.shared.first {
            First::Drawn(seed) => {
                let values = init.values(shape.iter().product(), &mut generator(seed, &name));
                Var::from_tensor(&Tensor::from_vec(values, shape, device)?.to_dtype(*dtype)?)?
            }
            First::Zeros => Var::zeros(shape, *dtype, device)?,
            First::Shapes => Var::zeros((), *dtype, device)?,
        };
        self.shared.shapes.borrow_mut().push(shape.to_vec());
        self.shared.list.borrow_mut().push(NamedTensor { name, var: var.clone(), trainable, layout });
        Ok(var)
    }
}

/// The generator of one tensor's first value: keyed by SHA-256(seed ‖ name).
fn generator(seed: u64, name: &str) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(name.as_bytes());
    ChaCha8Rng::from_seed(hash.finalize().into())
}
