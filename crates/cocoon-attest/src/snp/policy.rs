//! What a verifier demands of an SNP machine and guest, beyond that the evidence is genuine.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::product::{SnpChip, SnpProduct, SnpTcb};
use super::report::SnpFirmware;
use crate::hexed;

/// What to do without a revocation list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnpRevocation {
    /// Refuse.
    #[default]
    Required,
    /// Go on, and say so in the verdict. A list that is at hand counts all the same.
    WhereAvailable,
}

/// The demands. Debugging and migration are refused whatever is said here: either hands the guest's memory to
/// somebody who was not attested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnpPolicy {
    /// The product lines that are accepted, each with the lowest TCB that is. Which versions mend what is in AMD's
    /// security bulletins, and changes with every one of them.
    pub floors: BTreeMap<SnpProduct, SnpTcb>,
    /// The lowest microcode by kind of chip, on top of its line's floor: the chips of a line count their microcode
    /// each by themselves. Where a line has entries here, a chip of it that has none, or does not say what it is, is
    /// refused.
    pub microcode: BTreeMap<SnpChip, u8>,
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
    #[serde(with = "hexed::set")]
    pub measurements: Option<BTreeSet<[u8; 48]>>,
    /// The only host data accepted, where given.
    #[serde(with = "hexed::set")]
    pub host_data: Option<BTreeSet<[u8; 32]>>,
    /// The only digests of identity keys accepted, where given.
    #[serde(with = "hexed::set")]
    pub id_keys: Option<BTreeSet<[u8; 48]>>,
    /// The only digests of author keys accepted, where given.
    #[serde(with = "hexed::set")]
    pub author_keys: Option<BTreeSet<[u8; 48]>>,
}

impl SnpPolicy {
    /// The default: Genoa's and Turin's lines, with the firmware that looks for memory at two addresses (AMD-SB-3015)
    /// and the microcode that checks the signatures of its successors properly (AMD-SB-3019; before, whoever runs the
    /// machine could load their own).
    ///
    /// **Milan is left out**: research published in May 2026 (arXiv 2605.12990) takes the seed of a Milan chip's
    /// keys out of it by software alone, after which reports of any firmware can be forged. No floor helps there.
    #[must_use]
    pub fn strict() -> Self {
        let genoa = SnpTcb { snp: 23, ..SnpTcb::default() };
        let chip = |family, model, stepping| SnpChip { family, model, stepping };
        Self {
            microcode: BTreeMap::from([
                // Patch levels 0x0A101154, 0x0A10124F, 0x0AA00219, 0x0B002147 and 0x0B101047: the last byte counts.
                (chip(0x19, 0x11, 1), 0x54),
                (chip(0x19, 0x11, 2), 0x4f),
                (chip(0x19, 0xa0, 2), 0x19),
                (chip(0x1a, 0x02, 1), 0x47),
                (chip(0x1a, 0x11, 0), 0x47),
            ]),
            ..Self::with_floors([(SnpProduct::Genoa, genoa), (SnpProduct::Turin, SnpTcb::default())])
        }
    }

    /// Accepts machines of these product lines from these TCB versions on. Everything else is at its strictest,
    /// except for what would leave out most machines that there are: hyper-threading is allowed, and one socket,
    /// AES-256, no RAPL, ciphertext hiding and error correction are not demanded.
    #[must_use]
    pub fn with_floors(floors: impl IntoIterator<Item = (SnpProduct, SnpTcb)>) -> Self {
        Self {
            floors: floors.into_iter().collect(),
            microcode: BTreeMap::new(),
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

impl Default for SnpPolicy {
    fn default() -> Self {
        Self::strict()
    }
}
