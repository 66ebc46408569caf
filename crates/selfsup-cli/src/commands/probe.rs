//! `selfsup probe`.

use crate::failure::{Failure, OrUsage, Result};
use crate::frozen;
use crate::frozen::ExtractArgs;
use crate::output;
use crate::progress::Progress;
use crate::source::SourceName;
use crate::table::{plain, render};
use anyhow::anyhow;
use clap::{Args, ValueEnum};
use selfsup_data::{Dataset, LabelledParts, OpenOptions, Source, Split, open_labelled_parts};
use selfsup_models::{Encoder, Layer};
use selfsup_probe::finetune::Stage;
use selfsup_probe::knn::KnnConfig;
use selfsup_probe::linear::LinearConfig;
use selfsup_probe::{
    Features, FinetuneConfig, Frozen, Kind as ProbeKind, ProbeConfig, ProbeResult, finetune, run as probe,
};
use serde_json::json;
use std::sync::Arc;

/// `probe`
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// A run folder, a weight file (ours, or what others publish), hf:OWNER/NAME, random:ARCH, or pixels
    pub encoder: String,
    /// Labelled images to fit on
    #[arg(long, value_name = "SRC", default_value = "fashion-mnist")]
    pub data: String,
    /// Labelled images to measure on [default: the test part of --data]
    #[arg(long, value_name = "SRC")]
    pub test: Option<String>,
    /// What to fit; may be given again [default: knn and linear]
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',')]
    pub kind: Vec<Kind>,
    /// `all`, a number, or a share (1%) of all labels, equally many of each class; may be given again [default: all]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub labels_per_class: Vec<Labels>,
    /// Features from behind this layer, the mean over its pixels, in place of the encoder's end; `all`, or several, are compared
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub layer: Vec<String>,
    /// A protocol by name, in place of --kind and --labels-per-class
    #[arg(long, value_enum, value_name = "NAME", conflicts_with_all = ["kind", "labels_per_class"])]
    pub preset: Option<Preset>,
    /// Epochs of fine-tuning; at least 300 steps are made, for each draw of --seeds
    #[arg(long, value_name = "N", default_value_t = FinetuneConfig::default().epochs)]
    pub finetune_epochs: usize,
    /// Peak learning rate of the encoder in fine-tuning
    #[arg(long, value_name = "X", default_value_t = FinetuneConfig::default().backbone_lr)]
    pub backbone_lr: f64,
    /// Peak learning rate of the head in fine-tuning
    #[arg(long, value_name = "X", default_value_t = FinetuneConfig::default().head_lr)]
    pub head_lr: f64,
    /// Draws of few labels, each with its own seed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Neighbours of the kNN probe
    #[arg(long, value_name = "K", default_value_t = selfsup_probe::knn::DEFAULT_K)]
    pub k: usize,
    /// Temperature of the kNN probe's votes
    #[arg(long, value_name = "T", default_value_t = selfsup_probe::knn::DEFAULT_TEMPERATURE)]
    pub temperature: f64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub extract: ExtractArgs,
    /// One JSON document on stdout
    #[arg(long)]
    pub json: bool,
}

/// What to fit on the features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Weighted nearest neighbours
    Knn,
    /// Multinomial logistic regression
    Linear,
    /// All weights trained on the labels
    Finetune,
}

/// Protocols by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// 1 % of the labels: linear and fine-tuned
    #[value(name = "semi-1")]
    Semi1,
    /// 10 % of the labels: linear and fine-tuned
    #[value(name = "semi-10")]
    Semi10,
}

/// How many labels a class: a number, a share, or all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Labels {
    /// Every label of the training part.
    All,
    /// So many of each class.
    PerClass(usize),
    /// So many percent of all, equally many of each class.
    Percent(f64),
}

impl std::str::FromStr for Labels {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        if let Some(percent) = text.strip_suffix('%') {
            return match percent.trim().parse() {
                Ok(p) if p > 0.0 && p <= 100.0 => Ok(Self::Percent(p)),
                _ => Err("expected a share above 0 % and up to 100 %".into()),
            };
        }
        match text.parse() {
            Ok(n) if n > 0 => Ok(Self::PerClass(n)),
            _ => Err("expected `all`, a number of at least 1, or a share such as `1%`".into()),
        }
    }
}

/// Runs the command.
pub fn run(args: ProbeArgs) -> Result {
    let frozen = frozen::open(&args.encoder, &args.extract)?;
    let layers = layers(&frozen, &args.layer).or_usage()?;
    let parts = open_labelled_parts(&args.data, args.test.as_deref(), &OpenOptions::default()).or_usage()?;
    let config = config(&args, &parts.train);
    config.validate().or_usage()?;
    frozen::say_not_read(&parts.train);
    if let Some(test) = &args.test {
        let (train, test) = (SourceName::of(&args.data), SourceName::of(test));
        if train.part == test.part && train.is_where(&test) {
            output::say("warning: the test images are those that the probes are fitted on");
        }
    }
    say_split(&parts, &args.data);
    let data = Parts::from(parts);
    if !args.extract.quiet {
        say_classes(data.classes());
    }
    data.check(&config).or_usage()?;
    let results = measure(&args, &frozen, &layers, &data, &config)?;
    if args.json {
        let sha256 = match &frozen {
            Frozen::Encoder(encoder) => Some(encoder.params().sha256()?),
            Frozen::Pixels { .. } => None,
        };
        let document = json!({
            "encoder": args.encoder,
            "encoder_sha256": sha256,
            "data": args.data,
            "classes": data.train.classes(),
            "results": results,
        });
        output::print_line(serde_json::to_string_pretty(&document)?)?;
        return Ok(());
    }
    let mut rows = vec![["probe", "labels a class", "train", "test", "top-1"].map(str::to_owned).to_vec()];
    rows.extend(results.iter().map(|r| {
        let labels = r.labels_per_class.map_or("all".to_owned(), |n| n.to_string());
        vec![name(r.kind).to_owned(), labels, r.train.to_string(), r.test.to_string(), percent(r)]
    }));
    if !layers.is_empty() {
        rows[0].insert(0, "layer".into());
        for (row, result) in rows[1..].iter_mut().zip(&results) {
            row.insert(0, result.layer.clone().unwrap_or_else(|| "end".into()));
        }
    }
    output::print(render(&rows))?;
    if !args.extract.quiet {
        say_what_it_is_worth(&args, &frozen, &data, results[0].test);
    }
    Ok(())
}

/// What a figure is to be compared with, and how far to be trusted.
fn say_what_it_is_worth(args: &ProbeArgs, frozen: &Frozen, data: &Parts, tested: usize) {
    let share = data.commonest_class();
    let mut text = format!(
        "always the commonest class is right on {:.1} % of the {tested} test images, whose number alone makes a figure uncertain by up to ±{:.1}",
        100.0 * share,
        // A standard error, of a figure of one half.
        100.0 * (0.25 / tested as f64).sqrt(),
    );
    if let (Frozen::Encoder(encoder), false) = (frozen, args.encoder.starts_with("random:")) {
        let (arch, side) = (encoder.arch().name, encoder.preprocessing().image_size);
        text += &format!("; compare with `pixels` and with `random:{arch}` --image-size {side}");
    }
    output::say(text);
}

/// Probes of features first, as they cost little, then fine-tuning; the rows in the order of the kinds.
fn measure(
    args: &ProbeArgs,
    frozen: &Frozen,
    layers: &[(String, Layer)],
    data: &Parts,
    config: &ProbeConfig,
) -> Result<Vec<ProbeResult>> {
    let (tuned, of_features): (Vec<_>, Vec<_>) =
        config.kinds.iter().partition(|kind| **kind == ProbeKind::Finetune);
    if !(layers.is_empty() || tuned.is_empty()) {
        return Err(Failure::Usage(anyhow!(
            "--layer is for probes of features; fine-tuning trains all layers"
        )));
    }
    let encoder = match frozen {
        Frozen::Encoder(encoder) => Some(encoder),
        Frozen::Pixels { .. } if tuned.is_empty() => None,
        Frozen::Pixels { .. } => {
            return Err(Failure::Usage(anyhow!("pixels have no weights that could be fine-tuned")));
        }
    };
    let mut results = Vec::new();
    if !of_features.is_empty() {
        let config = ProbeConfig { kinds: of_features, ..config.clone() };
        match encoder {
            Some(encoder) if !layers.is_empty() => {
                results = measure_layers(encoder, layers, data, &args.extract, &config)?;
            }
            _ => {
                let (train, test) = data.features(frozen, &args.extract, "probe")?;
                results = probe(&train, &test, data.train.classes(), &config)?;
            }
        }
    }
    if let (Some(encoder), false) = (encoder, tuned.is_empty()) {
        let mut bar: Option<(Stage, Progress)> = None;
        let quiet = args.extract.quiet;
        let outcome = finetune::run(encoder, &data.train, &data.test, config, &mut |at| {
            let (what, unit) = match at.stage {
                Stage::Decode => ("looking at images", "images"),
                Stage::Train => ("fine-tuning", "steps"),
            };
            if let Some((_, last)) = bar.take_if(|(stage, _)| *stage != at.stage) {
                last.finish();
            }
            let (_, bar) =
                bar.get_or_insert_with(|| (at.stage, Progress::new(what, at.total as u64, 0, quiet)));
            bar.at(at.done as u64, || unit.into());
        })?;
        if let Some((_, bar)) = bar {
            bar.finish();
        }
        // Probes of features have named them.
        if results.is_empty() {
            frozen::say_skipped(&outcome.skipped);
        }
        results.extend(outcome.results);
    }
    let place = |kind| config.kinds.iter().position(|k| *k == kind);
    results.sort_by_key(|row| place(row.kind));
    Ok(results)
}

/// The rows of each layer, layer by layer.
fn measure_layers(
    encoder: &Encoder,
    layers: &[(String, Layer)],
    data: &Parts,
    args: &ExtractArgs,
    config: &ProbeConfig,
) -> Result<Vec<ProbeResult>> {
    let places: Vec<Layer> = layers.iter().map(|(_, layer)| *layer).collect();
    let of = |part, what| frozen::layer_features(encoder, &places, part, args, what);
    let (train, test) = (of(&data.train, "layers: train")?, of(&data.test, "layers: test")?);
    let mut results = Vec::new();
    for (((name, _), train), test) in layers.iter().zip(&train).zip(&test) {
        let rows = probe(train, test, data.train.classes(), config)?;
        results.extend(rows.into_iter().map(|row| ProbeResult { layer: Some(name.clone()), ..row }));
    }
    Ok(results)
}

/// The layers of their names, or of `all`, as the network has them one after the other, each once.
fn layers(frozen: &Frozen, names: &[String]) -> anyhow::Result<Vec<(String, Layer)>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let Frozen::Encoder(encoder) = frozen else { return Err(anyhow!("pixels have no layers")) };
    let network = &encoder.arch().config;
    let mut layers = Vec::new();
    for name in names {
        if name == "all" {
            for (name, _) in network.layers() {
                layers.push((name.clone(), network.layer(&name)?));
            }
        } else {
            layers.push((name.clone(), network.layer(name)?));
        }
    }
    layers.sort_by_key(|(_, layer)| *layer);
    layers.dedup_by_key(|(_, layer)| *layer);
    Ok(layers)
}

/// The two labelled parts.
pub struct Parts {
    train: Arc<Dataset>,
    test: Arc<Dataset>,
}

impl From<LabelledParts> for Parts {
    fn from(parts: LabelledParts) -> Self {
        Self { train: Arc::new(parts.train), test: Arc::new(parts.test) }
    }
}

impl Parts {
    /// The features of both parts.
    pub fn features(&self, frozen: &Frozen, args: &ExtractArgs, what: &str) -> Result<(Features, Features)> {
        let train = frozen::features(frozen, &self.train, args, &format!("{what}: train"))?;
        let test = frozen::features(frozen, &self.test, args, &format!("{what}: test"))?;
        Ok((train, test))
    }

    /// The same behind a layer.
    pub fn layer_features(
        &self,
        encoder: &Encoder,
        layer: Layer,
        args: &ExtractArgs,
        what: &str,
    ) -> Result<(Features, Features)> {
        let of = |part, what: &str| -> Result<Features> {
            let all = frozen::layer_features(encoder, &[layer], part, args, what)?;
            Ok(all.into_iter().next().expect("one a layer"))
        };
        Ok((of(&self.train, &format!("{what}: train"))?, of(&self.test, &format!("{what}: test"))?))
    }

    /// The part that probes are fitted on.
    pub fn train(&self) -> &Dataset {
        &self.train
    }

    /// The part that they are measured on.
    pub fn test(&self) -> &Dataset {
        &self.test
    }

    /// The classes' names.
    pub fn classes(&self) -> &[String] {
        self.train.classes()
    }

    /// The share of the labelled test images that are of the training part's commonest class.
    fn commonest_class(&self) -> f64 {
        let labels =
            |part: &Dataset| -> Vec<u32> { (0..part.len()).filter_map(|i| part.sample(i).label).collect() };
        let mut counts = vec![0usize; self.classes().len()];
        for label in labels(&self.train) {
            counts[label as usize] += 1;
        }
        let commonest = (0..counts.len()).max_by_key(|&class| (counts[class], std::cmp::Reverse(class)));
        let test = labels(&self.test);
        let right = test.iter().filter(|&&label| Some(label as usize) == commonest).count();
        right as f64 / test.len().max(1) as f64
    }

    /// What the labels alone decide, before an encoder runs over the images.
    pub fn check(&self, config: &ProbeConfig) -> selfsup_probe::Result<()> {
        selfsup_probe::protocol::check(&*self.train, &*self.test, self.train.classes(), config)
    }
}

fn config(args: &ProbeArgs, train: &Dataset) -> ProbeConfig {
    let mut kinds: Vec<ProbeKind> = Vec::new();
    for kind in &args.kind {
        let kind = match kind {
            Kind::Knn => ProbeKind::Knn,
            Kind::Linear => ProbeKind::Linear,
            Kind::Finetune => ProbeKind::Finetune,
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let mut config = ProbeConfig {
        seeds: (0..args.seeds).collect(),
        knn: KnnConfig { k: args.k, temperature: args.temperature },
        linear: LinearConfig::default(),
        finetune: FinetuneConfig {
            epochs: args.finetune_epochs,
            backbone_lr: args.backbone_lr,
            head_lr: args.head_lr,
            workers: args.extract.workers,
            strict: args.extract.strict,
            ..FinetuneConfig::default()
        },
        ..ProbeConfig::default()
    };
    if !kinds.is_empty() {
        config.kinds = kinds;
    }
    let mut labels = args.labels_per_class.clone();
    if let Some(preset) = args.preset {
        config.kinds = vec![ProbeKind::Linear, ProbeKind::Finetune];
        labels = vec![Labels::Percent(match preset {
            Preset::Semi1 => 1.0,
            Preset::Semi10 => 10.0,
        })];
    }
    if !labels.is_empty() {
        let labelled = (0..train.len()).filter(|&i| train.sample(i).label.is_some()).count();
        let per_class = |l: &Labels| match l {
            Labels::All => None,
            Labels::PerClass(n) => Some(*n),
            Labels::Percent(p) => {
                let share = p / 100.0 * labelled as f64 / train.classes().len().max(1) as f64;
                Some((share.round() as usize).max(1))
            }
        };
        config.labels_per_class = labels.iter().map(per_class).collect();
    }
    config
}

/// Says how a source without a test part was split.
pub fn say_split(parts: &LabelledParts, data: &str) {
    if parts.split == Split::Hashed {
        output::say(format_args!(
            "`{data}` has no test part: a fixed hash of each image's id puts {} of {} there",
            parts.test.len(),
            parts.test.len() + parts.train.len(),
        ));
    }
}

/// Says what is told apart, which are the names of folders, and if these look like parts of a source.
fn say_classes(classes: &[String]) {
    const SHOWN: usize = 10;
    const PARTS: [&str; 9] =
        ["train", "training", "test", "testing", "val", "valid", "validation", "unlabeled", "unlabelled"];
    let more = if classes.len() > SHOWN { ", …" } else { "" };
    let shown: Vec<String> = classes.iter().take(SHOWN).map(|class| plain(class)).collect();
    output::say(format_args!("{} classes: {}{more}", classes.len(), shown.join(", ")));
    if let Some(part) = classes.iter().find(|class| PARTS.contains(&&class.to_lowercase()[..])) {
        output::say(format_args!(
            "warning: `{}` is taken for a class; a source's parts are folders `train` and `test` (or `val`) with no other beside them",
            plain(part)
        ));
    }
}

/// Mean in percent, with the standard deviation over seeds where there are several.
pub fn percent(result: &ProbeResult) -> String {
    let mean = 100.0 * result.mean;
    if result.values.len() > 1 {
        format!("{mean:.1} ± {:.1}", 100.0 * result.std)
    } else {
        format!("{mean:.1}")
    }
}

fn name(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Knn => "kNN",
        ProbeKind::Linear => "linear",
        ProbeKind::Finetune => "fine-tuned",
        _ => "other",
    }
}
