//! The tensors of a pickle: dictionaries in dictionaries, with calls that would make tensors as their leaves.
//!
//! What a pickle may name is a list ([`is_known`]): what makes tensors, and plain containers of training scripts, which are passed over.
//! Anything else is refused by its name, though nothing would be called. Sizes are checked against the file before memory is taken.

use super::WeightFile;
use super::numbers::{Kind, View, tensor_of};
use super::pickle::{Call, Id, Node, Pickle, Problem};
use candle_core::{Device, Tensor};
use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Dictionaries in dictionaries.
const MOST_DEPTH: usize = 32;
/// Views of a storage share it in the file and not in memory: so many times the file's length all tensors may take.
pub const MOST_SHARING: u64 = 16;
/// Bytes of a tensor's name. A text that is used often stands in the pickle once.
const MOST_NAME: usize = 1024;
/// Bytes of a tensor but for its numbers and name, roughly.
const TENSOR: u64 = 256;
/// Bytes of a text that is kept as metadata, and of all of them.
const MOST_TEXT: usize = 64 << 10;
const MOST_TEXTS: usize = 1 << 20;

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
    const CONTAINERS: [&str; 31] = [
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
        "builtins.complex",
        "__builtin__.set",
        "__builtin__.dict",
        "__builtin__.list",
        "__builtin__.int",
        "__builtin__.long",
        "__builtin__.bool",
        "__builtin__.float",
        "__builtin__.complex",
        "__builtin__.str",
        "__builtin__.unicode",
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
pub struct Reader<'a, 'b> {
    pickle: &'a Pickle,
    device: &'a Device,
    /// Bytes that tensors may still take.
    left: u64,
    /// Values that may still be walked over: a value may stand in many places.
    walk: usize,
    /// Bytes that metadata may still take.
    texts: usize,
    /// The keys that lead to the value at hand, joined, and what they lead through.
    name: String,
    path: HashSet<Id>,
    /// Storages that were loaded, by their keys.
    loaded: HashMap<String, Cow<'b, [u8]>>,
    tensors: HashMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

/// A storage's bytes, of the file where they can be.
pub type Load<'c, 'b> = dyn FnMut(&Storage) -> Result<Cow<'b, [u8]>, Problem> + 'c;

impl<'a, 'b> Reader<'a, 'b> {
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
            texts: MOST_TEXTS,
            name: String::new(),
            path: HashSet::new(),
            loaded: HashMap::new(),
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
            // A key is copied for each tensor.
            (Node::Str(what), Node::Global(class), Node::Str(key), Node::Int(count))
                if what == "storage" && key.len() <= MOST_NAME =>
            {
                let kind = Kind::of(class).ok_or_else(|| format!("numbers of `{class}` are not read"))?;
                let count = u64::try_from(*count).map_err(|_| fail())?;
                Ok(Storage { key: key.clone(), kind, count })
            }
            _ => Err(fail()),
        }
    }

    pub fn read(mut self, load: &mut Load<'_, 'b>) -> Result<WeightFile, Problem> {
        self.leaf(self.pickle.root, load)?;
        if self.tensors.is_empty() {
            return Err("it holds no tensor".into());
        }
        Ok(WeightFile { tensors: self.tensors, metadata: self.metadata })
    }

    /// Takes in a value and all below it.
    fn leaf(&mut self, id: Id, load: &mut Load<'_, 'b>) -> Result<(), Problem> {
        self.step()?;
        match self.node(id) {
            Node::Int(value) => self.keep(value),
            Node::Float(value) => self.keep(value),
            Node::Bool(value) => self.keep(value),
            Node::Str(value) if value.len() <= MOST_TEXT => self.keep(value),
            Node::Dict(entries) => return self.entries(entries, id, load),
            Node::List(items) | Node::Tuple(items) => return self.items(items, id, load),
            Node::Call(call) if self.is_dictionary(call.of) => {
                let entries = self.entries_of(call)?;
                return self.entries(&entries, id, load);
            }
            Node::Call(call) => {
                let tensor = self.tensor(call, load).map_err(|e| format!("`{}`: {e}", self.name))?;
                if let Some(tensor) = tensor {
                    // One of no numbers takes room too, and may stand in many places.
                    self.take(TENSOR + self.name.len() as u64)?;
                    if self.tensors.insert(self.name.clone(), tensor).is_some() {
                        return Err(format!("it has two tensors `{}`", self.name));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Counts what is walked over.
    fn step(&mut self) -> Result<(), Problem> {
        self.walk = self.walk.checked_sub(1).ok_or("its values stand in too many places")?;
        Ok(())
    }

    /// Counts the memory that is taken.
    fn take(&mut self, bytes: u64) -> Result<(), Problem> {
        self.left = self.left.checked_sub(bytes).ok_or("its tensors take far more memory than the file")?;
        Ok(())
    }

    /// Takes in a dictionary's values, by its keys.
    fn entries(&mut self, entries: &[(Id, Id)], id: Id, load: &mut Load<'_, 'b>) -> Result<(), Problem> {
        self.enter(id)?;
        let mut seen = HashSet::new();
        for &(key, value) in entries {
            self.step()?;
            let key = match self.node(key) {
                Node::Str(key) => Cow::Borrowed(&key[..]),
                Node::Int(key) => Cow::Owned(key.to_string()),
                _ => continue,
            };
            if !seen.insert(key.clone()) {
                let before = if self.name.is_empty() { "" } else { "." };
                return Err(format!("it has two entries `{}{before}{key}`", self.name));
            }
            self.below(&key, value, load)?;
        }
        self.path.remove(&id);
        Ok(())
    }

    /// Takes in what stands in a row, by its numbers.
    fn items(&mut self, items: &[Id], id: Id, load: &mut Load<'_, 'b>) -> Result<(), Problem> {
        self.enter(id)?;
        for (i, &item) in items.iter().enumerate() {
            self.below(&i.to_string(), item, load)?;
        }
        self.path.remove(&id);
        Ok(())
    }

    /// Takes in a value under one more key.
    fn below(&mut self, key: &str, value: Id, load: &mut Load<'_, 'b>) -> Result<(), Problem> {
        let length = self.name.len();
        if length + key.len() > MOST_NAME {
            return Err(format!("a name has more than {MOST_NAME} bytes"));
        }
        if length > 0 {
            self.name.push('.');
        }
        self.name.push_str(key);
        self.leaf(value, load)?;
        self.name.truncate(length);
        Ok(())
    }

    fn enter(&mut self, id: Id) -> Result<(), Problem> {
        match self.path.insert(id) && self.path.len() <= MOST_DEPTH {
            true => Ok(()),
            false => Err(format!("its values are nested in more than {MOST_DEPTH} levels")),
        }
    }

    /// Keeps a number or text of the outermost level as metadata, if there is room; nothing needs it.
    fn keep(&mut self, value: impl std::fmt::Display) {
        if self.name.is_empty() || self.name.contains('.') {
            return;
        }
        let value = value.to_string();
        let length = self.name.len() + value.len();
        if length <= self.texts {
            self.texts -= length;
            self.metadata.insert(self.name.clone(), value);
        }
    }

    fn is_dictionary(&self, of: Id) -> bool {
        ["collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"]
            .iter()
            .any(|name| self.is(of, name))
    }

    /// What a call of a dictionary's class is given, in Python 2 `[[key, value], …]`, and what was set in it.
    fn entries_of(&self, call: &'a Call) -> Result<Cow<'a, [(Id, Id)]>, Problem> {
        let Node::Tuple(given) = self.node(call.with) else { return Ok(Cow::Borrowed(&call.entries)) };
        let mut entries = Vec::new();
        for &given in given {
            match self.node(given) {
                Node::Dict(all) => entries.extend_from_slice(all),
                Node::List(pairs) => {
                    for &pair in pairs {
                        match self.node(pair) {
                            Node::List(pair) | Node::Tuple(pair) if pair.len() == 2 => {
                                entries.push((pair[0], pair[1]));
                            }
                            _ => return Err("a dictionary is made of what are no pairs".into()),
                        }
                    }
                }
                // A `defaultdict`'s factory.
                _ => {}
            }
        }
        entries.extend_from_slice(&call.entries);
        Ok(Cow::Owned(entries))
    }

    fn is(&self, id: Id, global: &str) -> bool {
        matches!(self.node(id), Node::Global(name) if name == global)
    }

    /// The tensor that a call would make, if it would make one.
    fn tensor(&mut self, call: &Call, load: &mut Load<'_, 'b>) -> Result<Option<Tensor>, Problem> {
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
                    return self.rebuild([storage, offset, size, stride], Some(kind), load).map(Some);
                }
                (
                    "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
                    &[storage, offset, size, stride, ref rest @ ..],
                ) => {
                    // Whether it has gradients, its hooks, and how its numbers are to be taken.
                    if let Some(&marks) = rest.get(2) {
                        self.check_marks(marks)?;
                    }
                    return self.rebuild([storage, offset, size, stride], None, load).map(Some);
                }
                _ => return Ok(None),
            };
            (of, with) = inner;
        }
        Err("a tensor lies in too many calls".into())
    }

    /// A tensor may be marked as the negative or conjugate of its numbers.
    fn check_marks(&self, marks: Id) -> Result<(), Problem> {
        let Node::Dict(marks) = self.node(marks) else { return Ok(()) };
        let set = marks.iter().find(|(_, set)| *self.node(*set) == Node::Bool(true));
        match set.map(|(mark, _)| self.node(*mark)) {
            None => Ok(()),
            Some(Node::Str(mark)) => Err(format!(
                "its numbers are marked `{mark}`, which is not read; save what .resolve_{mark}() returns"
            )),
            Some(_) => Err("its numbers are marked in a way that is not read".into()),
        }
    }

    fn rebuild(
        &mut self,
        [storage, offset, size, stride]: [Id; 4],
        dtype: Option<Kind>,
        load: &mut Load<'_, 'b>,
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
        self.take(bytes)?;
        let data = match self.loaded.entry(storage.key.clone()) {
            Entry::Occupied(place) => place.into_mut(),
            Entry::Vacant(place) => {
                let data = load(&storage)?;
                if data.len() as u64 != storage.bytes()? {
                    return Err(format!(
                        "its storage `{}` has {} bytes, {} are announced",
                        storage.key,
                        data.len(),
                        storage.bytes()?
                    ));
                }
                place.insert(data)
            }
        };
        tensor_of(&view.gather(data, kind.width()), kind, &view.shape, self.device).map_err(|e| e.to_string())
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
