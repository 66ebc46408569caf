//! `selfsup show`: a picture of what a method sees.

use crate::commands::pretrain::{known_method, layers};
use crate::failure::{OrUsage, Result};
use crate::{destination, frozen, output};
use anyhow::{Context, anyhow};
use candle_core::Device;
use clap::Args;
use image::{Rgb, RgbImage, imageops};
use selfsup_data::{Dataset, OpenOptions, Part, Source, sample_rng};
use selfsup_train::method::{Method, collate};
use selfsup_train::{PretrainConfig, RunFolder, load_model};
use std::path::{Path, PathBuf};
use toml::Table;

/// `show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The method
    pub method: String,
    /// The images
    #[arg(long, value_name = "SRC")]
    pub data: Option<String>,
    /// The picture
    #[arg(long, value_name = "FILE.png")]
    pub out: PathBuf,
    /// A run of the method: what its model makes of the images is drawn too
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "settings", "image_size"])]
    pub run: Option<PathBuf>,
    /// How many images, each a row
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub images: u64,
    /// How many draws of each image
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=16))]
    pub draws: u64,
    /// Side of the square views, in pixels
    #[arg(long, value_name = "N")]
    pub image_size: Option<u64>,
    /// Decides the images and the draws
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Settings as TOML; --set comes on top
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// One setting; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

/// Side of a tile, at least, in pixels: small images are enlarged by a whole factor.
const MIN_TILE: u32 = 96;
/// Between tiles, and more of it before each draw.
const GAP: u32 = 4;
const WIDE_GAP: u32 = 12;
const PAPER: Rgb<u8> = Rgb([255, 255, 255]);

/// Draws a row an image: the image itself, then draw by draw the method's views and, of a run, what its model makes of them.
pub fn run(args: ShowArgs) -> Result {
    known_method(&args.method)?;
    let config = resolve(&args).or_usage()?;
    destination::check(&args.out, &[]).or_usage()?;
    let options = OpenOptions { part: Part::Train, ..OpenOptions::default() };
    let data = selfsup_data::open(args.data.as_deref().unwrap_or(&config.data), &options).or_usage()?;
    let count = args.images as usize;
    let Shown { rows, names, predicted } =
        tiles(&config, args.run.as_deref(), &data, count, args.draws, args.seed)?;
    if args.run.is_some() && predicted == 0 {
        output::say(format_args!("{} predicts no pictures: its views alone are drawn", args.method));
    }
    let count = rows.len();
    let picture = draws(&rows, names.len(), u32::try_from(config.image_size)?);
    picture.save(&args.out).with_context(|| format!("cannot write {}", args.out.display()))?;
    output::print_line(format_args!(
        "{}: {count} rows; columns: the image, then {} draws of {}",
        args.out.display(),
        args.draws,
        names.join(", ")
    ))?;
    Ok(())
}

/// Rows of pictures: an image, then draw by draw the method's views with what is to be found out about them, or, of a run, what its model
/// makes of them.
pub struct Shown {
    pub rows: Vec<Vec<RgbImage>>,
    /// Of a draw's pictures.
    pub names: Vec<&'static str>,
    /// How many of them are the model's.
    pub predicted: usize,
}

/// The images are from all over the source, not its first class alone.
pub fn tiles(
    config: &PretrainConfig,
    run: Option<&Path>,
    data: &Dataset,
    images: usize,
    draws: u64,
    seed: u64,
) -> Result<Shown> {
    let prepare = config.method.prepare().or_usage()?;
    let model = run.map(|run| open(run, config)).transpose().or_usage()?;
    let (mut names, mut predicted) = (Vec::new(), 0);
    let mut rows = Vec::new();
    let count = images.min(data.len());
    for row in 0..count {
        let Some((index, image)) = readable(data, row * data.len() / count, (row + 1) * data.len() / count)?
        else {
            continue;
        };
        let mut tiles = vec![image.clone()];
        for draw in 0..draws {
            let example = prepare.prepare(&image, &|view| sample_rng(seed, draw, index as u64, view))?;
            let made = match &model {
                Some(model) => model.pictures(&collate(std::slice::from_ref(&example), &Device::Cpu)?)?,
                None => Vec::new(),
            };
            // What a model makes of a view is shown beside it; otherwise what it is to find out is.
            let (of, mut pictures): (Vec<_>, Vec<_>) = match made.is_empty() {
                true => prepare.pictures(&example)?.into_iter().unzip(),
                false => (prepare.view_names().to_vec(), example.views),
            };
            predicted = made.len();
            names = of;
            for (name, picture) in made {
                let (_, h, w, _) = picture.dims4()?;
                let pixels = picture.flatten_all()?.to_vec1::<u8>()?;
                names.push(name);
                pictures.extend(RgbImage::from_raw(w as u32, h as u32, pixels));
            }
            tiles.extend(pictures);
        }
        rows.push(tiles);
    }
    if rows.is_empty() {
        return Err(anyhow!("none of the images that would be shown can be read").into());
    }
    Ok(Shown { rows, names, predicted })
}

/// The first image of some in a row that can be read; others are named.
fn readable(data: &Dataset, from: usize, to: usize) -> Result<Option<(usize, RgbImage)>> {
    for index in from..to {
        match data.image(index) {
            Ok(image) => return Ok(Some((index, image))),
            Err(selfsup_data::Error::Decode { id, source }) => {
                frozen::say_skipped(&[(id, source.to_string())]);
            }
            Err(other) => return Err(other.into()),
        }
    }
    Ok(None)
}

fn resolve(args: &ShowArgs) -> anyhow::Result<PretrainConfig> {
    if args.out.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png")) {
        return Err(anyhow!("--out must end in .png, got {}", args.out.display()));
    }
    if let Some(run) = &args.run {
        let (_, config) = RunFolder::open(run)?;
        let name = config.method.name();
        if name != args.method {
            return Err(anyhow!("{} is a run of {name}, not of {}", run.display(), args.method));
        }
        return Ok(config);
    }
    let mut flags = Table::new();
    if let Some(data) = &args.data {
        flags.insert("data".into(), data.clone().into());
    }
    if let Some(size) = args.image_size {
        flags.insert("image_size".into(), i64::try_from(size)?.into());
    }
    Ok(PretrainConfig::resolve(&args.method, &layers(args.config.as_deref(), flags, &args.settings)?)?)
}

/// A run's model.
fn open(run: &Path, config: &PretrainConfig) -> anyhow::Result<Box<dyn Method>> {
    let (folder, _) = RunFolder::open(run)?;
    let mut method = config.method.build(config.encoder(&Device::Cpu)?, config.seed)?;
    load_model(&folder.checkpoint(), method.as_mut())?;
    Ok(method)
}

/// Tiles in rows of `columns`, each fitted into a square: a patch is drawn as large as the image that it is of.
pub fn grid(tiles: &[RgbImage], columns: usize, side: u32) -> RgbImage {
    grouped(tiles, columns, side, |_| 0)
}

/// Rows of an image and draws of so many pictures, with a gap before each draw.
pub fn draws(rows: &[Vec<RgbImage>], pictures: usize, side: u32) -> RgbImage {
    let columns = rows.first().map_or(1, Vec::len);
    grouped(&rows.concat(), columns, side, |column| (column + pictures - 1) / pictures.max(1))
}

/// A grid with so many wide gaps left of each column.
fn grouped(tiles: &[RgbImage], columns: usize, side: u32, gaps: impl Fn(usize) -> usize) -> RgbImage {
    let cell = side * MIN_TILE.div_ceil(side);
    let rows = tiles.len().div_ceil(columns);
    let extent = |n: usize| n as u32 * (cell + GAP) + GAP;
    let left = |column: usize| extent(column) + gaps(column) as u32 * WIDE_GAP;
    let mut picture = RgbImage::from_pixel(left(columns - 1) + cell + GAP, extent(rows), PAPER);
    for (i, tile) in tiles.iter().enumerate() {
        let fitted = fit(tile, cell);
        let x = left(i % columns) + (cell - fitted.width()) / 2;
        let y = extent(i / columns) + (cell - fitted.height()) / 2;
        imageops::replace(&mut picture, &fitted, i64::from(x), i64::from(y));
    }
    picture
}

/// Enlarged by the largest whole factor that fits, its pixels left visible; shrunk smoothly if it is too large.
fn fit(tile: &RgbImage, cell: u32) -> RgbImage {
    let longer = tile.width().max(tile.height());
    if longer <= cell {
        let factor = cell / longer;
        let (w, h) = (tile.width() * factor, tile.height() * factor);
        return imageops::resize(tile, w, h, imageops::FilterType::Nearest);
    }
    let scale = f64::from(cell) / f64::from(longer);
    let to = |n: u32| ((f64::from(n) * scale).round() as u32).max(1);
    imageops::resize(tile, to(tile.width()), to(tile.height()), imageops::FilterType::Triangle)
}
