//! The table for a terminal.

use super::{Measured, Report, Side};
use crate::compare::OURS;
use crate::statistics::{median, minimum};

const HEAD: [&str; 9] = [
    "case",
    "peer",
    "ours min/median",
    "peer min/median",
    "ratio",
    "of minima",
    "rounds",
    "GFLOP/s",
    "of the roof",
];

/// The table with the machine above and what failed below.
pub fn text(report: &Report) -> String {
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    let mut failures = String::new();
    for case in &report.cases {
        rows.extend(lines(case, report).into_iter().map(Vec::from));
        for side in &case.sides {
            if let Some(failure) = &side.failure {
                failures += &format!("failed: {} ({}): {failure}\n", case.name, side.name);
            }
        }
    }
    let memory: String = report.cases.iter().filter_map(Measured::memory).map(|line| line + "\n").collect();
    format!("{}\n\n{}\n{memory}{failures}", head(report), aligned(&rows))
}

/// Machine, versions and peak in a line or two.
pub fn head(report: &Report) -> String {
    let Report { machine, peak, .. } = report;
    let load = machine.load.map(|load| format!(", load {load:.1} at the start")).unwrap_or_default();
    let peer = match report.torch() {
        "unknown" => "no peer".to_owned(),
        torch => format!("PyTorch {torch}"),
    };
    let environment: String =
        report.environment.iter().map(|(name, value)| format!("; {name}={value}")).collect();
    format!(
        "{}, {} cores, {} threads a side{load}; selfsup {} ({}) and {peer}; {} rounds{environment}\n\
         peak: {:.0} GFLOP/s (f32 multiply-adds, {} lanes), {:.1} GB/s (triad), {:.1} GB/s (sum)",
        machine.cpu,
        machine.cores,
        report.threads,
        report.version(OURS, "selfsup"),
        report.version(OURS, "commit"),
        report.rounds,
        peak.gflop_per_second,
        peak.lanes,
        peak.triad_gb_per_second,
        peak.sum_gb_per_second,
    )
}

/// A line for each peer, or one for ours alone.
pub fn lines(case: &Measured, report: &Report) -> Vec<[String; 9]> {
    let Some(ours) = case.side(OURS) else { return Vec::new() };
    let peers: Vec<Option<&Side>> = case.sides.iter().filter(|s| s.name != OURS).map(Some).collect();
    let peers = if peers.is_empty() { vec![None] } else { peers };
    let both = |f: &dyn Fn(&Side) -> Option<String>, peer: Option<&Side>| {
        let cell = |side: &Side| f(side).unwrap_or_else(|| "–".into());
        match peer {
            Some(peer) => format!("{} / {}", cell(ours), cell(peer)),
            None => cell(ours),
        }
    };
    peers
        .into_iter()
        .map(|peer| {
            let ratio = peer.and_then(|peer| case.ratio(peer));
            let ratio = |f: &dyn Fn(crate::statistics::Ratio) -> String| ratio.map(f).unwrap_or_default();
            [
                case.name.clone(),
                peer.map_or("", |peer| peer.name).to_owned(),
                times(ours),
                peer.map(times).unwrap_or_default(),
                ratio(&|r| format!("{:.2}", r.of_medians)),
                ratio(&|r| format!("{:.2}", r.of_minima)),
                ratio(&|r| format!("{:.2}–{:.2}", r.lowest, r.highest)),
                case.flop.map_or(String::new(), |_| {
                    both(&|side| case.gflop_per_second(side).map(|rate| format!("{rate:.0}")), peer)
                }),
                both(&|side| Some(format!("{:.0} %", 100.0 * case.share_of_roof(side, &report.peak)?)), peer),
            ]
        })
        .collect()
}

fn times(side: &Side) -> String {
    if side.failure.is_some() {
        return "failed".into();
    }
    format!("{} / {}", duration(minimum(&side.seconds)), duration(median(&side.seconds)))
}

/// Seconds in the unit that leaves one to three digits before the point.
pub fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

/// First two columns to the left, the others to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate();
        let cells =
            cells.map(|(c, (cell, &w))| if c < 2 { format!("{cell:<w$}") } else { format!("{cell:>w$}") });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
        if i == 0 {
            text += &widths.iter().map(|&w| "-".repeat(w)).collect::<Vec<_>>().join("  ");
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits() {
        let texts = [1.234e-6, 45.67e-6, 0.789, 1.5, 12.34e-3].map(duration);
        assert_eq!(texts, ["1.23 µs", "45.7 µs", "789 ms", "1.50 s", "12.3 ms"]);
    }

    #[test]
    fn a_table_tells_ratios_rates_and_failures() {
        let text = text(&crate::report::example());
        let row = text.lines().find(|l| l.starts_with("conv2d/a/f") && l.contains("eager")).unwrap();
        let cells: Vec<&str> = row.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect();
        let expected = [
            "10.0 ms / 20.0 ms",
            "30.0 ms / 40.0 ms",
            "2.00",
            "3.00",
            "1.00–5.00",
            "100 / 33",
            "50 % / 17 %",
        ];
        assert_eq!(cells[2..], expected);
        assert!(text.contains("failed: conv2d/a/f (compiled): out of memory"), "{text}");
        assert!(text.contains("200 GFLOP/s"), "{text}");
        let mut tuned = crate::report::example();
        tuned.environment.insert("MALLOC_TOP_PAD_".into(), "9".into());
        assert!(head(&tuned).contains("; MALLOC_TOP_PAD_=9\n"), "{}", head(&tuned));
    }

    #[test]
    fn ours_alone_has_a_line_too() {
        let mut report = crate::report::example();
        report.cases[0].sides.truncate(1);
        let [line] = &lines(&report.cases[0], &report)[..] else { panic!("one line") };
        assert_eq!(line[7..], ["100", "50 %"]);
        assert_eq!(line[1..2], [""]);
    }
}
