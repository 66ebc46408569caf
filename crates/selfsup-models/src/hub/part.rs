//! The bytes of a file that is not whole yet.

use crate::params::hex;
use crate::{Error, Result};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File, Metadata};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// A file that is not whole yet.
pub struct Part<'a> {
    path: &'a Path,
    file: File,
    pub length: u64,
}

impl<'a> Part<'a> {
    pub fn open(path: &'a Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let length = file.seek(SeekFrom::End(0)).map_err(io)?;
        Ok(Self { path, file, length })
    }

    fn io(&self) -> impl Fn(std::io::Error) -> Error + use<> {
        let path = self.path.to_owned();
        move |source| Error::Io { path: path.clone(), source }
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(self.io())?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    pub fn truncate(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(self.io())?;
        self.file.seek(SeekFrom::Start(0)).map_err(self.io())?;
        self.length = 0;
        Ok(())
    }

    /// Whether the file is still where it was opened. Where there are no locks, another process may have made it its own, whole or not.
    pub fn is_there(&self) -> bool {
        let same = || Ok::<_, std::io::Error>(id(&self.file.metadata()?) == id(&fs::metadata(self.path)?));
        same().unwrap_or(false)
    }

    /// Gives the bytes their name, now that they are whole; false if they are not there any more.
    pub fn persist(&self, blob: &Path) -> Result<bool> {
        self.file.sync_all().map_err(self.io())?;
        if !self.is_there() {
            return Ok(false);
        }
        fs::rename(self.path, blob).map_err(self.io())?;
        Ok(true)
    }

    /// The hash that the bytes should have and the one that they have, if these differ. An ETag that is no hash says nothing.
    pub fn wrong(&mut self, etag: &str) -> Option<(String, String)> {
        let got = match etag.len() {
            _ if !is_hash(etag) => return None,
            64 => self.hash(Sha256::new()),
            // git's name of a blob.
            _ => self.hash(Sha1::new().chain_update(format!("blob {}\0", self.length))),
        };
        let got = got.unwrap_or_else(|e| format!("nothing that can be read ({e})"));
        (!got.eq_ignore_ascii_case(etag)).then(|| (etag.to_owned(), got))
    }

    fn hash<D: Digest>(&mut self, mut hash: D) -> std::io::Result<String> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match self.file.read(&mut buffer)? {
                0 => break,
                read => hash.update(&buffer[..read]),
            }
        }
        Ok(hex(&hash.finalize()))
    }
}

/// What tells a file from all others, by whatever names.
#[cfg(unix)]
fn id(file: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (file.dev(), file.ino())
}

/// Elsewhere nobody renames a file that is open.
#[cfg(not(unix))]
fn id(_: &Metadata) {}

/// Whether an ETag is a SHA-256 or git's SHA-1.
pub fn is_hash(etag: &str) -> bool {
    matches!(etag.len(), 40 | 64) && etag.bytes().all(|b| b.is_ascii_hexdigit())
}
