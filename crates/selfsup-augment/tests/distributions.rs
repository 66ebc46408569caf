//! The random parameters follow the distributions that the documentation states.
//!
//! The seeds are fixed, so a test passes always or never. Bounds on moments are five standard errors, and
//! chi-square bounds are beyond the 99.9 % point.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use selfsup_augment::{
    ColorJitter, GaussianBlur, Grayscale, HorizontalFlip, Interpolation, Pipeline, PixelOp,
    RandomResizedCrop, Region, Solarize, Step,
};
use std::collections::HashMap;

const DRAWS: usize = 50_000;

/// Fails unless `values` look uniform in `low`…`high`: range, mean, variance, and ten equal bins.
fn assert_uniform(what: &str, values: &[f64], low: f64, high: f64) {
    let n = values.len() as f64;
    let width = high - low;
    let shares: Vec<f64> = values.iter().map(|v| (v - low) / width).collect();
    assert!(shares.iter().all(|s| (-1e-6..=1.0 + 1e-6).contains(s)), "{what}: out of {low}…{high}");
    let mean = shares.iter().sum::<f64>() / n;
    assert!((mean - 0.5).abs() < 5.0 * (1.0 / 12.0 / n).sqrt(), "{what}: mean {mean} of the range");
    let variance = shares.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / n;
    // The fourth central moment of a uniform is 1/80.
    assert!(
        (variance - 1.0 / 12.0).abs() < 5.0 * ((1.0 / 80.0 - 1.0 / 144.0) / n).sqrt(),
        "{what}: variance {variance}"
    );
    let mut bins = [0.0; 10];
    shares.iter().for_each(|s| bins[((s * 10.0) as usize).min(9)] += 1.0);
    assert_chi_square(what, &bins, 30.0);
}

/// Fails when equally likely counts are too uneven.
fn assert_chi_square(what: &str, counts: &[f64], most: f64) {
    let expected = counts.iter().sum::<f64>() / counts.len() as f64;
    let chi: f64 = counts.iter().map(|c| (c - expected).powi(2) / expected).sum();
    assert!(chi < most, "{what}: chi-square {chi} on {} counts", counts.len());
}

/// Fails unless `hits` of `DRAWS` fit the probability `p`.
fn assert_share(what: &str, hits: usize, p: f64) {
    let share = hits as f64 / DRAWS as f64;
    assert!((share - p).abs() <= 5.0 * (p * (1.0 - p) / DRAWS as f64).sqrt(), "{what}: {share}, not {p}");
}

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

#[test]
fn crop_area_and_ratio_when_all_crops_fit() {
    // At most a quarter of a square image at ratios up to 2: every first try fits, nothing is conditioned.
    let crop = RandomResizedCrop {
        size: 8,
        scale: [0.05, 0.25],
        ratio: [0.5, 2.0],
        interpolation: Interpolation::Bilinear,
    };
    let side = 20_000;
    let mut rng = rng(1);
    let regions: Vec<Region> = (0..DRAWS).map(|_| crop.draw(side, side, &mut rng)).collect();
    let area = |r: &Region| f64::from(r.width) * f64::from(r.height) / f64::from(side).powi(2);
    // Whole pixels move the ends of the ranges by some 10⁻⁴.
    let clamp = |v: f64, low: f64, high: f64| v.clamp(low, high);
    let areas: Vec<f64> = regions.iter().map(|r| clamp(area(r), 0.05, 0.25)).collect();
    assert_uniform("area", &areas, 0.05, 0.25);
    let log2 = |r: &Region| clamp((f64::from(r.width) / f64::from(r.height)).log2(), -1.0, 1.0);
    assert_uniform("log ratio", &regions.iter().map(log2).collect::<Vec<_>>(), -1.0, 1.0);
    let places = |start: u32, length: u32| f64::from(start) / f64::from(side - length);
    assert_uniform("left", &regions.iter().map(|r| places(r.left, r.width)).collect::<Vec<_>>(), 0.0, 1.0);
    assert_uniform("top", &regions.iter().map(|r| places(r.top, r.height)).collect::<Vec<_>>(), 0.0, 1.0);
}

#[test]
fn crops_agree_with_torchvision_in_the_mean() {
    // torchvision.transforms.RandomResizedCrop.get_params on 500×375, scale .08…1, ratio 3/4…4/3, 400 000 draws
    // (tests/golden/crop_moments.py): share of the area and ratio, mean and standard deviation. Unlike above,
    // big crops often do not fit and are drawn again, so this sees the order of drawing, tries and fallback.
    let theirs = [0.43327, 0.21649, 1.04477, 0.16806];
    let crop = RandomResizedCrop::new(224, [0.08, 1.0]);
    let mut rng = rng(2);
    let regions: Vec<Region> = (0..DRAWS).map(|_| crop.draw(500, 375, &mut rng)).collect();
    let moments = |values: Vec<f64>| {
        let mean = values.iter().sum::<f64>() / DRAWS as f64;
        (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / DRAWS as f64).sqrt())
    };
    let area = moments(regions.iter().map(|r| f64::from(r.width * r.height) / 187_500.0).collect());
    let ratio = moments(regions.iter().map(|r| f64::from(r.width) / f64::from(r.height)).collect());
    for (what, ours, theirs) in [
        ("area", area.0, theirs[0]),
        ("area's std", area.1, theirs[1]),
        ("ratio", ratio.0, theirs[2]),
        ("ratio's std", ratio.1, theirs[3]),
    ] {
        // Five standard errors of 50 000 draws with a standard deviation of about .25.
        assert!((ours - theirs).abs() < 0.006, "{what}: {ours}, torchvision {theirs}");
    }
}

#[test]
fn crop_falls_back_to_the_largest_central_region() {
    let crop = RandomResizedCrop::new(8, [1.0, 1.0]);
    let mut rng = rng(3);
    // No region of the whole area has a ratio below 4/3 here: torchvision's fallback.
    assert_eq!(crop.draw(300, 100, &mut rng), Region { left: 83, top: 0, width: 133, height: 100 });
    assert_eq!(crop.draw(100, 300, &mut rng), Region { left: 0, top: 83, width: 100, height: 133 });
    for (width, height) in [(1, 1), (1, 50), (50, 1), (2, 3)] {
        for _ in 0..100 {
            let r = RandomResizedCrop::new(8, [0.08, 1.0]).draw(width, height, &mut rng);
            assert!(
                r.width > 0 && r.height > 0 && r.left + r.width <= width && r.top + r.height <= height,
                "{r:?} in {width}×{height}"
            );
        }
    }
}

#[test]
fn jitter_factors_orders_and_probability() {
    let jitter = ColorJitter { p: 0.8, brightness: 0.8, contrast: 0.4, saturation: 1.5, hue: 0.2 };
    let mut rng = rng(4);
    let mut orders: HashMap<String, f64> = HashMap::new();
    let mut values: HashMap<char, Vec<f64>> = HashMap::new();
    let mut applied = 0;
    for _ in 0..DRAWS {
        let ops = jitter.draw(&mut rng);
        if ops == [None; 4] {
            continue;
        }
        applied += 1;
        let mut order = String::new();
        for op in ops.map(|op| op.expect("every amount is above 0")) {
            let (name, value) = match op {
                PixelOp::Brightness(v) => ('b', v),
                PixelOp::Contrast(v) => ('c', v),
                PixelOp::Saturation(v) => ('s', v),
                PixelOp::Hue(v) => ('h', v),
                other => panic!("{other:?} is no jitter"),
            };
            order.push(name);
            values.entry(name).or_default().push(value.into());
        }
        *orders.entry(order).or_default() += 1.0;
    }
    assert_share("p", applied, 0.8);
    assert_eq!(orders.len(), 24);
    // 23 degrees of freedom: 49.7 is the 99.9 % point.
    assert_chi_square("orders", &orders.values().copied().collect::<Vec<_>>(), 49.7);
    assert_uniform("brightness", &values[&'b'], 0.2, 1.8);
    assert_uniform("contrast", &values[&'c'], 0.6, 1.4);
    assert_uniform("saturation", &values[&'s'], 0.0, 2.5);
    assert_uniform("hue", &values[&'h'], -0.2, 0.2);
}

#[test]
fn an_amount_of_zero_is_left_out() {
    let jitter = ColorJitter { p: 1.0, brightness: 0.4, contrast: 0.0, saturation: 0.0, hue: 0.0 };
    let ops = jitter.draw(&mut rng(5));
    assert_eq!(ops.iter().flatten().count(), 1);
}

#[test]
fn probabilities_and_sigma() {
    let mut rng = rng(6);
    for p in [0.0, 0.2, 0.5, 1.0] {
        assert_share("flip", (0..DRAWS).filter(|_| HorizontalFlip { p }.draw(&mut rng)).count(), p);
        assert_share("gray", (0..DRAWS).filter(|_| Grayscale { p }.draw(&mut rng).is_some()).count(), p);
        let solarize = Solarize { p, threshold: 128 };
        assert_share("solarize", (0..DRAWS).filter(|_| solarize.draw(&mut rng).is_some()).count(), p);
    }
    let blur = GaussianBlur { p: 0.5, sigma: [0.1, 2.0], kernel_size: None };
    let sigmas: Vec<f64> = (0..DRAWS).filter_map(|_| blur.draw(&mut rng)).collect();
    assert_share("blur", sigmas.len(), 0.5);
    assert_uniform("sigma", &sigmas, 0.1, 2.0);
}

#[test]
fn the_blur_spans_a_tenth_of_the_side() {
    let blur = GaussianBlur { p: 0.5, sigma: [0.1, 2.0], kernel_size: None };
    // SimCLR: radius = int(side // 10 / 2), kernel = 2·radius + 1.
    for (side, kernel) in [(224, 23), (96, 9), (64, 7), (32, 3), (10, 1), (1, 1)] {
        assert_eq!(blur.kernel_size(side, side), kernel, "side {side}");
        assert_eq!(blur.kernel_size(side, 2 * side), kernel, "side {side}, the shorter one");
    }
}

#[test]
fn recipes_do_what_their_papers_say() {
    let count = |pipeline: &Pipeline, hit: &dyn Fn(&[Step]) -> bool| {
        let mut rng = rng(7);
        (0..DRAWS).filter(|_| hit(&pipeline.draw(500, 375, &mut rng).unwrap())).count()
    };
    let gray = |steps: &[Step]| steps.contains(&Step::Pixel(PixelOp::Grayscale));
    let hue = |steps: &[Step]| steps.iter().any(|s| matches!(s, Step::Pixel(PixelOp::Hue(_))));
    let blur = |steps: &[Step]| steps.iter().any(|s| matches!(s, Step::Blur { .. }));
    let flip = |steps: &[Step]| matches!(steps[0], Step::Resize { flip: true, .. });
    // Flip, jitter, gray, blur.
    let recipes = [
        (Pipeline::simclr(224, 1.0), [0.5, 0.8, 0.2, 0.5]),
        (Pipeline::simclr_cifar(32), [0.5, 0.8, 0.2, 0.0]),
        (Pipeline::moco_v1(224), [0.5, 1.0, 0.2, 0.0]),
        (Pipeline::moco_v2(224), [0.5, 0.8, 0.2, 0.5]),
    ];
    for (pipeline, shares) in recipes {
        let hits = [
            count(&pipeline, &flip),
            count(&pipeline, &hue),
            count(&pipeline, &gray),
            count(&pipeline, &blur),
        ];
        for (hits, share) in hits.into_iter().zip(shares) {
            assert_share(&format!("{pipeline:?}"), hits, share);
        }
    }
    // MoCo v1 takes the colours away first, the others last.
    let gray_first =
        |steps: &[Step]| matches!(steps.get(1), Some(Step::Pixel(PixelOp::Grayscale))) && hue(steps);
    assert_share("v1", count(&Pipeline::moco_v1(224), &gray_first), 0.2);
    assert_eq!(count(&Pipeline::moco_v2(224), &gray_first), 0);
}

#[test]
fn recipes_crop_and_jitter_as_far_as_their_papers_say() {
    // Least share of the area, and the reach of brightness and hue.
    let recipes = [
        (Pipeline::simclr(224, 1.0), 0.08, 0.8, 0.2),
        (Pipeline::simclr(224, 0.5), 0.08, 0.4, 0.1),
        (Pipeline::simclr_cifar(32), 0.08, 0.4, 0.1),
        (Pipeline::moco_v1(224), 0.2, 0.4, 0.4),
        (Pipeline::moco_v2(224), 0.2, 0.4, 0.1),
    ];
    for (pipeline, least_area, brightness, hue) in recipes {
        let mut rng = rng(8);
        let (mut area, mut brightest, mut reddest) = (1.0f64, 0.0f64, 0.0f64);
        for step in (0..20_000).flat_map(|_| pipeline.draw(500, 375, &mut rng).unwrap()) {
            match step {
                Step::Resize { region, .. } => {
                    area = area.min(f64::from(region.width * region.height) / 187_500.0)
                }
                Step::Pixel(PixelOp::Brightness(factor)) => {
                    brightest = brightest.max(f64::from(factor) - 1.0)
                }
                Step::Pixel(PixelOp::Hue(turn)) => reddest = reddest.max(turn.into()),
                _ => {}
            }
        }
        // Of 20 000 draws the most extreme is within a thousandth of the range's end.
        for (what, got, expected) in
            [("area", area, least_area), ("brightness", brightest, brightness), ("hue", reddest, hue)]
        {
            assert!((got - expected).abs() < 2e-3, "{pipeline:?}: {what} {got}, not {expected}");
        }
    }
}
