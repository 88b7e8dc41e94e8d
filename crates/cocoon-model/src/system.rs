//! What the system says of a file. Elsewhere than on Unix there are no modes and no numbers of files: then files have the
//! modes that a download gives them.

use std::fs::Metadata;

use sha2::{Digest as _, Sha256};

/// What of a file's metadata matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) mode: u32,
    pub(crate) bytes: u64,
    /// Time of the last change, in seconds since 1970 and nanoseconds.
    pub(crate) changed: (i64, i64),
    /// Device and number of the file.
    pub(crate) identity: (u64, u64),
    /// Names that the file has.
    pub(crate) names: u64,
}

impl Facts {
    /// Adds what shows a change to a hash.
    pub(crate) fn hash(&self, hash: &mut Sha256) {
        hash.update(self.mode.to_le_bytes());
        hash.update(self.bytes.to_le_bytes());
        hash.update(self.changed.0.to_le_bytes());
        hash.update(self.changed.1.to_le_bytes());
        hash.update(self.identity.0.to_le_bytes());
        hash.update(self.identity.1.to_le_bytes());
    }
}

#[cfg(unix)]
pub(crate) fn facts(metadata: &Metadata) -> Facts {
    use std::os::unix::fs::MetadataExt as _;
    Facts {
        mode: metadata.mode() & 0o7777,
        bytes: metadata.len(),
        changed: (metadata.mtime(), metadata.mtime_nsec()),
        identity: (metadata.dev(), metadata.ino()),
        names: metadata.nlink(),
    }
}

#[cfg(not(unix))]
pub(crate) fn facts(metadata: &Metadata) -> Facts {
    let since = |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).ok();
    let changed = metadata.modified().ok().and_then(since).unwrap_or_default();
    Facts {
        mode: if metadata.is_dir() { 0o755 } else { 0o644 },
        bytes: metadata.len(),
        changed: (i64::try_from(changed.as_secs()).unwrap_or(0), i64::from(changed.subsec_nanos())),
        identity: (0, 0),
        names: 1,
    }
}
