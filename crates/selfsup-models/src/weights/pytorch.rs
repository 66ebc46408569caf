//! PyTorch's files: what `torch.save` writes, read without Python and without running anything.
//!
//! Two formats: a zip archive with a pickle `NAME/data.pkl` and each storage in `NAME/data/KEY` (PyTorch ≥ 1.6), and the older one of
//! pickles in a row, behind which the storages stand (`torch/serialization.py`). Both hold dictionaries in dictionaries with tensors as
//! their leaves ([`super::state`]); their keys, joined by dots, are the tensors' names. Numbers and texts among the leaves are the metadata.

use super::WeightFile;
use super::pickle::{self, Id, Node, Pickle, Problem};
use super::state::{MOST_SHARING, Reader, Storage};
use candle_core::Device;
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{Cursor, Read};
use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

/// The number that the older format begins with, as a pickled integer.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const LEGACY_PROTOCOL: i64 = 1001;
/// A pickle of the longest training state has some megabytes.
const MOST_PICKLE: u64 = 64 << 20;

/// Reads a zip archive of `torch.save`.
pub fn read_zip(bytes: &[u8], device: &Device) -> Result<WeightFile, Problem> {
    // Nothing stands before an archive of torch's; a search for where it begins may find another place.
    let config = Config { archive_offset: ArchiveOffset::Known(0) };
    let archive = ZipArchive::with_config(config, Cursor::new(bytes)).map_err(|e| {
        format!("cut off, or damaged: the zip archive's directory, at its end, cannot be read ({e})")
    })?;
    // What is inflated may be far more than the file, and is never so in honest ones.
    let mut archive = Archive { zip: archive, bytes, inflated: MOST_SHARING * bytes.len() as u64 };
    let zip = &archive.zip;
    let names = zip.file_names().map(|name| name.map(|name| name.into_owned()));
    let names = names.collect::<Result<Vec<String>, _>>().map_err(|e| format!("zip: {e}"))?;
    if let Some(name) = names.iter().find(|name| leaves_its_folder(name)) {
        return Err(format!("zip: the entry `{name}` lies outside of the archive"));
    }
    let pickles: Vec<&String> = names.iter().filter(|name| name.ends_with("/data.pkl")).collect();
    let [name] = pickles[..] else {
        return Err(format!("zip: it has {} entries data.pkl, one is expected", pickles.len()));
    };
    let prefix = name.strip_suffix("data.pkl").expect("by its choice").to_owned();
    let order = format!("{prefix}byteorder");
    if names.contains(&order) && archive.entry(&order, 16)?.trim_ascii() != b"little" {
        return Err("its numbers are big-endian".into());
    }
    let pickle = pickle::read(&archive.entry(name, MOST_PICKLE)?)?;
    let mut load =
        |storage: &Storage| archive.entry(&format!("{prefix}data/{}", storage.key), storage.bytes()?);
    Reader::new(&pickle, bytes.len(), device)?.read(&mut load)
}

struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    bytes: &'a [u8],
    /// Bytes that may still be inflated.
    inflated: u64,
}

impl<'a> Archive<'a> {
    /// An entry's bytes, at most so many: those of the file, or, of what is deflated, which torch does not do, a copy. What is read bounds
    /// what is taken, not what the archive claims.
    fn entry(&mut self, name: &str, most: u64) -> Result<Cow<'a, [u8]>, Problem> {
        let fail = |why: &dyn std::fmt::Display| format!("zip: {name}: {why}");
        let entry = self.zip.by_name(name).map_err(|e| fail(&e))?;
        let large = || fail(&format!("it has more than the {most} bytes that are expected"));
        // Where torch was told not to compute it (`set_crc32_options`), it is 0.
        let check = entry.crc32();
        if entry.compression() == CompressionMethod::Stored {
            let start = usize::try_from(entry.data_start().ok_or_else(|| fail(&"it has no place"))?);
            let length = usize::try_from(entry.compressed_size());
            let place = start
                .ok()
                .zip(length.ok())
                .and_then(|(start, length)| self.bytes.get(start..start.checked_add(length)?));
            let bytes = place.ok_or_else(|| fail(&"it ends behind the file"))?;
            if bytes.len() as u64 > most {
                return Err(large());
            }
            if check != 0 && crc32fast::hash(bytes) != check {
                return Err(fail(&"damaged: its checksum is another"));
            }
            return Ok(Cow::Borrowed(bytes));
        }
        let most_here = most.min(self.inflated);
        let mut bytes = Vec::new();
        // To the end, where the library compares the checksum.
        entry.take(most_here + 1).read_to_end(&mut bytes).map_err(|e| fail(&e))?;
        self.inflated = self.inflated.saturating_sub(bytes.len() as u64);
        match bytes.len() as u64 {
            length if length <= most_here => Ok(Cow::Owned(bytes)),
            length if length > most => Err(large()),
            _ => Err(fail(&"what is compressed takes far more memory than the file")),
        }
    }
}

fn leaves_its_folder(name: &str) -> bool {
    name.starts_with(['/', '\\']) || name.split(['/', '\\']).any(|part| part == "..")
}

/// Whether a file of the older format may begin so.
pub fn is_legacy(bytes: &[u8]) -> bool {
    // PROTO and a version, from protocol 4 on FRAME and its length, LONG1 and its length.
    let Some([0x80, _, rest @ ..]) = bytes.get(..25) else { return false };
    let rest = if rest[0] == 0x95 { &rest[9..] } else { rest };
    rest[..2] == [0x8a, 0x0a] && rest[2..12] == MAGIC
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
    let mut load = |storage: &Storage| {
        let place =
            places.get(&storage.key).ok_or_else(|| format!("storage `{}` is missing", storage.key))?;
        Ok(Cow::Borrowed(&bytes[place.clone()]))
    };
    reader.read(&mut load)
}
