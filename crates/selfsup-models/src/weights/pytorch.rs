//! PyTorch's files: what `torch.save` writes, read without Python and without running anything.
//!
//! Two formats: a zip archive with a pickle `NAME/data.pkl` and each storage in `NAME/data/KEY` (PyTorch ≥ 1.6), and the older one of
//! pickles in a row, behind which the storages stand (`torch/serialization.py`). Both hold dictionaries in dictionaries with tensors as
//! their leaves; their keys, joined by dots, are the tensors' names. Numbers and texts among the leaves are the metadata.
//!
//! What a pickle may name is a list ([`is_known`]): what makes tensors, and plain containers of training scripts, which are passed over.
//! Anything else is refused by its name, though nothing would be called. Sizes are checked against the file before memory is taken.

use super::WeightFile;
use super::pickle::{self, Call, Id, Node, Pickle, Problem};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Cursor, Read};
use std::rc::Rc;
use zip::ZipArchive;

/// The number that the older format begins with, as a pickled integer.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const LEGACY_PROTOCOL: i64 = 1001;
/// Dictionaries in dictionaries.
const MOST_DEPTH: usize = 32;
/// Views of a storage share it in the file and not in memory: so many times the file's length all tensors may take.
const MOST_SHARING: u64 = 16;
const MOST_PICKLE: u64 = 64 << 20;

/// Reads a zip archive of `torch.save`.
pub fn read_zip(bytes: &[u8], device: &Device) -> Result<WeightFile, Problem> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| format!("zip: {e}"))?;
    let names = archive.file_names().map(|name| name.map(|name| name.into_owned()));
    let names = names.collect::<Result<Vec<String>, _>>().map_err(|e| format!("zip: {e}"))?;
    if let Some(name) = names.iter().find(|name| leaves_its_folder(name)) {
        return Err(format!("zip: the entry `{name}` lies outside of the archive"));
    }
    let pickles: Vec<&String> = names.iter().filter(|name| name.ends_with("/data.pkl")).collect();
    let [name] = pickles[..] else {
        return Err(format!("zip: it has {} entries data.pkl, one is expected", pickles.len()));
    };
    let prefix = name.strip_suffix("data.pkl").expect("by its choice").to_owned();
    if let Ok(order) = entry(&mut archive, &format!("{prefix}byteorder"), 16)
        && order.trim_ascii() != b"little"
    {
        return Err("its numbers are big-endian".into());
    }
    let pickle = pickle::read(&entry(&mut archive, name, MOST_PICKLE)?)?;
    let mut load = |storage: &Storage| -> Result<Vec<u8>, Problem> {
        entry(&mut archive, &format!("{prefix}data/{}", storage.key), storage.bytes()?)
    };
    Reader::new(&pickle, bytes.len(), device)?.read(&mut load)
}

fn leaves_its_folder(name: &str) -> bool {
    name.starts_with(['/', '\\']) || name.split(['/', '\\']).any(|part| part == "..")
}

/// An entry's bytes, at most so many. What is read bounds what is taken, not what the archive claims.
fn entry(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str, most: u64) -> Result<Vec<u8>, Problem> {
    let entry = archive.by_name(name).map_err(|e| format!("zip: {name}: {e}"))?;
    let mut bytes = Vec::new();
    entry.take(most).read_to_end(&mut bytes).map_err(|e| format!("zip: {name}: {e}"))?;
    Ok(bytes)
}

/// Whether a file of the older format may begin so.
pub fn is_legacy(bytes: &[u8]) -> bool {
    // PROTO, a version, LONG1 and its length.
    bytes.len() > 14 && bytes[0] == 0x80 && bytes[2..4] == [0x8a, 0x0a] && bytes[4..14] == MAGIC
}

/// Reads the older format.
pub fn read_legacy(bytes: &[u8], device: &Device) -> Result<WeightFile, Problem> {
    let mut at = 0;
    let mut next = || -> Result<Pickle, Problem> {
        let pickle = pickle::read(&bytes[at..])?;
        at += pickle.length;
        Ok(pickle)
    };
    next()?; // the magic number
    let version = next()?;
    match version.nodes[version.root] {
        Node::Int(LEGACY_PROTOCOL) => {}
        ref other => return Err(format!("its protocol is {other:?}, {LEGACY_PROTOCOL} is expected")),
    }
    let system = next()?;
    if let Node::Dict(entries) = &system.nodes[system.root] {
        let is = |id: Id, text: &str| matches!(&system.nodes[id], Node::Str(t) if t == text);
        let big = entries
            .iter()
            .any(|&(key, value)| is(key, "little_endian") && system.nodes[value] == Node::Bool(false));
        if big {
            return Err("its numbers are big-endian".into());
        }
    }
    let pickle = next()?;
    let keys = next()?;
    let reader = Reader::new(&pickle, bytes.len(), device)?;
    // Behind the last pickle: of each storage its length and its numbers, whose width the pickle says.
    let storages = reader.storages()?;
    let mut places = HashMap::new();
    let Node::List(keys_in_order) = &keys.nodes[keys.root] else {
        return Err("the list of its storages is no list".into());
    };
    for &key in keys_in_order {
        let Node::Str(key) = &keys.nodes[key] else { return Err("a storage's name is no text".into()) };
        let storage = storages.get(key).ok_or_else(|| format!("no tensor lies in its storage `{key}`"))?;
        let header = bytes.get(at..at + 8).ok_or("it ends before its storages do")?;
        let count = u64::from_le_bytes(header.try_into().expect("eight bytes"));
        at += 8;
        if count != storage.count {
            return Err(format!("its storage `{key}` has {count} numbers, {} are announced", storage.count));
        }
        let length = usize::try_from(storage.bytes()?).map_err(|_| "a storage is too large")?;
        let end = at.checked_add(length).filter(|end| *end <= bytes.len());
        let end = end.ok_or_else(|| format!("it ends within its storage `{key}`"))?;
        places.insert(key.clone(), at..end);
        at = end;
    }
    let mut load = |storage: &Storage| -> Result<Vec<u8>, Problem> {
        let place =
            places.get(&storage.key).ok_or_else(|| format!("storage `{}` is missing", storage.key))?;
        Ok(bytes[place.clone()].to_vec())
    };
    reader.read(&mut load)
}

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Kind {
    /// Of a storage's class or a dtype.
    fn of(global: &str) -> Option<Self> {
        Some(match global.rsplit('.').next()? {
            "DoubleStorage" | "float64" => Kind::F64,
            "FloatStorage" | "float32" => Kind::F32,
            "HalfStorage" | "float16" => Kind::F16,
            "BFloat16Storage" | "bfloat16" => Kind::BF16,
            "LongStorage" | "int64" => Kind::I64,
            "IntStorage" | "int32" => Kind::I32,
            "ShortStorage" | "int16" => Kind::I16,
            "CharStorage" | "int8" => Kind::I8,
            // An untyped storage is of bytes until a tensor says its dtype.
            "ByteStorage" | "UntypedStorage" | "uint8" => Kind::U8,
            "BoolStorage" | "bool" => Kind::Bool,
            _ => return None,
        })
    }

    fn width(self) -> usize {
        match self {
            Kind::F64 | Kind::I64 => 8,
            Kind::F32 | Kind::I32 => 4,
            Kind::F16 | Kind::BF16 | Kind::I16 => 2,
            Kind::I8 | Kind::U8 | Kind::Bool => 1,
        }
    }
}

/// Numbers that lie outside of the pickle.
#[derive(Debug, Clone, PartialEq)]
struct Storage {
    key: String,
    kind: Kind,
    count: u64,
}

impl Storage {
    fn bytes(&self) -> Result<u64, Problem> {
        self.count.checked_mul(self.kind.width() as u64).ok_or_else(|| "a storage is too large".into())
    }
}

/// Whether a pickle may name it: it makes tensors, or is a plain container that training scripts keep beside them. None of it is called.
fn is_known(global: &str) -> bool {
    const TENSORS: [&str; 9] = [
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._tensor._rebuild_from_type_v2",
        "torch.nn.parameter.Parameter",
        "torch.Tensor",
        "torch.Size",
    ];
    const CONTAINERS: [&str; 22] = [
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.Counter",
        "argparse.Namespace",
        "builtins.set",
        "builtins.dict",
        "builtins.list",
        "builtins.int",
        "builtins.bool",
        "builtins.float",
        "builtins.str",
        "__builtin__.set",
        "__builtin__.dict",
        "_codecs.encode",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "torch.device",
        "typing.Any",
    ];
    const FAMILIES: [&str; 4] = ["omegaconf.", "pytorch_lightning.", "lightning.", "pathlib."];
    TENSORS.contains(&global)
        || CONTAINERS.contains(&global)
        || FAMILIES.iter().any(|family| global.starts_with(family))
        || (global.starts_with("torch.") && Kind::of(global).is_some())
}

/// Makes tensors of a pickle's leaves.
struct Reader<'a> {
    pickle: &'a Pickle,
    device: &'a Device,
    /// Bytes that tensors may still take.
    left: u64,
    /// Values that may still be walked over: a value may stand in many places.
    walk: usize,
    tensors: HashMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

type Load<'a> = dyn FnMut(&Storage) -> Result<Vec<u8>, Problem> + 'a;

impl<'a> Reader<'a> {
    fn new(pickle: &'a Pickle, file: usize, device: &'a Device) -> Result<Self, Problem> {
        for node in &pickle.nodes {
            if let Node::Global(name) = node
                && !is_known(name)
            {
                return Err(format!(
                    "it names `{name}`, which is no part of a weight file; save the model's state_dict() alone"
                ));
            }
        }
        Ok(Self {
            pickle,
            device,
            left: MOST_SHARING * file as u64,
            walk: 4 * pickle.nodes.len() + 64,
            tensors: HashMap::new(),
            metadata: BTreeMap::new(),
        })
    }

    fn node(&self, id: Id) -> &'a Node {
        &self.pickle.nodes[id]
    }

    /// Every storage by its key.
    fn storages(&self) -> Result<HashMap<String, Storage>, Problem> {
        let mut all = HashMap::<String, Storage>::new();
        for node in &self.pickle.nodes {
            if let Node::Persistent(name) = node {
                let storage = self.storage(*name)?;
                if let Some(known) = all.get(&storage.key)
                    && *known != storage
                {
                    return Err(format!("its storage `{}` is announced in two ways", storage.key));
                }
                all.insert(storage.key.clone(), storage);
            }
        }
        Ok(all)
    }

    /// `('storage', class, key, device, count[, view])`.
    fn storage(&self, name: Id) -> Result<Storage, Problem> {
        let fail = || Problem::from("a storage's name is not readable");
        let Node::Tuple(parts) = self.node(name) else { return Err(fail()) };
        let [what, class, key, _, count, ..] = parts[..] else { return Err(fail()) };
        match (self.node(what), self.node(class), self.node(key), self.node(count)) {
            (Node::Str(what), Node::Global(class), Node::Str(key), Node::Int(count)) if what == "storage" => {
                let kind = Kind::of(class).ok_or_else(|| format!("numbers of `{class}` are not read"))?;
                let count = u64::try_from(*count).map_err(|_| fail())?;
                Ok(Storage { key: key.clone(), kind, count })
            }
            _ => Err(fail()),
        }
    }

    fn read(mut self, load: &mut Load<'_>) -> Result<WeightFile, Problem> {
        let mut storages = HashMap::new();
        let mut path = HashSet::new();
        self.leaf(self.pickle.root, &mut String::new(), &mut path, &mut storages, load)?;
        if self.tensors.is_empty() {
            return Err("it holds no tensor".into());
        }
        Ok(WeightFile { tensors: self.tensors, metadata: self.metadata })
    }

    /// Takes in a value and all below it.
    fn leaf(
        &mut self,
        id: Id,
        name: &mut String,
        path: &mut HashSet<Id>,
        storages: &mut HashMap<String, Rc<Vec<u8>>>,
        load: &mut Load<'_>,
    ) -> Result<(), Problem> {
        self.walk = self.walk.checked_sub(1).ok_or("its values stand in too many places")?;
        let scalar = match self.node(id) {
            Node::Int(value) => Some(value.to_string()),
            Node::Float(value) => Some(value.to_string()),
            Node::Bool(value) => Some(value.to_string()),
            Node::Str(value) => Some(value.clone()),
            _ => None,
        };
        if let Some(value) = scalar {
            if !name.contains('.') && !name.is_empty() {
                self.metadata.insert(name.clone(), value);
            }
            return Ok(());
        }
        let entries = match self.node(id) {
            Node::Dict(entries) => entries,
            Node::Call(call) if self.is(call.of, "collections.OrderedDict") => &call.entries,
            Node::Call(call) => {
                if let Some(tensor) =
                    self.tensor(call, storages, load).map_err(|e| format!("`{name}`: {e}"))?
                {
                    self.tensors.insert(name.clone(), tensor);
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        if !path.insert(id) || path.len() > MOST_DEPTH {
            return Err(format!("its dictionaries are nested in more than {MOST_DEPTH} levels"));
        }
        let length = name.len();
        let mut seen = HashSet::new();
        for &(key, value) in entries {
            let key = match self.node(key) {
                Node::Str(key) => key.clone(),
                Node::Int(key) => key.to_string(),
                _ => continue,
            };
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(&key);
            if !seen.insert(key) {
                return Err(format!("it has two entries `{name}`"));
            }
            self.leaf(value, name, path, storages, load)?;
            name.truncate(length);
        }
        path.remove(&id);
        Ok(())
    }

    fn is(&self, id: Id, global: &str) -> bool {
        matches!(self.node(id), Node::Global(name) if name == global)
    }

    /// The tensor that a call would make, if it would make one.
    fn tensor(
        &mut self,
        call: &Call,
        storages: &mut HashMap<String, Rc<Vec<u8>>>,
        load: &mut Load<'_>,
    ) -> Result<Option<Tensor>, Problem> {
        let (mut of, mut with) = (call.of, call.with);
        // Parameters and subclasses are a tensor in another call.
        for _ in 0..MOST_DEPTH {
            let (Node::Global(callee), Node::Tuple(arguments)) = (self.node(of), self.node(with)) else {
                return Ok(None);
            };
            let inner = match (&callee[..], &arguments[..]) {
                ("torch._tensor._rebuild_from_type_v2", &[function, _, arguments, ..]) => {
                    (function, arguments)
                }
                (
                    "torch._utils._rebuild_parameter"
                    | "torch._utils._rebuild_parameter_with_state"
                    | "torch.nn.parameter.Parameter",
                    &[data, ..],
                ) => match self.node(data) {
                    Node::Call(call) => (call.of, call.with),
                    _ => return Err("a parameter without a tensor".into()),
                },
                ("torch._utils._rebuild_tensor_v3", &[storage, offset, size, stride, _, _, dtype, ..]) => {
                    let Node::Global(dtype) = self.node(dtype) else {
                        return Err("a dtype is no name".into());
                    };
                    let kind = Kind::of(dtype).ok_or_else(|| format!("numbers of `{dtype}` are not read"))?;
                    return self
                        .rebuild([storage, offset, size, stride], Some(kind), storages, load)
                        .map(Some);
                }
                (
                    "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
                    &[storage, offset, size, stride, ..],
                ) => return self.rebuild([storage, offset, size, stride], None, storages, load).map(Some),
                _ => return Ok(None),
            };
            (of, with) = inner;
        }
        Err("a tensor lies in too many calls".into())
    }

    fn rebuild(
        &mut self,
        [storage, offset, size, stride]: [Id; 4],
        dtype: Option<Kind>,
        storages: &mut HashMap<String, Rc<Vec<u8>>>,
        load: &mut Load<'_>,
    ) -> Result<Tensor, Problem> {
        let Node::Persistent(name) = self.node(storage) else {
            return Err("a tensor without a storage".into());
        };
        let storage = self.storage(*name)?;
        let (shape, strides) = (self.sizes(size)?, self.sizes(stride)?);
        let Node::Int(offset) = *self.node(offset) else { return Err("a tensor without an offset".into()) };
        let offset = usize::try_from(offset).map_err(|_| "a tensor begins before its storage")?;
        let kind = dtype.unwrap_or(storage.kind);
        let view = View::new(shape, strides, offset)?;
        let held = storage.bytes()? / kind.width() as u64;
        if view.end as u64 > held || view.count as u64 > held {
            return Err(format!(
                "a tensor of shape {:?} does not lie in its storage of {held} numbers",
                view.shape
            ));
        }
        let bytes = view.count as u64 * kind.width() as u64;
        self.left = self.left.checked_sub(bytes).ok_or("its tensors take far more memory than the file")?;
        let data = match storages.get(&storage.key) {
            Some(data) => data.clone(),
            None => {
                let data = Rc::new(load(&storage)?);
                if data.len() as u64 != storage.bytes()? {
                    return Err(format!(
                        "its storage `{}` has {} bytes, {} are announced",
                        storage.key,
                        data.len(),
                        storage.bytes()?
                    ));
                }
                storages.insert(storage.key.clone(), data.clone());
                data
            }
        };
        tensor_of(&view.gather(&data, kind.width()), kind, &view.shape, self.device)
            .map_err(|e| e.to_string())
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>, Problem> {
        let fail = || Problem::from("a tensor's shape is not readable");
        let items = match self.node(id) {
            Node::Tuple(items) | Node::List(items) => items,
            Node::Call(call) if self.is(call.of, "torch.Size") => match self.node(call.with) {
                Node::Tuple(with) => match with[..] {
                    [sizes] => return self.plain_sizes(sizes),
                    _ => return Err(fail()),
                },
                _ => return Err(fail()),
            },
            _ => return Err(fail()),
        };
        self.all_sizes(items)
    }

    fn plain_sizes(&self, id: Id) -> Result<Vec<usize>, Problem> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => self.all_sizes(items),
            _ => Err("a tensor's shape is not readable".into()),
        }
    }

    fn all_sizes(&self, items: &[Id]) -> Result<Vec<usize>, Problem> {
        items
            .iter()
            .map(|&id| match self.node(id) {
                Node::Int(n) => usize::try_from(*n).map_err(|_| format!("a size of {n}")),
                _ => Err("a size is no number".into()),
            })
            .collect()
    }
}

/// Which numbers of a storage a tensor has.
struct View {
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
    count: usize,
    /// One past the last number.
    end: usize,
}

impl View {
    fn new(shape: Vec<usize>, strides: Vec<usize>, offset: usize) -> Result<Self, Problem> {
        let large = || format!("a tensor of shape {shape:?} is too large");
        if shape.len() != strides.len() {
            return Err(format!("a tensor of shape {shape:?} has {} strides", strides.len()));
        }
        let count = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)).ok_or_else(large)?;
        let mut last = offset;
        for (&size, &stride) in shape.iter().zip(&strides).filter(|_| count > 0) {
            last = (size - 1).checked_mul(stride).and_then(|far| far.checked_add(last)).ok_or_else(large)?;
        }
        let end = if count == 0 { 0 } else { last.checked_add(1).ok_or_else(large)? };
        Ok(Self { shape, strides, offset, count, end })
    }

    /// The tensor's bytes in row-major order.
    fn gather(&self, data: &[u8], width: usize) -> Vec<u8> {
        let mut contiguous = 1;
        let is_contiguous = self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == contiguous;
            contiguous *= size.max(1);
            fits
        });
        if is_contiguous {
            let start = self.offset * width;
            return data[if self.count == 0 { 0..0 } else { start..start + self.count * width }].to_vec();
        }
        let mut bytes = Vec::with_capacity(self.count * width);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..self.count {
            let at = self.offset + index.iter().zip(&self.strides).map(|(i, s)| i * s).sum::<usize>();
            bytes.extend_from_slice(&data[at * width..][..width]);
            for (i, &size) in index.iter_mut().zip(&self.shape).rev() {
                *i += 1;
                if *i < size {
                    break;
                }
                *i = 0;
            }
        }
        bytes
    }
}

/// Floats stay as they are; integers become I64, but bytes.
fn tensor_of(bytes: &[u8], kind: Kind, shape: &[usize], device: &Device) -> candle_core::Result<Tensor> {
    fn each<const N: usize, T>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|&chunk| from(chunk)).collect()
    }
    let integers = |values: Vec<i64>| Tensor::from_vec(values, shape, device);
    match kind {
        Kind::F64 => Tensor::from_vec(each(bytes, f64::from_le_bytes), shape, device),
        Kind::F32 => Tensor::from_vec(each(bytes, f32::from_le_bytes), shape, device),
        Kind::F16 => Tensor::from_vec(each(bytes, f16::from_le_bytes), shape, device),
        Kind::BF16 => Tensor::from_vec(each(bytes, bf16::from_le_bytes), shape, device),
        Kind::U8 | Kind::Bool => Tensor::from_raw_buffer(bytes, DType::U8, shape, device),
        Kind::I64 => integers(each(bytes, i64::from_le_bytes)),
        Kind::I32 => integers(each(bytes, |b| i32::from_le_bytes(b).into())),
        Kind::I16 => integers(each(bytes, |b| i16::from_le_bytes(b).into())),
        Kind::I8 => integers(each(bytes, |b| i8::from_le_bytes(b).into())),
    }
}
