//! PyTorch's files: what `torch.save` writes, read without Python and without running anything.
//!
//! Two formats: a zip archive with a pickle `NAME/data.pkl` and each storage in `NAME/data/KEY` (PyTorch ≥ 1.6), and the older one of
//! pickles in a row, behind which the storages stand (`torch/serialization.py`). Both hold dictionaries in dictionaries with tensors as
//! their leaves ([`super::state`]); their keys, joined by dots, are the tensors' names. Numbers and texts among the leaves are the metadata.

use super::WeightFile;
use super::pickle::{self, Id, Node, Pickle, Problem};
use super::state::{Reader, Storage};
use candle_core::Device;
use std::collections::HashMap;
use std::io::{Cursor, Read};
use zip::ZipArchive;

/// The number that the older format begins with, as a pickled integer.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const LEGACY_PROTOCOL: i64 = 1001;
/// A pickle of the longest training state has some megabytes.
const MOST_PICKLE: u64 = 64 << 20;

/// Reads a zip archive of `torch.save`.
pub fn read_zip(bytes: &[u8], device: &Device) -> Result<WeightFile, Problem> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| {
        format!("cut off, or damaged: the zip archive's directory, at its end, cannot be read ({e})")
    })?;
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
