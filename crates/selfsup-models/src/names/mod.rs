//! Whose names a file's tensors have, and what they are called here.
//!
//! Each tensor of a file is accounted for: it is part of the backbone, it is dropped on purpose (a head, a queue, a momentum encoder, an
//! optimiser's state), or it is left over, which is an error where the file is loaded.

mod keras;
mod tables;
mod template;

pub use tables::{CONVENTIONS, Convention, Framework};

use crate::{Error, Result, nearest};
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use tables::TRAINING;
use template::translate;

/// What may stand before anything in a checkpoint, some of them one behind the other: what a training script calls the weights in it, and
/// what `DataParallel`, Lightning and `torch.compile` put before them.
const WRAPPERS: &[&str] =
    &["state_dict.", "model_state_dict.", "model.", "module.", "_orig_mod.", "net.", "network.", "params."];
/// Of them.
const MOST_WRAPPERS: usize = 4;
/// The names of backbones' tensors here.
const BACKBONE: &[&str] = &[
    "conv1.{*}",
    "bn1.{*}",
    "layer{s}.{b}.{*}",
    "cls_token",
    "pos_embed",
    "patch_embed.{*}",
    "blocks.{b}.{*}",
    "norm.{*}",
    "features.{n}.{*}",
    "classifier.0.{*}",
    "classifier.1.{*}",
    "classifier.2.{*}",
    "classifier.3.{*}",
    "classifier.4.{*}",
    "classifier.5.{*}",
];
/// A plain convolutional network's two halves. Where there is nothing of the first, what is called like the second is a head.
const CONVOLUTIONS: &str = "features.";
const FULLY_CONNECTED: &str = "classifier.";
/// Batch normalisation counts its batches where its momentum is an average's; nothing here does.
const COUNTER: &str = ".num_batches_tracked";

/// The names of a file in one convention.
#[derive(Debug, Clone)]
pub struct Account {
    /// The convention.
    pub convention: &'static Convention,
    /// What stood before the backbone's names.
    pub prefix: String,
    /// The backbone's tensors: their names here, and in the file.
    pub backbone: BTreeMap<String, String>,
    /// The classifier's weight and bias in the file, where [`load_file`](crate::load_file) took it; otherwise they are dropped.
    pub head: Vec<String>,
    /// Tensors that were dropped on purpose.
    pub dropped: Vec<String>,
    /// Tensors that are neither.
    pub left: Vec<String>,
}

impl Account {
    /// What was dropped, by kind: what tensors' names have in common, without the backbone's own prefix, and how many there are of it.
    pub fn dropped_kinds(&self) -> Vec<(String, usize)> {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for name in self.dropped.iter().chain(&self.head) {
            let kind =
                if name.ends_with(COUNTER) { COUNTER.trim_start_matches('.') } else { self.kind(name) };
            *kinds.entry(kind.to_owned()).or_default() += 1;
        }
        kinds.into_iter().collect()
    }

    /// The first part of a name behind what stands before every name of its kind.
    fn kind<'a>(&self, name: &'a str) -> &'a str {
        let mut rest = name;
        if !self.prefix.is_empty()
            && let Some(inner) = name.strip_prefix(&self.prefix)
        {
            rest = inner;
        }
        while let Some(inner) = WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
            rest = inner;
        }
        rest.split(['.', '/']).next().unwrap_or(rest)
    }

    /// Fails if there is no backbone, in the convention that was named or in any.
    pub(crate) fn checked(self, named: Option<&'static str>) -> Result<Self> {
        const SHOWN: usize = 5;
        if self.backbone.is_empty() {
            let some = self.left.iter().chain(&self.dropped).take(SHOWN).cloned().collect();
            return Err(Error::NoBackbone { path: None, convention: named, some });
        }
        Ok(self)
    }
}

impl Convention {
    /// The convention of a name; an unknown one is an error that says the nearest.
    pub fn named(name: &str) -> Result<&'static Self> {
        CONVENTIONS.iter().find(|c| c.name == name).ok_or_else(|| Error::UnknownConvention {
            name: name.to_owned(),
            nearest: nearest(name, CONVENTIONS.iter().map(|c| c.name)),
            known: CONVENTIONS.iter().map(|c| c.name.to_owned()).collect(),
        })
    }

    /// A backbone's name here, of one in a file without its prefix.
    pub fn ours(&self, theirs: &str) -> Option<String> {
        let ruled = self.rules.iter().find_map(|(ours, of)| translate(theirs, of, ours));
        let ours = ruled.or_else(|| self.same.then(|| theirs.to_owned()))?;
        BACKBONE.iter().any(|template| translate(&ours, template, template).is_some()).then_some(ours)
    }

    /// A backbone's name in a file of this convention, with its first prefix.
    pub fn theirs(&self, ours: &str) -> Option<String> {
        let ruled = self.rules.iter().find_map(|(of, theirs)| translate(ours, of, theirs));
        let theirs = ruled.or_else(|| self.same.then(|| ours.to_owned()))?;
        Some(format!("{}{theirs}", self.prefixes[0]))
    }

    /// What the names are, with the prefix that makes most of them a backbone's.
    pub fn account<'a>(&'static self, names: impl Iterator<Item = &'a str> + Clone) -> Account {
        let wrappers = wrappers(names.clone());
        let mut prefixes: Vec<String> = self.prefixes.iter().map(|&prefix| prefix.to_owned()).collect();
        for wrapper in &wrappers {
            for prefix in self.prefixes {
                let wrapped = format!("{wrapper}{prefix}");
                if !prefixes.contains(&wrapped) {
                    prefixes.push(wrapped);
                }
            }
        }
        // The first of those that are as good.
        prefixes
            .into_iter()
            .map(|prefix| self.with_prefix(prefix, names.clone()))
            .reduce(|best, next| if next.backbone.len() > best.backbone.len() { next } else { best })
            .expect("a convention has a prefix")
    }

    fn with_prefix<'a>(
        &'static self,
        prefix: String,
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> Account {
        let ours = |name: &str| self.ours(name.strip_prefix(&prefix[..])?);
        let plain = names.clone().any(|name| ours(name).is_some_and(|ours| ours.starts_with(CONVOLUTIONS)));
        let (mut backbone, mut dropped, mut left) = (BTreeMap::new(), Vec::new(), Vec::new());
        for name in names {
            let inner = name.strip_prefix(&prefix[..]);
            match ours(name).filter(|ours| plain || !ours.starts_with(FULLY_CONNECTED)) {
                Some(_) if name.ends_with(COUNTER) => dropped.push(name.to_owned()),
                // Of two names of one tensor neither may vanish.
                Some(ours) => match backbone.entry(ours) {
                    Entry::Vacant(place) => drop(place.insert(name.to_owned())),
                    Entry::Occupied(_) => left.push(name.to_owned()),
                },
                None if self.drops(name, &prefix, inner) => dropped.push(name.to_owned()),
                None => left.push(name.to_owned()),
            }
        }
        dropped.sort();
        left.sort();
        Account { convention: self, prefix, backbone, head: Vec::new(), dropped, left }
    }

    /// Whether a name is known to be no part of the backbone. `inner` is what stands behind the backbone's prefix: there only the
    /// backbone's own heads are known, so that none of its parts is dropped as if it stood beside it.
    fn drops(&self, name: &str, prefix: &str, inner: Option<&str>) -> bool {
        if inner.is_some_and(|inner| begins(inner, self.heads)) {
            return true;
        }
        if inner.is_some() && !prefix.is_empty() {
            return false;
        }
        if begins(name, TRAINING) {
            return true;
        }
        let mut rest = name;
        loop {
            if begins(rest, self.beside) {
                return true;
            }
            match WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
                Some(inner) => rest = inner,
                None => return false,
            }
        }
    }
}

/// Every row of wrappers that a name begins with.
fn wrappers<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut rows = BTreeSet::new();
    for name in names {
        let mut length = 0;
        for _ in 0..MOST_WRAPPERS {
            let Some(wrapper) = WRAPPERS.iter().find(|wrapper| name[length..].starts_with(**wrapper)) else {
                break;
            };
            length += wrapper.len();
            rows.insert(&name[..length]);
        }
    }
    rows
}

/// Whether a name begins with one of some, each a whole part of it unless it ends in a dot, an underscore or a slash.
fn begins(name: &str, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| {
        name.strip_prefix(beginning).is_some_and(|rest| {
            beginning.ends_with(['.', '_', '/']) || rest.is_empty() || rest.starts_with('.')
        })
    })
}

/// The convention in which a file's names have most of a backbone and, of as many, least left over.
///
/// # Errors
/// No convention finds a backbone's tensor.
pub fn recognise<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Result<Account> {
    let best = CONVENTIONS
        .iter()
        .map(|convention| convention.account(names.clone()))
        .reduce(|best, next| {
            let better = |a: &Account| (a.backbone.len(), std::cmp::Reverse(a.left.len()));
            if better(&next) > better(&best) { next } else { best }
        })
        .expect("there are conventions");
    best.checked(None)
}
