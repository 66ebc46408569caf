//! From the name of a source to its samples.

use super::{Dataset, Found, builtin, cifar10, folder, idx, manifest};
use crate::decode::DEFAULT_MAX_PIXELS;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Names as like as this (Jaro–Winkler) are worth a "did you mean".
const NEAR: f64 = 0.8;

/// Which samples of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Part {
    /// Every sample, of all parts.
    #[default]
    All,
    /// The training part.
    Train,
    /// The test part.
    Test,
}

impl Part {
    /// `all`, `train` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Part::All => "all",
            Part::Train => "train",
            Part::Test => "test",
        }
    }
}

/// How a source is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOptions {
    /// Which part, unless the source's name ends in `#train` or `#test`. Of a source without parts,
    /// everything.
    pub part: Part,
    /// Check at once that every file of a manifest exists.
    pub strict: bool,
    /// Larger images are refused.
    pub max_pixels: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { part: Part::All, strict: false, max_pixels: DEFAULT_MAX_PIXELS }
    }
}

/// Opens a source by name. Images are read later, when they are wanted.
///
/// - a folder. With a subfolder `train`, and no others than `train`, `test`, `val`, `valid`, `validation`,
///   these are its parts. In the folder, or in each part: if an image lies directly in it, nothing is
///   labelled; otherwise its first-level folders are the classes. Deeper folders are read too;
/// - `cifar10:DIR`: the official binary or Python release, or PNG strips;
/// - `idx:DIR`: MNIST's format, plain or gzip;
/// - `FILE.csv`, `FILE.jsonl`: a manifest with `path[,label][,caption][,part]`;
/// - `fashion-mnist`: the subset built in (`./fashion-mnist` is a folder of that name).
///
/// `#train` or `#test` at the end chooses a part.
///
/// # Errors
///
/// An unknown name lists the forms and the nearest name; a source without images is an error, and so is a part of one that has no parts.
pub fn open(src: &str, options: &OpenOptions) -> Result<Dataset> {
    let (base, part) = split_part(src);
    let all = open_all(base, options)?;
    if let Some(part) = part.filter(|_| !all.has_parts()) {
        return Err(Error::NoParts { src: base.into(), part: part.name() });
    }
    let part = part.unwrap_or(options.part);
    let mut dataset = all.only(part);
    if part != Part::All && dataset.order.is_empty() {
        return Err(Error::EmptyPart { src: base.into(), part: part.name() });
    }
    dataset.name = src.into();
    Ok(dataset)
}

/// `SRC#train` → (`SRC`, train).
pub(crate) fn split_part(src: &str) -> (&str, Option<Part>) {
    for part in [Part::Train, Part::Test] {
        if let Some(base) = src.strip_suffix(part.name()).and_then(|s| s.strip_suffix('#')) {
            return (base, Some(part));
        }
    }
    (src, None)
}

/// Every sample of a source, whatever part is asked for.
pub(crate) fn open_all(base: &str, options: &OpenOptions) -> Result<Dataset> {
    let found = read(base, options)?;
    if found.items.is_empty() {
        return Err(Error::Empty { path: base.into(), hint: String::new() });
    }
    Ok(Dataset::new(base, found, options.max_pixels))
}

fn read(base: &str, options: &OpenOptions) -> Result<Found> {
    if base == builtin::FASHION_MNIST {
        return builtin::fashion_mnist();
    }
    if let Some(dir) = base.strip_prefix("cifar10:") {
        return cifar10::read(existing(base, dir)?);
    }
    if let Some(dir) = base.strip_prefix("idx:") {
        return idx::read(existing(base, dir)?);
    }
    let path = existing(base, base)?;
    if path.is_dir() {
        return folder::read(path);
    }
    match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("csv") => manifest::read_csv(path, options.strict),
        Some("jsonl") => manifest::read_jsonl(path, options.strict),
        _ => Err(Error::Format { path: path.into(), problem: format!("expected {}", crate::error::FORMS) }),
    }
}

/// `path` if something is there.
fn existing<'a>(base: &str, path: &'a str) -> Result<&'a Path> {
    let path = Path::new(path);
    match path.try_exists() {
        Ok(true) => Ok(path),
        Ok(false) => Err(Error::UnknownSource { src: base.into(), nearest: nearest(base) }),
        Err(source) => Err(Error::Io { path: path.into(), source }),
    }
}

/// The form, built-in name or existing path most like a source that is none. Where a form is named, only paths, and only folders; otherwise
/// manifests, too.
fn nearest(src: &str) -> Option<String> {
    let (scheme, path) = match src.split_once(':') {
        Some((scheme @ ("cifar10" | "idx"), path)) => (format!("{scheme}:"), path),
        _ => (String::new(), src),
    };
    let parent = Path::new(path).parent().unwrap_or(Path::new(""));
    let list = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let siblings = std::fs::read_dir(list).into_iter().flatten().flatten().map(|entry| entry.path());
    let fits = |sibling: &PathBuf| {
        let manifest = sibling.extension().is_some_and(|e| e == "csv" || e == "jsonl");
        sibling.is_dir() || scheme.is_empty() && manifest
    };
    let names = siblings
        .filter(fits)
        .filter_map(|sibling| Some(parent.join(sibling.file_name()?).display().to_string()))
        .map(|name| (strsim::jaro_winkler(path, &name), format!("{scheme}{name}")));
    [builtin::FASHION_MNIST, "cifar10:DIR", "idx:DIR"]
        .map(|form| (strsim::jaro_winkler(src, form), form.to_owned()))
        .into_iter()
        .filter(|_| scheme.is_empty())
        .chain(names)
        .filter(|(score, _)| *score > NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(&a.1)))
        .map(|(_, name)| name)
}
