//! What is in a directory, in the order of the archive: each directory before what is in it, names by their bytes.

use std::collections::HashSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::error::{ModelError, Refusal};
use crate::system::{Facts, facts};
use crate::tar::{self, Kind};

/// Most files, directories and links of a model.
pub const MAX_ENTRIES: usize = 100_000;
/// Most directories in one another.
pub const MAX_DEPTH: usize = 64;
/// Longest path in the archive, and longest target of a link, in bytes.
pub const MAX_MEMBER_BYTES: usize = 1024;
/// Largest archive, in bytes: 16 TiB.
pub const MAX_ARCHIVE_BYTES: u64 = 1 << 44;
/// Left out at the top of the directory, as the published tool does: what the downloader notes there.
pub(crate) const LEFT_OUT: &str = ".cache";

/// One member of the archive.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Path in the archive: begins with `./`, a directory's ends with `/`.
    pub(crate) member: String,
    pub(crate) what: What,
    pub(crate) facts: Facts,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    Directory,
    File,
    Link(String),
}

impl Entry {
    pub(crate) fn headers(&self) -> Vec<u8> {
        let kind = match &self.what {
            What::Directory => Kind::Directory,
            What::File => Kind::File(self.facts.bytes),
            What::Link(target) => Kind::Link(target),
        };
        tar::headers(&self.member, kind, tar::mode(self.facts.mode))
    }

    /// Bytes of content.
    pub(crate) fn content(&self) -> u64 {
        if self.what == What::File { self.facts.bytes } else { 0 }
    }

    /// Where it is on this machine.
    pub(crate) fn place(&self, directory: &Path) -> PathBuf {
        directory.join(self.member.trim_start_matches("./").trim_end_matches('/'))
    }
}

/// All members of an archive, and how long it will be.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) directory: PathBuf,
    pub(crate) entries: Vec<Entry>,
    /// Bytes of all members.
    pub(crate) members: u64,
}

impl Plan {
    /// Looks at a directory; no file is opened.
    ///
    /// # Errors
    /// Something in it cannot be read, reproduced, or is too much.
    pub(crate) fn of(directory: &Path) -> Result<Self, ModelError> {
        let metadata = fs::metadata(directory).map_err(|error| ModelError::read(directory, error))?;
        let mut walk = Walk {
            plan: Self { directory: directory.to_owned(), entries: Vec::new(), members: 0 },
            linked: HashSet::new(),
        };
        let root =
            Entry { member: "./".to_owned(), what: What::Directory, facts: checked(directory, &metadata)? };
        walk.add(directory, root)?;
        walk.enter(directory, "./", 0)?;
        Ok(walk.plan)
    }

    /// Length of the archive.
    pub(crate) fn archive_bytes(&self) -> u64 {
        self.members + tar::trailer(self.members)
    }

    /// How many files there are.
    pub(crate) fn files(&self) -> u64 {
        self.entries.iter().filter(|entry| entry.what == What::File).count() as u64
    }
}

struct Walk {
    plan: Plan,
    /// Files with several names that were seen.
    linked: HashSet<(u64, u64)>,
}

impl Walk {
    fn enter(&mut self, directory: &Path, member: &str, depth: usize) -> Result<(), ModelError> {
        if depth >= MAX_DEPTH {
            return Err(ModelError::refused(directory, Refusal::TooDeep));
        }
        for name in self.names(directory, depth)? {
            let place = directory.join(&name);
            let metadata = fs::symlink_metadata(&place).map_err(|error| ModelError::read(&place, error))?;
            let facts = checked(&place, &metadata)?;
            let kind = metadata.file_type();
            let mut member = format!("{member}{name}");
            if kind.is_dir() {
                member.push('/');
                self.add(&place, Entry { member: member.clone(), what: What::Directory, facts })?;
                self.enter(&place, &member, depth + 1)?;
                continue;
            }
            if facts.names > 1 && !self.linked.insert(facts.identity) {
                return Err(ModelError::refused(&place, Refusal::HardLink));
            }
            let what = if kind.is_file() {
                What::File
            } else if kind.is_symlink() {
                What::Link(target(&place, depth)?)
            } else {
                return Err(ModelError::refused(&place, Refusal::Special));
            };
            self.add(&place, Entry { member, what, facts })?;
        }
        Ok(())
    }

    /// The names in a directory, in order.
    fn names(&self, directory: &Path, depth: usize) -> Result<Vec<String>, ModelError> {
        let failed = |error| ModelError::read(directory, error);
        let room = MAX_ENTRIES.saturating_sub(self.plan.entries.len());
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let plain = name.to_str().filter(|name| !name.chars().any(char::is_control));
            let plain = plain.ok_or_else(|| ModelError::refused(&directory.join(&name), Refusal::Name))?;
            if depth == 0 && plain == LEFT_OUT {
                continue;
            }
            if names.len() >= room {
                return Err(ModelError::refused(directory, Refusal::TooMany));
            }
            names.push(plain.to_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn add(&mut self, place: &Path, entry: Entry) -> Result<(), ModelError> {
        if entry.member.len() > MAX_MEMBER_BYTES {
            return Err(ModelError::refused(place, Refusal::TooLong));
        }
        if self.plan.entries.len() >= MAX_ENTRIES {
            return Err(ModelError::refused(place, Refusal::TooMany));
        }
        let content = entry.content();
        // Both are far below what 64 bits hold: the limit is looked at each time.
        if content > MAX_ARCHIVE_BYTES {
            return Err(ModelError::refused(place, Refusal::TooLarge));
        }
        self.plan.members += entry.headers().len() as u64 + content + tar::padding(content);
        if self.plan.archive_bytes() > MAX_ARCHIVE_BYTES {
            return Err(ModelError::refused(place, Refusal::TooLarge));
        }
        self.plan.entries.push(entry);
        Ok(())
    }
}

/// A file's metadata, where nothing in it would come out different elsewhere.
fn checked(place: &Path, metadata: &fs::Metadata) -> Result<Facts, ModelError> {
    let facts = facts(metadata);
    if facts.mode & 0o7000 != 0 {
        return Err(ModelError::refused(place, Refusal::ModeBits));
    }
    if facts.changed.0 < 0 {
        return Err(ModelError::refused(place, Refusal::Ancient));
    }
    Ok(facts)
}

/// A link's target, which must lie in the directory whatever other links do: `..` only at its beginning and no more of
/// them than the link is deep, so that they are the real directories above it.
fn target(place: &Path, depth: usize) -> Result<String, ModelError> {
    let target = fs::read_link(place).map_err(|error| ModelError::read(place, error))?;
    let plain = target.to_str().filter(|target| !target.chars().any(char::is_control));
    let plain = plain.ok_or_else(|| ModelError::refused(place, Refusal::Name))?;
    if plain.len() > MAX_MEMBER_BYTES {
        return Err(ModelError::refused(place, Refusal::TooLong));
    }
    let up = target.components().take_while(|part| *part == Component::ParentDir).count();
    let mut rest = target.components().skip(up);
    let stays = rest.all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if up > depth || !stays {
        return Err(ModelError::refused(place, Refusal::LinkOut));
    }
    Ok(plain.to_owned())
}
