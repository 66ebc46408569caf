//! What a source holds: everything is decoded once, nothing is kept.

use crate::source::{OpenOptions, Part, open};
use crate::{Dataset, Result, Skipped, Source};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Samples that a thread takes at a time.
const RUN: usize = 32;

/// So many skipped files are shown to a reader; all are in the JSON.
const SHOWN: usize = 10;

/// What a source holds. Counts are of the images that can be read; `samples` = `readable` + `skipped_count`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The source, as it was called.
    pub source: String,
    /// Images listed.
    pub samples: usize,
    /// Images that can be read.
    pub readable: usize,
    /// Those with a label.
    pub labelled: usize,
    /// Those with a caption.
    pub captioned: usize,
    /// The source's own parts; empty if it has none. `all` counts what is in neither of the two.
    pub parts: Vec<Count>,
    /// The classes in the order of their labels; empty if nothing is labelled.
    pub classes: Vec<Count>,
    /// Widths in pixels; nothing if no image can be read.
    pub width: Option<Range>,
    /// Heights in pixels.
    pub height: Option<Range>,
    /// Mean of each channel over all pixels, in 0…1.
    pub mean: Option<[f64; 3]>,
    /// Standard deviation of each channel over all pixels, in 0…1.
    pub std: Option<[f64; 3]>,
    /// Images of each file format.
    pub formats: Vec<Count>,
    /// Images of each kind of channels and bits in the file (`rgb8`, `l8`, `rgba16`, `cmyk8`, …).
    pub colours: Vec<Count>,
    /// Files that were not looked at: hidden, or no image by their name.
    pub passed_over: usize,
    /// Of them the images of formats that are not read, if there are any: [`Dataset::not_read`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_read: Option<String>,
    /// How many images cannot be read.
    pub skipped_count: usize,
    /// Each of them with the reason.
    pub skipped: Vec<Skipped>,
}

/// A name and how often it occurs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    /// The name.
    pub name: String,
    /// How often.
    pub count: usize,
}

/// The smallest, the middle and the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The smallest.
    pub min: u32,
    /// The middle one in order; of an even number the lower.
    pub median: u32,
    /// The largest.
    pub max: u32,
}

/// Opens a source, decodes every image with all processors, and says what is there.
pub fn summarize(src: &str) -> Result<Summary> {
    Ok(summary_of(&open(src, &OpenOptions::default())?))
}

/// [`summarize`] for a source that is already open.
pub fn summary_of(data: &Dataset) -> Summary {
    let looks = look_at_all(data);
    let mut summary = Summary {
        source: data.name().into(),
        samples: data.len(),
        readable: 0,
        labelled: 0,
        captioned: 0,
        parts: Vec::new(),
        classes: data.classes().iter().map(|name| Count { name: name.clone(), count: 0 }).collect(),
        width: None,
        height: None,
        mean: None,
        std: None,
        formats: Vec::new(),
        colours: Vec::new(),
        passed_over: data.passed_over(),
        not_read: data.not_read(),
        skipped_count: 0,
        skipped: Vec::new(),
    };
    let (mut widths, mut heights) = (Vec::new(), Vec::new());
    let (mut parts, mut formats, mut colours) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut totals = Totals::default();
    for (index, look) in looks.into_iter().enumerate() {
        let sample = data.sample(index);
        let look = match look {
            Ok(look) => look,
            Err(reason) => {
                summary.skipped.push(Skipped { index, id: sample.id.clone(), reason });
                continue;
            }
        };
        summary.readable += 1;
        summary.captioned += usize::from(sample.caption.is_some());
        if let Some(label) = sample.label {
            summary.labelled += 1;
            summary.classes[label as usize].count += 1;
        }
        if let Some(part) = data.part(index) {
            // Training first, then test, then what is in neither.
            let rank = [Part::Train, Part::Test, Part::All].iter().position(|p| *p == part);
            *parts.entry((rank, part.name().to_owned())).or_insert(0) += 1;
        }
        *formats.entry(look.format.to_owned()).or_insert(0) += 1;
        *colours.entry(look.colour).or_insert(0) += 1;
        widths.push(look.width);
        heights.push(look.height);
        totals.add(&look.totals);
    }
    summary.skipped_count = summary.skipped.len();
    summary.parts = counts(parts.into_iter().map(|((_, name), count)| (name, count)));
    summary.formats = counts(formats);
    summary.colours = counts(colours);
    (summary.width, summary.height) = (range(widths), range(heights));
    (summary.mean, summary.std) = totals.mean_std().unzip();
    summary
}

/// What one image has to say.
struct Look {
    width: u32,
    height: u32,
    format: &'static str,
    colour: String,
    totals: Totals,
}

/// Exact sums over pixels, so that the order of adding does not matter.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    pixels: u64,
    sum: [u64; 3],
    squares: [u64; 3],
}

impl Totals {
    fn of(rgb: &[u8]) -> Self {
        let mut totals = Self { pixels: rgb.len() as u64 / 3, ..Self::default() };
        // Inner sums in u32, which 65536 squares of bytes cannot overflow.
        for run in rgb.chunks(3 << 16) {
            let (mut sum, mut squares) = ([0u32; 3], [0u32; 3]);
            for pixel in run.as_chunks::<3>().0 {
                for c in 0..3 {
                    let v = u32::from(pixel[c]);
                    sum[c] += v;
                    squares[c] += v * v;
                }
            }
            for c in 0..3 {
                totals.sum[c] += u64::from(sum[c]);
                totals.squares[c] += u64::from(squares[c]);
            }
        }
        totals
    }

    fn add(&mut self, other: &Totals) {
        self.pixels += other.pixels;
        for c in 0..3 {
            self.sum[c] += other.sum[c];
            self.squares[c] += other.squares[c];
        }
    }

    fn mean_std(&self) -> Option<([f64; 3], [f64; 3])> {
        if self.pixels == 0 {
            return None;
        }
        let n = self.pixels as f64;
        let mean = self.sum.map(|s| s as f64 / n);
        let variance = |c: usize| (self.squares[c] as f64 / n - mean[c] * mean[c]).max(0.0);
        let std = [0, 1, 2].map(|c| variance(c).sqrt() / 255.0);
        Some((mean.map(|m| m / 255.0), std))
    }
}

fn look_at_all(data: &Dataset) -> Vec<Result<Look, String>> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let next = AtomicUsize::new(0);
    let mut runs: Vec<(usize, Vec<_>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(data.len().div_ceil(RUN)))
            .map(|_| {
                scope.spawn(|| {
                    let mut mine = Vec::new();
                    loop {
                        let start = next.fetch_add(RUN, Ordering::Relaxed);
                        if start >= data.len() {
                            return mine;
                        }
                        mine.push((
                            start,
                            (start..data.len().min(start + RUN)).map(|i| look(data, i)).collect(),
                        ));
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    runs.sort_by_key(|(start, _)| *start);
    runs.into_iter().flat_map(|(_, looks)| looks).collect()
}

fn look(data: &Dataset, index: usize) -> Result<Look, String> {
    let decoded = data.decoded(index).map_err(|e| match e {
        crate::Error::Decode { source, .. } => source.to_string(),
        other => other.to_string(),
    })?;
    Ok(Look {
        width: decoded.image.width(),
        height: decoded.image.height(),
        format: decoded.format,
        colour: decoded.colour,
        totals: Totals::of(decoded.image.as_raw()),
    })
}

fn counts(counts: impl IntoIterator<Item = (String, usize)>) -> Vec<Count> {
    counts.into_iter().map(|(name, count)| Count { name, count }).collect()
}

fn range(mut values: Vec<u32>) -> Option<Range> {
    values.sort_unstable();
    let (min, max) = (*values.first()?, *values.last()?);
    Some(Range { min, median: values[(values.len() - 1) / 2], max })
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}: {} images", self.source, self.readable)?;
        for part in &self.parts {
            let name = if part.name == Part::All.name() { "in neither part" } else { &part.name };
            writeln!(f, "  {name:<16} {:>8}", part.count)?;
        }
        match self.classes.len() {
            0 => writeln!(f, "unlabelled")?,
            n => writeln!(f, "{n} classes, {} images labelled", self.labelled)?,
        }
        for class in &self.classes {
            writeln!(f, "  {:<16} {:>8}", class.name, class.count)?;
        }
        if self.captioned > 0 {
            writeln!(f, "{} images with a caption", self.captioned)?;
        }
        for (name, range) in [("width", self.width), ("height", self.height)] {
            match range {
                Some(Range { min, max, .. }) if min == max => writeln!(f, "{name} {min} pixels")?,
                Some(Range { min, median, max }) => {
                    writeln!(f, "{name} {min} … {max} pixels, median {median}")?;
                }
                None => {}
            }
        }
        if let Some((mean, std)) = self.mean.zip(self.std) {
            writeln!(f, "mean {mean:.4?}, standard deviation {std:.4?}")?;
        }
        for (name, counts) in [("formats", &self.formats), ("colours", &self.colours)] {
            let counts: Vec<_> = counts.iter().map(|c| format!("{} {}", c.name, c.count)).collect();
            writeln!(f, "{name}: {}", counts.join(", "))?;
        }
        if self.passed_over > 0 {
            writeln!(f, "{} files passed over: hidden, or no image by their name", self.passed_over)?;
        }
        if let Some(text) = &self.not_read {
            writeln!(f, "{text}")?;
        }
        if self.skipped_count > 0 {
            writeln!(f, "{} images cannot be read:", self.skipped_count)?;
            for skipped in self.skipped.iter().take(SHOWN) {
                writeln!(f, "  {}: {}", skipped.id, skipped.reason)?;
            }
            if self.skipped_count > SHOWN {
                writeln!(f, "  and {} more", self.skipped_count - SHOWN)?;
            }
        }
        Ok(())
    }
}
