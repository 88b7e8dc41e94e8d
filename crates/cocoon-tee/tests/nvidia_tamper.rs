//! Forged and damaged GPU evidence: each is refused, by the check whose matter it is.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/nvidia.rs"]
mod support;

use bytes::Bytes;
use cocoon_attest::UnixSeconds;
use cocoon_attest::gpu::{GpuEvidence, GpuPart, GpuPolicy, nonce};
use cocoon_tee::simulated::nvidia::{Identity, SimulatedGpu, SimulatedNvidia, TestKey};
use support::{NONCE, NOW, container, evidence, failures, judge, judge_with, nvidia};

fn key(name: &str) -> TestKey {
    TestKey::derive(&[9; 32], name)
}

fn der(identity: &Identity) -> Bytes {
    Bytes::copy_from_slice(identity.certificate())
}

/// What is done to a report.
type Change<'c> = &'c dyn Fn(&mut Vec<u8>);

/// A report with a change made before it is signed anew by the GPU's own key: what only the GPU could say.
fn resigned(gpu: &SimulatedGpu, change: impl FnOnce(&mut Vec<u8>)) -> GpuPart {
    let part = gpu.part(&NONCE);
    let mut report = part.report[..part.report.len() - 96].to_vec();
    change(&mut report);
    let signature = gpu.firmware.key().sign(&report);
    report.extend(signature);
    GpuPart { report: report.into(), chain: part.chain }
}

/// A GPU whose chain is this one.
fn with_chain(gpu: &SimulatedGpu, chain: Vec<Bytes>) -> Bytes {
    container(vec![GpuPart { report: gpu.report(&NONCE).into(), chain }])
}

#[test]
fn a_report_for_another_key_machine_or_time_is_refused() {
    let gpu = nvidia().gpu(0);
    let (mine, other) = ([1; 64], [2; 64]);
    for elsewhere in [
        nonce(&cocoon_attest::ReportData(other), b"quote"),
        nonce(&cocoon_attest::ReportData(mine), b"another quote"),
        [0; 32],
    ] {
        assert_eq!(failures(&judge(&container(vec![gpu.part(&elsewhere)]))), ["gpu0.nonce"]);
    }
}

#[test]
fn a_gpu_that_is_there_twice_is_refused_also_with_other_firmware() {
    let gpu = nvidia().gpu(0);
    assert_eq!(failures(&judge(&evidence(&[gpu.clone(), gpu.clone()]))), ["unique"]);
    let again = gpu.clone().with_firmware(key("firmware"), [7; 48]);
    assert_eq!(failures(&judge(&evidence(&[gpu, again]))), ["unique"]);
}

#[test]
fn one_bad_gpu_among_good_ones_is_named() {
    let mut gpus: Vec<_> = (0..4).map(|number| nvidia().gpu(number)).collect();
    gpus[2].form.measurements.get_mut(&30).unwrap()[0] ^= 1;
    assert_eq!(failures(&judge(&evidence(&gpus))), ["gpu2.measurements"]);
}

#[test]
fn firmware_must_be_the_one_that_the_device_certified() {
    let gpu = nvidia().gpu(0);
    assert!(judge(&evidence(&[gpu.clone().with_firmware(key("firmware"), [7; 48])])).accepted());
    let mut other = gpu.clone();
    other.form.firmware_id = [7; 48];
    assert_eq!(failures(&judge(&evidence(&[other]))), ["gpu0.firmware_id"]);
    // The leaf names another device than the one that signed it.
    let mut profile = nvidia().gpu(1).firmware.profile().clone();
    profile.serial = gpu.firmware.profile().serial.clone();
    let borrowed = SimulatedGpu { firmware: gpu.device.issue(key("leaf"), profile), ..gpu.clone() };
    assert_eq!(failures(&judge(&evidence(&[borrowed]))), ["gpu0.firmware_id"]);
    let mut silent = gpu.firmware.profile().clone();
    silent.extensions.clear();
    let silent = SimulatedGpu { firmware: gpu.device.issue(key("leaf"), silent), ..gpu };
    assert_eq!(failures(&judge(&evidence(&[silent]))), ["gpu0.firmware_id"]);
}

#[test]
fn a_chain_must_lead_from_leaf_to_root_through_authorities() {
    let nvidia = nvidia();
    let gpu = nvidia.gpu(0);
    let [root, chip, provisioner] = nvidia.device_authorities();
    let chain = gpu.part(&NONCE).chain;
    let swap = |a: usize, b: usize| {
        let mut chain = chain.clone();
        chain.swap(a, b);
        chain
    };
    let forged = Identity::root(key("root"), root.profile().clone());
    let forged_chip = forged.issue(key("chip"), chip.profile().clone());
    let below = |issuer: &Identity| {
        let provisioner = issuer.issue(key("provisioner"), provisioner.profile().clone());
        let device = provisioner.issue(key("device"), gpu.device.profile().clone());
        let leaf = device.issue(key("leaf"), gpu.firmware.profile().clone());
        (provisioner, device, leaf)
    };
    let (forged_provisioner, forged_device, forged_leaf) = below(&forged_chip);
    // A chip's leaf as an authority: what a thief of one GPU's key would try.
    let thief = gpu.firmware.issue(key("device"), gpu.device.profile().clone());
    let leaf_of_thief = thief.issue(key("leaf"), gpu.firmware.profile().clone());
    let ca_leaf = gpu.device.issue(key("leaf"), provisioner.profile().clone());
    for (chain, why) in [
        (chain[..4].to_vec(), "without root"),
        (chain[1..].to_vec(), "without leaf"),
        ([&chain[..], &[der(root)]].concat(), "root twice"),
        (swap(0, 1), "leaf and device swapped"),
        (swap(2, 3), "authorities swapped"),
        (
            nvidia.gpu(1).part(&NONCE).chain[..1].iter().chain(&chain[1..]).cloned().collect(),
            "another's leaf",
        ),
        (
            vec![
                chain[0].clone(),
                nvidia.gpu(1).part(&NONCE).chain[1].clone(),
                der(provisioner),
                der(chip),
                der(root),
            ],
            "another's device",
        ),
        (
            vec![
                der(&forged_leaf),
                der(&forged_device),
                der(&forged_provisioner),
                der(&forged_chip),
                der(&forged),
            ],
            "another root",
        ),
        (
            vec![
                der(&forged_leaf),
                der(&forged_device),
                der(&forged_provisioner),
                der(&forged_chip),
                der(root),
            ],
            "a forged authority under the root",
        ),
        (
            vec![der(&leaf_of_thief), der(&thief), chain[0].clone(), chain[1].clone(), der(provisioner)],
            "a leaf as authority",
        ),
        (
            vec![der(&ca_leaf), der(&gpu.device), der(provisioner), der(chip), der(root)],
            "an authority as leaf",
        ),
        (vec![Bytes::from_static(b"x"); 5], "no certificates"),
    ] {
        let failed = judge(&with_chain(&gpu, chain));
        assert_eq!(failures(&failed), ["gpu0.certificate_chain"], "{why}");
    }
    let whole = vec![der(&gpu.firmware), der(&gpu.device), der(provisioner), der(chip), der(root)];
    assert!(judge(&with_chain(&gpu, whole)).accepted());
}

#[test]
fn certificates_outside_their_time_are_refused_wherever_they_stand() {
    let nvidia = nvidia();
    let gpu = nvidia.gpu(0);
    let [_, _, provisioner] = nvidia.device_authorities();
    for (from, to, passes) in [
        (UnixSeconds(0), NOW, true),
        (NOW, UnixSeconds(u64::MAX), true),
        (UnixSeconds(0), UnixSeconds(NOW.0 - 1), false),
        (NOW.plus(1), UnixSeconds(u64::MAX), false),
    ] {
        let mut leaf = gpu.firmware.profile().clone();
        (leaf.from, leaf.to) = (from, to);
        let in_leaf =
            SimulatedGpu { firmware: gpu.device.issue(gpu.firmware.key().clone(), leaf), ..gpu.clone() };
        let mut device = gpu.device.profile().clone();
        (device.from, device.to) = (from, to);
        let in_device =
            SimulatedGpu { device: provisioner.issue(gpu.device.key().clone(), device), ..gpu.clone() };
        for gpu in [in_leaf, in_device] {
            let failed: &[&str] = if passes { &[] } else { &["gpu0.validity"] };
            assert_eq!(failures(&judge(&evidence(&[gpu]))), failed, "{from} to {to}");
        }
    }
}

#[test]
fn a_report_signed_by_another_key_or_changed_after_is_refused() {
    let gpu = nvidia().gpu(0);
    let part = gpu.part(&NONCE);
    let other = nvidia().gpu(1);
    let swapped = GpuPart { report: other.report(&NONCE).into(), chain: part.chain.clone() };
    assert_eq!(failures(&judge(&container(vec![swapped]))), ["gpu0.signature"]);
    let mut zeros = part.report.to_vec();
    let signature = zeros.len() - 96;
    zeros[signature..].fill(0);
    let zeros = GpuPart { report: zeros.into(), chain: part.chain.clone() };
    assert_eq!(failures(&judge(&container(vec![zeros]))), ["gpu0.signature"]);
    for at in (0..part.report.len()).step_by(37) {
        let mut report = part.report.to_vec();
        report[at] ^= 0x20;
        let verdict = judge(&container(vec![GpuPart { report: report.into(), chain: part.chain.clone() }]));
        let failed = failures(&verdict);
        assert!(failed.contains(&"gpu0.signature") || failed.contains(&"gpu0.format"), "{at}: {failed:?}");
    }
}

#[test]
fn messages_that_are_not_the_expected_ones_are_refused_though_signed() {
    let gpu = nvidia().gpu(0);
    let record = 37 + 8;
    let opaque = record + 64 * 55 + 32;
    let cases: [(&str, Change<'_>); 15] = [
        ("request of another version", &|report| report[0] = 0x12),
        ("another request", &|report| report[1] = 0xe1),
        ("no signature asked for", &|report| report[2] = 0),
        ("one measurement asked for", &|report| report[3] = 1),
        ("response of another version", &|report| report[37] = 0x10),
        ("an error as response", &|report| report[38] = 0x7f),
        ("no measurements", &|report| report[41] = 0),
        ("fewer measurements", &|report| report[41] = 63),
        ("a longer record", &|report| report[42] += 1),
        ("a measurement twice", &|report| report[record + 55] = 1),
        ("a measurement without index", &|report| report[record] = 0),
        ("a measurement of another specification", &|report| report[record + 1] = 2),
        ("a measurement longer than its block", &|report| report[record + 5] = 49),
        ("opaque data longer than the report", &|report| report[opaque + 1] = 0xff),
        ("bytes behind the opaque data", &|report| report.push(0)),
    ];
    for (why, change) in cases {
        let verdict = judge(&container(vec![resigned(&gpu, change)]));
        assert_eq!(failures(&verdict), ["gpu0.format"], "{why}");
    }
    // A field twice: the second could contradict the first.
    let twice = resigned(&gpu, |report| {
        let added: &[u8] = &[21, 0, 1, 0, 0x55];
        let len = u16::from_le_bytes([report[opaque], report[opaque + 1]]) + 5;
        report[opaque..opaque + 2].copy_from_slice(&len.to_le_bytes());
        report.extend(added);
    });
    assert_eq!(failures(&judge(&container(vec![twice]))), ["gpu0.format"]);
    // Fields that are not known are for newer firmware to say.
    let unknown = resigned(&gpu, |report| {
        let len = u16::from_le_bytes([report[opaque], report[opaque + 1]]) + 5;
        report[opaque..opaque + 2].copy_from_slice(&len.to_le_bytes());
        report.extend([99, 0, 1, 0, 0]);
    });
    assert!(judge(&container(vec![unknown])).accepted());
}

#[test]
fn the_protected_pcie_flag_and_status_must_agree() {
    let mut gpu = nvidia().gpu(0);
    gpu.form.mode = 2;
    let hidden = resigned(&gpu, |report| {
        let at = report.len() - 2;
        report[at..].copy_from_slice(&[0, 0]);
    });
    assert_eq!(failures(&judge(&container(vec![hidden]))), ["gpu0.format"]);
}

#[test]
fn a_cut_or_foreign_container_is_refused() {
    let whole = evidence(&[nvidia().gpu(0), nvidia().gpu(1)]);
    for len in (0..whole.len()).step_by(211) {
        assert_eq!(failures(&judge(&whole[..len])), ["container"]);
    }
    assert_eq!(failures(&judge(b"")), ["container"]);
    assert_eq!(failures(&judge(&[&whole[..], b"x"].concat())), ["container"]);
    assert!(whole.len() < GpuEvidence::MAX_LEN);
}

#[test]
fn collateral_of_another_network_is_refused() {
    let gpus = evidence(&[nvidia().gpu(0)]);
    let verifier = cocoon_attest::gpu::GpuVerifier::with_roots(GpuPolicy::default(), nvidia().roots());
    let mine = support::fetched(&verifier, &gpus, &nvidia(), NOW);
    let verdict = verifier.verify(&gpus, &mine, &NONCE, NOW);
    assert!(verdict.accepted(), "{verdict:#?}");
    // Manifests of another seed's NVIDIA: sound by themselves, under a root that is not trusted.
    let manifests: Vec<_> = verifier
        .collateral_needed(&gpus, &cocoon_attest::Collateral::none())
        .into_iter()
        .filter(|request| request.name.starts_with("rim/"))
        .collect();
    let theirs = SimulatedNvidia::from_seed(&[2; 32]).collateral(&manifests, NOW);
    let mut mixed = mine;
    for request in &manifests {
        mixed.insert(request.clone(), theirs.get(request).unwrap().clone());
    }
    assert_eq!(failures(&verifier.verify(&gpus, &mixed, &NONCE, NOW)), ["gpu0.reference_values"]);
    // Answers of yesterday.
    let later = UnixSeconds(NOW.0 + 2 * 24 * 3600);
    let old = support::fetched(&verifier, &gpus, &nvidia(), NOW);
    let verdict = verifier.verify(&gpus, &old, &NONCE, later);
    assert_eq!(failures(&verdict), ["gpu0.revocation", "gpu0.reference_values"]);
    assert!(judge_with(GpuPolicy::default(), &gpus, &nvidia(), later).accepted());
}
