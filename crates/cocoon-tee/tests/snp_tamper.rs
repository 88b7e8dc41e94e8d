//! SNP evidence flipped, cut, swapped, replayed, expired and revoked, each with the check that must notice.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/snp.rs"]
mod support;

use cocoon_attest::snp::{SnpCertificates, SnpPolicy, SnpProduct, SnpReport, SnpRevocation, SnpSigningKey};
use cocoon_attest::{Collateral, CollateralRequest, EvidenceKind, ReportData, UnixSeconds, Verifier as _};
use cocoon_tee::simulated::snp::{AmdForm, SimulatedAmd, SimulatedSnp, Span};
use support::{BINDING, NOW, Parts, evidence, failures, judge, judge_machine, judge_with, machine, policy};

const NOTHING: [&str; 0] = [];

fn one_of_each() -> [SimulatedSnp; 3] {
    SnpProduct::ALL.map(machine)
}

/// Ended yesterday, and begins tomorrow.
fn wrong_times() -> [Span; 2] {
    let always = Span::default();
    [Span { to: UnixSeconds(NOW.0 - 86_400), ..always }, Span { from: NOW.plus(86_400), ..always }]
}

#[test]
fn every_flipped_byte_of_a_report_is_noticed() {
    for machine in one_of_each() {
        let parts = Parts::of(&machine);
        for at in 0..SnpReport::LEN {
            let mut flipped = parts.clone();
            flipped.report[at] ^= 0x10;
            let named = flipped.failures();
            let noticed = ["signature", "format", "product", "intermediate", "signing_key", "collateral"];
            assert!(
                noticed.iter().any(|name| named.contains(&(*name).to_owned())),
                "byte {at:#x}: {named:?}"
            );
        }
    }
}

#[test]
fn flipped_certificates_are_noticed_where_they_stand() {
    let parts = Parts::of(&machine(SnpProduct::Turin));
    // Every seventh byte, whichever bit: keys, names, times, extensions and signatures are all among them.
    let flip = |der: &[u8], tamper: &dyn Fn(&mut Parts, Vec<u8>), expected: &[&str]| {
        for at in (0..der.len()).step_by(7) {
            let mut bytes = der.to_vec();
            bytes[at] ^= 1 << (at % 8);
            let mut flipped = parts.clone();
            tamper(&mut flipped, bytes);
            let named = flipped.failures();
            assert!(named.iter().any(|name| expected.contains(&name.as_str())), "byte {at}: {named:?}");
        }
    };
    flip(&parts.endorsement, &|parts, der| parts.endorsement = der, &["endorsement"]);
    flip(&parts.ask, &|parts, der| parts.ask = der, &["intermediate"]);
    flip(&parts.ark, &|parts, der| parts.ark = der, &["root"]);
    flip(&parts.crl.clone().unwrap(), &|parts, der| parts.crl = Some(der), &["revocation"]);
}

#[test]
fn cut_evidence_is_noticed() {
    let whole = machine(SnpProduct::Genoa).evidence_for(&BINDING).bytes().clone();
    for len in (0..whole.len()).step_by(11) {
        let cut = cocoon_attest::Evidence::new(EvidenceKind::SevSnp, whole.slice(..len));
        let named = failures(&judge(&cut));
        let expected = if len == SnpReport::LEN { "collateral" } else { "format" };
        assert_eq!(named, [expected], "{len} bytes");
    }
    let longer = [&whole[..], &[0; 40_000]].concat();
    let longer = cocoon_attest::Evidence::new(EvidenceKind::SevSnp, longer.into());
    assert_eq!(failures(&judge(&longer)), ["format"]);
}

#[test]
fn a_missing_certificate_is_named() {
    let parts = Parts::of(&machine(SnpProduct::Genoa));
    let full = SnpCertificates {
        vcek: Some(&parts.endorsement),
        vlek: None,
        ask: Some(&parts.ask),
        ark: Some(&parts.ark),
        crl: parts.crl.as_deref(),
    };
    for (certificates, missing) in [
        (SnpCertificates { vcek: None, ..full }, "vcek/v1/Genoa/"),
        (SnpCertificates { ask: None, ..full }, "vcek/v1/Genoa/cert_chain"),
        (SnpCertificates { ark: None, ..full }, "vcek/v1/Genoa/cert_chain"),
        (SnpCertificates { crl: None, ..full }, "vcek/v1/Genoa/crl"),
    ] {
        let verdict = judge(&evidence(&parts.report, &certificates));
        assert_eq!(failures(&verdict), ["collateral"]);
        let detail = &verdict.first_failure().unwrap().detail;
        assert!(detail.starts_with(&format!("collateral missing: {missing}")), "{detail}");
    }
    let vlek = Parts::of(&machine(SnpProduct::Genoa).with_vlek());
    let without = SnpCertificates { vlek: None, ask: Some(&vlek.ask), vcek: None, ..full };
    let policy = SnpPolicy { allow_vlek: true, ..policy() };
    assert_eq!(failures(&judge_with(policy, &evidence(&vlek.report, &without), NOW)), ["collateral"]);
}

#[test]
fn certificates_swapped_between_machines_lines_and_kinds_are_noticed() {
    let [milan, genoa, _turin] = one_of_each();
    let own = Parts::of(&genoa);
    let other = Parts::of(&SimulatedSnp::new(SnpProduct::Genoa, &[8; 32], b"image"));
    let milan = Parts::of(&milan);
    let vlek = Parts::of(&genoa.clone().with_vlek());
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = own.clone();
        change(&mut parts);
        parts.failures()
    };
    assert_eq!(with(&|_| ()), NOTHING);
    assert_eq!(with(&|parts| parts.endorsement = other.endorsement.clone()), ["signature", "chip"]);
    assert_eq!(with(&|parts| parts.report = other.report), ["signature", "chip"]);
    assert_eq!(with(&|parts| parts.endorsement = milan.endorsement.clone()), ["endorsement"]);
    assert_eq!(with(&|parts| parts.endorsement = vlek.endorsement.clone()), ["endorsement"]);
    assert_eq!(with(&|parts| parts.ask = milan.ask.clone()), ["intermediate"]);
    assert_eq!(with(&|parts| parts.ask = vlek.ask.clone()), ["intermediate"]);
    assert_eq!(with(&|parts| parts.ask = parts.ark.clone()), ["intermediate"]);
    assert_eq!(with(&|parts| parts.ark = parts.ask.clone()), ["root"]);
    // The same key under another line's name: it may not vouch for this one's authorities.
    assert_eq!(with(&|parts| parts.ark = milan.ark.clone()), ["intermediate"]);
    assert_eq!(with(&|parts| parts.crl = milan.crl.clone()), ["revocation"]);
    assert_eq!(with(&|parts| parts.crl = Some(parts.ask.clone())), ["revocation"]);
}

#[test]
fn a_certificate_for_another_chip_or_tcb_does_not_vouch_for_the_machine() {
    for machine in one_of_each() {
        let parts = Parts::of(&machine);
        let endorsed = |change: &dyn Fn(&mut cocoon_tee::simulated::snp::EndorsementForm)| {
            let mut form = machine.endorsement_form();
            change(&mut form);
            Parts { endorsement: machine.amd().endorse(&form), ..parts.clone() }.failures()
        };
        assert_eq!(endorsed(&|_| ()), NOTHING);
        assert_eq!(endorsed(&|form| form.chip.as_mut().unwrap()[0] ^= 1), ["chip"]);
        assert_eq!(endorsed(&|form| form.chip.as_mut().unwrap().push(0)), ["chip"]);
        for index in 0..8 {
            assert_eq!(endorsed(&|form| form.tcb.0[index] ^= 1), ["tcb_certificate"], "component {index}");
        }
        assert_eq!(endorsed(&|form| form.by_asvk = true), ["endorsement"]);
        assert_eq!(endorsed(&|form| form.provider = Some("CN=cloud".to_owned())), ["endorsement"]);
        assert_eq!(endorsed(&|form| form.chip = None), ["endorsement"]);
        let longer_chip = machine.report.chip_id;
        assert_eq!(
            endorsed(&|form| form.chip = Some([&[4, 64][..], &longer_chip].concat())),
            if machine.report.chip_id[8..] == [0; 56] { vec!["chip"] } else { Vec::new() },
            "an OCTET STRING around the identifier is taken, one of the wrong length is not",
        );
    }
}

#[test]
fn a_turin_chip_identifier_must_end_where_it_ends() {
    let mut machine = machine(SnpProduct::Turin);
    machine.report.chip_id[8] = 1;
    assert_eq!(failures(&judge_machine(&machine)), ["chip"]);
}

#[test]
fn a_replayed_report_is_bound_to_another_key() {
    for machine in one_of_each() {
        let captured = machine.evidence_for(&ReportData::for_key(&[1; 32]));
        assert_eq!(failures(&judge(&captured)), ["binding"]);
    }
}

#[test]
fn expired_and_premature_certificates_are_noticed() {
    let product = SnpProduct::Turin;
    let always = Span::default();
    let usual = AmdForm { product, ark: always, ask: always, asvk: always };
    for wrong in wrong_times() {
        for form in [AmdForm { ark: wrong, ..usual }, AmdForm { ask: wrong, ..usual }] {
            let amd = SimulatedAmd::with_form(&form);
            let machine = SimulatedSnp::with_amd(amd, product, &[7; 32], b"image");
            assert_eq!(failures(&judge_machine(&machine)), ["validity"], "{form:?}");
        }
        let mut endorsed = machine(product);
        endorsed.endorsed = wrong;
        assert_eq!(failures(&judge_machine(&endorsed)), ["validity"]);
        let mut listed = machine(product);
        listed.listed = Some(wrong);
        assert_eq!(failures(&judge_machine(&listed)), ["revocation"]);
    }
}

#[test]
fn the_verdict_expires_with_whatever_expires_first() {
    let mut machine = machine(SnpProduct::Genoa);
    machine.endorsed.to = NOW.plus(2_000);
    assert_eq!(judge_machine(&machine).expires_at, Some(NOW.plus(2_000)));
    machine.listed = Some(Span { to: NOW.plus(1_000), ..Span::default() });
    assert_eq!(judge_machine(&machine).expires_at, Some(NOW.plus(1_000)));
    let evidence = machine.evidence_for(&BINDING);
    assert!(judge_with(policy(), &evidence, NOW.plus(1_000)).accepted());
    assert_eq!(failures(&judge_with(policy(), &evidence, NOW.plus(1_001))), ["revocation"]);
}

#[test]
fn revoked_authorities_are_noticed_and_other_serial_numbers_are_not() {
    let machine = machine(SnpProduct::Milan);
    let with = |serials: &[&[u8]]| {
        let crl = Some(machine.amd().revocation_list(Span::default(), serials));
        Parts { crl, ..Parts::of(&machine) }.failures()
    };
    assert_eq!(with(&[SimulatedAmd::ask_serial()]), ["revocation"]);
    assert_eq!(with(&[&[9], SimulatedAmd::ask_serial(), &[8]]), ["revocation"]);
    assert_eq!(with(&[SimulatedAmd::asvk_serial(), &[5]]), NOTHING);
    // The chip's certificate has the serial number 0, but from another issuer.
    assert_eq!(with(&[&[0]]), NOTHING);
    let vlek = machine.clone().with_vlek();
    let crl = Some(vlek.amd().revocation_list(Span::default(), &[SimulatedAmd::asvk_serial()]));
    let policy = SnpPolicy { allow_vlek: true, ..policy() };
    let verdict = judge_with(policy, &Parts { crl, ..Parts::of(&vlek) }.evidence(), NOW);
    assert_eq!(failures(&verdict), ["revocation"]);
}

#[test]
fn a_fetched_list_overrules_the_one_that_the_host_held_on_to() {
    let machine = machine(SnpProduct::Genoa);
    let old = machine.evidence_for(&BINDING);
    assert!(judge(&old).accepted());
    let newer = machine.amd().revocation_list(Span::default(), &[SimulatedAmd::ask_serial()]);
    let mut collateral = Collateral::none();
    let request = CollateralRequest { kind: EvidenceKind::SevSnp, name: "vcek/v1/Genoa/crl".to_owned() };
    collateral.insert(request, newer.into());
    let verifier = cocoon_attest::snp::SnpVerifier::with_roots(policy(), SimulatedAmd::roots());
    let verdict = verifier.verify(&old, &collateral, &BINDING, NOW);
    assert_eq!(failures(&verdict), ["revocation"]);
}

#[test]
fn without_a_list_policy_decides_but_a_bad_one_never_passes() {
    let lax = || SnpPolicy { revocation: SnpRevocation::WhereAvailable, ..policy() };
    let mut machine = machine(SnpProduct::Genoa);
    machine.listed = None;
    let evidence = machine.evidence_for(&BINDING);
    assert_eq!(failures(&judge(&evidence)), ["collateral"]);
    assert!(judge_with(lax(), &evidence, NOW).accepted());
    machine.listed = Some(wrong_times()[0]);
    assert_eq!(failures(&judge_with(lax(), &machine.evidence_for(&BINDING), NOW)), ["revocation"]);
}

#[test]
fn a_report_that_is_not_signed_is_refused() {
    let mut masked = machine(SnpProduct::Turin);
    masked.report.chip_key_masked = true;
    assert_eq!(failures(&judge_machine(&masked)), ["signing_key"]);
    let mut none = machine(SnpProduct::Turin);
    none.report.signing_key = SnpSigningKey::None;
    assert_eq!(failures(&judge_machine(&none)), ["signing_key"]);
    let mut blank = Parts::of(&machine(SnpProduct::Turin));
    blank.report[SnpReport::SIGNED_LEN..].fill(0);
    assert_eq!(blank.failures(), ["signature"]);
}

#[test]
fn a_report_signed_by_the_machines_older_key_is_refused() {
    let mut machine = machine(SnpProduct::Genoa);
    let newer = Parts::of(&machine);
    machine.report.reported_tcb.0[6] -= 1;
    let older = Parts::of(&machine);
    // The certificate of the newer TCB over a report of the older one, and the other way round.
    let swapped = Parts { endorsement: newer.endorsement.clone(), ..older.clone() };
    assert_eq!(swapped.failures(), ["signature", "tcb_certificate", "tcb_floor"]);
    assert_eq!(
        Parts { endorsement: older.endorsement, ..newer }.failures(),
        ["signature", "tcb_certificate"]
    );
}

#[test]
fn properly_signed_reports_of_unknown_form_are_refused() {
    let turin = machine(SnpProduct::Turin);
    let signed = |change: &dyn Fn(&mut [u8; SnpReport::LEN])| {
        let mut report = turin.signed_report(&BINDING);
        report[SnpReport::SIGNED_LEN..].fill(0);
        change(&mut report);
        Parts { report: turin.sign(report), ..Parts::of(&turin) }.failures()
    };
    assert_eq!(signed(&|_| ()), NOTHING);
    assert_eq!(signed(&|report| report[0] = 1), ["format"], "version 1");
    assert_eq!(signed(&|report| report[0] = 6), ["format"], "version 6");
    assert_eq!(signed(&|report| report[0x34] = 2), ["format"], "another algorithm");
    assert_eq!(signed(&|report| report[0x48] |= 2 << 2), ["format"], "signing key 2");
    assert_eq!(signed(&|report| report[0x48] |= 1 << 5), ["format"], "reserved key flag");
    assert_eq!(signed(&|report| report[0x4c] = 1), ["format"], "reserved word");
    // A second form of the same signature: r and s are 72 bytes long, of which P-384 fills 48.
    let mut padded = Parts::of(&turin);
    padded.report[SnpReport::LEN - 1] = 1;
    assert_eq!(padded.failures(), ["signature"]);
}

#[test]
fn tables_that_lie_are_refused() {
    let parts = Parts::of(&machine(SnpProduct::Genoa));
    let whole = parts.evidence().bytes().to_vec();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        failures(&judge(&cocoon_attest::Evidence::new(EvidenceKind::SevSnp, bytes.into())))
    };
    let entry = |index: usize| SnpReport::LEN + 24 * index;
    assert_eq!(with(&|_| ()), NOTHING);
    assert_eq!(with(&|bytes| bytes.extend([0; 100])), NOTHING, "padding behind the certificates");
    assert_eq!(with(&|bytes| bytes[entry(0) + 16 + 3] = 0xff), ["format"], "an offset outside");
    assert_eq!(with(&|bytes| bytes[entry(0) + 20..entry(1)].fill(0xff)), ["format"], "a length outside");
    assert_eq!(with(&|bytes| bytes.copy_within(entry(0)..entry(1), entry(1))), ["format"], "an entry twice");
    // An entry of another kind is passed over: what it stood for is missing then.
    assert_eq!(with(&|bytes| bytes[entry(0)] ^= 1), ["collateral"]);
    let entries: Vec<u8> = (0..17).flat_map(|index: u8| [vec![index + 1; 16], vec![0; 8]].concat()).collect();
    let many = [&parts.report[..], &entries, &[0; 24]].concat();
    let many = cocoon_attest::Evidence::new(EvidenceKind::SevSnp, many.into());
    assert_eq!(failures(&judge(&many)), ["format"], "too many entries");
}
