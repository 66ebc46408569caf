//! `selfsup colorize`: a colorization run's model colours images at full size.

use crate::failure::{self, Failure, OrUsage, Result};
use crate::progress::Progress;
use crate::{destination, output};
use anyhow::{Context, anyhow};
use clap::Args;
use image::RgbImage;
use selfsup_data::{DEFAULT_MAX_PIXELS, OpenOptions, Source, decode};
use selfsup_train::method::Colorization;
use selfsup_train::{MethodConfig, RunFolder, load_model};
use std::path::{Path, PathBuf};

/// `colorize`
#[derive(Debug, Args)]
pub struct ColorizeArgs {
    /// The folder of a colorization run
    pub run: PathBuf,
    /// Image files, and folders of images; of coloured ones only the lightness is looked at, of transparent ones what is seen on white
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// Where the coloured images go, as PNG
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Sharpens the predicted distributions before their mean is taken [default: the run's]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// auto, cpu, cuda, cuda:I or metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// No progress on stderr
    #[arg(long)]
    pub quiet: bool,
}

/// An image to colour, and where it goes.
struct Work {
    name: String,
    from: PathBuf,
    read: Box<dyn Fn() -> anyhow::Result<RgbImage>>,
    to: PathBuf,
}

/// Runs the command. An image that cannot be read is named and left out; if there was one, the command has failed.
pub fn run(args: ColorizeArgs) -> Result {
    let model = open(&args).or_usage()?;
    let mut work = Vec::new();
    for path in &args.images {
        work.extend(images(path, &args.out).or_usage()?);
    }
    let mut places: Vec<&Path> = work.iter().map(|w| w.to.as_path()).collect();
    places.sort_unstable();
    if let Some(twice) = places.windows(2).find(|pair| pair[0] == pair[1]) {
        let place = twice[0].display();
        return Err(Failure::Usage(anyhow!(
            "two of the images would go to {place}; colour them in two commands"
        )));
    }
    if let Some(over) = work.iter().find(|w| destination::is_one_of(&w.to, std::slice::from_ref(&w.from))) {
        let place = over.to.display();
        return Err(Failure::Usage(anyhow!(
            "{place} would replace what it is made from; --out names another folder"
        )));
    }
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make {}", args.out.display()))
        .or_usage()?;
    let mut progress = Progress::new("colorize", work.len() as u64, 0, args.quiet);
    let mut failed = 0;
    for (i, work) in work.iter().enumerate() {
        match (work.read)() {
            Ok(image) => {
                let coloured = model.colorize_whole(&image)?;
                if let Some(folder) = work.to.parent() {
                    std::fs::create_dir_all(folder)
                        .with_context(|| format!("cannot make {}", folder.display()))?;
                }
                coloured.save(&work.to).with_context(|| format!("cannot write {}", work.to.display()))?;
            }
            Err(why) => {
                failed += 1;
                progress.say(&format!("skipped {}: {}", work.name, failure::line(&why)));
            }
        }
        progress.at(i as u64 + 1, || "images".into());
    }
    progress.finish();
    let done = work.len() - failed;
    output::print_line(format_args!("{done} images coloured in {}", args.out.display()))?;
    match failed {
        0 => Ok(()),
        n => Err(anyhow!("{n} of {} images could not be read", work.len()).into()),
    }
}

fn open(args: &ColorizeArgs) -> anyhow::Result<Colorization> {
    let (folder, mut config) = RunFolder::open(&args.run)?;
    let device = selfsup_train::device(&args.device)?;
    let name = config.method.name();
    let MethodConfig::Colorization(method) = &mut config.method else {
        return Err(anyhow!(
            "{} is a run of {name}; only those of colorization colour images",
            args.run.display()
        ));
    };
    if let Some(temperature) = args.temperature {
        method.temperature = temperature;
    }
    let method = method.clone();
    config.validate()?;
    let encoder = config.encoder(&device)?;
    let mut model = Colorization::new(&method, encoder, config.seed)?;
    load_model(&folder.checkpoint(), &mut model)?;
    Ok(model)
}

/// A file, or every image of a folder, under its place in it.
fn images(path: &Path, out: &Path) -> anyhow::Result<Vec<Work>> {
    if path.is_dir() {
        let text = path.to_str().context("the folder's name is not UTF-8")?;
        let data = std::sync::Arc::new(selfsup_data::open(text, &OpenOptions::default())?);
        return Ok((0..data.len())
            .map(|i| {
                let (name, data) = (data.sample(i).id.clone(), data.clone());
                let (from, to) = (path.join(&name), out.join(&name).with_extension("png"));
                let read = move || match data.image(i) {
                    // It is named anyway.
                    Err(selfsup_data::Error::Decode { source, .. }) => Err(source.into()),
                    other => Ok(other?),
                };
                Work { name, from, read: Box::new(read), to }
            })
            .collect());
    }
    let name = path.file_name().with_context(|| format!("{} is no image", path.display()))?;
    if !path.is_file() {
        return Err(anyhow!("there is no image {}", path.display()));
    }
    let to = out.join(name).with_extension("png");
    let (path, from) = (path.to_owned(), path.to_owned());
    let name = path.display().to_string();
    let read = move || Ok(decode(&std::fs::read(&path)?, DEFAULT_MAX_PIXELS)?.image);
    Ok(vec![Work { name, from, read: Box::new(read), to }])
}
