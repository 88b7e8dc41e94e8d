//! Secret keys on disk: one file each, 64 hexadecimal digits, readable by their owner alone.
//!
//! A key is made when its file is missing, so a node's first start needs no preparation; it is never replaced, because
//! peers, contracts and balances hang on it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

/// Digits, a line end (perhaps of two characters), and one more to see that the file is too long.
const MAX_KEY_FILE_BYTES: u64 = 67;

/// A 32-byte secret, wiped from memory when dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// Reads the key in `path`, or makes one there if there is none.
///
/// # Errors
/// The file cannot be read or written, is not a regular file, is readable by others, or holds no key.
pub(crate) fn load_or_create(path: &Path) -> anyhow::Result<Secret> {
    // Opening a pipe would wait for its other end.
    match std::fs::metadata(path)
        .and_then(|found| if found.is_file() { File::open(path) } else { Err(not_a_file()) })
    {
        Ok(file) => load(path, file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(path),
        Err(error) => Err(error).with_context(|| format!("cannot read the key file {}", path.display())),
    }
}

/// Reads a secret text, such as the one that authorises a client: the first line of a private file.
///
/// # Errors
/// As [`load_or_create`]; the file must exist.
pub(crate) fn load_text(path: &Path, max_bytes: u64) -> anyhow::Result<Zeroizing<String>> {
    let text = load_private(path, max_bytes)?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

/// Reads all of a private file.
///
/// # Errors
/// As [`load_text`].
pub(crate) fn load_private(path: &Path, max_bytes: u64) -> anyhow::Result<Zeroizing<String>> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot read the secret file {shown}"))?;
    refuse_if_shared(path, &file)?;
    let mut text = Zeroizing::new(String::new());
    let read = file.take(max_bytes + 1).read_to_string(&mut text);
    let length = read.with_context(|| format!("cannot read the secret file {shown}"))?;
    if length as u64 > max_bytes {
        bail!("the secret file {shown} has more than {max_bytes} bytes; is it the right file?");
    }
    Ok(text)
}

fn not_a_file() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file")
}

fn load(path: &Path, file: File) -> anyhow::Result<Secret> {
    let shown = path.display();
    refuse_if_shared(path, &file)?;
    let mut text = Zeroizing::new(Vec::new());
    file.take(MAX_KEY_FILE_BYTES)
        .read_to_end(&mut text)
        .with_context(|| format!("cannot read the key file {shown}"))?;
    let mut key = Zeroizing::new([0; 32]);
    // What the decoder says could repeat digits of the key.
    if hex::decode_to_slice(text.trim_ascii_end(), &mut *key).is_err() {
        bail!(
            "the key file {shown} does not hold 64 hexadecimal digits; restore it from a backup \
             (a new key would be a new node, without the old one's money)"
        );
    }
    Ok(key)
}

fn create(path: &Path) -> anyhow::Result<Secret> {
    let mut key = Zeroizing::new([0; 32]);
    rand::Rng::fill(&mut rand::rng(), &mut *key);
    let digits = Zeroizing::new(hex::encode(*key));
    write_new(path, &digits).with_context(|| format!("cannot write the key file {}", path.display()))?;
    Ok(key)
}

/// Makes a private file with one line.
///
/// # Errors
/// It is there already, or cannot be written.
pub(crate) fn write_new(path: &Path, line: &str) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Complete under another name first: a crash leaves either nothing or all of it. The file is private from its
    // creation on.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(line.as_bytes()).and_then(|()| file.write_all(b"\n"))?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    Ok(())
}

#[cfg(unix)]
fn refuse_if_shared(path: &Path, file: &File) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let shown = path.display();
    let metadata = file.metadata().with_context(|| format!("cannot look at {shown}"))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!("{shown} is open to other users (mode {mode:o}); make it private: chmod 600 {shown}");
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_if_shared(_path: &Path, _file: &File) -> anyhow::Result<()> {
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let message = format!("{:#}", load_or_create(directory.path()).unwrap_err());
        assert!(message.contains("not a regular file"), "{message}");
    }

    #[test]
    fn a_key_is_made_once_and_read_back_ever_after() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node-key.hex");
        let first = load_or_create(&path).unwrap();
        assert_ne!(*first, [0; 32]);
        assert_eq!(load_or_create(&path).unwrap(), first);
        assert_ne!(load_or_create(&directory.path().join("other.hex")).unwrap(), first);
    }

    #[test]
    #[cfg(unix)]
    fn a_key_is_private_and_one_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node-key.hex");
        load_or_create(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let message = load_or_create(&path).unwrap_err().to_string();
        assert!(message.contains("mode 644") && message.contains("chmod 600"), "{message}");
        assert!(load_text(&path, 100).is_err());
    }

    #[test]
    fn a_damaged_key_is_refused_without_repeating_it() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["", "abc", &"0f".repeat(33), &"zz".repeat(32)] {
            let path = directory.path().join("node-key.hex");
            let mut file = tempfile::NamedTempFile::new_in(&directory).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.persist(&path).unwrap();
            let message = format!("{:#}", load_or_create(&path).unwrap_err());
            assert!(message.contains("64 hexadecimal digits"), "{message}");
            assert!(text.is_empty() || !message.contains(text), "{message}");
        }
    }

    #[test]
    fn a_secret_text_is_the_first_line_and_has_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = tempfile::NamedTempFile::new_in(&directory).unwrap();
        file.write_all("open sesame\nsecond line\n".as_bytes()).unwrap();
        assert_eq!(load_text(file.path(), 100).unwrap().as_str(), "open sesame");
        assert!(load_text(file.path(), 10).is_err());
    }
}
