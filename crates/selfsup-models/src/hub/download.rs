//! A download that goes on where it was cut and is believed only when its hash is right.

use super::http::{Client, FileInfo, text};
use super::part::{Part, is_hash};
use super::problem::{Failed, Kind, Problem};
use super::{Progress, Transfer};
use crate::{Error, Result};
use std::io::{ErrorKind, Read};
use std::path::Path;
use ureq::http::header::CONTENT_RANGE;
use ureq::http::{Response, StatusCode};
use ureq::{Body, ResponseExt};

/// A file that is to come.
pub struct Download<'a> {
    pub client: &'a Client,
    /// What is asked of the hub for it.
    pub path: &'a str,
    /// What a user calls it.
    pub what: &'a str,
    pub info: &'a FileInfo,
    pub progress: &'a Progress,
}

impl Download<'_> {
    /// Fetches the bytes to `to`, from where an earlier try ended, checks them, and makes them `blob`.
    ///
    /// # Errors
    /// [`Error::Hub`], also if the hub says neither a size nor a hash, by which an end would be told from a cut; [`Error::Io`];
    /// [`Error::HubHash`], after a second whole try: then nothing is left.
    pub fn run(&self, to: &Path, blob: &Path) -> Result<()> {
        let info = self.info;
        let hashed = is_hash(&info.etag);
        if !hashed && info.size.is_none() {
            return Err(
                self.error(Problem::nonsense("it says neither how long the file is nor a hash of it"))
            );
        }
        let (mut again, mut lost) = (true, 0);
        // Another process may have fetched it meanwhile.
        while !blob.is_file() {
            let mut part = Part::open(to)?;
            if !hashed {
                // Nothing would tell what another process left from this file's bytes.
                part.truncate()?;
            }
            self.fill(&mut part)?;
            let wrong = part.wrong(&info.etag);
            if !part.is_there() || (wrong.is_none() && !part.persist(blob)?) {
                lost += 1;
                if lost > self.client.tries {
                    let source = std::io::Error::other("another process takes it away again and again");
                    return Err(Error::Io { path: to.to_owned(), source });
                }
                continue;
            }
            // What an earlier process left may be to blame: once more, from the first byte.
            if let Some((expected, got)) = wrong {
                part.truncate()?;
                if !again {
                    return Err(Error::HubHash { file: self.what.to_owned(), expected, got });
                }
                again = false;
            }
        }
        Ok(())
    }

    fn error(&self, problem: Problem) -> Error {
        self.client.error(self.what, problem)
    }

    /// Reads until the file is whole. Each cut costs a try, unless bytes came that had not come before.
    fn fill(&self, part: &mut Part<'_>) -> Result<()> {
        let size = self.info.size;
        if size.is_some_and(|size| part.length > size) {
            part.truncate()?;
        }
        // Whoever begins again each time gets no further than before.
        let (mut tries, mut most) = (0, part.length);
        while size != Some(part.length) {
            match self.read_on(part)? {
                Ok(()) => return Ok(()),
                Err(Failed::Always(problem)) => return Err(self.error(problem)),
                Err(Failed::Now(problem, wait)) => {
                    tries = if part.length > most { 1 } else { tries + 1 };
                    most = most.max(part.length);
                    self.client.wait(tries, wait).ok_or_else(|| self.error(problem))?;
                }
            }
        }
        Ok(())
    }

    /// One request, and what comes of it; nothing is written any more to a file that is not there. The outer error is this machine's.
    fn read_on(&self, part: &mut Part<'_>) -> Result<std::result::Result<(), Failed>> {
        let size = self.info.size;
        let from = part.length;
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let answer = self.client.url(self.path);
        let answer = answer.and_then(|url| self.client.follow(&url, false, |_| false, range.as_deref()));
        if !part.is_there() {
            return Ok(Ok(()));
        }
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(Failed::Always(Problem {
                kind: Kind::Status(StatusCode::RANGE_NOT_SATISFIABLE, _), ..
            })) if from > 0 => {
                part.truncate()?;
                let problem = Problem::nonsense("it has fewer bytes than came before");
                return Ok(Err(Failed::Now(problem, None)));
            }
            Err(failed) => return Ok(Err(failed)),
        };
        let host = self.client.other(answer.get_uri());
        let later = |problem: Problem| Ok(Err(Failed::Now(problem, None).at(host.clone())));
        // Whoever does not know ranges begins again with all of it.
        if from > 0 && !continues(&answer, from, size) {
            part.truncate()?;
            if answer.status() == StatusCode::PARTIAL_CONTENT {
                return later(Problem::nonsense("it sent another part than was asked for"));
            }
        }
        let mut body = answer.body_mut().with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return later(Problem::unreachable(format!("cut: {e}"))),
            };
            if !part.is_there() {
                return Ok(Ok(()));
            }
            if size.is_some_and(|size| part.length + read as u64 > size) {
                part.truncate()?;
                return later(Problem::nonsense("it sent more bytes than the file has"));
            }
            part.append(&buffer[..read])?;
            self.progress.call(&Transfer { file: self.name(), done: part.length, total: size });
        }
        match size {
            Some(size) if part.length < size => {
                later(Problem::unreachable(format!("cut at byte {} of {size}", part.length)))
            }
            _ => Ok(Ok(())),
        }
    }

    /// The file's name without its folder.
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }
}

/// Whether an answer is the rest of a file from a byte on.
fn continues(answer: &Response<Body>, from: u64, size: Option<u64>) -> bool {
    let range = text(answer.headers(), CONTENT_RANGE.as_str());
    let Some((places, total)) =
        range.and_then(|range| range.trim().strip_prefix("bytes ")).and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    let starts = places.split_once('-').and_then(|(first, _)| first.parse().ok()) == Some(from);
    let fits = size.is_none() || total == "*" || total.parse().ok() == size;
    answer.status() == StatusCode::PARTIAL_CONTENT && starts && fits
}
