//! Every deterministic function against torchvision, pixel by pixel (`golden/make_golden.py`).

use image::{GenericImageView, RgbImage};
use selfsup_augment::{
    CenterCrop, CenterView, Interpolation, PixelOp, Region, Resize, apply_pixel_ops, center_view,
    flip_horizontal, gaussian_blur, resize_region,
};
use serde_json::Value;
use std::path::Path;

/// The largest difference a case may show, in levels, and the share of the values that may differ at all.
///
/// - 8-bit operations repeat PIL's arithmetic: no difference.
/// - hue: f32 in another order of operations; a channel within 10⁻⁴ of a whole level may fall on its other side.
/// - blur: fixed point errs by up to 1/256 of a level a product, so values near a half may round the other way.
/// - resizing: PIL sums integers with weights of 22 bits, we sum f32; simple ratios of sizes make sums of exactly
///   a half common, which then may round either way.
fn tolerance(op: &str) -> (u8, f64) {
    match op {
        "hue" => (1, 0.005),
        "blur" => (1, 0.02),
        "resized_crop" | "resize" | "center_view" | "timm_eval" | "timm_squash" => (1, 0.01),
        _ => (0, 0.0),
    }
}

#[test]
fn agrees_with_torchvision() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let open = |file: &str| image::open(folder.join(file)).unwrap().to_rgb8();
    let cases: Vec<Value> =
        serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let source = open("source.png");
    assert!(cases.len() > 30);
    let mut failures = String::new();
    for case in &cases {
        let (op, file) = (case["op"].as_str().unwrap(), case["file"].as_str().unwrap());
        let ours = apply(&source, op, &case["params"]);
        let theirs = open(file);
        assert_eq!(ours.dimensions(), theirs.dimensions(), "{file}");
        let differences = || ours.as_raw().iter().zip(theirs.as_raw()).map(|(a, b)| a.abs_diff(*b));
        let worst = differences().max().unwrap();
        let share = differences().filter(|&d| d > 0).count() as f64 / ours.as_raw().len() as f64;
        println!("{file}: worst {worst}, {:.3} % differ", 100.0 * share);
        let (most, most_share) = tolerance(op);
        if worst > most || share > most_share {
            failures +=
                &format!("{file}: worst {worst} (at most {most}), share {share:.4} (at most {most_share})\n");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

fn apply(source: &RgbImage, op: &str, params: &Value) -> RgbImage {
    let number = |name: &str| params[name].as_f64().unwrap();
    let size = || params["size"].as_u64().unwrap() as u32;
    let pixels = |ops: &[PixelOp]| {
        let mut image = source.clone();
        apply_pixel_ops(&mut image, ops);
        image
    };
    match op {
        "brightness" => pixels(&[PixelOp::Brightness(number("factor") as f32)]),
        "contrast" => pixels(&[PixelOp::Contrast(number("factor") as f32)]),
        "saturation" => pixels(&[PixelOp::Saturation(number("factor") as f32)]),
        "hue" => pixels(&[PixelOp::Hue(number("turn") as f32)]),
        "chain" => {
            let factor = |i: usize| params["factors"][i].as_f64().unwrap() as f32;
            pixels(&[
                PixelOp::Brightness(factor(0)),
                PixelOp::Contrast(factor(1)),
                PixelOp::Saturation(factor(2)),
            ])
        }
        "grayscale" => pixels(&[PixelOp::Grayscale]),
        "solarize" => pixels(&[PixelOp::Solarize(number("threshold") as u8)]),
        "blur" => {
            let mut image = source.clone();
            gaussian_blur(&mut image, number("kernel_size") as u32, number("sigma")).unwrap();
            image
        }
        "flip" => {
            let mut image = source.clone();
            flip_horizontal(&mut image);
            image
        }
        "resized_crop" => {
            let [top, left, height, width] = [0, 1, 2, 3].map(|i| params["box"][i].as_u64().unwrap() as u32);
            let [h, w] = [0, 1].map(|i| params["size"][i].as_u64().unwrap() as u32);
            let interpolation: Interpolation =
                serde_json::from_value(params["interpolation"].clone()).unwrap();
            resize_region(source, Region { left, top, width, height }, w, h, interpolation, false).unwrap()
        }
        "resize" => {
            let (width, height) = source.dimensions();
            let (w, h) =
                Resize { size: size(), interpolation: Interpolation::Bilinear }.output_size(width, height);
            resize_region(source, Region::whole(width, height), w, h, Interpolation::Bilinear, false).unwrap()
        }
        "center_crop" => {
            let region = CenterCrop { size: size() }.region(source.width(), source.height()).unwrap();
            source.view(region.left, region.top, region.width, region.height).to_image()
        }
        "center_view" => center_view(source, size()).unwrap(),
        "timm_eval" | "timm_squash" => {
            let resize = params["resize"].as_u64().unwrap() as u32;
            let (interpolation, squash) = (Interpolation::Bicubic, op == "timm_squash");
            CenterView { size: size(), resize, interpolation, squash }.apply(source).unwrap()
        }
        _ => panic!("unknown operation {op}"),
    }
}
