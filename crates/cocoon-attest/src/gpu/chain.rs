//! From the pinned root to the key that signed the report.
//!
//! A chain has five certificates (`MAX_CERT_CHAIN_LENGTH` in `nvtrust`): the firmware's key, which signs reports and
//! which the device itself certifies; the device's key, burnt into it; NVIDIA's authority that provisioned it; the
//! authority for the chip; the root.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::roots::GpuRoots;
use super::spdm::GpuAttestation;
use super::verifier::Links;
use super::x509::Certificate;

/// Certificates in a chain.
const LEN: usize = 5;

/// The certificates of a chain that holds, leaf first. Whether they are valid now or revoked is another question.
///
/// # Errors
/// Says what does not hold.
pub(super) fn verified<'e>(
    chain: &'e [Bytes],
    roots: &GpuRoots,
    links: &mut Links<'e>,
) -> Result<Vec<Certificate<'e>>, String> {
    if chain.len() != LEN {
        return Err(format!("it has {} certificates instead of {LEN}", chain.len()));
    }
    let mut certificates = Vec::with_capacity(LEN);
    for der in chain {
        let certificate = Certificate::parse(der)
            .map_err(|fault| format!("a certificate is malformed at its {}", fault.0))?;
        certificates.push(certificate);
    }
    let [leaf, .., root] = &certificates[..] else { return Err("it is empty".to_owned()) };
    if Sha256::digest(root.key_info)[..] != roots.device[..] {
        return Err(format!("{:?} is not the trusted root", root.common_name()));
    }
    if !leaf.signs_data() {
        return Err(format!("{:?} is not certified to sign reports", leaf.common_name()));
    }
    links.judge(root, root, 0)?;
    // From the top: what was made up by somebody else ends at its first signature.
    let pairs = (0_u8..).zip(certificates.windows(2)).collect::<Vec<_>>();
    for (below, pair) in pairs.into_iter().rev() {
        links.judge(&pair[0], &pair[1], below)?;
    }
    Ok(certificates)
}

/// Whether the leaf's key signed the report.
pub(super) fn signed_report(chain: &[Certificate<'_>], report: &GpuAttestation<'_>) -> bool {
    use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
    chain.first().is_some_and(|leaf| {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, leaf.point)
            .verify(report.signed, report.signature)
            .is_ok()
    })
}

/// The name of the device's key, such as `GH100 A01 GSP BROM`.
pub(super) fn model<'e>(chain: &[Certificate<'e>]) -> &'e str {
    chain.get(1).map(Certificate::common_name).unwrap_or_default()
}

/// The chip: the first word of that name.
pub(super) fn chip<'e>(chain: &[Certificate<'e>]) -> &'e str {
    model(chain).split(' ').next().unwrap_or_default()
}

/// SHA-256 of the device's key.
pub(super) fn device(chain: &[Certificate<'_>]) -> [u8; 32] {
    chain.get(1).map(|device| Sha256::digest(device.key_info).into()).unwrap_or_default()
}

/// The firmware that holds the leaf's key: the report and the leaf must name the same, and the leaf the device that
/// signed it. Firmware that does not name itself in reports (before driver 550) leaves it at what the leaf says.
pub(super) fn firmware(chain: &[Certificate<'_>], reported: Option<&[u8; 48]>) -> Result<String, String> {
    let (leaf, device) = match chain {
        [leaf, device, ..] => (leaf, device),
        _ => return Err("there is no such certificate".to_owned()),
    };
    let certified = leaf.firmware.ok_or("the certificate does not name the firmware")?;
    if certified.device_key.is_some_and(|key| key != device.key_info) {
        return Err("the certificate names another device than the one that signed it".to_owned());
    }
    match reported {
        Some(reported) if *reported != certified.id => {
            Err("the report names other firmware than the certificate".to_owned())
        }
        Some(_) => Ok("report and certificate name the same firmware".to_owned()),
        None => Ok("the certificate names the firmware; the report does not".to_owned()),
    }
}
