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
    /// How many parts there are, if that is known.
    total: Option<u64>,
    /// From which part on time is measured.
    from: u64,
    done: u64,
    start: Instant,
    said: Instant,
}

impl Progress {
    /// Work of `total` parts, of which `done` are done; says nothing at all if `quiet`.
    pub fn new(what: &str, total: u64, done: u64, quiet: bool) -> Self {
        Self::of(what, Some(total), done, quiet)
    }

    /// The same of work that may not say how much it is.
    pub fn of(what: &str, total: Option<u64>, done: u64, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !quiet).then(|| {
            let style = ProgressStyle::with_template(match total {
                Some(_) => "{prefix} {wide_bar} {pos}/{len} {msg} eta {eta}",
                None => "{prefix} {spinner} {pos} {msg}",
            });
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr())
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
            done,
            start: now,
            said: now,
        }
    }

    /// `done` parts are done; `message` says how it stands.
    pub fn at(&mut self, done: u64, message: impl FnOnce() -> String) {
        if done < self.done {
            // It began again, and so does its time.
            (self.from, self.start) = (done, Instant::now());
            if let Some(bar) = &self.bar {
                // A bar that was taken away comes back.
                bar.reset();
                bar.set_position(done);
                bar.reset_eta();
            }
        }
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(message());
        } else if self.lines && (self.said.elapsed() >= LINE_EVERY || Some(done) == self.total) {
            self.said = Instant::now();
            output::say(self.line(self.start.elapsed(), &message()));
        }
    }

    /// How it stands after a time.
    fn line(&self, elapsed: Duration, message: &str) -> String {
        let Self { what, done, from, .. } = self;
        let Some(total) = self.total else { return format!("{what} {done} {message}") };
        // So many times what was done is left.
        let left = total.saturating_sub(*done) as f64 / done.saturating_sub(*from).max(1) as f64;
        let eta = Duration::try_from_secs_f64(elapsed.as_secs_f64() * left).unwrap_or(Duration::MAX);
        format!("{what} {done}/{total} {message} eta {}", HumanDuration(eta))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Progress that says a line each time.
    fn lines(total: Option<u64>, done: u64) -> Progress {
        let mut progress = Progress::of("file", total, done, true);
        progress.lines = true;
        progress
    }

    fn line(progress: &Progress, seconds: u64) -> String {
        progress.line(Duration::from_secs(seconds), "bytes")
    }

    #[test]
    fn the_rest_takes_as_long_as_what_was_done() {
        let mut progress = lines(Some(100), 40);
        progress.at(60, String::new);
        assert_eq!(line(&progress, 10), "file 60/100 bytes eta 20 seconds");
        progress.at(100, String::new);
        assert_eq!(line(&progress, 10), "file 100/100 bytes eta 0 seconds");
    }

    #[test]
    fn work_that_begins_again_is_measured_again() {
        let mut progress = lines(Some(100), 80);
        progress.said = Instant::now().checked_sub(LINE_EVERY).unwrap();
        progress.at(0, String::new);
        progress.at(50, String::new);
        assert_eq!(line(&progress, 10), "file 50/100 bytes eta 10 seconds");
    }

    #[test]
    fn what_makes_no_sense_is_no_panic() {
        let mut progress = lines(Some(0), 0);
        progress.at(50, String::new);
        assert_eq!(line(&progress, 10), "file 50/0 bytes eta 0 seconds");
        let mut progress = lines(Some(u64::MAX), 0);
        progress.at(1, String::new);
        assert!(line(&progress, u64::MAX).starts_with("file 1/"));
    }

    #[test]
    fn how_much_is_not_known_is_not_said() {
        let mut progress = lines(None, 0);
        progress.at(50, String::new);
        assert_eq!(line(&progress, 10), "file 50 bytes");
    }
}
