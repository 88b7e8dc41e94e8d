//! Evidence from end to end: what a verifier asks for, over HTTP from services in the form of the vendors', through the
//! cache, to the verdict.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_attest::snp::{SnpPolicy, SnpProduct, SnpRevocation, SnpTcb, SnpVerifier};
use cocoon_attest::tdx::{QuoteError, TdxPolicy, TdxQuote, TdxVerifier, check, collateral};
use cocoon_attest::{
    Collateral, CollateralRequest, CollateralSource, Evidence, EvidenceKind, Outcome, ReportData,
    UnixSeconds, Verdict, Verifier,
};
use cocoon_collateral::{Bundle, Fetcher, FixedCollateral};
use cocoon_tee::simulated::snp::{SimulatedAmd, SimulatedSnp};
use cocoon_tee::simulated::tdx::{QuoteForm, SimulatedIntel, trust_domain};
use support::{DAY, NOW, Reply, TestClock, Vendor, cached, fetcher, offline, options, path, pem, within};

const ISSUED: UnixSeconds = UnixSeconds(NOW.0 - 3_600);

fn intel(seed: u8) -> SimulatedIntel {
    SimulatedIntel::from_seed(&[seed; 32])
}

fn binding() -> ReportData {
    ReportData::for_key(&[1; 32])
}

fn quote(intel: &SimulatedIntel) -> Evidence {
    let quote = intel.machine(1).quote(QuoteForm::V4, &trust_domain("worker"), &binding());
    Evidence::new(EvidenceKind::Tdx, quote.into())
}

fn tdx_verifier(intel: &SimulatedIntel) -> TdxVerifier {
    TdxVerifier::new(TdxPolicy::strict()).with_test_root(intel.root_certificate()).unwrap()
}

/// As a PCS and a PCCS escape a chain for a header.
fn escaped(chain: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    chain
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Gives a service these answers, in the form of a PCCS.
fn publish(pccs: &Vendor, answers: &Collateral) {
    for (request, answer) in answers.iter() {
        let reply = match collateral::issuer_chain_headers(request).first() {
            Some(header) => {
                // The JSON begins where the chain in PEM, which has no brace, ends.
                let body = answer.iter().position(|byte| *byte == b'{').unwrap();
                let chain = std::str::from_utf8(&answer[..body]).unwrap();
                Reply::Answer(200, format!("{header}: {}\r\n", escaped(chain)), answer.slice(body..))
            }
            None if *request == collateral::root_crl() => Reply::ok(hex::encode(answer)),
            None => Reply::ok(answer.clone()),
        };
        pccs.says(&path(request), reply);
    }
}

async fn pccs(answers: &Collateral) -> Vendor {
    let pccs = Vendor::start().await;
    publish(&pccs, answers);
    pccs
}

/// What a node does: asks, judges, and tells the source of a refusal.
async fn judge(
    source: &dyn CollateralSource,
    verifier: &dyn Verifier,
    evidence: &Evidence,
    binding: &ReportData,
    now: UnixSeconds,
) -> (Verdict, Collateral) {
    let requests = verifier.collateral_needed(evidence);
    let found = within(source.fetch(&requests)).await.unwrap();
    let verdict = verifier.verify(evidence, &found, binding, now);
    if !verdict.accepted() {
        source.refused(&requests);
    }
    (verdict, found)
}

fn failures(verdict: &Verdict) -> Vec<&str> {
    let failed = verdict.checks.iter().filter(|check| check.outcome == Outcome::Failed);
    failed.map(|check| check.name.as_str()).collect()
}

fn notes(found: &Collateral) -> String {
    found.failures().map(|(_, note)| note).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_quote_is_accepted_with_what_a_pccs_says_and_then_offline_from_the_cache() {
    let (intel, clock, folder) = (intel(7), TestClock::at(NOW), tempfile::tempdir().unwrap());
    let (verifier, evidence) = (tdx_verifier(&intel), quote(&intel));
    let pccs = pccs(&intel.collateral(ISSUED)).await;
    let online = fetcher(&cached(&pccs.url, folder.path()), &clock);
    for _ in 0..2 {
        let (verdict, found) = judge(&online, &verifier, &evidence, &binding(), NOW).await;
        assert!(verdict.accepted(), "{verdict:#?}");
        assert_eq!(notes(&found), "");
        assert_eq!(pccs.hits(), 4, "each answer is fetched once");
    }
    pccs.stop().await;
    on_disk(folder.path(), 4).await;
    let without_network = fetcher(&offline(folder.path()), &clock);
    let (verdict, _) = judge(&without_network, &verifier, &evidence, &binding(), NOW).await;
    assert!(verdict.accepted(), "{verdict:#?}");
    // A month later the cache gives what it has, and the verifier finds it too old.
    let late = NOW.plus(31 * DAY);
    clock.set(late);
    let (verdict, found) = judge(&without_network, &verifier, &evidence, &binding(), late).await;
    assert!(failures(&verdict).contains(&check::ROOT_CRL), "{verdict:#?}");
    assert!(notes(&found).contains("run out") && notes(&found).contains("offline"), "{}", notes(&found));
}

async fn on_disk(folder: &std::path::Path, count: usize) {
    let finished = || {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.len() == 64).count()
    };
    within(async {
        while finished() < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn without_network_and_cache_the_refusal_says_why() {
    let (intel, clock, folder) = (intel(7), TestClock::at(NOW), tempfile::tempdir().unwrap());
    let nothing = fetcher(&offline(folder.path()), &clock);
    let (verdict, _) = judge(&nothing, &tdx_verifier(&intel), &quote(&intel), &binding(), NOW).await;
    assert_eq!(failures(&verdict), [check::COLLATERAL]);
    let detail = &verdict.first_failure().unwrap().detail;
    assert!(detail.contains("qe/identity (this node works offline)"), "{detail}");
}

#[tokio::test]
async fn a_real_quote_is_accepted_with_the_collateral_of_its_day() {
    let samples = format!("{}/../cocoon-attest/tests/samples/dcap-qvl", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(format!("{samples}/tdx_quote.bin")).unwrap();
    let answers = std::fs::read(format!("{samples}/tdx_quote_collateral.json")).unwrap();
    let answers: serde_json::Value = serde_json::from_slice(&answers).unwrap();
    let text = |field: &str| answers[field].as_str().unwrap();
    let signed = |chain: &str, member: &str, content: &str| {
        let signature = text(&format!("{content}_signature"));
        let body = format!("{{\"{member}\":{},\"signature\":\"{signature}\"}}", text(content));
        collateral::signed_answer(text(chain), body.as_bytes())
    };
    let evidence = Evidence::from_quote(bytes.clone().into());
    let verifier = TdxVerifier::new(TdxPolicy::strict());
    let mut published = Collateral::none();
    for request in verifier.collateral_needed(&evidence) {
        let answer = if request == collateral::root_crl() {
            hex::decode(text("root_ca_crl")).unwrap().into()
        } else if request == collateral::qe_identity() {
            signed("qe_identity_issuer_chain", "enclaveIdentity", "qe_identity")
        } else if request.name.starts_with("tdx/certification/v4/tcb?") {
            signed("tcb_info_issuer_chain", "tcbInfo", "tcb_info")
        } else {
            hex::decode(text("pck_crl")).unwrap().into()
        };
        published.insert(request, answer);
    }
    // 2025-06-20.
    let day = UnixSeconds(1_750_377_600);
    let pccs = pccs(&published).await;
    let source = fetcher(&options(&pccs.url), &TestClock::at(day));
    let binding = TdxQuote::parse(&bytes).map(|quote| quote.report_data).map_err(|error: QuoteError| error);
    let (verdict, _) = judge(&source, &verifier, &evidence, &binding.unwrap(), day).await;
    assert!(verdict.accepted(), "{verdict:#?}");
}

#[tokio::test]
async fn a_pccs_that_lies_causes_a_refusal_that_does_not_stick() {
    let (honest, liar, clock) = (intel(7), intel(8), TestClock::at(NOW));
    let (verifier, evidence) = (tdx_verifier(&honest), quote(&honest));
    let folder = tempfile::tempdir().unwrap();
    let pccs = pccs(&liar.collateral(ISSUED)).await;
    let source = fetcher(&cached(&pccs.url, folder.path()), &clock);
    let (verdict, _) = judge(&source, &verifier, &evidence, &binding(), NOW).await;
    assert!(failures(&verdict).contains(&check::ROOT_CRL), "{verdict:#?}");
    // It mends its ways, but whoever is refused again and again does not make us ask again and again.
    publish(&pccs, &honest.collateral(ISSUED));
    for _ in 0..3 {
        assert!(!judge(&source, &verifier, &evidence, &binding(), NOW).await.0.accepted());
        assert_eq!(pccs.hits(), 4);
    }
    // The next peer is not kept waiting for what is fetched anew, the one after it is judged by it.
    clock.advance(60);
    let again = async || judge(&source, &verifier, &evidence, &binding(), clock.now()).await.0;
    assert!(!again().await.accepted());
    within(async {
        while !again().await.accepted() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(pccs.hits(), 8);
}

#[tokio::test]
async fn what_was_refused_stays_in_use_while_there_is_nothing_newer() {
    let (intel, clock) = (intel(7), TestClock::at(NOW));
    let (verifier, evidence) = (tdx_verifier(&intel), quote(&intel));
    let pccs = pccs(&intel.collateral(ISSUED)).await;
    let source = fetcher(&options(&pccs.url), &clock);
    assert!(judge(&source, &verifier, &evidence, &binding(), NOW).await.0.accepted());
    pccs.stop().await;
    // A peer is refused for a fault of its own, with sound collateral.
    clock.advance(DAY / 2);
    let stranger = ReportData::for_key(&[2; 32]);
    let (verdict, _) = judge(&source, &verifier, &evidence, &stranger, clock.now()).await;
    assert_eq!(failures(&verdict), [check::BINDING]);
    for _ in 0..2 {
        let (verdict, found) = judge(&source, &verifier, &evidence, &binding(), clock.now()).await;
        assert!(verdict.accepted(), "{verdict:#?}");
        assert!(notes(&found).contains("no newer one"), "{}", notes(&found));
    }
}

#[tokio::test]
async fn a_pccs_without_the_signers_chain_is_told_from_one_that_has_it() {
    let (intel, clock) = (intel(7), TestClock::at(NOW));
    let answers = intel.collateral(ISSUED);
    let pccs = pccs(&answers).await;
    let answer = answers.get(&collateral::qe_identity()).unwrap();
    let body = answer.iter().position(|byte| *byte == b'{').unwrap();
    for headers in ["", "SGX-Enclave-Identity-Issuer-Chain: %zz\r\n"] {
        let reply = Reply::Answer(200, headers.to_owned(), answer.slice(body..));
        pccs.says(&path(&collateral::qe_identity()), reply);
        let source = fetcher(&options(&pccs.url), &clock);
        let (verdict, _) = judge(&source, &tdx_verifier(&intel), &quote(&intel), &binding(), NOW).await;
        let detail = &verdict.first_failure().unwrap().detail;
        assert!(detail.contains("SGX-Enclave-Identity-Issuer-Chain"), "{detail}");
    }
}

#[tokio::test]
async fn older_names_of_headers_and_lists_in_pem_are_understood() {
    let (intel, clock) = (intel(7), TestClock::at(NOW));
    let answers = intel.collateral(ISSUED);
    let pccs = pccs(&answers).await;
    for (request, answer) in answers.iter() {
        if request.name.contains("/tcb?") {
            let body = answer.iter().position(|byte| *byte == b'{').unwrap();
            let chain = escaped(std::str::from_utf8(&answer[..body]).unwrap());
            let headers = format!("SGX-TCB-Info-Issuer-Chain: {chain}\r\n");
            pccs.says(&path(request), Reply::Answer(200, headers, answer.slice(body..)));
        }
        if request.name.contains("/pckcrl?") {
            let pem = STANDARD.encode(answer);
            let pem = format!("-----BEGIN X509 CRL-----\n{pem}\n-----END X509 CRL-----\n");
            pccs.says(&path(request), Reply::ok(pem));
        }
    }
    let source = fetcher(&options(&pccs.url), &clock);
    let (verdict, _) = judge(&source, &tdx_verifier(&intel), &quote(&intel), &binding(), NOW).await;
    assert!(verdict.accepted(), "{verdict:#?}");
}

fn snp() -> (SimulatedSnp, SnpPolicy, Evidence) {
    let machine = SimulatedSnp::new(SnpProduct::Genoa, &[7; 32], b"image");
    let tcb = SnpTcb::read(machine.report.reported_tcb, SnpProduct::Genoa);
    // A report alone, as hosts without a certificate table hand it out.
    let evidence = Evidence::from_quote(machine.signed_report(&binding()).to_vec().into());
    (machine, SnpPolicy::with_floors([(SnpProduct::Genoa, tcb)]), evidence)
}

/// A KDS with all that this machine needs.
async fn kds(machine: &SimulatedSnp, requests: &[CollateralRequest]) -> Vendor {
    let kds = Vendor::start().await;
    for request in requests {
        let answer = if request.name.ends_with("/crl") {
            machine.revocation_list().unwrap()
        } else if request.name.ends_with("/cert_chain") {
            (pem(machine.amd().ask()) + &pem(machine.amd().ark())).into_bytes()
        } else {
            machine.endorsement()
        };
        kds.says(&path(request), Reply::ok(answer));
    }
    kds
}

#[tokio::test]
async fn a_report_is_accepted_with_what_a_kds_says_and_its_certificates_are_fetched_but_once() {
    let (machine, policy, evidence) = snp();
    let verifier = SnpVerifier::with_roots(policy, SimulatedAmd::roots());
    let requests = verifier.collateral_needed(&evidence);
    let kds = kds(&machine, &requests).await;
    let clock = TestClock::at(NOW);
    let source = fetcher(&options(&kds.url), &clock);
    for _ in 0..2 {
        let (verdict, _) = judge(&source, &verifier, &evidence, &binding(), NOW).await;
        assert!(verdict.accepted(), "{verdict:#?}");
        assert_eq!(kds.hits(), 3);
    }
    // A year later the list is fetched once more, in the background; the certificates are not.
    clock.advance(365 * DAY);
    let (verdict, _) = judge(&source, &verifier, &evidence, &binding(), clock.now()).await;
    assert!(verdict.accepted(), "{verdict:#?}");
    kds.hit(4).await;
    judge(&source, &verifier, &evidence, &binding(), clock.now()).await;
    assert_eq!(kds.hits(), 4);
}

#[tokio::test]
async fn a_kds_without_the_list_is_enough_where_the_policy_says_so() {
    let (machine, strict, evidence) = snp();
    let lenient = SnpPolicy { revocation: SnpRevocation::WhereAvailable, ..strict.clone() };
    for (policy, is_accepted) in [(strict, false), (lenient, true)] {
        let verifier = SnpVerifier::with_roots(policy, SimulatedAmd::roots());
        let requests = verifier.collateral_needed(&evidence);
        let kds = kds(&machine, &requests).await;
        for request in requests.iter().filter(|request| request.name.ends_with("/crl")) {
            kds.says(&path(request), Reply::status(404, ""));
        }
        let source = fetcher(&options(&kds.url), &TestClock::at(NOW));
        let (verdict, found) = judge(&source, &verifier, &evidence, &binding(), NOW).await;
        assert_eq!(verdict.accepted(), is_accepted, "{verdict:#?}");
        assert!(notes(&found).contains("404"), "{}", notes(&found));
    }
}

#[tokio::test]
async fn a_bundle_carries_everything_to_where_no_network_is() {
    let (intel, clock) = (intel(7), TestClock::at(NOW));
    let (verifier, evidence) = (tdx_verifier(&intel), quote(&intel));
    let pccs = pccs(&intel.collateral(ISSUED)).await;
    let requests = verifier.collateral_needed(&evidence);
    let bundle = within(fetcher(&options(&pccs.url), &clock).export_bundle(&requests)).await.unwrap();
    pccs.stop().await;

    let folder = tempfile::tempdir().unwrap();
    let elsewhere = fetcher(&offline(folder.path()), &clock);
    assert_eq!(within(elsewhere.import_bundle(&bundle)).await, Ok(4));
    // In memory, on disk, and without any cache.
    let later: Fetcher = fetcher(&offline(folder.path()), &clock);
    let fixed = FixedCollateral::new(Bundle::from_json(&bundle).unwrap().answers);
    let sources: [&dyn CollateralSource; 3] = [&elsewhere, &later, &fixed];
    for source in sources {
        let (verdict, _) = judge(source, &verifier, &evidence, &binding(), NOW).await;
        assert!(verdict.accepted(), "{verdict:#?}");
    }
}

#[tokio::test]
async fn a_bundle_that_would_lack_something_is_not_made() {
    let (intel, clock) = (intel(7), TestClock::at(NOW));
    let pccs = pccs(&intel.collateral(ISSUED)).await;
    pccs.says(&path(&collateral::qe_identity()), Reply::status(404, ""));
    let requests = tdx_verifier(&intel).collateral_needed(&quote(&intel));
    let refused = within(fetcher(&options(&pccs.url), &clock).export_bundle(&requests)).await.unwrap_err();
    assert!(refused.reason.contains("qe/identity") && refused.reason.contains("404"), "{refused}");
}

#[tokio::test]
async fn an_imported_answer_does_not_replace_a_newer_one() {
    let (intel, clock) = (intel(7), TestClock::at(NOW));
    let (verifier, evidence) = (tdx_verifier(&intel), quote(&intel));
    let old = Bundle {
        gathered_at: UnixSeconds(NOW.0 - 9 * DAY),
        answers: intel.collateral(UnixSeconds(NOW.0 - 10 * DAY)),
    };
    let pccs = pccs(&intel.collateral(ISSUED)).await;
    let source = fetcher(&options(&pccs.url), &clock);
    let (_, before) = judge(&source, &verifier, &evidence, &binding(), NOW).await;
    within(source.import_bundle(&old.to_json().unwrap())).await.unwrap();
    let (_, after) = judge(&source, &verifier, &evidence, &binding(), NOW).await;
    assert_eq!(before, after);
}
