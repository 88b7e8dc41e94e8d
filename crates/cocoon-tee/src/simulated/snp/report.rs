//! Writes a report's bytes (AMD 56860, "ATTESTATION_REPORT Structure").

use cocoon_attest::snp::{SnpFirmware, SnpReport, SnpSigningKey};

/// The report's signed part with zeros where the signature goes. Fields that the version does not have are left
/// zero. Any field may hold anything: it is for verifiers to refuse what no firmware would write.
#[must_use]
pub fn encode_report(report: &SnpReport) -> [u8; SnpReport::LEN] {
    let flags = u32::from(report.author_key_enabled)
        | u32::from(report.chip_key_masked) << 1
        | match report.signing_key {
            SnpSigningKey::Vcek => 0,
            SnpSigningKey::Vlek => 1 << 2,
            SnpSigningKey::None => 7 << 2,
        };
    let firmware = |version: SnpFirmware| [version.build, version.minor, version.major, 0];
    let fields: [(usize, &[u8]); 26] = [
        (0x000, &report.version.to_le_bytes()),
        (0x004, &report.guest_svn.to_le_bytes()),
        (0x008, &report.policy.to_le_bytes()),
        (0x010, &report.family_id),
        (0x020, &report.image_id),
        (0x030, &report.vmpl.to_le_bytes()),
        // ECDSA on P-384 with SHA-384.
        (0x034, &[1, 0, 0, 0]),
        (0x038, &report.current_tcb.0),
        (0x040, &report.platform_info.to_le_bytes()),
        (0x048, &flags.to_le_bytes()),
        (0x050, &report.report_data.0),
        (0x090, &report.measurement),
        (0x0c0, &report.host_data),
        (0x0e0, &report.id_key_digest),
        (0x110, &report.author_key_digest),
        (0x140, &report.report_id),
        (0x160, &report.report_id_ma),
        (0x180, &report.reported_tcb.0),
        (0x188, &report.cpuid.unwrap_or_default()),
        (0x1a0, &report.chip_id),
        (0x1e0, &report.committed_tcb.0),
        (0x1e8, &firmware(report.current_firmware)),
        (0x1ec, &firmware(report.committed_firmware)),
        (0x1f0, &report.launch_tcb.0),
        (0x1f8, &report.launch_mitigations.unwrap_or_default().to_le_bytes()),
        (0x200, &report.current_mitigations.unwrap_or_default().to_le_bytes()),
    ];
    let mut bytes = [0; SnpReport::LEN];
    for (at, field) in fields {
        bytes[at..at + field.len()].copy_from_slice(field);
    }
    bytes
}
