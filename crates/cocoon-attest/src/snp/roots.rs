//! The roots that a verifier trusts, and AMD's intermediate certificates.

use sha2::{Digest as _, Sha256};

use super::evidence::SnpEvidence;
use super::product::SnpProduct;
use super::report::SnpSigningKey;
use super::x509::Certificate;

/// A root key (ARK) that is trusted for one product line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnpRoot {
    /// The line.
    pub product: SnpProduct,
    /// SHA-256 of the key's SubjectPublicKeyInfo in DER.
    pub key_hash: [u8; 32],
}

/// The roots that a verifier trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpRoots {
    amd: bool,
    simulated: Vec<SnpRoot>,
}

/// What a root's key is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// It is AMD's.
    Amd,
    /// It is that of a simulated platform: no proof of hardware.
    Simulated,
}

/// AMD's authorities, in DER, as its Key Distribution Service gives them at `/vcek/v1/<product>/cert_chain` and
/// `/vlek/v1/<product>/cert_chain`. Public data. These copies are those of the `sev` crate 8.0.0 (ARK and ASK) and
/// of go-sev-guest at revision af1c107a (ASVK), both Apache-2.0; where both have one, they agree byte for byte.
struct Authorities {
    product: SnpProduct,
    ark: &'static [u8],
    ask: &'static [u8],
    asvk: &'static [u8],
}

const AMD: [Authorities; 3] = [
    Authorities {
        product: SnpProduct::Milan,
        ark: include_bytes!("amd/ark-milan.der"),
        ask: include_bytes!("amd/ask-milan.der"),
        asvk: include_bytes!("amd/asvk-milan.der"),
    },
    Authorities {
        product: SnpProduct::Genoa,
        ark: include_bytes!("amd/ark-genoa.der"),
        ask: include_bytes!("amd/ask-genoa.der"),
        asvk: include_bytes!("amd/asvk-genoa.der"),
    },
    Authorities {
        product: SnpProduct::Turin,
        ark: include_bytes!("amd/ark-turin.der"),
        ask: include_bytes!("amd/ask-turin.der"),
        asvk: include_bytes!("amd/asvk-turin.der"),
    },
];

/// The pins: SHA-256 of the SubjectPublicKeyInfo of ARK-Milan, ARK-Genoa and ARK-Turin.
const AMD_ROOTS: [SnpRoot; 3] = [
    SnpRoot {
        product: SnpProduct::Milan,
        key_hash: *b"\x9f\x05\x6b\xee\x44\x37\x7e\x29\x30\x8c\xb5\xff\xa8\x95\xbd\xfb\x62\xd1\x88\x81\xfa\x6b\xed\x8d\
            \x6f\x07\x5b\x02\x04\x08\x9c\xb9",
    },
    SnpRoot {
        product: SnpProduct::Genoa,
        key_hash: *b"\x42\x9a\x69\xc9\x42\x2a\xa2\x58\xee\x4d\x8d\xb5\xfc\xda\x9c\x64\x70\xef\x15\xf8\xcd\x5a\x9c\xeb\
            \xd6\xcb\xc7\xd9\x0b\x86\x38\x31",
    },
    SnpRoot {
        product: SnpProduct::Turin,
        key_hash: *b"\x4f\x12\x54\x10\x56\x3a\x2a\xb9\xa5\x03\x56\xf9\x24\x3f\x6f\xe0\xb6\xf7\x3d\xe9\x86\x03\xf5\x3f\
            \x90\x33\x9c\x70\xe9\xd7\xad\x08",
    },
];

impl SnpRoots {
    /// AMD's, for production.
    #[must_use]
    pub fn amd() -> Self {
        Self { amd: true, simulated: Vec::new() }
    }

    /// Others and not AMD's, for test networks: what they vouch for is no proof of hardware, and the verdict says so.
    #[must_use]
    pub fn simulated(roots: impl IntoIterator<Item = SnpRoot>) -> Self {
        Self { amd: false, simulated: roots.into_iter().collect() }
    }

    /// These and others besides, which are simulated; for test networks.
    #[must_use]
    pub fn and_simulated(mut self, roots: impl IntoIterator<Item = SnpRoot>) -> Self {
        self.simulated.extend(roots);
        self
    }

    /// What this key is worth as the root of this product line; `None` where it is not trusted.
    pub(super) fn worth(&self, product: SnpProduct, key_info: &[u8]) -> Option<Worth> {
        let root = SnpRoot { product, key_hash: Sha256::digest(key_info).into() };
        if self.amd && AMD_ROOTS.contains(&root) {
            return Some(Worth::Amd);
        }
        self.simulated.contains(&root).then_some(Worth::Simulated)
    }

    /// Whether AMD's authorities are among them, which need not be fetched.
    pub(super) fn have_amd(&self) -> bool {
        self.amd
    }

    /// Root and intermediate that need not be fetched, where AMD is trusted.
    pub(super) fn built_in(
        &self,
        product: SnpProduct,
        signer: SnpSigningKey,
    ) -> Option<(&'static [u8], &'static [u8])> {
        if !self.amd {
            return None;
        }
        let authorities = AMD.iter().find(|authorities| authorities.product == product)?;
        let intermediate = if signer == SnpSigningKey::Vlek { authorities.asvk } else { authorities.ask };
        Some((authorities.ark, intermediate))
    }
}

/// Trust in whatever root stands in the evidence, for every product line; for fuzzing.
pub(crate) fn root_that_comes_along(bytes: &[u8]) -> Option<SnpRoots> {
    let evidence = SnpEvidence::parse(bytes).ok()?;
    let ark = Certificate::parse(evidence.certificates.ark?).ok()?;
    let key_hash: [u8; 32] = Sha256::digest(ark.key_info).into();
    Some(SnpRoots::simulated(SnpProduct::ALL.map(|product| SnpRoot { product, key_hash })))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::snp::chain;

    #[test]
    fn the_built_in_authorities_have_the_pinned_keys_and_signed_each_other() {
        for Authorities { product, ark, ask, asvk } in AMD {
            let [ark, ask, asvk] = [ark, ask, asvk].map(|der| Certificate::parse(der).unwrap());
            assert_eq!(SnpRoots::amd().worth(product, ark.key_info), Some(Worth::Amd), "{product}");
            for certificate in [&ark, &ask, &asvk] {
                assert!(certificate.is_signed_by(&ark) && certificate.is_authority, "{product}");
            }
            assert_eq!(ask.common_name(), Some(format!("SEV-{product}").as_str()));
            assert_eq!(asvk.common_name(), Some(format!("SEV-VLEK-{product}").as_str()));
        }
    }

    #[test]
    fn a_real_turin_key_is_read_and_signed_by_turins_authority() {
        let ask = Certificate::parse(AMD[2].ask).unwrap();
        let vcek = include_bytes!("../../tests/snp/turin-vcek.der");
        let key = chain::endorsement(vcek, &ask, SnpSigningKey::Vcek).unwrap();
        assert_eq!(key.hardware_id(8).map(hex::encode).as_deref(), Some("1e550a8ee5cf9f4d"));
        assert_eq!(chain::certified_tcb(&key, SnpProduct::Turin), Some([0, 0, 0, 0, 0, 0, 0, 9]));
        assert!(chain::endorsement(vcek, &ask, SnpSigningKey::Vlek).is_err());
    }

    #[test]
    fn a_root_counts_for_its_own_product_line_only() {
        let milan = Certificate::parse(AMD[0].ark).unwrap();
        assert_eq!(SnpRoots::amd().worth(SnpProduct::Genoa, milan.key_info), None);
        assert_eq!(SnpRoots::simulated([]).worth(SnpProduct::Milan, milan.key_info), None);
        let both = SnpRoots::amd().and_simulated([SnpRoot { product: SnpProduct::Genoa, key_hash: [1; 32] }]);
        assert_eq!(both.worth(SnpProduct::Milan, milan.key_info), Some(Worth::Amd));
    }
}
