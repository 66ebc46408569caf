//! Every form of a source, made small in its own format, and what is said when it is wrong.

mod common;

use common::{all, error, listing, options, text};
use flate2::{Compression, write::GzEncoder};
use image::{Rgb, RgbImage};
use selfsup_data::{Error, OpenOptions, Part, Source, open, shuffled, summarize};
use std::fs;
use std::io::Write;
use std::path::Path;
use tempfile::{TempDir, tempdir};

/// A folder with these files; each image is one colour, told by its place in the list.
fn folder(files: &[&str]) -> TempDir {
    let dir = tempdir().unwrap();
    for (i, file) in files.iter().enumerate() {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if file.ends_with('/') {
            fs::create_dir_all(&path).unwrap();
        } else if file.ends_with(".png") {
            RgbImage::from_pixel(2, 3, Rgb([i as u8; 3])).save(&path).unwrap();
        } else {
            fs::write(&path, "not an image").unwrap();
        }
    }
    dir
}

#[test]
fn class_folders() {
    let dir = folder(&[
        "dog/b.png",
        "cat/deep/er/c.png",
        "cat/a.png",
        "cat/notes.txt",
        ".hidden/x.png",
        "README",
        "empty/",
    ]);
    let data = all(text(dir.path()));
    assert_eq!(listing(&data), ["cat/a.png=cat", "cat/deep/er/c.png=cat", "dog/b.png=dog"]);
    assert_eq!(data.classes(), ["cat", "dog"]);
    assert_eq!(data.passed_over(), 3);
    assert_eq!(data.image(2).unwrap().get_pixel(1, 2).0, [0; 3]);
    // Without parts, a part is everything.
    assert_eq!(open(text(dir.path()), &options(Part::Test)).unwrap().len(), 3);
    let part = open(&format!("{}#train", text(dir.path())), &options(Part::All)).unwrap_err();
    assert!(matches!(part, Error::NoParts { part: "train", .. }), "{part}");
}

#[test]
fn images_only() {
    let dir = folder(&["b.png", "more/a.png", "a.png", ".b.png"]);
    let data = all(text(dir.path()));
    assert_eq!(listing(&data), ["a.png=-", "b.png=-", "more/a.png=-"]);
    assert!(data.classes().is_empty());
    assert_eq!(data.passed_over(), 1);
}

#[test]
fn named_parts() {
    let dir = folder(&["train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "val/eel/4.png"]);
    let src = text(dir.path());
    assert_eq!(
        listing(&all(src)),
        ["test/cat/3.png=cat", "train/cat/1.png=cat", "train/dog/2.png=dog", "val/eel/4.png=eel"]
    );
    let train = open(src, &options(Part::Train)).unwrap();
    assert_eq!(listing(&train), ["train/cat/1.png=cat", "train/dog/2.png=dog"]);
    assert_eq!(train.classes(), ["cat", "dog", "eel"], "the parts share one list");
    // The name wins over the option; ids stay the same.
    let test = open(&format!("{src}#test"), &options(Part::Train)).unwrap();
    assert_eq!(listing(&test), ["test/cat/3.png=cat"]);
    assert_eq!(test.part(0), Some(Part::Test));
}

#[test]
fn which_folder_is_the_test_part() {
    let test_of = |files: &[&str]| {
        let dir = folder(files);
        open(text(dir.path()), &options(Part::Test)).map(|d| listing(&d)).map_err(|e| e.to_string())
    };
    assert_eq!(test_of(&["train/a/1.png", "valid/a/2.png"]).unwrap(), ["valid/a/2.png=a"]);
    // ImageNet: the test images have no labels, the validation images do.
    assert_eq!(test_of(&["train/a/1.png", "test/2.png", "val/a/3.png"]).unwrap(), ["val/a/3.png=a"]);
    assert_eq!(test_of(&["train/1.png", "test/2.png"]).unwrap(), ["test/2.png=-"]);
    assert!(test_of(&["train/a/1.png"]).unwrap_err().contains("the test part is empty"));
    // A class may be called `train`.
    assert_eq!(test_of(&["train/1.png", "plane/2.png"]).unwrap(), ["plane/2.png=plane", "train/1.png=train"]);
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_for_ever() {
    let dir = folder(&["cat/a.png"]);
    let elsewhere = folder(&["b.png"]);
    std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("dog")).unwrap();
    std::os::unix::fs::symlink(dir.path(), dir.path().join("cat/loop")).unwrap();
    assert_eq!(listing(&all(text(dir.path()))), ["cat/a.png=cat", "dog/b.png=dog"]);
}

#[test]
fn a_name_that_is_nothing_lists_the_forms() {
    let message = error("fashion-mnits");
    for part in [
        "did you mean `fashion-mnist`?",
        "class folders",
        "`cifar10:DIR`",
        "`idx:DIR`",
        "`FILE.csv`",
        ".jsonl",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(error("cifar10").contains("did you mean `cifar10:DIR`?"));
    assert!(
        !error("/no/such/thing/anywhere").contains("did you mean"),
        "{}",
        error("/no/such/thing/anywhere")
    );
    // A file is no folder, however like its name.
    let dir = folder(&["photos/a.png", "fotoz"]);
    let near = dir.path().join("fotos");
    assert!(error(text(&near)).contains(&format!("did you mean `{}`?", text(&dir.path().join("photos")))));
    let near = format!("cifar10:{}", text(&near));
    let photos = format!("did you mean `cifar10:{}`?", text(&dir.path().join("photos")));
    assert!(error(&near).contains(&photos), "{}", error(&near));
    assert!(!error("cifar10:vic").contains("did you mean"), "{}", error("cifar10:vic"));
    fs::write(dir.path().join("fotos.csv"), "path\n").unwrap();
    let near = dir.path().join("fotos.cvs");
    let manifest = text(&dir.path().join("fotos.csv")).to_owned();
    assert!(error(text(&near)).contains(&format!("did you mean `{manifest}`?")), "{}", error(text(&near)));
    // No form but its own takes a manifest.
    let near = format!("cifar10:{}", text(&near));
    assert!(error(&near).contains(&photos), "{}", error(&near));
    fs::write(dir.path().join("x.parquet"), "").unwrap();
    assert!(error(text(&dir.path().join("x.parquet"))).contains("expected a folder"));
}

#[test]
fn an_empty_folder_says_so() {
    let empty = folder(&["a/", "b/"]);
    assert!(error(text(empty.path())).contains("the folder is empty"), "{}", error(text(empty.path())));
    let no_images = folder(&["a/x.txt", ".y.png"]);
    assert!(error(text(no_images.path())).contains("2 files there have no image's extension"));
    let idx = tempdir().unwrap();
    fs::write(idx.path().join("train-images-idx3-ubyte"), "").unwrap();
    assert!(error(text(idx.path())).contains("use `idx:"));
}

#[test]
fn the_built_in_subset() {
    let data = all("fashion-mnist");
    assert_eq!((data.len(), data.labelled(), data.classes().len()), (12_000, 12_000, 10));
    for (src, per_class) in [("fashion-mnist#train", 1000), ("fashion-mnist#test", 200)] {
        let part = all(src);
        let mut counts = [0; 10];
        part.samples().for_each(|s| counts[s.label.unwrap() as usize] += 1);
        assert_eq!(counts, [per_class; 10]);
    }
    let image = data.image(0).unwrap();
    assert!(image.pixels().all(|p| p.0[0] == p.0[1] && p.0[1] == p.0[2]));
}

fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|d| out.extend(d.to_be_bytes()));
    out.extend(values);
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn idx_files() {
    let dir = tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    write("train-images-idx3-ubyte", &idx(&[2, 2, 3], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]));
    write("train-labels-idx1-ubyte", &idx(&[2], &[7, 3]));
    write("t10k-images.idx3-ubyte.gz", &gzip(&idx(&[1, 2, 3], &[20, 21, 22, 23, 24, 25])));
    write("t10k-labels-idx1-ubyte.gz", &gzip(&idx(&[1], &[9])));
    let src = format!("idx:{}", text(dir.path()));
    let data = all(&src);
    assert_eq!(listing(&data), ["train/00000=7", "train/00001=3", "test/00000=9"]);
    let image = data.image(1).unwrap();
    assert_eq!(image.dimensions(), (3, 2));
    assert_eq!(image.into_raw(), [6, 6, 6, 7, 7, 7, 8, 8, 8, 9, 9, 9, 10, 10, 10, 11, 11, 11]);
    assert_eq!(listing(&all(&format!("{src}#test"))), ["test/00000=9"]);

    // A count that is not the file's, a wrong magic number, too few labels, a damaged gzip, nothing at all.
    write("train-images-idx3-ubyte", &idx(&[3, 2, 3], &[0; 12]));
    assert!(error(&src).contains("the header says [3, 2, 3] values, the file holds 12"), "{}", error(&src));
    write("train-images-idx3-ubyte", &idx(&[u32::MAX, u32::MAX, u32::MAX], &[0; 12]));
    assert!(error(&src).contains("the file holds 12"), "{}", error(&src));
    write("train-images-idx3-ubyte", &idx(&[2, 6], &[0; 12]));
    assert!(error(&src).contains("begins with [00, 00, 08, 03], got [00, 00, 08, 02]"), "{}", error(&src));
    write("train-images-idx3-ubyte", &idx(&[3, 2, 2], &[0; 12]));
    assert!(error(&src).contains("expected 3 labels, one an image, got 2"), "{}", error(&src));
    let packed = gzip(&[0; 1000]);
    write("train-images-idx3-ubyte", &packed[..packed.len() - 9]);
    assert!(error(&src).contains("damaged gzip"), "{}", error(&src));
    let empty = tempdir().unwrap();
    assert!(error(&format!("idx:{}", text(empty.path()))).contains("expected `train-images-idx3-ubyte`"));
}

#[test]
fn fashion_mnist_in_idx_has_its_names() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/fashion-mnist");
    let (from_files, built_in) = (all(&format!("idx:{}", text(&files))), all("fashion-mnist"));
    assert_eq!(listing(&from_files), listing(&built_in));
    assert_eq!(from_files.classes()[9], "Ankle boot");
    assert_eq!(from_files.image(11_999).unwrap(), built_in.image(11_999).unwrap());
}

fn manifest(name: &str, content: &str) -> (TempDir, String) {
    let dir = folder(&["images/a.png", "images/b.png", "c.png"]);
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    (dir, text(&path).to_owned())
}

#[test]
fn manifests() {
    let csv = "path,label,caption,part\nimages/a.png,10,\"a, quoted\nlong caption\",train\n\nimages/b.png,9,,test\nc.png,,,\n";
    let jsonl = r#"{"path": "images/a.png", "label": 10, "caption": "a, quoted\nlong caption", "part": "train"}

{"path": "images/b.png", "label": "9", "part": "test"}
{"path": "c.png"}
"#;
    for (name, content) in [("m.csv", csv), ("m.CSV", &format!("\u{feff}{csv}")), ("m.jsonl", jsonl)] {
        let (_dir, src) = manifest(name, content);
        let data = all(&src);
        assert_eq!(listing(&data), ["images/a.png=10", "images/b.png=9", "c.png=-"], "{name}");
        assert_eq!(data.classes(), ["9", "10"], "numbers are in the order of numbers");
        assert_eq!(data.sample(0).caption.as_deref(), Some("a, quoted\nlong caption"));
        assert_eq!(data.sample(1).caption, None);
        assert_eq!(data.image(2).unwrap().get_pixel(0, 0).0, [2; 3]);
        assert_eq!(listing(&all(&format!("{src}#train"))), ["images/a.png=10"]);
        assert_eq!(listing(&all(&format!("{src}#test"))), ["images/b.png=9"]);
    }
    // Without a header the columns are path, label, caption; a path may come again.
    let (_dir, src) = manifest("m.csv", "images/a.png,x,one\nimages/a.png,x,two\nc.png,y\n");
    let data = all(&src);
    assert_eq!(listing(&data), ["images/a.png=x", "images/a.png#2=x", "c.png=y"]);
    assert_eq!(data.sample(1).caption.as_deref(), Some("two"));
    assert_eq!(data.image(1).unwrap(), data.image(0).unwrap());
}

#[test]
fn manifests_that_are_wrong_name_the_line() {
    for (name, content, line, expected) in [
        ("m.csv", "path,lable\na.png,x\n", 1, "unknown column `lable`"),
        ("m.csv", "path,label,path\n", 1, "column `path` stands twice"),
        ("m.csv", "path,label\n\n\"two\nlines\",x\n\na.png,x,y,z\n", 6, "expected at most 2 columns"),
        ("m.csv", "path,label\na.png,x\n,y\n", 3, "expected a path"),
        ("m.csv", "path,part\na.png,dev\n", 2, "part: expected `train`, `test` or nothing, got `dev`"),
        ("m.jsonl", "{\"path\": \"a.png\"}\n\n{\"path\": 3}\n", 3, "invalid type"),
        ("m.jsonl", "{\"path\": \"a.png\", \"lable\": 1}\n", 1, "unknown field `lable`"),
        (
            "m.jsonl",
            "{\"path\": \"a.png\", \"label\": [1]}\n",
            1,
            "expected a string or an integer as the label",
        ),
        ("m.jsonl", "{\"path\": \"a.png\"\n", 1, "EOF"),
        ("m.jsonl", "{\"label\": 1}\n", 1, "missing field `path`"),
    ] {
        let (_dir, src) = manifest(name, content);
        let message = error(&src);
        assert!(message.starts_with(&format!("{src}:{line}: ")), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    let (_dir, src) = manifest("m.csv", "path,label\n");
    assert!(error(&src).contains("the manifest has no rows"));
    let (dir, src) = manifest("m.csv", "");
    fs::write(dir.path().join("m.csv"), b"path\na.png\n\xff.png\n").unwrap();
    assert!(error(&src).contains(":3: expected UTF-8"), "{}", error(&src));
}

#[test]
fn strict_looks_for_the_files_of_a_manifest() {
    let (_dir, src) = manifest("m.csv", "path\nc.png\nd.png\n");
    assert_eq!(all(&src).len(), 2);
    let message =
        open(&src, &OpenOptions { strict: true, ..OpenOptions::default() }).unwrap_err().to_string();
    assert!(message.contains(":3: no file `"), "{message}");
    match all(&src).image(1) {
        Err(Error::Decode { id, source }) => {
            assert!(id == "d.png" && source.to_string().contains("cannot read"), "{source}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn subsets_keep_classes_and_order() {
    let data = all("fashion-mnist#test");
    let order = shuffled(0, 0, data.len());
    let subset = data.subset(&order[..50]);
    let again = subset.subset(&[49, 0]);
    assert_eq!((subset.len(), again.len(), again.classes()), (50, 2, data.classes()));
    assert_eq!(again.sample(0), data.sample(order[49]));
    assert_eq!(again.image(1).unwrap(), data.image(order[0]).unwrap());
    assert!(data.subset(&[]).is_empty());
}

#[test]
fn max_pixels_holds_for_files() {
    let dir = folder(&["a.png"]);
    let data = open(text(dir.path()), &OpenOptions { max_pixels: 5, ..OpenOptions::default() }).unwrap();
    assert_eq!(data.image(0).unwrap_err().to_string(), "a.png: 2x3 pixels are more than the limit of 5");
}

#[test]
fn a_summary_counts_everything() {
    let dir = folder(&["train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "train/cat/notes.txt"]);
    RgbImage::from_fn(10, 20, |x, _| Rgb([if x < 5 { 0 } else { 255 }, 102, 0]))
        .save(dir.path().join("train/dog/4.png"))
        .unwrap();
    fs::write(dir.path().join("train/dog/5.jpg"), b"\xff\xd8\xff\xe0").unwrap();
    fs::write(dir.path().join("train/dog/6.jpg"), b"").unwrap();
    let summary = summarize(text(dir.path())).unwrap();
    assert_eq!((summary.samples, summary.readable, summary.labelled), (6, 4, 4));
    assert_eq!((summary.passed_over, summary.skipped_count), (1, 2));
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(
        json["parts"],
        serde_json::json!([{"name": "train", "count": 3}, {"name": "test", "count": 1}])
    );
    assert_eq!(
        json["classes"],
        serde_json::json!([{"name": "cat", "count": 2}, {"name": "dog", "count": 2}])
    );
    assert_eq!(json["width"], serde_json::json!({"min": 2, "median": 2, "max": 10}));
    assert_eq!(json["height"], serde_json::json!({"min": 3, "median": 3, "max": 20}));
    assert_eq!(json["formats"], serde_json::json!([{"name": "png", "count": 4}]));
    assert_eq!(json["skipped"][0]["id"], "train/dog/5.jpg");
    assert!(json["skipped"][1]["reason"].as_str().unwrap().contains("an empty file"));
    // Of the three small images of 6 pixels the values are 0, 1 and 2; of the large one 100 pixels each 0 and
    // 255.
    let mean = (0.0 + 6.0 + 12.0 + 100.0 * 255.0) / 218.0 / 255.0;
    let square = (0.0 + 6.0 + 24.0 + 100.0 * 255.0 * 255.0) / 218.0 / (255.0 * 255.0);
    assert!((summary.mean.unwrap()[0] - mean).abs() < 1e-12);
    assert!((summary.std.unwrap()[0] - f64::sqrt(square - mean * mean)).abs() < 1e-9);
    let text = summary.to_string();
    for part in ["4 images", "2 classes", "dog", "train/dog/6.jpg", "1 files passed over", "width 2 … 10"] {
        assert!(text.contains(part), "{text}");
    }
}
