//! CIFAR-10 in the forms that it is had in.

mod common;

use common::{all, error, text};
use image::{Rgb, RgbImage};
use selfsup_data::Source;
use std::fs;
use std::path::Path;
use tempfile::tempdir;

/// 32×32 images made from their number: planes for the releases, pixels for the strips.
fn cifar_image(n: u32) -> RgbImage {
    RgbImage::from_fn(32, 32, |x, y| Rgb([(x * 7 + n) as u8, (y * 5 + n) as u8, (x * y + n) as u8]))
}

fn planes(image: &RgbImage) -> Vec<u8> {
    (0..3).flat_map(|c| image.pixels().map(move |p| p.0[c])).collect()
}

const STEMS: [&str; 6] =
    ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"];
const PER_FILE: u32 = 3;

fn cifar_label(n: u32) -> u8 {
    (n * 7 % 10) as u8
}

fn numbers(file: usize) -> std::ops::Range<u32> {
    file as u32 * PER_FILE..(file as u32 + 1) * PER_FILE
}

fn write_binary(dir: &Path) {
    for (i, stem) in STEMS.iter().enumerate() {
        let records: Vec<u8> =
            numbers(i).flat_map(|n| [vec![cifar_label(n)], planes(&cifar_image(n))].concat()).collect();
        fs::write(dir.join(format!("{stem}.bin")), records).unwrap();
    }
}

/// A pickle as Python 2 wrote the release: protocol 2, and a NumPy array, whose class a reader must not look
/// up.
fn write_pickle(dir: &Path) {
    for (i, stem) in STEMS.iter().enumerate() {
        let data: Vec<u8> = numbers(i).flat_map(|n| planes(&cifar_image(n))).collect();
        let mut p = b"\x80\x02}q\x01(".to_vec();
        p.extend(b"U\x0bbatch_labelq\x02U\x15training batch 1 of 5");
        p.extend(b"U\x06labelsq\x03]q\x04(");
        numbers(i).for_each(|n| p.extend([b'K', cifar_label(n)]));
        p.extend(b"eU\x04dataq\x05");
        p.extend(
            b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08",
        );
        p.extend(b"(K\x01"); // the state: version,
        p.extend([b'K', PER_FILE as u8, b'M', 0x00, 0x0c, 0x86]); // shape (n, 3072),
        p.extend(b"cnumpy\ndtype\nq\x09U\x02u1K\x00K\x01\x87Rq\x0a(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"); // type,
        p.push(0x89); // Fortran order,
        p.push(b'T'); // bytes
        p.extend((data.len() as u32).to_le_bytes());
        p.extend(&data);
        p.extend(b"tbu.");
        fs::write(dir.join(stem), p).unwrap();
    }
}

fn write_strips(dir: &Path) {
    for (i, stem) in STEMS.iter().enumerate() {
        let pixels: Vec<u8> = numbers(i).flat_map(|n| cifar_image(n).into_raw()).collect();
        RgbImage::from_raw(1024, PER_FILE, pixels).unwrap().save(dir.join(format!("{stem}.png"))).unwrap();
    }
    let labels = |files: std::ops::Range<usize>| {
        serde_json::to_vec(&files.flat_map(numbers).map(cifar_label).collect::<Vec<_>>()).unwrap()
    };
    fs::write(dir.join("train_lables.json"), labels(0..5)).unwrap();
    fs::write(dir.join("test_lables.json"), labels(5..6)).unwrap();
}

#[test]
fn cifar10_in_its_three_forms() {
    for (write, folder) in [
        (write_binary as fn(&Path), "cifar-10-batches-bin"),
        (write_pickle, "cifar-10-batches-py"),
        (write_strips, "package"),
        (write_strips, ""),
    ] {
        let dir = tempdir().unwrap();
        let inner = dir.path().join(folder);
        fs::create_dir_all(&inner).unwrap();
        write(&inner);
        let src = format!("cifar10:{}", text(dir.path()));
        let data = all(&src);
        assert_eq!(
            (data.len(), data.classes()[0].as_str(), data.classes()[9].as_str()),
            (18, "airplane", "truck")
        );
        for i in 0..18 {
            let sample = data.sample(i);
            let id = if i < 15 { format!("train/{i:05}") } else { format!("test/{:05}", i - 15) };
            assert_eq!((&sample.id, sample.label), (&id, Some(cifar_label(i as u32).into())), "{folder}");
            assert_eq!(data.image(i).unwrap(), cifar_image(i as u32), "{folder} {id}");
        }
        assert_eq!(all(&format!("{src}#test")).len(), 3);
        assert_eq!(all(&format!("{src}#train")).len(), 15);
    }
}

#[test]
fn cifar10_that_is_wrong() {
    let dir = tempdir().unwrap();
    let src = format!("cifar10:{}", text(dir.path()));
    assert!(error(&src).contains("expected CIFAR-10"));
    write_binary(dir.path());
    fs::write(dir.path().join("data_batch_3.bin"), [0; 3072]).unwrap();
    assert!(
        error(&src).contains("data_batch_3.bin: expected records of 3073 bytes, got 3072"),
        "{}",
        error(&src)
    );
    fs::write(dir.path().join("data_batch_3.bin"), [10; 3073]).unwrap();
    assert!(error(&src).contains("label 0: expected 0 … 9, got 10"), "{}", error(&src));
    fs::remove_file(dir.path().join("data_batch_3.bin")).unwrap();
    assert!(error(&src).contains("data_batch_3.bin"), "{}", error(&src));

    let dir = tempdir().unwrap();
    write_strips(dir.path());
    let src = format!("cifar10:{}", text(dir.path()));
    fs::write(dir.path().join("train_lables.json"), "[1,2,3,4]").unwrap();
    assert!(error(&src).contains("only 1 labels are left"), "{}", error(&src));
    fs::write(dir.path().join("train_lables.json"), "[1,2,\"x\"]").unwrap();
    assert!(error(&src).contains("expected a JSON list of labels"), "{}", error(&src));
    write_strips(dir.path());
    // Damage inside a strip shows when an image of it is wanted.
    let strip = dir.path().join("data_batch_2.png");
    let bytes = fs::read(&strip).unwrap();
    fs::write(&strip, &bytes[..bytes.len() / 2]).unwrap();
    let data = all(&src);
    assert!(data.image(0).is_ok());
    assert!(data.image(3).unwrap_err().to_string().starts_with("train/00003: png:"));
}

#[test]
fn a_pickle_runs_nothing() {
    let dir = tempdir().unwrap();
    write_pickle(dir.path());
    let proof = dir.path().join("proof");
    // What Python's loader would execute: os.system("touch …").
    let attack = format!("cos\nsystem\n(S'touch {}'\ntR.", text(&proof));
    fs::write(dir.path().join("data_batch_1"), attack).unwrap();
    let message = error(&format!("cifar10:{}", text(dir.path())));
    assert!(message.contains("data_batch_1: "), "{message}");
    assert!(!proof.exists());
    // Cut anywhere: an error, no panic.
    write_pickle(dir.path());
    let path = dir.path().join("data_batch_1");
    let whole = fs::read(&path).unwrap();
    for length in (0..400).chain(whole.len() - 5..whole.len()) {
        fs::write(&path, &whole[..length]).unwrap();
        error(&format!("cifar10:{}", text(dir.path())));
    }
}
