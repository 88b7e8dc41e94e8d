//! RSA with keys that everybody knows, deterministic. For nothing but simulated certificates.
//!
//! Ours, because a library's signer draws its salt at random. Timing does not matter: there is no secret.

use std::sync::LazyLock;

use num_bigint::BigUint;
use sha2::{Digest as _, Sha384};

use crate::simulated::der::{integer, sequence};

/// Length of the modulus and of signatures, bytes.
const LEN: usize = 512;
const HASH_LEN: usize = 48;

/// The committed keys.
static KEYS: LazyLock<[TestRsaKey; 3]> = LazyLock::new(|| {
    ["ark", "ask", "asvk"].map(|name| {
        let primes = include_str!("test-keys.txt").lines().filter_map(|line| line.strip_prefix(name));
        let primes: Vec<BigUint> =
            primes.filter_map(|hex| BigUint::parse_bytes(hex.trim().as_bytes(), 16)).collect();
        let [p, q] = primes.try_into().expect("the committed file has two primes for each key");
        TestRsaKey::from_primes(p, q)
    })
});

/// An RSA-4096 key.
#[derive(Debug)]
pub(super) struct TestRsaKey {
    modulus: BigUint,
    p: BigUint,
    q: BigUint,
    exponent_p: BigUint,
    exponent_q: BigUint,
    q_inverse: BigUint,
}

impl TestRsaKey {
    /// The root's.
    pub(super) fn ark() -> &'static Self {
        &KEYS[0]
    }

    /// The authority's over chips.
    pub(super) fn ask() -> &'static Self {
        &KEYS[1]
    }

    /// The authority's over providers.
    pub(super) fn asvk() -> &'static Self {
        &KEYS[2]
    }

    fn from_primes(p: BigUint, q: BigUint) -> Self {
        let exponent = BigUint::from(65_537_u32);
        let one = BigUint::from(1_u32);
        let inverse =
            |number: &BigUint, modulus: &BigUint| number.modinv(modulus).expect("two different primes");
        Self {
            modulus: &p * &q,
            exponent_p: inverse(&exponent, &(&p - &one)),
            exponent_q: inverse(&exponent, &(&q - &one)),
            q_inverse: inverse(&q, &p),
            p,
            q,
        }
    }

    /// RSAPublicKey in DER (RFC 8017 §A.1.1).
    pub(super) fn public_der(&self) -> Vec<u8> {
        sequence(&[&integer(&self.modulus.to_bytes_be()), &integer(&[1, 0, 1])])
    }

    /// RSASSA-PSS with SHA-384 and a salt of 48 bytes that follows from the message (RFC 8017 §8.1.1).
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let encoded = BigUint::from_bytes_be(&encode(message));
        let by_p = encoded.modpow(&self.exponent_p, &self.p);
        let by_q = encoded.modpow(&self.exponent_q, &self.q);
        let difference = (by_p + &self.p - &by_q % &self.p) % &self.p;
        let signature = by_q + (difference * &self.q_inverse % &self.p) * &self.q;
        let digits = signature.to_bytes_be();
        let mut fixed = vec![0; LEN.saturating_sub(digits.len())];
        fixed.extend(digits);
        fixed
    }
}

/// EMSA-PSS (RFC 8017 §9.1.1) for a modulus of 4096 bits.
fn encode(message: &[u8]) -> Vec<u8> {
    let salt = Sha384::new_with_prefix("salt of simulated certificates").chain_update(message).finalize();
    let hash = Sha384::new_with_prefix([0; 8]).chain_update(Sha384::digest(message)).chain_update(salt);
    let hash = hash.finalize();
    let mut block = vec![0; LEN - 2 * HASH_LEN - 2];
    block.push(1);
    block.extend(salt);
    // MGF1 (RFC 8017 §B.2.1).
    let mask = (0_u32..)
        .flat_map(|count| Sha384::new_with_prefix(hash).chain_update(count.to_be_bytes()).finalize());
    for (byte, mask) in block.iter_mut().zip(mask) {
        *byte ^= mask;
    }
    // The number must be below the modulus, whose top bit is set.
    block[0] &= 0x7f;
    block.extend(hash);
    block.push(0xbc);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_raised_to_the_public_exponent_is_the_encoded_message() {
        for key in [TestRsaKey::ark(), TestRsaKey::ask(), TestRsaKey::asvk()] {
            let signature = key.sign(b"message");
            assert_eq!(signature.len(), LEN);
            assert_eq!(key.modulus.bits(), 4096);
            let number = BigUint::from_bytes_be(&signature);
            assert!(number < key.modulus);
            let opened = number.modpow(&BigUint::from(65_537_u32), &key.modulus);
            assert_eq!(opened, BigUint::from_bytes_be(&encode(b"message")));
        }
    }
}
