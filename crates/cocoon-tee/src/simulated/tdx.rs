//! Intel and its machines, simulated: roots, platform certificates, collateral and quotes.
//!
//! A quote made here passes through [`TdxVerifier`](cocoon_attest::tdx::TdxVerifier) like any other, if that was built
//! with [`SimulatedIntel::root_certificate`] and is given [`SimulatedIntel::collateral`].

mod machine;
mod published;

pub use machine::{MachineForm, QuoteForm, SimulatedMachine, SimulatedTdx, trust_domain};
pub use published::{Level, Published};

use cocoon_attest::UnixSeconds;

use super::pki::{Identity, Profile, TestKey};

/// 2018-01-01: when every simulated certificate begins.
const BEGINNING: UnixSeconds = UnixSeconds(1_514_764_800);

/// Intel's part: a root, the authority for platforms, and the signer of TCB information.
#[derive(Clone)]
pub struct SimulatedIntel {
    seed: [u8; 32],
    root: Identity,
    authority: Identity,
    signer: Identity,
}

impl SimulatedIntel {
    /// The last second of the signer's certificate: the end of 2042.
    pub const SIGNER_ENDS: UnixSeconds = UnixSeconds(2_303_683_199);
    /// The last second of the platform authority's certificate: the end of 2047.
    pub const AUTHORITY_ENDS: UnixSeconds = UnixSeconds(2_461_449_599);
    /// The last second of the root: the end of 2049, as Intel's.
    pub const ROOT_ENDS: UnixSeconds = UnixSeconds(2_524_607_999);

    /// The Intel of this seed. Everything it makes follows from the seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = |purpose: &str| TestKey::derive(seed, &format!("simulated Intel: {purpose}"));
        let profile = |name: &str, serial: u8, to: UnixSeconds, authority: Option<u8>| Profile {
            name: name.to_owned(),
            serial: vec![serial],
            from: BEGINNING,
            to,
            authority,
            extensions: Vec::new(),
        };
        let root = Identity::root(key("root"), profile("Intel SGX Root CA", 1, Self::ROOT_ENDS, Some(1)));
        let authority = root.issue(
            key("platform authority"),
            profile("Intel SGX PCK Platform CA", 2, Self::AUTHORITY_ENDS, Some(0)),
        );
        let signer =
            root.issue(key("TCB signer"), profile("Intel SGX TCB Signing", 3, Self::SIGNER_ENDS, None));
        Self { seed: *seed, root, authority, signer }
    }

    /// The root certificate, DER, for
    /// [`TdxVerifier::with_test_root`](cocoon_attest::tdx::TdxVerifier::with_test_root).
    #[must_use]
    pub fn root_certificate(&self) -> &[u8] {
        self.root.certificate()
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Identity {
        &self.root
    }

    /// The authority that certifies platforms.
    #[must_use]
    pub fn authority(&self) -> &Identity {
        &self.authority
    }

    /// The signer of TCB information and QE identities.
    #[must_use]
    pub fn signer(&self) -> &Identity {
        &self.signer
    }

    /// A machine by its number, of the usual form.
    #[must_use]
    pub fn machine(&self, number: u32) -> SimulatedMachine {
        self.machine_of(&MachineForm { number, ..MachineForm::default() })
    }

    /// A machine of a given form.
    #[must_use]
    pub fn machine_of(&self, form: &MachineForm) -> SimulatedMachine {
        SimulatedMachine::new(&self.seed, self, form)
    }
}
