//! Evidence through a driver that stands in for NVIDIA's: what is passed on, and what is said when something is wrong.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/nvidia.rs"]
mod support;

use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_attest::gpu::GpuEvidence;
use cocoon_attest::{EvidenceKind, GpuSource as _};
use cocoon_tee::nvidia::{DriverGpus, GpuDriver, GpuDriverError, GpuInventory, GpuModes};
use cocoon_tee::simulated::nvidia::SimulatedGpu;
use support::{NONCE, failures, judge, nvidia};

const ON: GpuModes = GpuModes { confidential: true, developer_tools: false, protected_pcie: false };

/// A driver over simulated GPUs.
struct StandIn {
    gpus: Vec<SimulatedGpu>,
    modes: GpuModes,
    /// What the driver says one after the other; after the last, what follows from the GPUs.
    inventories: Mutex<Vec<Result<GpuInventory, GpuDriverError>>>,
    fails: Option<&'static str>,
    nonce: Option<[u8; 32]>,
    pem: fn(&SimulatedGpu) -> Vec<u8>,
}

fn pem(gpu: &SimulatedGpu) -> Vec<u8> {
    let text: String = gpu
        .part(&NONCE)
        .chain
        .iter()
        .map(|der| {
            let body = STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        })
        .collect();
    // The driver counts the text's zero byte.
    [text.as_bytes(), &[0]].concat()
}

fn stand_in(count: u32) -> StandIn {
    StandIn {
        gpus: (0..count).map(|number| nvidia().gpu(number)).collect(),
        modes: ON,
        inventories: Mutex::default(),
        fails: None,
        nonce: None,
        pem,
    }
}

impl StandIn {
    fn now(&self) -> GpuInventory {
        let name = |(number, gpu): (usize, &SimulatedGpu)| {
            (format!("GPU-{number}"), gpu.form.vbios.to_string().to_lowercase())
        };
        GpuInventory {
            driver: "999.00".to_owned(),
            modes: self.modes,
            gpus: self.gpus.iter().enumerate().map(name).collect(),
        }
    }

    /// Says these one after the other, the first one first.
    fn saying(self, inventories: impl IntoIterator<Item = GpuInventory>) -> Self {
        let mut inventories: Vec<_> = inventories.into_iter().map(Ok).collect();
        inventories.reverse();
        *self.inventories.lock().unwrap() = inventories;
        self
    }

    fn answer<T>(&self, what: &'static str, value: T) -> Result<T, GpuDriverError> {
        match self.fails {
            Some(fails) if fails == what => {
                Err(GpuDriverError::Failed { what, reason: "GPU is lost".to_owned() })
            }
            _ => Ok(value),
        }
    }
}

impl GpuDriver for StandIn {
    fn inventory(&self) -> Result<GpuInventory, GpuDriverError> {
        let next = self.inventories.lock().unwrap().pop();
        next.unwrap_or_else(|| self.answer("mode", self.now()))
    }

    fn report(&self, gpu: usize, nonce: &[u8; 32]) -> Result<Vec<u8>, GpuDriverError> {
        self.answer("attestation report", self.gpus[gpu].report(&self.nonce.unwrap_or(*nonce)))
    }

    fn certificate_chain(&self, gpu: usize) -> Result<Vec<u8>, GpuDriverError> {
        self.answer("certificate chain", (self.pem)(&self.gpus[gpu]))
    }
}

fn reason(driver: StandIn) -> String {
    let error = DriverGpus::new(driver).evidence(&NONCE).unwrap_err();
    assert_eq!(error.kind, EvidenceKind::NvidiaGpu);
    error.reason
}

#[test]
fn what_a_driver_hands_out_becomes_evidence_that_verifies() {
    let source = DriverGpus::new(stand_in(8));
    assert!(!source.is_simulated());
    let evidence = source.evidence(&NONCE).unwrap();
    assert_eq!(GpuEvidence::parse(&evidence).unwrap().gpus().len(), 8);
    assert_eq!(failures(&judge(&evidence)), Vec::<&str>::new());
}

#[test]
fn gpus_that_are_not_in_the_right_mode_are_not_shown() {
    let off = GpuModes { confidential: false, ..ON };
    assert!(reason(StandIn { modes: off, ..stand_in(1) }).contains("not in confidential-computing mode"));
    let open = GpuModes { developer_tools: true, ..ON };
    assert!(reason(StandIn { modes: open, ..stand_in(1) }).contains("developer tools"));
    assert_eq!(reason(stand_in(0)), "there is no GPU");
}

#[test]
fn protected_pcie_must_be_said_by_driver_and_gpu_alike() {
    let joined = GpuModes { confidential: false, protected_pcie: true, ..ON };
    assert!(reason(StandIn { modes: joined, ..stand_in(1) }).contains("single passthrough"));
    let mut driver = StandIn { modes: joined, ..stand_in(1) };
    driver.gpus[0].form.mode = 2;
    assert!(DriverGpus::new(driver).evidence(&NONCE).is_ok());
}

#[test]
fn a_driver_that_fails_is_quoted() {
    for fails in ["mode", "attestation report", "certificate chain"] {
        let said = reason(StandIn { fails: Some(fails), ..stand_in(2) });
        assert!(said.ends_with(&format!("cannot say its {fails}: GPU is lost")), "{said}");
    }
    let gone = stand_in(1);
    gone.inventories.lock().unwrap().push(Err(GpuDriverError::NotThere("no such file".to_owned())));
    assert_eq!(reason(gone), "the NVIDIA driver is not there: no such file");
}

#[test]
fn a_report_that_is_not_of_this_nonce_driver_or_firmware_is_not_passed_on() {
    assert!(reason(StandIn { nonce: Some([0; 32]), ..stand_in(1) }).contains("another nonce"));
    let mut driver = stand_in(1);
    driver.gpus[0].form.driver = "998.00".to_owned();
    assert!(reason(driver).contains("the driver says 999.00"));
    let driver = stand_in(2);
    let mut stale = driver.now();
    stale.gpus[1].1 = "96.FF.00.00.00".to_owned();
    assert!(reason(driver.saying(vec![stale; 12])).starts_with("GPU 1: its report is of driver"));
    assert!(reason(StandIn { pem: |_| vec![0xff], ..stand_in(1) }).contains("not PEM"));
    assert!(reason(StandIn { pem: |_| vec![], ..stand_in(1) }).contains("certificates in a chain"));
}

#[test]
fn evidence_is_made_anew_when_gpus_change_meanwhile() {
    let driver = stand_in(2);
    let (now, mut before) = (driver.now(), driver.now());
    before.gpus[1].0 = "GPU-before".to_owned();
    // One GPU is exchanged after the first report; the second attempt sees what is there to stay.
    let driver = driver.saying([before.clone(), before, now]);
    let evidence = DriverGpus::new(driver).evidence(&NONCE).unwrap();
    assert_eq!(GpuEvidence::parse(&evidence).unwrap().gpus().len(), 2);
}

#[test]
fn gpus_that_keep_changing_are_given_up_on() {
    let driver = stand_in(1);
    let changing = (0..20).map(|number| {
        let mut inventory = driver.now();
        inventory.gpus[0].0 = format!("GPU-{number}");
        inventory
    });
    let changing: Vec<_> = changing.collect();
    assert!(reason(driver.saying(changing)).contains("keep changing"));
}

#[cfg(all(feature = "nvml", target_os = "linux"))]
#[test]
fn nvidias_driver_is_opened_or_said_not_to_be_there() {
    match cocoon_tee::nvidia::Nvml::open() {
        Err(error) => assert!(matches!(error, GpuDriverError::NotThere(_)), "{error}"),
        Ok(driver) => {
            let inventory = driver.inventory().unwrap();
            assert!(!inventory.driver.is_empty());
        }
    }
}
