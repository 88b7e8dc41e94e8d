//! A simulated machine: its platform certificate, its quoting enclave, its quotes.

use bytes::Bytes;
use cocoon_attest::tdx::{Register, Td15Measurements, TdBody, TdxMeasurements};
use cocoon_attest::{Evidence, EvidenceError, EvidenceKind, EvidenceSource, ReportData, UnixSeconds};
use sha2::{Digest as _, Sha256, Sha384};

use super::{BEGINNING, SimulatedIntel};
use crate::simulated::der::{BOOLEAN, ENUMERATED, OCTET_STRING, OID, integer, sequence, tlv};
use crate::simulated::pki::{Identity, Profile, TestKey};

/// The model of simulated platforms; no processor of Intel's has it.
pub(super) const FMSPC: [u8; 6] = *b"\xff\x00SIM\x00";
/// Security versions of the platform, as of a Xeon of 2024.
pub(super) const CPU_SVN: [u8; 16] = [3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
pub(super) const PCE_SVN: u16 = 13;
/// Product number of Intel's quoting enclave for trust domains.
pub(super) const QE_PRODUCT: u16 = 2;
/// Intel's arc for what a platform certificate says about its platform: 1.2.840.113741.1.13.1.
const SGX_EXTENSION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];
/// Vendor identifier of Intel's quoting enclave.
const INTEL_QE_VENDOR: [u8; 16] = *b"\x93\x9a\x72\x33\xf7\x9c\x4c\xa9\x94\x0a\x0d\xb3\x95\x7f\x06\x07";

/// Who signs simulated quoting enclaves.
pub(super) fn qe_signer() -> [u8; 32] {
    Sha256::digest("signer of simulated quoting enclaves").into()
}

/// How a machine is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineForm {
    /// Its number; another number is another machine.
    pub number: u32,
    /// Its model.
    pub fmspc: [u8; 6],
    /// The last second of its certificate.
    pub ends: UnixSeconds,
    /// Security version of its quoting enclave.
    pub qe_svn: u16,
    /// Signer of its quoting enclave.
    pub qe_signer: [u8; 32],
    /// Attributes of its quoting enclave; bit 1 of byte 0 is DEBUG.
    pub qe_attributes: [u8; 16],
}

impl Default for MachineForm {
    /// The usual machine: number 0, up to date, certified to the end of 2045.
    fn default() -> Self {
        let mut qe_attributes = [0; 16];
        (qe_attributes[0], qe_attributes[8]) = (0x15, 0xe7);
        Self {
            number: 0,
            fmspc: FMSPC,
            ends: UnixSeconds(2_398_377_599),
            qe_svn: 4,
            qe_signer: qe_signer(),
            qe_attributes,
        }
    }
}

/// The form of a quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuoteForm {
    /// Version 4, TDX 1.0.
    V4,
    /// Version 5 with this body.
    V5(TdBody),
}

/// A machine with its keys.
#[derive(Clone)]
pub struct SimulatedMachine {
    form: MachineForm,
    platform: Identity,
    attestation_key: TestKey,
    /// The platform's certificates in PEM, as a quote carries them.
    chain: String,
}

impl SimulatedMachine {
    pub(super) fn new(seed: &[u8; 32], intel: &SimulatedIntel, form: &MachineForm) -> Self {
        let key =
            |purpose: &str| TestKey::derive(seed, &format!("simulated machine {}: {purpose}", form.number));
        let serial = Sha256::digest(form.number.to_be_bytes());
        let profile = Profile {
            name: "Intel SGX PCK Certificate".to_owned(),
            serial: [&[1], &serial[..15]].concat(),
            from: BEGINNING,
            to: form.ends,
            authority: None,
            extensions: vec![(SGX_EXTENSION.to_vec(), platform_extension(form))],
        };
        let platform = intel.authority().issue(key("platform"), profile);
        let chain = platform.pem() + &intel.authority().pem() + &intel.root().pem();
        Self { form: form.clone(), platform, attestation_key: key("attestation"), chain }
    }

    /// The platform's key and certificate.
    #[must_use]
    pub fn platform(&self) -> &Identity {
        &self.platform
    }

    /// The same machine showing another platform certificate, with this chain in PEM.
    #[must_use]
    pub fn with_platform(mut self, platform: Identity, chain: String) -> Self {
        (self.platform, self.chain) = (platform, chain);
        self
    }

    /// The same machine with another attestation key.
    #[must_use]
    pub fn with_attestation_key(mut self, key: TestKey) -> Self {
        self.attestation_key = key;
        self
    }

    /// The platform's certificates in PEM.
    #[must_use]
    pub fn chain(&self) -> &str {
        &self.chain
    }

    /// A complete quote over this trust domain and report data, with the padding that the published tools leave.
    #[must_use]
    pub fn quote(&self, form: QuoteForm, td: &TdxMeasurements, report_data: &ReportData) -> Vec<u8> {
        let mut quote = header(form);
        quote.extend(body(form, td, report_data));
        let signature = self.attestation_key.sign(&quote);
        let auth = [0xa5; 32];
        let report = self.qe_report(&auth);
        let chain = [self.chain.as_bytes(), b"\0"].concat();
        let certification = [
            &report[..],
            &self.platform.key().sign(&report),
            &32_u16.to_le_bytes(),
            &auth,
            &5_u16.to_le_bytes(),
            &length(&chain),
            &chain,
        ]
        .concat();
        let data = [
            &signature[..],
            &self.attestation_key.public(),
            &6_u16.to_le_bytes(),
            &length(&certification),
            &certification,
        ]
        .concat();
        quote.extend(length(&data));
        quote.extend(data);
        if form == QuoteForm::V4 {
            quote.extend([0; 70]);
        }
        quote
    }

    /// The quoting enclave's report about the attestation key (Intel SDM volume 3D, "REPORT structure").
    fn qe_report(&self, auth: &[u8]) -> Vec<u8> {
        let named = Sha256::new().chain_update(self.attestation_key.public()).chain_update(auth).finalize();
        [
            &CPU_SVN[..],
            &[0; 4],
            &[0; 28],
            &self.form.qe_attributes,
            &Sha256::digest("simulated quoting enclave"),
            &[0; 32],
            &self.form.qe_signer,
            &[0; 96],
            &QE_PRODUCT.to_le_bytes(),
            &self.form.qe_svn.to_le_bytes(),
            &[0; 60],
            &named,
            &[0; 32],
        ]
        .concat()
    }

    /// The machine as a source of evidence about one trust domain on it.
    #[must_use]
    pub fn source(self, form: QuoteForm, td: TdxMeasurements) -> SimulatedTdx {
        SimulatedTdx { machine: self, form, td }
    }
}

/// Evidence of a simulated trust domain. It is of the kind [`EvidenceKind::Tdx`], but
/// [`is_simulated`](EvidenceSource::is_simulated) all the same.
#[derive(Clone)]
pub struct SimulatedTdx {
    machine: SimulatedMachine,
    form: QuoteForm,
    td: TdxMeasurements,
}

impl EvidenceSource for SimulatedTdx {
    fn kind(&self) -> EvidenceKind {
        EvidenceKind::Tdx
    }

    fn is_simulated(&self) -> bool {
        true
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, EvidenceError> {
        let quote = self.machine.quote(self.form, &self.td, report_data);
        Ok(Evidence::new(EvidenceKind::Tdx, Bytes::from(quote)))
    }
}

/// What a simulated trust domain that runs this image measures: the usual attributes and features, and measurements
/// that differ from image to image.
#[must_use]
pub fn trust_domain(image: &str) -> TdxMeasurements {
    let measured = |what: &str| -> [u8; 48] { Sha384::digest(format!("simulated {what}: {image}")).into() };
    let mut tee_tcb_svn = [0; 16];
    tee_tcb_svn[..3].copy_from_slice(&[6, 1, 3]);
    TdxMeasurements {
        tee_tcb_svn,
        mr_seam: Sha384::digest("simulated TDX module").into(),
        mr_signer_seam: [0; 48],
        seam_attributes: [0; 8],
        // SEPT_VE_DISABLE, as every usual trust domain has it.
        td_attributes: (1_u64 << 28).to_le_bytes(),
        // x87, SSE, AVX, AVX-512, PKRU, AMX: as real samples have them.
        xfam: 0x0006_02e7_u64.to_le_bytes(),
        mr_td: measured("firmware"),
        mr_config_id: [0; 48],
        mr_owner: [0; 48],
        mr_owner_config: [0; 48],
        rtmr: [
            Register(measured("configuration")),
            Register(measured("kernel")),
            Register(measured("application")),
            Register([0; 48]),
        ],
        td15: None,
    }
}

fn header(form: QuoteForm) -> Vec<u8> {
    let version: u16 = if form == QuoteForm::V4 { 4 } else { 5 };
    let mut header =
        [&version.to_le_bytes()[..], &2_u16.to_le_bytes(), &0x81_u32.to_le_bytes(), &[0; 4]].concat();
    header.extend(INTEL_QE_VENDOR);
    header.extend([0; 20]);
    if let QuoteForm::V5(body) = form {
        let kind: u16 = match body {
            TdBody::Td10 => 2,
            TdBody::Td15 => 3,
            TdBody::Td15Extended => 4,
        };
        header.extend(kind.to_le_bytes());
        // Bodies have less than 1 KiB.
        header.extend(u32::try_from(body.len()).unwrap_or_default().to_le_bytes());
    }
    header
}

fn body(form: QuoteForm, td: &TdxMeasurements, report_data: &ReportData) -> Vec<u8> {
    let mut body = [
        &td.tee_tcb_svn[..],
        &td.mr_seam,
        &td.mr_signer_seam,
        &td.seam_attributes,
        &td.td_attributes,
        &td.xfam,
        &td.mr_td,
        &td.mr_config_id,
        &td.mr_owner,
        &td.mr_owner_config,
    ]
    .concat();
    for register in &td.rtmr {
        body.extend(register.0);
    }
    body.extend(report_data.0);
    let kind = match form {
        QuoteForm::V4 | QuoteForm::V5(TdBody::Td10) => return body,
        QuoteForm::V5(kind) => kind,
    };
    // A trust domain that says nothing of its own runs on the module it was launched on, alone.
    let alone = Td15Measurements {
        tee_tcb_svn2: td.tee_tcb_svn,
        mr_service_td: [0; 48],
        current_service_td: [0; 48],
    };
    let td15 = td.td15.unwrap_or(alone);
    body.extend(td15.tee_tcb_svn2);
    body.extend(td15.mr_service_td);
    if kind == TdBody::Td15Extended {
        // From the VM index to the model at creation, see the reader.
        body.extend([0; 181]);
        body.extend(td15.current_service_td);
        body.extend([0; 8]);
    }
    body
}

fn length(bytes: &[u8]) -> [u8; 4] {
    // Chains are a few KiB.
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

/// What the certificate says about its platform (Intel's certificate profile, "SGX extensions").
fn platform_extension(form: &MachineForm) -> Vec<u8> {
    let entry = |path: &[u8], value: &[u8]| sequence(&[&tlv(OID, &[SGX_EXTENSION, path].concat()), value]);
    let octets = |bytes: &[u8]| tlv(OCTET_STRING, bytes);
    let mut tcb: Vec<u8> = Vec::new();
    for (number, svn) in (1..).zip(CPU_SVN) {
        tcb.extend(entry(&[2, number], &integer(&[svn])));
    }
    tcb.extend(entry(&[2, 17], &integer(&PCE_SVN.to_be_bytes())));
    tcb.extend(entry(&[2, 18], &octets(&CPU_SVN)));
    let platform = Sha256::digest(form.number.to_le_bytes());
    let flag = |path: &[u8]| entry(path, &[BOOLEAN, 1, 0xff]);
    sequence(&[
        &entry(&[1], &octets(&platform[..16])),
        &entry(&[2], &tlv(crate::simulated::der::SEQUENCE, &tcb)),
        &entry(&[3], &octets(&[0, 0])),
        &entry(&[4], &octets(&form.fmspc)),
        &entry(&[5], &[ENUMERATED, 1, 1]),
        &entry(&[6], &octets(&platform[16..])),
        &entry(&[7], &sequence(&[&flag(&[7, 1]), &flag(&[7, 2]), &flag(&[7, 3])])),
    ])
}
