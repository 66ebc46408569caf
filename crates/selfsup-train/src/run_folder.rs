//! The files of a run.

use crate::{Error, PretrainConfig, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A run's folder: `config.toml`, `metrics.jsonl`, `events/`, `checkpoint.safetensors`,
/// `encoder.safetensors`, and `checkpoints/` for those that are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// A new run's folder with its configuration. A folder that holds a run is refused; nothing is written
    /// then.
    pub fn create(path: &Path, config: &PretrainConfig) -> Result<Self> {
        let folder = Self(path.to_owned());
        if folder.config().exists() || folder.checkpoint().exists() || folder.encoder().exists() {
            return Err(Error::FolderTaken(path.to_owned()));
        }
        fs::create_dir_all(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        folder.write_config(config)?;
        Ok(folder)
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
        let config = PretrainConfig::from_toml(&text)?;
        Ok((folder, config))
    }

    /// Writes `config.toml`.
    pub fn write_config(&self, config: &PretrainConfig) -> Result<()> {
        let path = self.config();
        fs::write(&path, config.to_toml()).map_err(|source| Error::Io { path, source })
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
