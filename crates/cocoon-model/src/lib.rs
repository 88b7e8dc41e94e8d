//! What a model is called: `name@commit:hash`, where the hash is the dm-verity root hash of a reproducible archive of
//! the model's files. The same files give the same archive and the same hash on every machine, and the same as the
//! published tool's (`scripts/build-model` of the published network), which takes GNU tar and `veritysetup` for it.
//!
//! - [`verity`]: the hash and the hash tree, pure;
//! - [`tar`]: the headers of the archive, pure;
//! - `walk` and `archive`: a directory as the bytes of its archive, file after file;
//! - `measure`: reads and hashes, in bounded memory and with several threads;
//! - [`ModelName`]: the name's parts.
//!
//! [`pack`] writes an archive, [`measure()`] only names it, [`verify`] compares. What was verified is a
//! [`CheckedModel`], which also tells later whether its files are still those that were read.
//!
//! This crate stands on the second floor: it reads and writes files, and knows none of its neighbours. All its calls
//! block, for as long as reading and hashing the files takes: about a second per gigabyte on one core.
#![forbid(unsafe_code)]

mod archive;
mod error;
mod fingerprint;
mod measure;
mod name;
mod output;
mod system;
pub mod tar;
pub mod verity;
mod walk;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub use error::{ModelError, Refusal};
pub use name::{MAX_COMMIT_BYTES, MAX_NAME_BYTES, ModelName, NameError};
pub use verity::RootHash;
pub use walk::{MAX_ARCHIVE_BYTES, MAX_DEPTH, MAX_ENTRIES, MAX_MEMBER_BYTES};

use archive::ArchiveReader;
use fingerprint::Fingerprint;
use measure::Measuring;
use output::Output;
use verity::TreeFile;
use walk::Plan;

/// How far a reading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the archive that were hashed.
    pub done: u64,
    /// Bytes of the whole archive.
    pub total: u64,
}

/// Is told of progress every few megabytes; [`ControlFlow::Break`] ends the work with [`ModelError::Cancelled`].
pub type Watch<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// A model's archive, whether it was written or only computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelImage {
    /// Its dm-verity root hash: the last part of the model's name.
    pub hash: RootHash,
    /// Its length in bytes.
    pub bytes: u64,
    /// How many files are in it, without directories and links; `None` where an archive was read.
    pub files: Option<u64>,
}

/// What [`pack`] writes. No file may exist yet; each appears whole or not at all.
#[derive(Debug, Clone, Copy)]
pub struct Outputs<'a> {
    /// The archive.
    pub archive: &'a Path,
    /// The hash tree with its superblock, as `veritysetup format` writes it: what a kernel needs beside the root hash
    /// to check the archive block by block.
    pub hash_tree: Option<&'a Path>,
}

/// Writes the reproducible archive of a directory, and its hash tree if asked for.
///
/// # Errors
/// The directory holds what cannot be reproduced, changes meanwhile, or the system fails; or `watch` ended it. Nothing
/// is left behind then.
pub fn pack(directory: &Path, outputs: Outputs<'_>, watch: &mut Watch<'_>) -> Result<ModelImage, ModelError> {
    let mut archive = Output::create(outputs.archive, directory)?;
    let mut tree = outputs.hash_tree.map(|path| Output::create(path, directory)).transpose()?;
    let plan = Plan::of(directory)?;
    let (bytes, files) = (plan.archive_bytes(), Some(plan.files()));
    let mut measuring = Measuring::new();
    if let Some(tree) = &mut tree {
        let blocks = bytes / verity::BLOCK_BYTES as u64;
        measuring.tree(TreeFile::new(tree, blocks).map_err(|error| tree_error(&outputs, error))?);
    }
    let hash =
        measuring.run(&mut ArchiveReader::new(&plan), Some(&mut archive), watch).map_err(
            |error| match error {
                measure::Error::Model(error) => error,
                measure::Error::Tree(error) => tree_error(&outputs, error),
            },
        )?;
    // The archive comes last: where it is, all is.
    tree.map(Output::finish).transpose()?;
    archive.finish()?;
    Ok(ModelImage { hash, bytes, files })
}

fn tree_error(outputs: &Outputs<'_>, error: std::io::Error) -> ModelError {
    ModelError::write(outputs.hash_tree.unwrap_or(outputs.archive), error)
}

/// Computes the root hash of an archive, or of what [`pack`] would make of a directory.
///
/// # Errors
/// As [`pack`]; and a file that is no archive, because its length is no multiple of 4096 bytes.
pub fn measure(path: &Path, watch: &mut Watch<'_>) -> Result<ModelImage, ModelError> {
    let metadata = std::fs::metadata(path).map_err(|error| ModelError::read(path, error))?;
    let measuring = Measuring::<&mut File>::new();
    let (hash, bytes, files) = if metadata.is_dir() {
        let plan = Plan::of(path)?;
        let hash = measuring.run(&mut ArchiveReader::new(&plan), None, watch);
        (hash, plan.archive_bytes(), Some(plan.files()))
    } else if !metadata.is_file() {
        return Err(ModelError::refused(path, Refusal::Special));
    } else {
        let mut source = archive::WholeFile::open(path)?;
        let bytes = measure::Source::total(&source);
        (measuring.run(&mut source, None, watch), bytes, None)
    };
    let hash = hash.map_err(|error| match error {
        measure::Error::Model(error) => error,
        // There is no tree to write.
        measure::Error::Tree(error) => ModelError::read(path, error),
    })?;
    Ok(ModelImage { hash, bytes, files })
}

/// Reads an archive or a directory and compares its root hash.
///
/// # Errors
/// [`ModelError::Mismatch`], or as [`measure()`].
pub fn verify(path: &Path, expected: &RootHash, watch: &mut Watch<'_>) -> Result<CheckedModel, ModelError> {
    let checked = check(path, watch)?;
    if checked.image.hash != *expected {
        return Err(ModelError::Mismatch {
            path: path.to_owned(),
            expected: *expected,
            found: checked.image.hash,
        });
    }
    Ok(checked)
}

/// Reads an archive or a directory, for who will name it by what is found.
///
/// # Errors
/// As [`measure()`], and [`ModelError::Changed`] where files were replaced while they were read.
pub fn check(path: &Path, watch: &mut Watch<'_>) -> Result<CheckedModel, ModelError> {
    let before = Fingerprint::of(path)?;
    let image = measure(path, watch)?;
    if Fingerprint::of(path)? != before {
        return Err(ModelError::Changed { path: path.to_owned() });
    }
    Ok(CheckedModel { path: path.to_owned(), image, fingerprint: before })
}

/// A model's files that were read to the last byte, with the hash that came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedModel {
    path: PathBuf,
    image: ModelImage,
    fingerprint: Fingerprint,
}

impl CheckedModel {
    /// Where the files are.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was read.
    #[must_use]
    pub fn image(&self) -> &ModelImage {
        &self.image
    }

    /// Whether the files still look as they did when they were read: the same names, lengths, times of change and places
    /// on the disk. Quick, because no content is read. It notices a model that was updated or replaced; it is no defence
    /// against someone who hides a change.
    ///
    /// # Errors
    /// They cannot be looked at any more.
    pub fn is_unchanged(&self) -> Result<bool, ModelError> {
        Ok(Fingerprint::of(&self.path)? == self.fingerprint)
    }
}
