//! Safetensors files: read whole, written atomically and the same to the byte for the same content.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Metadata, SafeTensors};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

/// The content of a safetensors file.
#[derive(Debug, Clone, Default)]
pub struct WeightFile {
    /// The tensors by name.
    pub tensors: HashMap<String, Tensor>,
    /// The header's `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// Reads a file. A truncated or foreign one is [`Error::SafeTensors`].
pub fn read(path: &Path, device: &Device) -> Result<WeightFile> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let format = |source| Error::SafeTensors { path: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(io)?;
    let (_, header): (usize, Metadata) = SafeTensors::read_metadata(&bytes).map_err(format)?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let file = SafeTensors::deserialize(&bytes).map_err(format)?;
    let mut tensors = HashMap::new();
    for (name, view) in file.tensors() {
        let dtype = DType::try_from(view.dtype())?;
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), device)?;
        tensors.insert(name, tensor);
    }
    Ok(WeightFile { tensors, metadata })
}

/// Writes a file beside its place, syncs it and renames it over: a reader sees the old file or the whole new
/// one, and a failure (a full disk, say) leaves the old one as it was.
pub fn write(path: &Path, file: &WeightFile) -> Result<()> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let tensors: BTreeMap<&str, &Tensor> = file.tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let bytes = safetensors::serialize(tensors, None)
        .map_err(|source| Error::SafeTensors { path: path.to_owned(), source })?;
    let (header, data) = with_metadata(&bytes, &file.metadata);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new().prefix(".writing-").tempfile_in(folder).map_err(io)?;
    temporary.write_all(&header).and_then(|()| temporary.write_all(data)).map_err(io)?;
    temporary.as_file().sync_all().map_err(io)?;
    // Temporary files are private; a result is readable as any other file is.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o644);
        temporary.as_file().set_permissions(mode).map_err(io)?;
    }
    temporary.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}

/// A serialised file's new header, with the metadata put in front in sorted order, and its untouched data.
/// (The safetensors crate keeps metadata in a hash map and would write it in another order each time.)
fn with_metadata<'a>(bytes: &'a [u8], metadata: &BTreeMap<String, String>) -> (Vec<u8>, &'a [u8]) {
    const LENGTH: usize = 8; // a little-endian u64 comes before the JSON header
    let length = u64::from_le_bytes(bytes[..LENGTH].try_into().expect("eight bytes")) as usize;
    let json = std::str::from_utf8(&bytes[LENGTH..LENGTH + length]).expect("JSON is UTF-8").trim_end();
    let metadata = serde_json::to_string(metadata).expect("strings always serialise");
    let comma = if json == "{}" { "" } else { "," };
    let mut json = format!("{{\"__metadata__\":{metadata}{comma}{}", &json[1..]);
    // The data must begin at a multiple of eight bytes; the format pads with spaces.
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(LENGTH) - json.len()));
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    (header, &bytes[LENGTH + length..])
}
