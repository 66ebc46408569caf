//! The table as Markdown, to be put into a page.

use super::{Report, table};

const BEGIN: &str = "<!-- compare:begin -->";
const END: &str = "<!-- compare:end -->";

/// Machine, date, command, and a row for each case and peer.
pub fn render(report: &Report) -> String {
    let head = table::head(report).replace('\n', "; ");
    let mut text = format!(
        "{} (UTC): {head}.\n\n```text\ncargo run --release -p selfsup-bench -- {}\n```\n\n\
         | case | peer | ours, min / median | peer, min / median | ratio (rounds) | of minima | GFLOP/s | of the roof |\n\
         |---|---|--:|--:|--:|--:|--:|--:|\n",
        report.date, report.command,
    );
    for case in &report.cases {
        for [name, peer, ours, theirs, ratio, minima, rounds, rates, share] in table::lines(case, report) {
            let ratio = if ratio.is_empty() { ratio } else { format!("**{ratio}** ({rounds})") };
            text += &format!(
                "| {name} | {peer} | {ours} | {theirs} | {ratio} | {minima} | {rates} | {share} |\n"
            );
        }
    }
    for memory in report.cases.iter().filter_map(super::Measured::memory) {
        text += &format!("\n{memory}\n");
    }
    for case in &report.cases {
        for side in &case.sides {
            if let Some(failure) = &side.failure {
                let first = failure.lines().next().unwrap_or_default();
                text += &format!("\n{} ({}) failed: {first}\n", case.name, side.name);
            }
        }
    }
    text
}

/// Puts the table between the page's marks; a page without them becomes the table.
pub fn place(page: &str, table: &str) -> String {
    if let Some((before, rest)) = page.split_once(BEGIN)
        && let Some((_, after)) = rest.split_once(END)
    {
        return format!("{before}{BEGIN}\n{table}{END}{after}");
    }
    table.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_peer() {
        let text = render(&crate::report::example());
        let row = "| conv2d/a/f | eager | 10.0 ms / 20.0 ms | 30.0 ms / 40.0 ms | **2.00** (1.00–5.00) | 3.00 | 100 / 33 \
                   | 50 % / 17 % |";
        assert!(text.contains(row), "{text}");
        for words in ["2026-01-31", "A CPU", "-- compare --only conv2d\n", "(compiled) failed: out of memory"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
        let columns = |line: &&str| line.matches('|').count();
        let counts: Vec<usize> = text.lines().filter(|l| l.starts_with('|')).map(|l| columns(&l)).collect();
        assert_eq!(counts, [9; 5]);
    }

    #[test]
    fn marks_keep_the_rest_of_the_page() {
        let page = format!("head\n{BEGIN}\nold\n{END}\nfoot\n");
        let placed = place(&page, "new\n");
        assert_eq!(placed, format!("head\n{BEGIN}\nnew\n{END}\nfoot\n"));
        assert_eq!(place(&placed, "new\n"), placed);
        assert_eq!(place("no marks", "new\n"), "new\n");
    }
}
