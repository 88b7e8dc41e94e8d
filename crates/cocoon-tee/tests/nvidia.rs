//! Simulated GPUs before the verifier that production uses: what passes, and what each demand refuses.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/nvidia.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use cocoon_attest::gpu::{
    Demand, GpuCollateral, GpuMode, GpuPolicy, GpuVerifier, manifest_runs_out, status_runs_out,
};
use cocoon_attest::{Collateral, CollateralRequest, GpuSource as _, Outcome, UnixSeconds};
use cocoon_tee::simulated::nvidia::{
    ManifestForm, Responder, SimulatedGpu, SimulatedNvidia, StatusForm, TestKey, Word,
};
use support::{NONCE, NOW, evidence, failures, fetched, judge, judge_by, judge_with, nvidia, outcome};

/// Measurements by their index.
type Measured = BTreeMap<u8, [u8; 48]>;

/// What fails of one GPU once this is done to it.
fn refused(change: impl FnOnce(&mut SimulatedGpu)) -> Vec<String> {
    refused_by(GpuPolicy::default(), change)
}

fn refused_by(policy: GpuPolicy, change: impl FnOnce(&mut SimulatedGpu)) -> Vec<String> {
    let mut gpu = nvidia().gpu(0);
    change(&mut gpu);
    let verdict = judge_by(policy, &evidence(&[gpu]));
    failures(&verdict).into_iter().map(str::to_owned).collect()
}

#[test]
fn simulated_gpus_pass_every_check_of_the_strictest_policy() {
    let evidence = nvidia().source(3, 8).evidence(&NONCE).unwrap();
    let verdict = judge(&evidence);
    assert!(verdict.accepted(), "{verdict:#?}");
    let not_passed: Vec<_> = verdict.checks.iter().filter(|check| check.outcome != Outcome::Passed).collect();
    assert_eq!(not_passed, Vec::<&cocoon_attest::Check>::new());
    assert_eq!((verdict.gpus.len(), verdict.gpus[0].mode), (8, GpuMode::SinglePassthrough));
    assert!(verdict.check("gpu7.certificate_chain").unwrap().detail.contains("no proof of hardware"));
    assert_eq!(verdict.expires_at, Some(NOW.plus(24 * 3600)), "the answers about revocation run out first");
}

#[test]
fn everything_follows_from_the_seed_and_each_gpu_is_another() {
    let made = |seed: u8, first| SimulatedNvidia::from_seed(&[seed; 32]).source(first, 2).evidence(&NONCE);
    assert_eq!(made(1, 0), made(1, 0));
    assert_ne!(made(1, 0), made(1, 2));
    assert_ne!(made(1, 0), made(2, 0));
    assert!(nvidia().source(0, 1).is_simulated());
}

#[test]
fn simulated_gpus_are_nothing_to_a_verifier_that_trusts_nvidia_or_another_seed() {
    let gpus = evidence(&[nvidia().gpu(0)]);
    for verifier in [
        GpuVerifier::new(GpuPolicy::default()),
        GpuVerifier::with_roots(GpuPolicy::default(), SimulatedNvidia::from_seed(&[2; 32]).roots()),
    ] {
        let verdict = verifier.verify(&gpus, &Collateral::none(), &NONCE, NOW);
        assert_eq!(failures(&verdict), ["gpu0.certificate_chain"]);
        assert!(verifier.collateral_needed(&gpus, &Collateral::none()).is_empty());
    }
}

#[test]
fn pinned_values_stand_in_for_manifests() {
    let policy = GpuPolicy { pinned: vec![nvidia().reference_values()], ..GpuPolicy::default() };
    let gpus = evidence(&[nvidia().gpu(0)]);
    let verifier = GpuVerifier::with_roots(policy.clone(), nvidia().roots());
    let needed = verifier.collateral_needed(&gpus, &Collateral::none());
    assert!(needed.iter().all(|request| request.name.starts_with("ocsp/")), "{needed:?}");
    assert!(judge_with(policy.clone(), &gpus, &nvidia(), NOW).accepted());
    assert_eq!(
        refused_by(policy, |gpu| gpu.form.measurements.get_mut(&9).unwrap()[0] ^= 1),
        ["gpu0.measurements"]
    );
}

#[test]
fn every_measurement_that_counts_must_be_a_reference_value() {
    let counts = |index: u8| index <= 12 || (21..=41).contains(&index);
    let good = nvidia().gpu(0);
    let judged = |change: &dyn Fn(&mut Measured)| {
        let mut gpu = good.clone();
        change(&mut gpu.form.measurements);
        let verdict = judge(&evidence(&[gpu]));
        failures(&verdict) == ["gpu0.measurements"]
    };
    for index in 0..64 {
        let changed = judged(&|measured| measured.get_mut(&index).unwrap()[47] ^= 1);
        assert_eq!(changed, counts(index), "measurement {index} is another");
        let missing = judged(&|measured| measured.retain(|known, _| *known != index));
        assert_eq!(missing, counts(index), "measurement {index} is missing");
    }
    // The video decoder's counts only while that is on.
    let decoder_off = |gpu: &mut SimulatedGpu| {
        gpu.form.video_decoder = false;
        gpu.form.measurements.get_mut(&35).unwrap()[0] ^= 1;
    };
    assert_eq!(refused(decoder_off), Vec::<String>::new());
}

#[test]
fn differing_measurements_leave_it_open_whether_debugging_is_off() {
    let mut gpu = nvidia().gpu(0);
    gpu.form.measurements.get_mut(&9).unwrap()[0] ^= 1;
    let verdict = judge(&evidence(&[gpu]));
    assert_eq!(failures(&verdict), ["gpu0.measurements"]);
    assert_eq!(outcome(&verdict, "gpu0.cc_mode"), Outcome::Skipped);
}

#[test]
fn modes_are_told_apart_and_must_be_the_same() {
    let with_mode = |number: u32, mode| {
        let mut gpu = nvidia().gpu(number);
        gpu.form.mode = mode;
        gpu
    };
    assert_eq!(failures(&judge(&evidence(&[with_mode(0, 2)]))), ["gpu0.cc_mode"]);
    assert_eq!(failures(&judge(&evidence(&[with_mode(0, 3)]))), ["gpu0.format"]);
    let multiple = judge(&evidence(&[with_mode(0, 1), with_mode(1, 1)]));
    assert!(multiple.accepted(), "{multiple:#?}");
    assert_eq!(multiple.gpus[1].mode, GpuMode::MultiplePassthrough);
    assert_eq!(failures(&judge(&evidence(&[with_mode(0, 0), with_mode(1, 1)]))), ["same_mode"]);
    let lenient = GpuPolicy { allow_protected_pcie: true, ..GpuPolicy::default() };
    assert!(judge_with(lenient, &evidence(&[with_mode(0, 2)]), &nvidia(), NOW).accepted());
    assert_eq!(refused(|gpu| gpu.form.opaque_version = 2), ["gpu0.format"]);
}

#[test]
fn drivers_firmware_chips_and_numbers_are_held_to_the_policy() {
    let default = GpuPolicy::default;
    let driver = |text: &str| text.parse().unwrap();
    let vbios = |text: &str| text.parse().unwrap();
    let chips = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>());
    let floor = |chip: &str| BTreeMap::from([(chip.to_owned(), vbios("96.FF.00.00.02"))]);
    let driver_set = BTreeSet::from([driver("999.00")]);
    let vbios_set = BTreeSet::from([vbios("96.FF.00.00.01")]);
    let unlike = BTreeSet::from([driver("999.01")]);
    for (policy, failed) in [
        (GpuPolicy { min_driver: Some(driver("999.00")), ..default() }, None),
        (GpuPolicy { min_driver: Some(driver("999.01")), ..default() }, Some("gpu0.driver")),
        (GpuPolicy { drivers: Some(driver_set.clone()), ..default() }, None),
        (GpuPolicy { drivers: Some(unlike.clone()), ..default() }, Some("gpu0.driver")),
        (GpuPolicy { refused_drivers: unlike, ..default() }, None),
        (GpuPolicy { refused_drivers: BTreeSet::from([driver("999.0")]), ..default() }, Some("gpu0.driver")),
        (GpuPolicy { min_vbios: floor("GH100"), ..default() }, Some("gpu0.vbios")),
        (GpuPolicy { min_vbios: floor("GB100"), ..default() }, None),
        (GpuPolicy { vbios: Some(vbios_set.clone()), ..default() }, None),
        (GpuPolicy { vbios: Some(BTreeSet::new()), ..default() }, Some("gpu0.vbios")),
        (GpuPolicy { refused_vbios: vbios_set, ..default() }, Some("gpu0.vbios")),
        (GpuPolicy { chips: chips(&["GH100"]), ..default() }, None),
        (GpuPolicy { chips: chips(&["GB100"]), ..default() }, Some("gpu0.chip")),
        (GpuPolicy { min_gpus: 2, ..default() }, Some("gpu_count")),
        (GpuPolicy { max_gpus: 0, ..default() }, Some("gpu_count")),
    ] {
        let shown = format!("{policy:?}");
        assert_eq!(refused_by(policy, |_| ()), Vec::from_iter(failed), "{shown}");
    }
}

#[test]
fn what_a_gpu_says_of_its_driver_decides_which_values_count() {
    // There are none for it, so it is refused; and it cannot borrow another's.
    assert_eq!(refused(|gpu| gpu.form.driver = "998.00".to_owned()), ["gpu0.reference_values"]);
    let request = |id: &str| GpuCollateral::Manifest(id.to_owned()).request();
    let mut gpu = nvidia().gpu(0);
    gpu.form.driver = "998.00".to_owned();
    let gpus = evidence(&[gpu]);
    let verifier = GpuVerifier::with_roots(GpuPolicy::default(), nvidia().roots());
    let needed = verifier.collateral_needed(&gpus, &Collateral::none());
    let mut collateral = nvidia().collateral(&needed, NOW);
    let other = ManifestForm::driver().write(nvidia().reference_authorities());
    collateral.insert(request("NV_GPU_DRIVER_GH100_998.00"), other.into());
    let needed = verifier.collateral_needed(&gpus, &collateral);
    for request in &needed {
        let answer = nvidia().collateral(std::slice::from_ref(request), NOW);
        collateral.insert(request.clone(), answer.get(request).unwrap().clone());
    }
    let verdict = verifier.verify(&gpus, &collateral, &NONCE, NOW);
    assert_eq!(failures(&verdict), ["gpu0.reference_values"]);
    assert!(verdict.check("gpu0.reference_values").unwrap().detail.contains("999.00"));
}

/// A verdict with one manifest replaced.
fn with_manifest(
    form: &ManifestForm,
    id: &str,
    chain: &[cocoon_tee::simulated::nvidia::Identity],
) -> Vec<String> {
    let gpus = evidence(&[nvidia().gpu(0)]);
    let verifier = GpuVerifier::with_roots(GpuPolicy::default(), nvidia().roots());
    let mut collateral = fetched(&verifier, &gpus, &nvidia(), NOW);
    let request = GpuCollateral::Manifest(id.to_owned()).request();
    assert!(collateral.get(&request).is_some(), "{id} is not asked for");
    collateral.insert(request, form.write(chain).into());
    let verdict = verifier.verify(&gpus, &collateral, &NONCE, NOW);
    failures(&verdict).into_iter().map(str::to_owned).collect()
}

#[test]
fn manifests_must_be_for_this_version_and_chip_and_disjoint() {
    let nvidia = nvidia();
    let chain = nvidia.reference_authorities();
    let (driver, vbios) = (ManifestForm::driver(), ManifestForm::vbios());
    assert_eq!(with_manifest(&driver, &driver.id, chain), Vec::<String>::new());
    let wrong = ["gpu0.reference_values"];
    assert_eq!(with_manifest(&vbios, &driver.id, chain), wrong);
    let other = ManifestForm { version: "999.01".to_owned(), ..driver.clone() };
    assert_eq!(with_manifest(&other, &driver.id, chain), wrong);
    let other = ManifestForm { product: "GB100".to_owned(), ..driver.clone() };
    assert_eq!(with_manifest(&other, &driver.id, chain), wrong);
    let mut both = driver.clone();
    both.values.insert(9, vec![[9; 48]]);
    assert_eq!(with_manifest(&both, &driver.id, chain), wrong);
    let nothing = ManifestForm { values: BTreeMap::new(), ..driver.clone() };
    assert_eq!(with_manifest(&nothing, &driver.id, chain), wrong);
    let mut other = driver.clone();
    other.values.insert(21, vec![[1; 48], [2; 48]]);
    assert_eq!(with_manifest(&other, &driver.id, chain), ["gpu0.measurements"]);
}

#[test]
fn manifests_must_be_signed_under_the_root_of_reference_values() {
    let nvidia = nvidia();
    let [root, chip, below, signer] = nvidia.reference_authorities().clone();
    let form = ManifestForm::driver();
    let judged = |chain: &[_]| with_manifest(&form, &form.id, chain);
    let wrong = ["gpu0.reference_values"];
    let stranger = SimulatedNvidia::from_seed(&[2; 32]);
    assert_eq!(judged(stranger.reference_authorities()), wrong);
    // The root of GPUs is not the root of reference values.
    let [devices, of_chip, provisioner] = nvidia.device_authorities().clone();
    let key = || TestKey::derive(&[3; 32], "signer");
    let signed = provisioner.issue(key(), signer.profile().clone());
    assert_eq!(judged(&[devices, of_chip, provisioner, signed]), wrong);
    let mut ended = signer.profile().clone();
    ended.to = UnixSeconds(NOW.0 - 1);
    assert_eq!(judged(&[root.clone(), chip.clone(), below.clone(), below.issue(key(), ended)]), wrong);
    let powerless = chip.issue(key(), signer.profile().clone());
    let signed = powerless.issue(TestKey::derive(&[4; 32], "signer"), signer.profile().clone());
    assert_eq!(judged(&[root.clone(), chip.clone(), powerless, signed]), wrong);
    let short = [root, chip.clone(), chip.issue(key(), signer.profile().clone())];
    assert_eq!(judged(&short), wrong);
}

#[test]
fn a_revoked_certificate_is_refused_whoevers_it_is() {
    let nvidia = nvidia();
    let gpus = evidence(&[nvidia.gpu(0)]);
    let serial = |identity: &cocoon_tee::simulated::nvidia::Identity| identity.profile().serial.clone();
    let [_, chip, provisioner] = nvidia.device_authorities();
    let [_, of_values, below, signer] = nvidia.reference_authorities();
    for (revoked, failed) in [
        (serial(&nvidia.gpu(0).device), "gpu0.revocation"),
        (serial(provisioner), "gpu0.revocation"),
        (serial(chip), "gpu0.revocation"),
        (serial(of_values), "gpu0.reference_values"),
        (serial(below), "gpu0.reference_values"),
        (serial(signer), "gpu0.reference_values"),
    ] {
        let services = nvidia.clone().revoking([revoked.clone()]);
        let lenient = GpuPolicy { revocation: Demand::WhereAvailable, ..GpuPolicy::default() };
        for policy in [GpuPolicy::default(), lenient] {
            let verdict = judge_with(policy, &gpus, &services, NOW);
            assert_eq!(failures(&verdict), [failed], "{revoked:02x?}");
        }
    }
    let other = nvidia.clone().revoking([serial(&nvidia.gpu(1).device)]);
    assert!(judge_with(GpuPolicy::default(), &gpus, &other, NOW).accepted(), "another GPU is revoked");
}

/// What fails if every question about revocation is answered like this.
fn with_status(form: &StatusForm) -> Vec<String> {
    let gpus = evidence(&[nvidia().gpu(0)]);
    let verifier = GpuVerifier::with_roots(GpuPolicy::default(), nvidia().roots());
    let mut collateral = fetched(&verifier, &gpus, &nvidia(), NOW);
    let questions: Vec<CollateralRequest> =
        verifier.collateral_needed(&gpus, &Collateral::none()).into_iter().collect();
    for request in questions {
        if let Some(GpuCollateral::Status(question)) = GpuCollateral::of(&request) {
            collateral.insert(request, nvidia().status(&question, form).unwrap().into());
        }
    }
    let verdict = verifier.verify(&gpus, &collateral, &NONCE, NOW);
    failures(&verdict).into_iter().map(str::to_owned).collect()
}

#[test]
fn answers_about_revocation_count_only_from_whom_and_while_they_should() {
    let usual = StatusForm::lasting(NOW, 3600);
    let before = |seconds| UnixSeconds(NOW.0 - seconds);
    for (form, passes) in [
        (usual, true),
        (StatusForm { by: Responder::Issuer, ..usual }, true),
        (StatusForm { by: Responder::Misused, ..usual }, false),
        (StatusForm { by: Responder::Stranger, ..usual }, false),
        (StatusForm { word: Word::Revoked, ..usual }, false),
        (StatusForm { word: Word::Unknown, ..usual }, false),
        (StatusForm { to: Some(NOW), ..usual }, true),
        (StatusForm { from: before(10), to: Some(before(1)), ..usual }, false),
        (StatusForm { from: NOW.plus(300), ..usual }, true),
        (StatusForm { from: NOW.plus(301), ..usual }, false),
        // Without an end, an hour.
        (StatusForm { from: before(3600), to: None, ..usual }, true),
        (StatusForm { from: before(3601), to: None, ..usual }, false),
    ] {
        let failed: &[&str] = if passes { &[] } else { &["gpu0.revocation"] };
        assert_eq!(with_status(&form), failed, "{form:?}");
    }
}

#[test]
fn what_is_not_at_hand_is_told_from_what_speaks_against_a_gpu() {
    let gpus = evidence(&[nvidia().gpu(0)]);
    let verifier = GpuVerifier::with_roots(GpuPolicy::default(), nvidia().roots());
    let verdict = |collateral: &Collateral| verifier.verify(&gpus, collateral, &NONCE, NOW);
    assert!(verdict(&Collateral::none()).lacks_collateral());
    let first = verifier.collateral_needed(&gpus, &Collateral::none());
    assert!(verdict(&nvidia().collateral(&first, NOW)).lacks_collateral(), "the manifests' signers are left");
    // Manifests are missing, but that the device is revoked is known.
    let services = nvidia().clone().revoking([nvidia().gpu(0).device.profile().serial.clone()]);
    let statuses: Vec<_> = first.into_iter().filter(|request| request.name.starts_with("ocsp/")).collect();
    let revoked = verdict(&services.collateral(&statuses, NOW));
    assert_eq!(failures(&revoked), ["gpu0.revocation", "gpu0.reference_values"]);
    assert!(!revoked.lacks_collateral());
}

#[test]
fn without_its_services_the_policy_says_whether_to_go_on() {
    let gpus = evidence(&[nvidia().gpu(0)]);
    let verify = |revocation, reference_values| {
        let policy = GpuPolicy { revocation, reference_values, ..GpuPolicy::default() };
        GpuVerifier::with_roots(policy, nvidia().roots()).verify(&gpus, &Collateral::none(), &NONCE, NOW)
    };
    let (required, lax) = (Demand::Required, Demand::WhereAvailable);
    assert_eq!(failures(&verify(required, required)), ["gpu0.revocation", "gpu0.reference_values"]);
    assert_eq!(failures(&verify(lax, required)), ["gpu0.reference_values"]);
    let verdict = verify(lax, lax);
    assert!(verdict.accepted());
    for name in ["revocation", "reference_values", "measurements", "cc_mode"] {
        assert_eq!(outcome(&verdict, &format!("gpu0.{name}")), Outcome::Skipped, "{name}");
    }
}

#[test]
fn a_check_that_lacks_an_answer_names_the_request_and_why_it_failed() {
    let gpus = evidence(&[nvidia().gpu(0)]);
    let verifier = GpuVerifier::with_roots(GpuPolicy::default(), nvidia().roots());
    let needed = verifier.collateral_needed(&gpus, &Collateral::none());
    let mut nothing = Collateral::none();
    for request in &needed {
        nothing.note_failure(request.clone(), "the service is away".to_owned());
    }
    let verdict = verifier.verify(&gpus, &nothing, &NONCE, NOW);
    assert!(verdict.lacks_collateral());
    for (check, prefix) in [("gpu0.revocation", "ocsp/"), ("gpu0.reference_values", "rim/")] {
        let detail = &verdict.check(check).unwrap().detail;
        let told =
            |request: &CollateralRequest| detail.contains(&format!("{} (the service is away)", request.name));
        let mut requests = needed.iter().filter(|request| request.name.starts_with(prefix));
        assert!(requests.any(told), "{check}: {detail}");
    }
}

#[test]
fn an_answer_about_revocation_runs_out_when_it_says_so() {
    let gpus = evidence(&[nvidia().gpu(0)]);
    let verifier = GpuVerifier::with_roots(GpuPolicy::default(), nvidia().roots());
    for request in verifier.collateral_needed(&gpus, &Collateral::none()) {
        let answer = nvidia().collateral(std::slice::from_ref(&request), NOW).get(&request).unwrap().clone();
        let (status, manifest) = (status_runs_out(&answer), manifest_runs_out(&answer));
        if request.name.starts_with("ocsp/") {
            assert_eq!((status, manifest), (Some(NOW.plus(24 * 3600)), None), "{request:?}");
        } else {
            assert!(status.is_none() && manifest.is_some(), "{request:?}: {manifest:?}");
        }
    }
    // `tryLater` (RFC 6960 §4.2.1).
    assert_eq!(status_runs_out(&[0x30, 3, 0x0a, 1, 3]), None);
}
