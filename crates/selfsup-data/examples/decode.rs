//! How fast image files are decoded, on one thread: the best and the median of 40 runs.
//!
//! ```sh
//! cargo run --release -p selfsup-data --example decode -- [FILE…]
//! ```
//!
//! Without files a 500×375 JPEG is made. `benches/peers/decode.py` times Pillow in the same way.

use image::{ImageFormat, Rgb, RgbImage};
use selfsup_data::{DEFAULT_MAX_PIXELS, decode};
use std::hint::black_box;
use std::io::Cursor;
use std::time::Instant;

const RUNS: usize = 40;
const IMAGES: usize = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for path in std::env::args().skip(1) {
        let bytes = std::fs::read(&path)?;
        files.push((path, bytes));
    }
    if files.is_empty() {
        let image =
            RgbImage::from_fn(500, 375, |x, y| Rgb([(x / 2) as u8, (y / 2) as u8, (x * y / 64) as u8]));
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Jpeg)?;
        files.push(("a 500x375 JPEG".into(), bytes.into_inner()));
    }
    for (name, bytes) in &files {
        let decoded = decode(bytes, DEFAULT_MAX_PIXELS)?;
        let (width, height) = decoded.image.dimensions();
        let mut rates = Vec::with_capacity(RUNS);
        for _ in 0..RUNS {
            let start = Instant::now();
            for _ in 0..IMAGES {
                black_box(decode(black_box(bytes), DEFAULT_MAX_PIXELS)?);
            }
            rates.push(IMAGES as f64 / start.elapsed().as_secs_f64());
        }
        rates.sort_by(f64::total_cmp);
        let (best, median) = (rates[RUNS - 1], rates[RUNS / 2]);
        println!(
            "{name} ({} {} {width}x{height}, {} bytes): best {best:.0}/s, median {median:.0}/s",
            decoded.format,
            decoded.colour,
            bytes.len()
        );
    }
    Ok(())
}
