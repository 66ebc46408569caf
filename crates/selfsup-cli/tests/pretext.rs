//! The commands round the pretext tasks: layers, pictures of a run's model, colours for one's own images, permutations.

mod common;

use common::run;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn fails(folder: &Path, args: &[&str], part: &str) {
    let (status, _, stderr) = run(folder, args);
    assert_eq!(status, 2, "{args:?}: {stderr}");
    assert!(stderr.contains(part), "{args:?}: {stderr}");
}

/// A picture with colours, of a size that no network has.
fn picture(path: &Path, shift: u32) {
    let image = image::RgbImage::from_fn(45, 30, |x, y| {
        image::Rgb([(x * 5 + shift) as u8, (y * 8) as u8, (255 - x * 3 - shift % 100) as u8])
    });
    image.save(path).unwrap();
}

/// Forty pictures in `photos`, and a short run on them.
fn trained(folder: &Path, method: &str) {
    fs::create_dir_all(folder.join("photos")).unwrap();
    for i in 0..40 {
        picture(&folder.join(format!("photos/{i:02}.png")), 6 * i);
    }
    let small =
        ["--image-size", "16", "--batch-size", "8", "--arch", "resnet10-mini", "--quiet", "--no-probe"];
    let mut args = vec!["pretrain", method, "--data", "photos", "--steps", "3", "--out", "run"];
    args.extend(small);
    let (status, _, stderr) = run(folder, &args);
    assert_eq!(status, 0, "{stderr}");
}

#[test]
fn images_are_coloured_at_full_size_and_keep_their_lightness() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    trained(d, "colorization");
    fs::create_dir_all(d.join("mine/inner")).unwrap();
    picture(&d.join("mine/a.png"), 3);
    picture(&d.join("mine/inner/b.png"), 9);
    picture(&d.join("c.png"), 20);
    let (status, stdout, stderr) = run(d, &["colorize", "run", "c.png", "mine", "--out", "out", "--quiet"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("3 images coloured in out"), "{stdout}");
    for (from, to) in
        [("c.png", "out/c.png"), ("mine/a.png", "out/a.png"), ("mine/inner/b.png", "out/inner/b.png")]
    {
        let open = |path: &str| image::open(d.join(path)).unwrap().into_rgb8();
        let (truth, coloured) = (open(from), open(to));
        assert_eq!(coloured.dimensions(), (45, 30));
        // Lightness by its formula's main part, luminance: alike but where colours are cut off at the gamut's border.
        let light = |p: &image::Rgb<u8>| {
            let linear = |v: u8| (f64::from(v) / 255.0).powf(2.2);
            0.2126 * linear(p[0]) + 0.7152 * linear(p[1]) + 0.0722 * linear(p[2])
        };
        let near = truth.pixels().zip(coloured.pixels()).filter(|(a, b)| (light(a) - light(b)).abs() < 0.03);
        assert!(near.count() > 1000, "of 1350 pixels");
    }
    // A file that is no image is named, the rest is coloured, and the status says so.
    fs::write(d.join("text.png"), "not an image").unwrap();
    let (status, stdout, stderr) = run(d, &["colorize", "run", "text.png", "c.png", "--out", "out2"]);
    assert_eq!(status, 1);
    assert!(
        stdout.contains("1 images") && stderr.contains("skipped text.png") && d.join("out2/c.png").exists(),
        "{stderr}"
    );
    fs::create_dir(d.join("broken")).unwrap();
    fs::write(d.join("broken/no.png"), "not an image").unwrap();
    picture(&d.join("broken/yes.png"), 1);
    let (_, _, stderr) = run(d, &["colorize", "run", "broken", "--out", "out2", "--quiet"]);
    assert_eq!(stderr.matches("no.png").count(), 1, "said once: {stderr}");
    fails(d, &["colorize", "run", "c.png", "--out", "c.png/out"], "cannot make");
    fails(d, &["permutations", "--out", "nowhere/orders.txt"], "nowhere is no folder");
    fails(d, &["colorize", "run", "nothing.png", "--out", "out3"], "nothing.png");
    fails(d, &["colorize", "run", "c.png", "./c.png", "--out", "out3"], "two of the images");
    fails(d, &["colorize", "photos", "c.png", "--out", "out3"], "config.toml");
    fails(d, &["colorize", "run", "c.png", "--out", "out3", "--temperature", "0"], "temperature");
    assert!(!d.join("out3").exists());
}

#[test]
fn a_run_s_pictures_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    trained(d, "inpainting");
    let (status, stdout, stderr) =
        run(d, &["show", "inpainting", "--run", "run", "--images", "2", "--draws", "1", "--out", "show.png"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("image, hole, input, completion, truth"), "{stdout}");
    let (width, height) = image::image_dimensions(d.join("show.png")).unwrap();
    assert_eq!((width / 100, height / 100), (6, 2), "{width}×{height}: six columns, two rows");
    fails(d, &["show", "rotation", "--run", "run", "--out", "show.png"], "a run of inpainting");
    fails(d, &["colorize", "run", "show.png", "--out", "out"], "a run of inpainting");
}

/// Without a run, what is to be found out: the neighbour's side, the tiles put together, the colours.
#[test]
fn tasks_are_shown_with_their_answers() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    fs::create_dir(d.join("images")).unwrap();
    picture(&d.join("images/a.png"), 0);
    for (method, names, pictures) in [
        ("rotation", "0°, 90°, 180°, 270°", 4),
        ("relative-patch", "patch, neighbour, its side", 3),
        ("jigsaw", "tiles laid out, put together", 2),
        ("inpainting", "image, hole", 2),
        ("colorization", "lightness, image", 2),
    ] {
        let args =
            ["show", method, "--data", "images", "--image-size", "24", "--draws", "3", "--out", "v.png"];
        let (status, stdout, stderr) = run(d, &args);
        assert_eq!(status, 0, "{method}: {stderr}");
        assert!(
            stdout.ends_with(&format!("1 rows; columns: the image, then 3 draws of {names}\n")),
            "{stdout}"
        );
        let (width, height) = image::image_dimensions(d.join("v.png")).unwrap();
        // Cells of 96 with 4 beside each, and 12 before each draw.
        assert_eq!((width, height), (4 + (1 + 3 * pictures) * 100 + 36, 104), "{method}");
    }
}

#[test]
fn layers_are_probed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for (class, channel) in [("red", 0), ("blue", 2)] {
        fs::create_dir_all(d.join("colours").join(class)).unwrap();
        for i in 0..20u8 {
            let mut pixel = [40 + 3 * i; 3];
            pixel[channel] = 220;
            let path = d.join("colours").join(class).join(format!("{i}.png"));
            image::RgbImage::from_pixel(12, 12, image::Rgb(pixel)).save(path).unwrap();
        }
    }
    let probe = |layer: &'static str| {
        let common =
            ["probe", "random:resnet10-mini", "--data", "colours", "--image-size", "12", "--quiet", "--json"];
        run(d, &[&common[..], &["--kind", "knn", "--layer", layer]].concat())
    };
    let (status, stdout, stderr) = probe("layer3,stem");
    assert_eq!(status, 0, "{stderr}");
    let json: Value = serde_json::from_str(&stdout).unwrap();
    let layers: Vec<&str> =
        json["results"].as_array().unwrap().iter().map(|r| r["layer"].as_str().unwrap()).collect();
    assert_eq!(layers, ["stem", "layer3"]);
    let (_, stdout, _) = probe("all");
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(json["results"].as_array().unwrap().len(), 5);
    let (status, _, stderr) = probe("layer7");
    assert_eq!(status, 2);
    assert!(stderr.contains("there is no layer `layer7`") && stderr.contains("layer4.0"), "{stderr}");
    fails(d, &["probe", "pixels", "--data", "colours", "--layer", "stem"], "pixels have no layers");
    let tune =
        ["probe", "random:resnet10-mini", "--data", "colours", "--kind", "finetune", "--layer", "stem"];
    fails(d, &tune, "fine-tuning trains all layers");
}

/// What is built in is what the command prints, and a run takes it as a file.
#[test]
fn permutations_are_printed() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let (status, stdout, _) = run(d, &["permutations", "--count", "12"]);
    assert_eq!(status, 0);
    let orders: Vec<Vec<usize>> =
        stdout.lines().map(|l| l.split(' ').map(|n| n.parse().unwrap()).collect()).collect();
    assert_eq!(orders.len(), 12);
    for (i, a) in orders.iter().enumerate() {
        let mut sorted = a.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..9).collect::<Vec<_>>());
        for b in &orders[..i] {
            let differ = a.iter().zip(b).filter(|(a, b)| a != b).count();
            assert!(differ >= if i < 9 { 9 } else { 8 }, "{a:?} and {b:?}");
        }
    }
    let (status, _, _) = run(d, &["permutations", "--count", "12", "--out", "orders.txt"]);
    assert_eq!((status, fs::read_to_string(d.join("orders.txt")).unwrap()), (0, stdout));
    let plan = ["pretrain", "jigsaw", "--dry-run", "--set", "method.permutation_file=orders.txt", "--set"];
    let (status, _, stderr) = run(d, &[&plan[..], &["method.permutations=12"]].concat());
    assert_eq!(status, 0, "{stderr}");
    fails(d, &[&plan[..], &["method.permutations=64"]].concat(), "12 orders");
    fails(d, &["permutations", "--count", "1"], "2 to 362880");
}

/// A run keeps the orders that it began with: neither the file that they came from nor the run's own place is needed to go on.
#[test]
fn a_run_keeps_its_orders() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    common::colours(&d.join("images"), ["a", "b"], 8, (32, 32));
    assert_eq!(run(d, &["permutations", "--count", "12", "--out", "mine.txt"]).0, 0);
    let orders = ["--set", "method.permutation_file=mine.txt", "--set", "method.permutations=12"];
    common::pretrain_a_step(d, ["jigsaw", "images", "a"], &orders);
    fs::rename(d.join("mine.txt"), d.join("copy.txt")).unwrap();
    fs::create_dir(d.join("elsewhere")).unwrap();
    fs::rename(d.join("a"), d.join("elsewhere/b")).unwrap();
    let again = ["pretrain", "jigsaw", "--no-probe", "--quiet"];
    for more in [
        &["--resume", "elsewhere/b", "--steps", "2"][..],
        &["--resume", "elsewhere/b", "--steps", "3", "--set", "method.permutation_file=copy.txt"],
        &["--config", "elsewhere/b/config.toml", "--steps", "1", "--out", "c"],
    ] {
        let (status, _, stderr) = run(d, &[&again[..], more].concat());
        assert_eq!(status, 0, "{more:?}: {stderr}");
    }
    let same = |a: &str, b: &str| fs::read(d.join(a)).unwrap() == fs::read(d.join(b)).unwrap();
    assert!(same("copy.txt", "elsewhere/b/permutations.txt") && same("copy.txt", "c/permutations.txt"));
    let show = ["show", "jigsaw", "--run", "elsewhere/b", "--out", "v.png"];
    assert_eq!(run(d, &show).0, 0);
    // Others are refused.
    assert_eq!(run(d, &["permutations", "--count", "13", "--out", "more.txt"]).0, 0);
    let text = fs::read_to_string(d.join("more.txt")).unwrap();
    let other: String = text.lines().skip(1).map(|line| line.to_owned() + "\n").collect();
    fs::write(d.join("other.txt"), other).unwrap();
    let more = ["--resume", "elsewhere/b", "--set", "method.permutation_file=other.txt"];
    fails(d, &[&again[..], &more].concat(), "not the file that the run began with");
}
