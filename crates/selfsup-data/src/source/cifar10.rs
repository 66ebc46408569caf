//! CIFAR-10 (Krizhevsky 2009) in any of three forms, all with the same samples in the same order:
//!
//! - the official binary release: `data_batch_1.bin` … `data_batch_5.bin`, `test_batch.bin`; a record is the label's
//!   byte and 3072 bytes of 32×32 planes, red, green, blue;
//! - the official Python release: `data_batch_1` …, `test_batch`, pickled dictionaries with `data` (n×3072, planes as
//!   above) and `labels`. No code in a pickle is ever run: what is not plain data is left out;
//! - PNG strips: `data_batch_1.png` …, `test_batch.png`, each row an image of 32×32 pixels, and the labels as JSON
//!   lists in `train_labels.json`, `test_labels.json` (or `…_lables.json`, as one package spells it).
//!
//! The files may lie in the folder itself or in `package`, `cifar-10-batches-bin`, `cifar-10-batches-py`
//! below it.

use super::{Block, Found, Item, Layout, Part, Pixels, Sample, pixels::BlockData};
use crate::{Error, Result};
use image::ImageReader;
use serde_pickle::{DeOptions, HashableValue, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const SIDE: u32 = 32;
/// Bytes of one image.
const SIZE: usize = 3 * (SIDE * SIDE) as usize;
/// Pixels in a row of a strip: a whole image.
const STRIP_WIDTH: u32 = SIDE * SIDE;

const TRAIN: [&str; 5] = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"];
const TEST: [&str; 1] = ["test_batch"];
const FOLDERS: [&str; 4] = ["", "package", "cifar-10-batches-bin", "cifar-10-batches-py"];

#[derive(Debug, Clone, Copy)]
enum Form {
    Binary,
    Pickle,
    Png,
}

/// One file's images and labels.
struct Batch {
    block: Block,
    labels: Vec<u8>,
}

impl Form {
    const ALL: [Form; 3] = [Form::Binary, Form::Pickle, Form::Png];

    fn file(self, dir: &Path, stem: &str) -> PathBuf {
        dir.join(match self {
            Form::Binary => format!("{stem}.bin"),
            Form::Pickle => stem.to_owned(),
            Form::Png => format!("{stem}.png"),
        })
    }

    fn is_at(self, dir: &Path) -> bool {
        TRAIN.iter().chain(&TEST).any(|stem| self.file(dir, stem).is_file())
    }
}

pub(super) fn looks_like(dir: &Path) -> bool {
    locate(dir).is_some()
}

pub(super) fn read(dir: &Path) -> Result<Found> {
    let Some((form, dir)) = locate(dir) else {
        let problem = "expected CIFAR-10: `data_batch_1.bin` … (binary), `data_batch_1` … (Python) or \
            `data_batch_1.png` … (strips), there or in `package`, `cifar-10-batches-bin`, `cifar-10-batches-py`";
        return Err(Error::Format { path: dir.into(), problem: problem.into() });
    };
    let mut items = Vec::new();
    for (part, stems) in [(Part::Train, &TRAIN[..]), (Part::Test, &TEST[..])] {
        let batches = match form {
            Form::Binary => stems.iter().map(|s| binary(&form.file(&dir, s))).collect::<Result<Vec<_>>>()?,
            Form::Pickle => stems.iter().map(|s| pickle(&form.file(&dir, s))).collect::<Result<Vec<_>>>()?,
            Form::Png => strips(&dir, part, stems)?,
        };
        let mut number = 0;
        for Batch { block, labels } in batches {
            let block = Arc::new(block);
            for (index, label) in labels.into_iter().enumerate() {
                let sample = Sample {
                    id: format!("{}/{number:05}", part.name()),
                    label: Some(label.into()),
                    caption: None,
                };
                let pixels = Pixels::Block { block: block.clone(), index: index as u32 };
                items.push(Item { sample, pixels, part: Some(part) });
                number += 1;
            }
        }
    }
    Ok(Found { classes: CLASSES.map(String::from).to_vec(), items, ..Found::default() })
}

fn locate(dir: &Path) -> Option<(Form, PathBuf)> {
    let folders = FOLDERS.iter().map(|f| if f.is_empty() { dir.to_owned() } else { dir.join(f) });
    folders.flat_map(|d| Form::ALL.map(|f| (f, d.clone()))).find(|(form, dir)| form.is_at(dir))
}

fn binary(path: &Path) -> Result<Batch> {
    const RECORD: usize = 1 + SIZE;
    let bytes = read_file(path)?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
        return Err(wrong(path, format!("expected records of {RECORD} bytes, got {} bytes", bytes.len())));
    }
    let labels = bytes.iter().step_by(RECORD).copied().collect();
    Ok(Batch {
        block: block(BlockData::Raw(Cow::Owned(bytes)), 1, RECORD, Layout::Planar),
        labels: checked(labels, path)?,
    })
}

fn pickle(path: &Path) -> Result<Batch> {
    // Classes and functions of the pickle become plain tuples of their arguments; nothing is called.
    let options = DeOptions::new().replace_unresolved_globals().keep_restore_state();
    let value = serde_pickle::value_from_slice(&read_file(path)?, options)
        .map_err(|e| wrong(path, format!("not a pickle of plain data: {e}")))?;
    let Value::Dict(mut dict) = value else {
        return Err(wrong(path, "expected a pickled dictionary".into()));
    };
    let data = take(&mut dict, "data").and_then(array_bytes);
    let labels = take(&mut dict, "labels").and_then(small_integers);
    let (Some(data), Some(labels)) = (data, labels) else {
        return Err(wrong(path, "expected `data` (an array of u8) and `labels` (a list of integers)".into()));
    };
    if data.is_empty() || data.len() != labels.len() * SIZE {
        let problem =
            format!("expected {SIZE} bytes for each of {} labels, got {}", labels.len(), data.len());
        return Err(wrong(path, problem));
    }
    let labels = checked(labels, path)?;
    Ok(Batch { block: block(BlockData::Raw(Cow::Owned(data)), 0, SIZE, Layout::Planar), labels })
}

/// All strips of a part: one list of labels goes with them.
fn strips(dir: &Path, part: Part, stems: &[&str]) -> Result<Vec<Batch>> {
    let names = [format!("{}_labels.json", part.name()), format!("{}_lables.json", part.name())];
    let Some(path) = names.iter().map(|n| dir.join(n)).find(|p| p.is_file()) else {
        return Err(wrong(&dir.join(&names[0]), "expected a JSON list of labels, found no such file".into()));
    };
    let labels: Vec<u8> = serde_json::from_slice(&read_file(&path)?)
        .map_err(|e| wrong(&path, format!("expected a JSON list of labels 0 … 9: {e}")))?;
    let labels = checked(labels, &path)?;
    let mut rest = &labels[..];
    let mut batches = Vec::new();
    for stem in stems {
        let path = Form::Png.file(dir, stem);
        let (width, height) = dimensions(&path)?;
        if width != STRIP_WIDTH {
            return Err(wrong(
                &path,
                format!("expected {STRIP_WIDTH} pixels a row (one image), got {width}"),
            ));
        }
        let Some((these, later)) = rest.split_at_checked(height as usize) else {
            let problem = format!("has {height} images, but only {} labels are left", rest.len());
            return Err(wrong(&path, problem));
        };
        rest = later;
        let data = BlockData::Picture { path, pixels: OnceLock::new() };
        batches.push(Batch { block: block(data, 0, SIZE, Layout::Interleaved), labels: these.to_vec() });
    }
    if !rest.is_empty() {
        return Err(wrong(&path, format!("has {} labels more than there are images", rest.len())));
    }
    Ok(batches)
}

fn block(data: BlockData, start: usize, stride: usize, layout: Layout) -> Block {
    Block { data, start, stride, width: SIDE, height: SIDE, layout, format: "cifar10" }
}

fn dimensions(path: &Path) -> Result<(u32, u32)> {
    let io = |source| Error::Io { path: path.into(), source };
    let reader = ImageReader::open(path).and_then(|r| r.with_guessed_format()).map_err(io)?;
    reader.into_dimensions().map_err(|e| wrong(path, e.to_string()))
}

fn take(dict: &mut BTreeMap<HashableValue, Value>, key: &str) -> Option<Value> {
    let bytes = HashableValue::Bytes(key.as_bytes().to_vec());
    dict.remove(&bytes).or_else(|| dict.remove(&HashableValue::String(key.into())))
}

/// The bytes of a pickled NumPy array: the last entry of its state (version, shape, type, order, bytes).
fn array_bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::Bytes(bytes) => Some(bytes),
        Value::Tuple(state) => match state.into_iter().next_back()? {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        },
        _ => None,
    }
}

fn small_integers(value: Value) -> Option<Vec<u8>> {
    let Value::List(values) = value else { return None };
    let integer = |v| match v {
        Value::I64(i) => u8::try_from(i).ok(),
        _ => None,
    };
    values.into_iter().map(integer).collect()
}

fn checked(labels: Vec<u8>, path: &Path) -> Result<Vec<u8>> {
    match labels.iter().position(|&l| usize::from(l) >= CLASSES.len()) {
        Some(i) => Err(wrong(path, format!("label {i}: expected 0 … 9, got {}", labels[i]))),
        None => Ok(labels),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Io { path: path.into(), source })
}

fn wrong(path: &Path, problem: String) -> Error {
    Error::Format { path: path.into(), problem }
}
