//! The tensors of a pickle: dictionaries in dictionaries, with calls that would make tensors as their leaves.
//!
//! What a pickle may name is a list ([`is_known`]): what makes tensors, and plain containers of training scripts, which are passed over.
//! Anything else is refused by its name, though nothing would be called. Sizes are checked against the file before memory is taken.

use super::WeightFile;
use super::numbers::{Kind, View, tensor_of};
use super::pickle::{Call, Id, Node, Pickle, Problem};
use candle_core::{Device, Tensor};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

/// Dictionaries in dictionaries.
const MOST_DEPTH: usize = 32;
/// Views of a storage share it in the file and not in memory: so many times the file's length all tensors may take.
const MOST_SHARING: u64 = 16;

/// Numbers that lie outside of the pickle.
#[derive(Debug, Clone, PartialEq)]
pub struct Storage {
    pub key: String,
    pub kind: Kind,
    pub count: u64,
}

impl Storage {
    pub fn bytes(&self) -> Result<u64, Problem> {
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
pub struct Reader<'a> {
    pickle: &'a Pickle,
    device: &'a Device,
    /// Bytes that tensors may still take.
    left: u64,
    /// Values that may still be walked over: a value may stand in many places.
    walk: usize,
    tensors: HashMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

pub type Load<'a> = dyn FnMut(&Storage) -> Result<Vec<u8>, Problem> + 'a;

impl<'a> Reader<'a> {
    pub fn new(pickle: &'a Pickle, file: usize, device: &'a Device) -> Result<Self, Problem> {
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
    pub fn storages(&self) -> Result<HashMap<String, Storage>, Problem> {
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
        let [what, class, key, _, count, ref view @ ..] = parts[..] else { return Err(fail()) };
        if view.iter().any(|&id| *self.node(id) != Node::None) {
            return Err(
                "a storage is a part of another one, as PyTorch wrote before 0.4; save it anew".into()
            );
        }
        match (self.node(what), self.node(class), self.node(key), self.node(count)) {
            (Node::Str(what), Node::Global(class), Node::Str(key), Node::Int(count)) if what == "storage" => {
                let kind = Kind::of(class).ok_or_else(|| format!("numbers of `{class}` are not read"))?;
                let count = u64::try_from(*count).map_err(|_| fail())?;
                Ok(Storage { key: key.clone(), kind, count })
            }
            _ => Err(fail()),
        }
    }

    pub fn read(mut self, load: &mut Load<'_>) -> Result<WeightFile, Problem> {
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
