//! Product lines and their TCB versions.

use serde::{Deserialize, Serialize};

use crate::hexed;

/// A line of processors with a root key of its own at AMD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnpProduct {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004: Genoa, Bergamo, Siena.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl SnpProduct {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// The name in the Key Distribution Service's addresses and in the names of certificates (KDS, "Product name").
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// The line of this CPUID family and model, extended parts included: none or one.
    pub(super) fn of_cpu(family: u8, model: u8) -> &'static [Self] {
        match (family, model) {
            (0x19, 0x00..=0x0f) => &[Self::Milan],
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => &[Self::Genoa],
            (0x1a, 0x00..=0x11) => &[Self::Turin],
            _ => &[],
        }
    }

    /// Bytes of the report's chip identifier that are used: Turin's is shorter.
    pub(super) fn chip_id_len(self) -> usize {
        if self == Self::Turin { 8 } else { 64 }
    }
}

impl std::fmt::Display for SnpProduct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A kind of chip, as CPUID tells it: family and model with their extended parts, and stepping. In text,
/// `FAMILY-MODEL-STEPPING` in hexadecimal digits, such as `19-11-1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnpChip {
    /// Family.
    pub family: u8,
    /// Model.
    pub model: u8,
    /// Stepping.
    pub stepping: u8,
}

impl From<SnpChip> for String {
    fn from(chip: SnpChip) -> Self {
        chip.to_string()
    }
}

impl TryFrom<String> for SnpChip {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = text.split('-').map(|part| u8::from_str_radix(part, 16).ok());
        match [parts.next(), parts.next(), parts.next(), parts.next()] {
            [Some(Some(family)), Some(Some(model)), Some(Some(stepping)), None] => {
                Ok(Self { family, model, stepping })
            }
            _ => Err(format!("{text:?} is no kind of chip; write FAMILY-MODEL-STEPPING as in 19-11-1")),
        }
    }
}

impl std::fmt::Display for SnpChip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.family, self.model, self.stepping)
    }
}

/// A TCB version as reports carry it: eight security versions whose order depends on the product line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnpTcbBytes(#[serde(with = "hexed::array")] pub [u8; 8]);

/// The security versions that have a meaning. Each counts by itself: a TCB reaches another where all of them do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnpTcb {
    /// Of the FMC; Turin only, 0 elsewhere.
    pub fmc: u8,
    /// Of the boot loader of the secure processor.
    pub boot_loader: u8,
    /// Of its operating system.
    pub tee: u8,
    /// Of the SNP firmware.
    pub snp: u8,
    /// Of the microcode of all cores.
    pub microcode: u8,
}

impl SnpTcb {
    /// Reads the bytes as this product line orders them (the ABI, "TCB_VERSION", with Turin's own table).
    #[must_use]
    pub fn read(bytes: SnpTcbBytes, product: SnpProduct) -> Self {
        let [a, b, c, d, .., y, z] = bytes.0;
        match product {
            SnpProduct::Milan | SnpProduct::Genoa => {
                Self { fmc: 0, boot_loader: a, tee: b, snp: y, microcode: z }
            }
            SnpProduct::Turin => Self { fmc: a, boot_loader: b, tee: c, snp: d, microcode: z },
        }
    }

    /// Writes the bytes as this product line orders them, zeros where they are reserved.
    #[must_use]
    pub fn write(self, product: SnpProduct) -> SnpTcbBytes {
        SnpTcbBytes(match product {
            SnpProduct::Milan | SnpProduct::Genoa => {
                [self.boot_loader, self.tee, 0, 0, 0, 0, self.snp, self.microcode]
            }
            SnpProduct::Turin => [self.fmc, self.boot_loader, self.tee, self.snp, 0, 0, 0, self.microcode],
        })
    }

    /// Whether every security version is at least the floor's.
    #[must_use]
    pub fn reaches(&self, floor: &Self) -> bool {
        self.fmc >= floor.fmc
            && self.boot_loader >= floor.boot_loader
            && self.tee >= floor.tee
            && self.snp >= floor.snp
            && self.microcode >= floor.microcode
    }

    /// The parts of a Key Distribution Service address that name this TCB (KDS, "VCEK request").
    pub(super) fn query(&self, product: SnpProduct) -> String {
        let Self { fmc, boot_loader, tee, snp, microcode } = self;
        let rest = format!("blSPL={boot_loader:02}&teeSPL={tee:02}&snpSPL={snp:02}&ucodeSPL={microcode:02}");
        if product == SnpProduct::Turin { format!("fmcSPL={fmc:02}&{rest}") } else { rest }
    }
}

impl std::fmt::Display for SnpTcb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { fmc, boot_loader, tee, snp, microcode } = self;
        write!(f, "FMC {fmc}, boot loader {boot_loader}, TEE {tee}, SNP {snp}, microcode {microcode}")
    }
}
