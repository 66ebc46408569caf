//! The page: HTML that needs nothing but itself.

use std::fmt::Display;

const STYLE: &str = "
body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1160px;margin:2rem auto;padding:0 1rem}
h1,h2,h3{line-height:1.2}h2{border-bottom:1px solid #ccc;padding-bottom:.2rem;margin-top:2.5rem}
table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ccc;padding:.25rem .6rem;text-align:right}
th{background:#f3f3f3}td:first-child,th:first-child{text-align:left}
.row{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}figure{margin:0}figcaption{font-size:.9rem;color:#555}
img{image-rendering:pixelated;vertical-align:middle}pre{background:#f6f6f6;padding:1rem;overflow:auto;font-size:.85rem}
.matrix td,.matrix th{padding:.15rem .35rem;font-size:.85rem;min-width:2.2rem}.matrix th.name{text-align:right}
.near img{margin:2px;border:3px solid transparent}.near img.hit{border-color:#009e73}.near img.miss{border-color:#d55e00}
svg{max-width:100%;height:auto}";

/// Text as HTML has it.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A page under way, or a part of one.
#[derive(Default)]
pub struct Page(String);

impl Page {
    pub fn new(title: &str) -> Self {
        let title = escaped(title);
        Self(format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<meta name=\"viewport\" \
             content=\"width=device-width,initial-scale=1\">\n<style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        ))
    }

    pub fn heading(&mut self, level: u8, text: &str) {
        self.0 += &format!("<h{level}>{}</h{level}>\n", escaped(text));
    }

    /// A heading that can be linked to.
    pub fn anchor(&mut self, level: u8, id: &str, text: &str) {
        self.0 += &format!("<h{level} id=\"{id}\">{}</h{level}>\n", escaped(text));
    }

    /// Links to places of the page, by their names.
    pub fn links(&mut self, links: Vec<(String, String)>) {
        let link = |(id, text): &(String, String)| format!("<a href=\"#{id}\">{}</a>", escaped(text));
        self.0 += &format!("<p>{}</p>\n", links.iter().map(link).collect::<Vec<_>>().join(" · "));
    }

    pub fn part(&mut self, other: Self) {
        self.0 += &other.0;
    }

    pub fn paragraph(&mut self, text: &str) {
        self.0 += &format!("<p>{}</p>\n", escaped(text));
    }

    /// HTML as it is.
    pub fn raw(&mut self, html: &str) {
        self.0 += html;
        self.0.push('\n');
    }

    /// The first row is the head.
    pub fn table(&mut self, rows: &[Vec<String>]) {
        self.0 += "<table>\n";
        for (i, row) in rows.iter().enumerate() {
            let cell = if i == 0 { "th" } else { "td" };
            let cells: String =
                row.iter().map(|text| format!("<{cell}>{}</{cell}>", escaped(text))).collect();
            self.0 += &format!("<tr>{cells}</tr>\n");
        }
        self.0 += "</table>\n";
    }

    /// Figures beside each other.
    pub fn row(&mut self, figures: impl IntoIterator<Item = (String, String)>) {
        self.0 += "<div class=\"row\">\n";
        for (html, caption) in figures {
            self.0 += &format!("<figure>{html}<figcaption>{}</figcaption></figure>\n", escaped(&caption));
        }
        self.0 += "</div>\n";
    }

    /// Counts by true class (rows) and predicted one (columns), shaded by the row's share.
    pub fn confusion(&mut self, classes: &[String], counts: &[Vec<usize>]) {
        self.0 += "<table class=\"matrix\">\n<tr><th>true \\ predicted</th>";
        for name in classes {
            self.0 += &format!("<th>{}</th>", escaped(name));
        }
        self.0 += "</tr>\n";
        for (name, row) in classes.iter().zip(counts) {
            self.0 += &format!("<tr><th class=\"name\">{}</th>", escaped(name));
            let sum = row.iter().sum::<usize>().max(1);
            for count in row {
                let share = *count as f64 / sum as f64;
                // From white to blue; dark cells get white figures.
                let mix = |full: f64| (255.0 + (full - 255.0) * share).round();
                let ink = if share > 0.55 { "#fff" } else { "#222" };
                let (r, g, b) = (mix(0.0), mix(114.0), mix(178.0));
                self.0 += &format!("<td style=\"background:rgb({r},{g},{b});color:{ink}\">{count}</td>");
            }
            self.0 += "</tr>\n";
        }
        self.0 += "</table>\n";
    }

    pub fn code(&mut self, text: &dyn Display) {
        self.0 += &format!("<pre>{}</pre>\n", escaped(&text.to_string()));
    }

    pub fn end(mut self) -> String {
        self.0 += "</body></html>\n";
        self.0
    }
}
