//! Secret keys on disk: one file each, 64 hexadecimal digits, readable by their owner alone.
//!
//! Where the node's machine seals its keys, the file holds `sealed ` and the sealed bytes in hexadecimal digits instead:
//! of no use on another machine, or to another image.
//!
//! A key is made when its file is missing, so a node's first start needs no preparation; it is never replaced, because
//! peers, contracts and balances hang on it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use cocoon_tee::sealing::{self, SealingKey};
use zeroize::Zeroizing;

/// Longest key file, bytes: sealed ones have about 180.
const MAX_KEY_FILE_BYTES: u64 = 512;
/// What a file with a sealed key begins with.
const SEALED: &[u8] = b"sealed ";

/// A 32-byte secret, wiped from memory when dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// Reads the key in `path`, or makes one there if there is none; sealed, where there is what seals it.
///
/// # Errors
/// The file cannot be read or written, is not a regular file, is readable by others, or holds no key; or it is sealed and
/// should not be, or the other way round.
pub(crate) fn load_or_create(path: &Path, sealing: Option<&dyn SealingKey>) -> anyhow::Result<Secret> {
    match open(path) {
        Ok(file) => load(path, file, sealing),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(path, sealing),
        Err(error) => Err(error).with_context(|| format!("cannot read the key file {}", path.display())),
    }
}

/// Reads the key in `path`, which must be there and not sealed.
///
/// # Errors
/// As [`load_or_create`].
pub(crate) fn load_key(path: &Path) -> anyhow::Result<Secret> {
    let file = open(path).with_context(|| format!("cannot read the key file {}", path.display()))?;
    load(path, file, None)
}

fn open(path: &Path) -> std::io::Result<File> {
    // Opening a pipe would wait for its other end.
    if std::fs::metadata(path)?.is_file() { File::open(path) } else { Err(not_a_file()) }
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

fn load(path: &Path, file: File, sealing: Option<&dyn SealingKey>) -> anyhow::Result<Secret> {
    let shown = path.display();
    refuse_if_shared(path, &file)?;
    let mut text = Zeroizing::new(Vec::new());
    file.take(MAX_KEY_FILE_BYTES)
        .read_to_end(&mut text)
        .with_context(|| format!("cannot read the key file {shown}"))?;
    match (text.strip_prefix(SEALED), sealing) {
        (Some(sealed), Some(sealing)) => {
            return unseal(path, sealed, sealing).with_context(|| format!("the key file {shown}"));
        }
        (Some(_), None) => bail!(
            "the key in {shown} is sealed to the machine that made it; set attestation.seal_keys = true there"
        ),
        (None, Some(_)) => bail!(
            "the key in {shown} lies open, and whoever runs this machine may have read it; set \
             attestation.seal_keys = false to use it all the same, or move the directory away to start as a new node"
        ),
        (None, None) => {}
    }
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

/// A key that was sealed. If the machine has a newer sealing key by now, the file is replaced by one sealed with that.
fn unseal(path: &Path, sealed: &[u8], sealing: &dyn SealingKey) -> anyhow::Result<Secret> {
    let sealed = hex::decode(sealed.trim_ascii_end()).context("it is damaged; restore it from a backup")?;
    let opened = sealing::open(sealing, label(path), &sealed)?;
    let key = <[u8; 32]>::try_from(&opened.plaintext[..]).map(Zeroizing::new);
    let key = key.map_err(|_| anyhow::anyhow!("what was sealed in it is no key"))?;
    if opened.outdated {
        crate::dir::write_whole(path, &format!("{}\n", seal(path, &key, sealing)?))?;
    }
    Ok(key)
}

fn seal(path: &Path, key: &Secret, sealing: &dyn SealingKey) -> anyhow::Result<String> {
    let sealed = sealing::seal(sealing, label(path), &key[..])?;
    Ok(format!("{}{}", String::from_utf8_lossy(SEALED), hex::encode(sealed)))
}

/// A key is sealed for its own file's name, so that one cannot be put in another's place.
fn label(path: &Path) -> &str {
    path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or("key")
}

fn create(path: &Path, sealing: Option<&dyn SealingKey>) -> anyhow::Result<Secret> {
    let mut key = Zeroizing::new([0; 32]);
    rand::Rng::fill(&mut rand::rng(), &mut *key);
    let digits = Zeroizing::new(match sealing {
        Some(sealing) => seal(path, &key, sealing)?,
        None => hex::encode(*key),
    });
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
        let message = format!("{:#}", load_or_create(directory.path(), None).unwrap_err());
        assert!(message.contains("not a regular file"), "{message}");
    }

    #[test]
    fn a_key_is_made_once_and_read_back_ever_after() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node-key.hex");
        let first = load_or_create(&path, None).unwrap();
        assert_ne!(*first, [0; 32]);
        assert_eq!(load_or_create(&path, None).unwrap(), first);
        assert_ne!(load_or_create(&directory.path().join("other.hex"), None).unwrap(), first);
    }

    #[test]
    fn a_sealed_key_opens_on_its_machine_for_its_image_and_purpose_only() {
        use cocoon_tee::sealing::SimulatedSealing;
        let directory = tempfile::tempdir().unwrap();
        let machine = |number, image: &[u8]| SimulatedSealing::new(&[7; 32], number, image);
        let (mine, path) = (machine(1, b"worker"), directory.path().join("node-key.hex"));
        let key = load_or_create(&path, Some(&mine)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("sealed ") && !text.contains(&hex::encode(*key)), "{text}");
        assert_eq!(load_or_create(&path, Some(&mine)).unwrap(), key);
        for other in [machine(2, b"worker"), machine(1, b"another image")] {
            assert!(load_or_create(&path, Some(&other)).is_err());
        }
        let message = load_or_create(&path, None).unwrap_err().to_string();
        assert!(message.contains("seal_keys"), "{message}");
        let elsewhere = directory.path().join("wallet-key.hex");
        std::fs::copy(&path, &elsewhere).unwrap();
        assert!(load_or_create(&elsewhere, Some(&mine)).is_err(), "a key in another's place was taken");
    }

    #[test]
    fn a_key_that_lay_open_is_not_taken_for_a_sealed_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node-key.hex");
        load_or_create(&path, None).unwrap();
        let sealing = cocoon_tee::sealing::SimulatedSealing::new(&[7; 32], 1, b"worker");
        let message = load_or_create(&path, Some(&sealing)).unwrap_err().to_string();
        assert!(message.contains("lies open"), "{message}");
    }

    #[test]
    #[cfg(unix)]
    fn a_key_is_private_and_one_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node-key.hex");
        load_or_create(&path, None).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let message = load_or_create(&path, None).unwrap_err().to_string();
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
            let message = format!("{:#}", load_or_create(&path, None).unwrap_err());
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
