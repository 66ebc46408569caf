//! A source's name in its pieces: `cifar10:DIR#train` is a kind, a place and a part.

use std::path::{Path, PathBuf};

const KINDS: [&str; 2] = ["cifar10:", "idx:"];
const PARTS: [&str; 2] = ["#train", "#test"];

/// The pieces; kind and part may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceName<'a> {
    pub kind: &'a str,
    pub path: &'a str,
    pub part: &'a str,
}

impl<'a> SourceName<'a> {
    pub fn of(text: &'a str) -> Self {
        let (whole, part) = PARTS
            .into_iter()
            .find_map(|part| text.strip_suffix(part).map(|whole| (whole, &text[whole.len()..])))
            .unwrap_or((text, ""));
        let (kind, path) = KINDS
            .into_iter()
            .find_map(|kind| whole.strip_prefix(kind).map(|path| (&whole[..kind.len()], path)))
            .unwrap_or(("", whole));
        Self { kind, path, part }
    }

    /// Whether both are of one place: a folder may be called in many ways. What is no place, as a built-in source, is known by its name.
    pub fn is_where(&self, other: &SourceName<'_>) -> bool {
        let real = |name: &SourceName<'_>| -> Option<PathBuf> { Path::new(name.path).canonicalize().ok() };
        self.path == other.path || real(self).is_some_and(|place| real(other) == Some(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_three_pieces() {
        let pieces = |text| {
            let SourceName { kind, path, part } = SourceName::of(text);
            (kind, path, part)
        };
        assert_eq!(pieces("cifar10:a/b#test"), ("cifar10:", "a/b", "#test"));
        assert_eq!(pieces("photos/#train"), ("", "photos/", "#train"));
        assert_eq!(pieces("fashion-mnist"), ("", "fashion-mnist", ""));
    }

    #[test]
    fn a_folder_is_known_by_any_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("images").display().to_string();
        std::fs::create_dir_all(dir.path().join("images/other")).unwrap();
        let are = |a: &str, b: &str| SourceName::of(a).is_where(&SourceName::of(b));
        for other in ["/", "/../images", "#train", ""] {
            assert!(are(&images, &format!("{images}{other}")), "{other}");
        }
        assert!(!are(&images, &format!("{images}/other")));
        assert!(are("fashion-mnist", "fashion-mnist#test") && !are("fashion-mnist", "elsewhere"));
    }
}
