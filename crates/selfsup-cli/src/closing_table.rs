//! The table that ends a pretraining: raw pixels, the same encoder untrained, and the pretrained one, by probes of their features. A run
//! keeps it as `probes.json`.

use crate::commands::probe::{Parts, say_split};
use crate::failure::Result;
use crate::frozen::ExtractArgs;
use crate::frozen::PIXELS_IMAGE_SIZE;
use crate::output;
use crate::source::SourceName;
use anyhow::{Context, anyhow};
use selfsup_data::{OpenOptions, Split, open_labelled_parts};
use selfsup_models::Encoder;
use selfsup_probe::{Frozen, Kind, ProbeConfig, run as probe};
use selfsup_train::PretrainConfig;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Its name in a run's folder.
const FILE: &str = "probes.json";
/// Few labels, and how often they are drawn.
const FEW_LABELS: usize = 10;
const FEW_LABELS_SEEDS: u64 = 3;

/// Probes of three kinds of features of the same images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClosingTable {
    /// Of the pretrained encoder.
    pub encoder_sha256: String,
    /// The labelled images.
    pub data: String,
    /// Images that probes were fitted on, and that they were measured on.
    pub train: usize,
    pub test: usize,
    /// Whether the encoder was trained on those it was measured on, too.
    #[serde(default)]
    pub seen: bool,
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    /// One for each column.
    pub cells: Vec<Cell>,
}

/// Top-1, a share of the test images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    pub mean: f64,
    /// Over draws of labels, if there are several.
    pub std: Option<f64>,
}

impl ClosingTable {
    /// Measures. The training is done: what the labels do not allow is left out and said; `None` where they allow nothing.
    pub fn measure(
        encoder: &Encoder,
        config: &PretrainConfig,
        data: &str,
        quiet: bool,
    ) -> Result<Option<Self>> {
        let parts = match open_labelled_parts(data, None, &OpenOptions::default()) {
            Ok(parts) => parts,
            Err(why) => {
                output::say(format_args!(
                    "no table: {why}; `selfsup probe` measures the encoder on labelled images"
                ));
                return Ok(None);
            }
        };
        say_split(&parts, data);
        let seen =
            parts.split == Split::Hashed && SourceName::of(data).is_where(&SourceName::of(&config.data));
        let parts = Parts::from(parts);
        let mut columns = Vec::new();
        for (name, config) in self::columns() {
            match parts.check(&config) {
                Ok(()) => columns.push((name, config)),
                Err(why) => output::say(format_args!("no column `{name}`: {why}")),
            }
        }
        if columns.is_empty() {
            return Ok(None);
        }
        let image_size = u32::try_from(config.image_size).unwrap_or(u32::MAX).min(PIXELS_IMAGE_SIZE);
        let untrained = Encoder::untrained(
            encoder.arch(),
            encoder.preprocessing().clone(),
            config.seed,
            encoder.device(),
        )?;
        let frozen = [
            (format!("raw pixels, {image_size}×{image_size}"), Frozen::Pixels { image_size }),
            (format!("{}, untrained", config.arch), Frozen::Encoder(untrained)),
            (format!("{}, {}", config.arch, config.method.name()), Frozen::Encoder(encoder.clone())),
        ];
        let extract = ExtractArgs::new(&config.device, config.workers, quiet);
        let mut table = Self {
            encoder_sha256: encoder.params().sha256()?,
            data: data.to_owned(),
            train: 0,
            test: 0,
            seen,
            columns: columns.iter().map(|(name, _)| name.clone()).collect(),
            rows: Vec::new(),
        };
        for (name, frozen) in frozen {
            let (train, test) = parts.features(&frozen, &extract, &name)?;
            (table.train, table.test) = (train.len(), test.len());
            let mut cells = Vec::new();
            for (_, column) in &columns {
                cells.extend(probe(&train, &test, parts.classes(), column)?.iter().map(|result| Cell {
                    mean: result.mean,
                    std: (result.values.len() > 1).then_some(result.std),
                }));
            }
            table.rows.push(Row { name, cells });
        }
        Ok(Some(table))
    }

    /// Head and rows, in percent.
    pub fn text(&self) -> Vec<Vec<String>> {
        let head =
            std::iter::once("top-1 on the test part, %".to_owned()).chain(self.columns.iter().cloned());
        let rows = self.rows.iter().map(|row| {
            std::iter::once(row.name.clone()).chain(row.cells.iter().map(Cell::percent)).collect()
        });
        std::iter::once(head.collect()).chain(rows).collect()
    }

    /// Keeps it in a run's folder.
    pub fn save(&self, run: &Path) -> Result {
        let path = run.join(FILE);
        std::fs::write(&path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(())
    }

    /// The one that a run's folder keeps, if it is of this encoder.
    pub fn kept(run: &Path, encoder: &Encoder) -> Result<Option<Self>> {
        let path = run.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let table: Self =
            serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        if table.rows.iter().any(|row| row.cells.len() != table.columns.len()) {
            return Err(anyhow!("{} is damaged: a row has not a cell for each column", path.display()).into());
        }
        Ok((table.encoder_sha256 == encoder.params().sha256()?).then_some(table))
    }
}

impl Cell {
    fn percent(&self) -> String {
        let mean = 100.0 * self.mean;
        self.std.map_or_else(|| format!("{mean:.1}"), |std| format!("{mean:.1} ± {:.1}", 100.0 * std))
    }
}

/// The columns: each a probe with one row of results.
pub fn columns() -> [(String, ProbeConfig); 3] {
    let all = |kind| ProbeConfig { kinds: vec![kind], seeds: vec![0], ..ProbeConfig::default() };
    let few = ProbeConfig {
        labels_per_class: vec![Some(FEW_LABELS)],
        seeds: (0..FEW_LABELS_SEEDS).collect(),
        ..all(Kind::Linear)
    };
    [
        ("kNN".into(), all(Kind::Knn)),
        ("linear".into(), all(Kind::Linear)),
        (format!("linear, {FEW_LABELS} a class"), few),
    ]
}
