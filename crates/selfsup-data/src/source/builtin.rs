//! The data set inside the program: a subset of Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747;
//! MIT).
//!
//! Of each of ten classes the first 1000 training and the first 200 test images;
//! `datasets/fashion-mnist/make.py` rebuilds the files from the whole.

use super::{Found, Part, idx};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub(super) const FASHION_MNIST: &str = "fashion-mnist";

const CLASSES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

macro_rules! packed {
    ($stem:literal) => {
        ($stem, include_bytes!(concat!("../../datasets/fashion-mnist/", $stem, ".gz")).as_slice())
    };
}

type Packed = (&'static str, &'static [u8]);

/// Part, images, labels.
const FILES: [(Part, Packed, Packed); 2] = [
    (Part::Train, packed!("train-images-idx3-ubyte"), packed!("train-labels-idx1-ubyte")),
    (Part::Test, packed!("t10k-images-idx3-ubyte"), packed!("t10k-labels-idx1-ubyte")),
];

/// Unpacked once, shared by all who open it.
static UNPACKED: Mutex<Vec<idx::IdxPart>> = Mutex::new(Vec::new());

pub(super) fn fashion_mnist() -> Result<Found> {
    let mut parts = UNPACKED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if parts.is_empty() {
        *parts = FILES.into_iter().map(unpack).collect::<Result<_>>()?;
    }
    Ok(idx::found(&parts, &fashion_classes()))
}

pub(super) fn fashion_classes() -> Vec<String> {
    CLASSES.map(String::from).to_vec()
}

fn unpack((part, images, labels): (Part, Packed, Packed)) -> Result<idx::IdxPart> {
    let gunzip = |(name, bytes): Packed| {
        let io = |source| Error::Io { path: name.into(), source };
        idx::gunzip(bytes).map_err(io)
    };
    idx::parse(part, gunzip(images)?, Path::new(images.0), Some((gunzip(labels)?, PathBuf::from(labels.0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    /// `make.py` checks what it writes against these hashes; here they are read from its text.
    #[test]
    fn the_embedded_files_are_those_of_make_py() {
        let script = include_str!("../../datasets/fashion-mnist/make.py");
        let outputs = script.split_once("OUTPUTS = {").unwrap().1.split_once("\n}").unwrap().0;
        let hash =
            |bytes: &[u8]| -> String { Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect() };
        for (stem, packed) in FILES.into_iter().flat_map(|(_, images, labels)| [images, labels]) {
            let entry = outputs.split_once(&format!("\"{stem}\": (")).unwrap().1.split_once(')').unwrap().0;
            let expected: Vec<&str> = entry.split('"').filter(|s| s.len() == 64).collect();
            let unpacked = idx::gunzip(packed).unwrap();
            assert_eq!(expected, [hash(&unpacked), hash(packed)], "{stem}");
        }
    }
}
