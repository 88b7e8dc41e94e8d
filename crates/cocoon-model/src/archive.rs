//! The bytes of an archive: made from a directory as they are asked for, or read from a file.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::error::ModelError;
use crate::measure::Source;
use crate::system::facts;
use crate::tar;
use crate::verity;
use crate::walk::{Entry, Plan, What};

/// A directory's archive, never whole in memory or on disk.
pub(crate) struct ArchiveReader<'a> {
    plan: &'a Plan,
    /// The entry that comes next.
    next: usize,
    /// Headers under way, and how much of them is out.
    headers: (Vec<u8>, usize),
    file: Option<OpenFile<'a>>,
    /// Zeros to come before anything else.
    zeros: u64,
    ended: bool,
}

struct OpenFile<'a> {
    file: File,
    place: PathBuf,
    entry: &'a Entry,
    left: u64,
}

impl<'a> ArchiveReader<'a> {
    pub(crate) fn new(plan: &'a Plan) -> Self {
        Self { plan, next: 0, headers: (Vec::new(), 0), file: None, zeros: 0, ended: false }
    }

    /// Goes on to the next entry, or to the zeros of the end.
    fn advance(&mut self) -> Result<(), ModelError> {
        let Some(entry) = self.plan.entries.get(self.next) else {
            self.zeros = tar::trailer(self.plan.members);
            self.ended = true;
            return Ok(());
        };
        self.next += 1;
        self.headers = (entry.headers(), 0);
        if entry.what == What::File {
            self.file = Some(OpenFile::open(entry, &self.plan.directory)?);
        }
        Ok(())
    }
}

impl Source for ArchiveReader<'_> {
    fn total(&self) -> u64 {
        self.plan.archive_bytes()
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<usize, ModelError> {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let headers = self.headers.0.get(self.headers.1..).unwrap_or_default();
            if !headers.is_empty() {
                let count = headers.len().min(rest.len());
                rest.iter_mut().zip(headers).for_each(|(to, from)| *to = *from);
                self.headers.1 += count;
                filled += count;
            } else if let Some(open) = &mut self.file {
                filled += open.read(rest)?;
                if open.left == 0 {
                    open.check_end()?;
                    self.zeros = tar::padding(open.entry.facts.bytes);
                    self.file = None;
                }
            } else if self.zeros > 0 {
                let count = usize::try_from(self.zeros).unwrap_or(usize::MAX).min(rest.len());
                rest.iter_mut().take(count).for_each(|byte| *byte = 0);
                self.zeros -= count as u64;
                filled += count;
            } else if self.ended {
                break;
            } else {
                self.advance()?;
            }
        }
        Ok(filled)
    }
}

impl<'a> OpenFile<'a> {
    /// Opens a file, which must be the one that was seen before.
    fn open(entry: &'a Entry, directory: &Path) -> Result<Self, ModelError> {
        let place = entry.place(directory);
        let file = File::open(&place).map_err(|error| ModelError::read(&place, error))?;
        let open = Self { file, place, entry, left: entry.facts.bytes };
        open.check_end()?;
        Ok(open)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, ModelError> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let into = into.get_mut(..most).unwrap_or_default();
        if into.is_empty() {
            return Ok(0);
        }
        let read = self.file.read(into).map_err(|error| ModelError::read(&self.place, error))?;
        if read == 0 {
            return Err(ModelError::Changed { path: self.place.clone() });
        }
        self.left -= read as u64;
        Ok(read)
    }

    fn check_end(&self) -> Result<(), ModelError> {
        let metadata = self.file.metadata().map_err(|error| ModelError::read(&self.place, error))?;
        let now = facts(&metadata);
        let seen = &self.entry.facts;
        let same = (now.identity, now.bytes, now.changed) == (seen.identity, seen.bytes, seen.changed);
        if same && metadata.is_file() {
            Ok(())
        } else {
            Err(ModelError::Changed { path: self.place.clone() })
        }
    }
}

/// An archive in a file.
#[derive(Debug)]
pub(crate) struct WholeFile {
    file: File,
    path: PathBuf,
    bytes: u64,
    left: u64,
}

impl WholeFile {
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(|error| ModelError::read(path, error))?;
        let bytes = file.metadata().map_err(|error| ModelError::read(path, error))?.len();
        if bytes == 0 || bytes % verity::BLOCK_BYTES as u64 != 0 {
            return Err(ModelError::NoArchive { path: path.to_owned(), bytes });
        }
        Ok(Self { file, path: path.to_owned(), bytes, left: bytes })
    }
}

impl Source for WholeFile {
    fn total(&self) -> u64 {
        self.bytes
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<usize, ModelError> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let into = into.get_mut(..most).unwrap_or_default();
        if into.is_empty() {
            return Ok(0);
        }
        let failed = |error| ModelError::read(&self.path, error);
        let read = self.file.read(into).map_err(failed)?;
        self.left = self.left.saturating_sub(read as u64);
        let ended = read == 0 || self.left == 0;
        // Whole blocks were promised, and all of them.
        if ended && (read == 0 || self.file.metadata().map_err(failed)?.len() != self.bytes) {
            return Err(ModelError::Changed { path: self.path.clone() });
        }
        Ok(read)
    }
}
