//! How the program ends when it does not succeed: one `error:` line, its causes below, and a status.

use crate::output;
use std::process::ExitCode;

/// The status after an interruption, as shells have it.
pub const INTERRUPTED: i32 = 130;

/// Why the program ends.
#[derive(Debug)]
pub enum Failure {
    /// The work failed: status 1.
    Work(anyhow::Error),
    /// Wrong usage or configuration, nothing was written: status 2.
    Usage(anyhow::Error),
    /// Interrupted with a checkpoint: status 130; the text says how to go on.
    Interrupted(String),
    /// Told already, with this status.
    Told(u8),
}

/// A command's result.
pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    /// Prints the reason to stderr.
    pub fn report(self) -> ExitCode {
        match self {
            Failure::Work(error) => print(&error, 1),
            Failure::Usage(error) => print(&error, 2),
            Failure::Interrupted(text) => {
                output::say(text);
                ExitCode::from(INTERRUPTED as u8)
            }
            Failure::Told(status) => ExitCode::from(status),
        }
    }
}

fn print(error: &anyhow::Error, status: u8) -> ExitCode {
    output::say(format_args!("error: {error}"));
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // A transparent wrapper repeats its cause word for word.
        if !said.contains(&cause) {
            output::say(format_args!("  caused by: {cause}"));
            said = cause;
        }
    }
    ExitCode::from(status)
}

/// An error and its causes in one line, each told once.
pub fn line(error: &anyhow::Error) -> String {
    error.chain().skip(1).map(ToString::to_string).fold(error.to_string(), |said, cause| {
        // A transparent wrapper repeats its cause word for word.
        if said.contains(&cause) { said } else { format!("{said}: {cause}") }
    })
}

/// Anything unforeseen is a failure of the work.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Work(error.into())
    }
}

/// Marks an error as the user's: wrong words or a wrong configuration.
pub trait OrUsage<T> {
    /// Status 2 in place of 1.
    fn or_usage(self) -> Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrUsage<T> for std::result::Result<T, E> {
    fn or_usage(self) -> Result<T> {
        self.map_err(|e| Failure::Usage(e.into()))
    }
}
