//! Weight files: tensors by name, whoever wrote them.
//!
//! | file | read by |
//! |---|---|
//! | safetensors | `weights/safetensors.rs`, from a memory map |
//! | `….index.json`, which says in which of several files each tensor lies | this module |
//! | `model.json` with the shards that its `weightsManifest` names: a Keras model as TensorFlow.js ships it | `weights/keras.rs` |
//! | what `torch.save` writes (`.pth`, `.pth.tar`, `.pt`, `.bin`), both its formats | `weights/pytorch.rs`, `weights/pickle.rs` |
//!
//! Which of them a file is, its first bytes say, not its name. A file is hostile until it is read: what it claims of sizes is checked
//! against its length before memory is taken, and nothing in it is run.

pub(crate) mod keras;
mod numbers;
mod pickle;
mod pytorch;
mod safetensors;
mod state;

pub use safetensors::write;

use crate::{Error, Result};
use candle_core::{Device, Tensor};
use memmap2::Mmap;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Component, Path, PathBuf};

/// What an HDF5 file begins with.
const HDF5: &[u8] = b"\x89HDF\r\n\x1a\n";
/// Of an index or a model; those of large models have a megabyte.
pub(crate) const MOST_JSON: usize = 16 << 20;

/// The content of a weight file.
#[derive(Debug, Clone, Default)]
pub struct WeightFile {
    /// The tensors by name.
    pub tensors: HashMap<String, Tensor>,
    /// What else it says: the header's `__metadata__`, or the numbers and texts beside a checkpoint's state.
    pub metadata: BTreeMap<String, String>,
}

/// Reads a file of any of the formats.
///
/// # Errors
/// [`Error::Io`]; [`Error::WeightFile`] for a file that is cut off, foreign or dishonest.
pub fn read(path: &Path, device: &Device) -> Result<WeightFile> {
    let fail = |problem: String| Error::WeightFile { path: path.to_owned(), problem };
    let bytes = map(path)?;
    match tensors(&bytes, device) {
        Some(file) => file.map_err(fail),
        None if bytes.starts_with(HDF5) => {
            let how =
                "`tensorflowjs_converter --input_format keras FILE.h5 FOLDER`, and give FOLDER/model.json";
            Err(fail(format!("an HDF5 file, as Keras writes, which is not read; convert it: {how}")))
        }
        None if bytes.trim_ascii_start().starts_with(b"{") => read_json(path, &bytes, device),
        None if bytes.is_empty() => Err(fail("empty".into())),
        None if bytes.starts_with(b"version https://git-lfs") => {
            Err(fail("a pointer of Git LFS, whose file was not fetched: `git lfs pull` fetches it".into()))
        }
        None => Err(fail(UNKNOWN.into())),
    }
}

const UNKNOWN: &str = "neither safetensors nor what torch.save writes, or cut off";

/// What is in a file of tensors, if its first bytes are those of one.
fn tensors(bytes: &[u8], device: &Device) -> Option<std::result::Result<WeightFile, pickle::Problem>> {
    if bytes.starts_with(b"PK\x03\x04") {
        Some(pytorch::read_zip(bytes, device))
    } else if pytorch::is_legacy(bytes) {
        Some(pytorch::read_legacy(bytes, device))
    } else if safetensors::may_begin(bytes) {
        Some(safetensors::read(bytes, device))
    } else {
        None
    }
}

/// A file's bytes; empty ones are no error.
#[allow(unsafe_code)]
fn map(path: &Path) -> Result<Map> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    if !file.metadata().map_err(io)?.is_file() {
        return Err(io(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a file")));
    }
    if file.metadata().map_err(io)?.len() == 0 {
        return Ok(Map(None));
    }
    // SAFETY: the map is only read, and lives no longer than this module's reading. A file that another program shortens meanwhile ends
    // this one by a signal, as every memory map does.
    Ok(Map(Some(unsafe { Mmap::map(&file) }.map_err(io)?)))
}

/// An empty file has no map.
struct Map(Option<Mmap>);

impl std::ops::Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// Reads what other files lie beside: an index of shards or a Keras model, whichever its fields say.
fn read_json(path: &Path, bytes: &[u8], device: &Device) -> Result<WeightFile> {
    #[derive(Deserialize)]
    struct Fields {
        #[serde(rename = "weightsManifest")]
        manifest: Option<IgnoredAny>,
    }
    let fail = |problem: String| Error::WeightFile { path: path.to_owned(), problem };
    if bytes.len() > MOST_JSON {
        return Err(fail(format!("JSON of {} bytes; at most {MOST_JSON} are read", bytes.len())));
    }
    let fields: Fields = serde_json::from_slice(bytes)
        .map_err(|e| fail(format!("neither an index of shards nor a model.json: {e}")))?;
    match fields.manifest {
        Some(_) => keras::read(path, bytes, device),
        None => read_shards(path, bytes, device),
    }
}

/// The file of a name beside another.
///
/// # Errors
/// A name that leads anywhere else.
fn beside(path: &Path, name: &str) -> Result<PathBuf> {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    if !plain || name.contains(['/', '\\', '\0']) || name.starts_with('.') {
        let problem = format!("the shard `{name}` is not a file beside it");
        return Err(Error::WeightFile { path: path.to_owned(), problem });
    }
    Ok(path.parent().unwrap_or(Path::new(".")).join(name))
}

/// What `save_pretrained` writes beside the shards.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files in which an index says that its tensors lie, by name; of another file `None`.
///
/// # Errors
/// [`Error::Io`]; [`Error::WeightFile`] for a file that claims to be an index by its name and is none, or larger than any.
pub fn shards(path: &Path) -> Result<Option<BTreeSet<String>>> {
    if !path.to_string_lossy().ends_with(".index.json") {
        return Ok(None);
    }
    let bytes = map(path)?;
    if bytes.len() > MOST_JSON {
        let problem = format!("an index of {} bytes; at most {MOST_JSON} are read", bytes.len());
        return Err(Error::WeightFile { path: path.to_owned(), problem });
    }
    let names = index(path, &bytes)?.weight_map.into_values().collect::<BTreeSet<_>>();
    names.iter().try_for_each(|shard| beside(path, shard).map(|_| ()))?;
    Ok(Some(names))
}

fn index(path: &Path, bytes: &[u8]) -> Result<Index> {
    serde_json::from_slice(bytes).map_err(|e| Error::WeightFile {
        path: path.to_owned(),
        problem: format!("not an index of shards: {e}"),
    })
}

/// Every tensor of an index, each from its file beside the index.
fn read_shards(path: &Path, bytes: &[u8], device: &Device) -> Result<WeightFile> {
    let fail = |problem: String| Error::WeightFile { path: path.to_owned(), problem };
    let index = index(path, bytes)?;
    let mut whole = WeightFile::default();
    for shard in index.weight_map.values().collect::<BTreeSet<_>>() {
        let file = beside(path, shard)?;
        let bytes = map(&file)?;
        let part = tensors(&bytes, device)
            .unwrap_or_else(|| Err(UNKNOWN.into()))
            .map_err(|problem| Error::WeightFile { path: file.clone(), problem })?;
        for (name, tensor) in part.tensors {
            if index.weight_map.get(&name) != Some(shard) {
                return Err(fail(format!("`{name}` lies in {shard}, which the index does not say")));
            }
            whole.tensors.insert(name, tensor);
        }
        whole.metadata.extend(part.metadata);
    }
    match index.weight_map.iter().find(|(name, _)| !whole.tensors.contains_key(*name)) {
        Some((name, shard)) => Err(fail(format!("`{name}` is not in {shard}"))),
        None => Ok(whole),
    }
}
