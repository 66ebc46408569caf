//! Plain tables for stdout: first column to the left, the others to the right.

/// Lines of cells, aligned; the first is the head.
pub fn render(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(c, (cell, &w))| if c == 0 { format!("{cell:<w$}") } else { format!("{cell:>w$}") })
            .collect();
        text += line.join("  ").trim_end();
        text.push('\n');
        if i == 0 {
            text += &widths.iter().map(|&w| "-".repeat(w)).collect::<Vec<_>>().join("  ");
            text.push('\n');
        }
    }
    text
}

/// A text with its control characters, which a terminal would obey, written out.
pub fn plain(cell: &str) -> String {
    let written = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    cell.chars().map(written).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = super::render(&[row(["name", "n"]), row(["a", "10"]), row(["long name", "9"])]);
        assert_eq!(text, "name        n\n---------  --\na          10\nlong name   9\n");
        let text = super::render(&[row(["a\nb", "\u{1b}[2J"])]);
        assert_eq!(text.lines().next(), Some(r"a\nb  \u{1b}[2J"));
    }
}
