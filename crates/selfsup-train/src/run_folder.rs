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
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        let (kept, file) = config.kept();
        if let Some((from, name)) = file {
            let to = self.0.join(name);
            let text = fs::read(&from).map_err(io(&from))?;
            if fs::read(&to).ok().as_ref() != Some(&text) {
                fs::write(&to, text).map_err(io(&to))?;
            }
        }
        let path = self.config();
        fs::write(&path, kept.to_toml()).map_err(io(&path))
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
