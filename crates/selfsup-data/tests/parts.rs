//! Training and test parts for a probe.

use image::RgbImage;
use selfsup_data::{Dataset, Error, OpenOptions, Source, Split, open_labelled_parts};
use std::collections::BTreeSet;
use std::fs;
use tempfile::{TempDir, tempdir};

fn folder(files: &[String]) -> TempDir {
    let dir = tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::new(1, 1).save(path).unwrap();
    }
    dir
}

fn files(classes: &[&str], each: usize) -> Vec<String> {
    classes.iter().flat_map(|c| (0..each).map(move |i| format!("{c}/{i}.png"))).collect()
}

fn path(dir: &TempDir) -> &str {
    dir.path().to_str().unwrap()
}

fn ids(data: &Dataset) -> BTreeSet<String> {
    data.samples().map(|s| s.id.clone()).collect()
}

fn names(data: &Dataset) -> Vec<&str> {
    data.samples().map(|s| data.classes()[s.label.unwrap() as usize].as_str()).collect()
}

#[test]
fn a_sources_own_parts() {
    let parts = open_labelled_parts("fashion-mnist", None, &OpenOptions::default()).unwrap();
    assert_eq!((parts.split, parts.train.len(), parts.test.len()), (Split::Named, 10_000, 2_000));
    assert_eq!((parts.train.name(), parts.test.name()), ("fashion-mnist#train", "fashion-mnist#test"));
}

#[test]
fn without_parts_a_hash_decides() {
    let dir = folder(&files(&["cat", "dog"], 300));
    let open = || open_labelled_parts(path(&dir), None, &OpenOptions::default()).unwrap();
    let parts = open();
    assert_eq!(parts.split, Split::Hashed);
    let (train, test) = (ids(&parts.train), ids(&parts.test));
    assert_eq!(train.len() + test.len(), 600);
    assert!(train.is_disjoint(&test));
    assert!((80..=160).contains(&test.len()), "{} of 600", test.len()); // 120 ± 4 standard deviations
    // New images move none of the old.
    fs::create_dir(dir.path().join("ant")).unwrap();
    (0..30).for_each(|i| RgbImage::new(1, 1).save(dir.path().join(format!("ant/{i}.png"))).unwrap());
    let more = open();
    assert!(train.is_subset(&ids(&more.train)) && test.is_subset(&ids(&more.test)));
    // A named part of a source is split in the same way.
    let parts = open_labelled_parts("fashion-mnist#test", None, &OpenOptions::default()).unwrap();
    assert_eq!((parts.split, parts.train.len() + parts.test.len()), (Split::Hashed, 2000));
}

#[test]
fn rows_for_one_image_stay_together() {
    let dir = folder(&files(&["x"], 40));
    let rows: String =
        (0..40).map(|i| format!("x/{i}.png,{},one\nx/{i}.png,{},two\n", i % 2, i % 2)).collect();
    let manifest = dir.path().join("m.csv");
    fs::write(&manifest, rows).unwrap();
    let parts = open_labelled_parts(manifest.to_str().unwrap(), None, &OpenOptions::default()).unwrap();
    let image = |id: &String| id.trim_end_matches("#2").to_owned();
    let train: BTreeSet<_> = ids(&parts.train).iter().map(image).collect();
    let test: BTreeSet<_> = ids(&parts.test).iter().map(image).collect();
    assert!(train.is_disjoint(&test) && train.len() + test.len() == 40);
}

#[test]
fn a_given_test_source_is_mapped_by_name() {
    let train = folder(&files(&["cat", "dog", "eel"], 2));
    let test = folder(&files(&["dog", "eel"], 1));
    let parts = open_labelled_parts(path(&train), Some(path(&test)), &OpenOptions::default()).unwrap();
    assert_eq!(parts.split, Split::Given);
    assert_eq!(parts.test.classes(), ["cat", "dog", "eel"]);
    assert_eq!(names(&parts.test), ["dog", "eel"]);
    assert_eq!(parts.test.samples().map(|s| s.label.unwrap()).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn what_cannot_be_probed_says_why() {
    let error = |src: &TempDir, test: Option<&TempDir>| {
        open_labelled_parts(path(src), test.map(path), &OpenOptions::default()).map(|_| ()).unwrap_err()
    };
    let cats_dogs = folder(&files(&["cat", "dog"], 20));
    let unlabelled = folder(&["a.png".into(), "b.png".into()]);
    assert!(matches!(error(&unlabelled, None), Error::NoLabels { .. }));
    assert!(matches!(error(&cats_dogs, Some(&unlabelled)), Error::NoLabels { .. }));
    assert!(error(&unlabelled, None).to_string().contains("a folder is labelled by class folders"));
    let mut beside = files(&["cat", "dog"], 20);
    beside.push("cover.png".into());
    let message = error(&folder(&beside), None).to_string();
    assert!(message.contains("its folders are no classes while `cover.png` lies beside them"), "{message}");
    beside.push("z.png".into());
    assert!(error(&folder(&beside), None).to_string().contains("one of 2 such images"));
    let one = folder(&files(&["cat"], 20));
    assert!(matches!(error(&one, None), Error::OneClass { class, .. } if class == "cat"));
    let other = folder(&files(&["cat", "Dog"], 2));
    let message = error(&cats_dogs, Some(&other)).to_string();
    assert!(
        message.contains("class `Dog` not in the training part") && message.contains("`cat`, `dog`"),
        "{message}"
    );
    let test_only = folder(&files(&["train/cat", "train/dog", "test/eel"], 2));
    assert!(matches!(error(&test_only, None), Error::UnknownClasses { classes, .. } if classes == "`eel`"));
    let three = folder(&["cat/1.png".into(), "dog/1.png".into()]);
    assert!(matches!(error(&three, None), Error::EmptyPart { .. } | Error::OneClass { .. }));
}
