//! The attestation report: its fields as the firmware wrote them, read but not verified.
//!
//! Layout: the ABI, table "ATTESTATION_REPORT Structure" of `MSG_REPORT_RSP`. All integers are little-endian.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::product::{SnpProduct, SnpTcbBytes};
use crate::{ReportData, hexed};

/// Bit positions in the guest's policy (the ABI, "Guest Policy").
pub(super) mod policy_bit {
    pub(in super::super) const SMT: u64 = 1 << 16;
    /// Reserved, always one.
    pub(in super::super) const ALWAYS_ONE: u64 = 1 << 17;
    pub(in super::super) const MIGRATE_MA: u64 = 1 << 18;
    pub(in super::super) const DEBUG: u64 = 1 << 19;
    pub(in super::super) const SINGLE_SOCKET: u64 = 1 << 20;
    pub(in super::super) const CXL_ALLOW: u64 = 1 << 21;
    pub(in super::super) const MEM_AES_256_XTS: u64 = 1 << 22;
    pub(in super::super) const RAPL_DIS: u64 = 1 << 23;
    pub(in super::super) const CIPHERTEXT_HIDING: u64 = 1 << 24;
    pub(in super::super) const PAGE_SWAP_DISABLE: u64 = 1 << 25;
    /// All bits that have a meaning, the version's 16 included.
    pub(in super::super) const KNOWN: u64 = (1 << 26) - 1;
}

/// Bit positions in the platform's information (the ABI, "PLATFORM_INFO").
pub(super) mod platform_bit {
    pub(in super::super) const SMT: u64 = 1;
    pub(in super::super) const TSME: u64 = 1 << 1;
    pub(in super::super) const ECC: u64 = 1 << 2;
    pub(in super::super) const RAPL_DIS: u64 = 1 << 3;
    pub(in super::super) const CIPHERTEXT_HIDING: u64 = 1 << 4;
    pub(in super::super) const ALIAS_CHECK: u64 = 1 << 5;
    pub(in super::super) const TIO: u64 = 1 << 7;
}

/// Why bytes are not a readable report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnpReportError {
    /// Not the length of a report.
    #[error("the report has {len} bytes, not {}", SnpReport::LEN)]
    Length {
        /// Its length, bytes.
        len: usize,
    },
    /// Not version 2 to 5.
    #[error("the report's version is {version}; versions 2 to 5 are understood")]
    UnsupportedVersion {
        /// What it says.
        version: u32,
    },
    /// Not signed with ECDSA on P-384.
    #[error("the report's signature algorithm is {algorithm}, not 1 (ECDSA on P-384 with SHA-384)")]
    UnsupportedAlgorithm {
        /// What it says.
        algorithm: u32,
    },
    /// A field that must be zero is not, or one has a value that has no meaning.
    #[error("the report's {field} holds what no known firmware writes")]
    Reserved {
        /// Which.
        field: &'static str,
    },
}

/// Which key the firmware says it signed with (the ABI, `SIGNING_KEY`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnpSigningKey {
    /// The chip's own, one per TCB version.
    Vcek,
    /// One that AMD issues to a cloud provider, the same on all its chips.
    Vlek,
    /// None: the signature is left out.
    None,
}

impl SnpSigningKey {
    /// `VCEK`, `VLEK` or `no key`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vcek => "VCEK",
            Self::Vlek => "VLEK",
            Self::None => "no key",
        }
    }
}

/// Version of the firmware on the secure processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct SnpFirmware {
    /// Of its interface.
    pub major: u8,
    /// Of its interface.
    pub minor: u8,
    /// Of itself.
    pub build: u8,
}

impl std::fmt::Display for SnpFirmware {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)
    }
}

/// A report's fields. Serialised as part of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnpReport {
    /// Of the report: 2 to 5.
    pub version: u32,
    /// The guest's own security version, from its identity block.
    pub guest_svn: u32,
    /// What the host may do with the guest.
    pub policy: u64,
    /// From the guest's identity block.
    #[serde(with = "hexed::array")]
    pub family_id: [u8; 16],
    /// From the guest's identity block.
    #[serde(with = "hexed::array")]
    pub image_id: [u8; 16],
    /// Privilege level that asked for the report; 0 is the highest.
    pub vmpl: u32,
    /// TCB of now.
    pub current_tcb: SnpTcbBytes,
    /// Features of the platform.
    pub platform_info: u64,
    /// Whether the digest of an author key is given.
    pub author_key_enabled: bool,
    /// Whether the host keeps the firmware from signing.
    pub chip_key_masked: bool,
    /// The key signed with.
    pub signing_key: SnpSigningKey,
    /// What the guest bound the report to.
    pub report_data: ReportData,
    /// SHA-384 over what the guest was launched with.
    #[serde(with = "hexed::array")]
    pub measurement: [u8; 48],
    /// What the host put in at launch.
    #[serde(with = "hexed::array")]
    pub host_data: [u8; 32],
    /// SHA-384 of the key that signed the identity block; zero without one.
    #[serde(with = "hexed::array")]
    pub id_key_digest: [u8; 48],
    /// SHA-384 of the key that vouched for that key; zero without one.
    #[serde(with = "hexed::array")]
    pub author_key_digest: [u8; 48],
    /// This guest instance.
    #[serde(with = "hexed::array")]
    pub report_id: [u8; 32],
    /// Its migration agent; all ones without one.
    #[serde(with = "hexed::array")]
    pub report_id_ma: [u8; 32],
    /// The TCB that the signing key stands for.
    pub reported_tcb: SnpTcbBytes,
    /// CPUID family, model and stepping, combined with their extended parts; since version 3.
    pub cpuid: Option<[u8; 3]>,
    /// The chip; zero where the host masks it or a VLEK is used.
    #[serde(with = "hexed::array")]
    pub chip_id: [u8; 64],
    /// The TCB that the platform cannot go back behind.
    pub committed_tcb: SnpTcbBytes,
    /// Firmware of now.
    pub current_firmware: SnpFirmware,
    /// The firmware that the platform cannot go back behind.
    pub committed_firmware: SnpFirmware,
    /// TCB when the guest was launched or taken in.
    pub launch_tcb: SnpTcbBytes,
    /// Mitigations in force when the guest was launched; since version 5.
    pub launch_mitigations: Option<u64>,
    /// Mitigations in force now; since version 5.
    pub current_mitigations: Option<u64>,
}

impl SnpReport {
    /// Length of a report, bytes.
    pub const LEN: usize = 0x4a0;
    /// How much of it is signed, bytes.
    pub const SIGNED_LEN: usize = 0x2a0;

    /// Reads a report.
    ///
    /// # Errors
    /// The bytes have another length, are of an unknown version or algorithm, or set what is reserved.
    pub fn parse(bytes: &[u8]) -> Result<Self, SnpReportError> {
        let whole: &[u8; Self::LEN] =
            bytes.try_into().map_err(|_| SnpReportError::Length { len: bytes.len() })?;
        let mut fields = Fields(whole);
        let version = fields.u32();
        if !(2..=5).contains(&version) {
            return Err(SnpReportError::UnsupportedVersion { version });
        }
        let guest_svn = fields.u32();
        let policy = fields.u64();
        let family_id = fields.take();
        let image_id = fields.take();
        let vmpl = fields.u32();
        let algorithm = fields.u32();
        if algorithm != 1 {
            return Err(SnpReportError::UnsupportedAlgorithm { algorithm });
        }
        let current_tcb = SnpTcbBytes(fields.take());
        let platform_info = fields.u64();
        let key_flags = fields.u32();
        let signing_key = match (key_flags >> 2) & 7 {
            0 => SnpSigningKey::Vcek,
            1 => SnpSigningKey::Vlek,
            7 => SnpSigningKey::None,
            _ => return Err(SnpReportError::Reserved { field: "signing key" }),
        };
        if key_flags >> 5 != 0 || fields.u32() != 0 {
            return Err(SnpReportError::Reserved { field: "key flags" });
        }
        let report = Self {
            version,
            guest_svn,
            policy,
            family_id,
            image_id,
            vmpl,
            current_tcb,
            platform_info,
            author_key_enabled: key_flags & 1 != 0,
            chip_key_masked: key_flags & 2 != 0,
            signing_key,
            report_data: ReportData(fields.take()),
            measurement: fields.take(),
            host_data: fields.take(),
            id_key_digest: fields.take(),
            author_key_digest: fields.take(),
            report_id: fields.take(),
            report_id_ma: fields.take(),
            reported_tcb: SnpTcbBytes(fields.take()),
            cpuid: fields.cpuid(version)?,
            chip_id: fields.take(),
            committed_tcb: SnpTcbBytes(fields.take()),
            current_firmware: fields.firmware(),
            committed_firmware: fields.firmware(),
            launch_tcb: SnpTcbBytes(fields.take()),
            launch_mitigations: (version >= 5).then(|| fields.u64()),
            current_mitigations: (version >= 5).then(|| fields.u64()),
        };
        Ok(report)
    }

    /// The hash by which an SNP image is listed among the allowed ones:
    ///
    /// `SHA-256("cocoon sev-snp image v1" || measurement || host_data || id_key_digest || author_key_digest ||
    /// family_id || image_id)`
    ///
    /// It covers what decides which software runs and with what configuration, as TDX's hash does: the launch
    /// measurement stands for `mr_td` (with measured direct boot also for firmware, kernel, initial file system and
    /// command line, which TDX has in its registers); host data, which an untrusted host chooses, for
    /// `mr_config_id`; the two keys for `mr_owner` and `mr_owner_config`; family and image for what the identity
    /// block names. The text in front, 23 bytes, keeps an SNP hash from ever being a TDX hash.
    ///
    /// Left out, because each is judged by its own check against the verifier's policy, and would otherwise need
    /// another hash for every machine: guest policy, privilege level, TCB, platform and the guest's security version.
    #[must_use]
    pub fn image_hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new_with_prefix(b"cocoon sev-snp image v1");
        hash.update(self.measurement);
        hash.update(self.host_data);
        hash.update(self.id_key_digest);
        hash.update(self.author_key_digest);
        hash.update(self.family_id);
        hash.update(self.image_id);
        hash.finalize().into()
    }

    /// The product lines that the report can come from: by CPUID, or without it the two that wrote such reports.
    #[must_use]
    pub fn products(&self) -> &'static [SnpProduct] {
        match self.cpuid {
            None => &[SnpProduct::Milan, SnpProduct::Genoa],
            Some([family, model, _]) => SnpProduct::of_cpu(family, model),
        }
    }

    /// What the guest asks of the firmware's interface at least: major, minor.
    #[must_use]
    pub fn policy_abi(&self) -> (u8, u8) {
        let [minor, major, ..] = self.policy.to_le_bytes();
        (major, minor)
    }
}

/// A report's signature as r and s, 48 bytes each, most significant first; `None` if it does not fit P-384.
///
/// The firmware writes r and s least significant first, 72 bytes each, and zeros after them (the ABI, "ECDSA P-384
/// with SHA-384 signature format"). Anything else would be a second form of the same signature.
pub(super) fn signature(report: &[u8; SnpReport::LEN]) -> Option<[u8; 96]> {
    let (rs, padding) = report[SnpReport::SIGNED_LEN..].split_at(144);
    let (r, s) = rs.split_at(72);
    let spare = r[48..].iter().chain(&s[48..]).chain(padding);
    if !spare.into_iter().all(|byte| *byte == 0) {
        return None;
    }
    let mut fixed = [0; 96];
    for (half, number) in fixed.chunks_exact_mut(48).zip([r, s]) {
        for (to, from) in half.iter_mut().zip(number[..48].iter().rev()) {
            *to = *from;
        }
    }
    Some(fixed)
}

/// Takes fields off a report from front to back. The whole length is checked before: what would lie behind the end
/// reads as zero and cannot occur.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        if let Some((head, rest)) = self.0.split_first_chunk::<N>() {
            field = *head;
            self.0 = rest;
        }
        field
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn cpuid(&mut self, version: u32) -> Result<Option<[u8; 3]>, SnpReportError> {
        let cpuid: [u8; 3] = self.take();
        let _reserved: [u8; 21] = self.take();
        if version >= 3 {
            return Ok(Some(cpuid));
        }
        if cpuid != [0; 3] {
            return Err(SnpReportError::Reserved { field: "place of the CPUID" });
        }
        Ok(None)
    }

    fn firmware(&mut self) -> SnpFirmware {
        let [build, minor, major, _reserved] = self.take();
        SnpFirmware { major, minor, build }
    }
}
