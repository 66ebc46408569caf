//! A folder of class folders, or of images only.
//!
//! 1. If the folder has a subfolder `train` and no other subfolders than `train`, `test`, `val`, `valid`,
//!    `validation`, these are its parts, and rules 2 and 3 hold within each. (So a class may be called `train`.) The
//!    test part is `test`; without one, or when it has no labels and the training part has (ImageNet), the first of
//!    `val`, `valid`, `validation`. What is left is in neither part, only in the whole.
//! 2. If an image lies directly in the folder, nothing is labelled, and all images below are taken.
//! 3. Otherwise the first-level folders are the classes, and all images below each are its images, however deep.
//!
//! Classes are in the order of their names; the parts share one list. A class folder without images is no
//! class. Hidden files and folders and names without an image's extension are passed over. Links are
//! followed, and a loop of links is cut.

use super::{Found, Item, Part, Pixels, Sample};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Names that end so are taken for images; what they hold is told by content.
const EXTENSIONS: &[&str] =
    &["jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "bmp", "dib", "gif", "tif", "tiff"];

/// Photographs too, which no decoder here reads.
const NOT_READ: &[&str] =
    &["heic", "heif", "avif", "jxl", "jp2", "psd", "dng", "cr2", "cr3", "nef", "arw", "raf", "orf", "rw2"];

/// Names of the test part, the preferred first.
const TEST_NAMES: &[&str] = &["test", "val", "valid", "validation"];
const TRAIN_NAME: &str = "train";

pub(super) fn read(root: &Path) -> Result<Found> {
    let mut walk = Walk { root, passed_over: 0, not_read: BTreeMap::new() };
    let listing = walk.list(root)?;
    let parts = if is_split(&listing) {
        let names: Vec<_> = listing.folders.iter().map(|(name, path)| (name.clone(), path.clone())).collect();
        names
            .into_iter()
            .map(|(name, path)| Ok((Some(name), walk.images(&path)?)))
            .collect::<Result<Vec<_>>>()?
    } else {
        vec![(None, walk.images(root)?)]
    };
    let test = test_name(&parts);
    let classes: BTreeSet<&str> =
        parts.iter().flat_map(|(_, images)| images.iter().filter_map(|i| i.class.as_deref())).collect();
    let classes: Vec<String> = classes.into_iter().map(String::from).collect();
    let mut items = Vec::new();
    for (name, images) in parts {
        let part = match name.as_deref() {
            Some(TRAIN_NAME) => Some(Part::Train),
            Some(name) if Some(name) == test.as_deref() => Some(Part::Test),
            Some(_) => Some(Part::All),
            None => None,
        };
        for image in images {
            let label =
                image.class.map(|c| classes.binary_search(&c).expect("every class was listed") as u32);
            let sample = Sample { id: relative_id(root, &image.path), label, caption: None };
            items.push(Item { sample, pixels: Pixels::File(image.path), part });
        }
    }
    if items.is_empty() {
        return Err(Error::Empty { path: root.into(), hint: hint(root, &walk) });
    }
    Ok(Found { classes, items, passed_over: walk.passed_over, not_read: walk.not_read })
}

/// A path below `root` with `/` between its parts on every system.
pub(super) fn relative_id(root: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap_or(path);
    relative.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

struct Walk<'a> {
    root: &'a Path,
    passed_over: usize,
    not_read: BTreeMap<String, usize>,
}

/// One folder's content, by name.
struct Listing {
    images: Vec<PathBuf>,
    folders: Vec<(String, PathBuf)>,
}

struct Image {
    path: PathBuf,
    class: Option<String>,
}

impl Walk<'_> {
    /// The images of a whole source or of one part, by rules 2 and 3.
    fn images(&mut self, folder: &Path) -> Result<Vec<Image>> {
        // The root was listed before to look for parts: its files are counted once.
        let before = (self.passed_over, self.not_read.clone());
        let listing = self.list(folder)?;
        if folder == self.root {
            (self.passed_over, self.not_read) = before;
        }
        let mut images = Vec::new();
        if !listing.images.is_empty() {
            images.extend(listing.images.into_iter().map(|path| Image { path, class: None }));
            for (_, sub) in &listing.folders {
                self.below(sub, None, &mut vec![canonical(folder)?], &mut images)?;
            }
        } else {
            for (name, sub) in &listing.folders {
                self.below(sub, Some(name), &mut vec![canonical(folder)?], &mut images)?;
            }
        }
        Ok(images)
    }

    /// Every image below a folder. `above` holds the real paths of the folders that lead here.
    fn below(
        &mut self,
        folder: &Path,
        class: Option<&str>,
        above: &mut Vec<PathBuf>,
        images: &mut Vec<Image>,
    ) -> Result<()> {
        let real = canonical(folder)?;
        if above.contains(&real) {
            return Ok(());
        }
        above.push(real);
        let listing = self.list(folder)?;
        images.extend(listing.images.into_iter().map(|path| Image { path, class: class.map(String::from) }));
        for (_, sub) in &listing.folders {
            self.below(sub, class, above, images)?;
        }
        above.pop();
        Ok(())
    }

    fn list(&mut self, folder: &Path) -> Result<Listing> {
        let io = |source| Error::Io { path: folder.into(), source };
        let mut listing = Listing { images: Vec::new(), folders: Vec::new() };
        for entry in fs::read_dir(folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') {
                self.passed_over += 1;
            } else if path.is_dir() {
                listing.folders.push((name, path));
            } else if has_image_extension(&path) {
                listing.images.push(path);
            } else {
                self.passed_over += 1;
                if let Some(ending) = ending(&path).filter(|ending| NOT_READ.contains(&&ending[..])) {
                    *self.not_read.entry(ending).or_default() += 1;
                }
            }
        }
        listing.images.sort();
        listing.folders.sort();
        Ok(listing)
    }
}

fn is_split(listing: &Listing) -> bool {
    let is_part = |name: &str| name == TRAIN_NAME || TEST_NAMES.contains(&name);
    listing.images.is_empty()
        && listing.folders.iter().any(|(name, _)| name == TRAIN_NAME)
        && listing.folders.iter().all(|(name, _)| is_part(name))
}

/// Which folder is the test part, by rule 1.
fn test_name(parts: &[(Option<String>, Vec<Image>)]) -> Option<String> {
    let images =
        |name: &str| parts.iter().find(|(n, _)| n.as_deref() == Some(name)).map(|(_, images)| images);
    let labelled = |name: &str| images(name).is_some_and(|i| i.iter().any(|i| i.class.is_some()));
    let there = TEST_NAMES.iter().filter(|n| images(n).is_some_and(|i| !i.is_empty()));
    let preferred = there.clone().find(|n| labelled(n)).filter(|_| labelled(TRAIN_NAME));
    preferred.or_else(|| there.clone().next()).map(|n| n.to_string())
}

fn has_image_extension(path: &Path) -> bool {
    ending(path).is_some_and(|ending| EXTENSIONS.contains(&&ending[..]))
}

/// A name's extension in small letters.
fn ending(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

fn canonical(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|source| Error::Io { path: path.into(), source })
}

/// What a folder without images might have been meant for.
fn hint(root: &Path, walk: &Walk<'_>) -> String {
    let passed_over = walk.passed_over;
    if super::cifar10::looks_like(root) {
        format!("; it holds CIFAR-10's files: use `cifar10:{}`", root.display())
    } else if super::idx::looks_like(root) {
        format!("; it holds IDX files: use `idx:{}`", root.display())
    } else if let Some(text) = super::not_read_text(&walk.not_read) {
        format!("; {text}")
    } else if passed_over > 0 {
        format!("; {passed_over} files there have no image's extension or are hidden")
    } else {
        "; the folder is empty".into()
    }
}
