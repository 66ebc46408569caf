//! What a user writes for a model on the hub.

use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The branch that is meant where none is said.
pub const MAIN: &str = "main";

/// `hf:OWNER/NAME[@REVISION][:FILE]`: a model on the Hugging Face hub, at a branch, tag or commit (`main`), and a file of it (its
/// weights).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSpec {
    /// `OWNER/NAME`.
    pub repo: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// A file, by its path in the model.
    pub file: Option<String>,
}

impl HubSpec {
    /// What an ENCODER that lies on the hub begins with.
    pub const SCHEME: &'static str = "hf:";

    /// Whether the revision is a whole commit, as git writes it, which never means anything else.
    pub(super) fn is_commit(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }
}

impl FromStr for HubSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fail = |problem: &str| Error::HubSpec { text: text.to_owned(), problem: problem.to_owned() };
        let rest = text.strip_prefix(Self::SCHEME).ok_or_else(|| fail("it does not begin with hf:"))?;
        let (front, file) = match rest.split_once(':') {
            Some((front, file)) => (front, Some(file)),
            None => (rest, None),
        };
        let (repo, revision) = front.split_once('@').unwrap_or((front, MAIN));
        let parts: Vec<&str> = repo.split('/').collect();
        if parts.len() != 2 || !parts.iter().all(|part| is_name(part)) {
            return Err(fail("OWNER and NAME are of letters, digits, `-`, `_` and `.`"));
        }
        if !is_path(revision) {
            return Err(fail("the revision must be a branch, a tag or a commit"));
        }
        if file.is_some_and(|file| !is_path(file)) {
            return Err(fail("the file must be a path in the model"));
        }
        Ok(Self { repo: repo.to_owned(), revision: revision.to_owned(), file: file.map(str::to_owned) })
    }
}

impl fmt::Display for HubSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::SCHEME, self.repo)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        match &self.file {
            Some(file) => write!(f, ":{file}"),
            None => Ok(()),
        }
    }
}

fn is_name(part: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !part.is_empty() && !part.starts_with(['.', '-']) && !part.contains("..") && part.bytes().all(allowed)
}

/// Whether a text that becomes a path in the cache stays there.
pub(super) fn is_path(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':', '?', '#', '%'])
    };
    text.split('/').all(plain) && !text.contains(|c: char| c.is_control() || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_reads_as_it_is_written() {
        for (text, repo, revision, file) in [
            ("hf:timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k", "main", None),
            ("hf:o/n@v1.0", "o/n", "v1.0", None),
            ("hf:o/n@refs/pr/3:a/b.pth", "o/n", "refs/pr/3", Some("a/b.pth")),
            ("hf:o/n:model.safetensors", "o/n", "main", Some("model.safetensors")),
        ] {
            let spec: HubSpec = text.parse().unwrap();
            let file = file.map(str::to_owned);
            assert_eq!(spec, HubSpec { repo: repo.into(), revision: revision.into(), file });
            assert_eq!(spec.to_string(), text);
        }
    }

    #[test]
    fn a_commit_is_of_forty_digits_in_small_letters() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for (revision, is) in
            [(commit, true), (&commit.to_uppercase(), false), (&commit[1..], false), ("main", false)]
        {
            let spec: HubSpec = format!("hf:o/n@{revision}").parse().unwrap();
            assert_eq!(spec.is_commit(), is, "{revision}");
        }
    }

    #[test]
    fn what_is_no_spec_is_refused() {
        for text in [
            "o/n",
            "hf:",
            "hf:n",
            "hf:a/b/c",
            "hf:../n",
            "hf:o/..",
            "hf:o/.n",
            "hf:o/n@",
            "hf:o/n@a b",
            "hf:o/n@../main",
            "hf:o/n:",
            "hf:o/n:/etc/passwd",
            "hf:o/n:a/../../b",
            "hf:o/n:a//b",
            "hf:o/n:..\\b",
            "hf:o/n:a?b",
            "hf:o n/n",
        ] {
            assert!(matches!(text.parse::<HubSpec>(), Err(Error::HubSpec { .. })), "{text}");
        }
    }
}
