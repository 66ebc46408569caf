//! A race as a table, as JSON and as a picture.

use super::plot;
use super::run::{Side, Track};
use crate::args::RaceArgs;
use crate::machine::{self, Machine};
use crate::statistics::{maximum, median, minimum};
use anyhow::{Context, Result};
use serde_json::json;
use std::path::Path;

/// The tracks so far.
pub struct Report {
    methods: Vec<String>,
    machine: Machine,
    command: String,
    tracks: Vec<Track>,
}

/// A side's end over its seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct End {
    /// kNN top-1 in percent, and its standard deviation (of a sample).
    pub knn: (f64, f64),
    /// Median of the seconds.
    pub seconds: f64,
    /// Views seen.
    pub views: u64,
    /// Runs.
    pub seeds: usize,
}

impl Report {
    pub fn new(args: &RaceArgs) -> Self {
        Self {
            methods: args.methods.clone(),
            machine: Machine::read(),
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            tracks: Vec::new(),
        }
    }

    pub fn add(&mut self, track: Track) {
        self.tracks.push(track);
    }

    pub fn methods(&self) -> &[String] {
        &self.methods
    }

    /// A side's runs of a method.
    pub fn tracks<'a>(&'a self, method: &'a str, side: Side) -> impl Iterator<Item = &'a Track> {
        self.tracks.iter().filter(move |track| track.method == method && track.side == side)
    }

    /// The mean over seeds at each checkpoint: seconds and accuracy in percent.
    pub fn curve(&self, method: &str, side: Side) -> Vec<(f64, f64)> {
        let tracks: Vec<&Track> = self.tracks(method, side).collect();
        let shortest = tracks.iter().map(|track| track.points.len()).min().unwrap_or(0);
        let mean = |values: &dyn Fn(&Track) -> f64| {
            tracks.iter().map(|track| values(track)).sum::<f64>() / tracks.len() as f64
        };
        (0..shortest).map(|i| (mean(&|t| t.points[i].seconds), 100.0 * mean(&|t| t.points[i].knn))).collect()
    }

    fn end(&self, method: &str, side: Side) -> Option<End> {
        let last: Vec<_> = self.tracks(method, side).filter_map(|track| track.points.last()).collect();
        let knn: Vec<f64> = last.iter().map(|point| 100.0 * point.knn).collect();
        let seconds: Vec<f64> = last.iter().map(|point| point.seconds).collect();
        Some(End {
            knn: selfsup_probe::protocol::mean_and_std(&knn),
            seconds: median(&seconds),
            views: last.first()?.views,
            seeds: last.len(),
        })
    }

    /// The share of the peer's time in which ours is at the accuracy that the peer ends with, less its standard deviation over seeds, by
    /// the curves of the means; None if it never is.
    fn share_to_the_peers_end(&self, method: &str) -> Option<f64> {
        let (mean, spread) = self.end(method, Side::Lightly)?.knn;
        let time = |side| reaches(&self.curve(method, side), mean - spread);
        Some(time(Side::Selfsup)? / time(Side::Lightly)?)
    }

    /// The table.
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| method | side | kNN at the end, % | views | seconds | times as fast, by seed | \
             of the peer's time to its accuracy less its spread |\n|---|---|--:|--:|--:|--:|--:|\n",
        );
        for method in &self.methods {
            for side in Side::BOTH {
                let Some(end) = self.end(method, side) else { continue };
                let (ratio, share) = match side {
                    Side::Selfsup => (self.ratio(method), self.share(method)),
                    Side::Lightly => Default::default(),
                };
                let spread = if end.seeds > 1 { format!(" ± {:.1}", end.knn.1) } else { String::new() };
                text += &format!(
                    "| {method} | {} | {:.1}{spread} | {} | {:.0} | {ratio} | {share} |\n",
                    side.name(),
                    end.knn.0,
                    end.views,
                    end.seconds
                );
            }
        }
        text
    }

    fn ratio(&self, method: &str) -> String {
        let seconds = |track: &Track| track.points.last().map(|point| point.seconds);
        let mut ratios = Vec::new();
        for ours in self.tracks(method, Side::Selfsup) {
            let peer = self.tracks(method, Side::Lightly).find(|track| track.seed == ours.seed);
            if let (Some(ours), Some(peer)) = (seconds(ours), peer.and_then(seconds)) {
                ratios.push(peer / ours);
            }
        }
        if ratios.is_empty() {
            return String::new();
        }
        format!("{:.1} ({:.1}–{:.1})", median(&ratios), minimum(&ratios), maximum(&ratios))
    }

    fn share(&self, method: &str) -> String {
        if self.end(method, Side::Lightly).is_none() {
            return String::new();
        }
        self.share_to_the_peers_end(method)
            .map_or_else(|| "not reached".into(), |share| format!("{share:.2}"))
    }

    /// Writes `race.md`, `race.json` and `race.svg`.
    pub fn write(&self, out: &Path) -> Result<()> {
        let write = |name: &str, text: String| {
            let path = out.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        let document = json!({
            "date": machine::today(),
            "command": self.command,
            "machine": self.machine,
            "versions": machine::versions(),
            "tracks": self.tracks,
        });
        write("race.json", serde_json::to_string_pretty(&document)? + "\n")?;
        write("race.md", self.markdown())?;
        write("race.svg", plot::render(self)?)
    }
}

/// When a curve is first at a level, in a straight line between its points; at once if it begins there.
fn reaches(curve: &[(f64, f64)], level: f64) -> Option<f64> {
    let i = curve.iter().position(|(_, y)| *y >= level)?;
    let (x, y) = curve[i];
    Some(match i.checked_sub(1).map(|before| curve[before]) {
        Some((x0, y0)) => x0 + (x - x0) * (level - y0) / (y - y0),
        None => x,
    })
}

#[cfg(test)]
mod tests {
    use super::reaches;

    #[test]
    fn a_level_is_reached_between_two_points() {
        let curve = [(10.0, 40.0), (20.0, 50.0), (30.0, 48.0)];
        assert_eq!(reaches(&curve, 45.0), Some(15.0));
        assert_eq!(reaches(&curve, 50.0), Some(20.0));
        assert_eq!(reaches(&curve, 30.0), Some(10.0));
        assert_eq!(reaches(&curve, 50.5), None);
    }
}
