//! Printing where nobody may read any more: `| head` closes stdout, a lost terminal stderr. Rust's `println!` panics
//! then, in the midst of a training if need be.

use std::fmt::Display;
use std::io::{ErrorKind, Result, Write, stderr, stdout};

/// Writes to stdout. A reader that has seen enough is no failure; a full disk is one.
pub fn print(text: impl Display) -> Result<()> {
    let mut stdout = stdout().lock();
    match write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// [`print()`] with an end of line.
pub fn print_line(text: impl Display) -> Result<()> {
    print(format_args!("{text}\n"))
}

/// A line on stderr, which nothing depends on. What a terminal would obey, a file's name perhaps, is written out.
pub fn say(text: impl Display) {
    let obeyed = |c: char| c.is_control() && c != '\n' && c != '\t';
    let written = |c: char| if obeyed(c) { c.escape_default().to_string() } else { c.to_string() };
    let _ = writeln!(stderr(), "{}", text.to_string().chars().map(written).collect::<String>());
}
