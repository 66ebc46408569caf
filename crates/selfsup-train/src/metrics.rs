//! `metrics.jsonl` and the TensorBoard events beside it: one record a logged step.
//!
//! The events are derived from the records: after a resume they are written anew from those that are kept,
//! so that neither file ever holds a step twice.

use crate::events::EventWriter;
use crate::run_folder::replace;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is known of one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Steps done, this one included.
    pub step: u64,
    /// Passes over the data, with the part of the present one: 1.5 is the middle of the second.
    pub epoch: f64,
    /// The loss of this step's batch.
    pub loss: f64,
    /// The learning rate that this step used.
    pub lr: f64,
    /// Samples (not views) a second since the last record.
    pub samples_per_s: f64,
    /// Seconds since 1970.
    pub wall_time: f64,
    /// The method's own values and the embeddings' health.
    #[serde(flatten)]
    pub more: BTreeMap<String, f64>,
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Appends records to both files.
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    lines: File,
    events: EventWriter,
}

impl MetricsWriter {
    /// Opens the files of a run folder and drops what lies past `steps_done`: a fresh run passes 0.
    pub fn open(folder: &Path, steps_done: u64) -> Result<Self> {
        let path = folder.join("metrics.jsonl");
        let kept = read(&path)?.into_iter().filter(|r| r.step <= steps_done).collect::<Vec<_>>();
        let io = |source| Error::Io { path: path.clone(), source };
        let text: String = kept.iter().map(line).collect();
        replace(&path, text.as_bytes())?;
        let lines = OpenOptions::new().append(true).open(&path).map_err(io)?;

        let folder = folder.join("events");
        let io = |source| Error::Io { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(io)?;
        for old in fs::read_dir(&folder).map_err(io)? {
            let old = old.map_err(io)?.path();
            if old.file_name().is_some_and(|n| n.to_string_lossy().contains("tfevents")) {
                fs::remove_file(old).map_err(io)?;
            }
        }
        let start = now();
        let file = folder.join(format!("events.out.tfevents.{}.selfsup", start as u64));
        let mut events = EventWriter::create(&file, start).map_err(io)?;
        for record in &kept {
            write_event(&mut events, record).map_err(io)?;
        }
        events.flush().map_err(io)?;
        Ok(Self { path, lines, events })
    }

    /// Writes one record to both, at once: a run that is killed keeps what it logged.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let io = |source| Error::Io { path: self.path.clone(), source };
        self.lines.write_all(line(record).as_bytes()).map_err(io)?;
        write_event(&mut self.events, record).and_then(|()| self.events.flush()).map_err(io)
    }
}

/// Every whole record of a file; none if there is no file. A last line that a crash cut off is passed over.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut records = Vec::new();
    for text in BufReader::new(File::open(path).map_err(io)?).lines() {
        match serde_json::from_str(&text.map_err(io)?) {
            Ok(record) => records.push(record),
            Err(_) => break,
        }
    }
    Ok(records)
}

fn line(record: &Record) -> String {
    serde_json::to_string(record).expect("numbers and strings always serialise") + "\n"
}

fn write_event(events: &mut EventWriter, record: &Record) -> std::io::Result<()> {
    let own = [
        ("loss", record.loss),
        ("lr", record.lr),
        ("samples_per_s", record.samples_per_s),
        ("epoch", record.epoch),
    ];
    let more = record.more.iter().map(|(name, value)| (name.as_str(), *value));
    events.scalars(record.wall_time, record.step, own.into_iter().chain(more))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> Record {
        let more = BTreeMap::from([("embedding_std".to_owned(), 0.5)]);
        Record { step, epoch: 0.5, loss: 1.25, lr: 0.1, samples_per_s: 10.0, wall_time: 1.0, more }
    }

    #[test]
    fn a_reopened_file_drops_what_lies_past_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::open(folder.path(), 0).unwrap();
        for step in 1..=5 {
            writer.write(&record(step)).unwrap();
        }
        drop(writer);
        // A crash in the middle of a line.
        let path = folder.path().join("metrics.jsonl");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"step\": 6, \"lo").unwrap();

        let mut writer = MetricsWriter::open(folder.path(), 3).unwrap();
        writer.write(&record(4)).unwrap();
        let steps: Vec<_> = read(&path).unwrap().into_iter().map(|r| r.step).collect();
        assert_eq!(steps, [1, 2, 3, 4]);
        assert_eq!(read(&path).unwrap()[0], record(1));
        assert_eq!(fs::read_dir(folder.path().join("events")).unwrap().count(), 1);
    }
}
