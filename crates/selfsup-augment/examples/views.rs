//! Writes a sheet of views: one row a recipe, and one row with each transform by itself.
//!
//! ```text
//! cargo run -p selfsup-augment --example views -- [IMAGE] [OUTPUT.png]
//! ```
//!
//! Without an image a generated picture is used; the default output is `views.png`.

use image::{Rgb, RgbImage, imageops};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use selfsup_augment::{Interpolation, Pipeline, PixelOp, Region, Step, center_view, run};

const SIDE: u32 = 128;
const GAP: u32 = 4;
const COLUMNS: usize = 9;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let image = match args.next() {
        Some(path) => image::open(path)?.to_rgb8(),
        None => generated(),
    };
    let output = args.next().unwrap_or_else(|| "views.png".into());

    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let recipes = [
        ("SimCLR", Pipeline::simclr(SIDE, 1.0)),
        ("SimCLR, small images", Pipeline::simclr_cifar(SIDE)),
        ("MoCo v1", Pipeline::moco_v1(SIDE)),
        ("MoCo v2", Pipeline::moco_v2(SIDE)),
    ];
    let mut rows = Vec::new();
    println!("first column: the central view");
    for (name, pipeline) in recipes {
        println!("row {}: {name}", rows.len() + 1);
        let mut row = vec![center_view(&image, SIDE)?];
        for _ in 1..COLUMNS {
            row.push(pipeline.apply(&image, &mut rng)?);
        }
        rows.push(row);
    }

    let centre = center_view(&image, SIDE)?;
    let corner = Region { left: 0, top: 0, width: image.width() / 2, height: image.height() / 2 };
    let interpolation = Interpolation::Bilinear;
    let single = [
        ("flip", Step::Flip),
        (
            "upper left quarter",
            Step::Resize { region: corner, width: SIDE, height: SIDE, interpolation, flip: false },
        ),
        ("brightness 1.6", Step::Pixel(PixelOp::Brightness(1.6))),
        ("contrast 0.3", Step::Pixel(PixelOp::Contrast(0.3))),
        ("saturation 1.8", Step::Pixel(PixelOp::Saturation(1.8))),
        ("hue 0.2", Step::Pixel(PixelOp::Hue(0.2))),
        ("blur σ 2", Step::Blur { kernel_size: 13, sigma: 2.0 }),
        ("solarize 128", Step::Pixel(PixelOp::Solarize(128))),
    ];
    let mut row = vec![centre.clone()];
    for (name, step) in single {
        let source = if matches!(step, Step::Resize { .. }) { &image } else { &centre };
        row.push(run(source, &[step])?);
        println!("row {}, column {}: {name}", rows.len() + 1, row.len());
    }
    rows.push(row);

    let cell = SIDE + GAP;
    let mut sheet = RgbImage::from_pixel(COLUMNS as u32 * cell, rows.len() as u32 * cell, Rgb([255; 3]));
    for (y, row) in rows.iter().enumerate() {
        for (x, view) in row.iter().enumerate() {
            imageops::replace(&mut sheet, view, i64::from(x as u32 * cell), i64::from(y as u32 * cell));
        }
    }
    sheet.save(&output)?;
    println!("wrote {output}");
    Ok(())
}

/// A landscape of sorts: sky, sun, hills, and a striped house.
fn generated() -> RgbImage {
    RgbImage::from_fn(400, 300, |x, y| {
        let (fx, fy) = (x as f32, y as f32);
        let hill = 190.0 + 25.0 * (fx / 45.0).sin();
        if (fx - 310.0).hypot(fy - 70.0) < 35.0 {
            Rgb([255, 220, 60])
        } else if (120..200).contains(&x) && (130..230).contains(&y) {
            if x / 8 % 2 == 0 { Rgb([200, 40, 40]) } else { Rgb([245, 240, 230]) }
        } else if fy > hill {
            Rgb([40, (110.0 + 40.0 * (fx / 7.0).sin() * (fy / 9.0).cos()) as u8, 50])
        } else {
            Rgb([(90.0 + fy / 3.0) as u8, (150.0 + fy / 4.0) as u8, 235])
        }
    })
}
