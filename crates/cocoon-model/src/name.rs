use std::fmt;
use std::str::FromStr;

use crate::verity::RootHash;

/// Longest name of a model without commit and hash, in bytes.
pub const MAX_NAME_BYTES: usize = 256;
/// Longest commit, in bytes.
pub const MAX_COMMIT_BYTES: usize = 128;

/// A model's name as the published tool reads it: `name`, `name@commit` or `name@commit:hash`. The last one is the full
/// name, whose SHA-256 the root contract lists.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelName {
    name: String,
    commit: Option<String>,
    hash: Option<RootHash>,
}

/// Text that is no model's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is missing, too long, or has characters that have no place there.
    #[error("a model's name has 1 to {MAX_NAME_BYTES} bytes without spaces, @ and control characters")]
    Name,
    /// The same of the commit.
    #[error("a model's commit has 1 to {MAX_COMMIT_BYTES} bytes without spaces, @, : and control characters")]
    Commit,
    /// The hash is none.
    #[error("the part after the : must be the model's hash, 64 hexadecimal digits in lower case")]
    Hash,
}

impl ModelName {
    /// A name of its parts, without a hash.
    ///
    /// # Errors
    /// A part cannot be one.
    pub fn new(name: &str, commit: Option<&str>) -> Result<Self, NameError> {
        if !plain(name, MAX_NAME_BYTES) {
            return Err(NameError::Name);
        }
        if commit.is_some_and(|commit| !plain(commit, MAX_COMMIT_BYTES) || commit.contains(':')) {
            return Err(NameError::Commit);
        }
        Ok(Self { name: name.to_owned(), commit: commit.map(str::to_owned), hash: None })
    }

    /// The name by which callers ask for the model.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The revision of the model's files where they come from.
    #[must_use]
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// The root hash of the model's archive.
    #[must_use]
    pub fn hash(&self) -> Option<RootHash> {
        self.hash
    }

    /// The full name with this hash; `None` where the commit is not named.
    #[must_use]
    pub fn with_hash(mut self, hash: RootHash) -> Option<Self> {
        self.hash = Some(hash);
        self.commit.is_some().then_some(self)
    }
}

fn plain(part: &str, max: usize) -> bool {
    let odd = |c: char| c.is_control() || c.is_whitespace() || c == '@';
    (1..=max).contains(&part.len()) && !part.contains(odd)
}

impl FromStr for ModelName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some((name, rest)) = text.split_once('@') else { return Self::new(text, None) };
        let Some((commit, hash)) = rest.split_once(':') else { return Self::new(name, Some(rest)) };
        let whole = Self::new(name, Some(commit))?;
        Ok(Self { hash: Some(hash.parse().map_err(|_| NameError::Hash)?), ..whole })
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(commit) = &self.commit {
            write!(f, "@{commit}")?;
            if let Some(hash) = &self.hash {
                write!(f, ":{hash}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_is_read_and_written_alike_with_as_many_parts_as_it_has() {
        let hash = "0f".repeat(32);
        for text in ["google/gemma-3-270m", "a@b", &format!("Qwen/Qwen3-0.6B@c1899de:{hash}")] {
            assert_eq!(text.parse::<ModelName>().unwrap().to_string(), text);
        }
        let full: ModelName = format!("a/b@c:{hash}").parse().unwrap();
        assert_eq!((full.name(), full.commit()), ("a/b", Some("c")));
        assert_eq!(full.hash(), Some(RootHash([0x0f; 32])));
    }

    #[test]
    fn what_is_no_name_is_told_by_its_part() {
        let hash = "0f".repeat(32);
        for (text, error) in [
            (String::new(), NameError::Name),
            ("a b".to_owned(), NameError::Name),
            ("@b".to_owned(), NameError::Name),
            ("n".repeat(MAX_NAME_BYTES + 1), NameError::Name),
            ("a@".to_owned(), NameError::Commit),
            ("a@b@c".to_owned(), NameError::Commit),
            (format!("a@:{hash}"), NameError::Commit),
            (format!("a@{}", "c".repeat(MAX_COMMIT_BYTES + 1)), NameError::Commit),
            ("a@b:".to_owned(), NameError::Hash),
            (format!("a@b:{hash}0"), NameError::Hash),
            (format!("a@b:{}", hash.to_uppercase()), NameError::Hash),
            (format!("a@b:{}", "é".repeat(32)), NameError::Hash),
        ] {
            assert_eq!(text.parse::<ModelName>().unwrap_err(), error, "{text}");
        }
        assert_eq!(ModelName::new("a", Some("b:c")).unwrap_err(), NameError::Commit);
        assert!("n".repeat(MAX_NAME_BYTES).parse::<ModelName>().is_ok());
    }

    #[test]
    fn a_hash_makes_a_full_name_only_where_the_commit_is_named() {
        let hash = RootHash([1; 32]);
        assert_eq!(ModelName::new("a", None).unwrap().with_hash(hash), None);
        let full = ModelName::new("a", Some("b")).unwrap().with_hash(hash).unwrap();
        assert_eq!(full.to_string(), format!("a@b:{}", "01".repeat(32)));
    }
}
