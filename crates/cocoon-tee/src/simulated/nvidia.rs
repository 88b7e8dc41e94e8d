//! NVIDIA and its GPUs, simulated: roots, certificate chains, reports, reference values and answers about revocation.
//!
//! Evidence made here passes through [`GpuVerifier`](cocoon_attest::gpu::GpuVerifier) like any other, if that was
//! built with [`SimulatedNvidia::roots`] and is given [`SimulatedNvidia::collateral`]. Its form is Hopper's.

mod gpu;
mod manifest;
mod pki;
mod status;

use std::collections::BTreeSet;

use bytes::Bytes;
use cocoon_attest::gpu::{GpuCollateral, GpuEvidence, GpuPart, GpuRoots, PinnedValues};
use cocoon_attest::{Collateral, CollateralRequest, EvidenceError, EvidenceKind, GpuSource, UnixSeconds};

pub use gpu::{GpuForm, SimulatedGpu};
pub use manifest::{ManifestForm, measured};
pub use pki::{Identity, Profile, TestKey};
pub use status::{Responder, StatusForm, Word};

/// 2022-01-12: when every simulated certificate begins.
const BEGINNING: UnixSeconds = UnixSeconds(1_641_945_600);
/// How long an answer about revocation counts, seconds.
const STATUS_LIFETIME: u64 = 24 * 3600;

/// NVIDIA's part: the authorities of GPUs, and those of reference values.
#[derive(Clone)]
pub struct SimulatedNvidia {
    seed: [u8; 32],
    /// Root, authority for the chip, authority that provisions devices.
    devices: [Identity; 3],
    /// Root, authority for the chip, authority below, signer.
    reference: [Identity; 4],
    /// Serial numbers of revoked certificates.
    revoked: BTreeSet<Vec<u8>>,
}

impl SimulatedNvidia {
    /// The NVIDIA of this seed. Everything it makes follows from the seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = |name: &str| TestKey::derive(seed, &format!("simulated NVIDIA: {name}"));
        let authority = |name: &str, serial: u8| Profile::authority(name, &[serial]);
        let root = Identity::root(key("root"), authority("NVIDIA Device Identity CA", 1));
        let chip = root.issue(key("chip"), authority("NVIDIA GH100 Identity", 2));
        let provisioner = chip.issue(key("provisioner"), authority("NVIDIA GH100 Provisioner ICA 1", 3));
        let values = Identity::root(key("values"), authority("NVIDIA CoRIM signing Root CA", 4));
        let of_chip = values.issue(key("values of chip"), authority("NVIDIA Reference Value GH100 CA", 5));
        let below = of_chip.issue(key("values below"), authority("NVIDIA Reference Value L3 GH100 001", 6));
        let signer = below.issue(key("signer"), Profile::signer("HCC RIM L4 Signer", &[7]));
        Self {
            seed: *seed,
            devices: [root, chip, provisioner],
            reference: [values, of_chip, below, signer],
            revoked: BTreeSet::new(),
        }
    }

    /// The root of GPUs, DER.
    #[must_use]
    pub fn root_certificate(&self) -> &[u8] {
        self.devices[0].certificate()
    }

    /// The root of reference values, DER.
    #[must_use]
    pub fn reference_root_certificate(&self) -> &[u8] {
        self.reference[0].certificate()
    }

    /// Both, for a verifier.
    ///
    /// # Panics
    /// Never: these certificates are of the form that a verifier reads.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the certificates are made here, in the form that is read")]
    pub fn roots(&self) -> GpuRoots {
        GpuRoots::simulated(self.root_certificate(), self.reference_root_certificate())
            .expect("certificates made here can be read")
    }

    /// The authorities of GPUs: root, authority for the chip, authority that provisions devices.
    #[must_use]
    pub fn device_authorities(&self) -> &[Identity; 3] {
        &self.devices
    }

    /// Those of reference values: root, authority for the chip, authority below it, signer.
    #[must_use]
    pub fn reference_authorities(&self) -> &[Identity; 4] {
        &self.reference
    }

    /// The same, but that the certificates with these serial numbers are revoked.
    #[must_use]
    pub fn revoking(mut self, serials: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.revoked.extend(serials);
        self
    }

    /// A GPU by its number, of the usual form.
    #[must_use]
    pub fn gpu(&self, number: u32) -> SimulatedGpu {
        SimulatedGpu::new(&self.seed, self, number)
    }

    /// The reference values of GPUs of the usual form, for a policy that pins them.
    #[must_use]
    pub fn reference_values(&self) -> PinnedValues {
        manifest::pinned()
    }

    /// What NVIDIA's services answer at this time. Questions about something else are left without answer.
    #[must_use]
    pub fn collateral(&self, requests: &[CollateralRequest], now: UnixSeconds) -> Collateral {
        let mut collateral = Collateral::none();
        for request in requests {
            let answer = match GpuCollateral::of(request) {
                Some(GpuCollateral::Manifest(id)) => self.manifest(&id),
                Some(GpuCollateral::Status(question)) => {
                    self.status(&question, &StatusForm::lasting(now, STATUS_LIFETIME))
                }
                None => None,
            };
            if let Some(answer) = answer {
                collateral.insert(request.clone(), answer.into());
            }
        }
        collateral
    }

    /// The manifest of this identifier: of the driver or the firmware of GPUs of the usual form.
    fn manifest(&self, id: &str) -> Option<Vec<u8>> {
        let form = [ManifestForm::driver(), ManifestForm::vbios()].into_iter().find(|form| form.id == id)?;
        Some(form.write(&self.reference).into_bytes())
    }

    /// The answer to a question about a certificate of one of these authorities (`OCSPRequest` to `OCSPResponse`,
    /// DER); `None` where it is another's, or no question. A revoked certificate
    /// ([`revoking`](Self::revoking)) is revoked whatever the form says.
    #[must_use]
    pub fn status(&self, question: &[u8], form: &StatusForm) -> Option<Vec<u8>> {
        let (serial, id) = status::asked(question)?;
        let [root, chip, provisioner] = &self.devices;
        let [values, of_chip, below, _] = &self.reference;
        // Serial numbers here are unique under all authorities together.
        let issuer = match serial {
            [2] => root,
            [3] => chip,
            [5] => values,
            [6] => of_chip,
            [7] => below,
            [gpu::DEVICE, ..] => provisioner,
            _ => return None,
        };
        let word = if self.revoked.contains(serial) { Word::Revoked } else { form.word };
        Some(status::write(id, issuer, &StatusForm { word, ..*form }))
    }

    /// The GPUs from number `first` on, as a source of evidence.
    #[must_use]
    pub fn source(&self, first: u32, count: u8) -> SimulatedGpus {
        let numbers = first..first.saturating_add(u32::from(count));
        SimulatedGpus { gpus: numbers.map(|number| self.gpu(number)).collect() }
    }
}

/// The simulated GPUs of one machine.
#[derive(Clone)]
pub struct SimulatedGpus {
    /// Each of them.
    pub gpus: Vec<SimulatedGpu>,
}

impl GpuSource for SimulatedGpus {
    fn evidence(&self, nonce: &[u8; 32]) -> Result<Bytes, EvidenceError> {
        let parts: Vec<GpuPart> = self.gpus.iter().map(|gpu| gpu.part(nonce)).collect();
        GpuEvidence::new(parts)
            .and_then(|evidence| evidence.write())
            .map_err(|error| EvidenceError { kind: EvidenceKind::NvidiaGpu, reason: error.to_string() })
    }

    fn is_simulated(&self) -> bool {
        true
    }
}
