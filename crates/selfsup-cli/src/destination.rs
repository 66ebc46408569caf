//! Where a command writes, looked at before it works: hours of it are not lost to a folder that is not there, and nothing is written over
//! what it is made from.

use anyhow::{Result, anyhow};
use selfsup_train::RunFolder;
use std::path::{Path, PathBuf};

/// What a run cannot do without.
const OF_A_RUN: &[&str] = &[
    "encoder.safetensors",
    "checkpoint.safetensors",
    "config.toml",
    "permutations.txt",
    "metrics.jsonl",
    "probes.json",
];

/// Fails where a file cannot be written, or would replace one of `sources` or a part of a run.
pub fn check(out: &Path, sources: &[PathBuf]) -> Result<()> {
    let place = out.display();
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(anyhow!("cannot write {place}: {} is no folder", folder.display()));
    }
    if out.is_dir() || out.file_name().is_none() {
        return Err(anyhow!("cannot write {place}: it is a folder"));
    }
    if is_one_of(out, sources) {
        return Err(anyhow!("{place} would replace what it is made from"));
    }
    let is_of_a_run =
        out.file_name().and_then(|name| name.to_str()).is_some_and(|name| OF_A_RUN.contains(&name));
    if is_of_a_run && RunFolder::is_one(folder) {
        return Err(anyhow!("{place} would replace a part of the run"));
    }
    if is_special(out) {
        return Ok(());
    }
    // Whether it may be written, only writing tells.
    tempfile::Builder::new()
        .prefix(".writing-")
        .tempfile_in(folder)
        .map_err(|e| anyhow!("cannot write {place}: {}", e.kind()))?;
    Ok(())
}

/// Whether a file is there, and one of the sources.
pub fn is_one_of(out: &Path, sources: &[PathBuf]) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(out).is_some_and(|there| sources.iter().any(|source| real(source).as_ref() == Some(&there)))
}

/// Whether there is a device or a pipe, such as `/dev/stdout`, in whose place no file may come.
fn is_special(out: &Path) -> bool {
    out.metadata().is_ok_and(|there| !there.is_file() && !there.is_dir())
}

/// Writes a file beside its place and renames it: a failure leaves the old one as it was. What a link leads to is written, not the link.
pub fn write(out: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| anyhow!("cannot write {}: {e}", out.display());
    if is_special(out) {
        return write(out).map_err(|e| fail(&e));
    }
    let real = out.canonicalize();
    let out = real.as_deref().unwrap_or(out);
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let ending = out.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    let mut builder = tempfile::Builder::new();
    let file =
        builder.prefix(".writing-").suffix(&ending).tempfile_in(folder).map_err(|e| fail(&e.kind()))?;
    write(file.path()).map_err(|e| fail(&e))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o644);
        file.as_file().set_permissions(mode).map_err(|e| fail(&e.kind()))?;
    }
    file.persist(out).map_err(|e| fail(&e.error.kind()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        std::fs::write(file("a.safetensors"), "a").unwrap();
        let error = |out: &Path, sources: &[PathBuf]| check(out, sources).unwrap_err().to_string();
        assert!(error(&file("a.safetensors"), &[file("./a.safetensors")]).contains("made from"));
        check(&file("b.safetensors"), &[file("a.safetensors")]).unwrap();
        check(&file("a.safetensors"), &[file("b.safetensors")]).unwrap();
        assert!(error(&file("none/b"), &[]).contains("none is no folder"));
        assert!(error(dir.path(), &[]).contains("it is a folder"));
        check(&file("encoder.safetensors"), &[]).unwrap();
        std::fs::write(file("config.toml"), "").unwrap();
        assert!(error(&file("encoder.safetensors"), &[]).contains("a part of the run"));
        check(&file("report.html"), &[]).unwrap();
    }

    #[test]
    fn a_failure_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a.txt");
        std::fs::write(&out, "old").unwrap();
        let half = |path: &Path| {
            std::fs::write(path, "half")?;
            Err(anyhow!("the disk is full"))
        };
        assert!(write(&out, half).unwrap_err().to_string().contains("a.txt: the disk is full"));
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "old");
        write(&out, |path| Ok(std::fs::write(path, "new")?)).unwrap();
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            let link = dir.path().join("link.txt");
            std::os::unix::fs::symlink(&out, &link).unwrap();
            write(&link, |path| Ok(std::fs::write(path, "newer")?)).unwrap();
            assert!(link.is_symlink() && std::fs::read_to_string(&out).unwrap() == "newer");
            let null = Path::new("/dev/null");
            check(null, &[]).unwrap();
            write(null, |path| Ok(std::fs::write(path, "nothing")?)).unwrap();
            assert!(!null.metadata().unwrap().is_file());
        }
    }
}
