//! Sealed keys of an SEV-SNP guest: derived by the secure processor.
//!
//! # What the key is bound to, and why
//! The ABI's `MSG_KEY_REQ` lets the guest choose what is mixed in; here it is:
//!
//! - **The chip**, by deriving from the VCEK's secret. `KEY_SEL` says so outright: left at zero, a processor with a cloud
//!   provider's VLEK would derive from that, and all the provider's machines would make the same key. Firmware from before
//!   there were VLEKs does not know the field and refuses; it is too old to be trusted. The VM root key (VMRK), the other
//!   choice, is a new one at every launch.
//! - **The launch measurement**: another image gets another key.
//! - **The guest policy**, which is not measured: else the host could start the same image with debugging allowed, and
//!   read the key from memory.
//! - **The TCB version**, the [`KeyVersion`]. The firmware refuses versions above its committed one, so older firmware
//!   cannot make the key of newer one, and newer firmware can make that of older one. Files sealed before an update stay
//!   readable, and are to be sealed anew after it; without this bit an update would lose nothing either, but a host that
//!   goes back to firmware with a hole would get the key.
//! - **The privilege level** of the report.
//!
//! Not chosen are the identity block's family, image and security version: they change when an image is signed anew,
//! and the measurement says which image it is. Host data cannot be chosen, though they may be the image's configuration;
//! so they are mixed in here, in software, which is as good: the software that does it is measured.
//!
//! What AMD's text leaves open: a VCEK is itself made for a TCB version, and it does not say that a key derived "from the
//! VCEK" with an older TCB version mixed in comes from the VCEK of that older version. Others who rely on it find that
//! it does, but it has not been tried here on hardware. Should it not, then an update of the firmware loses what was sealed
//! before: try it on the machines that you have, and keep what must not be lost a second time elsewhere.
//!
//! All virtual machines with the same image, policy and host data on one machine get the same key.

use std::fs::{File, OpenOptions};
use std::io;

use cocoon_attest::ReportData;
use cocoon_attest::snp::SnpReport;
use cocoon_sev_guest::{IoctlError, KeyRequest, RESPONSE_LEN};
use zeroize::Zeroizing;

use super::{KeyVersion, SealingError, SealingKey, expand};
use crate::configfs::{ConfigfsTsm, SnpMachine};

/// Linux's device for questions to the secure processor.
const DEVICE: &str = "/dev/sev-guest";
/// `ROOT_KEY_SELECT` 0 (VCEK, not VMRK) and `KEY_SEL` 1 (VCEK, not VLEK).
const FROM_VCEK: u32 = 1 << 1;
/// `GUEST_FIELD_SELECT`: guest policy, measurement, TCB version.
const BOUND_TO: u64 = 1 | 1 << 3 | 1 << 5;
/// Statuses of `MSG_KEY_RSP`.
const INVALID_PARAMETERS: u32 = 0x16;
const INVALID_KEY: u32 = 0x27;

/// What answers `MSG_KEY_REQ`; behind a trait for the tests.
trait KeyDevice: Send + Sync {
    fn ask(&self, request: &KeyRequest) -> Result<Zeroizing<[u8; RESPONSE_LEN]>, IoctlError>;
}

impl KeyDevice for File {
    fn ask(&self, request: &KeyRequest) -> Result<Zeroizing<[u8; RESPONSE_LEN]>, IoctlError> {
        cocoon_sev_guest::derive_key(self, request)
    }
}

/// The keys of this SEV-SNP guest.
pub struct SnpSealing {
    device: Box<dyn KeyDevice>,
    report: SnpReport,
}

impl SnpSealing {
    /// The keys of the guest that this process runs in. Asks for a report, to know the committed TCB and the host data.
    ///
    /// # Errors
    /// There is no report, or `/dev/sev-guest` cannot be opened.
    pub fn open(tsm: &ConfigfsTsm) -> Result<Self, SealingError> {
        // Nobody else sees this report; random data tell it from any other.
        let mut data = ReportData([0; ReportData::LEN]);
        rand::fill(&mut data.0);
        let (report, _evidence) = SnpMachine::new(tsm.clone()).report(&data)?;
        let device =
            OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| unusable(&error))?;
        Ok(Self { device: Box::new(device), report })
    }
}

impl SealingKey for SnpSealing {
    fn version(&self) -> Result<KeyVersion, SealingError> {
        Ok(KeyVersion(u64::from_le_bytes(self.report.committed_tcb.0)))
    }

    fn derive(&self, label: &str, version: KeyVersion) -> Result<Zeroizing<[u8; 32]>, SealingError> {
        let request = KeyRequest {
            root_key_select: FROM_VCEK,
            guest_field_select: BOUND_TO,
            vmpl: self.report.vmpl,
            guest_svn: 0,
            tcb_version: version.0,
        };
        let response = self.device.ask(&request).map_err(|failure| unusable(&failure.error))?;
        let [s0, s1, s2, s3, ..] = *response;
        let status = u32::from_le_bytes([s0, s1, s2, s3]);
        let secret = &response[32..];
        if status != 0 || secret.iter().all(|byte| *byte == 0) {
            return Err(SealingError::Firmware { status, mend: mend(status) });
        }
        expand(secret, &self.report.host_data, label)
    }

    fn is_simulated(&self) -> bool {
        false
    }
}

fn mend(status: u32) -> &'static str {
    match status {
        INVALID_PARAMETERS => {
            "the file was sealed under newer firmware than the machine's committed one, which must then be brought back; or \
             the firmware is too old to choose between VCEK and VLEK, and must be updated"
        }
        INVALID_KEY => {
            "the host has switched the chip's own key (VCEK) off; keys are only made from that one"
        }
        _ => "see the status in AMD 56860, and `dmesg`",
    }
}

fn unusable(error: &io::Error) -> SealingError {
    let mend = match error.kind() {
        io::ErrorKind::NotFound => "load the driver (`modprobe sev-guest`) in an SEV-SNP guest",
        io::ErrorKind::PermissionDenied => {
            "run as root, or let the service's start make it accessible to its user"
        }
        _ => {
            "see `dmesg`; after an error the guest's channel to the secure processor stays shut until it starts anew"
        }
    };
    SealingError::Device { device: DEVICE, kind: error.kind(), mend }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use cocoon_attest::snp::{SnpProduct, SnpTcbBytes};
    use sha2::{Digest as _, Sha256};

    use super::super::{open, seal};
    use super::*;
    use crate::simulated::snp::SimulatedSnp;

    /// A secure processor: its chip, the guest that asks, and how new its firmware is.
    #[derive(Clone)]
    struct Chip {
        number: u8,
        measurement: [u8; 48],
        policy: u64,
        committed: u64,
        status: u32,
        asked: Arc<Mutex<Vec<KeyRequest>>>,
    }

    impl KeyDevice for Chip {
        fn ask(&self, request: &KeyRequest) -> Result<Zeroizing<[u8; RESPONSE_LEN]>, IoctlError> {
            self.asked.lock().unwrap().push(*request);
            let mut response = Zeroizing::new([0; RESPONSE_LEN]);
            let too_new = request.tcb_version > self.committed;
            let status = if too_new { INVALID_PARAMETERS } else { self.status };
            response[..4].copy_from_slice(&status.to_le_bytes());
            if status == 0 {
                let key = Sha256::new_with_prefix([self.number])
                    .chain_update(self.measurement)
                    .chain_update(self.policy.to_le_bytes())
                    .chain_update(request.tcb_version.to_le_bytes())
                    .finalize();
                response[32..].copy_from_slice(&key);
            }
            Ok(response)
        }
    }

    fn report() -> SnpReport {
        SimulatedSnp::new(SnpProduct::Turin, &[7; 32], b"image").report
    }

    fn chip() -> Chip {
        let report = report();
        Chip {
            number: 1,
            measurement: report.measurement,
            policy: report.policy,
            committed: u64::from_le_bytes(report.committed_tcb.0),
            status: 0,
            asked: Arc::default(),
        }
    }

    fn sealing(chip: &Chip) -> SnpSealing {
        let report = SnpReport { committed_tcb: SnpTcbBytes(chip.committed.to_le_bytes()), ..report() };
        SnpSealing { device: Box::new(chip.clone()), report }
    }

    #[test]
    fn the_key_asked_for_is_bound_to_chip_measurement_policy_and_tcb() {
        let chip = chip();
        let key = sealing(&chip);
        let version = key.version().unwrap();
        key.derive("wallet", version).unwrap();
        let expected = KeyRequest {
            root_key_select: 0b010,
            guest_field_select: 0b10_1001,
            vmpl: 0,
            guest_svn: 0,
            tcb_version: chip.committed,
        };
        assert_eq!(*chip.asked.lock().unwrap(), [expected]);
    }

    #[test]
    fn another_chip_image_policy_host_data_or_label_gets_another_key() {
        let chip = chip();
        let version = sealing(&chip).version().unwrap();
        let key = |chip: &Chip, label| sealing(chip).derive(label, version).unwrap();
        let mine = key(&chip, "wallet");
        assert_eq!(mine, key(&chip, "wallet"), "the same after a restart");
        let others = [
            key(&Chip { number: 2, ..chip.clone() }, "wallet"),
            key(&Chip { measurement: [9; 48], ..chip.clone() }, "wallet"),
            key(&Chip { policy: 1 << 17 | 1 << 19, ..chip.clone() }, "wallet"),
            key(&chip, "disk"),
        ];
        assert!(others.iter().all(|other| *other != mine));
        let mut configured = sealing(&chip);
        configured.report.host_data = [1; 32];
        assert_ne!(configured.derive("wallet", version).unwrap(), mine);
    }

    #[test]
    fn a_firmware_update_keeps_the_key_and_going_back_loses_it() {
        let old = chip();
        let new = Chip { committed: old.committed + 1, ..old.clone() };
        let sealed_by_old = seal(&sealing(&old), "wallet", b"a key").unwrap();
        let opened = open(&sealing(&new), "wallet", &sealed_by_old).unwrap();
        assert_eq!(*opened.plaintext, b"a key");
        assert!(opened.outdated, "to be sealed anew");
        let sealed_by_new = seal(&sealing(&new), "wallet", &opened.plaintext).unwrap();
        assert!(!open(&sealing(&new), "wallet", &sealed_by_new).unwrap().outdated);
        let refused = open(&sealing(&old), "wallet", &sealed_by_new).unwrap_err();
        assert!(matches!(refused, SealingError::Firmware { status: INVALID_PARAMETERS, .. }), "{refused}");
    }

    #[test]
    fn a_refusal_is_no_key_whatever_else_the_answer_holds() {
        for status in [INVALID_PARAMETERS, INVALID_KEY, 1, u32::MAX] {
            let chip = Chip { status, ..chip() };
            let refused = seal(&sealing(&chip), "wallet", b"").unwrap_err();
            assert!(matches!(refused, SealingError::Firmware { status: told, .. } if told == status));
        }
    }

    #[test]
    fn a_key_of_zeros_is_no_key() {
        struct Zeros;
        impl KeyDevice for Zeros {
            fn ask(&self, _request: &KeyRequest) -> Result<Zeroizing<[u8; RESPONSE_LEN]>, IoctlError> {
                Ok(Zeroizing::new([0; RESPONSE_LEN]))
            }
        }
        let key = SnpSealing { device: Box::new(Zeros), report: report() };
        assert!(key.derive("wallet", KeyVersion(0)).is_err());
    }

    #[test]
    fn a_device_that_is_none_says_what_to_do() {
        let key = SnpSealing { device: Box::new(File::open("/dev/null").unwrap()), report: report() };
        let error = key.derive("wallet", KeyVersion(0)).unwrap_err();
        assert!(matches!(error, SealingError::Device { device: DEVICE, .. }), "{error}");
        assert!(unusable(&io::ErrorKind::NotFound.into()).to_string().contains("modprobe sev-guest"));
    }
}
