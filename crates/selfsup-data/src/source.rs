//! Where images come from: one type for all sources, opened by name.

mod builtin;
mod cifar10;
mod folder;
mod idx;
mod manifest;
mod open;
mod pixels;

pub use open::{OpenOptions, Part, open};
pub(crate) use open::{open_all, split_part};
pub(crate) use pixels::{Block, Layout, Pixels};

use crate::decode::{DecodeError, Decoded};
use crate::{Error, Result};
use image::RgbImage;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A finite collection of images that is read at random places, from many threads at once.
pub trait Source: Send + Sync {
    /// How many samples there are.
    fn len(&self) -> usize;
    /// What is known of a sample without decoding it.
    fn sample(&self, index: usize) -> &Sample;
    /// Reads and decodes a sample's image.
    fn image(&self, index: usize) -> Result<RgbImage>;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One image's name, label and caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Unique within the source and the same each time it is opened: the path relative to the source's
    /// folder, or part and number (`train/00012`).
    pub id: String,
    /// The class, an index into [`Dataset::classes`].
    pub label: Option<u32>,
    /// The caption.
    pub caption: Option<String>,
}

/// The samples of a source, or some of them. Clones share them.
#[derive(Debug, Clone)]
pub struct Dataset {
    name: Arc<str>,
    classes: Arc<[String]>,
    items: Arc<[Item]>,
    /// Which of the items, in which order.
    order: Arc<[u32]>,
    max_pixels: u64,
    passed_over: usize,
    not_read: Arc<BTreeMap<String, usize>>,
}

/// A sample and where its pixels are.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) sample: Sample,
    pub(crate) pixels: Pixels,
    /// The part that the source puts it in, if it has parts.
    pub(crate) part: Option<Part>,
}

/// What a reader of one kind of source finds.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) classes: Vec<String>,
    pub(crate) items: Vec<Item>,
    /// Files that are no images by their name, and hidden ones.
    pub(crate) passed_over: usize,
    /// Of them, those that are images of formats that are not read, by extension.
    pub(crate) not_read: BTreeMap<String, usize>,
}

impl Dataset {
    pub(crate) fn new(name: &str, found: Found, max_pixels: u64) -> Self {
        let mut items = found.items;
        make_ids_unique(&mut items);
        let order = (0..items.len() as u32).collect();
        Self {
            name: name.into(),
            classes: found.classes.into(),
            items: items.into(),
            order,
            max_pixels,
            passed_over: found.passed_over,
            not_read: found.not_read.into(),
        }
    }

    /// The classes by name, in the order of the labels; empty if nothing is labelled. The parts of one source
    /// have the same list.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// What the source was called when it was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many files of the source's folders were no images by their name, or hidden.
    pub fn passed_over(&self) -> usize {
        self.passed_over
    }

    /// Of these files the images of formats that are not read, in a sentence: what a telephone takes may be such. `None` if there are none.
    pub fn not_read(&self) -> Option<String> {
        not_read_text(&self.not_read)
    }

    /// How many samples carry a label.
    pub fn labelled(&self) -> usize {
        self.samples().filter(|s| s.label.is_some()).count()
    }

    /// Every sample in order.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = &Sample> {
        self.order.iter().map(|&i| &self.items[i as usize].sample)
    }

    /// The samples at `indices`, in that order and with the same classes. Nothing is read or copied.
    ///
    /// # Panics
    ///
    /// If an index is not below [`Source::len`], as a slice does.
    pub fn subset(&self, indices: &[usize]) -> Dataset {
        Self { order: indices.iter().map(|&i| self.order[i]).collect(), ..self.clone() }
    }

    /// The part that the source itself puts a sample in; nothing where it has no parts.
    pub fn part(&self, index: usize) -> Option<Part> {
        self.item(index).part
    }

    /// Reads and decodes a sample's image, with what its file held.
    pub fn decoded(&self, index: usize) -> Result<Decoded> {
        let item = self.item(index);
        item.pixels.decoded(self.max_pixels).map_err(|source| self.decode_error(item, source))
    }

    /// The samples of a part; all of them if the source has no parts.
    pub(crate) fn only(&self, part: Part) -> Dataset {
        if part == Part::All || !self.has_parts() {
            return self.clone();
        }
        let order =
            self.order.iter().copied().filter(|&i| self.items[i as usize].part == Some(part)).collect();
        Self { order, ..self.clone() }
    }

    /// The same samples under another name.
    pub(crate) fn named(&self, name: &str) -> Dataset {
        Self { name: name.into(), ..self.clone() }
    }

    /// Whether the source itself tells parts apart.
    pub(crate) fn has_parts(&self) -> bool {
        self.order.iter().any(|&i| self.items[i as usize].part.is_some())
    }

    /// The same samples with labels mapped to another list of classes; those that `map` has
    /// nothing for lose theirs.
    pub(crate) fn relabelled(&self, classes: &[String], map: impl Fn(u32) -> Option<u32>) -> Dataset {
        let items = self.order.iter().map(|&i| {
            let mut item = self.items[i as usize].clone();
            item.sample.label = item.sample.label.and_then(&map);
            item
        });
        let items: Arc<[Item]> = items.collect();
        Self { order: (0..items.len() as u32).collect(), items, classes: classes.into(), ..self.clone() }
    }

    fn item(&self, index: usize) -> &Item {
        &self.items[self.order[index] as usize]
    }

    fn decode_error(&self, item: &Item, source: DecodeError) -> Error {
        Error::Decode { id: item.sample.id.clone(), source }
    }
}

impl Source for Dataset {
    fn len(&self) -> usize {
        self.order.len()
    }

    fn sample(&self, index: usize) -> &Sample {
        &self.item(index).sample
    }

    fn image(&self, index: usize) -> Result<RgbImage> {
        let item = self.item(index);
        item.pixels.image(self.max_pixels).map_err(|source| self.decode_error(item, source))
    }
}

fn not_read_text(counts: &BTreeMap<String, usize>) -> Option<String> {
    let counted = counts.iter().map(|(ending, count)| format!("{count} .{ending}")).collect::<Vec<_>>();
    (!counted.is_empty()).then(|| {
        format!("{} files are left out, which are not read: convert them to JPEG or PNG", counted.join(", "))
    })
}

/// A path that a manifest names again (several captions for one image) becomes `path#2`, `path#3`, …
fn make_ids_unique(items: &mut [Item]) {
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(items.len());
    for item in items {
        let count = seen.entry(item.sample.id.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            item.sample.id = format!("{}#{count}", item.sample.id);
        }
    }
}
