//! Mnemonics: a wallet's key as 24 English words, as all wallets of TON write it.
//!
//! The words are those of BIP-39, the way from them to a key is TON's own. Mnemonics with a password of their own, which
//! some wallets once offered, are not supported.

use std::fmt;

use bip39::Language;
use ed25519_dalek::SigningKey;
use hmac::{Hmac, Mac as _};
use pbkdf2::pbkdf2_hmac;
use sha2::Sha512;
use zeroize::Zeroizing;

/// Words of a mnemonic.
pub const WORDS: usize = 24;
/// Longest text that is taken for a mnemonic, in bytes.
pub const MAX_TEXT_BYTES: usize = 4096;

/// Words are at most this long, in letters.
const MAX_WORD_LEN: usize = 8;
/// Rounds from the words to the key.
const KEY_ROUNDS: u32 = 100_000;
/// Rounds from the words to the checksum.
const CHECKSUM_ROUNDS: u32 = KEY_ROUNDS / 256;
/// One choice of words in 256 is valid: so many fail with a probability of 10^-27.
const MAX_ATTEMPTS: u32 = 16_384;
/// Letters in which a word may differ from the one that an error proposes.
const MAX_TYPING_MISTAKES: usize = 3;

/// A valid mnemonic. Erased from memory when dropped; never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Mnemonic(Zeroizing<String>);

impl Mnemonic {
    /// A new mnemonic. `fill` overwrites what it is given with random bytes; the key is worth no more than those.
    ///
    /// # Errors
    /// [`MnemonicError::Randomness`] where `fill` is no source of randomness.
    pub fn generate(mut fill: impl FnMut(&mut [u8])) -> Result<Self, MnemonicError> {
        let list = Language::English.word_list();
        let mut previous = None;
        for _ in 0..MAX_ATTEMPTS {
            let mut random = Zeroizing::new([0u8; 2 * WORDS]);
            fill(random.as_mut_slice());
            let indices =
                random.chunks_exact(2).map(|pair| usize::from(pair[0]) * 256 + usize::from(pair[1]));
            // The list's 2048 words divide 65536: each is equally likely.
            let candidate = Self(join(indices.map(|index| list[index % list.len()])));
            if candidate.has_valid_checksum() {
                return Ok(candidate);
            }
            if previous.as_ref() == Some(&candidate) {
                return Err(MnemonicError::Randomness);
            }
            previous = Some(candidate);
        }
        Err(MnemonicError::Randomness)
    }

    /// Reads 24 words with any white space between them, in upper or lower case.
    ///
    /// # Errors
    /// [`MnemonicError`]; it tells at most one word of the mnemonic.
    pub fn parse(text: &str) -> Result<Self, MnemonicError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(MnemonicError::TooLong);
        }
        let text = Zeroizing::new(text.to_ascii_lowercase());
        let words = text.split_whitespace().count();
        if words != WORDS {
            return Err(MnemonicError::Count(words));
        }
        for (index, word) in text.split_whitespace().enumerate() {
            if Language::English.find_word(word).is_none() {
                return Err(MnemonicError::UnknownWord { position: index + 1, nearest: nearest(word) });
            }
        }
        let mnemonic = Self(join(text.split_whitespace()));
        if mnemonic.has_valid_checksum() { Ok(mnemonic) } else { Err(MnemonicError::Checksum) }
    }

    /// The words with one space between them: whoever has them has the coins.
    pub fn phrase(&self) -> &str {
        &self.0
    }

    /// The words, the first one first.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ')
    }

    /// The key that the words stand for. Takes a good part of a second.
    pub fn signing_key(&self) -> SigningKey {
        let mut seed = Zeroizing::new([0u8; 32]);
        // The seed has 64 bytes of which the key is the first half: PBKDF2 makes a hash's length at once.
        pbkdf2_hmac::<Sha512>(&*self.entropy(), b"TON default seed", KEY_ROUNDS, seed.as_mut_slice());
        SigningKey::from_bytes(&seed)
    }

    fn has_valid_checksum(&self) -> bool {
        let mut first = [0xff];
        pbkdf2_hmac::<Sha512>(&*self.entropy(), b"TON seed version", CHECKSUM_ROUNDS, &mut first);
        first == [0]
    }

    fn entropy(&self) -> Zeroizing<[u8; 64]> {
        let keyed = Hmac::<Sha512>::new_from_slice(self.0.as_bytes()).expect("HMAC takes keys of any length");
        Zeroizing::new(keyed.finalize().into_bytes().into())
    }
}

impl fmt::Debug for Mnemonic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mnemonic(..)")
    }
}

/// Why there is no mnemonic. Of a mistyped word only its place and what it probably should be is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MnemonicError {
    /// Not 24 words.
    #[error("a mnemonic has {WORDS} words, this has {0}; compare it with your copy")]
    Count(usize),
    /// A word that is not in the list.
    #[error(
        "word {position} of the mnemonic is in no list of words{}",
        nearest.map(|word| format!("; did you mean '{word}'?")).unwrap_or_default()
    )]
    UnknownWord {
        /// Which word, counted from 1.
        position: usize,
        /// The most similar word of the list, where one is similar.
        nearest: Option<&'static str>,
    },
    /// All words exist, but they do not belong together.
    #[error(
        "the words of the mnemonic do not belong together: one is wrong or two are swapped; compare them with your \
         copy (mnemonics that need a password, and those of other chains, are not supported)"
    )]
    Checksum,
    /// More than [`MAX_TEXT_BYTES`].
    #[error("a mnemonic has at most {MAX_TEXT_BYTES} bytes; is this the right file?")]
    TooLong,
    /// The random bytes were none.
    #[error(
        "the source of randomness is broken: it repeats itself, or gave no valid mnemonic in {MAX_ATTEMPTS} tries"
    )]
    Randomness,
}

fn join<'a>(words: impl Iterator<Item = &'a str>) -> Zeroizing<String> {
    // With room for the longest words nothing is ever moved, so no copy is left behind.
    let mut text = Zeroizing::new(String::with_capacity(WORDS * (MAX_WORD_LEN + 1)));
    for word in words {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}

fn nearest(word: &str) -> Option<&'static str> {
    if word.len() > 2 * MAX_WORD_LEN {
        return None;
    }
    let distances =
        Language::English.word_list().iter().map(|known| (strsim::osa_distance(word, known), *known));
    // The list's words differ in their first four letters, so those say more than the rest.
    let same_start = |known: &str| word.get(..4).is_some_and(|start| known.starts_with(start));
    distances
        .min_by_key(|(distance, known)| (*distance, !same_start(known)))
        .filter(|(distance, _)| *distance <= MAX_TYPING_MISTAKES)
        .map(|(_, known)| known)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const VALID: &str = "where mandate throw lobster finger quality salon come swap same junk ensure belt lawsuit drift heavy merit party orphan meadow hobby jump error wagon";

    /// Not random, but all different: enough for a test.
    fn counting() -> impl FnMut(&mut [u8]) {
        let mut next = 0u64;
        move |bytes| {
            for byte in bytes {
                next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = next.to_be_bytes()[0];
            }
        }
    }

    #[test]
    fn generated_mnemonics_are_read_back_and_stand_for_the_same_key() {
        let mnemonic = Mnemonic::generate(counting()).unwrap();
        assert_eq!(mnemonic.words().count(), WORDS);
        let read = Mnemonic::parse(&format!("  {}\n", mnemonic.phrase().to_uppercase().replace(' ', "\n\t")));
        assert_eq!(read.as_ref(), Ok(&mnemonic));
        assert_eq!(read.unwrap().signing_key(), mnemonic.signing_key());
    }

    #[test]
    fn a_broken_source_of_randomness_is_noticed() {
        assert_eq!(Mnemonic::generate(|bytes| bytes.fill(7)), Err(MnemonicError::Randomness));
    }

    #[test]
    fn a_mistyped_word_is_named_by_its_place_with_what_it_should_be() {
        let right = VALID.split(' ').nth(6).unwrap();
        let error = Mnemonic::parse(&VALID.replacen(right, &format!("{right}x"), 1)).unwrap_err();
        assert_eq!(error, MnemonicError::UnknownWord { position: 7, nearest: Some(right) });
        assert!(
            error
                .to_string()
                .contains(&format!("word 7 of the mnemonic is in no list of words; did you mean '{right}'?"))
        );
        let error = Mnemonic::parse(&VALID.replacen(right, &"0123456789abcdef".repeat(4), 1)).unwrap_err();
        assert_eq!(error, MnemonicError::UnknownWord { position: 7, nearest: None });
        assert!(!error.to_string().contains("0123"), "something secret may stand in a word's place");
    }

    #[test]
    fn too_few_words_swapped_words_and_whole_files_are_told_apart() {
        let short: Vec<&str> = VALID.split(' ').take(12).collect();
        assert_eq!(Mnemonic::parse(&short.join(" ")), Err(MnemonicError::Count(12)));
        assert_eq!(Mnemonic::parse(""), Err(MnemonicError::Count(0)));
        let mut swapped: Vec<&str> = VALID.split(' ').collect();
        swapped.swap(0, 1);
        assert_eq!(Mnemonic::parse(&swapped.join(" ")), Err(MnemonicError::Checksum));
        assert_eq!(Mnemonic::parse(&"word ".repeat(1_000)), Err(MnemonicError::TooLong));
    }

    #[test]
    fn debug_output_shows_no_word() {
        let shown = format!("{:?}", Mnemonic::parse(VALID).unwrap());
        assert_eq!(shown, "Mnemonic(..)");
    }
}
