//! A simulated machine with one guest: its key, its reports.

use cocoon_attest::snp::{SnpCertificates, SnpFirmware, SnpProduct, SnpReport, SnpSigningKey, SnpTcb};
use cocoon_attest::{Evidence, EvidenceError, EvidenceKind, EvidenceSource, ReportData};
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{Signature, SigningKey};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::amd::{EndorsementForm, SimulatedAmd, Span};
use super::report::encode_report;

/// Whose VLEK a simulated machine has.
const PROVIDER: &str = "CN=simulated-provider";

/// A machine and its guest. What the guest and the machine are like is [`report`](Self::report), whose fields may
/// be set at will; report data are filled in for each report.
#[derive(Debug, Clone)]
pub struct SimulatedSnp {
    /// What reports say.
    pub report: SnpReport,
    /// When the certificate of the machine's key is valid.
    pub endorsed: Span,
    /// When its revocation list is current; none comes along without.
    pub listed: Option<Span>,
    product: SnpProduct,
    seed: [u8; 32],
    amd: SimulatedAmd,
}

impl SimulatedSnp {
    /// The machine of this seed: a usual one, up to date, whose guest was launched with nothing out of the way. Its
    /// launch measurement is SHA-384 of `image`, which may be anything that tells images apart.
    #[must_use]
    pub fn new(product: SnpProduct, seed: &[u8; 32], image: &[u8]) -> Self {
        Self::with_amd(SimulatedAmd::new(product), product, seed, image)
    }

    /// The same, with authorities of its own.
    #[must_use]
    pub fn with_amd(amd: SimulatedAmd, product: SnpProduct, seed: &[u8; 32], image: &[u8]) -> Self {
        let chip: [u8; 64] = Sha512::new_with_prefix("simulated chip").chain_update(seed).finalize().into();
        let mut chip_id = [0; 64];
        chip_id[..chip_id_len(product)].copy_from_slice(&chip[..chip_id_len(product)]);
        let tcb = usual_tcb(product).write(product);
        let firmware = SnpFirmware { major: 1, minor: 55, build: 40 };
        let (version, cpuid) = match product {
            SnpProduct::Milan => (2, None),
            SnpProduct::Genoa => (3, Some([0x19, 0x11, 1])),
            SnpProduct::Turin => (5, Some([0x1a, 0x02, 1])),
        };
        let mitigations = (version >= 5).then_some(0);
        let report = SnpReport {
            version,
            guest_svn: 0,
            // Bit 17 is always one; nothing is allowed, least of all debugging.
            policy: 1 << 17,
            family_id: [0; 16],
            image_id: [0; 16],
            vmpl: 0,
            current_tcb: tcb,
            // Error correction, and no memory at two addresses.
            platform_info: 0b10_0100,
            author_key_enabled: false,
            chip_key_masked: false,
            signing_key: SnpSigningKey::Vcek,
            report_data: ReportData([0; 64]),
            measurement: Sha384::digest(image).into(),
            host_data: [0; 32],
            id_key_digest: [0; 48],
            author_key_digest: [0; 48],
            report_id: Sha256::new_with_prefix("simulated guest").chain_update(seed).finalize().into(),
            report_id_ma: [0xff; 32],
            reported_tcb: tcb,
            cpuid,
            chip_id,
            committed_tcb: tcb,
            current_firmware: firmware,
            committed_firmware: firmware,
            launch_tcb: tcb,
            launch_mitigations: mitigations,
            current_mitigations: mitigations,
        };
        Self { report, endorsed: Span::default(), listed: Some(Span::default()), product, seed: *seed, amd }
    }

    /// The same machine with this TCB, reported, committed, at launch and now.
    #[must_use]
    pub fn with_tcb(mut self, tcb: SnpTcb) -> Self {
        let bytes = tcb.write(self.product);
        self.report.reported_tcb = bytes;
        self.report.committed_tcb = bytes;
        self.report.launch_tcb = bytes;
        self.report.current_tcb = bytes;
        self
    }

    /// The same machine with a provider's key in place of its own, which hides the chip.
    #[must_use]
    pub fn with_vlek(mut self) -> Self {
        self.report.signing_key = SnpSigningKey::Vlek;
        self.report.chip_id = [0; 64];
        self
    }

    /// The authorities over it.
    #[must_use]
    pub fn amd(&self) -> &SimulatedAmd {
        &self.amd
    }

    /// The key for the TCB reported. Another TCB is another key, as with the hardware.
    fn key(&self) -> SigningKey {
        let whose = self.report.signing_key.name();
        let seed = Sha384::new_with_prefix("simulated endorsement key ").chain_update(whose);
        let seed = seed.chain_update(self.product.name()).chain_update(self.report.reported_tcb.0);
        let mut digest = seed.chain_update(self.seed).finalize();
        loop {
            // All but one in 2^190 digests are valid keys; the next one is as good.
            match SigningKey::from_slice(&digest) {
                Ok(key) => return key,
                Err(_) => digest = Sha384::digest(digest),
            }
        }
    }

    /// How the certificate of the machine's key is, for those that want another one.
    #[must_use]
    pub fn endorsement_form(&self) -> EndorsementForm {
        let vlek = self.report.signing_key == SnpSigningKey::Vlek;
        let mut public_key = [0; 97];
        let point = self.key().verifying_key().to_sec1_point(false);
        public_key.copy_from_slice(point.as_bytes());
        EndorsementForm {
            public_key,
            valid: self.endorsed,
            tcb: self.report.reported_tcb,
            chip: (!vlek).then(|| self.report.chip_id[..chip_id_len(self.product)].to_vec()),
            provider: vlek.then(|| PROVIDER.to_owned()),
            by_asvk: vlek,
        }
    }

    /// A report bound to these data, signed.
    #[must_use]
    pub fn signed_report(&self, report_data: &ReportData) -> [u8; SnpReport::LEN] {
        self.sign(encode_report(&SnpReport { report_data: *report_data, ..self.report }))
    }

    /// Signs whatever stands in the signed part of a report.
    #[must_use]
    pub fn sign(&self, mut report: [u8; SnpReport::LEN]) -> [u8; SnpReport::LEN] {
        let signature: Signature = self.key().sign(&report[..SnpReport::SIGNED_LEN]);
        let fixed = signature.to_bytes();
        let (r, s) = fixed.split_at(48);
        for (at, number) in [(SnpReport::SIGNED_LEN, r), (SnpReport::SIGNED_LEN + 72, s)] {
            for (to, from) in report[at..at + 48].iter_mut().zip(number.iter().rev()) {
                *to = *from;
            }
        }
        report
    }

    /// The certificate of the machine's key, DER.
    #[must_use]
    pub fn endorsement(&self) -> Vec<u8> {
        self.amd.endorse(&self.endorsement_form())
    }

    /// The list that comes along, DER.
    #[must_use]
    pub fn revocation_list(&self) -> Option<Vec<u8>> {
        self.listed.map(|current| self.amd.revocation_list(current, &[]))
    }

    /// Evidence bound to these data: report, certificates and list.
    #[must_use]
    pub fn evidence_for(&self, report_data: &ReportData) -> Evidence {
        let (endorsement, list) = (self.endorsement(), self.revocation_list());
        let vlek = self.report.signing_key == SnpSigningKey::Vlek;
        let certificates = SnpCertificates {
            vcek: (!vlek).then_some(&endorsement[..]),
            vlek: vlek.then_some(&endorsement[..]),
            ask: Some(if vlek { self.amd.asvk() } else { self.amd.ask() }),
            ark: Some(self.amd.ark()),
            crl: list.as_deref(),
        };
        let report = self.signed_report(report_data);
        Evidence::new(EvidenceKind::SevSnp, [&report[..], &certificates.write()].concat().into())
    }
}

impl EvidenceSource for SimulatedSnp {
    fn kind(&self) -> EvidenceKind {
        EvidenceKind::SevSnp
    }

    fn is_simulated(&self) -> bool {
        true
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, EvidenceError> {
        Ok(self.evidence_for(report_data))
    }
}

/// Security versions about as recent firmware has them.
fn usual_tcb(product: SnpProduct) -> SnpTcb {
    match product {
        SnpProduct::Milan => SnpTcb { fmc: 0, boot_loader: 4, tee: 0, snp: 27, microcode: 219 },
        SnpProduct::Genoa => SnpTcb { fmc: 0, boot_loader: 10, tee: 0, snp: 27, microcode: 84 },
        SnpProduct::Turin => SnpTcb { fmc: 1, boot_loader: 1, tee: 1, snp: 4, microcode: 75 },
    }
}

/// Bytes of a chip's identifier.
fn chip_id_len(product: SnpProduct) -> usize {
    if product == SnpProduct::Turin { 8 } else { 64 }
}
