//! The files of a run.

use crate::run_lock::RunLock;
use crate::{Error, PretrainConfig, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A run's folder: `config.toml`, with a file of jigsaw's orders beside it, `metrics.jsonl`, `events/`, `checkpoint.safetensors`,
/// `encoder.safetensors`, and `checkpoints/` for those that are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// A new run's folder with its configuration, taken. A folder that holds a run is refused; nothing is written
    /// then.
    pub(crate) fn create(path: &Path, config: &PretrainConfig) -> Result<(Self, RunLock)> {
        Self::check_free(path)?;
        fs::create_dir_all(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let lock = RunLock::take(path)?;
        // Another process may have been quicker.
        Self::check_free(path)?;
        let folder = Self(path.to_owned());
        folder.write_config(config)?;
        Ok((folder, lock))
    }

    /// Fails where there is a run, or a part of one.
    pub fn check_free(path: &Path) -> Result<()> {
        let folder = Self(path.to_owned());
        if folder.config().exists() || folder.checkpoint().exists() || folder.encoder().exists() {
            return Err(Error::FolderTaken(path.to_owned()));
        }
        Ok(())
    }

    /// Whether there is a run, whole or not.
    pub fn is_one(path: &Path) -> bool {
        Self(path.to_owned()).config().is_file()
    }

    /// The folder of a run that is there, and its configuration.
    pub fn open(path: &Path) -> Result<(Self, PretrainConfig)> {
        let folder = Self(path.to_owned());
        let missing = |why: &str| Error::NoRun { folder: path.to_owned(), why: why.to_owned() };
        let text = match fs::read_to_string(folder.config()) {
            Ok(text) => text,
            Err(_) if path.is_file() => return Err(missing("it is a file; a run is a folder")),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(missing("there is no config.toml"));
            }
            Err(source) => return Err(Error::Io { path: folder.config(), source }),
        };
        if !folder.checkpoint().exists() {
            return Err(missing("there is no checkpoint.safetensors"));
        }
        let mut config = PretrainConfig::from_toml(&text)?;
        if let Some((file, _)) = config.method.file_mut() {
            let place =
                std::path::absolute(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
            *file = place.join(&*file);
        }
        Ok((folder, config))
    }

    /// Writes `config.toml`, and the file that it names beside it.
    pub(crate) fn write_config(&self, config: &PretrainConfig) -> Result<()> {
        let (kept, file) = config.kept();
        if let Some((from, name)) = file {
            let text = fs::read(&from).map_err(|source| Error::Io { path: from, source })?;
            replace(&self.0.join(name), &text)?;
        }
        replace(&self.config(), kept.to_toml().as_bytes())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// The last checkpoint.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint.safetensors")
    }

    /// A checkpoint that is kept, by its step.
    pub fn kept_checkpoint(&self, step: u64) -> PathBuf {
        self.0.join("checkpoints").join(format!("step-{step:08}.safetensors"))
    }

    /// The backbone.
    pub fn encoder(&self) -> PathBuf {
        self.0.join("encoder.safetensors")
    }
}

/// Writes a file beside its place and renames it, so that a crash leaves the old one or the new one. One that is so already is left.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let io = |source| Error::Io { path: path.to_owned(), source };
    fs::write(&beside, bytes).map_err(io)?;
    fs::rename(&beside, path).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_only_where_it_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        replace(&path, b"one").unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        fs::File::options().append(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        let state = || (fs::read(&path).unwrap(), path.metadata().unwrap().modified().unwrap() == long_ago);
        replace(&path, b"one").unwrap();
        assert_eq!(state(), (b"one".to_vec(), true));
        replace(&path, b"two").unwrap();
        assert_eq!(state(), (b"two".to_vec(), false));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // What cannot be written beside its place leaves it.
        fs::create_dir(dir.path().join("config.toml.part")).unwrap();
        let error = replace(&path, b"three").unwrap_err().to_string();
        assert!(error.contains("config.toml"), "{error}");
        assert_eq!(state().0, b"two");
    }
}
