//! Reports of real machines, signed by AMD's keys.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;

use cocoon_attest::snp::{
    SnpCertificates, SnpPolicy, SnpProduct, SnpReport, SnpRevocation, SnpRoots, SnpTcb, SnpVerifier,
};
use cocoon_attest::{
    Collateral, CollateralRequest, Evidence, EvidenceKind, Measurements, Outcome, ReportData, UnixSeconds,
    Verdict, Verifier as _,
};

const MILAN: &[u8] = include_bytes!("snp/milan-report.bin");
const MILAN_VCEK: &[u8] = include_bytes!("snp/milan-vcek.der");
const AWS: &[u8] = include_bytes!("snp/milan-vlek-report.bin");
const AWS_VLEK: &[u8] = include_bytes!("snp/milan-vlek.der");
const GENOA: &[u8] = include_bytes!("snp/genoa-report.bin");
const GENOA_VCEK: &[u8] = include_bytes!("snp/genoa-vcek.der");
/// 2025-06-01: all three keys are valid then.
const THEN: UnixSeconds = UnixSeconds(1_748_736_000);

fn vcek(der: &[u8]) -> SnpCertificates<'_> {
    SnpCertificates { vcek: Some(der), ..SnpCertificates::default() }
}

fn vlek(der: &[u8]) -> SnpCertificates<'_> {
    SnpCertificates { vlek: Some(der), ..SnpCertificates::default() }
}

fn evidence(report: &[u8], certificates: SnpCertificates<'_>) -> Evidence {
    Evidence::from_quote([report, &certificates.write()].concat().into())
}

fn report_data(report: &[u8]) -> ReportData {
    SnpReport::parse(report).unwrap().report_data
}

/// What these machines were: AMD's revocation list cannot be had, and firmware before 2025 looked for no aliases.
fn lenient() -> SnpPolicy {
    let tcb = |boot_loader, snp, microcode| SnpTcb { boot_loader, snp, microcode, ..SnpTcb::default() };
    SnpPolicy {
        revocation: SnpRevocation::WhereAvailable,
        require_alias_check: false,
        ..SnpPolicy::with_floors([(SnpProduct::Milan, tcb(3, 8, 0x73)), (SnpProduct::Genoa, tcb(10, 23, 84))])
    }
}

fn judge_at(policy: SnpPolicy, evidence: &Evidence, binding: &ReportData, now: UnixSeconds) -> Verdict {
    SnpVerifier::new(policy).verify(evidence, &Collateral::none(), binding, now)
}

fn outcome(verdict: &Verdict, name: &str) -> Outcome {
    verdict.checks.iter().find(|check| check.name == name).unwrap().outcome
}

fn failures(verdict: &Verdict) -> Vec<&str> {
    let failed = verdict.checks.iter().filter(|check| check.outcome == Outcome::Failed);
    failed.map(|check| check.name.as_str()).collect()
}

#[test]
fn a_milan_report_holds_until_its_certificate_ends() {
    let sample = evidence(MILAN, vcek(MILAN_VCEK));
    assert_eq!(sample.kind(), EvidenceKind::SevSnp);
    let verdict = judge_at(lenient(), &sample, &report_data(MILAN), THEN);
    assert!(verdict.accepted(), "{verdict:#?}");
    assert_eq!(outcome(&verdict, "revocation"), Outcome::Skipped);
    // 2030-04-03 19:23:43, the end of the VCEK certificate.
    assert_eq!(verdict.expires_at, Some(UnixSeconds(1_901_474_623)));
    let Some(Measurements::SevSnp(report)) = verdict.measurements else { panic!("{verdict:?}") };
    assert_eq!(hex::encode(&report.measurement[..4]), "7a1e5c26");
    assert_eq!(verdict.image_hash, Some(report.image_hash()));
    let last = UnixSeconds(1_901_474_623);
    assert!(judge_at(lenient(), &sample, &report_data(MILAN), last).accepted());
    let late = judge_at(lenient(), &sample, &report_data(MILAN), last.plus(1));
    assert_eq!(failures(&late), ["validity"]);
    // 2023-04-03 19:23:42, one second before its beginning.
    let early = judge_at(lenient(), &sample, &report_data(MILAN), UnixSeconds(1_680_549_822));
    assert_eq!(failures(&early), ["validity"]);
}

#[test]
fn a_genoa_report_of_version_3_holds() {
    let verdict = judge_at(lenient(), &evidence(GENOA, vcek(GENOA_VCEK)), &report_data(GENOA), THEN);
    assert!(verdict.accepted(), "{verdict:#?}");
}

#[test]
fn a_report_signed_with_a_providers_key_holds_where_policy_takes_it() {
    let sample = evidence(AWS, vlek(AWS_VLEK));
    let cloud = SnpPolicy { allow_vlek: true, vmpls: BTreeSet::from([1]), ..lenient() };
    let verdict = judge_at(cloud.clone(), &sample, &report_data(AWS), THEN);
    assert!(verdict.accepted(), "{verdict:#?}");
    assert_eq!(outcome(&verdict, "chip"), Outcome::Skipped);
    let endorsement = verdict.checks.iter().find(|check| check.name == "endorsement").unwrap();
    assert!(endorsement.detail.contains("CN=cc-us-east-2.amazonaws.com"), "{}", endorsement.detail);
    let strict = judge_at(lenient(), &sample, &report_data(AWS), THEN);
    assert_eq!(failures(&strict), ["signing_key", "vmpl"]);
    // A VLEK lasts a year: 2025-12-10 22:14:22 is one second too late.
    let late = judge_at(cloud, &sample, &report_data(AWS), UnixSeconds(1_765_404_862));
    assert_eq!(failures(&late), ["validity"]);
}

#[test]
fn with_a_policy_as_strict_as_it_comes_old_machines_are_refused_by_name() {
    let policy = SnpPolicy::with_floors([(SnpProduct::Milan, SnpTcb { snp: 24, ..SnpTcb::default() })]);
    let verdict = judge_at(policy, &evidence(MILAN, vcek(MILAN_VCEK)), &report_data(MILAN), THEN);
    assert_eq!(failures(&verdict), ["collateral", "platform", "tcb_floor"]);
    let detail = &verdict.first_failure().unwrap().detail;
    assert_eq!(detail, "collateral missing: vcek/v1/Milan/crl");
    assert_eq!(outcome(&verdict, "signature"), Outcome::Passed);
}

#[test]
fn a_report_alone_names_what_to_fetch_and_is_refused_until_it_is_there() {
    let alone = evidence(GENOA, SnpCertificates::default());
    let verifier = SnpVerifier::new(lenient());
    let needed = verifier.collateral_needed(&alone);
    let names: Vec<_> = needed.iter().map(|request| request.name.as_str()).collect();
    let chip = "0506ffba875e939c2729d20c74eb72b4c5ba6bf7ea1faaa640141f12c6d64782\
                fb487f68ce69dcd021e914cc0d9244327bc121f0242d6470903ad1d4aaea4ad1";
    let vcek_name = format!("vcek/v1/Genoa/{chip}?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84");
    assert_eq!(names, [vcek_name.as_str(), "vcek/v1/Genoa/crl"]);
    let verdict = verifier.verify(&alone, &Collateral::none(), &report_data(GENOA), THEN);
    assert_eq!(failures(&verdict), ["collateral"]);
    assert_eq!(outcome(&verdict, "signature"), Outcome::Skipped);
    let mut collateral = Collateral::none();
    collateral.insert(needed[0].clone(), GENOA_VCEK.to_vec().into());
    assert!(verifier.verify(&alone, &collateral, &report_data(GENOA), THEN).accepted());
}

#[test]
fn a_version_2_report_alone_asks_for_both_lines_that_wrote_such_reports() {
    let alone = evidence(MILAN, SnpCertificates::default());
    let verifier = SnpVerifier::new(lenient());
    let needed = verifier.collateral_needed(&alone);
    assert_eq!(needed.len(), 4, "{needed:?}");
    let verdict = verifier.verify(&alone, &Collateral::none(), &report_data(MILAN), THEN);
    assert_eq!(failures(&verdict), ["product", "collateral"]);
    let milan = needed.iter().find(|request| request.name.starts_with("vcek/v1/Milan/d495")).unwrap();
    let mut collateral = Collateral::none();
    collateral.insert(milan.clone(), MILAN_VCEK.to_vec().into());
    assert!(verifier.verify(&alone, &collateral, &report_data(MILAN), THEN).accepted());
}

#[test]
fn another_list_than_amds_is_not_believed() {
    let mut collateral = Collateral::none();
    let request = CollateralRequest { kind: EvidenceKind::SevSnp, name: "vcek/v1/Milan/crl".to_owned() };
    collateral.insert(request, MILAN_VCEK.to_vec().into());
    let sample = evidence(MILAN, vcek(MILAN_VCEK));
    let verdict = SnpVerifier::new(lenient()).verify(&sample, &collateral, &report_data(MILAN), THEN);
    assert_eq!(failures(&verdict), ["revocation"]);
}

#[test]
fn amds_reports_are_nothing_to_a_verifier_with_other_roots() {
    let ark = include_bytes!("../src/snp/amd/ark-milan.der");
    let ask = include_bytes!("../src/snp/amd/ask-milan.der");
    let certificates = SnpCertificates { ark: Some(ark), ask: Some(ask), ..vcek(MILAN_VCEK) };
    let sample = evidence(MILAN, certificates);
    assert!(judge_at(lenient(), &sample, &report_data(MILAN), THEN).accepted());
    let verifier = SnpVerifier::with_roots(lenient(), SnpRoots::simulated([]));
    let verdict = verifier.verify(&sample, &Collateral::none(), &report_data(MILAN), THEN);
    assert_eq!(failures(&verdict), ["root"]);
}

#[test]
fn keys_and_reports_of_different_machines_do_not_go_together() {
    let mixed = |report, certificates| {
        let policy = SnpPolicy { allow_vlek: true, vmpls: BTreeSet::from([0, 1]), ..lenient() };
        let verdict = judge_at(policy, &evidence(report, certificates), &report_data(report), THEN);
        failures(&verdict).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(mixed(GENOA, vcek(MILAN_VCEK)), ["endorsement"]);
    assert_eq!(mixed(MILAN, vcek(include_bytes!("snp/turin-vcek.der"))), ["product"]);
    assert_eq!(
        mixed(AWS, SnpCertificates { vlek: Some(MILAN_VCEK), ..SnpCertificates::default() }),
        ["endorsement"]
    );
}

#[test]
fn every_signed_byte_counts() {
    let binding = report_data(MILAN);
    for at in 0..SnpReport::LEN {
        let mut report = MILAN.to_vec();
        report[at] ^= 1;
        let bytes = [&report[..], &vcek(MILAN_VCEK).write()].concat();
        let sample = Evidence::new(EvidenceKind::SevSnp, bytes.into());
        let verdict = judge_at(lenient(), &sample, &binding, THEN);
        assert!(!verdict.accepted(), "byte {at:#x} was changed and nobody minded");
        let named = failures(&verdict);
        // Another version says otherwise which product it is, and without that no signature can be looked at.
        let noticed = ["signature", "format", "product"].iter().any(|name| named.contains(name));
        assert!(noticed, "byte {at:#x}: {named:?}");
    }
}

#[test]
fn every_byte_of_the_certificate_counts() {
    let binding = report_data(MILAN);
    for at in 0..MILAN_VCEK.len() {
        let mut der = MILAN_VCEK.to_vec();
        der[at] ^= 1;
        let verdict = judge_at(lenient(), &evidence(MILAN, vcek(&der)), &binding, THEN);
        assert!(!verdict.accepted(), "byte {at} was changed and nobody minded");
        let named = failures(&verdict);
        assert!(named == ["endorsement"] || named.contains(&"product"), "byte {at}: {named:?}");
    }
}

#[test]
fn a_verdict_survives_being_saved() {
    let verdict = judge_at(lenient(), &evidence(GENOA, vcek(GENOA_VCEK)), &report_data(GENOA), THEN);
    let text = serde_json::to_string(&verdict).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), verdict);
}
