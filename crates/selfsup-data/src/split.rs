//! A labelled training and test part for a probe.

use crate::source::{OpenOptions, Part, open, open_all, split_part};
use crate::{Dataset, Error, Result, Source};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;

/// One in so many samples goes to the test part when the source has none of its own.
const TEST_ONE_IN: u64 = 5;

/// Where the test part comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The source names its parts.
    Named,
    /// It is a source of its own.
    Given,
    /// A hash of the sample's id decides: see [`open_labelled_parts`].
    Hashed,
}

/// Two parts of labelled images with one list of classes.
#[derive(Debug, Clone)]
pub struct LabelledParts {
    /// To fit a classifier on.
    pub train: Dataset,
    /// To measure it on.
    pub test: Dataset,
    /// How they were told apart.
    pub split: Split,
}

/// Opens a labelled source in two parts; unlabelled samples are left out.
///
/// With `test`, that source (its test part, if it has parts) is the test part, and `src` (its training part,
/// if it has parts) the training part. Otherwise the source's own parts are taken. A source without parts, or
/// of which `src` names one (`SRC#train`), is split: a sample goes to the test part exactly if the first
/// eight bytes of the SHA-256 of its id, read as a big-endian number, divide by five. So a fifth is tested
/// on, the same fifth on every machine, and adding images moves none. (The `#2` that tells apart several rows
/// of a manifest for one image is left out of the hash: an image is never in both parts.) `options.part` is
/// not looked at.
///
/// # Errors
///
/// No labels, one class only, a test class that the training part lacks. Classes are matched by name.
pub fn open_labelled_parts(src: &str, test: Option<&str>, options: &OpenOptions) -> Result<LabelledParts> {
    let part = |part| OpenOptions { part, ..options.clone() };
    let (train, test, split) = match test {
        Some(test) => (open(src, &part(Part::Train))?, open(test, &part(Part::Test))?, Split::Given),
        None => {
            let (base, named) = split_part(src);
            let all = open_all(base, options)?;
            let test = all.only(Part::Test);
            match named {
                None if all.has_parts() && !test.is_empty() => (all.only(Part::Train), test, Split::Named),
                _ => {
                    let whole = match named {
                        Some(_) => open(src, options)?,
                        None if all.has_parts() => all.only(Part::Train),
                        None => all,
                    };
                    let whole = labelled(&whole, src)?;
                    // Before the split: few images of one class may all fall into one part.
                    several_classes(&whole)?;
                    let (test, train) =
                        (0..whole.len()).partition::<Vec<_>, _>(|&i| in_test(&whole.sample(i).id));
                    (whole.subset(&train), whole.subset(&test), Split::Hashed)
                }
            }
        }
    };
    let (train, test) = match split {
        Split::Given => (train, test),
        Split::Named => (train.named(&format!("{src}#train")), test.named(&format!("{src}#test"))),
        Split::Hashed => {
            (train.named(&format!("{src} (train, by hash)")), test.named(&format!("{src} (test, by hash)")))
        }
    };
    for (dataset, part) in [(&train, "train"), (&test, "test")] {
        if dataset.is_empty() {
            return Err(Error::EmptyPart { src: src.into(), part });
        }
    }
    let (train, test) = (labelled(&train, train.name())?, labelled(&test, test.name())?);
    let known = several_classes(&train)?;
    let unknown: Vec<_> = used_classes(&test).into_iter().filter(|c| !known.contains(c)).collect();
    // A hashed split of a tiny class may leave it to one part; that is no mistake in anybody's names.
    if !unknown.is_empty() && split != Split::Hashed {
        return Err(Error::UnknownClasses {
            train: train.name().into(),
            test: test.name().into(),
            classes: list(unknown),
            known: list(known),
        });
    }
    let to_train = |label: u32| {
        let name = test.classes().get(label as usize)?;
        train.classes().iter().position(|c| c == name).map(|i| i as u32)
    };
    let test = test.relabelled(train.classes(), to_train);
    Ok(LabelledParts { train, test, split })
}

/// Whether the hash puts an id in the test part.
fn in_test(id: &str) -> bool {
    // `path#2` is another caption of `path`.
    let image = match id.rsplit_once('#') {
        Some((path, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => path,
        _ => id,
    };
    let hash = Sha256::digest(image.as_bytes());
    let number = u64::from_be_bytes(hash[..8].try_into().expect("a hash has 32 bytes"));
    number.is_multiple_of(TEST_ONE_IN)
}

fn labelled(dataset: &Dataset, src: &str) -> Result<Dataset> {
    let indices: Vec<usize> = (0..dataset.len()).filter(|&i| dataset.sample(i).label.is_some()).collect();
    if indices.is_empty() {
        let hint = loose_image(dataset, src).unwrap_or_else(|| {
            "; a folder is labelled by class folders, with no image directly in it, a manifest by its column `label`"
                .into()
        });
        return Err(Error::NoLabels { src: src.into(), hint });
    }
    Ok(if indices.len() == dataset.len() { dataset.clone() } else { dataset.subset(&indices) })
}

/// What to do if images that lie directly in a folder keep its folders from being classes.
fn loose_image(dataset: &Dataset, src: &str) -> Option<String> {
    let ids = || (0..dataset.len()).map(|i| &dataset.sample(i).id);
    let loose = ids().filter(|id| !id.contains('/')).count();
    if !Path::new(src).is_dir() || loose == dataset.len() {
        return None;
    }
    let first = ids().find(|id| !id.contains('/'))?;
    Some(format!(
        "; its folders are no classes while `{first}` lies beside them{}",
        if loose > 1 { format!(", one of {loose} such images") } else { String::new() }
    ))
}

/// The classes that have an image, of which there must be two.
fn several_classes(dataset: &Dataset) -> Result<BTreeSet<&str>> {
    let classes = used_classes(dataset);
    match (classes.len(), classes.first()) {
        (1, Some(class)) => Err(Error::OneClass { src: dataset.name().into(), class: (*class).to_owned() }),
        _ => Ok(classes),
    }
}

fn used_classes(dataset: &Dataset) -> BTreeSet<&str> {
    let labels: BTreeSet<u32> = dataset.samples().filter_map(|s| s.label).collect();
    labels.into_iter().filter_map(|l| dataset.classes().get(l as usize)).map(String::as_str).collect()
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 10;
    let names: Vec<_> = names.into_iter().map(|n| format!("`{n}`")).collect();
    let more =
        if names.len() > SHOWN { format!(", and {} more", names.len() - SHOWN) } else { String::new() };
    names[..names.len().min(SHOWN)].join(", ") + &more
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hashes were worked out with coreutils' sha256sum.
    #[test]
    fn the_hash_is_sha256() {
        assert!(!in_test("abc")); // ba7816bf8f01cfea… leaves 4
        assert!(in_test("cat/3.png")); // 66c1fc7a323efb17… leaves 0
        let share = (0..20_000).filter(|i| in_test(&format!("train/{i:05}"))).count() as f64 / 20_000.0;
        assert!((share - 0.2).abs() < 0.0115, "{share}"); // four standard deviations
        for i in 0..200 {
            let id = format!("{i}.png");
            assert_eq!(in_test(&id), in_test(&format!("{id}#2")));
        }
        assert!((0..200).any(|i| in_test(&format!("a#{i}.png")) != in_test("a")));
    }
}
