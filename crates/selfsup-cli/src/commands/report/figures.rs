//! The page's figures: curves and scatter plots as SVG, pictures as PNG within the page.
//!
//! Colours are Okabe and Ito's, told apart with any colour vision; beyond eight classes shapes change too.

use anyhow::{Result, anyhow};
use base64::Engine;
use image::RgbImage;
use plotters::prelude::*;
use std::io::Cursor;

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(222, 222, 222);
/// Okabe and Ito (2008), black in front of the yellow that is hard to see on white.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
    RGBColor(180, 170, 30),
];
const CURVE: (u32, u32) = (560, 300);
const SCATTER: (u32, u32) = (560, 520);

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn svg(
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawn,
) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&root)
            .and_then(|()| Ok(root.present()?))
            .map_err(|e| anyhow!("a figure cannot be drawn: {e}"))?;
    }
    Ok(text)
}

/// A range with a margin; of one value, a range round it.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return 0.0..1.0;
    }
    // A constant has a scale of its own size.
    let margin = match high - low > 1e-6 * high.abs() {
        true => 0.05 * (high - low),
        false if high == 0.0 => 1.0,
        false => 0.2 * high.abs(),
    };
    low - margin..high + margin
}

/// A tick of an axis: as many decimals as tell one from the next, a tenth of the range away.
fn tick(value: f64, range: &std::ops::Range<f64>) -> String {
    let step = (range.end - range.start) / 10.0;
    if step < 1e-4 {
        return format!("{value:.1e}");
    }
    let decimals = (-step.log10()).ceil().max(0.0) as usize;
    let text = format!("{value:.decimals$}");
    // Of −0 a sign is left.
    if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') {
        text.replace('-', "")
    } else {
        text
    }
}

/// Steps are whole numbers: a tick between two has no name.
fn whole(value: f64) -> String {
    if (value - value.round()).abs() < 1e-6 { format!("{value:.0}") } else { String::new() }
}

/// A curve over the steps.
pub fn curve(name: &str, points: &[(f64, f64)]) -> Result<String> {
    svg(CURVE, |root| {
        root.fill(&WHITE)?;
        let (x, values) = (range(points.iter().map(|p| p.0)), range(points.iter().map(|p| p.1)));
        let mut chart = ChartBuilder::on(root)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(76)
            .build_cartesian_2d(x, values.clone())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style((FONT, 14, &INK))
            .axis_desc_style((FONT, 15, &INK))
            .x_desc("steps")
            .y_desc(name)
            .x_label_formatter(&|&x| whole(x))
            .y_label_formatter(&|&y| tick(y, &values))
            .draw()?;
        let finite = points.iter().copied().filter(|p| p.1.is_finite());
        chart.draw_series([PathElement::new(finite.collect::<Vec<_>>(), COLOURS[0].stroke_width(2))])?;
        Ok(())
    })
}

/// Colour and shape of a class.
fn style(class: usize) -> (RGBColor, usize) {
    (COLOURS[class % COLOURS.len()], class / COLOURS.len())
}

/// Points `[n, 2]` by class, with the classes' names beside them.
pub fn scatter(points: &[f64], labels: &[u32], classes: &[String], axes: [&str; 2]) -> Result<String> {
    /// More names than this do not fit.
    const NAMED: usize = 22;
    const BESIDE: u32 = 150;
    svg((SCATTER.0 + BESIDE, SCATTER.1), |root| {
        root.fill(&WHITE)?;
        let (plot, beside) = root.split_horizontally(SCATTER.0);
        let x = range(points.iter().step_by(2).copied());
        let y = range(points.iter().skip(1).step_by(2).copied());
        let mut chart = ChartBuilder::on(&plot)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(36)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .x_labels(0)
            .y_labels(0)
            .axis_style(INK)
            .axis_desc_style((FONT, 15, &INK))
            .x_desc(axes[0])
            .y_desc(axes[1])
            .draw()?;
        for (at, &label) in points.chunks_exact(2).zip(labels) {
            let (colour, shape) = style(label as usize);
            mark(&plot, chart.backend_coord(&(at[0], at[1])), shape, colour)?;
        }
        for (i, name) in classes.iter().take(NAMED).enumerate() {
            let (colour, shape) = style(i);
            let y = 24 + 22 * i as i32;
            mark(&beside, (10, y), shape, colour)?;
            beside.draw_text(name, &(FONT, 14).into_font().color(&INK), (22, y - 8))?;
        }
        Ok(())
    })
}

/// A small disc, triangle, cross or square.
fn mark(
    root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    at: (i32, i32),
    shape: usize,
    colour: RGBColor,
) -> Drawn {
    let faint = colour.mix(0.75);
    match shape % 4 {
        0 => root.draw(&Circle::new(at, 3, faint.filled()))?,
        1 => root.draw(&TriangleMarker::new(at, 4, faint.filled()))?,
        2 => root.draw(&Cross::new(at, 3, faint.stroke_width(2)))?,
        _ => root.draw(&Rectangle::new([(at.0 - 3, at.1 - 3), (at.0 + 3, at.1 + 3)], faint.filled()))?,
    }
    Ok(())
}

/// An `img` with the picture's bytes in it, `width` CSS pixels wide.
pub fn picture(image: &RgbImage, width: u32, alt: &str) -> Result<String> {
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png)?;
    let data = base64::engine::general_purpose::STANDARD.encode(png.into_inner());
    Ok(format!(
        "<img alt=\"{}\" width=\"{width}\" src=\"data:image/png;base64,{data}\">",
        super::page::escaped(alt)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_told_apart() {
        for (low, high) in [(0.1, 0.1), (0.0, 0.0), (0.0, 1.0), (2.13, 2.31), (-3.0, 900.0), (1e-6, 3e-6)] {
            let range = range([low, high].into_iter());
            assert!(range.start < low && range.end > high, "{low}…{high}: {range:?}");
            let step = (range.end - range.start) / 10.0;
            let ticks: std::collections::BTreeSet<_> =
                (0..10).map(|i| tick(range.start + f64::from(i) * step, &range)).collect();
            assert_eq!(ticks.len(), 10, "{low}…{high}: {ticks:?}");
        }
        assert_eq!(
            (whole(3.0), whole(2.5), tick(-1e-9, &(-1.0..1.0))),
            ("3".into(), String::new(), "0.0".into())
        );
    }
}
