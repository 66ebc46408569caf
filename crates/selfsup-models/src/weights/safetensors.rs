//! Safetensors: read from the file's bytes, written atomically and the same to the byte for the same content.

use super::WeightFile;
use super::numbers::{Kind, count_of, tensor_of};
use super::pickle::Problem;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata, SafeTensorError, SafeTensors, TensorInfo, View};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Bytes of the length before the JSON, a little-endian u64.
const LENGTH: usize = 8;

/// Whether a file may begin so: the JSON's length, and its brace.
pub fn may_begin(bytes: &[u8]) -> bool {
    bytes.get(LENGTH) == Some(&b'{')
}

/// Reads a file's bytes. The library checks that the tensors lie one behind the other and fill the file; that no name stands twice is
/// checked here.
pub fn read(bytes: &[u8], device: &Device) -> std::result::Result<WeightFile, Problem> {
    let format = |e: SafeTensorError| format!("not a complete safetensors file: {e}");
    // Two tensors of one name would become one, and an error about places.
    if let Some(Names(names)) = header_json(bytes).and_then(|json| serde_json::from_slice(json).ok()) {
        let mut seen = HashSet::new();
        if let Some(name) = names.iter().find(|name| !seen.insert(*name)) {
            return Err(format!("it has two tensors `{name}`"));
        }
    }
    let (_, header): (usize, Metadata) = SafeTensors::read_metadata(bytes).map_err(format)?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let file = SafeTensors::deserialize(bytes).map_err(format)?;
    let mut tensors = HashMap::new();
    for (name, view) in file.tensors() {
        count_of(view.shape()).map_err(|e| format!("`{name}`: {e}"))?;
        // What candle has no dtype for, and checkpoints have beside their weights.
        let tensor = match view.dtype() {
            Dtype::BOOL => tensor_of(view.data(), Kind::Bool, view.shape(), device),
            Dtype::I8 => tensor_of(view.data(), Kind::I8, view.shape(), device),
            dtype => DType::try_from(dtype)
                .and_then(|dtype| Tensor::from_raw_buffer(view.data(), dtype, view.shape(), device)),
        };
        tensors.insert(name.clone(), tensor.map_err(|e| format!("`{name}`: {e}"))?);
    }
    Ok(WeightFile { tensors, metadata })
}

fn header_json(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// The keys of a JSON object in its order, repeated ones too.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Names;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// Writes a file beside its place, syncs it and renames it over: a reader sees the old file or the whole new
/// one, and a failure (a full disk, say) leaves the old one as it was.
///
/// One tensor at a time is turned into bytes: the file is never in memory as a whole.
pub fn write(path: &Path, file: &WeightFile) -> Result<()> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut tensors: Vec<(&String, &Tensor)> = file.tensors.iter().collect();
    // The format's own order: the widest numbers first, so that each is aligned, then by name.
    tensors.sort_by(|(a, x), (b, y)| View::dtype(y).cmp(&View::dtype(x)).then(a.cmp(b)));
    let header = header(&tensors, &file.metadata)
        .map_err(|e| Error::WeightFile { path: path.to_owned(), problem: e.to_string() })?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new().prefix(".writing-").tempfile_in(folder).map_err(io)?;
    {
        let mut out = BufWriter::new(&mut temporary);
        out.write_all(&header).map_err(io)?;
        for (_, tensor) in &tensors {
            out.write_all(&View::data(tensor)).map_err(io)?;
        }
        out.flush().map_err(io)?;
    }
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

/// What stands before the data: the length of the JSON, and the JSON, with the metadata in front in sorted order. (The
/// safetensors crate keeps metadata in a hash map and would write it in another order each time.)
fn header(
    tensors: &[(&String, &Tensor)],
    metadata: &BTreeMap<String, String>,
) -> std::result::Result<Vec<u8>, SafeTensorError> {
    let mut end = 0;
    let infos = tensors.iter().map(|(name, tensor)| {
        let start = end;
        end += View::data_len(tensor);
        let info = TensorInfo {
            dtype: View::dtype(tensor),
            shape: tensor.dims().to_vec(),
            data_offsets: (start, end),
        };
        ((*name).clone(), info)
    });
    let infos = serde_json::to_string(&Metadata::new(None, infos.collect())?)?;
    let metadata = serde_json::to_string(metadata)?;
    let comma = if infos == "{}" { "" } else { "," };
    let mut json = format!("{{\"__metadata__\":{metadata}{comma}{}", &infos[1..]);
    // The data must begin at a multiple of eight bytes; the format pads with spaces.
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(LENGTH) - json.len()));
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    Ok(header)
}
