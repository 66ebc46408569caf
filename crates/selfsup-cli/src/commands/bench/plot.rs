//! A study's picture: curves over a logarithmic axis, bars, or a matrix of cells, of the linear probe's accuracy.
//!
//! Colours are Okabe and Ito's, told apart with any colour vision; curves have markers of their own besides, and cells their
//! numbers.

use super::column::{Column, Measure};
use super::report::{Percent, Report};
use super::study::Place;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const GRAY: RGBColor = RGBColor(150, 150, 150);
const BLUE: RGBColor = RGBColor(0, 114, 178);
const VERMILION: RGBColor = RGBColor(213, 94, 0);
/// Pixels of a curve's plot, of a cell, and of the words beside cells.
const SIZE: (u32, u32) = (820, 520);
const CELL: i32 = 92;
const WORDS: i32 = 110;
/// Of a list: its lines, what is above and below them, and what is left of them.
const LINE: i32 = 26;
const HEAD: i32 = 44;
const FOOT: i32 = 56;
const NAMES: i32 = 150;
const GREEN: RGBColor = RGBColor(0, 158, 115);
const ORANGE: RGBColor = RGBColor(230, 159, 0);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// The picture as SVG.
pub fn render(report: &Report) -> Result<String> {
    let of = |wanted: fn(&Place) -> bool| report.rows().filter(|(_, place)| wanted(place)).count();
    let ranks = of(|place| *place == Place::Rank);
    let cells = of(|place| matches!(place, Place::Cell { .. }));
    let size = if cells > 0 {
        let side = (WORDS + CELL * names(report, |row, _| row).len() as i32 + 24) as u32;
        (side, side + 40)
    } else if ranks > 0 {
        (SIZE.0, (LINE * ranks as i32 + HEAD + FOOT) as u32)
    } else {
        SIZE
    };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let draw = || -> Drawn {
            root.fill(&WHITE)?;
            if cells > 0 {
                matrix(report, &root)
            } else if ranks > 0 {
                dots(report, &root)
            } else if of(|place| matches!(place, Place::Bar)) > 0 {
                bars(report, &root)
            } else {
                curves(report, &root)
            }
        };
        draw().map_err(|e| anyhow!("the picture cannot be drawn: {e}"))?;
        root.present()?;
    }
    Ok(svg)
}

/// The range of y: what is shown, with a margin.
fn range(values: impl Iterator<Item = Percent>) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), p| {
        (low.min(p.mean - p.std), high.max(p.mean + p.std))
    });
    if low > high {
        return 0.0..100.0;
    }
    let margin = (0.08 * (high - low)).max(0.5);
    (low - margin).max(0.0)..(high + margin).min(100.0)
}

fn linear(report: &Report, row: &str) -> Option<Percent> {
    report.percent(row, &Column::from(Measure::Linear))
}

fn baselines(report: &Report) -> Vec<(String, Percent)> {
    let rows = report.rows().filter(|(_, place)| *place == Place::Baseline);
    rows.filter_map(|(name, _)| Some((name.to_owned(), linear(report, name)?))).collect()
}

fn curves(report: &Report, root: &Area) -> Drawn {
    let mut series: Vec<(&'static str, Vec<(f64, Percent)>)> = Vec::new();
    for (name, place) in report.rows() {
        let (Place::Point { series: of, x }, Some(y)) = (place, linear(report, name)) else { continue };
        match series.iter_mut().find(|(name, _)| *name == of) {
            Some((_, points)) => points.push((x, y)),
            None => series.push((of, vec![(x, y)])),
        }
    }
    let points = || series.iter().flat_map(|(_, points)| points.iter());
    let baselines = baselines(report);
    let y = range(points().map(|(_, y)| *y).chain(baselines.iter().map(|(_, y)| *y)));
    let x = points().fold((f64::INFINITY, 0.0f64), |(low, high), (x, _)| (low.min(*x), high.max(*x)));
    let x = if x.0 > x.1 { (1.0, 2.0) } else { (x.0 / 1.3, x.1 * 1.3) };
    let mut chart = ChartBuilder::on(root)
        .margin(16)
        .margin_right(130)
        .x_label_area_size(52)
        .y_label_area_size(64)
        .build_cartesian_2d((x.0..x.1).log_scale().base(2.0), y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRAY.mix(0.35))
        .axis_style(INK)
        .label_style((FONT, 16, &INK))
        .axis_desc_style((FONT, 18, &INK))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .x_desc(report.question().axis)
        .y_desc("linear probe, top-1, %")
        .draw()?;
    let mut words = Vec::new();
    for (name, level) in &baselines {
        let ends = [(x.0, level.mean), (x.1, level.mean)];
        chart.draw_series([PathElement::new(ends, GRAY.stroke_width(2))])?;
        words.push((&name[..], INK, chart.backend_coord(&ends[1])));
    }
    for (i, (name, points)) in series.iter().enumerate() {
        let colour = [BLUE, VERMILION][i % 2];
        chart.draw_series([PathElement::new(
            points.iter().map(|(x, y)| (*x, y.mean)).collect::<Vec<_>>(),
            colour.stroke_width(2),
        )])?;
        for (x, y) in points {
            let spread = [(*x, y.mean - y.std), (*x, y.mean + y.std)];
            chart.draw_series([PathElement::new(spread, colour.stroke_width(1))])?;
            let at = (*x, y.mean);
            if i % 2 == 0 {
                chart.draw_series([Circle::new(at, 5, colour.filled())])?;
            } else {
                chart.draw_series([TriangleMarker::new(at, 7, colour.filled())])?;
            }
        }
        if let Some((_, y)) = points.last() {
            words.push((name, colour, chart.backend_coord(&(x.1, y.mean))));
        }
    }
    beside(words, root)
}

/// Words to the right of the places that they belong to, moved apart where they would stand on each other.
fn beside(mut words: Vec<(&str, RGBColor, (i32, i32))>, root: &Area) -> Drawn {
    const STEP: i32 = 17;
    words.sort_by_key(|(.., at)| at.1);
    let mut free = i32::MIN;
    for (text, colour, (x, y)) in words {
        let y = y.max(free);
        free = y + STEP;
        let style = (FONT, 15).into_font().color(&colour).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw_text(text, &style, (x + 6, y))?;
    }
    Ok(())
}

/// Features before the head in blue, behind it in vermilion.
fn bars(report: &Report, root: &Area) -> Drawn {
    let rows: Vec<(&str, [Option<Percent>; 2])> = report
        .rows()
        .filter(|(_, place)| *place == Place::Bar)
        .map(|(name, _)| {
            (name, [linear(report, name), report.percent_behind(name, &Column::from(Measure::Linear))])
        })
        .collect();
    let baselines = baselines(report);
    let shown = rows.iter().flat_map(|(_, both)| both.iter().flatten().copied());
    let y = range(shown.chain(baselines.iter().map(|(_, y)| *y)));
    let floor = y.start;
    let mut chart = ChartBuilder::on(root)
        .margin(16)
        .margin_right(130)
        .x_label_area_size(52)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..rows.len() as f64, y)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRAY.mix(0.35))
        .axis_style(INK)
        .label_style((FONT, 16, &INK))
        .axis_desc_style((FONT, 18, &INK))
        .x_desc(report.question().axis)
        .y_desc("linear probe, top-1, %")
        .draw()?;
    let words = |position| (FONT, 15).into_font().color(&INK).pos(position);
    let mut levels = Vec::new();
    for (name, level) in &baselines {
        let ends = [(0.0, level.mean), (rows.len() as f64, level.mean)];
        chart.draw_series([PathElement::new(ends, GRAY.stroke_width(2))])?;
        levels.push((&name[..], INK, chart.backend_coord(&ends[1])));
    }
    beside(levels, root)?;
    for (i, (name, both)) in rows.iter().enumerate() {
        for (j, percent) in both.iter().enumerate() {
            let Some(p) = percent else { continue };
            let left = i as f64 + 0.15 + 0.36 * j as f64;
            let colour = [BLUE, VERMILION][j];
            chart.draw_series([Rectangle::new([(left, floor), (left + 0.33, p.mean)], colour.filled())])?;
            let middle = left + 0.165;
            let spread = [(middle, p.mean - p.std), (middle, p.mean + p.std)];
            chart.draw_series([PathElement::new(spread, INK.stroke_width(2))])?;
        }
        let at = chart.backend_coord(&(i as f64 + 0.5, floor));
        root.draw_text(name, &words(Pos::new(HPos::Center, VPos::Top)), (at.0, at.1 + 8))?;
    }
    let (right, top) = (SIZE.0 as i32 - 124, SIZE.1 as i32 - 52);
    for (i, (text, colour)) in [("before the head", BLUE), ("behind it", VERMILION)].into_iter().enumerate() {
        let y = top + 22 * i as i32;
        root.draw(&Rectangle::new([(right, y - 6), (right + 12, y + 6)], colour.filled()))?;
        root.draw_text(text, &words(Pos::new(HPos::Left, VPos::Center)), (right + 18, y))?;
    }
    Ok(())
}

/// A line a row: four measures, told apart by colour and shape, each with its spread.
fn dots(report: &Report, root: &Area) -> Drawn {
    let measures = [
        (Measure::Knn, BLUE, "kNN"),
        (Measure::Linear, VERMILION, "linear"),
        (Measure::Few(10), GREEN, "linear, 10 a class"),
        (Measure::Finetuned(100), ORANGE, "fine-tuned, 100 a class"),
    ];
    let rows: Vec<&str> = report.rows().map(|(name, _)| name).collect();
    let shown = || {
        rows.iter()
            .flat_map(|row| measures.iter().filter_map(|(m, ..)| report.percent(row, &Column::from(*m))))
    };
    let x = range(shown());
    let mut chart = ChartBuilder::on(root)
        .margin_top(HEAD)
        .margin_right(24)
        .margin_left(NAMES)
        .x_label_area_size(FOOT)
        .build_cartesian_2d(x, 0.0..rows.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRAY.mix(0.35))
        .axis_style(INK)
        .label_style((FONT, 16, &INK))
        .axis_desc_style((FONT, 18, &INK))
        .x_desc(report.question().axis)
        .draw()?;
    for (i, row) in rows.iter().enumerate() {
        let y = rows.len() as f64 - i as f64 - 0.5;
        for (j, (measure, colour, _)) in measures.iter().enumerate() {
            let Some(p) = report.percent(row, &Column::from(*measure)) else { continue };
            let ends = [(p.mean - p.std, y), (p.mean + p.std, y)];
            chart.draw_series([PathElement::new(ends, colour.stroke_width(2))])?;
            marker(root, chart.backend_coord(&(p.mean, y)), j, *colour)?;
        }
        let (_, at) = chart.backend_coord(&(0.0, y));
        let style = (FONT, 15).into_font().color(&INK).pos(Pos::new(HPos::Right, VPos::Center));
        root.draw_text(row, &style, (NAMES - 10, at))?;
    }
    let mut left = NAMES;
    for (j, (_, colour, text)) in measures.iter().enumerate() {
        marker(root, (left + 6, HEAD / 2), j, *colour)?;
        let style = (FONT, 15).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw_text(text, &style, (left + 18, HEAD / 2))?;
        left += 44 + 8 * text.len() as i32;
    }
    Ok(())
}

/// A disc, a triangle, a square or a cross.
fn marker(root: &Area, at: (i32, i32), shape: usize, colour: RGBColor) -> Drawn {
    match shape {
        0 => root.draw(&Circle::new(at, 5, colour.filled()))?,
        1 => root.draw(&TriangleMarker::new(at, 7, colour.filled()))?,
        2 => {
            let corners = [(at.0 - 5, at.1 - 5), (at.0 + 5, at.1 + 5)];
            root.draw(&Rectangle::new(corners, colour.filled()))?;
        }
        _ => root.draw(&Cross::new(at, 5, colour.stroke_width(3)))?,
    }
    Ok(())
}

/// The names on one side of the matrix, in order.
fn names(report: &Report, side: fn(&'static str, &'static str) -> &'static str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for (_, place) in report.rows() {
        if let Place::Cell { row, column } = place {
            let name = side(row, column);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// From pale to full blue, as the accuracy goes from the lowest to the highest.
fn matrix(report: &Report, root: &Area) -> Drawn {
    let (rows, columns) = (names(report, |row, _| row), names(report, |_, column| column));
    let cells: Vec<(usize, usize, Percent)> = report
        .rows()
        .filter_map(|(name, place)| {
            let Place::Cell { row, column } = place else { return None };
            let at = |names: &[&str], name| names.iter().position(|n| *n == name);
            Some((at(&rows, row)?, at(&columns, column)?, linear(report, name)?))
        })
        .collect();
    let values = || cells.iter().map(|(.., p)| p.mean);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let text = |position| (FONT, 15).into_font().color(&INK).pos(position);
    let title = "linear probe, top-1, %: alone on the diagonal, in pairs below";
    root.draw_text(title, &text(Pos::new(HPos::Left, VPos::Top)), (12, 10))?;
    let top = 40;
    for (i, name) in rows.iter().enumerate() {
        let y = top + CELL * i as i32 + CELL / 2;
        root.draw_text(name, &text(Pos::new(HPos::Right, VPos::Center)), (WORDS - 10, y))?;
    }
    for (j, name) in columns.iter().enumerate() {
        let x = WORDS + CELL * j as i32 + CELL / 2;
        let y = top + CELL * rows.len() as i32 + 6;
        root.draw_text(name, &text(Pos::new(HPos::Center, VPos::Top)), (x, y))?;
    }
    for (i, j, p) in &cells {
        // The lowest cell is to be seen too.
        let share = if high > low { 0.1 + 0.9 * (p.mean - low) / (high - low) } else { 0.5 };
        let mix = |from: u8| (255.0 + (f64::from(from) - 255.0) * share).round() as u8;
        let colour = RGBColor(mix(BLUE.0), mix(BLUE.1), mix(BLUE.2));
        let (x, y) = (WORDS + CELL * *j as i32, top + CELL * *i as i32);
        root.draw(&Rectangle::new([(x, y), (x + CELL - 2, y + CELL - 2)], colour.filled()))?;
        let ink = if share > 0.6 { WHITE } else { INK };
        let style = (FONT, 17).into_font().color(&ink).pos(Pos::new(HPos::Center, VPos::Center));
        root.draw_text(&format!("{:.1}", p.mean), &style, (x + CELL / 2, y + CELL / 2 - 9))?;
        if p.seeds > 1 {
            let style = (FONT, 13).into_font().color(&ink).pos(Pos::new(HPos::Center, VPos::Center));
            root.draw_text(&format!("± {:.1}", p.std), &style, (x + CELL / 2, y + CELL / 2 + 11))?;
        }
    }
    Ok(())
}
