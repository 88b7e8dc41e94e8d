//! What the report says against what the policy demands.

use std::collections::BTreeSet;

use super::policy::SnpPolicy;
use super::product::{SnpChip, SnpProduct, SnpTcb};
use super::report::{SnpReport, platform_bit, policy_bit};
use super::verifier::record;
use crate::{Outcome, ReportData, Verdict};

/// Records every check of the report's contents.
pub(super) fn report(
    verdict: &mut Verdict,
    report: &SnpReport,
    product: Option<SnpProduct>,
    policy: &SnpPolicy,
    binding: &ReportData,
) {
    let holds = |holds: bool, found: String| if holds { Ok(found) } else { Err(found) };
    let bound = report.report_data == *binding;
    let found = if bound { "the report data are the expected ones" } else { "the report data are others" };
    record(verdict, "binding", holds(bound, found.to_owned()));
    let vmpl = report.vmpl;
    let found = format!("asked for at privilege level {vmpl}");
    record(verdict, "vmpl", holds(policy.vmpls.contains(&vmpl), found));
    record(verdict, "debug", debug(report));
    record(verdict, "migration", migration(report));
    record(verdict, "guest_policy", guest_policy(report, policy));
    record(verdict, "platform", platform(report, policy));
    match product {
        Some(product) => {
            record(verdict, "tcb_order", tcb_order(report, product));
            record(verdict, "tcb_floor", tcb_floor(report, product, policy));
        }
        None => {
            for name in ["tcb_order", "tcb_floor"] {
                verdict.record(name, Outcome::Skipped, "the product line is not known");
            }
        }
    }
    record(verdict, "firmware", firmware(report, policy));
    record(verdict, "mitigations", mitigations(report, policy));
    record(verdict, "measurement", listed(&report.measurement, policy.measurements.as_ref()));
    record(verdict, "host_data", listed(&report.host_data, policy.host_data.as_ref()));
    record(verdict, "id_key", listed(&report.id_key_digest, policy.id_keys.as_ref()));
    record(verdict, "author_key", author_key(report, policy));
    let (svn, least) = (report.guest_svn, policy.min_guest_svn);
    record(verdict, "guest_svn", holds(svn >= least, format!("{svn}, at least {least} is asked for")));
}

fn debug(report: &SnpReport) -> Result<String, String> {
    if report.policy & policy_bit::DEBUG == 0 {
        Ok("the host may not debug the guest".to_owned())
    } else {
        Err("the host may debug the guest, and so read its memory".to_owned())
    }
}

fn migration(report: &SnpReport) -> Result<String, String> {
    if report.policy & policy_bit::MIGRATE_MA != 0 {
        Err("a migration agent may take the guest elsewhere".to_owned())
    } else if report.report_id_ma != [0xff; 32] {
        Err("a migration agent is associated with the guest".to_owned())
    } else {
        Ok("there is no migration agent, and may be none".to_owned())
    }
}

fn guest_policy(report: &SnpReport, policy: &SnpPolicy) -> Result<String, String> {
    let bits = report.policy;
    let on = |bit: u64| bits & bit != 0;
    let faults = [
        (!on(policy_bit::ALWAYS_ONE), "its reserved bit 17 is not set"),
        (bits & !policy_bit::KNOWN != 0, "it has bits that are not known here"),
        (on(policy_bit::SMT) && !policy.allow_smt, "it allows hyper-threading"),
        (on(policy_bit::CXL_ALLOW) && !policy.allow_cxl, "it allows memory behind CXL"),
        (!on(policy_bit::SINGLE_SOCKET) && policy.require_single_socket, "it allows several sockets"),
        (!on(policy_bit::MEM_AES_256_XTS) && policy.require_aes_256_xts, "it does not insist on AES-256-XTS"),
        (!on(policy_bit::RAPL_DIS) && policy.require_rapl_disabled, "it allows power metering"),
        (
            !on(policy_bit::CIPHERTEXT_HIDING) && policy.require_ciphertext_hiding,
            "it does not insist on hidden ciphertext",
        ),
    ];
    first_fault(&faults).map_or_else(
        || {
            let names = [
                (policy_bit::SMT, "hyper-threading allowed"),
                (policy_bit::SINGLE_SOCKET, "one socket"),
                (policy_bit::CXL_ALLOW, "CXL allowed"),
                (policy_bit::MEM_AES_256_XTS, "AES-256-XTS"),
                (policy_bit::RAPL_DIS, "no power metering"),
                (policy_bit::CIPHERTEXT_HIDING, "ciphertext hidden"),
                (policy_bit::PAGE_SWAP_DISABLE, "no page swapping"),
            ];
            Ok(format!("{bits:#x}: {}", set_bits(bits, &names)))
        },
        |fault| Err(format!("{bits:#x}: {fault}")),
    )
}

fn platform(report: &SnpReport, policy: &SnpPolicy) -> Result<String, String> {
    let bits = report.platform_info;
    let off = |bit: u64| bits & bit == 0;
    let faults = [
        (!off(platform_bit::SMT) && !policy.allow_smt, "hyper-threading is on"),
        (off(platform_bit::ECC) && policy.require_ecc, "memory is not known to have error correction"),
        (off(platform_bit::RAPL_DIS) && policy.require_rapl_disabled, "power metering is on"),
        (
            off(platform_bit::CIPHERTEXT_HIDING) && policy.require_ciphertext_hiding,
            "ciphertext is not hidden",
        ),
        (
            off(platform_bit::ALIAS_CHECK) && policy.require_alias_check,
            "memory is not known to be free of aliases",
        ),
    ];
    first_fault(&faults).map_or_else(
        || {
            let names = [
                (platform_bit::SMT, "hyper-threading"),
                (platform_bit::TSME, "TSME"),
                (platform_bit::ECC, "ECC"),
                (platform_bit::RAPL_DIS, "no power metering"),
                (platform_bit::CIPHERTEXT_HIDING, "ciphertext hidden"),
                (platform_bit::ALIAS_CHECK, "no memory aliases"),
                (platform_bit::TIO, "trusted devices"),
            ];
            Ok(format!("{bits:#x}: {}", set_bits(bits, &names)))
        },
        |fault| Err(format!("{bits:#x}: {fault}")),
    )
}

fn tcb_order(report: &SnpReport, product: SnpProduct) -> Result<String, String> {
    let current = SnpTcb::read(report.current_tcb, product);
    for (name, bytes) in [
        ("reported", report.reported_tcb),
        ("committed", report.committed_tcb),
        ("launch", report.launch_tcb),
    ] {
        if !current.reaches(&SnpTcb::read(bytes, product)) {
            return Err(format!("the {name} TCB {} is above the current one", hex::encode(bytes.0)));
        }
    }
    Ok(format!("none is above the current one: {current}"))
}

fn tcb_floor(report: &SnpReport, product: SnpProduct, policy: &SnpPolicy) -> Result<String, String> {
    let Some(floor) = policy.floors.get(&product) else {
        return Err(format!("the policy has no floor for {product}"));
    };
    let mut floor = *floor;
    floor.microcode = floor.microcode.max(microcode_floor(report, product, policy)?);
    for (name, bytes) in [
        ("reported", report.reported_tcb),
        ("committed", report.committed_tcb),
        ("launch", report.launch_tcb),
        ("current", report.current_tcb),
    ] {
        let tcb = SnpTcb::read(bytes, product);
        if !tcb.reaches(&floor) {
            return Err(format!("the {name} TCB is {tcb}; at least {floor} is asked for"));
        }
    }
    Ok(format!("all reach the floor: {floor}"))
}

/// The least microcode of this kind of chip; 0 where the policy says nothing about its line.
fn microcode_floor(report: &SnpReport, product: SnpProduct, policy: &SnpPolicy) -> Result<u8, String> {
    let of_line = |chip: &SnpChip| SnpProduct::of_cpu(chip.family, chip.model).contains(&product);
    if !policy.microcode.keys().any(of_line) {
        return Ok(0);
    }
    let Some([family, model, stepping]) = report.cpuid else {
        let version = report.version;
        return Err(format!(
            "a report of version {version} does not say which kind of chip it is from, so its microcode cannot be \
             judged; update the firmware"
        ));
    };
    let chip = SnpChip { family, model, stepping };
    policy
        .microcode
        .get(&chip)
        .copied()
        .ok_or_else(|| format!("the policy has no microcode for chips {chip}"))
}

fn firmware(report: &SnpReport, policy: &SnpPolicy) -> Result<String, String> {
    let (current, committed) = (report.current_firmware, report.committed_firmware);
    let (major, minor) = report.policy_abi();
    if committed < policy.min_firmware {
        return Err(format!("{committed}; at least {} is asked for", policy.min_firmware));
    }
    if current != committed && !policy.allow_provisional_firmware {
        return Err(format!("{current} runs, and the host can still roll back to {committed}"));
    }
    if current < committed {
        return Err(format!("{current} runs although {committed} is committed"));
    }
    if (current.major, current.minor) < (major, minor) {
        return Err(format!("{current}; the guest's policy asks for {major}.{minor}"));
    }
    Ok(format!("{current}; the guest's policy asks for {major}.{minor}"))
}

fn mitigations(report: &SnpReport, policy: &SnpPolicy) -> Result<String, String> {
    let asked = policy.required_mitigations;
    match (report.launch_mitigations, report.current_mitigations) {
        (Some(launch), Some(current)) => {
            let found = format!("{launch:#x} at launch, {current:#x} now; {asked:#x} is asked for");
            if launch & current & asked == asked { Ok(found) } else { Err(found) }
        }
        _ if asked == 0 => Ok("none asked for; the report has none".to_owned()),
        _ => Err(format!("{asked:#x} is asked for; a report of version {} has none", report.version)),
    }
}

/// A key digest that stands there without its flag, or the other way round, is no firmware's.
fn author_key(report: &SnpReport, policy: &SnpPolicy) -> Result<String, String> {
    if report.author_key_enabled == (report.author_key_digest == [0; 48]) {
        return Err("the digest and the flag that announces it disagree".to_owned());
    }
    listed(&report.author_key_digest, policy.author_keys.as_ref())
}

fn listed<const N: usize>(found: &[u8; N], allowed: Option<&BTreeSet<[u8; N]>>) -> Result<String, String> {
    let text = if *found == [0; N] { "none".to_owned() } else { hex::encode(found) };
    match allowed {
        None => Ok(format!("{text}; none is pinned")),
        Some(allowed) if allowed.contains(found) => Ok(text),
        Some(_) => Err(format!("{text} is not among the pinned ones")),
    }
}

fn first_fault<'a>(faults: &[(bool, &'a str)]) -> Option<&'a str> {
    faults.iter().find(|(broken, _)| *broken).map(|(_, fault)| *fault)
}

fn set_bits(bits: u64, names: &[(u64, &str)]) -> String {
    let set = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name);
    let set = set.collect::<Vec<_>>().join(", ");
    if set.is_empty() { "nothing special".to_owned() } else { set }
}
