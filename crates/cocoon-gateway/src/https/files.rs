//! A certificate and its key, from files that may change under us.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::HttpsConfig;

/// Largest file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Most certificates in one.
const MAX_CERTIFICATES: usize = 16;

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {detail}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// A file is something else.
    #[error("{path} holds no {what} in PEM form")]
    Content {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Everybody may read the key.
    #[error("the key {path} is open to all users (mode {mode:o}); make it private: chmod 640 {path}")]
    OpenKey {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// They do not belong together, or the key is of a kind that is not known.
    #[error("{cert} and {key} cannot be used together: {detail}")]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// TLS itself.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// What both files hold and who may read the key, or that they cannot be read.
pub(super) type Fingerprint = Option<[u8; 32]>;

/// Whether the files are those of before.
pub(super) fn fingerprint(config: &HttpsConfig) -> Fingerprint {
    let mode = mode(&config.key_file);
    let cert = read(&config.cert_file).ok()?;
    let key = read(&config.key_file).ok()?;
    Some(digest(mode, &cert, &key))
}

/// Reads and checks both files.
pub(super) fn load(config: &HttpsConfig) -> Result<(Fingerprint, CertifiedKey), HttpsError> {
    let HttpsConfig { cert_file, key_file, .. } = config;
    let mode = mode(key_file);
    if mode & 0o007 != 0 {
        return Err(HttpsError::OpenKey { path: key_file.clone(), mode });
    }
    let (cert, key) = (read(cert_file)?, read(key_file)?);
    let no = |path: &Path, what| HttpsError::Content { path: path.to_owned(), what };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&cert)
        .take(MAX_CERTIFICATES)
        .collect::<Result<_, _>>()
        .map_err(|_| no(cert_file, "certificates"))?;
    if chain.is_empty() {
        return Err(no(cert_file, "certificate"));
    }
    let private = PrivateKeyDer::from_pem_slice(&key).map_err(|_| no(key_file, "private key"))?;
    let provider = aws_lc_rs::default_provider();
    let pair = CertifiedKey::from_der(chain, private, &provider).map_err(|error| {
        let (cert, key) = (cert_file.clone(), key_file.clone());
        HttpsError::Pair { cert, key, detail: error.to_string() }
    })?;
    Ok((Some(digest(mode, &cert, &key)), pair))
}

fn digest(mode: u32, cert: &[u8], key: &[u8]) -> [u8; 32] {
    let (mode, length) = (mode.to_be_bytes(), (cert.len() as u64).to_be_bytes());
    let both = Sha256::new().chain_update(mode).chain_update(length).chain_update(cert).chain_update(key);
    both.finalize().into()
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, HttpsError> {
    let failed = |detail: String| HttpsError::Read { path: path.to_owned(), detail };
    let mut bytes = Zeroizing::new(Vec::new());
    // Opening a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.is_file() {
        return Err(failed("it is not a regular file".to_owned()));
    }
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let length =
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if length as u64 > MAX_FILE_BYTES {
        return Err(failed(format!("it is over {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

/// Who may do what with a file; nobody anything, where the system does not tell or the file cannot be looked at: reading it
/// says why.
#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
fn mode(_path: &Path) -> u32 {
    0
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_that_was_made_private_is_another_one_to_try() {
        let dir = tempfile::tempdir().unwrap();
        let config = HttpsConfig::new(dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let made = rcgen::generate_simple_self_signed(vec!["gateway.example".to_owned()]).unwrap();
        std::fs::write(&config.cert_file, made.cert.pem()).unwrap();
        std::fs::write(&config.key_file, made.signing_key.serialize_pem()).unwrap();
        let allow = |mode| {
            std::fs::set_permissions(&config.key_file, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        allow(0o644);
        let tried = fingerprint(&config);
        assert!(matches!(load(&config), Err(HttpsError::OpenKey { mode: 0o644, .. })));
        allow(0o640);
        assert_ne!(fingerprint(&config), tried);
        assert_eq!(load(&config).unwrap().0, fingerprint(&config));
    }
}
