//! Progress on stderr: a bar on a terminal, a line now and then otherwise.

use crate::output;
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress of one piece of work.
pub struct Progress {
    bar: Option<ProgressBar>,
    lines: bool,
    what: String,
    total: u64,
    from: u64,
    start: Instant,
    said: Instant,
}

impl Progress {
    /// Work of `total` parts, of which `done` are done; says nothing at all if `quiet`.
    pub fn new(what: &str, total: u64, done: u64, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !quiet).then(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} eta {eta}");
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_prefix(what.to_owned())
                .with_position(done);
            bar.reset_eta();
            bar
        });
        let now = Instant::now();
        Self {
            bar,
            lines: !terminal && !quiet,
            what: what.to_owned(),
            total,
            from: done,
            start: now,
            said: now,
        }
    }

    /// `done` parts are done; `message` says how it stands.
    pub fn at(&mut self, done: u64, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(message());
        } else if self.lines && (self.said.elapsed() >= LINE_EVERY || done == self.total) {
            self.said = Instant::now();
            let part = (done - self.from).max(1) as f64 / (self.total - self.from).max(1) as f64;
            let left = self.start.elapsed().mul_f64((1.0 - part) / part);
            output::say(format_args!(
                "{} {done}/{} {} eta {}",
                self.what,
                self.total,
                message(),
                HumanDuration(left)
            ));
        }
    }

    /// A message among the progress; shown even when quiet, since it is no progress.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::say(text)),
            None => output::say(text),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
