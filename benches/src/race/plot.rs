//! The picture: a panel a method, kNN accuracy over seconds; a thin line a seed, a thick one with markers for their mean.
//!
//! Colours are Okabe and Ito's, told apart with any colour vision, and each side has a marker of its own too.

use super::report::Report;
use super::run::Side;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const GRAY: RGBColor = RGBColor(150, 150, 150);
const BLUE: RGBColor = RGBColor(0, 114, 178);
const VERMILION: RGBColor = RGBColor(213, 94, 0);
const PANEL: (u32, u32) = (620, 440);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// The picture as SVG.
pub fn render(report: &Report) -> Result<String> {
    let mut svg = String::new();
    {
        let width = PANEL.0 * report.methods().len().max(1) as u32;
        let root = SVGBackend::with_string(&mut svg, (width, PANEL.1)).into_drawing_area();
        let draw = || -> Drawn {
            root.fill(&WHITE)?;
            for (method, area) in report.methods().iter().zip(root.split_evenly((1, report.methods().len())))
            {
                panel(report, method, &area)?;
            }
            Ok(())
        };
        draw().map_err(|e| anyhow!("the picture cannot be drawn: {e}"))?;
        root.present()?;
    }
    Ok(svg)
}

fn panel(report: &Report, method: &str, area: &Area) -> Drawn {
    let points = || {
        let tracks = Side::BOTH.into_iter().flat_map(|side| report.tracks(method, side));
        tracks.flat_map(|track| track.points.iter().map(|p| (p.seconds, 100.0 * p.knn)))
    };
    let (low, high) = points().fold((100.0f64, 0.0f64), |(low, high), (_, y)| (low.min(y), high.max(y)));
    let (low, high) = if low > high { (0.0, 100.0) } else { (low, high) };
    let longest = points().fold(1.0f64, |longest, (x, _)| longest.max(x));
    let margin = (0.08 * (high - low)).max(0.5);
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .margin_right(30)
        .caption(method, (FONT, 18).into_font().color(&INK))
        .x_label_area_size(52)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..1.04 * longest, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRAY.mix(0.35))
        .axis_style(INK)
        .label_style((FONT, 16, &INK))
        .axis_desc_style((FONT, 18, &INK))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .x_desc("seconds from the program's start")
        .y_desc("kNN, top-1, %")
        .draw()?;
    for (side, colour) in Side::BOTH.into_iter().zip([BLUE, VERMILION]) {
        for track in report.tracks(method, side) {
            let line: Vec<_> = track.points.iter().map(|p| (p.seconds, 100.0 * p.knn)).collect();
            chart.draw_series([PathElement::new(line, colour.mix(0.4).stroke_width(1))])?;
        }
        let curve = report.curve(method, side);
        chart.draw_series([PathElement::new(curve.clone(), colour.stroke_width(3))])?;
        for at in &curve {
            match side {
                Side::Selfsup => chart.draw_series([Circle::new(*at, 5, colour.filled())])?,
                Side::Lightly => chart.draw_series([TriangleMarker::new(*at, 7, colour.filled())])?,
            };
        }
        if let Some(last) = curve.last() {
            let (x, y) = chart.backend_coord(last);
            // Beside the last marker where there is room, otherwise below it.
            let (pos, at) = if last.0 < 0.8 * longest {
                (Pos::new(HPos::Left, VPos::Center), (x + 12, y))
            } else {
                (Pos::new(HPos::Right, VPos::Top), (x, y + 12))
            };
            let style = (FONT, 15).into_font().color(&colour).pos(pos);
            // Absolute places are the whole picture's; the area's own begin at its corner.
            let (left, top) = area.get_base_pixel();
            area.draw_text(side.name(), &style, (at.0 - left, at.1 - top))?;
        }
    }
    Ok(())
}
