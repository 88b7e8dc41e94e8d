//! A file that appears whole or not at all.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::ModelError;

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 64 * 1024;

/// Written under another name in the same directory, and renamed at the end. Dropped before, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Output {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl Output {
    /// Begins a file, which must not exist nor lie in `outside_of`.
    pub(crate) fn create(path: &Path, outside_of: &Path) -> Result<Self, ModelError> {
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(ModelError::Exists { path: path.to_owned() });
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let real = parent.canonicalize().map_err(|error| ModelError::write(path, error))?;
        // A directory that cannot be found is told of by who reads it.
        if outside_of.canonicalize().is_ok_and(|directory| real.starts_with(directory)) {
            return Err(ModelError::OutputInside { path: path.to_owned() });
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".cocoon-model-");
        // For all to read, as far as the process's mask allows: models are no secrets, and others mount them.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(parent).map_err(|error| ModelError::write(path, error))?;
        Ok(Self { file: BufWriter::with_capacity(BUFFER_BYTES, file), path: path.to_owned() })
    }

    pub(crate) fn write_piece(&mut self, piece: &[u8]) -> Result<(), ModelError> {
        self.file.write_all(piece).map_err(|error| ModelError::write(&self.path, error))
    }

    /// Makes the file durable and gives it its name.
    pub(crate) fn finish(self) -> Result<(), ModelError> {
        let Self { file, path } = self;
        let failed = |error| ModelError::write(&path, error);
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.as_file().sync_all().map_err(failed)?;
        match file.persist_noclobber(&path) {
            Ok(_) => Ok(()),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                Err(ModelError::Exists { path })
            }
            Err(error) => Err(ModelError::write(&path, error.error)),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Output {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
