//! One process at a time trains a run: two would write over each other's checkpoints.

use crate::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

/// A run's folder, taken. The system gives it free when the process ends, however it ends; the file stays.
#[derive(Debug)]
pub struct RunLock {
    _held: Option<File>,
}

impl RunLock {
    /// Takes a folder, or fails with [`Error::InUse`]. On a file system without locks nothing is taken, and nothing refused.
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(".lock");
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(|source| Error::Io { path, source })?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _held: Some(file) }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(folder.to_owned())),
            Err(TryLockError::Error(_)) => Ok(Self { _held: None }),
        }
    }
}
