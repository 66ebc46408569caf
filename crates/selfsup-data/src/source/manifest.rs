//! A manifest: `FILE.csv` or `FILE.jsonl` with `path[,label][,caption][,part]`.
//!
//! Paths are relative to the manifest's folder. A CSV whose first line has no column `path` has no header;
//! its columns are then path, label, caption in this order. A line of JSONL is an object with these keys; a
//! label is a string or an integer. Classes are the labels in the order of their names, or of their numbers
//! if all are integers. `part` is `train`, `test` or empty. Other columns are refused: a misspelt one would
//! be silently lost.

use super::{Found, Item, Part, Pixels, Sample};
use crate::{Error, Result};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

const COLUMNS: [&str; 4] = ["path", "label", "caption", "part"];

/// One line, as it stands.
struct Row {
    line: u64,
    path: String,
    label: Option<String>,
    caption: Option<String>,
    part: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRow {
    path: String,
    #[serde(default)]
    label: Option<JsonLabel>,
    #[serde(default)]
    caption: Option<String>,
    #[serde(default)]
    part: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "expected a string or an integer as the label")]
enum JsonLabel {
    Name(String),
    Number(i64),
}

pub(super) fn read_csv(file: &Path, strict: bool) -> Result<Found> {
    let text = read_text(file)?;
    let wrong = |line, problem| Error::Manifest { path: file.into(), line, problem };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let mut columns: Option<Vec<String>> = None;
    let mut place = Place { byte: 0, line: 1 };
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| wrong(e.position().map_or(0, |p| p.line()), e.to_string()))?;
        let line = place.line_at(text.as_bytes(), record.position().map_or(0, |p| p.byte() as usize));
        let columns = match &columns {
            Some(columns) => columns,
            None => {
                let header: Vec<String> = record.iter().map(str::to_lowercase).collect();
                if header.iter().any(|c| c == "path") {
                    check_header(&header).map_err(|problem| wrong(line, problem))?;
                    columns = Some(header);
                    continue;
                }
                columns.insert(COLUMNS[..3].iter().map(|c| c.to_string()).collect())
            }
        };
        if record.len() > columns.len() {
            let problem = format!(
                "expected at most {} columns ({}), got {}",
                columns.len(),
                columns.join(", "),
                record.len()
            );
            return Err(wrong(line, problem));
        }
        let field = |name: &str| {
            let at = columns.iter().position(|c| c == name)?;
            record.get(at).filter(|v| !v.is_empty()).map(String::from)
        };
        let Some(path) = field("path") else {
            return Err(wrong(line, "expected a path, got an empty field".into()));
        };
        rows.push(Row { line, path, label: field("label"), caption: field("caption"), part: field("part") });
    }
    found(file, rows, strict)
}

pub(super) fn read_jsonl(file: &Path, strict: bool) -> Result<Found> {
    let text = read_text(file)?;
    let mut rows = Vec::new();
    for (i, json) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let line = i as u64 + 1;
        let wrong = |problem| Error::Manifest { path: file.into(), line, problem };
        let row: JsonRow = serde_json::from_str(json).map_err(|e| wrong(json_problem(&e)))?;
        if row.path.is_empty() {
            return Err(wrong("expected a path, got an empty string".into()));
        }
        let label = row.label.map(|l| match l {
            JsonLabel::Name(name) => name,
            JsonLabel::Number(number) => number.to_string(),
        });
        let filled = |text: Option<String>| text.filter(|t| !t.is_empty());
        rows.push(Row {
            line,
            path: row.path,
            label: filled(label),
            caption: filled(row.caption),
            part: filled(row.part),
        });
    }
    found(file, rows, strict)
}

fn found(file: &Path, rows: Vec<Row>, strict: bool) -> Result<Found> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let classes = class_names(&rows);
    let label_of: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        let wrong = |problem| Error::Manifest { path: file.into(), line: row.line, problem };
        let part = match row.part.as_deref() {
            None => None,
            Some("train") => Some(Part::Train),
            Some("test") => Some(Part::Test),
            Some(other) => {
                return Err(wrong(format!("part: expected `train`, `test` or nothing, got `{other}`")));
            }
        };
        let path: PathBuf = folder.join(&row.path);
        if strict && !path.is_file() {
            return Err(wrong(format!("no file `{}`", path.display())));
        }
        let label = row.label.map(|l| label_of[l.as_str()]);
        let sample = Sample { id: row.path.replace('\\', "/"), label, caption: row.caption };
        items.push(Item { sample, pixels: Pixels::File(path), part });
    }
    if items.is_empty() {
        return Err(Error::Empty { path: file.into(), hint: "; the manifest has no rows".into() });
    }
    // With parts, a row that names none belongs to the whole alone.
    if items.iter().any(|i| i.part.is_some()) {
        items.iter_mut().for_each(|i| i.part = i.part.or(Some(Part::All)));
    }
    Ok(Found { classes, items, ..Found::default() })
}

fn class_names(rows: &[Row]) -> Vec<String> {
    let names: BTreeSet<&str> = rows.iter().filter_map(|r| r.label.as_deref()).collect();
    let mut names: Vec<String> = names.into_iter().map(String::from).collect();
    if names.iter().all(|n| n.parse::<i64>().is_ok()) {
        names.sort_by_key(|n| n.parse::<i64>().expect("just parsed"));
    }
    names
}

fn check_header(header: &[String]) -> std::result::Result<(), String> {
    for (i, column) in header.iter().enumerate() {
        if !COLUMNS.contains(&column.as_str()) {
            return Err(format!("unknown column `{column}`; expected {}", COLUMNS.join(", ")));
        }
        if header[..i].contains(column) {
            return Err(format!("column `{column}` stands twice"));
        }
    }
    Ok(())
}

fn read_text(file: &Path) -> Result<String> {
    let bytes = std::fs::read(file).map_err(|source| Error::Io { path: file.into(), source })?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let line =
            1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count() as u64;
        Error::Manifest { path: file.into(), line, problem: "expected UTF-8 text".into() }
    })?;
    Ok(text.strip_prefix('\u{feff}').map(String::from).unwrap_or(text))
}

/// A place in a text and its line, moved forward only.
struct Place {
    byte: usize,
    line: u64,
}

impl Place {
    /// The line of the record that begins at or after `byte`: the reader counts blank lines before a record
    /// to it.
    fn line_at(&mut self, text: &[u8], byte: usize) -> u64 {
        let blank = text[byte..].iter().take_while(|b| matches!(b, b'\n' | b'\r')).count();
        let begin = byte + blank;
        self.line += text[self.byte..begin].iter().filter(|&&b| b == b'\n').count() as u64;
        self.byte = begin;
        self.line
    }
}

/// serde_json's message without its own place, which counts from the line's start.
fn json_problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let column = error.column();
    text.split(" at line ").next().unwrap_or(&text).to_string() + &format!(" (column {column})")
}
