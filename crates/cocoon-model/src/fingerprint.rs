use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::error::ModelError;
use crate::system::facts;
use crate::walk::{Plan, What};

/// What files look like from outside: names, lengths, times of change, places on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Looks at an archive or at all that belongs to a directory's.
    pub(crate) fn of(path: &Path) -> Result<Self, ModelError> {
        let metadata = std::fs::metadata(path).map_err(|error| ModelError::read(path, error))?;
        let mut hash = Sha256::new();
        if !metadata.is_dir() {
            facts(&metadata).hash(&mut hash);
            return Ok(Self(hash.finalize().into()));
        }
        for entry in &Plan::of(path)?.entries {
            hash.update((entry.member.len() as u64).to_le_bytes());
            hash.update(&entry.member);
            match &entry.what {
                // A directory's length and time tell of names that are left out, too.
                What::Directory => hash.update(entry.facts.mode.to_le_bytes()),
                What::File => entry.facts.hash(&mut hash),
                What::Link(target) => {
                    hash.update((target.len() as u64).to_le_bytes());
                    hash.update(target);
                }
            }
        }
        Ok(Self(hash.finalize().into()))
    }
}
