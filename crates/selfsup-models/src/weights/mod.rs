//! Weight files: tensors by name, whoever wrote them.
//!
//! | file | read by |
//! |---|---|
//! | safetensors | `weights/safetensors.rs`, from a memory map |
//! | `….safetensors.index.json`, which says in which of several files each tensor lies | this module |
//! | what `torch.save` writes (`.pth`, `.pth.tar`, `.pt`, `.bin`), both its formats | `weights/pytorch.rs`, `weights/pickle.rs` |
//!
//! Which of them a file is, its first bytes say, not its name. A file is hostile until it is read: what it claims of sizes is checked
//! against its length before memory is taken, and nothing in it is run.

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
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;

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
    if bytes.starts_with(b"PK\x03\x04") {
        pytorch::read_zip(&bytes, device).map_err(fail)
    } else if pytorch::is_legacy(&bytes) {
        pytorch::read_legacy(&bytes, device).map_err(fail)
    } else if safetensors::may_begin(&bytes) {
        safetensors::read(&bytes, device).map_err(fail)
    } else if bytes.trim_ascii_start().starts_with(b"{") {
        read_shards(path, &bytes, device)
    } else {
        Err(fail("neither safetensors nor what torch.save writes, or cut off".into()))
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

/// What `save_pretrained` writes beside the shards.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Every tensor of an index, each from its file beside the index.
fn read_shards(path: &Path, bytes: &[u8], device: &Device) -> Result<WeightFile> {
    let fail = |problem: String| Error::WeightFile { path: path.to_owned(), problem };
    let index: Index =
        serde_json::from_slice(bytes).map_err(|e| fail(format!("not an index of shards: {e}")))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut whole = WeightFile::default();
    for shard in index.weight_map.values().collect::<BTreeSet<_>>() {
        if shard.contains(['/', '\\']) || shard.starts_with('.') {
            return Err(fail(format!("the shard `{shard}` is not a file beside it")));
        }
        let file = folder.join(shard);
        let bytes = map(&file)?;
        let part = safetensors::read(&bytes, device)
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
