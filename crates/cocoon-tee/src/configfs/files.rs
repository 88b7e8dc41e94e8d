//! The few file operations that the kernel's interface takes, and the time between two tries.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// What is done to files. Behind a trait so that tests can play the kernel, whose files answer to what is written.
pub(super) trait TsmFiles: Send + Sync {
    fn is_dir(&self, path: &Path) -> bool;

    fn create_dir(&self, path: &Path) -> io::Result<()>;

    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// The whole file; [`io::ErrorKind::FileTooLarge`] where it has more than `limit` bytes.
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;

    /// Writes all bytes at once and closes the file, upon which the kernel takes them over.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// A time that only goes forward, since anything.
    fn now(&self) -> Duration;

    fn pause(&self, time: Duration);
}

/// The real ones.
#[derive(Debug)]
pub(super) struct RealFiles {
    start: Instant,
}

impl RealFiles {
    pub(super) fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl TsmFiles for RealFiles {
    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        // One byte more than allowed, so that too much is noticed.
        let mut bytes = vec![0; limit.saturating_add(1)];
        let mut len = 0;
        // Not `read_to_end`, which goes on after an interruption without end: a quote takes seconds, and whoever
        // interrupts it may do so again.
        loop {
            match file.read(&mut bytes[len..])? {
                0 => break,
                more => len += more,
            }
        }
        if len > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // Neither created nor truncated: these files are the kernel's, and one that is missing is an error.
        OpenOptions::new().write(true).open(path)?.write_all(bytes)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "evidence is made where blocking is allowed, and the kernel has no event to wait for"
    )]
    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
