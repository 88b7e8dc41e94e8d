//! Keys that survive a restart without being stored, and files under them.
//!
//! A [`SealingKey`] is made anew by the hardware whenever it is asked for: the same on this machine with this image, and
//! another one on any other machine, with any other image, and for the host. With [`seal`] and [`open`] a node keeps what
//! it cannot afford to lose, such as the key of its wallet, on a disk that the host can read.
//!
//! # What sealing does not do
//! The host can hand back an older sealed file than the newest, or none: there is no counter in it. Whoever seals
//! something that must not go back needs a witness elsewhere (for money, the chain is one). And a sealed file is lost with
//! its machine, as it is after a change of the image: what must outlive them belongs to a [`SealingKey`] that asks a
//! key-release service, see [`NoSealing`].
//!
//! # Versions
//! A machine's firmware is updated now and then, and an old one may have a hole. So that data sealed under good firmware
//! cannot be opened by going back to bad one, keys have versions: firmware makes the key of its own version and of those
//! before it, never of a later one. [`open`] says when a file was sealed under an older version than the present, and
//! is then to be sealed anew; until that is done, the older firmware can open it (and whoever broke that firmware can
//! have made it).

mod simulated;
mod snp;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::{Zeroize as _, Zeroizing};

pub use self::simulated::SimulatedSealing;
pub use self::snp::SnpSealing;

use crate::configfs::TsmError;

/// Longest text that may be sealed, bytes. Keys and small states are; whole disks are not.
pub const MAX_PLAINTEXT_LEN: usize = 16 * 1024 * 1024;
/// Longest label, bytes.
pub const MAX_LABEL_LEN: usize = 128;
/// How a sealed file begins: the name and version of its form.
const MAGIC: &[u8; 16] = b"cocoon sealed 1\n";
const VERSION_LEN: usize = 8;
const HEADER_LEN: usize = MAGIC.len() + VERSION_LEN;
const TAG_LEN: usize = 16;
/// How much longer a sealed file is than its text, bytes.
pub const OVERHEAD: usize = HEADER_LEN + NONCE_LEN + TAG_LEN;

/// Why there is no key, or a file cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealingError {
    /// This machine makes no sealing keys.
    #[error("this machine makes no sealed keys: {reason}")]
    Unavailable {
        /// Why, and what to do.
        reason: &'static str,
    },
    /// The device for keys cannot be used.
    #[error("{device} cannot be used ({kind}): {mend}")]
    Device {
        /// Its path.
        device: &'static str,
        /// What the system said.
        kind: std::io::ErrorKind,
        /// What to do.
        mend: &'static str,
    },
    /// The firmware refused the key.
    #[error("the secure processor refused the key (status {status:#x}): {mend}")]
    Firmware {
        /// Its status.
        status: u32,
        /// What to do.
        mend: &'static str,
    },
    /// The machine's own report, which says for what a key is to be, could not be had.
    #[error("what the key is to be bound to is not known: {0}")]
    Report(#[from] TsmError),
    /// The label is empty or longer than [`MAX_LABEL_LEN`].
    #[error("a label has 1 to {MAX_LABEL_LEN} bytes")]
    Label,
    /// More text than [`MAX_PLAINTEXT_LEN`].
    #[error("not more than {MAX_PLAINTEXT_LEN} bytes can be sealed at once")]
    TooLong,
    /// The bytes are no sealed file.
    #[error("this is no sealed file of a form that is understood")]
    Form,
    /// The key does not fit.
    #[error(
        "the sealed file does not open: it was sealed by another machine, with another image or configuration, for \
         another purpose, or was changed since"
    )]
    DoesNotOpen,
    /// The cryptographic library refused, which it does not for keys and texts of these lengths.
    #[error("the cryptographic library refused to work")]
    Cryptography,
}

/// A version of a machine's keys; what its number means is the machine's own business. Public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KeyVersion(pub u64);

/// Makes keys that survive restarts, differ from image to image and from machine to machine, and never leave the
/// trusted environment. May block.
///
/// This is also where a key-release service plugs in: one that verifies this machine's evidence and then hands out keys.
pub trait SealingKey: Send + Sync {
    /// The newest version that this machine can make now: the one to seal with.
    ///
    /// # Errors
    /// The machine makes no keys.
    fn version(&self) -> Result<KeyVersion, SealingError>;

    /// The key of this version for this purpose. Keys for two labels have nothing to do with each other.
    ///
    /// # Errors
    /// The machine makes no keys, or none of this version; or the label is empty or too long.
    fn derive(&self, label: &str, version: KeyVersion) -> Result<Zeroizing<[u8; 32]>, SealingError>;

    /// Whether anybody with the test network's seed can make the same keys.
    fn is_simulated(&self) -> bool;
}

/// What was in a sealed file.
pub struct Opened {
    /// The text.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// Whether the machine has a newer key by now: seal the text anew, and replace the file.
    pub outdated: bool,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("outdated", &self.outdated).finish_non_exhaustive()
    }
}

/// Seals a text for one purpose: magic (16 bytes), version of the key (8, little-endian), nonce (12, random), and the text
/// under AES-256-GCM with its tag (16). Header and label are authenticated along with it.
///
/// # Errors
/// There is no key, or text or label are too long.
pub fn seal(key: &dyn SealingKey, label: &str, plaintext: &[u8]) -> Result<Vec<u8>, SealingError> {
    if plaintext.len() > MAX_PLAINTEXT_LEN {
        return Err(SealingError::TooLong);
    }
    let version = key.version()?;
    let cipher = cipher(key, label, version)?;
    // Room for the tag, so that the text is not left behind in memory by growing.
    let mut text = Vec::with_capacity(plaintext.len() + TAG_LEN);
    text.extend_from_slice(plaintext);
    let nonce = match cipher.seal_in_place_append_tag(associated(version, label), &mut text) {
        Ok(nonce) => nonce,
        Err(_) => {
            text.zeroize();
            return Err(SealingError::Cryptography);
        }
    };
    Ok([&header(version)[..], nonce.as_ref(), &text].concat())
}

/// Opens what was sealed for this purpose.
///
/// # Errors
/// It is no sealed file, was sealed otherwise or elsewhere, or there is no key.
pub fn open(key: &dyn SealingKey, label: &str, sealed: &[u8]) -> Result<Opened, SealingError> {
    if sealed.len() > MAX_PLAINTEXT_LEN + OVERHEAD {
        return Err(SealingError::TooLong);
    }
    let rest = sealed.strip_prefix(MAGIC).ok_or(SealingError::Form)?;
    let (version, rest) = rest.split_first_chunk::<VERSION_LEN>().ok_or(SealingError::Form)?;
    let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealingError::Form)?;
    if text.len() < TAG_LEN {
        return Err(SealingError::Form);
    }
    let version = KeyVersion(u64::from_le_bytes(*version));
    let outdated = version != key.version()?;
    let mut plaintext = Zeroizing::new(text.to_vec());
    let len = cipher(key, label, version)?
        .open_in_place(Nonce::from(nonce), associated(version, label), &mut plaintext)
        .map_err(|_| SealingError::DoesNotOpen)?
        .len();
    plaintext.truncate(len);
    Ok(Opened { plaintext, outdated })
}

fn cipher(
    key: &dyn SealingKey,
    label: &str,
    version: KeyVersion,
) -> Result<RandomizedNonceKey, SealingError> {
    let key = key.derive(label, version)?;
    RandomizedNonceKey::new(&AES_256_GCM, &key[..]).map_err(|_| SealingError::Cryptography)
}

fn header(version: KeyVersion) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..MAGIC.len()].copy_from_slice(MAGIC);
    header[MAGIC.len()..].copy_from_slice(&version.0.to_le_bytes());
    header
}

fn associated(version: KeyVersion, label: &str) -> Aad<Vec<u8>> {
    Aad::from([&header(version)[..], label.as_bytes()].concat())
}

/// From a machine's secret to the key for a purpose: HKDF with SHA-256. The context is what else the key is bound to;
/// both lengths are in front, so that no two pairs read the same.
fn expand(secret: &[u8], context: &[u8], label: &str) -> Result<Zeroizing<[u8; 32]>, SealingError> {
    struct Key32;
    impl KeyType for Key32 {
        fn len(&self) -> usize {
            32
        }
    }
    if label.is_empty() || label.len() > MAX_LABEL_LEN {
        return Err(SealingError::Label);
    }
    let length = |bytes: &[u8]| (bytes.len() as u64).to_le_bytes();
    let info = [&length(context)[..], context, &length(label.as_bytes()), label.as_bytes()];
    let mut key = Zeroizing::new([0; 32]);
    let derived = Salt::new(HKDF_SHA256, b"cocoon sealing 1").extract(secret);
    let filled = derived.expand(&info, Key32).and_then(|okm| okm.fill(&mut key[..]));
    filled.map_err(|_| SealingError::Cryptography)?;
    Ok(key)
}

/// No keys, with the reason.
///
/// # TDX
/// A trust domain has no key of its own from the hardware: the instruction for it (`TDG.MR.KEY.GET`) belongs to a later
/// version of the TDX module than those in use. The published network fills the gap with an SGX enclave on the host. The
/// trust domain sends it a TDX report over vsock; the enclave verifies the report's MAC, which only the same processor
/// can make, and derives a key from its own sealing key and the report's measurements; the key comes back encrypted to a
/// key in the report, with an SGX quote of the enclave's. That is sound as far as it goes: the guest must verify the
/// quote against a *known* measurement of the enclave, or the host plays the enclave. It is not done here, because it
/// adds a second trusted machine (the enclave's code and its builder, SGX with its own side channels, an SGX driver and
/// quoting service on every host) to have what a key-release service gives as well; and because the key hangs on the TDX
/// module's exact version, so that an update of the module loses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSealing {
    reason: &'static str,
}

impl NoSealing {
    /// For an Intel trust domain.
    #[must_use]
    pub fn tdx() -> Self {
        Self {
            reason: "TDX has no key that outlives a trust domain. Give the node its keys at each start from outside, after \
                     whoever holds them has verified its evidence; or let it make new ones and keep what matters on chain",
        }
    }

    /// For a machine without a trusted environment.
    #[must_use]
    pub fn none() -> Self {
        Self { reason: "it is no trusted execution environment, and its files are as safe as its disk" }
    }
}

impl SealingKey for NoSealing {
    fn version(&self) -> Result<KeyVersion, SealingError> {
        Err(SealingError::Unavailable { reason: self.reason })
    }

    fn derive(&self, _label: &str, _version: KeyVersion) -> Result<Zeroizing<[u8; 32]>, SealingError> {
        Err(SealingError::Unavailable { reason: self.reason })
    }

    fn is_simulated(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(seed: u8, number: u32, image: &[u8]) -> SimulatedSealing {
        SimulatedSealing::new(&[seed; 32], number, image)
    }

    #[test]
    fn what_was_sealed_opens_after_a_restart() {
        for text in [&b""[..], b"a key", &[7; 100_000]] {
            let sealed = seal(&machine(1, 1, b"image"), "wallet", text).unwrap();
            assert_eq!(sealed.len(), text.len() + OVERHEAD);
            let opened = open(&machine(1, 1, b"image"), "wallet", &sealed).unwrap();
            assert_eq!(*opened.plaintext, text);
            assert!(!opened.outdated);
        }
    }

    #[test]
    fn another_network_machine_image_or_purpose_does_not_open_it() {
        let sealed = seal(&machine(1, 1, b"image"), "wallet", b"a key").unwrap();
        let others = [machine(2, 1, b"image"), machine(1, 2, b"image"), machine(1, 1, b"other")];
        for other in others {
            assert_eq!(open(&other, "wallet", &sealed).err(), Some(SealingError::DoesNotOpen));
        }
        let other_label = open(&machine(1, 1, b"image"), "wallet2", &sealed);
        assert_eq!(other_label.err(), Some(SealingError::DoesNotOpen));
    }

    #[test]
    fn every_changed_byte_and_every_missing_one_is_noticed() {
        let key = machine(1, 1, b"image");
        let sealed = seal(&key, "wallet", b"a key").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&key, "wallet", &changed).is_err(), "byte {at} changed");
            assert!(open(&key, "wallet", &sealed[..at]).is_err(), "cut at {at}");
        }
        let longer = [&sealed[..], b"\0"].concat();
        assert_eq!(open(&key, "wallet", &longer).err(), Some(SealingError::DoesNotOpen));
    }

    #[test]
    fn the_same_text_is_never_sealed_the_same_way() {
        let key = machine(1, 1, b"image");
        assert_ne!(seal(&key, "wallet", b"a key"), seal(&key, "wallet", b"a key"));
    }

    #[test]
    fn limits_hold_at_their_edge() {
        let key = machine(1, 1, b"image");
        let version = key.version().unwrap();
        assert!(key.derive(&"l".repeat(MAX_LABEL_LEN), version).is_ok());
        for label in [String::new(), "l".repeat(MAX_LABEL_LEN + 1)] {
            assert_eq!(key.derive(&label, version).err(), Some(SealingError::Label));
        }
        let longest = vec![0; MAX_PLAINTEXT_LEN + 1];
        assert_eq!(seal(&key, "l", &longest), Err(SealingError::TooLong));
        let sealed = seal(&key, "l", &longest[1..]).unwrap();
        assert!(open(&key, "l", &sealed).is_ok());
        assert_eq!(open(&key, "l", &[&sealed[..], b"\0"].concat()).err(), Some(SealingError::TooLong));
    }

    #[test]
    fn a_machine_without_keys_says_so_and_what_to_do() {
        for (machine, part) in [(NoSealing::tdx(), "verified its evidence"), (NoSealing::none(), "its disk")]
        {
            let error = seal(&machine, "wallet", b"").unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert!(machine.derive("wallet", KeyVersion(0)).is_err());
        }
    }

    #[test]
    fn an_opened_text_is_not_shown_by_accident() {
        let key = machine(1, 1, b"image");
        let opened = open(&key, "l", &seal(&key, "l", b"secret").unwrap()).unwrap();
        assert_eq!(format!("{opened:?}"), "Opened { outdated: false, .. }");
    }
}
