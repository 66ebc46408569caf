//! Pipelines as data: files, validation, fusing, reproducibility, and images of unusual shape.

use image::{Rgb, RgbImage};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use selfsup_augment::{
    CenterCrop, CenterView, ColorJitter, Error, GaussianBlur, Grayscale, HorizontalFlip, Interpolation,
    Pipeline, PixelOp, RandomResizedCrop, Region, Resize, Solarize, Step, Transform, apply_pixel_ops,
    center_view, flip_horizontal, gaussian_blur, normalize, resize_region, run,
};

/// Every pixel another colour.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let mixed = (x * 7919 + y * 104_729 + 13).wrapping_mul(2_654_435_761);
        Rgb([
            (mixed >> 24) as u8,
            (x * 255 / width.max(2)) as u8,
            ((mixed >> 8) & 0xff) as u8 / 2 + (y % 100) as u8,
        ])
    })
}

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

fn recipes(size: u32) -> [Pipeline; 5] {
    [
        Pipeline::simclr(size, 1.0),
        Pipeline::simclr_cifar(size),
        Pipeline::moco_v1(size),
        Pipeline::moco_v2(size),
        Pipeline::none(size),
    ]
}

#[test]
fn json_round_trip() {
    let mut all: Vec<Transform> = recipes(64).into_iter().flat_map(|p| p.0).collect();
    all.push(Transform::Solarize(Solarize { p: 0.2, threshold: 100 }));
    let pipeline = Pipeline(all);
    let text = serde_json::to_string(&pipeline).unwrap();
    assert_eq!(serde_json::from_str::<Pipeline>(&text).unwrap(), pipeline);
}

#[test]
fn json_as_a_user_writes_it() {
    let text = r#"[
        {"name": "random_resized_crop", "size": 96},
        {"name": "resize", "size": 80, "interpolation": "bicubic"},
        {"name": "center_crop", "size": 64},
        {"name": "horizontal_flip", "p": 0.5},
        {"name": "color_jitter", "p": 0.8, "brightness": 0.4},
        {"name": "grayscale", "p": 0.2},
        {"name": "gaussian_blur", "p": 0.5, "sigma": [0.1, 2.0]},
        {"name": "solarize", "p": 0.2}
    ]"#;
    let pipeline: Pipeline = serde_json::from_str(text).unwrap();
    let expected = [
        Transform::RandomResizedCrop(RandomResizedCrop {
            size: 96,
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            interpolation: Interpolation::Bilinear,
        }),
        Transform::Resize(Resize { size: 80, interpolation: Interpolation::Bicubic }),
        Transform::CenterCrop(CenterCrop { size: 64 }),
        Transform::HorizontalFlip(HorizontalFlip { p: 0.5 }),
        Transform::ColorJitter(ColorJitter {
            p: 0.8,
            brightness: 0.4,
            contrast: 0.0,
            saturation: 0.0,
            hue: 0.0,
        }),
        Transform::Grayscale(Grayscale { p: 0.2 }),
        Transform::GaussianBlur(GaussianBlur { p: 0.5, sigma: [0.1, 2.0], kernel_size: None }),
        Transform::Solarize(Solarize { p: 0.2, threshold: 128 }),
    ];
    assert_eq!(pipeline.0, expected);
}

#[test]
fn json_with_a_mistake_is_refused_by_name() {
    for (text, named) in [
        (r#"[{"name": "grayscale", "p": 0.2, "q": 1}]"#, "q"),
        (r#"[{"name": "random_resized_crop", "size": 9, "scales": [0.1, 1]}]"#, "scales"),
        (r#"[{"name": "gaussian_blur", "p": 0.2}]"#, "sigma"),
        (r#"[{"name": "posterize"}]"#, "posterize"),
        (r#"[{"p": 0.2}]"#, "name"),
    ] {
        let message = serde_json::from_str::<Pipeline>(text).unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn validation_names_place_transform_and_field() {
    let crop = RandomResizedCrop::new(32, [0.08, 1.0]);
    let jitter = ColorJitter { p: 0.8, brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 };
    let blur = GaussianBlur { p: 0.5, sigma: [0.1, 2.0], kernel_size: None };
    let wrong = [
        (Transform::RandomResizedCrop(RandomResizedCrop { size: 0, ..crop }), "random_resized_crop", "size"),
        (
            Transform::RandomResizedCrop(RandomResizedCrop { size: 1 << 20, ..crop }),
            "random_resized_crop",
            "size",
        ),
        (
            Transform::RandomResizedCrop(RandomResizedCrop { scale: [1.0, 0.08], ..crop }),
            "random_resized_crop",
            "scale",
        ),
        (
            Transform::RandomResizedCrop(RandomResizedCrop { scale: [0.0, 1.0], ..crop }),
            "random_resized_crop",
            "scale",
        ),
        (
            Transform::RandomResizedCrop(RandomResizedCrop { scale: [0.5, 1.5], ..crop }),
            "random_resized_crop",
            "scale",
        ),
        (
            Transform::RandomResizedCrop(RandomResizedCrop { ratio: [2.0, 1.0], ..crop }),
            "random_resized_crop",
            "ratio",
        ),
        (
            Transform::RandomResizedCrop(RandomResizedCrop { ratio: [1.0, f64::NAN], ..crop }),
            "random_resized_crop",
            "ratio",
        ),
        (Transform::Resize(Resize { size: 0, interpolation: Interpolation::Bilinear }), "resize", "size"),
        (Transform::CenterCrop(CenterCrop { size: 0 }), "center_crop", "size"),
        (Transform::HorizontalFlip(HorizontalFlip { p: 1.5 }), "horizontal_flip", "p"),
        (Transform::HorizontalFlip(HorizontalFlip { p: f64::NAN }), "horizontal_flip", "p"),
        (Transform::ColorJitter(ColorJitter { p: -0.1, ..jitter }), "color_jitter", "p"),
        (Transform::ColorJitter(ColorJitter { brightness: -1.0, ..jitter }), "color_jitter", "brightness"),
        (
            Transform::ColorJitter(ColorJitter { contrast: f64::INFINITY, ..jitter }),
            "color_jitter",
            "contrast",
        ),
        (
            Transform::ColorJitter(ColorJitter { saturation: f64::NAN, ..jitter }),
            "color_jitter",
            "saturation",
        ),
        (Transform::ColorJitter(ColorJitter { hue: 0.6, ..jitter }), "color_jitter", "hue"),
        (Transform::Grayscale(Grayscale { p: 2.0 }), "grayscale", "p"),
        (Transform::Solarize(Solarize { p: 2.0, threshold: 1 }), "solarize", "p"),
        (Transform::GaussianBlur(GaussianBlur { p: 2.0, ..blur }), "gaussian_blur", "p"),
        (Transform::GaussianBlur(GaussianBlur { sigma: [2.0, 0.1], ..blur }), "gaussian_blur", "sigma"),
        (Transform::GaussianBlur(GaussianBlur { sigma: [0.0, 0.1], ..blur }), "gaussian_blur", "sigma"),
        (
            Transform::GaussianBlur(GaussianBlur { kernel_size: Some(4), ..blur }),
            "gaussian_blur",
            "kernel_size",
        ),
        (
            Transform::GaussianBlur(GaussianBlur { kernel_size: Some(257), ..blur }),
            "gaussian_blur",
            "kernel_size",
        ),
    ];
    for (transform, name, field) in wrong {
        let pipeline = Pipeline(vec![Transform::HorizontalFlip(HorizontalFlip { p: 0.5 }), transform]);
        let message = pipeline.validate().unwrap_err().to_string();
        for part in ["transform 2", name, &format!("`{field}`")] {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
        assert!(matches!(
            pipeline.apply(&picture(40, 40), &mut rng(0)),
            Err(Error::Transform { number: 2, .. })
        ));
    }
    for pipeline in recipes(224) {
        pipeline.validate().unwrap();
    }
}

#[test]
fn output_size_is_the_last_one() {
    for pipeline in recipes(48) {
        assert_eq!(pipeline.output_size(), Some(48));
    }
    let resize = |size| Transform::Resize(Resize { size, interpolation: Interpolation::Bilinear });
    assert_eq!(Pipeline(vec![resize(48)]).output_size(), None);
    let crop = Transform::RandomResizedCrop(RandomResizedCrop::new(64, [0.08, 1.0]));
    assert_eq!(Pipeline(vec![crop, resize(48)]).output_size(), Some(48));
    assert_eq!(Pipeline::default().output_size(), None);
}

#[test]
fn the_same_generator_gives_the_same_bits() {
    let image = picture(67, 41);
    for pipeline in recipes(32) {
        let views = |seed| -> Vec<RgbImage> {
            let mut rng = rng(seed);
            (0..8).map(|_| pipeline.apply(&image, &mut rng).unwrap()).collect()
        };
        assert_eq!(views(5), views(5));
        if pipeline != Pipeline::none(32) {
            assert_ne!(views(5), views(6));
        }
    }
}

#[test]
fn the_bits_do_not_change_from_version_to_version() {
    // FNV-1a of 32 views of each recipe. A change here breaks the repetition of old runs: say so in the changelog.
    let image = picture(67, 41);
    let hashes = recipes(32).map(|pipeline| {
        let mut rng = rng(11);
        let views = (0..32).flat_map(|_| pipeline.apply(&image, &mut rng).unwrap().into_raw());
        views.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        })
    });
    assert_eq!(hashes, EXPECTED_HASHES, "{hashes:#x?}");
}

/// Of `the_bits_do_not_change_from_version_to_version`.
const EXPECTED_HASHES: [u64; 5] =
    [0x2d2e266166189907, 0xe2df2eaa8ef91f51, 0x8eac3e662ca89ae4, 0x812711bb11ec0e0d, 0xff14fd1bec150ea5];

#[test]
fn fused_operations_equal_single_ones() {
    // 5 000 pixels: whole blocks and a rest. More operations than one pass holds.
    let image = picture(100, 50);
    let ops = [
        PixelOp::Contrast(1.4),
        PixelOp::Hue(0.13),
        PixelOp::Brightness(0.8),
        PixelOp::Saturation(1.6),
        PixelOp::Solarize(100),
        // What fills the last block up becomes white here, and must not count in the next mean.
        PixelOp::Solarize(0),
        PixelOp::Contrast(0.6),
        PixelOp::Saturation(0.5),
        PixelOp::Hue(-0.3),
        PixelOp::Brightness(1.2),
        PixelOp::Hue(0.02),
        PixelOp::Saturation(1.1),
        PixelOp::Solarize(30),
        PixelOp::Hue(0.4),
        PixelOp::Brightness(0.9),
        PixelOp::Grayscale,
    ];
    let (mut fused, mut single) = (image.clone(), image);
    apply_pixel_ops(&mut fused, &ops);
    for op in ops {
        apply_pixel_ops(&mut single, &[op]);
    }
    assert_eq!(fused, single);
}

#[test]
fn a_flip_is_the_same_before_and_after_the_rest() {
    let image = picture(90, 61);
    let resize = |flip| Step::Resize {
        region: Region { left: 9, top: 4, width: 55, height: 47 },
        width: 40,
        height: 33,
        interpolation: Interpolation::Bicubic,
        flip,
    };
    let rest = [
        Step::Pixel(PixelOp::Contrast(1.3)),
        Step::Blur { kernel_size: 9, sigma: 1.1 },
        Step::Pixel(PixelOp::Hue(0.1)),
    ];
    let fused = run(&image, &[&[resize(true)], &rest[..]].concat()).unwrap();
    let last = run(&image, &[&[resize(false)], &rest[..], &[Step::Flip]].concat()).unwrap();
    assert_eq!(fused, last);
    assert_ne!(fused, run(&image, &[&[resize(false)], &rest[..]].concat()).unwrap());
}

#[test]
fn flips_of_a_pipeline_go_where_they_are_cheap() {
    let flip = Transform::HorizontalFlip(HorizontalFlip { p: 1.0 });
    let crop = Transform::RandomResizedCrop(RandomResizedCrop::new(16, [0.2, 0.5]));
    let gray = Transform::Grayscale(Grayscale { p: 1.0 });
    let draw = |transforms: &[Transform]| Pipeline(transforms.to_vec()).draw(40, 30, &mut rng(3)).unwrap();
    assert!(matches!(draw(&[crop, gray, flip])[..], [Step::Resize { flip: true, .. }, Step::Pixel(_)]));
    assert!(matches!(
        draw(&[crop, flip, gray, flip])[..],
        [Step::Resize { flip: false, .. }, Step::Pixel(_)]
    ));
    assert!(matches!(draw(&[gray, flip])[..], [Step::Pixel(_), Step::Flip]));
    // A flip before a crop stays there: the crop's place was drawn for the mirrored image.
    assert!(matches!(draw(&[flip, crop])[..], [Step::Flip, Step::Resize { flip: false, .. }]));
}

#[test]
fn small_and_narrow_images_work() {
    for (width, height) in [(1, 1), (1, 9), (9, 1), (2, 2), (3, 70), (31, 33)] {
        let image = picture(width, height);
        for pipeline in recipes(24) {
            for seed in 0..20 {
                let view = pipeline.apply(&image, &mut rng(seed)).unwrap();
                assert_eq!(view.dimensions(), (24, 24));
            }
        }
        let mut blurred = image.clone();
        gaussian_blur(&mut blurred, 15, 2.0).unwrap();
        assert_eq!(center_view(&image, 1).unwrap().dimensions(), (1, 1));
    }
}

#[test]
fn impossible_images_are_errors() {
    let empty = RgbImage::new(0, 5);
    for pipeline in recipes(24) {
        assert!(matches!(
            pipeline.apply(&empty, &mut rng(0)),
            Err(Error::EmptyImage { width: 0, height: 5 })
        ));
    }
    assert!(matches!(gaussian_blur(&mut empty.clone(), 3, 1.0), Err(Error::EmptyImage { .. })));
    assert!(matches!(center_view(&empty, 3), Err(Error::EmptyImage { .. })));
    assert!(matches!(center_view(&picture(5, 5), 0), Err(Error::Field { field: "size", .. })));
    let wider = CenterView { resize: 4, ..CenterView::new(5) };
    assert!(matches!(wider.apply(&picture(9, 9)), Err(Error::Field { field: "resize", .. })));
    apply_pixel_ops(&mut empty.clone(), &[PixelOp::Contrast(2.0)]);
    flip_horizontal(&mut empty.clone());
    let crop = Pipeline(vec![Transform::CenterCrop(CenterCrop { size: 30 })]);
    let message = crop.apply(&picture(40, 20), &mut rng(0)).unwrap_err().to_string();
    assert!(message.contains("30×30") && message.contains("40×20"), "{message}");
    let outside = Region { left: 35, top: 0, width: 10, height: 5 };
    assert!(matches!(
        resize_region(&picture(40, 20), outside, 8, 8, Interpolation::Bilinear, false),
        Err(Error::TooSmall { .. })
    ));
    let huge = Region { left: u32::MAX, top: 0, width: 10, height: 5 };
    assert!(resize_region(&picture(40, 20), huge, 8, 8, Interpolation::Bilinear, false).is_err());
    assert!(
        resize_region(&picture(40, 20), Region::whole(40, 20), 0, 8, Interpolation::Bilinear, false).is_err()
    );
    assert!(
        resize_region(
            &picture(40, 20),
            Region::whole(40, 20),
            1 << 30,
            1 << 30,
            Interpolation::Bilinear,
            false
        )
        .is_err()
    );
    // A very long image, whose resized length is beyond any memory.
    let resize =
        Pipeline(vec![Transform::Resize(Resize { size: 16_384, interpolation: Interpolation::Bilinear })]);
    assert!(resize.apply(&picture(1, 3000), &mut rng(0)).is_err());
}

#[test]
fn the_centre_view_of_a_fitting_image_is_itself() {
    let image = picture(32, 32);
    assert_eq!(center_view(&image, 32).unwrap(), image);
    let none = Pipeline::none(32).apply(&image, &mut rng(0)).unwrap();
    assert_eq!(none, image);
    let wide = picture(80, 50);
    assert_eq!(Pipeline::none(32).apply(&wide, &mut rng(0)).unwrap(), center_view(&wide, 32).unwrap());
}

#[test]
fn normalize_follows_its_formula() {
    let image = picture(7, 5);
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let values = normalize(&image, mean, std);
    for (i, (value, &level)) in values.iter().zip(image.as_raw()).enumerate() {
        let expected = (f64::from(level) / 255.0 - f64::from(mean[i % 3])) / f64::from(std[i % 3]);
        assert!((f64::from(*value) - expected).abs() < 1e-6, "value {i}: {value}, not {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against the definition in f64: for each output pixel the normalised weights over all source pixels, along
    /// rows, rounded to a level, then along columns.
    #[test]
    fn resizing_follows_its_definition(
        (width, height, out_width, out_height) in (1u32..40, 1u32..40, 1u32..40, 1u32..40), bicubic: bool, flip: bool,
    ) {
        let image = picture(width, height);
        let interpolation = if bicubic { Interpolation::Bicubic } else { Interpolation::Bilinear };
        let ours = resize_region(&image, Region::whole(width, height), out_width, out_height, interpolation, flip).unwrap();
        let (across, down) = (filter_matrix(width, out_width, bicubic), filter_matrix(height, out_height, bicubic));
        for channel in 0..3 {
            let level = |x: u32, y: u32| f64::from(image.get_pixel(x, y)[channel]);
            for (x, weights) in across.iter().enumerate() {
                let column: Vec<(f64, f64)> = (0..height).map(|y| {
                    let sum: f64 = weights.iter().zip(0..).map(|(w, sx)| w * level(sx, y)).sum();
                    // How near a half the rounding is decides whether both neighbours are right.
                    ((sum + 0.5).floor().clamp(0.0, 255.0), (sum + 0.5 - (sum + 0.5).round()).abs())
                }).collect();
                let ours_x = if flip { out_width - 1 - x as u32 } else { x as u32 };
                for (y, weights) in down.iter().enumerate() {
                    let sum: f64 = weights.iter().zip(&column).map(|(w, (v, _))| w * v).sum();
                    // Where a half was near, one level in the first pass moves the result by its weight.
                    let doubt: f64 = weights.iter().zip(&column).map(|(w, (_, near))| if *near < 1e-3 { w.abs() } else { 0.0 }).sum();
                    let got = f64::from(ours.get_pixel(ours_x, y as u32)[channel]);
                    prop_assert!((got - sum.clamp(0.0, 255.0)).abs() <= 0.501 + doubt, "({x}, {y}): {got}, not {sum}");
                }
            }
        }
    }

    /// Against the definition in f64, without rounding in between: within half a level and what fixed point loses.
    #[test]
    fn blurring_follows_its_definition((width, height) in (1u32..40, 1u32..40), radius in 0u32..30, sigma in 0.1..8.0) {
        let image = picture(width, height);
        let mut ours = image.clone();
        gaussian_blur(&mut ours, 2 * radius + 1, sigma).unwrap();
        let radius = i64::from(radius);
        let gauss: Vec<f64> = (-radius..=radius).map(|i| (-0.5 * (i as f64 / sigma).powi(2)).exp()).collect();
        let total: f64 = gauss.iter().sum();
        // Walks to and fro between the ends.
        let mirrored = |i: i64, length: u32| {
            let (mut i, last) = (i, i64::from(length) - 1);
            while last > 0 && !(0..=last).contains(&i) {
                i = if i < 0 { -i } else { 2 * last - i };
            }
            if last == 0 { 0 } else { i as u32 }
        };
        for channel in 0..3 {
            let rows: Vec<Vec<f64>> = (0..height).map(|y| (0..width).map(|x| {
                let at = |i: i64| f64::from(image.get_pixel(mirrored(i64::from(x) + i, width), y)[channel]);
                gauss.iter().zip(-radius..).map(|(g, i)| g / total * at(i)).sum()
            }).collect()).collect();
            for (x, y) in (0..width).flat_map(|x| (0..height).map(move |y| (x, y))) {
                let at = |i: i64| rows[mirrored(i64::from(y) + i, height) as usize][x as usize];
                let exact: f64 = gauss.iter().zip(-radius..).map(|(g, i)| g / total * at(i)).sum();
                let got = f64::from(ours.get_pixel(x, y)[channel]);
                prop_assert!((got - exact).abs() <= 0.75, "({x}, {y}): {got}, not {exact}");
            }
        }
    }

    /// A plain image stays plain under anything but colour changes.
    #[test]
    fn plain_images_stay(level: [u8; 3], radius in 0u32..60, sigma in 0.1..30.0) {
        let image = RgbImage::from_pixel(37, 21, Rgb(level));
        let mut blurred = image.clone();
        gaussian_blur(&mut blurred, 2 * radius + 1, sigma).unwrap();
        prop_assert_eq!(&blurred, &image);
        let resized = resize_region(&image, Region::whole(37, 21), 50, 9, Interpolation::Bicubic, true).unwrap();
        prop_assert!(resized.pixels().all(|p| p.0 == level));
        let mut same = image.clone();
        apply_pixel_ops(&mut same, &[PixelOp::Brightness(1.0), PixelOp::Saturation(1.0), PixelOp::Contrast(1.0), PixelOp::Hue(0.0)]);
        prop_assert_eq!(same, image);
    }

    /// No settings in their ranges make any image panic.
    #[test]
    fn any_valid_pipeline_runs((width, height) in (1u32..50, 1u32..50), size in 1u32..40, p in 0.0..=1.0, amount in 0.0..3.0, seed: u64) {
        let pipeline = Pipeline(vec![
            Transform::Solarize(Solarize { p, threshold: 77 }),
            Transform::RandomResizedCrop(RandomResizedCrop { size, scale: [0.01, 1.0], ratio: [0.1, 9.0], interpolation: Interpolation::Bicubic }),
            Transform::HorizontalFlip(HorizontalFlip { p }),
            Transform::ColorJitter(ColorJitter { p, brightness: amount, contrast: amount, saturation: amount, hue: amount / 6.0 }),
            Transform::GaussianBlur(GaussianBlur { p, sigma: [0.1, 0.1 + amount], kernel_size: Some(9) }),
            Transform::Grayscale(Grayscale { p }),
            Transform::HorizontalFlip(HorizontalFlip { p }),
        ]);
        let view = pipeline.apply(&picture(width, height), &mut rng(seed)).unwrap();
        prop_assert_eq!(view.dimensions(), (size, size));
    }
}

/// Weights of every source place for every output place, from the filter's definition.
fn filter_matrix(from: u32, to: u32, bicubic: bool) -> Vec<Vec<f64>> {
    let scale = f64::from(from) / f64::from(to);
    let widening = scale.max(1.0);
    let filter = |x: f64| match x.abs() {
        x if !bicubic => (1.0 - x).max(0.0),
        x if x < 1.0 => 1.5 * x.powi(3) - 2.5 * x.powi(2) + 1.0,
        x if x < 2.0 => -0.5 * x.powi(3) + 2.5 * x.powi(2) - 4.0 * x + 2.0,
        _ => 0.0,
    };
    let row = |place: u32| {
        let centre = (f64::from(place) + 0.5) * scale;
        let weights: Vec<f64> = (0..from).map(|i| filter((f64::from(i) + 0.5 - centre) / widening)).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / total).collect()
    };
    (0..to).map(row).collect()
}
