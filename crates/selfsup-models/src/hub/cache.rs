//! Where files of the hub lie on this machine: the layout of `huggingface_hub`, so that what Python fetched is not fetched again.
//!
//! ```text
//! models--OWNER--NAME/blobs/ETAG                 the bytes; ETAG.incomplete while they come
//!                     refs/REVISION              the commit that it was, when last asked
//!                     snapshots/COMMIT/FILE      a link to the blob
//!                     .no_exist/COMMIT/FILE      an empty file: the commit has no such one
//! ```

use super::spec::HubSpec;
use crate::{Error, Result};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The cache's part for one model.
#[derive(Debug)]
pub struct ModelCache {
    /// All that was asked of the revision.
    revision: CacheRepo,
    folder: PathBuf,
    locks: PathBuf,
}

impl ModelCache {
    pub fn new(root: &Path, spec: &HubSpec) -> Self {
        let repo = Repo::with_revision(spec.repo.clone(), RepoType::Model, spec.revision.clone());
        let (folder, locks) = (root.join(repo.folder_name()), root.join(".locks").join(repo.folder_name()));
        Self { revision: Cache::new(root.to_owned()).repo(repo), folder, locks }
    }

    /// The commit that a revision was when the hub was last asked.
    pub fn commit(&self, spec: &HubSpec) -> Option<String> {
        if spec.is_commit() {
            return Some(spec.revision.clone());
        }
        let commit = fs::read_to_string(self.folder.join("refs").join(&spec.revision)).ok()?;
        let commit = commit.trim();
        (!commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric())).then(|| commit.to_owned())
    }

    /// Remembers what commit the revision is: at once, so that who reads it finds the one or the other.
    pub fn set_commit(&self, spec: &HubSpec, commit: &str) -> Result<()> {
        if self.commit(spec).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(&spec.revision);
        let io = |source| Error::Io { path: path.clone(), source };
        create_parent(&path)?;
        let mut new = tempfile::Builder::new();
        let mut new = new.prefix(".ref-").make_in(&self.folder, |name| File::create_new(name)).map_err(io)?;
        new.write_all(commit.as_bytes()).map_err(io)?;
        new.persist(&path).map_err(|e| io(e.error))?;
        Ok(())
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.revision.pointer_path(commit)
    }

    /// A file of a commit, if it is here.
    pub fn file(&self, commit: &str, file: &str) -> Option<PathBuf> {
        let path = self.snapshot(commit).join(file);
        path.is_file().then_some(path)
    }

    /// The files of a commit that are here, by their paths in the model.
    pub fn files(&self, commit: &str) -> Vec<String> {
        fn walk(folder: &Path, front: &str, found: &mut Vec<String>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let path = format!("{front}{name}");
                // Links to files are followed, to folders there are none.
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => walk(&entry.path(), &format!("{path}/"), found),
                    _ if entry.path().is_file() => found.push(path),
                    _ => (),
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.snapshot(commit), "", &mut found);
        found.sort();
        found
    }

    /// Whether the hub said that a commit has no such file.
    pub fn is_absent(&self, commit: &str, file: &str) -> bool {
        self.absent(commit, file).is_file()
    }

    /// Remembers that a commit has no such file. Where that cannot be written, the hub is asked again.
    pub fn set_absent(&self, commit: &str, file: &str) {
        let path = self.absent(commit, file);
        if !path.is_file() && create_parent(&path).is_ok() {
            let _ = File::create(path);
        }
    }

    fn absent(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }

    /// Where the bytes of an ETag lie, or will.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Waits until no other process fetches the same bytes, where the file system has locks. The lock ends with the file that is returned,
    /// and with the process.
    pub fn lock(&self, etag: &str) -> Result<File> {
        let path = self.locks.join(format!("{etag}.lock"));
        let io = |source| Error::Io { path: path.clone(), source };
        create_parent(&path)?;
        let file = File::options().create(true).append(true).open(&path).map_err(io)?;
        // As Python makes them: who shares a cache shares its locks.
        #[cfg(unix)]
        let _ = file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o664));
        if_supported(file.lock()).map_err(io)?;
        Ok(file)
    }

    /// Makes a commit's file of a blob that is whole.
    pub fn link(&self, etag: &str, commit: &str, file: &str) -> Result<PathBuf> {
        let path = self.snapshot(commit).join(file);
        let io = |source| Error::Io { path: path.clone(), source };
        create_parent(&path)?;
        let up = "../".repeat(2 + file.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        // Beside it, by a name that nobody else has, and renamed over: a link that leads nowhere is replaced, and nobody sees none.
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut beside = tempfile::Builder::new();
        let beside = beside.prefix(".linking-");
        let made = match beside.make_in(folder, |name| symlink(&target, name)) {
            // The second is what FAT answers.
            Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
                beside.make_in(folder, |name| copy_new(&self.blob(etag), name))
            }
            made => made,
        };
        made.map_err(io)?.persist(&path).map_err(|e| io(e.error))?;
        Ok(path)
    }
}

/// A copy, which is never written through what lies there already.
fn copy_new(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut to = File::options().write(true).create_new(true).open(to)?;
    std::io::copy(&mut File::open(from)?, &mut to).map(|_| ())
}

/// Without locks two processes may fetch the same bytes, but what becomes a file is whole all the same.
fn if_supported(lock: std::io::Result<()>) -> std::io::Result<()> {
    lock.or_else(|e| if e.kind() == ErrorKind::Unsupported { Ok(()) } else { Err(e) })
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Makes the folder of a file.
pub fn create_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn cache(root: &Path) -> ModelCache {
        let cache = ModelCache::new(root, &"hf:o/m".parse().unwrap());
        fs::create_dir_all(cache.blob("x").parent().unwrap()).unwrap();
        cache
    }

    #[test]
    fn many_link_files_of_one_folder_at_once() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path());
        for name in ["a", "b"] {
            fs::write(cache.blob(name), name).unwrap();
        }
        std::thread::scope(|scope| {
            for name in ["a", "b", "a", "b"] {
                let cache = &cache;
                scope.spawn(move || {
                    for _ in 0..200 {
                        let path = cache.link(name, COMMIT, &format!("{name}.pth")).unwrap();
                        assert_eq!(fs::read_to_string(path).unwrap(), name);
                    }
                });
            }
        });
        assert_eq!(cache.files(COMMIT), ["a.pth", "b.pth"], "nothing else is left there");
    }

    #[test]
    fn a_file_system_without_locks_does_without() {
        if_supported(Err(ErrorKind::Unsupported.into())).unwrap();
        if_supported(Err(ErrorKind::Interrupted.into())).unwrap_err();
    }

    #[cfg(unix)]
    #[test]
    fn a_copy_is_not_written_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::write(path("whole"), "whole").unwrap();
        fs::write(path("other"), "other").unwrap();
        symlink(Path::new("whole"), &path("link")).unwrap();
        assert_eq!(copy_new(&path("other"), &path("link")).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(path("whole")).unwrap(), "whole");
        copy_new(&path("other"), &path("copy")).unwrap();
        assert_eq!(fs::read_to_string(path("copy")).unwrap(), "other");
    }
}
