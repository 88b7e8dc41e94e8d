//! Proof of work: what a dialler pays before the accepting side starts TLS.
//!
//! The accepting side sends a [`Challenge`], the dialler answers with a [`Solution`]: a nonce such that the
//! first eight bytes of SHA-256(salt, nonce), as a little-endian number, have at least `difficulty` leading
//! zero bits. Numbers on the wire are little-endian.

use std::sync::atomic::{AtomicBool, Ordering};

use sha2::digest::generic_array::GenericArray;

/// Opens a challenge, published.
const CHALLENGE_MAGIC: u32 = 0x418e_1291;
/// Opens a solution, published.
const SOLUTION_MAGIC: u32 = 0x0182_7319;
/// The highest difficulty that has a meaning: bits of the number that is looked at.
const MAX_DIFFICULTY: u8 = 64;
/// Nonces tried between two looks at the stop flag: well below a millisecond's work.
const NONCES_PER_LOOK: i64 = 1024;
/// The state of SHA-256 before the first block: FIPS 180-4, section 5.3.3.
const SHA256_INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// What published servers ask, in bits.
pub const DEFAULT_DIFFICULTY: u8 = 20;
/// What published diallers are ready to pay, in bits.
pub const MAX_ACCEPTED_DIFFICULTY: u8 = 28;
/// Bytes of a [`Challenge`].
pub const CHALLENGE_LEN: usize = 24;
/// Bytes of a [`Solution`].
pub const SOLUTION_LEN: usize = 12;

/// Why bytes are no challenge or solution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PowError {
    /// The first four bytes are not the published ones: the peer speaks another protocol.
    #[error("{0:#010x} does not open a proof of work")]
    BadMagic(u32),
    /// A difficulty that has no meaning.
    #[error("a difficulty of {0} bits is outside 0 to 64")]
    BadDifficulty(i32),
}

/// What the accepting side asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    difficulty: u8,
    salt: [u8; 16],
}

impl Challenge {
    /// A challenge of `difficulty` bits, 0 to 64; `salt` must be random and used once.
    pub fn new(difficulty: u8, salt: [u8; 16]) -> Result<Self, PowError> {
        if difficulty > MAX_DIFFICULTY {
            return Err(PowError::BadDifficulty(difficulty.into()));
        }
        Ok(Self { difficulty, salt })
    }

    /// Zero bits asked for, 0 to 64. A dialler should refuse more than [`MAX_ACCEPTED_DIFFICULTY`].
    pub fn difficulty(&self) -> u8 {
        self.difficulty
    }

    /// As sent.
    pub fn encode(&self) -> [u8; CHALLENGE_LEN] {
        let mut out = [0; CHALLENGE_LEN];
        out[..4].copy_from_slice(&CHALLENGE_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&i32::from(self.difficulty).to_le_bytes());
        out[8..].copy_from_slice(&self.salt);
        out
    }

    /// As received.
    pub fn decode(data: &[u8; CHALLENGE_LEN]) -> Result<Self, PowError> {
        let [m0, m1, m2, m3, d0, d1, d2, d3, salt @ ..] = *data;
        check_magic([m0, m1, m2, m3], CHALLENGE_MAGIC)?;
        let difficulty = i32::from_le_bytes([d0, d1, d2, d3]);
        match u8::try_from(difficulty) {
            Ok(difficulty) => Self::new(difficulty, salt),
            Err(_) => Err(PowError::BadDifficulty(difficulty)),
        }
    }

    /// Whether the solution solves this challenge.
    pub fn verify(&self, solution: &Solution) -> bool {
        self.is_solved(&mut self.block(), solution.nonce)
    }

    /// The one block that SHA-256 sees: salt, nonce, padding. The nonce is left open.
    fn block(&self) -> [u8; 64] {
        let mut block = [0; 64];
        block[..16].copy_from_slice(&self.salt);
        block[24] = 0x80;
        block[56..].copy_from_slice(&(24_u64 * 8).to_be_bytes());
        block
    }

    fn is_solved(&self, block: &mut [u8; 64], nonce: i64) -> bool {
        block[16..24].copy_from_slice(&nonce.to_le_bytes());
        let mut state = SHA256_INITIAL;
        sha2::compress256(&mut state, std::slice::from_ref(GenericArray::from_slice(block)));
        // The digest is big-endian words, the number is little-endian.
        let number = u64::from(state[1].swap_bytes()) << 32 | u64::from(state[0].swap_bytes());
        number.leading_zeros() >= u32::from(self.difficulty)
    }
}

/// What the dialler answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solution {
    /// Any number.
    pub nonce: i64,
}

impl Solution {
    /// As sent.
    pub fn encode(&self) -> [u8; SOLUTION_LEN] {
        let mut out = [0; SOLUTION_LEN];
        out[..4].copy_from_slice(&SOLUTION_MAGIC.to_le_bytes());
        out[4..].copy_from_slice(&self.nonce.to_le_bytes());
        out
    }

    /// As received.
    pub fn decode(data: &[u8; SOLUTION_LEN]) -> Result<Self, PowError> {
        let [m0, m1, m2, m3, nonce @ ..] = *data;
        check_magic([m0, m1, m2, m3], SOLUTION_MAGIC)?;
        Ok(Self { nonce: i64::from_le_bytes(nonce) })
    }
}

/// The smallest nonce from 0 that solves the challenge; `None` once `stop` is set.
///
/// Takes 2^difficulty hashes on average: call it on a thread that may be kept busy.
pub fn solve(challenge: &Challenge, stop: &AtomicBool) -> Option<i64> {
    let mut block = challenge.block();
    (0..i64::MAX)
        .take_while(|nonce| nonce % NONCES_PER_LOOK != 0 || !stop.load(Ordering::Relaxed))
        .find(|nonce| challenge.is_solved(&mut block, *nonce))
}

fn check_magic(got: [u8; 4], expected: u32) -> Result<(), PowError> {
    let got = u32::from_le_bytes(got);
    if got == expected { Ok(()) } else { Err(PowError::BadMagic(got)) }
}
