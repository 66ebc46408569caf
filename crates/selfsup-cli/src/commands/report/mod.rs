//! `selfsup report`: one page about some runs, for people who would rather look. It needs no network and nothing beside it.

mod figures;
mod page;

use crate::closing_table::columns as closing_columns;
use crate::commands::probe::{Parts, percent};
use crate::commands::show::{Shown, draws, grid, tiles};
use crate::destination;
use crate::failure::{OrUsage, Result};
use crate::frozen::ExtractArgs;
use crate::output;
use anyhow::{Context, anyhow};
use candle_core::Device;
use clap::Args;
use image::RgbImage;
use page::Page;
use selfsup_data::{Dataset, OpenOptions, Source, open_labelled_parts};
use selfsup_models::Encoder;
use selfsup_probe::linear::{self, LinearConfig};
use selfsup_probe::{Features, Frozen, Labelled, pca, run as probe};
use selfsup_train::{PretrainConfig, RunFolder, metrics};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// `report`
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Run folders
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The page
    #[arg(long, value_name = "FILE.html")]
    pub out: PathBuf,
    /// Labelled images to probe with [default: the first run's, where they have labels]
    #[arg(long, value_name = "SRC")]
    pub data: Option<String>,
    /// auto, cpu, cuda, cuda:I or metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// No progress on stderr
    #[arg(long)]
    pub quiet: bool,
}

/// Samples in the pictures of the embedding: t-SNE takes seconds for these.
const EMBEDDED: usize = 1500;
/// What t-SNE sees of the features, its perplexity and its rounds (van der Maaten & Hinton 2008: 5 to 50, 1000).
const EMBEDDED_COMPONENTS: usize = 30;
const PERPLEXITY: f32 = 30.0;
const ROUNDS: usize = 750;
/// Barnes and Hut's accuracy.
const THETA: f32 = 0.5;
/// Sample images, and neighbours of each.
const SAMPLES: usize = 8;
const NEIGHBOURS: usize = 7;
/// First-layer filters, at most.
const FILTERS: usize = 64;
/// More classes than this make no readable matrix.
const MATRIX: usize = 40;

/// A run with what is needed of it.
struct Run {
    path: PathBuf,
    config: PretrainConfig,
    records: Vec<metrics::Record>,
    encoder: Encoder,
}

/// Runs the command.
pub fn run(args: ReportArgs) -> Result {
    destination::check(&args.out, &[]).or_usage()?;
    let device = selfsup_train::device(&args.device).or_usage()?;
    let runs: Vec<Run> =
        args.runs.iter().map(|path| open(path, &device)).collect::<anyhow::Result<_>>().or_usage()?;
    let source = args.data.clone().unwrap_or_else(|| runs[0].config.data.clone());
    let parts = match open_labelled_parts(&source, None, &OpenOptions::default()) {
        Ok(parts) => Ok(Parts::from(parts)),
        Err(why) if args.data.is_some() => return Err(anyhow!(why)).or_usage(),
        Err(why) => {
            output::say(format_args!("no probes on the page: {why}; --data names labelled images"));
            Err(why)
        }
    };
    let mut page = Page::new("selfsup: what the runs learned");
    summary(&mut page, &runs);
    let mut own = Page::default();
    let mut probes = Probes::default();
    for (i, run) in runs.iter().enumerate() {
        own.anchor(2, &anchor(i), &format!("{}: {}", i + 1, run.path.display()));
        curves(&mut own, run)?;
        examples(&mut own, run, args.data.as_deref())?;
        filters(&mut own, run)?;
        if let Ok(parts) = &parts {
            worth(&mut own, run, parts, &mut probes, &args)?;
        }
        own.heading(3, "Configuration");
        own.code(&run.config.to_toml());
    }
    page.heading(2, "What the features are worth");
    match &parts {
        Ok(_) if probes.rows.first().is_none_or(|head| head.len() < 2) => {
            page.paragraph(&format!("Not measured: the labels of {source} do not suffice for a probe."));
        }
        Ok(_) => {
            page.paragraph(&format!(
                "Top-1 on the test part of {source}, %, of probes of the frozen features; ± is the standard deviation over draws of the \
                 labels."
            ));
            page.table(&probes.rows);
        }
        Err(why) => page.paragraph(&format!("Not measured: {why}; --data names labelled images.")),
    }
    page.part(own);
    let html = page.end();
    destination::write(&args.out, |path| Ok(std::fs::write(path, &html)?))?;
    output::print_line(format_args!(
        "{}: {} runs, {:.1} MB",
        args.out.display(),
        runs.len(),
        html.len() as f64 / 1e6
    ))?;
    Ok(())
}

fn open(path: &Path, device: &Device) -> anyhow::Result<Run> {
    let (folder, config) = RunFolder::open(path)?;
    let records = metrics::read(&path.join("metrics.jsonl"))?;
    let encoder = Encoder::load(&folder.encoder(), device)?;
    Ok(Run { path: path.to_owned(), config, records, encoder })
}

/// Of a run's part of the page.
fn anchor(i: usize) -> String {
    format!("run-{}", i + 1)
}

/// The table that compares the runs.
#[derive(Default)]
struct Probes {
    /// The first is the head.
    rows: Vec<Vec<String>>,
    /// The untrained encoders that have a row, by the hash of their weights and input.
    untrained: BTreeSet<String>,
}

/// All runs in a table.
fn summary(page: &mut Page, runs: &[Run]) {
    let head = ["", "run", "method", "encoder", "data", "steps", "epochs", "last loss", "images/s"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (i, run) in runs.iter().enumerate() {
        let last = run.records.last();
        let of = |f: &dyn Fn(&metrics::Record) -> String| last.map_or_else(|| "–".into(), f);
        rows.push(vec![
            (i + 1).to_string(),
            run.path.display().to_string(),
            run.config.method.name().into(),
            run.config.arch.clone(),
            run.config.data.clone(),
            of(&|r| r.step.to_string()),
            of(&|r| format!("{:.2}", r.epoch)),
            of(&|r| format!("{:.4}", r.loss)),
            of(&|r| format!("{:.0}", r.samples_per_s)),
        ]);
    }
    page.table(&rows);
    let links = runs.iter().enumerate().map(|(i, run)| (anchor(i), run.path.display().to_string()));
    page.links(links.collect::<Vec<_>>());
}

/// The loss and everything else that was logged, over the steps.
fn curves(page: &mut Page, run: &Run) -> Result {
    page.heading(3, "Curves");
    if run.records.len() < 2 {
        page.paragraph("Fewer than two steps were logged.");
        return Ok(());
    }
    let over = |value: &dyn Fn(&metrics::Record) -> Option<f64>| -> Vec<(f64, f64)> {
        run.records.iter().filter_map(|r| Some((r.step as f64, value(r)?))).collect()
    };
    let mut figures = vec![
        (figures::curve("loss", &over(&|r| Some(r.loss)))?, String::new()),
        (figures::curve("learning rate", &over(&|r| Some(r.lr)))?, String::new()),
        (figures::curve("images a second", &over(&|r| Some(r.samples_per_s)))?, String::new()),
    ];
    let names: BTreeSet<&String> = run.records.iter().flat_map(|r| r.more.keys()).collect();
    for name in names {
        let (axis, scale) = axis(name);
        let points = over(&|r| r.more.get(name).map(|value| scale * value));
        figures.push((figures::curve(&axis, &points)?, String::new()));
    }
    page.row(figures);
    Ok(())
}

/// A value's name with its unit, and what brings it to that.
fn axis(name: &str) -> (String, f64) {
    let words = name.replace('_', " ");
    match name {
        "effective_rank" => ("effective rank of the embeddings, dimensions".into(), 1.0),
        "embedding_std" => ("standard deviation of the embeddings".into(), 1.0),
        "loader_wait" => ("waiting for images, % of the time".into(), 100.0),
        "psnr" => ("PSNR, dB".into(), 1.0),
        "ab_error" => ("distance of a and b, units of Lab".into(), 1.0),
        _ => match words.strip_suffix(" top1") {
            Some(what) => (format!("{what}, top-1, %"), 100.0),
            None => (words, 1.0),
        },
    }
}

/// What the method saw, and what its model makes of it: of the run's own images, or, where these are gone, of others.
fn examples(page: &mut Page, run: &Run, others: Option<&str>) -> Result {
    page.heading(3, "What the method sees");
    let open = |source: &str| selfsup_data::open(source, &OpenOptions::default());
    let data = match (open(&run.config.data), others) {
        (Ok(data), _) => data,
        (Err(_), Some(others)) => {
            page.paragraph(&format!(
                "The run's images, {}, are not here; these are of {others}.",
                run.config.data
            ));
            open(others).or_usage()?
        }
        (Err(why), None) => {
            page.paragraph(&format!("The run's images are not here: {why}"));
            return Ok(());
        }
    };
    let Shown { rows, names, .. } = tiles(&run.config, Some(&run.path), &data, 6, 1, 0)?;
    let picture = draws(&rows, names.len(), run.config.image_size as u32);
    let html = figures::picture(&picture, picture.width().min(1100), "examples of the method's views")?;
    page.row([(html, format!("Columns: the image, then {}.", names.join(", ")))]);
    Ok(())
}

/// The first layer's weights, each filter scaled to its own range.
fn filters(page: &mut Page, run: &Run) -> Result {
    let first = run.encoder.params().iter().find(|t| t.var.rank() == 4 && t.trainable);
    let Some(first) = first.filter(|t| t.var.dims()[2] == 3) else { return Ok(()) };
    let (h, w, _, k) = first.var.dims4()?;
    let values = first.var.as_tensor().flatten_all()?.to_vec1::<f32>()?;
    let tile = |filter: usize| {
        let at = |y: u32, x: u32, c: usize| values[((y as usize * w + x as usize) * 3 + c) * k + filter];
        let all =
            || (0..h as u32).flat_map(|y| (0..w as u32).flat_map(move |x| (0..3).map(move |c| (y, x, c))));
        let (low, high) =
            all().map(|(y, x, c)| at(y, x, c)).fold((f32::MAX, f32::MIN), |(l, m), v| (l.min(v), m.max(v)));
        let level = |v: f32| (255.0 * (v - low) / (high - low).max(f32::MIN_POSITIVE)) as u8;
        RgbImage::from_fn(w as u32, h as u32, |x, y| image::Rgb([0, 1, 2].map(|c| level(at(y, x, c)))))
    };
    let tiles: Vec<RgbImage> = (0..k.min(FILTERS)).map(tile).collect();
    let picture = grid(&tiles, 16, w as u32);
    page.heading(3, "First-layer filters");
    let side = picture.width().min(800);
    let caption = format!("{} of {k} filters of {w}×{h} pixels, each over its own range.", tiles.len());
    page.row([(figures::picture(&picture, side, "first-layer filters")?, caption)]);
    Ok(())
}

/// Everything that needs features: a row of the probes' table, confusion, neighbours, the embedding.
fn worth(page: &mut Page, run: &Run, parts: &Parts, probes: &mut Probes, args: &ReportArgs) -> Result {
    let extract = ExtractArgs::new(&args.device, run.config.workers, args.quiet);
    let untrained = Encoder::untrained(
        run.encoder.arch(),
        run.encoder.preprocessing().clone(),
        run.config.seed,
        run.encoder.device(),
    )?;
    let columns: Vec<_> =
        closing_columns().into_iter().filter(|(_, config)| parts.check(config).is_ok()).collect();
    if probes.rows.is_empty() {
        let names = columns.iter().map(|(column, _)| column.clone());
        probes.rows.push(std::iter::once(String::new()).chain(names).collect());
    }
    let Probes { rows, untrained: known } = probes;
    let mut measure = |name: String, encoder: &Encoder| -> Result<(Features, Features)> {
        let features = parts.features(&Frozen::Encoder(encoder.clone()), &extract, &name)?;
        let mut row = vec![name];
        for (_, config) in &columns {
            row.extend(probe(&features.0, &features.1, parts.classes(), config)?.iter().map(percent));
        }
        rows.push(row);
        Ok(features)
    };
    let (arch, seed) = (&run.config.arch, run.config.seed);
    let name = format!("{arch} at {} px, untrained, seed {seed}", run.config.image_size);
    // Runs that began with the same weights have one such row.
    let input = format!("{:?}", untrained.preprocessing());
    if known.insert(untrained.params().sha256()? + &input) {
        measure(name, &untrained)?;
    }
    let (train, test) =
        measure(format!("{}: {}", run.path.display(), run.config.method.name()), &run.encoder)?;
    confusion(page, &train, &test, parts.classes())?;
    neighbours(page, &train, &test, parts)?;
    embedding(page, &test, parts.classes())
}

fn confusion(page: &mut Page, train: &Features, test: &Features, classes: &[String]) -> Result {
    if classes.len() > MATRIX {
        return Ok(());
    }
    let (train, test) = (train.labelled("train", classes)?, test.labelled("test", classes)?);
    let predicted = linear::fit(&train, &LinearConfig::default(), 0)?.predict(&test)?;
    let mut counts = vec![vec![0; classes.len()]; classes.len()];
    for (truth, predicted) in test.labels().iter().zip(&predicted) {
        counts[*truth as usize][*predicted as usize] += 1;
    }
    page.heading(3, "Confusion");
    page.paragraph("Of the linear probe, test images; shades are shares of a row.");
    page.confusion(classes, &counts);
    Ok(())
}

/// Test images with their nearest training images by the cosine.
fn neighbours(page: &mut Page, train: &Features, test: &Features, parts: &Parts) -> Result {
    let (known, asked) = (train.labelled("train", parts.classes())?, test.labelled("test", parts.classes())?);
    page.heading(3, "Nearest neighbours");
    page.paragraph(
        "Test images, and to their right the training images with the most similar features (cosine). A green frame: of the same class; \
         an orange one: of another.",
    );
    let count = SAMPLES.min(asked.len());
    let samples: Vec<usize> = (0..count).map(|sample| sample * asked.len() / count).collect();
    let queries: Vec<f32> = samples.iter().flat_map(|&i| asked.row(i)).copied().collect();
    let near = selfsup_probe::knn::nearest(known.values(), &queries, known.dim(), NEIGHBOURS)?;
    let mut html = String::new();
    for (&i, near) in samples.iter().zip(&near) {
        html += "<div class=\"near\">";
        html += &image_of(parts.test(), &asked, i, "")?;
        html += " → ";
        for j in near.iter().map(|neighbour| neighbour.index) {
            let same = known.labels()[j] == asked.labels()[i];
            html += &image_of(parts.train(), &known, j, if same { "hit" } else { "miss" })?;
        }
        html += "</div>\n";
    }
    page.raw(&html);
    Ok(())
}

fn image_of(data: &Dataset, labelled: &Labelled<'_>, i: usize, class: &str) -> Result<String> {
    const SIDE: u32 = 72;
    let id = &labelled.ids()[i];
    let name = &labelled.classes()[labelled.labels()[i] as usize];
    let index = (0..data.len()).find(|&at| data.sample(at).id == *id).context("a sample has gone")?;
    let image = data.image(index)?;
    let view = selfsup_augment::center_view(&image, image.width().min(image.height()).min(128))?;
    let html = figures::picture(&view, SIDE, &format!("{name}: {id}"))?;
    let title = page::escaped(&format!("{name} ({id})"));
    Ok(html.replacen("<img ", &format!("<img class=\"{class}\" title=\"{title}\" "), 1))
}

/// PCA, and t-SNE from it: with that beginning the same features give the same picture.
fn embedding(page: &mut Page, test: &Features, classes: &[String]) -> Result {
    let labelled = test.labelled("test", classes)?;
    let count = EMBEDDED.min(labelled.len());
    let rows: Vec<usize> = (0..count).map(|i| i * labelled.len() / count).collect();
    let some = labelled.select(&rows);
    let features = Features {
        values: some.values().to_vec(),
        dim: some.dim(),
        ids: some.ids().to_vec(),
        labels: some.labels().iter().map(|label| Some(*label)).collect(),
        ..Features::default()
    };
    if count < 8 || some.dim() < 2 {
        return Ok(());
    }
    let components = EMBEDDED_COMPONENTS.min(some.dim());
    let reduced = pca(&features, components)?;
    let plane: Vec<f64> =
        reduced.coordinates.chunks_exact(components).flat_map(|row| [row[0], row[1]]).collect();
    let share =
        |i: usize| format!("component {}, {:.0} % of the variance", i + 1, 100.0 * reduced.explained[i]);
    let (x, y) = (share(0), share(1));
    let mut figures = vec![(
        figures::scatter(&plane, some.labels(), classes, [&x, &y])?,
        format!("Principal components of {count} test images' features."),
    )];
    // Each needs three times as many neighbours as the perplexity says.
    let perplexity = PERPLEXITY.min((count as f32 - 2.0) / 3.0);
    let points = t_sne(&reduced.coordinates, components, &plane, perplexity);
    let caption = format!(
        "t-SNE of the same, from {components} principal components, perplexity {perplexity:.0}. Distances between groups mean little."
    );
    figures.push((figures::scatter(&points, some.labels(), classes, ["", ""])?, caption));
    page.heading(3, "The embedding");
    page.row(figures);
    Ok(())
}

fn t_sne(coordinates: &[f64], dim: usize, plane: &[f64], perplexity: f32) -> Vec<f64> {
    let values: Vec<f32> = coordinates.iter().map(|v| *v as f32).collect();
    let samples: Vec<&[f32]> = values.chunks_exact(dim).collect();
    // openTSNE's scale of the beginning: a deviation of 1e-4 along the first component.
    let n = samples.len() as f64;
    let deviation = (plane.iter().step_by(2).map(|v| v * v).sum::<f64>() / n).sqrt().max(f64::MIN_POSITIVE);
    let start: Vec<f32> = plane.iter().map(|v| (v / deviation * 1e-4) as f32).collect();
    let euclidean =
        |a: &&[f32], b: &&[f32]| a.iter().zip(*b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
    let mut tsne = bhtsne::tSNE::<f32, &[f32], 2>::new(&samples);
    tsne.perplexity(perplexity).epochs(ROUNDS).initial_embedding(start).barnes_hut(THETA, euclidean);
    tsne.embedding().into_iter().map(f64::from).collect()
}
