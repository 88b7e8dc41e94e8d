//! Simulated TDX machines, judged by the verifier that judges real ones.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use cocoon_attest::tdx::{TcbStatus, TdBody, TdxPolicy, TdxVerifier, Tolerance, check, collateral};
use cocoon_attest::{
    Collateral, Evidence, EvidenceSource as _, Outcome, Policy, ReportData, Verifier as _, VerifierSet,
};
use cocoon_tee::simulated::tdx::{Level, Published, QuoteForm, SimulatedIntel, trust_domain};
use support::{Case, DAY, ISSUED, NOW, detail, failures};

const FORMS: [QuoteForm; 4] = [
    QuoteForm::V4,
    QuoteForm::V5(TdBody::Td10),
    QuoteForm::V5(TdBody::Td15),
    QuoteForm::V5(TdBody::Td15Extended),
];

#[test]
fn quotes_of_every_form_are_accepted_under_the_test_root_alone() {
    for form in FORMS {
        let case = Case { form, ..Case::new() };
        let verdict = case.judge();
        assert!(verdict.accepted(), "{form:?}: {verdict:#?}");
        assert!(verdict.checks.iter().all(|check| check.outcome == Outcome::Passed), "{verdict:#?}");
        assert!(detail(&verdict, check::CERTIFICATE_CHAIN).contains("TEST root"), "{verdict:#?}");
        assert_eq!(verdict.image_hash, Some(case.td.image_hash()));

        let evidence = Evidence::from_quote(case.quote().into());
        let binding = ReportData::for_key(&case.key);
        let production = TdxVerifier::new(TdxPolicy::strict());
        let refused = production.verify(&evidence, &case.collateral, &binding, NOW);
        assert_eq!(failures(&refused), [check::CERTIFICATE_CHAIN], "{form:?}: {refused:#?}");
    }
}

#[test]
fn the_verdict_holds_until_the_collateral_is_published_anew() {
    let mut case = Case::new();
    let expires = case.judge().expires_at.unwrap();
    assert_eq!(expires, ISSUED.plus(30 * DAY));
    case.now = cocoon_attest::UnixSeconds(expires.0 - 1);
    assert!(case.judge().accepted());
    case.now = expires;
    assert!(!case.judge().accepted());
}

#[test]
fn the_verifier_asks_for_exactly_what_the_simulated_vendor_publishes() {
    let case = Case::new();
    let evidence = Evidence::from_quote(case.quote().into());
    let requests = TdxVerifier::new(TdxPolicy::strict()).collateral_needed(&evidence);
    let names: Vec<&str> = requests.iter().map(|request| request.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "sgx/certification/v4/rootcacrl",
            "sgx/certification/v4/pckcrl?ca=platform&encoding=der",
            "tdx/certification/v4/tcb?fmspc=FF0053494D00",
            "tdx/certification/v4/qe/identity",
        ]
    );
    for request in &requests {
        let mut some = Collateral::none();
        for other in requests.iter().filter(|other| *other != request) {
            some.insert(other.clone(), case.collateral.get(other).unwrap().clone());
        }
        let verdict = Case { collateral: some, ..Case::new() }.judge();
        assert_eq!(failures(&verdict), [check::COLLATERAL], "{verdict:#?}");
        let expected = format!("collateral missing: {}", request.name);
        assert_eq!(detail(&verdict, check::COLLATERAL), expected);
    }
}

#[test]
fn a_cache_learns_from_each_answer_when_to_fetch_the_next() {
    let case = Case::new();
    let evidence = Evidence::from_quote(case.quote().into());
    for request in TdxVerifier::new(TdxPolicy::strict()).collateral_needed(&evidence) {
        let answer = case.collateral.get(&request).unwrap();
        assert_eq!(collateral::runs_out(answer), Some(ISSUED.plus(30 * DAY)), "{}", request.name);
        assert_eq!(collateral::runs_out(&answer[..answer.len() - 1]), None, "{}", request.name);
        let signed_elsewhere = !collateral::issuer_chain_headers(&request).is_empty();
        assert_eq!(signed_elsewhere, request.name.starts_with("tdx/"), "{}", request.name);
    }
}

#[test]
fn everything_follows_from_the_seed() {
    let [one, same, other] = [[7; 32], [7; 32], [8; 32]].map(|seed| SimulatedIntel::from_seed(&seed));
    assert_eq!(one.root_certificate(), same.root_certificate());
    assert_ne!(one.root_certificate(), other.root_certificate());
    let quote = |intel: &SimulatedIntel, number| {
        let binding = ReportData::for_key(&[1; 32]);
        intel.machine(number).quote(QuoteForm::V4, &trust_domain("worker"), &binding)
    };
    assert_eq!(quote(&one, 1), quote(&same, 1));
    assert_ne!(quote(&one, 1), quote(&one, 2));
    assert_ne!(trust_domain("worker").image_hash(), trust_domain("proxy").image_hash());
}

#[test]
fn a_simulated_source_shows_tdx_evidence_and_says_that_it_is_simulated() {
    let case = Case::new();
    let source = case.machine.clone().source(case.form, case.td);
    assert!(cocoon_tee::is_simulated(&source));
    let binding = ReportData::for_key(&case.key);
    let evidence = source.evidence(&binding).unwrap();
    assert_eq!(evidence.kind(), source.kind());
    let verifier =
        TdxVerifier::new(TdxPolicy::strict()).with_test_root(case.intel.root_certificate()).unwrap();
    let set = VerifierSet::built_in().with(source.kind(), std::sync::Arc::new(verifier));
    let verdict = set.verify(&evidence, &case.collateral, &binding, NOW);
    let policy = Policy::one_of([source.kind()]);
    assert!(policy.clone().with_image_hashes([case.td.image_hash()]).unwrap().decide(&verdict).is_allowed());
    assert!(!policy.with_image_hashes([[0; 32]]).unwrap().decide(&verdict).is_allowed());
}

#[test]
fn only_a_self_signed_authority_can_be_a_test_root() {
    let intel = SimulatedIntel::from_seed(&[7; 32]);
    let machine = intel.machine(1);
    for wrong in [
        intel.authority().certificate(),
        intel.signer().certificate(),
        machine.platform().certificate(),
        &intel.root_certificate()[1..],
        &[],
    ] {
        assert!(TdxVerifier::new(TdxPolicy::strict()).with_test_root(wrong).is_err());
    }
}

#[test]
fn every_status_but_up_to_date_is_refused_until_the_policy_names_it() {
    for status in [
        TcbStatus::SWHardeningNeeded,
        TcbStatus::ConfigurationNeeded,
        TcbStatus::ConfigurationAndSWHardeningNeeded,
        TcbStatus::OutOfDate,
        TcbStatus::OutOfDateConfigurationNeeded,
    ] {
        let mut case = Case::new();
        let platform = Level::new(status, ISSUED);
        case.collateral = case.intel.publish(&Published { platform, ..Published::usual(ISSUED) });
        let refused = case.judge();
        assert_eq!(failures(&refused), [check::TCB_STATUS], "{status:?}: {refused:#?}");
        assert!(detail(&refused, check::TCB_STATUS).contains(&format!("{status:?}")), "{refused:#?}");
        case.policy = TdxPolicy::strict().tolerate(status, Tolerance::Always);
        let tolerated = case.judge();
        assert!(tolerated.accepted(), "{status:?}: {tolerated:#?}");
    }
}

#[test]
fn a_revoked_platform_module_or_quoting_enclave_is_refused_whatever_the_policy_says() {
    let revoked = || Level::new(TcbStatus::Revoked, ISSUED);
    let usual = || Published::usual(ISSUED);
    for published in [
        Published { platform: revoked(), ..usual() },
        Published { modules: vec![(6, revoked())], ..usual() },
        Published { enclaves: vec![(4, revoked())], ..usual() },
    ] {
        let mut case = Case::new();
        case.policy = TdxPolicy::strict().tolerate(TcbStatus::Revoked, Tolerance::Always);
        case.collateral = case.intel.publish(&published);
        let verdict = case.judge();
        assert_eq!(failures(&verdict), [check::TCB_STATUS], "{verdict:#?}");
    }
}

#[test]
fn grace_ends_on_its_day_and_so_does_the_verdict() {
    let mut case = Case::new();
    let platform = Level::new(TcbStatus::OutOfDate, ISSUED);
    case.collateral = case.intel.publish(&Published { platform, ..Published::usual(ISSUED) });
    let grace = Tolerance::DaysAfterTcbDate(10);
    case.policy = TdxPolicy::strict().tolerate(TcbStatus::OutOfDate, grace);
    let end = ISSUED.plus(10 * DAY);
    case.now = end;
    let verdict = case.judge();
    assert!(verdict.accepted(), "{verdict:#?}");
    assert_eq!(verdict.expires_at, Some(end));
    case.now = end.plus(1);
    assert_eq!(failures(&case.judge()), [check::TCB_STATUS]);
}

#[test]
fn a_trust_domain_from_before_a_module_update_is_to_be_relaunched() {
    let mut case = Case { form: QuoteForm::V5(TdBody::Td15), ..Case::new() };
    let mut now = case.td.tee_tcb_svn;
    now[0] = 6;
    case.td.tee_tcb_svn[0] = 4;
    case.td.td15 = Some(cocoon_attest::tdx::Td15Measurements {
        tee_tcb_svn2: now,
        mr_service_td: [0; 48],
        current_service_td: [0; 48],
    });
    let verdict = case.judge();
    assert_eq!(failures(&verdict), [check::TCB_STATUS], "{verdict:#?}");
    assert!(detail(&verdict, check::TCB_STATUS).contains("TDRelaunchAdvised"), "{verdict:#?}");
    case.policy = TdxPolicy::strict().tolerate(TcbStatus::TDRelaunchAdvised, Tolerance::Always);
    let tolerated = case.judge();
    assert!(tolerated.accepted(), "{tolerated:#?}");
}

#[test]
fn a_relaunch_may_be_advised_together_with_other_settings() {
    let mut case = Case { form: QuoteForm::V5(TdBody::Td15), ..Case::new() };
    let platform = Level::new(TcbStatus::ConfigurationNeeded, ISSUED);
    case.collateral = case.intel.publish(&Published { platform, ..Published::usual(ISSUED) });
    let mut now = case.td.tee_tcb_svn;
    now[0] = 6;
    case.td.tee_tcb_svn[0] = 4;
    case.td.td15 = Some(cocoon_attest::tdx::Td15Measurements {
        tee_tcb_svn2: now,
        mr_service_td: [0; 48],
        current_service_td: [0; 48],
    });
    let both = TcbStatus::TDRelaunchAdvisedConfigurationNeeded;
    case.policy = TdxPolicy::strict().tolerate(both, Tolerance::Always);
    // Accepted means that the library finds the same status.
    let verdict = case.judge();
    assert!(verdict.accepted(), "{verdict:#?}");
    assert!(detail(&verdict, check::TCB_STATUS).starts_with(&format!("{both:?}")), "{verdict:#?}");
}

#[test]
fn what_the_library_refuses_is_refused_though_every_check_of_our_own_passed() {
    // Intel gives modules three states only; this one is not among them, and our reading does not mind.
    let modules = vec![(6, Level::new(TcbStatus::SWHardeningNeeded, ISSUED))];
    let mut case = Case::new();
    case.collateral = case.intel.publish(&Published { modules, ..Published::usual(ISSUED) });
    let verdict = case.judge();
    assert_eq!(failures(&verdict), [check::SECOND_READING], "{verdict:#?}");
    assert_eq!(verdict.expires_at, None);
}

#[test]
fn evidence_of_another_kind_is_not_read_as_a_quote() {
    let case = Case::new();
    let evidence = Evidence::new(cocoon_attest::EvidenceKind::SevSnp, case.quote().into());
    let verifier = TdxVerifier::new(TdxPolicy::strict());
    let verdict = verifier.verify(&evidence, &case.collateral, &ReportData::for_key(&case.key), NOW);
    assert_eq!(failures(&verdict), [check::QUOTE_FORMAT]);
    assert_eq!(detail(&verdict, check::QUOTE_FORMAT), "this is sev_snp evidence, not tdx");
}

#[test]
fn open_advisories_are_shown_and_refused_where_the_policy_names_them() {
    let mut case = Case::new();
    let mut platform = Level::new(TcbStatus::SWHardeningNeeded, ISSUED);
    platform.advisories = vec!["INTEL-SA-01245".to_owned()];
    case.collateral = case.intel.publish(&Published { platform, ..Published::usual(ISSUED) });
    case.policy = TdxPolicy::strict().tolerate(TcbStatus::SWHardeningNeeded, Tolerance::Always);
    let shown = case.judge();
    assert!(shown.accepted(), "{shown:#?}");
    assert_eq!(detail(&shown, check::ADVISORIES), "open: INTEL-SA-01245");
    case.policy.refused_advisories.insert("INTEL-SA-01245".to_owned());
    assert_eq!(failures(&case.judge()), [check::ADVISORIES]);
}

/// The fuzzer starts from these; a change of form must reach it.
#[test]
fn the_fuzzers_corpus_is_what_a_simulated_machine_and_its_vendor_make() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/tdx_evidence");
    let case = Case::new();
    let mut seeds: Vec<(String, Vec<u8>)> = FORMS
        .iter()
        .map(|form| {
            let name = format!("quote-{form:?}").replace(['(', ')'], "-").to_lowercase();
            (name.trim_end_matches('-').to_owned(), Case { form: *form, ..Case::new() }.quote())
        })
        .collect();
    let evidence = Evidence::from_quote(case.quote().into());
    let requests = TdxVerifier::new(TdxPolicy::strict()).collateral_needed(&evidence);
    for (name, request) in ["root-crl", "pck-crl", "tcb-info", "qe-identity"].into_iter().zip(&requests) {
        seeds.push((name.to_owned(), case.collateral.get(request).unwrap().to_vec()));
    }
    seeds.push(("pck-certificate".to_owned(), case.machine.platform().certificate().to_vec()));
    for (name, bytes) in seeds {
        let path = format!("{folder}/{name}");
        if std::env::var_os("COCOON_WRITE_CORPUS").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        let hint = "write them anew with COCOON_WRITE_CORPUS=1";
        assert!(std::fs::read(&path).is_ok_and(|found| found == bytes), "{name} differs: {hint}");
    }
}
