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

/// A line on stderr, which nothing depends on.
pub fn say(text: impl Display) {
    let _ = writeln!(stderr(), "{text}");
}
