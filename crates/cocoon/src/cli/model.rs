//! `cocoon model`: what a model is called by its files.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use cocoon_model::{ModelName, RootHash};

/// Pack a model's files, compute the hash by which the model is known, or check files against a name.
///
/// A model is known as NAME@COMMIT:HASH, where HASH is the dm-verity root hash of a reproducible archive of its files: the
/// same files give the same hash everywhere, and the same as the published network's tool. docs/models.md says what that
/// proves, and how to do the same with standard tools.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon model pack models/gemma --out gemma.tar
  cocoon model hash models/gemma
  cocoon model verify gemma.tar google/gemma-3-270m@COMMIT:HASH")]
pub(crate) struct Model {
    #[command(subcommand)]
    pub(crate) command: ModelCommand,
}

/// What can be done with a model's files.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    Pack(PackModel),
    Hash(HashModel),
    Verify(VerifyModel),
}

/// What the files are called where they come from.
#[derive(Debug, Args)]
pub(crate) struct Origin {
    /// The model's name, such as google/gemma-3-270m: prints its full name, too
    #[arg(long, value_name = "NAME", requires = "commit", value_parser = name)]
    name: Option<String>,

    /// The revision of the files, for the full name
    #[arg(long, value_name = "COMMIT", requires = "name", value_parser = commit)]
    commit: Option<String>,
}

impl Origin {
    /// The full name with this hash, where name and commit are given.
    pub(crate) fn full_name(&self, hash: RootHash) -> Option<ModelName> {
        ModelName::new(self.name.as_deref()?, self.commit.as_deref()).ok()?.with_hash(hash)
    }
}

fn name(text: &str) -> Result<String, String> {
    ModelName::new(text, None).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn commit(text: &str) -> Result<String, String> {
    ModelName::new("name", Some(text)).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Write the reproducible archive of a directory, and print its hash.
///
/// Owners, times and the order of files on the disk make no difference, and .cache at the top is left out. Links that lead
/// out of the directory, hard links and special files are refused. The archive appears whole or not at all.
#[derive(Debug, Args)]
#[command(after_help = "\
Ends with 0 when the archive is written, with 1 otherwise, with 130 after Ctrl-C.

Examples:
  cocoon model pack models/gemma                   writes gemma.tar
  cocoon model pack models/gemma --out /images/gemma.tar --hash-tree /images/gemma.tar.verity
  cocoon model pack models/gemma --name google/gemma-3-270m --commit 9b0cfec --json")]
pub(crate) struct PackModel {
    /// The directory with the model's files, and nothing else
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,

    /// Where the archive goes; may not exist yet [default: the directory's name with .tar, where the command is run]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// Where the hash tree goes, as `veritysetup format` writes it: for mounting the archive with dm-verity
    #[arg(long, value_name = "FILE")]
    pub(crate) hash_tree: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) origin: Origin,

    /// Print one line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Print the hash of an archive, or of the archive that a directory would become; nothing is written.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon model hash models/gemma                   the hash alone, for scripts
  cocoon model hash gemma.tar --name google/gemma-3-270m --commit 9b0cfec
  cocoon model hash gemma.tar --json")]
pub(crate) struct HashModel {
    /// An archive, or a directory with a model's files
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,

    #[command(flatten)]
    pub(crate) origin: Origin,

    /// Print one line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Check whether an archive or a directory holds the model of a name.
#[derive(Debug, Args)]
#[command(after_help = "\
Ends with 0 where the hash is that of the files, with 1 where it is not or they cannot be read, with 130 after Ctrl-C.

Examples:
  cocoon model verify gemma.tar google/gemma-3-270m@COMMIT:HASH
  cocoon model verify models/gemma HASH
  cocoon model verify gemma.tar HASH --json")]
pub(crate) struct VerifyModel {
    /// An archive, or a directory with a model's files
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,

    /// The model's full name, or its hash alone: 64 hexadecimal digits
    #[arg(value_name = "NAME@COMMIT:HASH|HASH", value_parser = expected)]
    pub(crate) expected: Expected,

    /// Print one line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// What files should be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// The hash that they should have.
    pub(crate) hash: RootHash,
    /// As it was written.
    pub(crate) text: String,
}

fn expected(text: &str) -> Result<Expected, String> {
    let hash = if text.contains('@') {
        let name: ModelName = text.parse().map_err(|error: cocoon_model::NameError| error.to_string())?;
        name.hash().ok_or("there is no hash in it: NAME@COMMIT:HASH, or the hash alone")?
    } else {
        text.parse().map_err(|error: cocoon_model::verity::NoHash| error.to_string())?
    };
    Ok(Expected { hash, text: text.to_owned() })
}
