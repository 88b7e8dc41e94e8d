//! Simulated SNP machines before the verifier that production uses: what passes, and what each demand refuses.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/snp.rs"]
mod support;

use std::collections::BTreeSet;

use cocoon_attest::snp::{SnpFirmware, SnpPolicy, SnpProduct, SnpReport, SnpTcb, SnpTcbBytes, SnpVerifier};
use cocoon_attest::{
    Collateral, CollateralRequest, Evidence, EvidenceKind, EvidenceSource as _, Outcome, Policy, Verdict,
    Verifier as _, VerifierSet,
};
use cocoon_tee::simulated::snp::{SimulatedAmd, SimulatedSnp, Span, encode_report};
use support::{BINDING, NOW, Parts, failures, judge, judge_machine, judge_with, machine, policy};

/// What fails of a Turin machine, whose reports have every field, once this is done to it.
fn refused(change: impl FnOnce(&mut SnpReport)) -> Vec<String> {
    refused_by(policy(), change)
}

fn refused_by(policy: SnpPolicy, change: impl FnOnce(&mut SnpReport)) -> Vec<String> {
    let mut machine = machine(SnpProduct::Turin);
    change(&mut machine.report);
    failures(&judge_with(policy, &machine.evidence_for(&BINDING), NOW))
}

fn detail<'a>(verdict: &'a Verdict, name: &str) -> &'a str {
    &verdict.checks.iter().find(|check| check.name == name).unwrap().detail
}

#[test]
fn every_product_line_passes_with_its_own_form_of_report() {
    for (product, version) in [(SnpProduct::Milan, 2), (SnpProduct::Genoa, 3), (SnpProduct::Turin, 5)] {
        let evidence = machine(product).evidence(&BINDING).unwrap();
        assert_eq!(Evidence::from_quote(evidence.bytes().clone()), evidence, "the kind is read off the form");
        let verdict = judge(&evidence);
        assert!(verdict.accepted(), "{verdict:#?}");
        assert_eq!(SnpReport::parse(&evidence.bytes()[..SnpReport::LEN]).unwrap().version, version);
        assert_eq!(verdict.expires_at, Some(Span::default().to));
        assert!(verdict.simulated, "the root is a test root");
        assert!(detail(&verdict, "root").contains("proves nothing about hardware"), "{verdict:#?}");
    }
}

#[test]
fn a_providers_key_passes_where_the_policy_takes_it() {
    for product in SnpProduct::ALL {
        let evidence = machine(product).with_vlek().evidence_for(&BINDING);
        assert_eq!(failures(&judge(&evidence)), ["signing_key"]);
        let verdict = judge_with(SnpPolicy { allow_vlek: true, ..policy() }, &evidence, NOW);
        assert!(verdict.accepted(), "{verdict:#?}");
    }
    let only_vleks = SnpPolicy { allow_vcek: false, allow_vlek: true, ..policy() };
    assert_eq!(refused_by(only_vleks, |_| ()), ["signing_key"]);
}

#[test]
fn everything_follows_from_the_seed() {
    let evidence = |seed| SimulatedSnp::new(SnpProduct::Genoa, &[seed; 32], b"image").evidence_for(&BINDING);
    assert_eq!(evidence(1), evidence(1));
    assert_ne!(evidence(1), evidence(2));
}

#[test]
fn simulated_evidence_is_nothing_to_a_verifier_that_trusts_amd() {
    for product in SnpProduct::ALL {
        let evidence = machine(product).evidence_for(&BINDING);
        let verdict = SnpVerifier::new(policy()).verify(&evidence, &Collateral::none(), &BINDING, NOW);
        assert_eq!(failures(&verdict), ["root"]);
    }
    assert!(machine(SnpProduct::Milan).is_simulated());
}

#[test]
fn a_verdict_decides_by_the_image_hash() {
    let set = VerifierSet::new().with(
        EvidenceKind::SevSnp,
        std::sync::Arc::new(SnpVerifier::with_roots(policy(), SimulatedAmd::roots())),
    );
    let machine = machine(SnpProduct::Genoa);
    let verdict = set.verify(&machine.evidence_for(&BINDING), &Collateral::none(), &BINDING, NOW);
    let allowed = |hash| {
        let policy = Policy::one_of([EvidenceKind::SevSnp]).with_image_hashes([hash]).unwrap();
        policy.decide(&verdict).is_allowed()
    };
    assert!(allowed(machine.report.image_hash()));
    let other = SimulatedSnp::new(SnpProduct::Genoa, &[7; 32], b"another image");
    assert!(!allowed(other.report.image_hash()));
}

#[test]
fn the_image_hash_covers_what_runs_and_is_the_same_on_every_machine() {
    let base = machine(SnpProduct::Turin).report;
    let changed: [fn(&mut SnpReport); 6] = [
        |report| report.measurement[47] ^= 1,
        |report| report.host_data[31] ^= 1,
        |report| report.id_key_digest[0] ^= 1,
        |report| report.author_key_digest[0] ^= 1,
        |report| report.family_id[0] ^= 1,
        |report| report.image_id[0] ^= 1,
    ];
    let mut hashes = BTreeSet::from([base.image_hash()]);
    for change in changed {
        let mut report = base;
        change(&mut report);
        assert!(hashes.insert(report.image_hash()), "two different images have one hash");
    }
    let elsewhere = SimulatedSnp::new(SnpProduct::Milan, &[9; 32], b"image").report;
    assert_eq!(elsewhere.image_hash(), base.image_hash());
    // The formula, spelt out once more: 23 bytes of text, then 48 + 32 + 48 + 48 + 16 + 16.
    let bytes = [b"cocoon sev-snp image v1", &base.measurement[..], &[0; 160]].concat();
    use sha2::Digest as _;
    assert_eq!(base.image_hash(), <[u8; 32]>::from(sha2::Sha256::digest(bytes)));
}

#[test]
fn what_hands_the_guests_memory_to_others_is_refused_by_every_policy() {
    assert_eq!(refused(|report| report.policy |= 1 << 19), ["debug"]);
    assert_eq!(refused(|report| report.policy |= 1 << 18), ["migration"]);
    assert_eq!(refused(|report| report.report_id_ma[0] = 0), ["migration"]);
}

#[test]
fn bits_of_the_guests_policy_are_judged() {
    let smt = |report: &mut SnpReport| report.policy |= 1 << 16;
    assert_eq!(refused(smt), [""; 0]);
    assert_eq!(refused_by(SnpPolicy { allow_smt: false, ..policy() }, smt), ["guest_policy"]);
    let cxl = |report: &mut SnpReport| report.policy |= 1 << 21;
    assert_eq!(refused(cxl), ["guest_policy"]);
    assert_eq!(refused_by(SnpPolicy { allow_cxl: true, ..policy() }, cxl), [""; 0]);
    assert_eq!(refused(|report| report.policy &= !(1 << 17)), ["guest_policy"], "a reserved one");
    assert_eq!(refused(|report| report.policy |= 1 << 26), ["guest_policy"], "not known");
    assert_eq!(refused(|report| report.policy |= 1 << 63), ["guest_policy"], "not known");
    for (bit, demanding) in [
        (20, SnpPolicy { require_single_socket: true, ..policy() }),
        (22, SnpPolicy { require_aes_256_xts: true, ..policy() }),
    ] {
        assert_eq!(refused_by(demanding.clone(), |_| ()), ["guest_policy"], "bit {bit}");
        assert_eq!(refused_by(demanding, |report| report.policy |= 1 << bit), [""; 0], "bit {bit}");
    }
}

#[test]
fn features_of_the_platform_are_judged() {
    assert_eq!(refused(|report| report.platform_info = 0), ["platform"], "memory may have aliases");
    let mut unchecked = policy();
    unchecked.require_alias_check = false;
    assert_eq!(refused_by(unchecked.clone(), |report| report.platform_info = 0), [""; 0]);
    unchecked.require_ecc = true;
    assert_eq!(refused_by(unchecked, |report| report.platform_info = 0), ["platform"]);
    let no_smt = SnpPolicy { allow_smt: false, ..policy() };
    assert_eq!(refused_by(no_smt, |report| report.platform_info |= 1), ["platform"]);
    // Both the guest must ask for it, and the platform say so.
    for (guest, platform, demanding) in [
        (23, 3, SnpPolicy { require_rapl_disabled: true, ..policy() }),
        (24, 4, SnpPolicy { require_ciphertext_hiding: true, ..policy() }),
    ] {
        assert_eq!(refused_by(demanding.clone(), |_| ()), ["guest_policy", "platform"]);
        let asked = |report: &mut SnpReport| report.policy |= 1 << guest;
        assert_eq!(refused_by(demanding.clone(), asked), ["platform"]);
        let both = |report: &mut SnpReport| {
            report.policy |= 1 << guest;
            report.platform_info |= 1 << platform;
        };
        assert_eq!(refused_by(demanding, both), [""; 0]);
    }
}

#[test]
fn an_old_tcb_is_refused_component_by_component() {
    for product in SnpProduct::ALL {
        let usual = SnpTcb::read(machine(product).report.reported_tcb, product);
        let older: [fn(&mut SnpTcb) -> &mut u8; 5] = [
            |tcb| &mut tcb.fmc,
            |tcb| &mut tcb.boot_loader,
            |tcb| &mut tcb.tee,
            |tcb| &mut tcb.snp,
            |tcb| &mut tcb.microcode,
        ];
        for component in older {
            let (mut old, mut newer) = (usual, usual);
            if *component(&mut old) == 0 {
                continue;
            }
            *component(&mut old) -= 1;
            assert_eq!(failures(&judge_machine(&machine(product).with_tcb(old))), ["tcb_floor"], "{old}");
            *component(&mut newer) += 1;
            assert!(judge_machine(&machine(product).with_tcb(newer)).accepted(), "{newer}");
        }
    }
}

#[test]
fn each_of_the_four_tcbs_must_reach_the_floor() {
    let old = |field: fn(&mut SnpReport) -> &mut [u8; 8]| refused(|report| field(report)[3] -= 1);
    assert_eq!(old(|report| &mut report.committed_tcb.0), ["tcb_floor"]);
    assert_eq!(old(|report| &mut report.launch_tcb.0), ["tcb_floor"]);
    assert_eq!(old(|report| &mut report.reported_tcb.0), ["tcb_floor"]);
    assert_eq!(old(|report| &mut report.current_tcb.0), ["tcb_order", "tcb_floor"]);
}

#[test]
fn no_tcb_may_be_above_the_current_one() {
    let above = |field: fn(&mut SnpReport) -> &mut [u8; 8]| refused(|report| field(report)[7] += 1);
    assert_eq!(above(|report| &mut report.committed_tcb.0), ["tcb_order"]);
    assert_eq!(above(|report| &mut report.launch_tcb.0), ["tcb_order"]);
    assert_eq!(above(|report| &mut report.reported_tcb.0), ["tcb_order"]);
    assert_eq!(above(|report| &mut report.current_tcb.0), [""; 0]);
}

#[test]
fn a_product_without_floor_is_refused() {
    let mut milan_only = policy();
    milan_only.floors.retain(|product, _| *product == SnpProduct::Milan);
    assert_eq!(refused_by(milan_only, |_| ()), ["product", "tcb_floor"]);
    let unknown = refused(|report| report.cpuid = Some([0x1b, 0, 0]));
    assert_eq!(unknown, ["product"], "a processor of tomorrow");
}

#[test]
fn a_processor_that_says_it_is_another_finds_no_root_for_it() {
    assert_eq!(refused(|report| report.cpuid = Some([0x19, 0x01, 1])), ["intermediate", "tcb_floor"]);
}

#[test]
fn firmware_is_judged() {
    let newer = SnpFirmware { major: 1, minor: 55, build: 41 };
    assert_eq!(refused(|report| report.current_firmware = newer), ["firmware"], "may be rolled back");
    let provisional = SnpPolicy { allow_provisional_firmware: true, ..policy() };
    assert_eq!(refused_by(provisional.clone(), |report| report.current_firmware = newer), [""; 0]);
    assert_eq!(refused_by(provisional, |report| report.committed_firmware = newer), ["firmware"]);
    assert_eq!(refused_by(SnpPolicy { min_firmware: newer, ..policy() }, |_| ()), ["firmware"]);
    assert_eq!(refused(|report| report.policy |= 0x0137), [""; 0], "asks for 1.55, which runs");
    assert_eq!(refused(|report| report.policy |= 0x0138), ["firmware"], "asks for 1.56");
}

#[test]
fn mitigations_must_be_in_force_at_launch_and_now() {
    let demanding = || SnpPolicy { required_mitigations: 0b101, ..policy() };
    let with = |launch, current| {
        refused_by(demanding(), |report| {
            report.launch_mitigations = Some(launch);
            report.current_mitigations = Some(current);
        })
    };
    assert_eq!(with(0b101, 0b111), [""; 0]);
    assert_eq!(with(0b001, 0b111), ["mitigations"]);
    assert_eq!(with(0b111, 0b100), ["mitigations"]);
    let older = judge_with(demanding(), &machine(SnpProduct::Genoa).evidence_for(&BINDING), NOW);
    assert_eq!(failures(&older), ["mitigations"], "a report of version 3 has none");
}

#[test]
fn what_is_pinned_must_be_found() {
    let report = machine(SnpProduct::Turin).report;
    let pinned = SnpPolicy {
        measurements: Some(BTreeSet::from([report.measurement])),
        host_data: Some(BTreeSet::from([report.host_data])),
        id_keys: Some(BTreeSet::from([[3; 48]])),
        author_keys: Some(BTreeSet::from([[4; 48]])),
        min_guest_svn: 2,
        ..policy()
    };
    let keys = |report: &mut SnpReport| {
        report.guest_svn = 2;
        report.id_key_digest = [3; 48];
        report.author_key_digest = [4; 48];
        report.author_key_enabled = true;
    };
    assert_eq!(refused_by(pinned.clone(), keys), [""; 0]);
    let with = |change: fn(&mut SnpReport)| {
        refused_by(pinned.clone(), |report| {
            keys(report);
            change(report);
        })
    };
    assert_eq!(with(|report| report.measurement[0] ^= 1), ["measurement"]);
    assert_eq!(with(|report| report.host_data[0] ^= 1), ["host_data"]);
    assert_eq!(with(|report| report.id_key_digest[0] ^= 1), ["id_key"]);
    assert_eq!(with(|report| report.author_key_digest[0] ^= 1), ["author_key"]);
    assert_eq!(with(|report| report.author_key_enabled = false), ["author_key"]);
    assert_eq!(with(|report| report.guest_svn = 1), ["guest_svn"]);
    assert_eq!(refused(|report| report.author_key_enabled = true), ["author_key"], "a flag without digest");
}

#[test]
fn lower_privilege_levels_are_refused_unless_allowed() {
    assert_eq!(refused(|report| report.vmpl = 1), ["vmpl"]);
    assert_eq!(refused(|report| report.vmpl = u32::MAX), ["vmpl"]);
    let svsm = SnpPolicy { vmpls: BTreeSet::from([2]), ..policy() };
    assert_eq!(refused_by(svsm.clone(), |report| report.vmpl = 2), [""; 0]);
    assert_eq!(refused_by(svsm, |_| ()), ["vmpl"]);
}

#[test]
fn fetched_collateral_serves_as_well_as_what_comes_along() {
    for product in SnpProduct::ALL {
        let machine = machine(product);
        let parts = Parts::of(&machine);
        let alone = Evidence::new(EvidenceKind::SevSnp, parts.report.to_vec().into());
        let verifier = SnpVerifier::with_roots(policy(), SimulatedAmd::roots());
        let needed = verifier.collateral_needed(&alone);
        let pem = |der: &[u8]| {
            use base64::Engine as _;
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        };
        let answer = |request: &CollateralRequest| {
            if request.name.ends_with("/crl") {
                parts.crl.clone().unwrap()
            } else if request.name.ends_with("/cert_chain") {
                format!("{}{}", pem(&parts.ask), pem(&parts.ark)).into_bytes()
            } else {
                parts.endorsement.clone()
            }
        };
        let mut collateral = Collateral::none();
        // A report that does not name its line could be Milan's or Genoa's; the service knows one of them only.
        let mine = needed.iter().filter(|request| request.name.contains(product.name()));
        for request in mine {
            collateral.insert(request.clone(), answer(request).into());
        }
        let verdict = verifier.verify(&alone, &collateral, &BINDING, NOW);
        assert!(verdict.accepted(), "{verdict:#?}");
        assert_eq!(verdict.checks.iter().filter(|check| check.outcome != Outcome::Passed).count(), 0);
    }
}

#[test]
fn a_host_that_hands_out_the_certificate_of_an_older_tcb_is_helped_out() {
    let machine = machine(SnpProduct::Genoa);
    let mut before = machine.clone();
    before.report.reported_tcb.0[6] -= 1;
    let parts = Parts { endorsement: before.endorsement(), ..Parts::of(&machine) };
    assert_eq!(parts.failures(), ["signature", "tcb_certificate"]);
    let verifier = SnpVerifier::with_roots(policy(), SimulatedAmd::roots());
    let needed = verifier.collateral_needed(&parts.evidence());
    assert_eq!(needed.len(), 1, "{needed:?}");
    assert!(needed[0].name.ends_with("?blSPL=10&teeSPL=00&snpSPL=27&ucodeSPL=84"), "{needed:?}");
    let mut collateral = Collateral::none();
    collateral.insert(needed[0].clone(), machine.endorsement().into());
    assert!(verifier.verify(&parts.evidence(), &collateral, &BINDING, NOW).accepted());
    assert!(verifier.collateral_needed(&Parts::of(&machine).evidence()).is_empty());
}

#[test]
fn a_report_is_not_taken_for_a_quote_whose_first_bytes_it_shares() {
    let mut machine = machine(SnpProduct::Turin);
    // Version 5 and this security version look like a TDX quote's version and TEE type.
    machine.report.guest_svn = 0x81;
    let evidence = Evidence::from_quote(machine.evidence_for(&BINDING).bytes().clone());
    assert_eq!(evidence.kind(), EvidenceKind::SevSnp);
    assert!(judge(&evidence).accepted());
    let mut quote = evidence.bytes()[..SnpReport::LEN].to_vec();
    quote[2] = 2;
    assert_eq!(Evidence::from_quote(quote.into()).kind(), EvidenceKind::Tdx, "its key type tells a quote");
}

proptest::proptest! {
    #[test]
    fn what_is_read_of_a_report_is_written_back(
        changes in proptest::collection::vec((4..SnpReport::SIGNED_LEN, proptest::num::u8::ANY), 0..200),
        version in 2..=5_u8,
    ) {
        let mut bytes = machine(SnpProduct::Genoa).signed_report(&BINDING);
        bytes[0] = version;
        for (at, value) in changes {
            bytes[at] = value;
        }
        if let Ok(report) = SnpReport::parse(&bytes) {
            let written = encode_report(&report);
            proptest::prop_assert_eq!(SnpReport::parse(&written), Ok(report));
        }
    }

    #[test]
    fn a_tcb_is_written_as_it_is_read(bytes in proptest::array::uniform8(proptest::num::u8::ANY)) {
        for product in SnpProduct::ALL {
            let tcb = SnpTcb::read(SnpTcbBytes(bytes), product);
            proptest::prop_assert_eq!(SnpTcb::read(tcb.write(product), product), tcb);
            proptest::prop_assert!(tcb.reaches(&SnpTcb::default()) && tcb.reaches(&tcb));
        }
    }
}
