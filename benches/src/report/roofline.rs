//! The roofline (Williams, Waterman & Patterson 2009): GFLOP/s over operations a byte, both logarithmic, below what the
//! machine was measured to do. Every case with both numbers has a number in the plot and a line in the key.
//!
//! Colours are Okabe and Ito's, told apart with any colour vision, and each side has a shape of its own too.

use super::labels::{self, Bounds};
use super::{Measured, Report};
use crate::args::Peer;
use crate::compare::OURS;
use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::{KeyPointHint, Ranged, ReversibleRanged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: i32 = 1400;
const PLOT: i32 = 1040;
const ROW: i32 = 17;
/// Above the key's first line: the sides' names.
const KEY_TOP: i32 = 112;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const GRAY: RGBColor = RGBColor(150, 150, 150);
const BLUE: RGBColor = RGBColor(0, 114, 178);
const VERMILION: RGBColor = RGBColor(213, 94, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
/// Half a marker's width.
const MARKER: i32 = 4;

/// The plot as SVG; None if no case has both numbers.
pub fn render(report: &Report) -> Result<Option<String>> {
    let cases: Vec<(f64, &Measured)> = report
        .cases
        .iter()
        .filter(|case| case.sides.iter().any(|side| case.gflop_per_second(side).is_some()))
        .filter_map(|case| Some((case.intensity()?, case)))
        .collect();
    if cases.is_empty() {
        return Ok(None);
    }
    let height = (KEY_TOP + ROW * (cases.len() as i32 + 1)).max(640);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
        draw(report, &cases, &root).map_err(|e| anyhow!("the roofline cannot be drawn: {e}"))?;
        root.present()?;
    }
    Ok(Some(svg))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(report: &Report, cases: &[(f64, &Measured)], root: &Area) -> Drawn {
    root.fill(&WHITE)?;
    let peak = &report.peak;
    let rates =
        || cases.iter().flat_map(|(_, case)| case.sides.iter().filter_map(|s| case.gflop_per_second(s)));
    let lowest = rates().fold(peak.gflop_per_second, f64::min);
    let highest = rates().fold(peak.gflop_per_second, f64::max);
    let (first, last) = cases.iter().fold((1.0f64, 10.0f64), |(a, b), (x, _)| (a.min(*x), b.max(*x)));
    // The corner of the roof is always to be seen.
    let last = last.max(3.0 * peak.gflop_per_second / peak.gb_per_second());
    let (x, y) = (Decades(first / 1.6, last * 1.6), Decades(lowest / 2.0, highest * 1.5));
    let (plot, key) = root.split_horizontally(PLOT);
    let mut chart = ChartBuilder::on(&plot)
        .margin(12)
        .margin_top(16)
        .x_label_area_size(52)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRAY.mix(0.35))
        .axis_style(INK)
        .label_style((FONT, 16, &INK))
        .axis_desc_style((FONT, 18, &INK))
        .x_desc("arithmetic intensity, flop/byte")
        .y_desc("GFLOP/s")
        .draw()?;
    let corner = peak.gflop_per_second / peak.gb_per_second();
    let roof = [x.0, corner, x.1].map(|at| (at, peak.roof(at)));
    // Below the axis' lowest rate the slope is not drawn.
    let roof = roof.map(|(at, rate)| if rate < y.0 { (y.0 / peak.gb_per_second(), y.0) } else { (at, rate) });
    chart.draw_series([PathElement::new(roof, INK.stroke_width(2))])?;

    // What labels must not cover, in pixels: the roof, its words, the axes' side, every marker.
    let pixel = |at: (f64, f64)| chart.backend_coord(&at);
    let mut taken = Vec::new();
    for pair in roof.windows(2) {
        labels::along(pixel(pair[0]), pixel(pair[1]), &mut taken);
    }
    let small = |position| (FONT, 15).into_font().color(&INK).pos(position);
    let at = pixel((corner, peak.gflop_per_second));
    let at = (at.0 + 2, at.1 - 5);
    let words = format!("{:.0} GFLOP/s", peak.gflop_per_second);
    root.draw_text(&words, &small(Pos::new(HPos::Left, VPos::Bottom)), at)?;
    taken.push(Bounds::new(at.0, at.1 - 14, 100, 14));
    let words = format!("{:.0} GB/s", peak.gb_per_second());
    let slope = pixel((corner.sqrt() * x.0.sqrt(), peak.roof(corner.sqrt() * x.0.sqrt()).max(y.0)));
    let at = (slope.0 - 10, slope.1 - 8);
    root.draw_text(&words, &small(Pos::new(HPos::Right, VPos::Bottom)), at)?;
    taken.push(Bounds::new(at.0 - 70, at.1 - 14, 70, 14));

    let mut points = Vec::new();
    for (intensity, case) in cases {
        let of = |side: &super::Side| {
            case.gflop_per_second(side).map(|rate| (side.name, pixel((*intensity, rate))))
        };
        let ends: Vec<_> = case.sides.iter().filter_map(of).collect();
        for (_, at) in &ends {
            taken.push(Bounds::around(*at, MARKER + 1));
        }
        points.push(ends);
    }
    for ends in &points {
        let ys = || ends.iter().map(|(_, at)| at.1);
        if let (Some((_, at)), Some(top), Some(bottom)) = (ends.first(), ys().min(), ys().max()) {
            root.draw(&PathElement::new([(at.0, top), (at.0, bottom)], GRAY.stroke_width(1)))?;
            labels::along((at.0, top), (at.0, bottom), &mut taken);
        }
    }
    for (side, at) in points.iter().flatten() {
        marker(root, side, *at)?;
    }
    let (left, top) = pixel((x.0, y.1));
    let (right, bottom) = pixel((x.1, y.0));
    let inside = Bounds::new(left, top, right - left, bottom - top);
    for (i, ends) in points.iter().enumerate() {
        let Some(&(_, ours)) = ends.first() else { continue };
        let number = (i + 1).to_string();
        let size = (8 * number.len() as i32 + 1, 12);
        let place = labels::place(ours, size, inside, &taken);
        taken.push(place.area);
        if let Some(line) = place.leader {
            root.draw(&PathElement::new([ours, line], GRAY.stroke_width(1)))?;
        }
        let centre = place.area.centre();
        root.draw_text(
            &number,
            &(FONT, 15).into_font().color(&INK).pos(Pos::new(HPos::Center, VPos::Center)),
            centre,
        )?;
    }
    draw_key(report, cases, &key)
}

/// Sides with their markers, then the cases' numbers and names.
fn draw_key(report: &Report, cases: &[(f64, &Measured)], key: &Area) -> Drawn {
    let text = |size: i32| (FONT, size).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
    let mut at = 24;
    for (side, words) in [
        (OURS, "selfsup".to_owned()),
        (Peer::Eager.name(), format!("PyTorch {}", report.torch())),
        (Peer::Compiled.name(), "the same, compiled".to_owned()),
    ] {
        if cases.iter().any(|(_, case)| case.side(side).is_some()) {
            // The pixels of an area are its own; a marker's are the root's.
            marker(key, side, (14, at))?;
            key.draw_text(&words, &text(18), (26, at))?;
            at += 22;
        }
    }
    let words = "best of the rounds; f forward, f+b and backward";
    key.draw_text(words, &text(14), (8, KEY_TOP - 18))?;
    for (i, (_, case)) in cases.iter().enumerate() {
        let y = KEY_TOP + ROW * i as i32;
        let number = (i + 1).to_string();
        let right = (FONT, 15).into_font().color(&INK).pos(Pos::new(HPos::Right, VPos::Center));
        key.draw_text(&number, &right, (26, y))?;
        key.draw_text(&case.name, &text(15), (34, y))?;
    }
    Ok(())
}

/// Ours a filled circle, PyTorch's a hollow triangle, compiled a hollow square.
fn marker(area: &Area, side: &str, (x, y): (i32, i32)) -> Drawn {
    const M: i32 = MARKER;
    if side == OURS {
        area.draw(&Circle::new((x, y), M, BLUE.filled()))?;
    } else if side == Peer::Eager.name() {
        let corners = [(x - M, y + M), (x + M, y + M), (x, y - M), (x - M, y + M)];
        area.draw(&Polygon::new(corners, WHITE.filled()))?;
        area.draw(&PathElement::new(corners, VERMILION.stroke_width(2)))?;
    } else {
        let corners = [(x - M, y - M), (x + M, y - M), (x + M, y + M), (x - M, y + M), (x - M, y - M)];
        area.draw(&Polygon::new(corners, WHITE.filled()))?;
        area.draw(&PathElement::new(corners, GREEN.stroke_width(2)))?;
    }
    Ok(())
}

/// A logarithmic axis whose lines are at 1, 2 and 5 times the powers of ten.
#[derive(Clone, Copy)]
struct Decades(f64, f64);

impl Ranged for Decades {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        let share = (value / self.0).ln() / (self.1 / self.0).ln();
        low + (share * f64::from(high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let powers = self.0.log10().floor() as i32..=self.1.log10().ceil() as i32;
        let points = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|x| x * 10f64.powi(power)));
        points.filter(|x| (self.0..=self.1).contains(x)).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.0..self.1
    }
}

impl ReversibleRanged for Decades {
    fn unmap(&self, pixel: i32, (low, high): (i32, i32)) -> Option<f64> {
        let share = f64::from(pixel - low) / f64::from(high - low);
        Some(self.0 * (self.1 / self.0).powf(share))
    }
}

impl ValueFormatter<f64> for Decades {
    fn format_ext(&self, value: &f64) -> String {
        // Powers of ten below 1 are not exact.
        format!("{}", (value * 1e6).round() / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_names_axes_roof_and_cases() {
        let svg = render(&crate::report::example()).unwrap().unwrap();
        for words in ["flop/byte", "GFLOP/s", "200 GFLOP/s", "40 GB/s", "conv2d/a/f", "PyTorch 2.11.0"] {
            assert!(svg.contains(words), "{words}");
        }
        // Without operations it has no place.
        assert!(!svg.contains("log_softmax"));
    }

    #[test]
    fn without_cases_there_is_no_plot() {
        let mut report = crate::report::example();
        report.cases.remove(0);
        assert_eq!(render(&report).unwrap(), None);
    }

    #[test]
    fn axes_have_lines_at_round_numbers() {
        let axis = Decades(0.3, 30.0);
        let points = axis.key_points(20);
        assert_eq!(
            points.iter().map(|x| axis.format_ext(x)).collect::<Vec<_>>(),
            ["0.5", "1", "2", "5", "10", "20"]
        );
        assert_eq!(
            (axis.map(&0.3, (0, 100)), axis.map(&3.0, (0, 100)), axis.map(&30.0, (0, 100))),
            (0, 50, 100)
        );
    }
}
