//! The one way in which the doctor looks at the machine: bounded reads below a root directory.
//!
//! What lies below `/proc`, `/sys`, `/dev` and `/etc` is taken as bytes from outside: it may be missing, closed to this
//! user, binary, endless, or a pipe that nobody writes to.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Most that is read of one file, in bytes. `/proc/cpuinfo` of 512 processors has about 900 KiB.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Most entries of one directory that are looked at.
const MAX_ENTRIES: usize = 4096;

/// What came of a look at a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look {
    /// Its text, cut at 1 MiB; bytes that are no UTF-8 are replaced.
    Text(String),
    /// There is none.
    Missing,
    /// It is there, but this user may not read it.
    Denied,
    /// It is there and cannot be read, or is no plain file.
    Odd,
}

impl Look {
    /// The text, where there is one.
    pub(super) fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Missing | Self::Denied | Self::Odd => None,
        }
    }
}

/// The machine below a root directory.
#[derive(Debug, Clone)]
pub(super) struct Sys {
    root: PathBuf,
}

impl Sys {
    /// The machine whose `/proc`, `/sys`, `/dev`, `/etc`, `/run` and `/var` are below `root`.
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Whether it is the machine that this program runs on: only then are other programs asked and sockets used.
    pub(super) fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Reads a plain file.
    pub(super) fn look(&self, path: &str) -> Look {
        let path = self.path(path);
        // A pipe or a device could block or have effects: it is not even opened.
        match std::fs::metadata(&path) {
            Ok(data) if data.is_file() => {}
            Ok(_) => return Look::Odd,
            Err(error) => return Self::failed(&error),
        }
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => Look::Text(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => Self::failed(&error),
        }
    }

    /// The text of a plain file, if it can be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        self.look(path).text()
    }

    /// The text of a file of one value, without the space around it. Empty is none.
    pub(super) fn value(&self, path: &str) -> Option<String> {
        let text = self.read(path)?;
        let value = text.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// Whether there is anything of this name.
    pub(super) fn exists(&self, path: &str) -> bool {
        std::fs::metadata(self.path(path)).is_ok()
    }

    /// Whether there is a directory of this name.
    pub(super) fn is_dir(&self, path: &str) -> bool {
        std::fs::metadata(self.path(path)).is_ok_and(|data| data.is_dir())
    }

    /// The names in a directory, sorted, the first 4096 that the system tells. None where it cannot be listed.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(path)) else { return Vec::new() };
        let names = entries.take(MAX_ENTRIES).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// The last part of what a symbolic link points to: the name of a driver, of a device.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        let target = std::fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// Whether this user may write there; false where it is not there, or where that cannot be told.
    pub(super) fn is_writable(&self, path: &str) -> bool {
        is_writable(&self.path(path))
    }

    fn failed(error: &io::Error) -> Look {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Look::Missing,
            io::ErrorKind::PermissionDenied => Look::Denied,
            _ => Look::Odd,
        }
    }
}

/// Whether this user may write to a file or into a directory.
#[cfg(unix)]
pub(super) fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Whether a file or directory is not marked as read-only.
#[cfg(not(unix))]
pub(super) fn is_writable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|data| !data.permissions().readonly())
}

/// Free and total bytes of the file system that a path is on, as far as the system tells.
#[cfg(unix)]
pub(super) fn space(path: &Path) -> Option<(u64, u64)> {
    let told = rustix::fs::statvfs(path).ok()?;
    Some((told.f_bavail.saturating_mul(told.f_frsize), told.f_blocks.saturating_mul(told.f_frsize)))
}

/// Not told here.
#[cfg(not(unix))]
pub(super) fn space(_path: &Path) -> Option<(u64, u64)> {
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_odd_bytes_do_no_harm() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("big"), b"x".repeat(2 * 1024 * 1024)).unwrap();
        std::fs::write(root.path().join("odd"), [0xff, 0, b'a', b'\n']).unwrap();
        let sys = Sys::new(root.path());
        assert_eq!(sys.read("/big").unwrap().len() as u64, MAX_FILE_BYTES);
        assert_eq!(sys.value("/odd").unwrap(), "\u{fffd}\0a");
        assert_eq!(sys.look("/none"), Look::Missing);
        assert_eq!(sys.look("/big/below"), Look::Missing);
        assert_eq!(sys.look("/"), Look::Odd);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_plain_file_is_not_opened() {
        let root = tempfile::tempdir().unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
        std::os::unix::fs::symlink("loop", root.path().join("loop")).unwrap();
        let sys = Sys::new(root.path());
        assert_eq!(sys.look("/socket"), Look::Odd);
        assert_eq!(sys.look("/loop"), Look::Odd);
        assert!(sys.exists("/socket") && !sys.exists("/loop"));
    }
}
