//! Real quotes of Intel platforms, judged with the collateral of their day.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

use cocoon_attest::tdx::{TcbStatus, TdxPolicy, TdxVerifier, Tolerance, check, collateral};
use cocoon_attest::{
    Collateral, Evidence, EvidenceKind, Measurements, Outcome, ReportData, TdxQuote, UnixSeconds, Verdict,
    Verifier as _,
};

/// 2025-06-20, 2026-02-20 and 2026-10-09, 00:00 UTC.
const DAY_OF_TDX: UnixSeconds = UnixSeconds(1_750_377_600);
const DAY_OF_OUTDATED: UnixSeconds = UnixSeconds(1_771_545_600);
const DAY_OF_EXTENDED: UnixSeconds = UnixSeconds(1_791_504_000);

struct Sample {
    evidence: Evidence,
    collateral: Collateral,
    binding: ReportData,
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/samples/dcap-qvl/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A quote and what a PCS answered to the requests for it.
fn sample(name: &str) -> Sample {
    let quote = file(&format!("{name}.bin"));
    let answers: serde_json::Value =
        serde_json::from_slice(&file(&format!("{name}_collateral.json"))).unwrap();
    let text = |field: &str| answers[field].as_str().unwrap();
    let signed = |chain: &str, member: &str, content: &str, signature: &str| {
        let body = format!("{{\"{member}\":{},\"signature\":\"{}\"}}", text(content), text(signature));
        collateral::signed_answer(text(chain), body.as_bytes())
    };
    let evidence = Evidence::from_quote(quote.clone().into());
    let mut fetched = Collateral::none();
    for request in TdxVerifier::new(TdxPolicy::strict()).collateral_needed(&evidence) {
        let answer = match request.name.as_str() {
            "sgx/certification/v4/rootcacrl" => text("root_ca_crl").as_bytes().to_vec().into(),
            "sgx/certification/v4/pckcrl?ca=platform&encoding=der" => {
                hex::decode(text("pck_crl")).unwrap().into()
            }
            "tdx/certification/v4/qe/identity" => {
                signed("qe_identity_issuer_chain", "enclaveIdentity", "qe_identity", "qe_identity_signature")
            }
            name => {
                assert!(name.starts_with("tdx/certification/v4/tcb?fmspc="), "{name}");
                signed("tcb_info_issuer_chain", "tcbInfo", "tcb_info", "tcb_info_signature")
            }
        };
        fetched.insert(request, answer);
    }
    let binding = TdxQuote::parse(&quote).unwrap().report_data;
    Sample { evidence, collateral: fetched, binding }
}

fn judge(sample: &Sample, policy: TdxPolicy, now: UnixSeconds) -> Verdict {
    TdxVerifier::new(policy).verify(&sample.evidence, &sample.collateral, &sample.binding, now)
}

/// The names of the checks that failed.
fn failures(verdict: &Verdict) -> Vec<&str> {
    let failed = verdict.checks.iter().filter(|check| check.outcome == Outcome::Failed);
    failed.map(|check| check.name.as_str()).collect()
}

fn detail<'a>(verdict: &'a Verdict, name: &str) -> &'a str {
    &verdict.checks.iter().find(|check| check.name == name).unwrap().detail
}

#[test]
fn a_quote_of_tdx_1_0_is_accepted_on_its_day_until_its_collateral_runs_out() {
    let sample = sample("tdx_quote");
    let verdict = judge(&sample, TdxPolicy::strict(), DAY_OF_TDX);
    assert!(verdict.accepted(), "{verdict:#?}");
    assert!(verdict.checks.iter().all(|check| check.outcome == Outcome::Passed), "{verdict:#?}");
    // 2025-07-19T10:00:35Z: the platform authority's next revocation list is due first.
    assert_eq!(verdict.expires_at, Some(UnixSeconds(1_752_919_235)));
    let last = judge(&sample, TdxPolicy::strict(), UnixSeconds(1_752_919_234));
    assert!(last.accepted(), "{last:#?}");
    let late = judge(&sample, TdxPolicy::strict(), UnixSeconds(1_752_919_235));
    assert_eq!(failures(&late), [check::PCK_CRL], "{late:#?}");
    assert_eq!(late.expires_at, None);
}

#[test]
fn a_quote_of_the_extended_tdx_1_5_is_accepted_on_its_day() {
    let verdict = judge(&sample("tdx_quote_td15ex"), TdxPolicy::strict(), DAY_OF_EXTENDED);
    assert!(verdict.accepted(), "{verdict:#?}");
    let Some(Measurements::Tdx(measurements)) = verdict.measurements else {
        panic!("no measurements: {verdict:#?}");
    };
    assert_eq!(measurements.td15.unwrap().tee_tcb_svn2[..3], [0x0f, 1, 4]);
}

#[test]
fn a_platform_below_every_published_level_is_refused_whatever_the_policy_puts_up_with() {
    let sample = sample("tdx_quote_outdated");
    let lenient = TdxPolicy::strict().tolerate(TcbStatus::OutOfDate, Tolerance::Always);
    let verdict = judge(&sample, lenient, DAY_OF_OUTDATED);
    assert_eq!(failures(&verdict), [check::TCB_STATUS], "{verdict:#?}");
    let lacking = "the platform is older than anything Intel publishes: Sgx(7) is 3 of 5";
    assert_eq!(detail(&verdict, check::TCB_STATUS), lacking);
}

#[test]
fn an_sgx_quote_is_no_evidence_of_a_trust_domain() {
    let evidence = Evidence::new(EvidenceKind::Tdx, file("sgx_quote.bin").into());
    let verifier = TdxVerifier::new(TdxPolicy::strict());
    assert_eq!(verifier.collateral_needed(&evidence), []);
    let verdict = verifier.verify(&evidence, &Collateral::none(), &ReportData([0; 64]), DAY_OF_TDX);
    assert_eq!(failures(&verdict), [check::QUOTE_FORMAT], "{verdict:#?}");
}

#[test]
fn without_collateral_everything_else_is_checked_and_the_quote_refused() {
    let mut sample = sample("tdx_quote");
    sample.collateral = Collateral::none();
    let verdict = judge(&sample, TdxPolicy::strict(), DAY_OF_TDX);
    assert_eq!(failures(&verdict), [check::COLLATERAL], "{verdict:#?}");
    assert!(detail(&verdict, check::COLLATERAL).starts_with("collateral missing: sgx/certification"));
    let passed = |name: &str| {
        verdict.checks.iter().any(|check| check.name == name && check.outcome == Outcome::Passed)
    };
    for name in [check::CERTIFICATE_CHAIN, check::QUOTE_SIGNATURE, check::BINDING, check::TD_ATTRIBUTES] {
        assert!(passed(name), "{name}: {verdict:#?}");
    }
}

/// Every byte of a real quote that anything rests on: changing it must change the verdict.
#[test]
fn a_changed_byte_anywhere_but_in_padding_and_line_ends_is_refused() {
    let sample = sample("tdx_quote");
    let bytes = sample.evidence.bytes().to_vec();
    let chain = bytes.windows(5).position(|window| window == b"-----").unwrap();
    // Header, body, signature data up to the certificates, each byte; of the certificates the first one's.
    let steps = (0..chain).step_by(7).chain((chain..chain + 1_700).step_by(41));
    for at in steps {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let evidence = Evidence::new(EvidenceKind::Tdx, changed.into());
        let tampered = Sample { evidence, collateral: sample.collateral.clone(), binding: sample.binding };
        let verdict = judge(&tampered, TdxPolicy::strict(), DAY_OF_TDX);
        assert!(!verdict.accepted(), "byte {at} may be changed: {verdict:#?}");
    }
}

#[test]
fn real_evidence_without_collateral_leads_to_intels_root_and_is_refused() {
    let Some(folder) = std::env::var_os("COCOON_TDX_VECTORS").map(std::path::PathBuf::from) else {
        eprintln!("skipped: COCOON_TDX_VECTORS does not name the folder with a real quote");
        return;
    };
    let quote = std::fs::read(folder.join("quote-v4-td10.bin")).unwrap();
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("quote-v4-td10.json")).unwrap()).unwrap();
    let binding = TdxQuote::parse(&quote).unwrap().report_data;
    let sample =
        Sample { evidence: Evidence::from_quote(quote.into()), collateral: Collateral::none(), binding };
    let verdict = judge(&sample, TdxPolicy::strict(), DAY_OF_EXTENDED);
    assert_eq!(failures(&verdict), [check::COLLATERAL], "{verdict:#?}");
    assert_eq!(hex::encode(verdict.image_hash.unwrap()), expected["image_hash"].as_str().unwrap());
}
