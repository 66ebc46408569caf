//! MNIST's IDX format, plain or gzip (LeCun, Cortes & Burges, yann.lecun.com/exdb/mnist).
//!
//! Files `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`; `.` for the last `-` before `idx` is taken too,
//! as some unpackers write it. Big-endian: two zero bytes, the type (8 = u8), the number of dimensions, each
//! dimension as u32, the values. Gray becomes RGB by repetition. Classes are `0` … `9`, or Fashion-MNIST's
//! names if the folder's path says `fashion`.

use super::{Block, Found, Item, Layout, Part, Pixels, Sample, builtin, pixels::BlockData};
use crate::{Error, Result};
use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PARTS: [(Part, &str); 2] = [(Part::Train, "train"), (Part::Test, "t10k")];
const TYPE_U8: u8 = 8;

/// One part's files, unpacked.
pub(super) struct IdxPart {
    pub(super) part: Part,
    pub(super) block: Arc<Block>,
    pub(super) labels: Option<Vec<u8>>,
}

pub(super) fn looks_like(dir: &Path) -> bool {
    PARTS.iter().any(|(_, prefix)| find(dir, prefix, "images", 3).is_some())
}

pub(super) fn read(dir: &Path) -> Result<Found> {
    let mut parts = Vec::new();
    for (part, prefix) in PARTS {
        let Some(path) = find(dir, prefix, "images", 3) else { continue };
        let images = unpacked(&path)?;
        let labels = match find(dir, prefix, "labels", 1) {
            Some(path) => Some((unpacked(&path)?, path)),
            None => None,
        };
        parts.push(parse(part, images, &path, labels)?);
    }
    if parts.is_empty() {
        return Err(Error::Format {
            path: dir.into(),
            problem: "expected `train-images-idx3-ubyte` or `t10k-images-idx3-ubyte` (or with `.gz`), found neither"
                .into(),
        });
    }
    Ok(found(&parts, &class_names(dir, &parts)))
}

/// Checks one part's files.
pub(super) fn parse(
    part: Part,
    images: Vec<u8>,
    path: &Path,
    labels: Option<(Vec<u8>, PathBuf)>,
) -> Result<IdxPart> {
    let dims = header(&images, 3, path)?;
    let (count, height, width) = (dims[0], dims[1], dims[2]);
    if width == 0 || height == 0 {
        return Err(Error::Format {
            path: path.into(),
            problem: format!("images of {width}x{height} pixels"),
        });
    }
    let labels = match labels {
        None => None,
        Some((labels, path)) => {
            let got = header(&labels, 1, &path)?[0];
            if got != count {
                let problem = format!("expected {count} labels, one an image, got {got}");
                return Err(Error::Format { path, problem });
            }
            Some(labels[8..8 + count].to_vec())
        }
    };
    let block = Block {
        data: BlockData::Raw(Cow::Owned(images)),
        start: 16,
        stride: width * height,
        width: width as u32,
        height: height as u32,
        layout: Layout::Gray,
        format: "idx",
    };
    Ok(IdxPart { part, block: Arc::new(block), labels })
}

/// The samples of the parts, under ids `train/00012`.
pub(super) fn found(parts: &[IdxPart], classes: &[String]) -> Found {
    let mut items = Vec::new();
    for IdxPart { part, block, labels } in parts {
        let count = (block.data_len() - block.start) / block.stride;
        for i in 0..count {
            let label = labels.as_ref().map(|l| u32::from(l[i]));
            let sample = Sample { id: format!("{}/{i:05}", part.name()), label, caption: None };
            let pixels = Pixels::Block { block: block.clone(), index: i as u32 };
            items.push(Item { sample, pixels, part: Some(*part) });
        }
    }
    Found { classes: classes.to_vec(), items, ..Found::default() }
}

/// Unpacks gzip.
pub(super) fn gunzip(packed: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    flate2::read::MultiGzDecoder::new(packed).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn find(dir: &Path, prefix: &str, kind: &str, dims: u8) -> Option<PathBuf> {
    let stems = [format!("{prefix}-{kind}-idx{dims}-ubyte"), format!("{prefix}-{kind}.idx{dims}-ubyte")];
    stems.iter().flat_map(|s| [dir.join(s), dir.join(format!("{s}.gz"))]).find(|p| p.is_file())
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let io = |source| Error::Io { path: path.into(), source };
    let bytes = std::fs::read(path).map_err(io)?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    gunzip(&bytes)
        .map_err(|e| Error::Format { path: path.into(), problem: format!("damaged gzip data: {e}") })
}

/// The dimensions, after a check that the file holds as many bytes as they say, and no more.
fn header(bytes: &[u8], dims: usize, path: &Path) -> Result<Vec<usize>> {
    let wrong = |problem| Error::Format { path: path.into(), problem };
    let magic = [0, 0, TYPE_U8, dims as u8];
    if !bytes.starts_with(&magic) {
        let got = &bytes[..bytes.len().min(4)];
        return Err(wrong(format!(
            "expected an IDX file of u8 that begins with {magic:02x?}, got {got:02x?}"
        )));
    }
    let (sizes, values) = bytes[4..]
        .split_at_checked(4 * dims)
        .ok_or_else(|| wrong(format!("the header is cut off: the file has {} bytes", bytes.len())))?;
    let sizes: Vec<usize> =
        sizes.as_chunks::<4>().0.iter().map(|b| u32::from_be_bytes(*b) as usize).collect();
    let expected = sizes.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    if expected != Some(values.len()) {
        return Err(wrong(format!("the header says {sizes:?} values, the file holds {}", values.len())));
    }
    Ok(sizes)
}

fn class_names(dir: &Path, parts: &[IdxPart]) -> Vec<String> {
    let Some(highest) = parts.iter().filter_map(|p| p.labels.as_ref()?.iter().max().copied()).max() else {
        return Vec::new();
    };
    let path = dir.canonicalize().unwrap_or_else(|_| dir.into());
    if highest < 10 && path.to_string_lossy().to_lowercase().contains("fashion") {
        return builtin::fashion_classes();
    }
    (0..=highest.max(9)).map(|i| i.to_string()).collect()
}
