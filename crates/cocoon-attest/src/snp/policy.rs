//! What a verifier demands of an SNP machine and guest, beyond that the evidence is genuine.

use std::collections::{BTreeMap, BTreeSet};

use super::product::{SnpProduct, SnpTcb};
use super::report::SnpFirmware;

/// What to do without a revocation list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SnpRevocation {
    /// Refuse.
    #[default]
    Required,
    /// Go on, and say so in the verdict. A list that is at hand counts all the same.
    WhereAvailable,
}

/// The demands. Debugging and migration are refused whatever is said here: either hands the guest's memory to
/// somebody who was not attested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpPolicy {
    /// The product lines that are accepted, each with the lowest TCB that is. There is no built-in floor: which
    /// versions mend what is in AMD's security bulletins, and changes with every one of them.
    pub floors: BTreeMap<SnpProduct, SnpTcb>,
    /// Whether reports may be signed with the chip's own key.
    pub allow_vcek: bool,
    /// Whether reports may be signed with a cloud provider's key, which does not tell its chips apart.
    pub allow_vlek: bool,
    /// What to do without a revocation list.
    pub revocation: SnpRevocation,
    /// The privilege levels that reports may be asked for at. Below level 0 another program of the guest (an SVSM,
    /// a paravisor) stands above the one that asked, and must be trusted as part of the measurement.
    pub vmpls: BTreeSet<u32>,
    /// Oldest firmware.
    pub min_firmware: SnpFirmware,
    /// Whether firmware may run that the host can still roll back.
    pub allow_provisional_firmware: bool,
    /// Whether the guest may share cores with others by hyper-threading. Neighbours on a core see a little through
    /// its caches; but nearly every cloud has it on.
    pub allow_smt: bool,
    /// Whether memory may lie behind CXL.
    pub allow_cxl: bool,
    /// Whether the guest must be confined to one socket.
    pub require_single_socket: bool,
    /// Whether the guest must insist on AES-256-XTS for its memory.
    pub require_aes_256_xts: bool,
    /// Whether power metering (RAPL) must be off, which gives side channels.
    pub require_rapl_disabled: bool,
    /// Whether the host must be kept from reading ciphertext.
    pub require_ciphertext_hiding: bool,
    /// Whether the firmware must have looked for memory that shows up at two addresses (AMD-SB-3015, "BadRAM").
    pub require_alias_check: bool,
    /// Whether memory must have error correction.
    pub require_ecc: bool,
    /// Mitigations, as bits of the report's mitigation vectors, that must be in force. Reports before version 5 have
    /// none.
    pub required_mitigations: u64,
    /// Least security version of the guest.
    pub min_guest_svn: u32,
    /// The only launch measurements accepted, where given.
    pub measurements: Option<BTreeSet<[u8; 48]>>,
    /// The only host data accepted, where given.
    pub host_data: Option<BTreeSet<[u8; 32]>>,
    /// The only digests of identity keys accepted, where given.
    pub id_keys: Option<BTreeSet<[u8; 48]>>,
    /// The only digests of author keys accepted, where given.
    pub author_keys: Option<BTreeSet<[u8; 48]>>,
}

impl SnpPolicy {
    /// Accepts machines of these product lines from these TCB versions on. Everything else is at its strictest,
    /// except for what would leave out most machines that there are: hyper-threading is allowed, and one socket,
    /// AES-256, no RAPL, ciphertext hiding and error correction are not demanded.
    #[must_use]
    pub fn with_floors(floors: impl IntoIterator<Item = (SnpProduct, SnpTcb)>) -> Self {
        Self {
            floors: floors.into_iter().collect(),
            allow_vcek: true,
            allow_vlek: false,
            revocation: SnpRevocation::Required,
            vmpls: BTreeSet::from([0]),
            min_firmware: SnpFirmware::default(),
            allow_provisional_firmware: false,
            allow_smt: true,
            allow_cxl: false,
            require_single_socket: false,
            require_aes_256_xts: false,
            require_rapl_disabled: false,
            require_ciphertext_hiding: false,
            require_alias_check: true,
            require_ecc: false,
            required_mitigations: 0,
            min_guest_svn: 0,
            measurements: None,
            host_data: None,
            id_keys: None,
            author_keys: None,
        }
    }
}
