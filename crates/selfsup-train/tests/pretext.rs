//! What the pretext tasks show and ask: that targets decode back to the image, that nothing but understanding helps, and bad input.

use candle_core::{Device, Tensor};
use image::{Rgb, RgbImage, imageops};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use selfsup_data::sample_rng;
use selfsup_objectives::{Permutation, distant_permutations};
use selfsup_train::method::{Example, Prepare, Progress};
use selfsup_train::{MethodConfig, PretrainConfig, parse_setting};
use std::sync::Arc;

const SIDE: u32 = 32;
/// Leaves a 32-pixel image as it is.
const WHOLE: &str = r#"method.augmentation=[{name="center_crop", size=32}]"#;

fn resolve(method: &str, settings: &[&str]) -> Result<PretrainConfig, String> {
    let all = ["image_size=32", "batch_size=8", "arch=resnet10-mini"].iter().chain(settings);
    let layers: Vec<_> = all.map(|s| parse_setting(s).unwrap()).collect();
    PretrainConfig::resolve(method, &layers).map_err(|e| e.to_string())
}

fn prepare(method: &str, settings: &[&str]) -> Arc<dyn Prepare> {
    resolve(method, settings).unwrap().method.prepare().unwrap()
}

fn example(prepare: &dyn Prepare, image: &RgbImage, sample: u64) -> Example {
    prepare.prepare(image, &|view| sample_rng(0, 0, sample, view)).unwrap()
}

/// Every pixel its own place: red the column, green the row.
fn map() -> RgbImage {
    RgbImage::from_fn(SIDE, SIDE, |x, y| Rgb([x as u8, y as u8, 128]))
}

/// Independent levels, without any direction.
fn noise(seed: u64) -> RgbImage {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    RgbImage::from_fn(SIDE, SIDE, |_, _| Rgb([rng.random(), rng.random(), rng.random()]))
}

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
    let mut places = std::collections::BTreeSet::new();
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
        places.insert((targets[0], first));
    }
    // 1000 each on average, with a deviation of 30.
    assert!(seen.iter().all(|&n| (860..1140).contains(&n)), "{seen:?}");
    // The first patch's place says nothing: each answer comes with each of its 5×5 places.
    assert_eq!(places.len(), 8 * 25, "{places:?}");
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

/// The best that a linear rule can do on pixels, by ridge regression to the classes, on examples that it was not fitted on.
fn linear_rule(examples: &[(Vec<f64>, usize)], classes: usize) -> f64 {
    let (fit, test) = examples.split_at(examples.len() * 3 / 4);
    let d = fit[0].0.len() + 1;
    let row = |x: &[f64]| -> Vec<f64> { x.iter().copied().chain([1.0]).collect() };
    let mut gram = vec![0f64; d * d];
    let mut moments = vec![0f64; d * classes];
    for (x, label) in fit {
        let x = row(x);
        for i in 0..d {
            for j in 0..d {
                gram[i * d + j] += x[i] * x[j];
            }
            moments[i * classes + label] += x[i];
        }
    }
    (0..d).for_each(|i| gram[i * d + i] += 1e-2 * fit.len() as f64);
    let weights = solve(gram, moments, d, classes);
    let right = test.iter().filter(|(x, label)| {
        let x = row(x);
        let score = |c: usize| (0..d).map(|i| x[i] * weights[i * classes + c]).sum::<f64>();
        (0..classes).max_by(|&a, &b| score(a).total_cmp(&score(b))) == Some(*label)
    });
    right.count() as f64 / test.len() as f64
}

/// Gauss's elimination; the matrix is positive definite.
fn solve(mut a: Vec<f64>, mut b: Vec<f64>, d: usize, k: usize) -> Vec<f64> {
    for p in 0..d {
        for i in p + 1..d {
            let factor = a[i * d + p] / a[p * d + p];
            (p..d).for_each(|j| a[i * d + j] -= factor * a[p * d + j]);
            (0..k).for_each(|j| b[i * k + j] -= factor * b[p * k + j]);
        }
    }
    for p in (0..d).rev() {
        for j in 0..k {
            let rest: f64 = (p + 1..d).map(|i| a[p * d + i] * b[i * k + j]).sum();
            b[p * k + j] = (b[p * k + j] - rest) / a[p * d + p];
        }
    }
    b
}

/// Pixels −1…1, a few of them.
fn pixels<'a>(
    image: &'a RgbImage,
    places: impl Iterator<Item = (u32, u32)> + 'a,
) -> impl Iterator<Item = f64> + 'a {
    places.flat_map(|(x, y)| image.get_pixel(x, y).0).map(|v| f64::from(v) / 127.5 - 1.0)
}

fn border(side: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..side).flat_map(move |i| [(i, 0), (i, side - 1), (0, i), (side - 1, i)])
}

/// Chance, and four standard deviations of its share among n.
fn assert_chance(share: f64, classes: usize, n: usize, what: &str) {
    let chance = 1.0 / classes as f64;
    let deviation = (chance * (1.0 - chance) / n as f64).sqrt();
    assert!((share - chance).abs() < 4.0 * deviation, "{what}: {share}, chance {chance}");
}

/// How rough an image is along its columns and rows, and along and across each of its four borders: what interpolation, filling or a
/// skewed cut would change.
fn roughness(image: &RgbImage) -> Vec<f64> {
    let last = image.width() - 1;
    let level = |(x, y): (u32, u32)| f64::from(image.get_pixel(x, y)[1]) / 255.0;
    let between = |pairs: &mut dyn Iterator<Item = ((u32, u32), (u32, u32))>| {
        let (sum, n) =
            pairs.fold((0.0, 0.0), |(sum, n), (a, b)| (sum + (level(a) - level(b)).powi(2), n + 1.0));
        sum / n
    };
    let all = || (0..last).flat_map(move |x| (0..last).map(move |y| (x, y)));
    let mut out = vec![
        between(&mut all().map(|(x, y)| ((x, y), (x + 1, y)))),
        between(&mut all().map(|(x, y)| ((x, y), (x, y + 1)))),
    ];
    for (outer, inner) in [(0, 1), (last, last - 1)] {
        out.push(between(&mut (0..last).map(|i| ((outer, i), (inner, i)))));
        out.push(between(&mut (0..last).map(|i| ((i, outer), (i, inner)))));
        out.push(between(&mut (0..last).map(|i| ((outer, i), (outer, i + 1)))));
        out.push(between(&mut (0..last).map(|i| ((i, outer), (i + 1, outer)))));
    }
    out
}

/// Of images without direction neither borders nor roughness tell a turn: nothing is interpolated, filled or cut askew. A turn that
/// interpolates is told.
#[test]
fn borders_do_not_tell_the_turn() {
    // A crop is resized before it is turned, which must not show either.
    let prepare = prepare("rotation", &[]);
    let (mut levels, mut rough, mut blurred) = (Vec::new(), Vec::new(), Vec::new());
    for sample in 0..600 {
        let views = example(prepare.as_ref(), &noise(sample), sample).views;
        // Two turns in four of each image, so that none is beside itself.
        for turn in [sample as usize % 4, (sample as usize + 2) % 4] {
            let view = &views[turn];
            levels.push((pixels(view, border(SIDE).step_by(4)).collect(), turn));
            rough.push((roughness(view).into_iter().map(|r| 10.0 * r).collect(), turn));
            // Each turn but the first as if resampled a little off the pixels.
            let mut off = view.clone();
            if turn > 0 {
                let [dx, dy] = [turn as u32 % 2, turn as u32 / 2];
                for (x, y) in (0..SIDE - 1).flat_map(|x| (0..SIDE - 1).map(move |y| (x, y))) {
                    let beside = view.get_pixel(x + dx, y + dy)[1];
                    off.get_pixel_mut(x, y)[1] =
                        ((2 * u16::from(view.get_pixel(x, y)[1]) + u16::from(beside)) / 3) as u8;
                }
            }
            blurred.push((roughness(&off).into_iter().map(|r| 10.0 * r).collect(), turn));
        }
    }
    assert_chance(linear_rule(&levels, 4), 4, levels.len() / 4, "borders");
    assert_chance(linear_rule(&rough, 4), 4, rough.len() / 4, "roughness");
    let told = linear_rule(&blurred, 4);
    assert!(told > 0.5, "the test would see it: {told}");
}

/// By how much red is shifted against green in a patch, at most a pixel or so: least squares of red − green on green's slopes.
fn shift(patch: &RgbImage) -> [f64; 2] {
    let at = |x: u32, y: u32, c: usize| f64::from(patch.get_pixel(x, y)[c]);
    let (mut xx, mut xy, mut yy, mut xd, mut yd) = (1.0, 0.0, 1.0, 0.0, 0.0);
    for y in 1..patch.height() - 1 {
        for x in 1..patch.width() - 1 {
            let (gx, gy) =
                ((at(x + 1, y, 1) - at(x - 1, y, 1)) / 2.0, (at(x, y + 1, 1) - at(x, y - 1, 1)) / 2.0);
            let d = at(x, y, 0) - at(x, y, 1);
            (xx, xy, yy) = (xx + gx * gx, xy + gx * gy, yy + gy * gy);
            (xd, yd) = (xd + gx * d, yd + gy * d);
        }
    }
    let determinant = xx * yy - xy * xy;
    [(yy * xd - xy * yd) / determinant, (xx * yd - xy * xd) / determinant].map(|v| v.clamp(-2.0, 2.0))
}

/// A lens that enlarges red by some percent against green: how far they are apart tells a patch's place in the image, and so, of two
/// patches, on which side the second lies. A linear rule on these shifts alone tells it without the guard, and nothing with it.
#[test]
fn the_guard_takes_the_chromatic_shortcut() {
    const SAMPLES: u64 = 1600;
    let share = |color: &str| {
        let settings = ["method.color=".to_owned() + color, "method.downsample_p=0.0".into(), WHOLE.into()];
        let prepare = prepare("relative-patch", &settings.each_ref().map(|s| &s[..]));
        let mut examples = Vec::new();
        for sample in 0..SAMPLES {
            let mut rng = ChaCha8Rng::seed_from_u64(sample);
            let waves: Vec<[f64; 3]> = (0..6)
                .map(|_| {
                    [rng.random_range(-0.7..0.7), rng.random_range(-0.7..0.7), rng.random_range(0.0..6.3)]
                })
                .collect();
            let texture = |u: f64, v: f64| {
                let sum: f64 = waves.iter().map(|[a, b, phase]| (a * u + b * v + phase).cos()).sum();
                (128.0 + 20.0 * sum).round() as u8
            };
            let image = RgbImage::from_fn(SIDE, SIDE, |x, y| {
                let (u, v) = (f64::from(x) - 15.5, f64::from(y) - 15.5);
                Rgb([texture(1.06 * u, 1.06 * v), texture(u, v), texture(u, v)])
            });
            let Example { views, targets } = example(prepare.as_ref(), &image, sample);
            let features = views.iter().flat_map(shift).collect();
            examples.push((features, targets[0] as usize));
        }
        linear_rule(&examples, 8)
    };
    let open = share("none");
    assert!(open > 0.4, "the test shows the shortcut: {open}");
    assert_chance(share("drop"), 8, SAMPLES as usize / 4, "dropped colours");
}

/// A tile's own mean and deviation go: a shading over the image tells no place.
#[test]
fn shading_does_not_tell_a_tile() {
    let method = resolve("jigsaw", &[WHOLE]).unwrap();
    let prepare = method.method.prepare().unwrap();
    let orders = distant_permutations(64).unwrap();
    let mut shares = [Vec::new(), Vec::new()];
    for sample in 0..400 {
        let mut rng = ChaCha8Rng::seed_from_u64(sample);
        let image = RgbImage::from_fn(SIDE, SIDE, |x, y| {
            let noise: f64 = rng.random_range(-20.0..20.0);
            Rgb([(60.0 + 2.0 * f64::from(x) + 2.0 * f64::from(y) + noise) as u8; 3])
        });
        let Example { views, targets } = example(prepare.as_ref(), &image, sample);
        let order = orders[targets[0] as usize];
        let place = sample as usize % 9;
        let tile = &views[place];
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let raw: Vec<f64> = tile.pixels().map(|p| f64::from(p[0]) / 64.0).collect();
        // As the network sees it.
        let t = Tensor::from_vec(tile.as_raw().clone(), (1, 8, 8, 3), &Device::Cpu).unwrap();
        let seen = selfsup_train::method::normalize_each(&t).unwrap();
        let seen: Vec<f64> =
            seen.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect();
        let of = |v: &[f64]| {
            let m = mean(v);
            vec![m, mean(&v.iter().map(|x| (x - m).powi(2)).collect::<Vec<_>>())]
        };
        shares[0].push((of(&raw), order[place] as usize));
        shares[1].push((of(&seen), order[place] as usize));
    }
    let n = shares[0].len() / 4;
    assert!(linear_rule(&shares[0], 9) > 0.2, "the test shows the shortcut");
    assert_chance(linear_rule(&shares[1], 9), 9, n, "shading");
}

#[test]
fn settings_that_do_not_fit_are_errors_that_say_so() {
    let fails = |method: &str, setting: &str, part: &str| {
        let error = resolve(method, &[setting]).expect_err(setting);
        assert!(error.contains(part), "{method} {setting}: {error}");
    };
    fails("relative-patch", "method.patch=12", "image_size is 32");
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

/// A step of a fresh model on two images: the features, and what it would log.
fn stepped(
    config: &PretrainConfig,
    views: Vec<Tensor>,
    steps: u64,
) -> (Vec<f32>, Vec<(&'static str, f64)>, f64) {
    let mut method = config.method.build(config.encoder(&Device::Cpu).unwrap(), 0).unwrap();
    let batch = views.into();
    let mut out = None;
    for step in 0..steps {
        out = Some(method.step(&batch, Progress { step, total: steps, lr: 0.01 }).unwrap());
    }
    let out = out.unwrap();
    let loss = f64::from(out.loss.to_scalar::<f32>().unwrap());
    (out.embeddings.flatten_all().unwrap().to_vec1().unwrap(), (out.metrics)().unwrap(), loss)
}

fn stack(images: &[RgbImage]) -> Tensor {
    let pixels: Vec<u8> = images.iter().flat_map(|image| image.as_raw().clone()).collect();
    Tensor::from_vec(pixels, (images.len(), SIDE as usize, SIDE as usize, 3), &Device::Cpu).unwrap()
}

/// Two batches that differ in the hole alone have the same features, in training as in the pictures; a pixel outside it changes them.
#[test]
fn the_encoder_does_not_see_what_is_missing() {
    for hole in ["center", "blocks", "region"] {
        let config = resolve("inpainting", &[WHOLE, &format!("method.hole={hole}")]).unwrap();
        let mask = example(config.method.prepare().unwrap().as_ref(), &map(), 3).views[1].clone();
        let with = |missing: [u8; 3], corner: u8| {
            let mut image = noise(7);
            image.put_pixel(0, 0, Rgb([corner; 3]));
            for (pixel, hole) in image.pixels_mut().zip(mask.pixels()) {
                if hole.0 == [255; 3] {
                    *pixel = Rgb(missing);
                }
            }
            vec![stack(&[image, noise(8)]), stack(&[mask.clone(), mask.clone()])]
        };
        let features = |views| stepped(&config, views, 1).0;
        let first = features(with([0; 3], 0));
        assert_eq!(first, features(with([250, 10, 90], 0)), "{hole}");
        if mask.get_pixel(0, 0).0 != [255; 3] {
            assert_ne!(first, features(with([0; 3], 255)), "{hole}");
        }
    }
}

/// Against a network that stands still the discriminator wins: it knows its pictures, for which the network pays.
#[test]
fn the_network_pays_for_what_the_discriminator_knows() {
    let config =
        resolve("inpainting", &[WHOLE, "method.adversarial=0.5", "method.discriminator_lr_scale=0.2"])
            .unwrap();
    let mask = example(config.method.prepare().unwrap().as_ref(), &map(), 0).views[1].clone();
    let views = vec![stack(&[noise(1), noise(2), noise(3), noise(4)]), stack(&vec![mask; 4])];
    let (_, metrics, loss) = stepped(&config, views, 25);
    let of = |name: &str| metrics.iter().find(|(known, _)| *known == name).unwrap().1;
    assert!(of("discriminator_loss") < 0.4, "{metrics:?}");
    assert!(of("adversarial_loss") > 1.0, "more than ln 2, which a guess costs: {metrics:?}");
    let expected = 0.5 * of("l2") + 0.5 * of("adversarial_loss");
    assert!((loss - expected).abs() < 1e-4, "{loss}, expected {expected}");
}

#[test]
fn colorization_sees_lightness_alone() {
    assert_eq!(
        resolve("colorization", &[]).unwrap().preprocessing().colors,
        selfsup_models::Colors::Lightness
    );
    assert_eq!(resolve("rotation", &[]).unwrap().preprocessing().colors, selfsup_models::Colors::Rgb);
}

#[test]
fn a_tile_has_mean_0_and_deviation_1_in_each_channel() {
    let mut flat = noise(3);
    flat.pixels_mut().for_each(|pixel| pixel[1] = 77);
    // Another contrast and level a channel.
    flat.pixels_mut().for_each(|pixel| (pixel[0], pixel[2]) = (pixel[0] / 8 + 100, pixel[2] / 2));
    let seen = selfsup_train::method::normalize_each(&stack(&[flat, noise(4)])).unwrap();
    let values = seen.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for tile in 0..2 {
        for c in 0..3 {
            let channel: Vec<f64> =
                values[tile * 3072..][..3072].iter().skip(c).step_by(3).map(|v| f64::from(*v)).collect();
            let mean = channel.iter().sum::<f64>() / 1024.0;
            let deviation = (channel.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 1024.0).sqrt();
            let wanted = if (tile, c) == (0, 1) { 0.0 } else { 1.0 };
            assert!(
                mean.abs() < 1e-4 && (deviation - wanted).abs() < 1e-3,
                "{tile} {c}: {mean}, {deviation}"
            );
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

/// The adversary's judgement reaches the network that is judged, and the discriminator is not moved by it.
#[test]
fn the_adversarial_loss_has_gradients_in_the_decoder_alone() {
    let gradient = |adversarial: &str| {
        let config = resolve("inpainting", &[WHOLE, adversarial]).unwrap();
        let mask = example(config.method.prepare().unwrap().as_ref(), &map(), 0).views[1].clone();
        let mut method = config.method.build(config.encoder(&Device::Cpu).unwrap(), 0).unwrap();
        let batch = vec![stack(&[noise(1), noise(2)]), stack(&vec![mask; 2])].into();
        let out = method.step(&batch, Progress { step: 0, total: 1, lr: 0.0 }).unwrap();
        let grads = out.loss.backward().unwrap();
        let mut of = Vec::new();
        for t in method.tensors().iter() {
            match grads.get(&t.var) {
                Some(grad) if t.name.starts_with("decoder") => {
                    of.extend(grad.flatten_all().unwrap().to_vec1::<f32>().unwrap());
                }
                grad => assert!(grad.is_none() || !t.name.starts_with("discriminator"), "{}", t.name),
            }
        }
        assert!(!of.is_empty());
        of
    };
    // At .9 L2's part of the gradient is a tenth of what it is alone; the rest is the adversary's.
    let (plain, mixed) = (gradient("method.adversarial=0.0"), gradient("method.adversarial=0.9"));
    let apart: f64 = plain.iter().zip(&mixed).map(|(p, m)| f64::from(0.1 * p - m).powi(2)).sum();
    let whole: f64 = mixed.iter().map(|m| f64::from(*m).powi(2)).sum();
    assert!(apart > 0.1 * whole, "{apart} of {whole}");
}
