//! NVIDIA's own driver, through its management library NVML.
//!
//! The library comes with the driver and is opened when it is first needed, so a node runs without it. All calls go
//! through `nvml-wrapper`; nothing here is unsafe.

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml as Library};

use super::{GpuDriver, GpuDriverError, GpuInventory, GpuModes};

/// Most GPUs looked at; evidence takes no more.
const MAX_GPUS: u32 = 16;

/// The driver of this machine.
#[derive(Debug)]
pub struct Nvml {
    library: Library,
}

impl Nvml {
    /// Opens the library.
    ///
    /// # Errors
    /// There is none, or its driver does not run.
    pub fn open() -> Result<Self, GpuDriverError> {
        // The name without number is there for those who build programs only; drivers install the other.
        let library = Library::builder().lib_path("libnvidia-ml.so.1".as_ref()).init();
        library.map(|library| Self { library }).map_err(|error| GpuDriverError::NotThere(error.to_string()))
    }

    fn device(&self, gpu: usize) -> Result<Device<'_>, GpuDriverError> {
        let number = u32::try_from(gpu).unwrap_or(u32::MAX);
        self.library.device_by_index(number).map_err(failed("GPU"))
    }

    fn modes(device: &Device<'_>) -> Result<GpuModes, NvmlError> {
        Ok(GpuModes {
            confidential: device.is_cc_enabled()?,
            developer_tools: device.is_cc_dev_mode_enabled()?,
            protected_pcie: device.is_multi_gpu_protected_pcie_enabled()?,
        })
    }
}

fn failed(what: &'static str) -> impl Fn(NvmlError) -> GpuDriverError {
    move |error| GpuDriverError::Failed { what, reason: error.to_string() }
}

/// An answer of variable length. The wrapper takes the length that the driver says without looking, and panics where
/// that is more than there is room for; a driver must not end the process.
fn within_its_room(
    what: &'static str,
    ask: impl FnOnce() -> Result<Vec<u8>, NvmlError>,
) -> Result<Vec<u8>, GpuDriverError> {
    let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(ask));
    let too_long =
        || GpuDriverError::Failed { what, reason: "the answer is longer than its room".to_owned() };
    answer.map_err(|_| too_long())?.map_err(failed(what))
}

impl GpuDriver for Nvml {
    fn inventory(&self) -> Result<GpuInventory, GpuDriverError> {
        let driver = self.library.sys_driver_version().map_err(failed("version"))?;
        let count = self.library.device_count().map_err(failed("number of GPUs"))?.min(MAX_GPUS);
        let mut modes = GpuModes { confidential: false, developer_tools: false, protected_pcie: false };
        let mut gpus = Vec::new();
        for number in 0..count {
            let device = self.library.device_by_index(number).map_err(failed("GPU"))?;
            if number == 0 {
                modes = match Self::modes(&device) {
                    Ok(modes) => modes,
                    // Older GPUs and drivers do not know such modes.
                    Err(
                        NvmlError::NotSupported
                        | NvmlError::FunctionNotFound
                        | NvmlError::FailedToLoadSymbol(_),
                    ) => modes,
                    Err(error) => return Err(failed("mode")(error)),
                };
            }
            let uuid = device.uuid().map_err(failed("GPU's UUID"))?;
            gpus.push((uuid, device.vbios_version().map_err(failed("VBIOS version"))?));
        }
        Ok(GpuInventory { driver, modes, gpus })
    }

    fn report(&self, gpu: usize, nonce: &[u8; 32]) -> Result<Vec<u8>, GpuDriverError> {
        let device = self.device(gpu)?;
        within_its_room("attestation report", || {
            device.confidential_compute_gpu_attestation_report(*nonce).map(|report| report.attestation_report)
        })
    }

    fn certificate_chain(&self, gpu: usize) -> Result<Vec<u8>, GpuDriverError> {
        let device = self.device(gpu)?;
        within_its_room("certificate chain", || {
            device.confidential_compute_gpu_certificate().map(|chain| chain.attestation_cert_chain)
        })
    }
}
