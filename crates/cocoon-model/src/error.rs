use std::io;
use std::path::{Path, PathBuf};

use crate::verity::RootHash;
use crate::walk::{MAX_ARCHIVE_BYTES, MAX_DEPTH, MAX_ENTRIES, MAX_MEMBER_BYTES};

/// Why a model was not packed, measured or accepted.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file or directory cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
    /// Something is in the directory that would not come out the same elsewhere, or is too much.
    #[error("{}: {why}", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        why: Refusal,
    },
    /// A file changed while it was read.
    #[error("{} changed while it was read; run this again when nothing writes there", path.display())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// A file's length shows that it is no archive of a model.
    #[error(
        "{} is no archive of a model: {bytes} bytes are no positive multiple of 4096; `cocoon model pack` makes one of \
         a directory",
        path.display()
    )]
    NoArchive {
        /// Which.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The files are not those that the name says.
    #[error("{} is another model: its hash is {found}, not {expected}", path.display())]
    Mismatch {
        /// What was read.
        path: PathBuf,
        /// The hash that it should have.
        expected: RootHash,
        /// The hash that it has.
        found: RootHash,
    },
    /// The output exists.
    #[error("{} exists already; remove it, or name another file", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// The output would become part of what is packed.
    #[error("{} lies in the directory that is packed; write it elsewhere", path.display())]
    OutputInside {
        /// Which.
        path: PathBuf,
    },
    /// The caller ended it.
    #[error("cancelled")]
    Cancelled,
}

impl ModelError {
    pub(crate) fn read(path: &Path, error: io::Error) -> Self {
        Self::Read { path: path.to_owned(), error }
    }

    pub(crate) fn write(path: &Path, error: io::Error) -> Self {
        Self::Write { path: path.to_owned(), error }
    }

    pub(crate) fn refused(path: &Path, why: Refusal) -> Self {
        Self::Refused { path: path.to_owned(), why }
    }
}

/// What a model's directory may not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A device, socket or pipe.
    #[error("neither a file, a directory nor a symbolic link, so it has no place in a model")]
    Special,
    /// A link that leads out of the directory.
    #[error(
        "a symbolic link that leads out of the directory, or might; put the file itself in its place (`cp -rL`)"
    )]
    LinkOut,
    /// A file that is in the directory twice.
    #[error("a second name of a file that is in the directory already (a hard link); make it a copy")]
    HardLink,
    /// A name that other systems would write in other bytes.
    #[error("a name that is no plain UTF-8 text, or has control characters; rename it")]
    Name,
    /// A set-user, set-group or sticky bit.
    #[error(
        "has a set-user, set-group or sticky bit, which would be part of the hash; `chmod ug-s,-t` takes it off"
    )]
    ModeBits,
    /// A time before 1970, which the published archive would keep.
    #[error("was last changed before 1970, which would be part of the hash; `touch` it")]
    Ancient,
    /// Too many entries.
    #[error("over {MAX_ENTRIES} entries; is it the model's directory?")]
    TooMany,
    /// Directories too deep in one another.
    #[error("over {MAX_DEPTH} directories deep; is it the model's directory?")]
    TooDeep,
    /// A path or the target of a link is too long.
    #[error("a path or a link's target of over {MAX_MEMBER_BYTES} bytes")]
    TooLong,
    /// The archive would be too large.
    #[error("over {MAX_ARCHIVE_BYTES} bytes in all; is it the model's directory?")]
    TooLarge,
}
