//! Where a platform stands: its security versions against the levels that Intel publishes.
//!
//! Source: "Intel TDX DCAP Quoting Library API", "TDX TCB evaluation", and the PCS API's description of TCB
//! information version 3: the platform's level, that of the TDX module, that of the quoting enclave, and for
//! TDX 1.5 once more with the versions of now.

use std::cmp::Reverse;

use dcap_qvl::intel::PckExtension;
use dcap_qvl::{QeIdentity, TcbInfo, TcbStatusWithAdvisory};

use super::collateral::time;
use super::policy::TcbStatus;
use super::quote::TdxMeasurements;
use crate::UnixSeconds;

/// Where the platform stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) status: TcbStatus,
    /// The oldest date of the levels it has.
    pub(super) tcb_date: UnixSeconds,
    pub(super) advisories: Vec<String>,
}

/// Finds where the platform stands.
///
/// # Errors
/// It has no level at all: older than anything published, or of another kind.
pub(super) fn standing(
    info: &TcbInfo,
    identity: &QeIdentity,
    pck: &PckExtension,
    qe_svn: u16,
    measurements: &TdxMeasurements,
) -> Result<Standing, String> {
    let enclave = identity
        .tcb_levels
        .iter()
        .filter(|level| level.tcb.isvsvn <= qe_svn)
        .max_by_key(|level| level.tcb.isvsvn)
        .ok_or("the quoting enclave is older than anything Intel publishes")?;
    let enclave_date = time(&enclave.tcb_date, "TCB date")?;
    let enclave = TcbStatusWithAdvisory::new(enclave.tcb_status, enclave.advisory_ids.clone());

    let (launched, mut tcb_date) = level(info, pck, &measurements.tee_tcb_svn)?;
    tcb_date = tcb_date.min(enclave_date);
    let launched = launched.merge(&enclave);
    let mut status = TcbStatus::from(launched.status);
    let mut advisories = launched.advisory_ids;
    if let Some(td15) = measurements.td15 {
        let (current, _date) = level(info, pck, &td15.tee_tcb_svn2)?;
        let current = TcbStatus::from(current.merge(&enclave).status);
        status = with_current(status, current);
    }
    advisories.sort();
    Ok(Standing { status, tcb_date, advisories })
}

/// The level of platform and TDX module together with these versions, and the older of their dates.
fn level(
    info: &TcbInfo,
    pck: &PckExtension,
    svn: &[u8; 16],
) -> Result<(TcbStatusWithAdvisory, UnixSeconds), String> {
    let mut levels: Vec<_> = info.tcb_levels.iter().collect();
    levels.sort_by_key(|level| {
        let tcb = &level.tcb;
        Reverse((&tcb.sgx_components, tcb.pce_svn, &tcb.tdx_components))
    });
    let (mut found, mut lacking) = (None, Vec::new());
    for level in levels {
        let shortfalls = level
            .shortfalls(&pck.cpu_svn, pck.pce_svn, Some(svn))
            .map_err(|error| format!("a TCB level is not understood: {error}"))?;
        if shortfalls.is_empty() {
            found = Some(level);
            break;
        }
        lacking = shortfalls;
    }
    // Of the lowest level, which comes last.
    let lacking =
        lacking.iter().map(|short| format!("{:?} is {} of {}", short.component, short.have, short.needs));
    let platform = found.ok_or_else(|| {
        let lacking = lacking.collect::<Vec<_>>().join(", ");
        format!("the platform is older than anything Intel publishes: {lacking}")
    })?;
    let mut date = time(&platform.tcb_date, "TCB date")?;
    let mut status = TcbStatusWithAdvisory::new(platform.tcb_status, platform.advisory_ids.clone());

    let identity =
        info.tdx_module_identity(svn).map_err(|_| format!("Intel publishes no TDX module {}", svn[1]))?;
    if let Some(identity) = identity {
        let module = identity
            .tcb_levels
            .iter()
            .filter(|level| level.shortfall(svn).is_none())
            .max_by_key(|level| level.tcb.isvsvn)
            .ok_or("the TDX module is older than anything Intel publishes")?;
        date = date.min(time(&module.tcb_date, "TCB date")?);
        status = status.merge(&TcbStatusWithAdvisory::new(module.tcb_status, module.advisory_ids.clone()));
    }
    Ok((status, date))
}

/// What it means that a trust domain was launched in one state and is in another now.
fn with_current(launched: TcbStatus, current: TcbStatus) -> TcbStatus {
    use TcbStatus::{
        ConfigurationAndSWHardeningNeeded, ConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded,
        Revoked, SWHardeningNeeded, TDRelaunchAdvised, TDRelaunchAdvisedConfigurationNeeded, UpToDate,
    };
    match (launched, current) {
        (Revoked, _) | (_, Revoked) => Revoked,
        (OutOfDate, UpToDate | SWHardeningNeeded) => TDRelaunchAdvised,
        (OutOfDate, ConfigurationNeeded | ConfigurationAndSWHardeningNeeded)
        | (
            OutOfDateConfigurationNeeded,
            UpToDate | SWHardeningNeeded | ConfigurationNeeded | ConfigurationAndSWHardeningNeeded,
        ) => TDRelaunchAdvisedConfigurationNeeded,
        _ => launched,
    }
}

/// Whether the TDX module is signed by whom Intel's collateral says, with the attributes it says.
///
/// # Errors
/// It is not, or the collateral does not say.
pub(super) fn check_module(info: &TcbInfo, measurements: &TdxMeasurements) -> Result<String, String> {
    let version = measurements.tee_tcb_svn[1];
    let identity = info
        .tdx_module_identity(&measurements.tee_tcb_svn)
        .map_err(|_| format!("Intel publishes no TDX module {version}"))?;
    let (signer, attributes, mask) = match (identity, &info.tdx_module) {
        (Some(identity), _) => (&identity.mrsigner, &identity.attributes, &identity.attributes_mask),
        (None, Some(module)) => (&module.mrsigner, &module.attributes, &module.attributes_mask),
        (None, None) => return Err("the TCB information names no TDX module".to_owned()),
    };
    let signer: [u8; 48] = fixed(signer)?;
    let (attributes, mask) = (u64::from_le_bytes(fixed(attributes)?), u64::from_le_bytes(fixed(mask)?));
    if measurements.mr_signer_seam != signer {
        return Err("the TDX module is signed by another than Intel says".to_owned());
    }
    // Bits that Intel's mask leaves out must be zero: nobody vouches for what they would mean.
    let own = u64::from_le_bytes(measurements.seam_attributes);
    if own & mask != attributes & mask || own & !mask != 0 {
        return Err(format!("the TDX module's attributes are {own:#x}, not those Intel says"));
    }
    Ok(format!("module {version}, {}, signed by Intel", hex::encode(measurements.mr_seam)))
}

fn fixed<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| "a TDX module's identity is not understood")?;
    Ok(bytes)
}
