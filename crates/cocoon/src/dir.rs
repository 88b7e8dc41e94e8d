//! A node's directory: made private, and used by one process at a time.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use cocoon_tee::sealing::SealingKey;

/// A directory that this process holds until this is dropped.
pub(crate) struct StateDir {
    path: PathBuf,
    sealing: Option<Arc<dyn SealingKey>>,
    /// The lock is the open file's.
    _lock: File,
}

impl std::fmt::Debug for StateDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateDir").field("path", &self.path).finish_non_exhaustive()
    }
}

impl StateDir {
    /// Makes the directory where it is missing and takes its lock.
    ///
    /// # Errors
    /// It cannot be made or written to, or another process holds it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        Self::try_open(path)?.with_context(|| {
            format!(
                "another cocoon process is using {shown}; stop it, or choose another directory with --dir"
            )
        })
    }

    /// The same; `None` where another process holds it.
    ///
    /// # Errors
    /// It cannot be made or written to.
    pub(crate) fn try_open(path: &Path) -> anyhow::Result<Option<Self>> {
        let shown = path.display();
        make_private(path).with_context(|| format!("cannot make the directory {shown}"))?;
        let lock = File::create(path.join("lock")).with_context(|| format!("cannot write to {shown}"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { path: path.to_owned(), sealing: None, _lock: lock })),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.join("lock").display()))
            }
        }
    }

    /// The same, with keys sealed in it.
    pub(crate) fn sealed(self, sealing: Option<Arc<dyn SealingKey>>) -> Self {
        Self { sealing, ..self }
    }

    /// What seals its keys, where they are sealed.
    pub(crate) fn sealing(&self) -> Option<&dyn SealingKey> {
        self.sealing.as_deref()
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Writes a file so that a reader sees all of it or none. What is there and no regular file stays: a device or a pipe
/// would be gone.
///
/// # Errors
/// What the system says, with the path.
pub(crate) fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(anyhow::anyhow!("it is not a regular file")).with_context(failed);
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory).with_context(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}

fn make_private(path: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_by_one_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a").join("b");
        let held = StateDir::open(&path).unwrap();
        let message = StateDir::open(&path).unwrap_err().to_string();
        assert!(message.contains("another cocoon process") && message.contains("--dir"), "{message}");
        drop(held);
        assert_eq!(StateDir::open(&path).unwrap().path(), path);
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write_whole(&path, "one").unwrap();
        write_whole(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
    }
}
