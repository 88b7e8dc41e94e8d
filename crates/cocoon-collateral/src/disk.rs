//! Answers on disk: one file each, written at once, bounded in number and bytes.
//!
//! A file is named by the SHA-256 of its request. It holds, in this order and with lengths in little-endian: a magic,
//! when it was fetched, kind, name, URL and answer, and the SHA-256 of all that. The digest is against accidents, not
//! attackers: whoever can write here can bring about a refusal and nothing else.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cocoon_attest::tdx::collateral::MAX_ANSWER_LEN;
use cocoon_attest::{CollateralRequest, UnixSeconds};
use sha2::{Digest as _, Sha256};

use crate::route::MAX_NAME_LEN;

/// Most files in the folder.
pub const MAX_CACHE_FILES: usize = 4_096;
/// Most bytes in the folder.
pub const MAX_CACHE_BYTES: u64 = 256 << 20;
/// Names and this version of the form.
const MAGIC: &[u8; 20] = b"cocoon collateral 1\n";
const MAX_FILE_LEN: usize = MAX_ANSWER_LEN + 2 * MAX_NAME_LEN + 256;
const DIGEST_LEN: usize = 32;
/// Files begin so while they are being written. What a crash leaves of them is removed after an hour.
const UNFINISHED: &str = "unfinished-";
const UNFINISHED_KEPT: Duration = Duration::from_secs(3_600);
/// Most entries of the folder that are looked at in one go.
const MAX_LISTED: usize = 4 * MAX_CACHE_FILES;

/// An answer as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) fetched_at: UnixSeconds,
    pub(crate) body: Bytes,
}

/// A folder with answers. All methods block.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    max_files: usize,
    max_bytes: u64,
}

impl Disk {
    /// Opens the folder; one that is not there is created, for its owner alone.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        Self::bounded(folder, MAX_CACHE_FILES, MAX_CACHE_BYTES)
    }

    fn bounded(folder: &Path, max_files: usize, max_bytes: u64) -> io::Result<Self> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)?;
        if !std::fs::metadata(folder)?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a folder"));
        }
        Ok(Self { folder: folder.to_owned(), max_files, max_bytes })
    }

    /// The stored answer to a request. A file that is not whole counts as none.
    pub(crate) fn load(&self, request: &CollateralRequest) -> Option<Stored> {
        let path = self.folder.join(file_name(request));
        let mut bytes = Vec::new();
        let limit = u64::try_from(MAX_FILE_LEN).ok()?;
        File::open(&path).ok()?.take(limit + 1).read_to_end(&mut bytes).ok()?;
        let read = parse(&bytes, request);
        if read.is_none() {
            tracing::warn!(file = %path.display(), "a cached answer is damaged; it is fetched anew");
        }
        read
    }

    /// Stores an answer in place of an older one, and makes room.
    pub(crate) fn store(&self, request: &CollateralRequest, url: &str, stored: &Stored) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.folder)?;
        file.write_all(&encode(request, url, stored))?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join(file_name(request))).map_err(|error| error.error)?;
        self.make_room()
    }

    /// Removes the oldest files until number and bytes are within bounds.
    fn make_room(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.folder)?.take(MAX_LISTED) {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let Ok(metadata) = entry.metadata() else { continue };
            let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if is_file_name(name) && metadata.is_file() {
                files.push((written, metadata.len(), entry.path()));
            } else if name.starts_with(UNFINISHED) && written.elapsed().is_ok_and(|age| age > UNFINISHED_KEPT)
            {
                // Another process may have removed it already.
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let mut bytes: u64 = files.iter().map(|(_, len, _)| len).sum();
        let mut count = files.len();
        files.sort();
        for (_, len, path) in files {
            if count <= self.max_files && bytes <= self.max_bytes {
                break;
            }
            let _ = std::fs::remove_file(path);
            (count, bytes) = (count - 1, bytes - len);
        }
        Ok(())
    }
}

fn file_name(request: &CollateralRequest) -> String {
    let digest = Sha256::new()
        .chain_update(request.kind.name())
        .chain_update([0])
        .chain_update(&request.name)
        .finalize();
    hex::encode(digest)
}

fn is_file_name(name: &str) -> bool {
    name.len() == 2 * DIGEST_LEN && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn encode(request: &CollateralRequest, url: &str, stored: &Stored) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(stored.fetched_at.0.to_le_bytes());
    let parts = [request.kind.name().as_bytes(), request.name.as_bytes(), url.as_bytes(), &stored.body];
    for part in parts {
        // Longer ones are not read back.
        bytes.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    let digest = Sha256::digest(&bytes);
    bytes.extend(digest);
    bytes
}

fn parse(bytes: &[u8], request: &CollateralRequest) -> Option<Stored> {
    if bytes.len() > MAX_FILE_LEN {
        return None;
    }
    let (content, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST_LEN)?)?;
    if Sha256::digest(content)[..] != *digest {
        return None;
    }
    let (fetched_at, mut rest) = content.strip_prefix(MAGIC)?.split_first_chunk()?;
    let mut part = || {
        let (len, after) = rest.split_first_chunk()?;
        let (part, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
        rest = after;
        Some(part)
    };
    let (kind, name, _url, body) = (part()?, part()?, part()?, part()?);
    let whole = rest.is_empty() && (1..=MAX_ANSWER_LEN).contains(&body.len());
    let same = kind == request.kind.name().as_bytes() && name == request.name.as_bytes();
    (whole && same).then(|| Stored {
        fetched_at: UnixSeconds(u64::from_le_bytes(*fetched_at)),
        body: Bytes::copy_from_slice(body),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cocoon_attest::EvidenceKind;

    use super::*;

    const URL: &str = "https://kds.example/a";

    fn request(name: &str) -> CollateralRequest {
        CollateralRequest { kind: EvidenceKind::SevSnp, name: name.to_owned() }
    }

    fn stored(len: usize) -> Stored {
        Stored { fetched_at: UnixSeconds(17), body: vec![7; len].into() }
    }

    fn age(disk: &Disk, name: &str, seconds: u64) {
        let file = File::options().write(true).open(disk.folder.join(file_name(&request(name)))).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    }

    #[test]
    fn an_answer_is_read_back_for_its_request_only() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        assert_eq!(disk.load(&request("a")), None);
        disk.store(&request("a"), URL, &stored(9)).unwrap();
        assert_eq!(disk.load(&request("a")), Some(stored(9)));
        assert_eq!(disk.load(&request("b")), None);
        // Even where somebody moved it.
        let path = |name| folder.path().join(file_name(&request(name)));
        std::fs::rename(path("a"), path("b")).unwrap();
        assert_eq!(disk.load(&request("b")), None);
    }

    #[test]
    fn a_damaged_file_counts_as_none_wherever_the_damage_is() {
        let whole = encode(&request("a"), URL, &stored(9));
        assert_eq!(parse(&whole, &request("a")), Some(stored(9)));
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(parse(&damaged, &request("a")), None, "byte {at}");
            assert_eq!(parse(&whole[..at], &request("a")), None, "cut at {at}");
        }
        for len in [0, MAX_ANSWER_LEN + 1] {
            assert_eq!(parse(&encode(&request("a"), URL, &stored(len)), &request("a")), None, "{len}");
        }
        let longest = encode(&request("a"), URL, &stored(MAX_ANSWER_LEN));
        assert_eq!(parse(&longest, &request("a")), Some(stored(MAX_ANSWER_LEN)));
    }

    #[test]
    fn the_oldest_files_make_room_and_strangers_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let disk = Disk::bounded(folder.path(), 2, 1 << 20).unwrap();
        for (name, seconds) in [("a", 30), ("b", 20), ("c", 10)] {
            disk.store(&request(name), URL, &stored(9)).unwrap();
            age(&disk, name, seconds);
        }
        let there = |disk: &Disk| ["a", "b", "c"].map(|name| disk.load(&request(name)).is_some());
        assert_eq!(there(&disk), [false, true, true]);
        let smaller = Disk::bounded(folder.path(), 2, 1_000).unwrap();
        smaller.store(&request("c"), URL, &stored(800)).unwrap();
        assert_eq!(there(&smaller), [false, false, true]);
        assert!(folder.path().join("notes.txt").exists());
    }

    #[test]
    fn what_a_crash_left_unfinished_is_removed_later() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        let (old, new) = (folder.path().join("unfinished-old"), folder.path().join("unfinished-new"));
        for path in [&old, &new] {
            std::fs::write(path, "half").unwrap();
        }
        let file = File::options().write(true).open(&old).unwrap();
        file.set_modified(SystemTime::now() - UNFINISHED_KEPT - Duration::from_secs(60)).unwrap();
        disk.store(&request("a"), URL, &stored(9)).unwrap();
        assert!(!old.exists() && new.exists());
    }

    #[cfg(unix)]
    #[test]
    fn the_folder_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("cache/collateral");
        Disk::open(&folder).unwrap().store(&request("a"), URL, &stored(9)).unwrap();
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let file = folder.join(file_name(&request("a")));
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Disk::open(&file).is_err(), "a file is no folder");
    }
}
