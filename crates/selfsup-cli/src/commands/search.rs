//! `selfsup search`: the images of an index that are most like some images.

use crate::commands::show::grid;
use crate::failure::{Failure, OrUsage, Result};
use crate::index::Index;
use crate::table::render;
use crate::{destination, frozen, output};
use anyhow::{Context, anyhow};
use clap::Args;
use image::{ImageFormat, Rgb, RgbImage};
use selfsup_data::{DEFAULT_MAX_PIXELS, Dataset, OpenOptions, Part, Sample, Source, decode};
use selfsup_models::hub::{Hub, HubSpec};
use selfsup_probe::knn::{Neighbour, nearest};
use selfsup_probe::{ExtractConfig, Frozen, extract};
use serde_json::json;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// `search`
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// What `selfsup embed … --out FILE.safetensors` wrote
    #[arg(value_name = "INDEX")]
    pub index: PathBuf,
    /// The images to find the like of
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
    /// How many of each
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub top: u64,
    /// The encoder of the index, if it does not lie where it lay
    #[arg(long, value_name = "ENCODER")]
    pub encoder: Option<String>,
    /// A picture: each image, and what was found for it
    #[arg(long, value_name = "FILE.png")]
    pub out: Option<PathBuf>,
    /// The images of the index, if they do not lie where they lay; only the picture needs them
    #[arg(long, value_name = "SRC", requires = "out")]
    pub data: Option<String>,
    /// auto, cpu, cuda, cuda:I or metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// One JSON document on stdout
    #[arg(long)]
    pub json: bool,
    /// No messages on stderr
    #[arg(long)]
    pub quiet: bool,
}

/// Side of an image in the picture.
const SIDE: u32 = 128;

/// Runs the command.
pub fn run(args: SearchArgs) -> Result {
    if let Some(out) = &args.out {
        if out.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png")) {
            return Err(Failure::Usage(anyhow!("--out must end in .png, got {}", out.display())));
        }
        let sources: Vec<PathBuf> = args.images.iter().chain([&args.index]).cloned().collect();
        destination::check(out, &sources).or_usage()?;
    }
    let index = Index::open(&args.index).or_usage()?;
    let pictures = Arc::new(Pictures::open(&args.images).or_usage()?);
    let data = match &args.out {
        Some(_) => Some(sources(&args, &index).or_usage()?),
        None => None,
    };
    let encoder = args.encoder.as_ref().unwrap_or(&index.encoder);
    let frozen = encoder_of(&args, &index)?;
    if !index.is_made_by(&frozen)? {
        return Err(Failure::Usage(anyhow!(
            "`{encoder}` is not the encoder that {} was made by; --encoder names that one",
            args.index.display()
        )));
    }
    let config = ExtractConfig { batch_size: 64, workers: 0, strict: true };
    let asked = extract(&frozen, pictures.clone(), &config, &mut |_| ())?;
    for (sample, features) in pictures.samples.iter().zip(asked.values.chunks(asked.dim)) {
        let why = match features {
            _ if features.iter().any(|value| !value.is_finite()) => "are not finite",
            _ if features.iter().all(|&value| value == 0.0) => {
                "are all zero: nothing is more like it than anything else"
            }
            _ => continue,
        };
        return Err(Failure::Work(anyhow!("the features of {} {why}", sample.id)));
    }
    let top = usize::try_from(args.top).or_usage()?;
    let found = nearest(&index.features.values, &asked.values, index.features.dim, top)?;

    if args.json {
        let results: Vec<_> = pictures
            .samples
            .iter()
            .zip(&found)
            .map(|(sample, found)| {
                let found = found.iter().map(|at| {
                    let (id, class) = named(&index, at);
                    json!({ "id": id, "class": class, "similarity": at.similarity })
                });
                json!({ "image": sample.id, "nearest": found.collect::<Vec<_>>() })
            })
            .collect();
        let document = json!({ "index": args.index.display().to_string(), "encoder": encoder, "data": index.data, "results": results });
        output::print_line(serde_json::to_string_pretty(&document)?)?;
    } else {
        for (i, (sample, found)) in pictures.samples.iter().zip(&found).enumerate() {
            if i > 0 {
                output::print_line("")?;
            }
            let mut rows = vec![vec![sample.id.clone(), "similarity".into(), "class".into()]];
            rows.extend(found.iter().map(|at| {
                let (id, class) = named(&index, at);
                vec![id.to_owned(), format!("{:.4}", at.similarity), class.unwrap_or("–").to_owned()]
            }));
            output::print(render(&rows))?;
        }
    }
    if let (Some(out), Some(data)) = (&args.out, &data) {
        let picture = picture(&pictures, &index, &found, data)?;
        destination::write(out, |path| Ok(picture.save_with_format(path, ImageFormat::Png)?))?;
    }
    Ok(())
}

/// The index's encoder, where it lay or where the command says. Whoever made the index does not choose what is fetched.
fn encoder_of(args: &SearchArgs, index: &Index) -> Result<Frozen> {
    let open =
        |encoder: &str| frozen::open_as(encoder, &index.extract(encoder, &args.device, args.quiet), true);
    if let Some(encoder) = &args.encoder {
        return open(encoder);
    }
    let encoder = &index.encoder;
    let opened = match encoder.starts_with(HubSpec::SCHEME) {
        true => {
            let cached = Hub::from_env().offline(true).fetch(&encoder.parse().or_usage()?);
            let path = cached.map_err(|e| Failure::Usage(e.into())).map(|fetched| fetched.path);
            path.and_then(|path| open(&path.to_string_lossy()))
        }
        false => open(encoder),
    };
    opened.map_err(|failure| match failure {
        Failure::Usage(why) => {
            let index = args.index.display();
            Failure::Usage(
                why.context(format!(
                    "{index} was made by `{encoder}`; --encoder ENCODER says where it is now"
                )),
            )
        }
        other => other,
    })
}

/// Id and class of what was found.
fn named<'a>(index: &'a Index, at: &Neighbour) -> (&'a str, Option<&'a str>) {
    let class = index.features.labels[at.index].map(|label| index.classes[label as usize].as_str());
    (&index.features.ids[at.index], class)
}

/// The images of the index, by their ids.
fn sources(args: &SearchArgs, index: &Index) -> anyhow::Result<(Dataset, HashMap<String, usize>)> {
    let options = OpenOptions { part: Part::All, ..OpenOptions::default() };
    let source = args.data.as_ref().unwrap_or(&index.data);
    let data = selfsup_data::open(source, &options).with_context(|| {
        format!("the images of the index are not at `{source}`; --data says where they are")
    })?;
    let places = (0..data.len()).map(|i| (data.sample(i).id.clone(), i)).collect();
    Ok((data, places))
}

/// A row for each image: itself, and what was found.
fn picture(
    pictures: &Pictures,
    index: &Index,
    found: &[Vec<Neighbour>],
    (data, places): &(Dataset, HashMap<String, usize>),
) -> anyhow::Result<RgbImage> {
    let mut tiles = Vec::new();
    for (i, found) in found.iter().enumerate() {
        tiles.push(small(&pictures.image(i)?)?);
        for at in found {
            // One that has gone since, or cannot be read any more, leaves its place empty.
            let id = &index.features.ids[at.index];
            let empty = |why: &str| {
                output::say(format_args!("no picture of `{id}` of `{}`: {}", data.name(), why.trim_end()));
                RgbImage::from_pixel(SIDE, SIDE, Rgb([128; 3]))
            };
            let tile = match places.get(id).map(|place| data.image(*place)) {
                Some(Ok(image)) => small(&image)?,
                Some(Err(why)) => empty(&why.to_string()),
                None => empty("it is not there"),
            };
            tiles.push(tile);
        }
    }
    Ok(grid(&tiles, 1 + found.iter().map(Vec::len).max().unwrap_or_default(), SIDE))
}

/// The central square, no larger than it is drawn.
fn small(image: &RgbImage) -> anyhow::Result<RgbImage> {
    Ok(selfsup_augment::center_view(image, image.width().min(image.height()).min(SIDE))?)
}

/// Image files, decoded when they are wanted: many at once may be large.
struct Pictures {
    samples: Vec<Sample>,
    paths: Vec<PathBuf>,
}

impl Pictures {
    fn open(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let of = |path: &PathBuf| Sample { id: path.display().to_string(), label: None, caption: None };
        let pictures = Self { samples: paths.iter().map(of).collect(), paths: paths.to_vec() };
        for i in 0..paths.len() {
            pictures.image(i)?;
        }
        Ok(pictures)
    }
}

impl Source for Pictures {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn sample(&self, index: usize) -> &Sample {
        &self.samples[index]
    }

    fn image(&self, index: usize) -> selfsup_data::Result<RgbImage> {
        let path = &self.paths[index];
        let bytes =
            std::fs::read(path).map_err(|source| selfsup_data::Error::Io { path: path.clone(), source })?;
        let decoded = decode(&bytes, DEFAULT_MAX_PIXELS)
            .map_err(|source| selfsup_data::Error::Decode { id: self.samples[index].id.clone(), source })?;
        Ok(decoded.image)
    }
}
