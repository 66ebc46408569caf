//! The studies: which runs are compared, and what differs between them.
//!
//! All rows of a study see the same images equally often, begin from the same seeds, and are probed alike.

use super::column::{Column, Measure};
use anyhow::Result;
use clap::ValueEnum;
use selfsup_augment::{
    CenterCrop, ColorJitter, GaussianBlur, Grayscale, HorizontalFlip, Interpolation, Pipeline,
    RandomResizedCrop, Resize, Solarize, Transform,
};
use selfsup_optim::OptimizerConfig;
use selfsup_train::PretrainConfig;
use toml::{Table, Value};

/// A question that runs answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Study {
    /// SimCLR's head: none, linear, MLP; features from before and from behind it
    Heads,
    /// SimCLR's augmentations, one at a time and in pairs
    Augmentation,
    /// SimCLR against MoCo v2 at batches of 32 to 512
    Batch,
    /// MoCo v2's queue from 512 to 16,384 keys
    Queue,
}

/// Rows that are compared, and by what.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Its name.
    pub name: &'static str,
    /// What it asks, with its source.
    pub claim: &'static str,
    /// What the x axis, or the rows, are.
    pub axis: &'static str,
    /// What is compared.
    pub rows: Vec<Row>,
    /// What is measured.
    pub columns: Vec<Column>,
    /// Whether features behind the head are measured too.
    pub embeddings: bool,
}

/// What a row trains.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its name, which is also its folder's.
    pub name: String,
    /// Where it stands in the plot.
    pub place: Place,
    /// The method, and the settings over its defaults and the command's.
    pub run: Run,
}

/// How features come about.
#[derive(Debug, Clone, PartialEq)]
pub enum Run {
    /// The pixels themselves.
    Pixels,
    /// The untrained encoder.
    Untrained,
    /// The encoder trained on all labels.
    Supervised,
    /// A pretraining.
    Train {
        /// The method's name.
        method: &'static str,
        /// Settings over its defaults.
        settings: Table,
    },
}

/// Where a row stands in its study's plot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// A line beside which the others are read.
    Baseline,
    /// A bar.
    Bar,
    /// A line of a list.
    Rank,
    /// A point of a curve.
    Point {
        /// The curve.
        series: &'static str,
        /// The value on the x axis.
        x: f64,
    },
    /// A cell of a matrix.
    Cell {
        /// The row of the matrix.
        row: &'static str,
        /// Its column.
        column: &'static str,
    },
}

impl Study {
    /// Its name on the command line.
    fn name(self) -> &'static str {
        match self {
            Study::Heads => "heads",
            Study::Augmentation => "augmentation",
            Study::Batch => "batch",
            Study::Queue => "queue",
        }
    }

    /// The claim that it tests, with its source.
    fn claim(self) -> &'static str {
        match self {
            Study::Heads => {
                "A non-linear projection head is better than a linear one, and that than none; features from before the head are \
                 better than those from behind it (Chen et al. 2020, §4.2, figure 8 and table 3)."
            }
            Study::Augmentation => {
                "No single transformation suffices; random cropping with colour distortion stands out (Chen et al. 2020, §3.1, \
                 figure 5)."
            }
            Study::Batch => {
                "SimCLR needs large batches; MoCo v2 does not, as its queue holds the negatives (Chen et al. 2020, figure 9; Chen, Fan \
                 et al. 2020, tables 2 and 3)."
            }
            Study::Queue => "More negatives are better, whatever the batch (He et al. 2020, figure 3).",
        }
    }

    /// What the x axis, or the rows, are.
    fn axis(self) -> &'static str {
        match self {
            Study::Heads => "head",
            Study::Augmentation => "transforms",
            Study::Batch => "images a step",
            Study::Queue => "keys in the queue",
        }
    }

    /// The whole of it, see [`Study::rows`].
    pub fn question(self, base: &dyn Fn(&'static str) -> Result<PretrainConfig>) -> Result<Question> {
        Ok(Question {
            name: self.name(),
            claim: self.claim(),
            axis: self.axis(),
            rows: self.rows(base)?,
            columns: [Measure::Knn, Measure::Linear, Measure::Few(10)].map(Column::from).to_vec(),
            embeddings: self == Study::Heads,
        })
    }

    /// The rows. `base` has the command's settings: what differs is worked out from its image size and rates.
    fn rows(self, base: &dyn Fn(&'static str) -> Result<PretrainConfig>) -> Result<Vec<Row>> {
        let baseline = |name: &str, run| Row { name: name.into(), place: Place::Baseline, run };
        let mut rows = vec![baseline("pixels", Run::Pixels), baseline("untrained", Run::Untrained)];
        match self {
            Study::Heads => rows.extend(heads()),
            Study::Augmentation => rows.extend(augmentation(base("simclr")?.image_size as u32)),
            Study::Batch => {
                for method in ["simclr", "moco-v2"] {
                    let base = base(method)?;
                    for batch in [32, 64, 128, 256, 512] {
                        let settings = of_batch(&base, batch);
                        rows.push(point(method, format!("{method}-batch-{batch}"), batch, settings));
                    }
                }
            }
            Study::Queue => {
                const BATCH: usize = 64;
                let simclr = of_batch(&base("simclr")?, BATCH);
                let place = Place::Baseline;
                let run = Run::Train { method: "simclr", settings: simclr };
                rows.push(Row { name: format!("simclr-batch-{BATCH}"), place, run });
                let base = base("moco-v2")?;
                for queue in [512usize, 1024, 2048, 4096, 8192, 16_384] {
                    let mut settings = of_batch(&base, BATCH);
                    settings.insert("method".into(), table([("queue", (queue as i64).into())]));
                    rows.push(point("moco-v2", format!("moco-v2-queue-{queue}"), queue, settings));
                }
            }
        }
        Ok(rows)
    }
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Table(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn point(method: &'static str, name: String, x: usize, settings: Table) -> Row {
    Row { name, place: Place::Point { series: method, x: x as f64 }, run: Run::Train { method, settings } }
}

/// The batch, and the rate that goes with it: in proportion (Goyal et al. 2017), with AdamW by the root (Malladi et al. 2022).
fn of_batch(base: &PretrainConfig, batch: usize) -> Table {
    let ratio = batch as f64 / base.batch_size as f64;
    let factor = if matches!(base.optimizer, OptimizerConfig::AdamW(_)) { ratio.sqrt() } else { ratio };
    Table::from_iter([
        ("batch_size".to_owned(), (batch as i64).into()),
        ("optimizer".to_owned(), table([("lr", (base.optimizer.lr() * factor).into())])),
    ])
}

fn heads() -> Vec<Row> {
    let row = |(name, layers): (&str, i64)| {
        let projector = table([("layers", layers.into())]);
        let settings = Table::from_iter([("method".to_owned(), table([("projector", projector)]))]);
        Row { name: name.into(), place: Place::Bar, run: Run::Train { method: "simclr", settings } }
    };
    [("none", 0), ("linear", 1), ("mlp", 2)].map(row).into()
}

/// Each transform of SimCLR's recipe and two more, with the recipe's strength and chance.
fn transforms(side: u32) -> [(&'static str, Transform); 6] {
    let jitter = ColorJitter { p: 0.8, brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 };
    [
        ("crop", Transform::RandomResizedCrop(RandomResizedCrop::new(side, [0.08, 1.0]))),
        ("flip", Transform::HorizontalFlip(HorizontalFlip { p: 0.5 })),
        ("colour", Transform::ColorJitter(jitter)),
        ("gray", Transform::Grayscale(Grayscale { p: 0.2 })),
        ("blur", Transform::GaussianBlur(GaussianBlur { p: 0.5, sigma: [0.1, 2.0], kernel_size: None })),
        ("solarize", Transform::Solarize(Solarize { p: 0.2, threshold: 128 })),
    ]
}

/// Singles on the diagonal, pairs below it. Without a crop the image is only brought to its size.
fn augmentation(side: u32) -> Vec<Row> {
    let all = transforms(side);
    let mut rows = Vec::new();
    for (i, (row, first)) in all.iter().enumerate() {
        for (column, second) in &all[..=i] {
            let mut pipeline = Vec::new();
            if !matches!(second, Transform::RandomResizedCrop(_)) {
                pipeline
                    .push(Transform::Resize(Resize { size: side, interpolation: Interpolation::Bilinear }));
                pipeline.push(Transform::CenterCrop(CenterCrop { size: side }));
            }
            pipeline.push(*second);
            if row != column {
                pipeline.push(*first);
            }
            let pipeline = Value::try_from(Pipeline(pipeline)).expect("transforms are plain values");
            let settings = Table::from_iter([("method".to_owned(), table([("augmentation", pipeline)]))]);
            let name = if row == column { (*row).to_owned() } else { format!("{column}+{row}") };
            rows.push(Row {
                name,
                place: Place::Cell { row, column },
                run: Run::Train { method: "simclr", settings },
            });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(method: &'static str) -> Result<PretrainConfig> {
        Ok(PretrainConfig::resolve(method, &[])?)
    }

    #[test]
    fn every_row_resolves_and_has_a_name_of_its_own() {
        for study in Study::value_variants() {
            let rows = study.rows(&base).unwrap();
            let names: std::collections::BTreeSet<&str> = rows.iter().map(|row| &row.name[..]).collect();
            assert_eq!(names.len(), rows.len());
            for row in &rows {
                if let Run::Train { method, settings } = &row.run {
                    PretrainConfig::resolve(method, std::slice::from_ref(settings)).unwrap();
                }
            }
        }
    }

    #[test]
    fn the_rate_goes_with_the_batch() {
        let rate = |method, optimizer: &str, batch| {
            let layer = selfsup_train::parse_setting(optimizer).unwrap();
            let base = PretrainConfig::resolve(method, &[layer]).unwrap();
            of_batch(&base, batch)["optimizer"]["lr"].as_float().unwrap()
        };
        let sgd = "optimizer={name=\"sgd\", lr=0.1}";
        assert!((rate("simclr", sgd, 64) - 0.05).abs() < 1e-12, "half of the 128 of the first look");
        let adamw = "optimizer={name=\"adamw\", lr=0.004}";
        assert!((rate("simclr", adamw, 32) - 0.002).abs() < 1e-12);
    }

    #[test]
    fn the_matrix_has_every_single_and_pair() {
        let rows = augmentation(28);
        assert_eq!(rows.len(), 6 + 15);
        let of = |name: &str| match &rows.iter().find(|row| row.name == name).unwrap().run {
            Run::Train { settings, .. } => {
                let names = settings["method"]["augmentation"].as_array().unwrap().clone();
                names.iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
            }
            _ => panic!("a training"),
        };
        assert_eq!(of("crop"), ["random_resized_crop"]);
        assert_eq!(of("crop+colour"), ["random_resized_crop", "color_jitter"]);
        assert_eq!(of("gray"), ["resize", "center_crop", "grayscale"]);
        assert_eq!(of("flip+blur"), ["resize", "center_crop", "horizontal_flip", "gaussian_blur"]);
    }
}
