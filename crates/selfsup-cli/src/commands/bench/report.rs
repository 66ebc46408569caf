//! A study's results as a table, as JSON and as a picture.

use super::column::{Column, Top1};
use super::plot;
use super::row::Outcome;
use super::study::{Place, Question};
use crate::destination;
use crate::table::render;
use anyhow::Result;
use selfsup_probe::protocol::mean_and_std;
use serde_json::json;
use std::path::Path;

/// What has been measured so far.
pub struct Report {
    question: Question,
    data: String,
    outcomes: Vec<Outcome>,
    failures: Vec<(String, u64, String)>,
}

/// Mean and standard deviation over seeds, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percent {
    pub mean: f64,
    pub std: f64,
    pub seeds: usize,
}

impl Percent {
    fn of(values: &[f64]) -> Option<Self> {
        let percent: Vec<f64> = values.iter().map(|v| 100.0 * v).collect();
        let (mean, std) = mean_and_std(&percent);
        (!values.is_empty()).then_some(Self { mean, std, seeds: values.len() })
    }
}

impl std::fmt::Display for Percent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.seeds > 1 {
            write!(f, "{:.1} ± {:.1}", self.mean, self.std)
        } else {
            write!(f, "{:.1}", self.mean)
        }
    }
}

impl Report {
    pub fn new(question: Question, data: &str) -> Self {
        Self { question, data: data.into(), outcomes: Vec::new(), failures: Vec::new() }
    }

    pub fn add(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    pub fn fail(&mut self, row: &str, seed: u64, why: String) {
        self.failures.push((row.into(), seed, why));
    }

    pub fn failures(&self) -> usize {
        self.failures.len()
    }

    /// Each row's name and place.
    pub fn rows(&self) -> impl Iterator<Item = (&str, Place)> {
        self.question.rows.iter().map(|row| (&row.name[..], row.place))
    }

    pub fn question(&self) -> &Question {
        &self.question
    }

    fn of<'a>(&'a self, row: &'a str) -> impl Iterator<Item = &'a Outcome> {
        self.outcomes.iter().filter(move |outcome| outcome.row == row)
    }

    /// A measure of a row's features over its seeds.
    pub fn percent(&self, row: &str, column: &Column) -> Option<Percent> {
        Percent::of(&self.of(row).filter_map(|outcome| value(&outcome.top1, column)).collect::<Vec<_>>())
    }

    /// The same of the embeddings behind the head.
    pub fn percent_behind(&self, row: &str, column: &Column) -> Option<Percent> {
        Percent::of(&self.of(row).filter_map(|o| value(o.behind_head.as_ref()?, column)).collect::<Vec<_>>())
    }

    /// Peak memory of a row's training in GB, the most of its seeds.
    pub fn peak_gb(&self, row: &str) -> Option<f64> {
        self.of(row).filter_map(|o| o.peak_bytes).max().map(|bytes| bytes as f64 / 1e9)
    }

    /// The table as text.
    pub fn table(&self) -> String {
        render(&self.cells())
    }

    fn cells(&self) -> Vec<Vec<String>> {
        let Question { columns, embeddings, .. } = &self.question;
        // Behind the head the first two.
        let behind = if *embeddings { &columns[..2] } else { &[] };
        let mut head = vec!["top-1 on the test part, %".to_owned()];
        head.extend(columns.iter().map(|column| column.title()));
        head.extend(behind.iter().map(|column| column.title() + " behind the head"));
        head.extend(["views", "minutes", "peak GB"].map(str::to_owned));
        let mut cells = vec![head];
        for (name, _) in self.rows() {
            let shown = |percent: Option<Percent>| percent.map_or_else(|| "–".into(), |p| p.to_string());
            let mut row = vec![name.to_owned()];
            row.extend(columns.iter().map(|column| shown(self.percent(name, column))));
            row.extend(behind.iter().map(|column| shown(self.percent_behind(name, column))));
            let trained: Vec<&Outcome> = self.of(name).filter(|o| o.views > 0).collect();
            let seconds = trained.iter().map(|o| o.seconds).sum::<f64>() / trained.len().max(1) as f64;
            row.push(trained.first().map_or_else(String::new, |o| o.views.to_string()));
            row.push(if trained.is_empty() { String::new() } else { format!("{:.1}", seconds / 60.0) });
            row.push(self.peak_gb(name).map_or_else(String::new, |gb| format!("{gb:.2}")));
            cells.push(row);
        }
        cells
    }

    /// Writes `study.md`, `study.json` and `study.svg`.
    pub fn write(&self, out: &Path) -> Result<()> {
        let write = |name: &str, text: String| {
            destination::write(&out.join(name), |path| Ok(std::fs::write(path, text)?))
        };
        let document = json!({
            "study": self.question.name,
            "data": self.data,
            "version": env!("CARGO_PKG_VERSION"),
            "outcomes": self.outcomes,
            "failures": self.failures.iter().map(|(row, seed, why)| json!({"row": row, "seed": seed, "why": why}))
                .collect::<Vec<_>>(),
        });
        write("study.json", serde_json::to_string_pretty(&document)? + "\n")?;
        write("study.md", self.markdown())?;
        write("study.svg", plot::render(self)?)
    }

    fn markdown(&self) -> String {
        let mut text =
            format!("# {}\n\n{}\n\nOn {}.\n\n", self.question.name, self.question.claim, self.data);
        for (i, row) in self.cells().iter().enumerate() {
            text += &format!("| {} |\n", row.join(" | "));
            if i == 0 {
                text += &format!("|---|{}\n", "--:|".repeat(row.len() - 1));
            }
        }
        text += "\n± is the standard deviation over seeds.\n\n![the same as a picture](study.svg)\n";
        for (row, seed, why) in &self.failures {
            text += &format!("\n{row} with seed {seed} failed: {why}\n");
        }
        text
    }
}

fn value(top1: &Top1, column: &Column) -> Option<f64> {
    top1.get(&column.key()).copied().flatten()
}
