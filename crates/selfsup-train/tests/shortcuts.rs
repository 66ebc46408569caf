//! That nothing but understanding helps: a model that sees only what a shortcut offers does no better than chance.

mod common;

use candle_core::{Device, Tensor};
use common::{SIDE, WHOLE, example, map, noise, prepare, resolve};
use image::{Rgb, RgbImage};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use selfsup_objectives::distant_permutations;
use selfsup_train::method::{Example, Prepare};

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

/// What is measured is measured on images of other seeds, too.
const SEEDS: u64 = 6;

/// So many samples of a seed, each with a number of its own.
fn samples(seed: u64, count: u64) -> std::ops::Range<u64> {
    100_000 * seed..100_000 * seed + count
}

/// Whether a shortcut that is open is taken, over the seeds: without that a test sees nothing.
fn assert_taken(shares: &[f64], least: f64, what: &str) {
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    assert!(mean > least, "{what}: the test would see it: {shares:?}");
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
    let told = (0..SEEDS).map(|seed| turns_told(prepare.as_ref(), seed)).collect::<Vec<_>>();
    assert_taken(&told, 0.5, "blurred turns");
}

/// Asserts chance of a seed's images; the share of the turns that interpolation tells.
fn turns_told(prepare: &dyn Prepare, seed: u64) -> f64 {
    let (mut levels, mut rough, mut blurred) = (Vec::new(), Vec::new(), Vec::new());
    for sample in samples(seed, 600) {
        let views = example(prepare, &noise(sample), sample).views;
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
    linear_rule(&blurred, 4)
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
/// patches, on which side the second lies. A linear rule on these shifts alone tells it without the guard, and nothing with it. The
/// projection is for lenses that bend red and blue alike: what errs along its axis is all that it takes.
#[test]
fn the_guard_takes_the_chromatic_shortcut() {
    const SAMPLES: u64 = 1600;
    const LENS: f64 = 1.06;
    let share = |color: &str, blue: f64, seed: u64| {
        let settings = ["method.color=".to_owned() + color, "method.downsample_p=0.0".into(), WHOLE.into()];
        let prepare = prepare("relative-patch", &settings.each_ref().map(|s| &s[..]));
        let mut examples = Vec::new();
        for sample in samples(seed, SAMPLES) {
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
                Rgb([texture(LENS * u, LENS * v), texture(u, v), texture(blue * u, blue * v)])
            });
            let Example { views, targets } = example(prepare.as_ref(), &image, sample);
            let features = views.iter().flat_map(shift).collect();
            examples.push((features, targets[0] as usize));
        }
        linear_rule(&examples, 8)
    };
    for (color, blue) in [("drop", 1.0), ("project", LENS)] {
        let open = (0..SEEDS).map(|seed| share("none", blue, seed)).collect::<Vec<_>>();
        assert_taken(&open, 0.4, "colours");
        for seed in 0..SEEDS {
            assert_chance(share(color, blue, seed), 8, SAMPLES as usize / 4, color);
        }
    }
}

/// A tile's own mean and deviation go: a shading over the image tells no place.
#[test]
fn shading_does_not_tell_a_tile() {
    let method = resolve("jigsaw", &[WHOLE]).unwrap();
    let prepare = method.method.prepare().unwrap();
    let told = (0..SEEDS).map(|seed| places_told(prepare.as_ref(), seed)).collect::<Vec<_>>();
    assert_taken(&told, 0.2, "a shading that is left");
}

/// Asserts chance of a seed's images; the share of the places that the shading tells where it is left.
fn places_told(prepare: &dyn Prepare, seed: u64) -> f64 {
    let orders = distant_permutations(64).unwrap();
    let mut shares = [Vec::new(), Vec::new()];
    for sample in samples(seed, 400) {
        let mut rng = ChaCha8Rng::seed_from_u64(sample);
        let image = RgbImage::from_fn(SIDE, SIDE, |x, y| {
            let noise: f64 = rng.random_range(-20.0..20.0);
            Rgb([(60.0 + 2.0 * f64::from(x) + 2.0 * f64::from(y) + noise) as u8; 3])
        });
        let Example { views, targets } = example(prepare, &image, sample);
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
    assert_chance(linear_rule(&shares[1], 9), 9, n, "shading");
    linear_rule(&shares[0], 9)
}

/// As a tile's, a patch's: neither the levels of a shading tell a side, nor their contrast.
#[test]
fn shading_does_not_tell_a_side() {
    let prepare = prepare("relative-patch", &[WHOLE, "method.color=none", "method.downsample_p=0.0"]);
    let told = (0..SEEDS).map(|seed| sides_told(prepare.as_ref(), seed)).collect::<Vec<_>>();
    assert_taken(&told, 0.5, "a shading that is left");
}

/// Asserts chance of a seed's images; the share of the sides that the shading tells where it is left.
fn sides_told(prepare: &dyn Prepare, seed: u64) -> f64 {
    const SAMPLES: u64 = 800;
    let mut shares = [Vec::new(), Vec::new()];
    for sample in samples(seed, SAMPLES) {
        let mut rng = ChaCha8Rng::seed_from_u64(sample);
        let image = RgbImage::from_fn(SIDE, SIDE, |x, y| {
            let noise: f64 = rng.random_range(-20.0..20.0);
            let (x, y) = (f64::from(x), f64::from(y));
            // Along each axis another channel.
            Rgb([60.0 + 4.0 * x + noise, 60.0 + 4.0 * y + noise, 100.0 + noise].map(|level| level as u8))
        });
        let Example { views, targets } = example(prepare, &image, sample);
        let label = targets[0] as usize;
        let means = |values: &[f64]| -> Vec<f64> {
            (0..3).map(|c| values.iter().skip(c).step_by(3).sum::<f64>() / 64.0).collect()
        };
        let raw = views.iter().flat_map(|patch| {
            means(&patch.as_raw().iter().map(|&v| f64::from(v) / 64.0).collect::<Vec<_>>())
        });
        shares[0].push((raw.collect(), label));
        // As the network sees them.
        let seen = views.iter().flat_map(|patch| {
            let t = Tensor::from_vec(patch.as_raw().clone(), (1, 8, 8, 3), &Device::Cpu).unwrap();
            let seen = selfsup_train::method::normalize_patches(&t).unwrap().flatten_all().unwrap();
            let seen: Vec<f64> = seen.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect();
            [means(&seen), means(&seen.iter().map(|v| v * v).collect::<Vec<_>>())].concat()
        });
        shares[1].push((seen.collect(), label));
    }
    assert_chance(linear_rule(&shares[1], 8), 8, SAMPLES as usize / 4, "shading");
    linear_rule(&shares[0], 8)
}

/// Where a pair fits, it may lie: the place of one patch alone says of the other's side only what an image's end does. In a grid of nine
/// that must fit whole, a neighbour's place would say all.
#[test]
fn the_place_of_one_patch_does_not_tell_the_side() {
    const SAMPLES: u64 = 40_000;
    let prepare = prepare("relative-patch", &[WHOLE, "method.color=none", "method.downsample_p=0.0"]);
    let mut counts = [(); 2].map(|()| std::collections::HashMap::<[u8; 2], [u32; 8]>::new());
    for sample in 0..SAMPLES {
        let Example { views, targets } = example(prepare.as_ref(), &map(), sample);
        for (patch, counts) in views.iter().zip(&mut counts) {
            let [x, y, _] = patch.get_pixel(0, 0).0;
            counts.entry([x, y]).or_default()[targets[0] as usize] += 1;
        }
    }
    for (patch, counts) in counts.iter().enumerate() {
        let right: u32 = counts.values().filter_map(|sides| sides.iter().max()).sum();
        let share = f64::from(right) / SAMPLES as f64;
        println!("patch {patch}: {share}");
        // .497 and .499; of a grid of nine that must fit, 1 for the second.
        assert!(share < 0.52, "patch {patch}: {share}");
    }
}
