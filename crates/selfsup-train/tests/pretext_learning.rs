//! Short runs of the pretext tasks learn them: the score at the end is above what a guess has.

use selfsup_data::{Dataset, OpenOptions, Part, open};
use selfsup_train::metrics::Record;
use selfsup_train::{PretrainConfig, Trainer, metrics, parse_setting};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The records of a run on a tenth of the shipped images.
fn train(method: &str, data: Arc<Dataset>, settings: &[&str]) -> Vec<Record> {
    let folder = tempfile::tempdir().unwrap();
    let common =
        ["arch=resnet10-mini", "image_size=28", "batch_size=32", "log_every_steps=1", "optimizer.lr=0.003"];
    let layers: Vec<_> = common.iter().chain(settings).map(|s| parse_setting(s).unwrap()).collect();
    let config = PretrainConfig::resolve(method, &layers).unwrap();
    let path = folder.path().join("run");
    Trainer::create(config, data, &path).unwrap().run(&AtomicBool::new(false), &mut |_| {}).unwrap();
    metrics::read(&path.join("metrics.jsonl")).unwrap()
}

fn fashion() -> Arc<Dataset> {
    let options = OpenOptions { part: Part::Train, ..OpenOptions::default() };
    Arc::new(open("fashion-mnist", &options).unwrap())
}

/// A value's mean over the last tenth of the records.
fn end(records: &[Record], name: &str) -> f64 {
    let last = &records[records.len() - records.len() / 10..];
    last.iter().map(|record| record.more[name]).sum::<f64>() / last.len() as f64
}

fn first(records: &[Record], name: &str) -> f64 {
    records[0].more[name]
}

#[test]
fn turns_are_told() {
    let records = train("rotation", fashion(), &["steps=120"]);
    let share = end(&records, "rotation_top1");
    assert!(share > 0.6, "{share}, a guess has 0.25");
}

#[test]
fn sides_are_told() {
    let records = train("relative-patch", fashion(), &["steps=200", "batch_size=64"]);
    let share = end(&records, "side_top1");
    assert!(share > 0.35, "{share}, a guess has 0.125");
}

#[test]
fn orders_are_told() {
    let records = train("jigsaw", fashion(), &["steps=200", "method.permutations=16"]);
    let share = end(&records, "permutation_top1");
    assert!(share > 0.5, "{share}, a guess has 0.0625");
}

#[test]
fn holes_are_filled() {
    let records = train("inpainting", fashion(), &["steps=120"]);
    let (before, after) = (first(&records, "psnr"), end(&records, "psnr"));
    assert!(after > before + 3.0, "{before} dB, then {after}");
}

/// Discs on a ground: bright ones are red and dark ones blue, so that the lightness tells the colour.
fn discs(folder: &Path) -> Arc<Dataset> {
    for i in 0..256u32 {
        let (bright, x0, y0) = (i % 2 == 0, 7 + i * 5 % 14, 7 + i * 11 % 14);
        let image = image::RgbImage::from_fn(28, 28, |x, y| {
            let noise = ((x * 31 + y * 17 + i * 7) % 13) as u8;
            let inside = x.abs_diff(x0).pow(2) + y.abs_diff(y0).pow(2) < 36;
            image::Rgb(match (inside, bright) {
                (true, true) => [240, 120 + noise, 100],
                (true, false) => [20, 30 + noise, 130],
                _ => [128 + noise; 3],
            })
        });
        image.save(folder.join(format!("{i:03}.png"))).unwrap();
    }
    Arc::new(open(folder.to_str().unwrap(), &OpenOptions::default()).unwrap())
}

#[test]
fn colours_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let records = train("colorization", discs(folder.path()), &["steps=120"]);
    let (before, after) = (first(&records, "ab_error"), end(&records, "ab_error"));
    assert!(after < 0.5 * before, "{before}, then {after}");
}
