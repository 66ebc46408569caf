//! Everything, every sample too, as JSON. `format` rises when a field changes its meaning.

use super::{Measured, Report, Side};
use crate::statistics::{median, minimum};
use serde_json::{Value, json};

const FORMAT: u32 = 1;

/// The report; times in seconds, traffic in bytes.
pub fn render(report: &Report) -> String {
    let value = json!({
        "format": FORMAT,
        "date": report.date,
        "command": report.command,
        "machine": report.machine,
        "peak": report.peak,
        "environment": report.environment,
        "versions": report.versions,
        "threads": report.threads,
        "rounds": report.rounds,
        "seconds_a_turn": report.seconds_a_turn,
        "load_at_the_end": report.load_at_the_end,
        "cases": report.cases.iter().map(|case| case_value(case, report)).collect::<Vec<Value>>(),
    });
    format!("{value:#}\n")
}

fn case_value(case: &Measured, report: &Report) -> Value {
    json!({
        "name": case.name,
        "flop": case.flop,
        "bytes": case.bytes,
        "sides": case.sides.iter().map(|side| side_value(case, side, report)).collect::<Vec<Value>>(),
    })
}

/// Numbers that a side does not have are null.
fn side_value(case: &Measured, side: &Side, report: &Report) -> Value {
    json!({
        "name": side.name,
        "iterations_a_turn": side.iterations,
        "seconds": side.seconds,
        "peak_bytes": side.peak_bytes,
        "minimum": minimum(&side.seconds),
        "median": median(&side.seconds),
        "gflop_per_second": case.gflop_per_second(side),
        "share_of_roof": case.share_of_roof(side, &report.peak),
        "ratio": case.ratio(side),
        "failure": side.failure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_there_and_what_is_missing_is_null() {
        let value: Value = serde_json::from_str(&render(&crate::report::example())).unwrap();
        assert_eq!(value["format"], 1);
        assert_eq!(value["machine"]["cpu"], "A CPU");
        assert_eq!(value["peak"]["gflop_per_second"], 200.0);
        let sides = &value["cases"][0]["sides"];
        assert_eq!(sides[0]["seconds"], json!([0.01, 0.02, 0.04]));
        assert_eq!(sides[0]["ratio"], Value::Null);
        assert_eq!(
            sides[1]["ratio"],
            json!({"of_medians": 2.0, "of_minima": 3.0, "lowest": 1.0, "highest": 5.0})
        );
        assert_eq!(sides[2]["failure"], "out of memory");
        assert_eq!(sides[2]["minimum"], Value::Null);
        assert_eq!(value["cases"][1]["flop"], Value::Null);
    }
}
