//! A simulated GPU: its keys, its report.

use std::collections::BTreeMap;

use bytes::Bytes;
use cocoon_attest::gpu::{GpuPart, VbiosVersion};
use sha2::{Digest as _, Sha384};

use super::super::der::{INTEGER, OCTET_STRING, OID, sequence, tlv};
use super::manifest::{self, DRIVER, VBIOS};
use super::{Identity, Profile, SimulatedNvidia, TestKey};

/// 2.23.133.5.4.1: the device's key and the firmware it vouches for, as in Hopper's certificates.
const COMPOSITE_DEVICE_ID: &[u8] = &[0x67, 0x81, 0x05, 0x05, 0x04, 0x01];
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];

/// The first byte of devices' serial numbers.
pub(super) const DEVICE: u8 = 0x41;

/// What a report says besides its nonce. Fields may be set at will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuForm {
    /// The driver's version.
    pub driver: String,
    /// The firmware's version.
    pub vbios: VbiosVersion,
    /// Measurements, counted from 0.
    pub measurements: BTreeMap<u8, [u8; 48]>,
    /// SHA-384 of the firmware that holds the attestation key.
    pub firmware_id: [u8; 48],
    /// Whether the first video decoder is on.
    pub video_decoder: bool,
    /// The feature flag: 0 for single passthrough, 1 for multiple, 2 for protected PCIe.
    pub mode: u16,
    /// The version of the opaque data.
    pub opaque_version: u16,
}

/// A GPU.
#[derive(Clone)]
pub struct SimulatedGpu {
    /// What its reports say.
    pub form: GpuForm,
    /// The key that signs reports, and the device that certified it.
    pub firmware: Identity,
    /// The key that is burnt in.
    pub device: Identity,
    /// Provisioner, authority for the chip, root; DER.
    pub authorities: Vec<Bytes>,
}

impl SimulatedGpu {
    pub(super) fn new(seed: &[u8; 32], nvidia: &SimulatedNvidia, number: u32) -> Self {
        let key = |name: &str| TestKey::derive(seed, &format!("simulated GPU {number}: {name}"));
        // Nine bytes, as devices have.
        let serial = [&[DEVICE, 0, 0, 0, 0][..], &number.to_be_bytes()].concat();
        let [root, chip, provisioner] = nvidia.device_authorities();
        let device = provisioner.issue(key("device"), Profile::authority("GH100 A01 GSP BROM", &serial));
        let firmware_id: [u8; 48] = Sha384::digest(b"simulated firmware").into();
        let firmware = certify_firmware(&device, key("firmware"), &firmware_id);
        let authorities = [provisioner, chip, root];
        Self {
            form: GpuForm {
                driver: DRIVER.to_owned(),
                vbios: VBIOS,
                measurements: manifest::measured(),
                firmware_id,
                video_decoder: true,
                mode: 0,
                opaque_version: 1,
            },
            firmware,
            device,
            authorities: authorities.map(|identity| Bytes::copy_from_slice(identity.certificate())).to_vec(),
        }
    }

    /// The report that signs this nonce.
    #[must_use]
    pub fn report(&self, nonce: &[u8; 32]) -> Vec<u8> {
        // Version 1.1, GET_MEASUREMENTS, with signature, all of them; slot 0.
        let mut report = [&[0x11, 0xe0, 1, 0xff][..], nonce, &[0]].concat();
        let mut record = Vec::new();
        for (index, digest) in &self.form.measurements {
            // DMTF's form; a digest of firmware.
            record.extend([index.saturating_add(1), 1, 51, 0, 1, 48, 0]);
            record.extend(digest);
        }
        let count = u8::try_from(self.form.measurements.len()).unwrap_or(u8::MAX);
        let [low, middle, high, ..] = record.len().to_le_bytes();
        report.extend([0x11, 0x60, 0, 0, count, low, middle, high]);
        report.extend(record);
        // The responder's nonce, which is random in real ones.
        report.extend(&Sha384::digest(nonce)[..32]);
        let opaque = self.opaque();
        report.extend(short(opaque.len()));
        report.extend(opaque);
        let signature = self.firmware.key().sign(&report);
        report.extend(signature);
        report
    }

    /// The GPU's part of evidence for this nonce.
    #[must_use]
    pub fn part(&self, nonce: &[u8; 32]) -> GpuPart {
        let own = [&self.firmware, &self.device];
        let own = own.map(|identity| Bytes::copy_from_slice(identity.certificate()));
        GpuPart {
            report: self.report(nonce).into(),
            chain: own.into_iter().chain(self.authorities.iter().cloned()).collect(),
        }
    }

    /// The same GPU with other firmware, certified by its device.
    #[must_use]
    pub fn with_firmware(mut self, key: TestKey, firmware_id: [u8; 48]) -> Self {
        self.firmware = certify_firmware(&self.device, key, &firmware_id);
        self.form.firmware_id = firmware_id;
        self
    }

    /// The opaque data, field by field in the order of Hopper's.
    fn opaque(&self) -> Vec<u8> {
        let form = &self.form;
        let [a, b, c, d, e] = form.vbios.0;
        let driver = [form.driver.as_bytes(), &[0]].concat();
        let counts: Vec<u8> = (0_u8..64)
            .flat_map(|index| u32::from(form.measurements.contains_key(&index)).to_le_bytes())
            .collect();
        let decoder = if form.video_decoder { 0xaa } else { 0x55 };
        let protected = if form.mode == 2 { 0xaa } else { 0x55 };
        let fields: [(u16, &[u8]); 16] = [
            (6, &[d, c, b, a, e, 0, 0, 0]),
            (14, &[0xb1, 3, 0, 0]),
            (15, b"882\0\0\0\0\0\0"),
            (16, b"0\0\0\0\0"),
            (17, b"SIM0\0"),
            (18, b"0200\0"),
            (19, b"\0\0"),
            (3, &driver),
            (4, &[0x80, 1, 0, 0, 0, 0, 0, 0]),
            (12, &counts),
            (13, &[0, 0xc0, 1, 0]),
            (11, &[decoder]),
            (20, &form.firmware_id),
            (21, &[protected]),
            (34, &form.opaque_version.to_le_bytes()),
            (36, &form.mode.to_le_bytes()),
        ];
        let written = fields.map(|(id, value)| [&id.to_le_bytes()[..], &short(value.len()), value].concat());
        written.concat()
    }
}

fn certify_firmware(device: &Identity, key: TestKey, firmware_id: &[u8; 48]) -> Identity {
    let digest = sequence(&[&tlv(OID, SHA384), &tlv(OCTET_STRING, firmware_id)]);
    let value = sequence(&[&[INTEGER, 1, 1], &device.key().info(), &digest]);
    let serial = Sha384::digest(key.point());
    let mut profile = Profile::signer("GH100 A01 GSP FMC LF", &[&[0x53], &serial[..19]].concat());
    profile.extensions.push((COMPOSITE_DEVICE_ID.to_vec(), value));
    device.issue(key, profile)
}

/// A length that nothing here brings beyond two bytes, little-endian.
fn short(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes()
}
