//! What the pretext tasks show and ask: targets decode back to the image; and bad input.

mod common;

use candle_core::{Device, Tensor};
use common::{SIDE, WHOLE, example, map, noise, prepare, resolve};
use image::{Rgb, RgbImage, imageops};
use selfsup_objectives::{Permutation, distant_permutations};
use selfsup_train::method::{Example, Prepare};
use selfsup_train::{MethodConfig, PretrainConfig, parse_setting};
use std::sync::Arc;

#[test]
fn a_rotated_image_turned_back_is_the_image() {
    let prepare = prepare("rotation", &[WHOLE]);
    let Example { views, targets } = example(prepare.as_ref(), &map(), 0);
    assert_eq!((views.len(), targets.len()), (4, 0), "the turn is the view's place");
    for (quarters, view) in views.iter().enumerate() {
        let back = (0..quarters).fold(view.clone(), |view, _| imageops::rotate270(&view));
        assert_eq!(back, map(), "{quarters}");
        assert_eq!(prepare.view_names()[quarters], format!("{}°", 90 * quarters));
    }
}

/// The places of two patches, read off their pixels, are those of the answer.
#[test]
fn a_neighbour_lies_on_the_side_that_the_answer_says() {
    let settings = [
        WHOLE,
        "method.patch=8",
        "method.gap=2",
        "method.jitter=1",
        "method.color=none",
        "method.downsample_p=0.0",
    ];
    let prepare = prepare("relative-patch", &settings);
    let mut seen = [0; 8];
    let mut places = vec![std::collections::BTreeSet::new(); 12];
    for sample in 0..8000 {
        let Example { views, targets } = example(prepare.as_ref(), &map(), sample);
        let corner = |patch: &RgbImage| [0, 1].map(|c| i32::from(patch.get_pixel(0, 0)[c]));
        let (first, second) = (corner(&views[0]), corner(&views[1]));
        for view in &views {
            assert_eq!(view.dimensions(), (8, 8));
            assert_eq!(view.get_pixel(7, 7)[0], view.get_pixel(0, 0)[0] + 7, "cut, not resized");
        }
        let step = [0, 1].map(|axis| second[axis] - first[axis]);
        // At 10 pixels each way, either off by one at most.
        let side = step.map(|d| (f64::from(d) / 10.0).round() as i32);
        assert!(step.iter().zip(side).all(|(d, s)| (d - 10 * s).abs() <= 2), "{step:?}");
        let place = 3 * (side[1] + 1) + side[0] + 1;
        let class = if place > 4 { place - 1 } else { place };
        assert_eq!(targets, [class as u32], "{step:?}");
        seen[class as usize] += 1;
        for (patch, corner) in [first, second].into_iter().enumerate() {
            for axis in 0..2 {
                places[6 * patch + 3 * axis + (side[axis] + 1) as usize].insert(corner[axis]);
            }
        }
    }
    // 1000 each on average, with a deviation of 30.
    assert!(seen.iter().all(|&n| (860..1140).contains(&n)), "{seen:?}");
    // The pair lies anywhere: along an axis either patch of two side by side has the places that leave room for the other, and all of
    // them beside one another.
    for (i, places) in places.iter().enumerate() {
        let wanted = match (i < 6, i % 3) {
            (_, 1) => 0..=24,
            (true, 0) | (false, 2) => 10..=24,
            _ => 0..=14,
        };
        assert!(wanted.clone().eq(places.iter().copied()), "{i}: {places:?}, not {wanted:?}");
    }
}

/// Of any size that a pair fits in, the defaults have a gap that jitter does not close.
#[test]
fn default_patches_do_not_touch() {
    for side in 22..=256 {
        let config = resolve("relative-patch", &[&format!("image_size={side}")]).unwrap();
        let MethodConfig::RelativePatch(c) = config.method else { panic!("another method") };
        assert!(c.gap > 2 * c.jitter && (2 * c.gap).abs_diff(c.patch) <= 1, "{side}: {c:?}");
    }
    assert!(resolve("relative-patch", &["image_size=21"]).unwrap_err().contains("image_size is 21"));
}

#[test]
fn a_jigsaw_put_together_is_the_image() {
    // Tiles as large as their cells: nothing is lost.
    let prepare = prepare("jigsaw", &[WHOLE, "method.tile=10"]);
    let orders = distant_permutations(64).unwrap();
    let mut labels = std::collections::BTreeSet::new();
    for sample in 0..300 {
        let Example { views, targets } = example(prepare.as_ref(), &map(), sample);
        let order: &Permutation = &orders[targets[0] as usize];
        labels.insert(targets[0]);
        let mut whole = RgbImage::new(30, 30);
        for (place, tile) in views.iter().enumerate() {
            let at = i64::from(order[place]);
            imageops::replace(&mut whole, tile, at % 3 * 10, at / 3 * 10);
        }
        let Rgb([left, top, _]) = *whole.get_pixel(0, 0);
        assert!(left <= 2 && top <= 2, "the grid lies in the image");
        assert_eq!(whole, imageops::crop_imm(&map(), left.into(), top.into(), 30, 30).to_image());
    }
    assert!(labels.len() > 55, "{}", labels.len());
}

/// The pictures of the answers: a neighbour lies on its side of the patch, tiles that are put together are in their places.
#[test]
fn answers_are_drawn_where_they_are() {
    let picture = |prepare: &dyn Prepare, example: &Example, name: &str| {
        let pictures = prepare.pictures(example).unwrap();
        pictures.into_iter().find(|(known, _)| *known == name).unwrap().1
    };
    let patches = prepare("relative-patch", &[WHOLE, "method.color=none", "method.downsample_p=0.0"]);
    let tiles = prepare("jigsaw", &[WHOLE]);
    for sample in 0..50 {
        let pair = example(patches.as_ref(), &map(), sample);
        let drawn = picture(patches.as_ref(), &pair, "its side");
        let corner = |view: &RgbImage, x, y| [0, 1].map(|c| i32::from(view.get_pixel(x, y)[c]));
        let (first, second) = (corner(&pair.views[0], 0, 0), corner(&pair.views[1], 0, 0));
        let [x, y] = [0, 1].map(|axis| (9 * (1 + (second[axis] - first[axis]).signum())) as u32);
        // Beside each other, the two may be off by their jitter.
        let [x, y] =
            [(x, 0), (y, 1)].map(|(at, axis)| if (second[axis] - first[axis]).abs() < 4 { 9 } else { at });
        assert_eq!(
            (drawn.dimensions(), corner(&drawn, 9, 9), corner(&drawn, x, y)),
            ((26, 26), first, second)
        );
        assert_eq!(drawn.pixels().filter(|p| p.0 == [255; 3]).count(), 26 * 26 - 2 * 64);

        let laid_out = example(tiles.as_ref(), &map(), sample);
        let whole = picture(tiles.as_ref(), &laid_out, "put together");
        for place in 0..9u32 {
            let [x, y] = corner(&whole, place % 3 * 9, place / 3 * 9);
            let [cell_x, cell_y] = [x / 10, y / 10].map(|cell| cell.min(2) as u32);
            assert_eq!([cell_x, cell_y], [place % 3, place / 3], "{x} {y}");
        }
        assert_eq!(
            picture(tiles.as_ref(), &laid_out, "tiles laid out").get_pixel(9, 0),
            laid_out.views[1].get_pixel(0, 0)
        );
    }
}

#[test]
fn tiles_lie_anywhere_in_their_cells() {
    let prepare = prepare("jigsaw", &[WHOLE]);
    let orders = distant_permutations(64).unwrap();
    let mut places = std::collections::BTreeSet::new();
    for sample in 0..400 {
        let Example { views, targets } = example(prepare.as_ref(), &map(), sample);
        let first = orders[targets[0] as usize].iter().position(|&t| t == 0).unwrap();
        let Rgb([x, y, _]) = *views[first].get_pixel(0, 0);
        assert_eq!(views[first].dimensions(), (8, 8));
        places.insert((x, y));
    }
    // Of 3×3 in the cell and 3×3 of the grid: 0 to 4 each way.
    assert_eq!(places.len(), 25);
}

#[test]
fn dropped_colours_are_faint_noise() {
    let settings = [WHOLE, "method.downsample_p=0.0", "method.color=drop"];
    let prepare = prepare("relative-patch", &settings);
    let mut kept = [0; 3];
    for sample in 0..120 {
        for view in example(prepare.as_ref(), &noise(sample), sample).views {
            let n = f64::from(view.width() * view.height());
            let deviations = [0, 1, 2].map(|c| {
                let mean = view.pixels().map(|p| f64::from(p[c])).sum::<f64>() / n;
                (view.pixels().map(|p| (f64::from(p[c]) - mean).powi(2)).sum::<f64>() / n).sqrt()
            });
            // White noise has a deviation of 74; a hundredth of that and the rounding are left.
            let wide: Vec<usize> = (0..3).filter(|&c| deviations[c] > 40.0).collect();
            assert_eq!(wide.len(), 1, "{deviations:?}");
            assert!(deviations.iter().filter(|d| **d < 1.2).count() == 2, "{deviations:?}");
            kept[wide[0]] += 1;
        }
    }
    assert!(kept.iter().all(|&n| n > 50), "{kept:?}");
}

#[test]
fn a_projected_patch_has_nothing_along_green_and_magenta() {
    let prepare = prepare("relative-patch", &[WHOLE, "method.downsample_p=0.0", "method.color=project"]);
    // Among them the brightest colours, whose projection lies outside of what levels hold.
    let bright = RgbImage::from_fn(SIDE, SIDE, |x, y| Rgb([x, y, x + y].map(|v| 255 * (v / 3 % 2) as u8)));
    for view in example(prepare.as_ref(), &bright, 1).views {
        for Rgb([r, g, b]) in view.pixels() {
            let along = 2.0 * f64::from(*g) - f64::from(*r) - f64::from(*b);
            assert!(along.abs() <= 2.0, "rounding alone: {along}");
        }
    }
}

#[test]
fn a_hole_is_where_the_mask_says() {
    for hole in ["center", "blocks", "region"] {
        let prepare = prepare("inpainting", &[WHOLE, &format!("method.hole={hole}")]);
        let Example { views, .. } = example(prepare.as_ref(), &map(), 3);
        assert_eq!(views[0], map());
        let missing = views[1].pixels().filter(|p| p.0 == [255; 3]).count();
        let share = missing as f64 / 1024.0;
        assert!((0.15..0.33).contains(&share), "{hole}: {share}");
    }
}

#[test]
fn settings_that_do_not_fit_are_errors_that_say_so() {
    let fails = |method: &str, setting: &str, part: &str| {
        let error = resolve(method, &[setting]).expect_err(setting);
        assert!(error.contains(part), "{method} {setting}: {error}");
    };
    fails("relative-patch", "method.patch=14", "image_size is 32");
    fails("relative-patch", "method.gap=1", "twice method.jitter");
    fails("relative-patch", "method.patch=3", "at least 4");
    fails("relative-patch", "method.downsample_p=1.5", "in 0…1");
    fails("relative-patch", "method.downsample_least=9", "1 to 8");
    fails("relative-patch", "method.hidden_dims=[0]", "hidden_dims");
    fails("relative-patch", "method.color=red", "red");
    fails("relative-patch", "method.gap=2147483648", "image_size is 32");
    fails("relative-patch", "method.jitter=2147483648", "image_size is 32");
    fails("jigsaw", "method.tile=11", "4 to 10");
    fails("jigsaw", "method.permutations=1", "2 to 362880");
    fails("jigsaw", "method.hidden_dim=0", "hidden_dim");
    fails("inpainting", "method.hole=square", "square");
    fails("inpainting", "method.overlap=8", "half of the hole's side of 16");
    let odd = resolve("inpainting", &["image_size=33", "method.overlap=8"]).unwrap_err();
    assert!(odd.contains("half of the hole's side of 16"), "{odd}");
    let small = resolve("jigsaw", &["image_size=11"]).unwrap_err();
    assert!(small.contains("image_size must be at least 12"), "{small}");
    for (method, setting) in [("jigsaw", "method.tile=9"), ("relative-patch", "method.patch=6")] {
        let error = resolve(method, &["arch=vit-mini-cifar", setting]).unwrap_err();
        let name = setting.split('=').next().unwrap();
        assert!(error.contains(name) && error.contains("patches of 4"), "{error}");
    }
    fails("inpainting", "method.adversarial=1.0", "[0, 1)");
    fails("inpainting", "method.overlap_weight=0.0", "positive");
    fails("colorization", "method.uniform=0.0", "(0, 1]");
    fails("colorization", "method.temperature=0.0001", "at least 0.001");
    fails("rotation", "method.augmentation=[{name=\"center_crop\", size=16}]", "16 pixels");
}

#[test]
fn a_permutation_file_must_have_as_many_orders_as_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.txt");
    let file = format!("method.permutation_file={:?}", path.display().to_string());
    let with = |text: &str| {
        std::fs::write(&path, text).unwrap();
        resolve("jigsaw", &[&file, "method.permutations=2"])
    };
    with("0 1 2 3 4 5 6 7 8\n8,7,6,5,4,3,2,1,0\n\n").unwrap();
    for (text, part) in [
        ("0 1 2 3 4 5 6 7 8\n", "1 orders, method.permutations is 2"),
        ("0 1 2 3 4 5 6 7 8\n0 1 2 3 4 5 6 7 8\n", "line 2 repeats"),
        ("0 1 2 3 4 5 6 7 9\n", "line 1 must be the numbers 0 to 8"),
        ("0 1 2 3 4 5 6 7\n", "line 1 must be"),
        ("300 0 1 2 3 4 5 6 7 8\n", "line 1 must be"),
        ("-1 0 1 2 3 4 5 6 7 8\n", "line 1 must be"),
        ("row 0 1 2 3 4 5 6 7 8\n", "line 1 must be"),
    ] {
        let error = with(text).expect_err(text);
        assert!(error.contains(part) && error.contains("orders.txt"), "{error}");
    }
    // A configuration that began with one file does not go on with another.
    let config = with("0 1 2 3 4 5 6 7 8\n8 7 6 5 4 3 2 1 0\n").unwrap();
    config.validate().unwrap();
    std::fs::write(&path, "0 1 2 3 4 5 6 7 8\n8 7 6 5 4 3 2 0 1\n").unwrap();
    let error = config.validate().unwrap_err().to_string();
    assert!(error.contains("not the file that the run began with"), "{error}");
    for (count, text) in [(0, ""), (1, "0 1 2 3 4 5 6 7 8\n")] {
        std::fs::write(&path, text).unwrap();
        let error = resolve("jigsaw", &[&file, &format!("method.permutations={count}")]).unwrap_err();
        assert!(error.contains("2 to 362880"), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(resolve("jigsaw", &[&file]).unwrap_err().contains("orders.txt"));
}

#[test]
fn gray_images_cannot_teach_colours() {
    let config = PretrainConfig::resolve("colorization", &[parse_setting("steps=2").unwrap()]).unwrap();
    let options = selfsup_data::OpenOptions::default();
    let data = selfsup_data::open("fashion-mnist#train", &options).unwrap();
    let some = Arc::new(data.subset(&(0..600).collect::<Vec<_>>()));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let error = selfsup_train::Trainer::create(config, some, &out).err().expect("gray").to_string();
    assert!(error.contains("coloured images") && error.contains("100.0 %"), "{error}");
    assert!(!out.exists(), "nothing is written");
}

#[test]
fn what_a_model_makes_of_images_can_be_looked_at() {
    for (name, expected) in [
        ("inpainting", vec!["input", "completion", "truth"]),
        ("colorization", vec!["lightness", "predicted", "truth"]),
    ] {
        let config = resolve(name, &[]).unwrap();
        let method = config.method.build(config.encoder(&Device::Cpu).unwrap(), 0).unwrap();
        let example = example(method.prepare().as_ref(), &noise(1), 0);
        let batch = selfsup_train::method::collate(std::slice::from_ref(&example), &Device::Cpu).unwrap();
        let pictures = method.pictures(&batch).unwrap();
        assert_eq!(pictures.iter().map(|(name, _)| *name).collect::<Vec<_>>(), expected);
        let bytes = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        assert_eq!(bytes(&pictures[2].1), *example.views[0].as_raw());
        if let MethodConfig::Inpainting(_) = config.method {
            // Outside the hole the completion is the image.
            let (completed, truth, hole) = (bytes(&pictures[1].1), bytes(&pictures[2].1), &example.views[1]);
            for ((c, t), h) in completed.iter().zip(&truth).zip(hole.as_raw()) {
                assert!(*h == 255 || c == t);
            }
        }
    }
}

/// Tiles, patches and local crops count by their area.
#[test]
fn methods_say_how_much_of_an_image_a_step_takes() {
    for (method, settings, views) in [
        ("rotation", vec![], 4.0),
        ("inpainting", vec![], 1.0),
        ("colorization", vec![], 1.0),
        ("simclr", vec![], 2.0),
        ("moco-v2", vec!["method.bn_groups=1"], 2.0),
        ("dino", vec!["arch=vit-mini-cifar", "method.local_views=6"], 2.0 + 6.0 / 4.0),
        ("jigsaw", vec!["method.tile=8"], 9.0 / 16.0),
        ("relative-patch", vec!["method.patch=8", "method.gap=2"], 1.0 / 8.0),
    ] {
        let config = resolve(method, &settings).unwrap();
        assert_eq!((config.image_size, config.method.views(32)), (32, views), "{method}");
    }
}
