//! From evidence to the decision whether a peer is let in.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

use std::sync::Arc;

use cocoon_attest::gpu::GpuVerdict;
use cocoon_attest::snp::SnpProduct;
use cocoon_attest::tdx::{TcbStatus, TdxPolicy, Tolerance};
use cocoon_attest::{
    Check, Collateral, CollateralRequest, Demands, Evidence, EvidenceKind, GpuDemand, Measurements,
    OperatorPolicy, Outcome, Policy, PolicyDecision, PolicyError, PolicyRule, QuoteError, ReportData,
    TdxQuote, TestRoots, UnixSeconds, Verdict, Verifier, VerifierSet,
};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
/// SHA-256 of 448 zero bytes.
const FAKE_IMAGE: &str = "5c55c8f4db4010ba9203d83536d0609856af8c847ac039e37e7dde8fbd574b61";

fn judge(evidence: &Evidence, key: &[u8; 32]) -> Verdict {
    VerifierSet::built_in().verify(evidence, &Collateral::none(), &ReportData::for_key(key), NOW)
}

fn fake_evidence(key: &[u8; 32]) -> Evidence {
    Evidence::from_quote(ReportData::for_key(key).0.to_vec().into())
}

fn rule(decision: PolicyDecision) -> Option<PolicyRule> {
    match decision {
        PolicyDecision::Allowed => None,
        PolicyDecision::Refused { rule, .. } => Some(rule),
    }
}

#[test]
fn a_fake_quote_bound_to_the_key_is_accepted_with_the_published_image_hash() {
    let verdict = judge(&fake_evidence(&[1; 32]), &[1; 32]);
    assert!(verdict.accepted(), "{verdict:?}");
    assert_eq!(hex::encode(verdict.image_hash.unwrap()), FAKE_IMAGE);
    assert_eq!(Policy::fake_tdx().decide(&verdict), PolicyDecision::Allowed);
}

#[test]
fn a_fake_quote_of_another_key_is_refused() {
    let verdict = judge(&fake_evidence(&[1; 32]), &[2; 32]);
    assert_eq!(verdict.first_failure().unwrap().name, "binding");
    assert_eq!(rule(Policy::fake_tdx().decide(&verdict)), Some(PolicyRule::Verification));
}

#[test]
fn evidence_is_recognised_by_its_form() {
    let tdx = |version| [&[version, 0, 2, 0, 0x81, 0, 0, 0][..], &[0; 700]].concat();
    for (bytes, kind) in [
        (vec![0; 64], EvidenceKind::FakeTdx),
        (vec![0; 63], EvidenceKind::Unrecognised),
        (vec![], EvidenceKind::Unrecognised),
        (tdx(4), EvidenceKind::Tdx),
        (tdx(5), EvidenceKind::Tdx),
        (tdx(3), EvidenceKind::Unrecognised),
    ] {
        assert_eq!(Evidence::from_quote(bytes.clone().into()).kind(), kind, "{:02x?}", bytes.get(..8));
    }
}

#[test]
fn a_policy_that_needs_evidence_refuses_none_other_and_unverified_evidence() {
    let policy = Policy::fake_tdx();
    assert!(policy.needs_evidence());
    let none = judge(&Evidence::none(), &[1; 32]);
    assert_eq!(rule(policy.decide(&none)), Some(PolicyRule::EvidenceKind));
    let tdx = Verdict::unchecked(EvidenceKind::Tdx, "test");
    assert_eq!(rule(policy.decide(&tdx)), Some(PolicyRule::EvidenceKind));
    for unverified in
        [Verdict::new(EvidenceKind::FakeTdx), Verdict::unchecked(EvidenceKind::FakeTdx, "not looked at")]
    {
        assert_eq!(rule(policy.decide(&unverified)), Some(PolicyRule::Verification), "{unverified:?}");
    }
}

#[test]
fn the_policy_any_lets_everybody_in_whatever_is_shown() {
    let policy = Policy::any();
    assert!(!policy.needs_evidence());
    for verdict in [
        judge(&Evidence::none(), &[1; 32]),
        judge(&fake_evidence(&[2; 32]), &[1; 32]),
        Verdict::unchecked(EvidenceKind::Unrecognised, "test"),
    ] {
        assert_eq!(policy.decide(&verdict), PolicyDecision::Allowed);
    }
}

#[test]
fn no_policy_counts_missing_or_unrecognised_evidence_as_evidence() {
    let policy = Policy::one_of([EvidenceKind::None, EvidenceKind::Unrecognised]);
    for kind in [EvidenceKind::None, EvidenceKind::Unrecognised, EvidenceKind::FakeTdx] {
        let mut verdict = Verdict::new(kind);
        verdict.record("test", Outcome::Passed, "said so");
        assert_eq!(rule(policy.decide(&verdict)), Some(PolicyRule::EvidenceKind), "{kind}");
    }
}

#[test]
fn image_hashes_off_the_list_and_missing_ones_are_refused() {
    let mut verdict = judge(&fake_evidence(&[1; 32]), &[1; 32]);
    let hash = verdict.image_hash.unwrap();
    let with = |hashes: &[[u8; 32]]| Policy::fake_tdx().with_image_hashes(hashes.iter().copied()).unwrap();
    assert_eq!(with(&[[9; 32], hash]).decide(&verdict), PolicyDecision::Allowed);
    assert_eq!(rule(with(&[[9; 32]]).decide(&verdict)), Some(PolicyRule::ImageHash));
    assert_eq!(rule(with(&[]).decide(&verdict)), Some(PolicyRule::ImageHash), "an empty list allows nothing");
    verdict.image_hash = None;
    assert_eq!(rule(with(&[hash]).decide(&verdict)), Some(PolicyRule::ImageHash));
}

#[test]
fn image_hashes_without_evidence_are_a_configuration_error() {
    let error = Policy::any().with_image_hashes([[1; 32]]).unwrap_err();
    assert_eq!(error, PolicyError::HashesWithoutEvidence);
}

#[test]
fn policies_go_by_their_published_names() {
    assert_eq!(Policy::by_name("any"), Ok(Policy::any()));
    assert_eq!(Policy::by_name("fake_tdx"), Ok(Policy::fake_tdx()));
    assert_eq!(Policy::by_name("tee"), Ok(Policy::tee()));
    assert!(Policy::by_name("tdx").is_err());
}

#[test]
fn an_image_must_be_on_both_lists_where_there_are_two() {
    let verdict = judge(&fake_evidence(&[1; 32]), &[1; 32]);
    let hash = verdict.image_hash.unwrap();
    let policy = |listed: [u8; 32], pinned: [u8; 32]| {
        Policy::fake_tdx().with_image_hashes([listed]).unwrap().with_pinned_images([pinned]).unwrap()
    };
    assert_eq!(policy(hash, hash).decide(&verdict), PolicyDecision::Allowed);
    assert_eq!(rule(policy([9; 32], hash).decide(&verdict)), Some(PolicyRule::ImageHash));
    assert_eq!(rule(policy(hash, [9; 32]).decide(&verdict)), Some(PolicyRule::PinnedImage));
}

#[test]
fn gpus_are_judged_as_the_policy_demands() {
    let verdict = |gpu: Option<Outcome>| {
        let mut verdict = judge(&fake_evidence(&[1; 32]), &[1; 32]);
        verdict.gpu = gpu.map(|outcome| {
            let check = Check { name: "gpu0.signature".to_owned(), outcome, detail: "looked".to_owned() };
            let mut judged = GpuVerdict::default();
            judged.checks.push(check);
            judged
        });
        verdict
    };
    let refusal = |demand, gpu| rule(Policy::fake_tdx().with_gpus(demand).decide(&verdict(gpu)));
    use GpuDemand::{Checked, Ignored, Required};
    for (demand, none, bad) in [
        (Ignored, None, None),
        (Checked, None, Some(PolicyRule::GpuVerification)),
        (Required, Some(PolicyRule::GpuEvidence), Some(PolicyRule::GpuVerification)),
    ] {
        assert_eq!(refusal(demand, Some(Outcome::Passed)), None, "{demand:?}");
        assert_eq!(refusal(demand, None), none, "{demand:?}");
        assert_eq!(refusal(demand, Some(Outcome::Failed)), bad, "{demand:?}");
        // What nobody verified is no evidence.
        assert_eq!(refusal(demand, Some(Outcome::Skipped)), bad, "{demand:?}");
    }
}

#[test]
fn an_operators_policy_is_strict_where_it_says_nothing() {
    let policy: OperatorPolicy = toml::from_str("").unwrap();
    assert_eq!(policy, OperatorPolicy::default());
    assert_eq!(policy.proxy.policy(), Ok(Policy::tee()));
    assert_eq!(policy.tdx, TdxPolicy::strict());
    assert!(
        !policy.sev_snp.floors.contains_key(&SnpProduct::Milan),
        "keys of Milan chips have been taken out"
    );
    assert!(!policy.sev_snp.allow_provisional_firmware && policy.sev_snp.require_alias_check);
}

#[test]
fn an_operators_policy_says_what_it_says_and_nothing_else() {
    let text = format!(
        r#"
        [worker]
        accept = ["sev_snp"]
        images = ["{}"]
        [tdx]
        tcb = {{ UpToDate = "always", SWHardeningNeeded = {{ days_after_tcb_date = 90 }} }}
        allowed_td_attributes = "0x8000000010000000"
        [sev_snp.floors.milan]
        snp = 24
        microcode = 219
        [sev_snp.microcode]
        19-1-1 = 219
        "#,
        "ab".repeat(32)
    );
    let policy: OperatorPolicy = toml::from_str(&text).unwrap();
    let worker = Policy::one_of([EvidenceKind::SevSnp]).with_pinned_images([[0xab; 32]]).unwrap();
    assert_eq!(policy.worker.policy(), Ok(worker));
    assert_eq!(policy.proxy, Demands::default());
    assert_eq!(policy.tdx.allowed_td_attributes, 1 << 63 | 1 << 28);
    assert_eq!(policy.tdx.tcb[&TcbStatus::SWHardeningNeeded], Tolerance::DaysAfterTcbDate(90));
    assert_eq!(policy.sev_snp.floors.keys().collect::<Vec<_>>(), [&SnpProduct::Milan]);
    let again = toml::to_string(&policy).unwrap();
    assert_eq!(toml::from_str::<OperatorPolicy>(&again).unwrap(), policy, "{again}");
    for wrong in [
        "[workers]\naccept = [\"tdx\"]",
        "[worker]\naccept = [\"sgx\"]",
        "[worker]\nimages = [\"ab\"]",
        "[tdx]\ndebug = true",
        "[tdx]\nallowed_xfam = \"7\"",
        "[sev_snp.floors.rome]\nsnp = 1",
        "[sev_snp.microcode]\n19-11 = 1",
    ] {
        assert!(toml::from_str::<OperatorPolicy>(wrong).is_err(), "{wrong}");
    }
    for kind in ["none", "unrecognised"] {
        let policy: OperatorPolicy = toml::from_str(&format!("[worker]\naccept = [\"{kind}\"]")).unwrap();
        assert!(policy.worker.policy().is_err(), "{kind} counted as evidence");
    }
}

#[test]
fn a_test_root_counts_only_where_it_was_given() {
    let policy = OperatorPolicy::default();
    assert!(policy.verifiers(&TestRoots::default()).is_ok());
    let no_root = TestRoots { intel: Some(vec![1, 2, 3]), ..TestRoots::default() };
    assert!(policy.verifiers(&no_root).is_err());
}

#[test]
fn evidence_without_a_verifier_fails() {
    let verdict = judge(&Evidence::new(EvidenceKind::SevSnp, vec![1].into()), &[1; 32]);
    assert!(!verdict.accepted());
    assert_eq!(verdict.first_failure().unwrap().detail, "this node cannot verify sev_snp evidence");
}

#[test]
fn a_verifier_joins_the_set_with_its_collateral() {
    struct NeedsPaper;
    fn paper() -> CollateralRequest {
        CollateralRequest { kind: EvidenceKind::SevSnp, name: "paper".to_owned() }
    }
    impl Verifier for NeedsPaper {
        fn collateral_needed(&self, _: &Evidence) -> Vec<CollateralRequest> {
            vec![paper()]
        }
        fn verify(&self, e: &Evidence, c: &Collateral, _: &ReportData, _: UnixSeconds) -> Verdict {
            let mut verdict = Verdict::new(e.kind());
            let outcome = if c.get(&paper()).is_some() { Outcome::Passed } else { Outcome::Failed };
            verdict.record("paper", outcome, "looked for it");
            verdict
        }
    }
    let set = VerifierSet::built_in().with(EvidenceKind::SevSnp, Arc::new(NeedsPaper));
    let evidence = Evidence::new(EvidenceKind::SevSnp, vec![1].into());
    assert_eq!(set.collateral_needed(&evidence), [paper()]);
    assert_eq!(set.collateral_needed(&Evidence::none()), []);
    let binding = ReportData([0; 64]);
    assert!(!set.verify(&evidence, &Collateral::none(), &binding, NOW).accepted());
    let mut collateral = Collateral::none();
    collateral.insert(paper(), b"signed".to_vec().into());
    assert!(set.verify(&evidence, &collateral, &binding, NOW).accepted());
}

#[test]
fn verdicts_survive_json_with_hashes_readable() {
    let verdict = judge(&fake_evidence(&[1; 32]), &[1; 32]);
    let json = serde_json::to_string(&verdict).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), verdict);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["kind"], "fake_tdx");
    assert_eq!(value["image_hash"], hex::encode(verdict.image_hash.unwrap()));
    let unchecked = Verdict::unchecked(EvidenceKind::None, "test");
    let json = serde_json::to_string(&unchecked).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), unchecked);
}

#[test]
fn quotes_that_are_short_of_another_version_or_kind_are_refused() {
    let mut quote = vec![0; TdxQuote::MIN_LEN];
    quote[0] = 4;
    quote[4] = 0x81;
    assert!(TdxQuote::parse(&quote).is_ok());
    let short = TdxQuote::MIN_LEN - 1;
    assert_eq!(TdxQuote::parse(&quote[..short]), Err(QuoteError::TooShort { len: short }));
    assert_eq!(TdxQuote::parse(&[]), Err(QuoteError::TooShort { len: 0 }));
    quote[4] = 0;
    assert_eq!(TdxQuote::parse(&quote), Err(QuoteError::NotTdx { tee_type: 0 }));
    quote[0] = 3;
    assert_eq!(TdxQuote::parse(&quote), Err(QuoteError::UnsupportedVersion { version: 3 }));
}

#[test]
fn a_real_quote_gives_its_measurements_and_image_hash() {
    let Some(folder) = std::env::var_os("COCOON_TDX_VECTORS").map(std::path::PathBuf::from) else {
        eprintln!("skipped: COCOON_TDX_VECTORS does not name the folder with a real quote");
        return;
    };
    let quote = std::fs::read(folder.join("quote-v4-td10.bin")).unwrap();
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("quote-v4-td10.json")).unwrap()).unwrap();
    let quote = TdxQuote::parse(&quote).unwrap();
    let measurements = serde_json::to_value(Measurements::Tdx(quote.measurements)).unwrap();
    for field in ["mr_td", "mr_config_id", "mr_owner", "mr_owner_config", "rtmr", "td_attributes"] {
        assert_eq!(measurements["tdx"][field], expected[field], "{field}");
    }
    assert_eq!(hex::encode(quote.report_data.0), expected["report_data"]);
    assert_eq!(hex::encode(quote.measurements.image_hash()), expected["image_hash"]);
}
