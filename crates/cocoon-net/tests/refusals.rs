//! Peers that are not let in, each for its own reason, from either side.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cocoon_attest::{
    CertificateError, Collateral, CollateralFuture, CollateralRequest, CollateralSource, Evidence,
    EvidenceKind, Outcome, Policy, PolicyRule, ReportData, UnixSeconds, Verdict, Verifier, VerifierSet,
};
use cocoon_net::{AcceptOptions, ConnectFailure, DialOptions, NoLongerAllowed, Stage, TlsSettings, dial};
use cocoon_wire::pow::{Challenge, Solution};
use support::forge::{self, Forge, NOT_AFTER};
use support::{
    ManualClock, NOW, RawTls, accept_from, accepting, cause, charge, connect, dial_to, dialling, identity,
    listen, node, pay,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SEED: [u8; 32] = [7; 32];

fn node_at(second: u64, policy: Policy) -> TlsSettings {
    let clock = ManualClock::at(second);
    TlsSettings::new(identity("fake_tdx"), Arc::new(VerifierSet::built_in()), policy, None, clock).unwrap()
}

/// What our acceptor and our dialler say to a raw peer with this TLS.
async fn refusals_at(second: u64, policy: Policy, tls: &RawTls) -> [ConnectFailure; 2] {
    let settings = node_at(second, policy);
    let (accepted, _) = accept_from(&settings, &accepting(), async |mut tcp| {
        pay(&mut tcp).await;
        tls.dial(tcp).await
    })
    .await;
    let (dialled, _) = dial_to(&settings, &dialling(), async |mut tcp| {
        charge(&mut tcp, 0).await;
        tls.accept(tcp).await
    })
    .await;
    [cause(accepted), cause(dialled)]
}

async fn refusals(policy: Policy, forge: &Forge) -> [ConnectFailure; 2] {
    refusals_at(NOW, policy, &RawTls::showing(forge)).await
}

fn rule(failure: &ConnectFailure) -> Option<PolicyRule> {
    match failure {
        ConnectFailure::Refused { rule, .. } => Some(*rule),
        _ => None,
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_name() {
    let tls = RawTls::showing(&Forge::published(SEED));
    for failure in refusals_at(NOT_AFTER + 3600, Policy::any(), &tls).await {
        assert!(
            matches!(failure, ConnectFailure::Certificate(CertificateError::Expired { .. })),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn a_certificate_with_a_wrong_signature_is_refused() {
    let forge = Forge { spoil_signature: true, ..Forge::published(SEED) };
    for failure in refusals(Policy::any(), &forge).await {
        assert!(matches!(failure, ConnectFailure::Certificate(CertificateError::BadSignature)), "{failure}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_key_than_the_peer_holds_is_refused() {
    // The certificate is genuine, and somebody else's.
    let tls = RawTls { seed: [8; 32], ..RawTls::showing(&Forge::published(SEED)) };
    for failure in refusals_at(NOW, Policy::any(), &tls).await {
        let bad_signature = rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature);
        assert!(matches!(&failure, ConnectFailure::Tls(error) if *error == bad_signature), "{failure}");
    }
}

#[tokio::test]
async fn a_quote_bound_to_another_key_is_refused() {
    let stolen = ReportData::for_key(&forge::public_key(&[8; 32])).0;
    let forge = Forge::fake_tdx(SEED).replacing(forge::QUOTE, &stolen);
    for failure in refusals(Policy::fake_tdx(), &forge).await {
        assert_eq!(rule(&failure), Some(PolicyRule::Verification), "{failure}");
    }
}

#[tokio::test]
async fn a_missing_quote_is_refused_where_one_is_required() {
    for failure in refusals(Policy::fake_tdx(), &Forge::published(SEED)).await {
        assert_eq!(rule(&failure), Some(PolicyRule::EvidenceKind), "{failure}");
    }
}

#[tokio::test]
async fn an_image_hash_off_the_list_is_refused() {
    let policy = Policy::fake_tdx().with_image_hashes([[9; 32]]).unwrap();
    for failure in refusals(policy, &Forge::fake_tdx(SEED)).await {
        assert_eq!(rule(&failure), Some(PolicyRule::ImageHash), "{failure}");
    }
}

#[tokio::test]
async fn more_than_the_one_certificate_is_refused() {
    let forge = Forge::published(SEED);
    let tls = RawTls { certificates: vec![forge.der(), forge.der()], ..RawTls::showing(&forge) };
    for failure in refusals_at(NOW, Policy::any(), &tls).await {
        assert!(matches!(failure, ConnectFailure::Tls(rustls::Error::InvalidCertificate(_))), "{failure}");
    }
}

#[tokio::test]
async fn a_peer_that_speaks_only_tls_1_2_is_refused() {
    let tls = RawTls { version: &rustls::version::TLS12, ..RawTls::showing(&Forge::published(SEED)) };
    let [accepting, dialling] = refusals_at(NOW, Policy::any(), &tls).await;
    assert!(matches!(accepting, ConnectFailure::Tls(rustls::Error::PeerIncompatible(_))), "{accepting}");
    assert!(matches!(dialling, ConnectFailure::Tls(rustls::Error::AlertReceived(_))), "{dialling}");
}

#[tokio::test]
async fn a_dialler_without_a_certificate_is_refused_even_under_the_policy_any() {
    let tls = RawTls { certificates: Vec::new(), ..RawTls::showing(&Forge::published(SEED)) };
    let (accepted, _) = accept_from(&node("none", Policy::any()), &accepting(), async |mut tcp| {
        pay(&mut tcp).await;
        tls.dial(tcp).await
    })
    .await;
    let failure = cause(accepted);
    assert!(matches!(failure, ConnectFailure::Tls(rustls::Error::NoCertificatesPresented)), "{failure}");
}

#[tokio::test]
async fn a_refused_dialler_learns_of_it_and_gets_no_byte() {
    let acceptor = node("fake_tdx", Policy::fake_tdx());
    let (accepted, dialled) = connect(&acceptor, &node("none", Policy::any())).await;
    assert_eq!(rule(&cause(accepted)), Some(PolicyRule::EvidenceKind));
    // TLS 1.3 lets the dialler finish first.
    let read = dialled.unwrap().io.read(&mut [0; 1]).await;
    assert!(!matches!(read, Ok(1..)), "{read:?}");
}

#[tokio::test]
async fn a_changed_policy_rules_the_next_connection_and_those_that_are_up() {
    let (acceptor, dialler) = (node("none", Policy::any()), node("none", Policy::any()));
    let (first, first_dialled) = connect(&acceptor, &dialler).await;
    acceptor.clone().set_policy(Policy::fake_tdx());
    let (second, _) = connect(&acceptor, &dialler).await;
    assert_eq!(rule(&cause(second)), Some(PolicyRule::EvidenceKind));
    first_dialled.unwrap().io.write_all(b"x").await.unwrap();
    let error = first.unwrap().io.read_exact(&mut [0]).await.unwrap_err();
    assert!(error.get_ref().unwrap().is::<NoLongerAllowed>(), "{error}");
}

#[tokio::test]
async fn work_over_the_configured_maximum_is_refused_without_doing_it() {
    let options = DialOptions { max_difficulty: 8, ..dialling() };
    let (dialled, read) = dial_to(&node("none", Policy::any()), &options, async |mut tcp: TcpStream| {
        tcp.write_all(&Challenge::new(9, [3; 16]).unwrap().encode()).await.unwrap();
        tcp.read(&mut [0; 12]).await
    })
    .await;
    let failure = cause(dialled);
    assert!(matches!(failure, ConnectFailure::DifficultyTooHigh { asked: 9, max: 8 }), "{failure}");
    assert_eq!(read.unwrap(), 0, "nothing is answered");
}

#[tokio::test]
async fn a_wrong_proof_of_work_is_refused() {
    let options = AcceptOptions { difficulty: 64, ..accepting() };
    let (accepted, _) = accept_from(&node("none", Policy::any()), &options, async |mut tcp: TcpStream| {
        tcp.write_all(&Solution { nonce: 1 }.encode()).await.unwrap();
        tcp
    })
    .await;
    let failure = cause(accepted);
    assert!(matches!(failure, ConnectFailure::WrongProofOfWork), "{failure}");
}

#[tokio::test]
async fn a_difficulty_without_meaning_is_our_fault_not_the_peers() {
    let options = AcceptOptions { difficulty: 65, ..accepting() };
    let (accepted, _tcp) =
        accept_from(&node("none", Policy::any()), &options, async |tcp: TcpStream| tcp).await;
    let failure = cause(accepted);
    assert!(matches!(failure, ConnectFailure::BadDifficulty(_)), "{failure}");
}

#[tokio::test]
async fn peers_that_speak_something_else_are_refused() {
    let settings = node("none", Policy::any());
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (accepted, _) = accept_from(&settings, &accepting(), async |mut tcp: TcpStream| {
        tcp.write_all(http).await.unwrap();
        tcp
    })
    .await;
    let failure = cause(accepted);
    assert!(matches!(failure, ConnectFailure::NotProofOfWork(_)), "instead of the work: {failure}");
    let (dialled, _) = dial_to(&settings, &dialling(), async |mut tcp: TcpStream| {
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        tcp
    })
    .await;
    let failure = cause(dialled);
    assert!(matches!(failure, ConnectFailure::NotProofOfWork(_)), "instead of the challenge: {failure}");
    let (accepted, _) = accept_from(&settings, &accepting(), async |mut tcp: TcpStream| {
        pay(&mut tcp).await;
        tcp.write_all(http).await.unwrap();
        tcp
    })
    .await;
    let failure = cause(accepted);
    assert!(
        matches!(failure, ConnectFailure::Tls(rustls::Error::InvalidMessage(_))),
        "instead of TLS: {failure}"
    );
}

#[tokio::test]
async fn a_peer_that_leaves_is_told_from_one_that_is_slow() {
    let settings = node("none", Policy::any());
    let (accepted, ()) = accept_from(&settings, &accepting(), async |tcp| drop(tcp)).await;
    let failure = cause(accepted);
    assert!(matches!(failure, ConnectFailure::Closed { stage: Stage::ProofOfWork }), "{failure}");
    let (accepted, ()) = accept_from(&settings, &accepting(), async |mut tcp| pay(&mut tcp).await).await;
    let failure = cause(accepted);
    assert!(matches!(failure, ConnectFailure::Closed { stage: Stage::Tls }), "{failure}");
}

#[tokio::test]
async fn a_peer_that_drips_its_bytes_runs_out_of_time_in_every_stage() {
    let settings = node("none", Policy::any());
    let options = AcceptOptions { difficulty: 0, timeout: Duration::from_millis(150) };
    for stage in [Stage::ProofOfWork, Stage::Tls] {
        let (accepted, ()) = accept_from(&settings, &options, async |mut tcp: TcpStream| {
            if stage == Stage::Tls {
                pay(&mut tcp).await;
            }
            // The beginning of a correct answer, or of a large TLS record, byte by byte until closed.
            let answer = Solution { nonce: 1 }.encode();
            let bytes = if stage == Stage::Tls {
                &[0x16, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb, 3, 3, 0][..]
            } else {
                &answer
            };
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            for byte in bytes {
                tick.tick().await;
                if tcp.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
            let _ = tcp.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let failure = cause(accepted);
        assert!(
            matches!(failure, ConnectFailure::Timeout { stage: at } if at == stage),
            "{stage}: {failure}"
        );
    }
}

#[test]
fn the_search_for_work_stops_when_the_dialler_gives_up() {
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = DialOptions { max_difficulty: 64, timeout: Duration::from_millis(100) };
        let (dialled, _) = runtime.block_on(async {
            dial_to(&node("none", Policy::any()), &options, async |mut tcp: TcpStream| {
                // Nobody finds an answer to this.
                tcp.write_all(&Challenge::new(64, [3; 16]).unwrap().encode()).await.unwrap();
                tcp
            })
            .await
        });
        // Waits for blocking threads: hangs if the search goes on.
        drop(runtime);
        done.send(cause(dialled)).unwrap();
    });
    let failure =
        finished.recv_timeout(Duration::from_secs(30)).expect("the search for work goes on for ever");
    assert!(matches!(failure, ConnectFailure::Timeout { stage: Stage::ProofOfWork }), "{failure}");
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_named() {
    let (listener, address) = listen().await;
    drop(listener);
    let address = address.to_string();
    let error = dial(&address, &node("none", Policy::any()), &dialling()).await.unwrap_err();
    assert!(matches!(error.cause, ConnectFailure::Unreachable(_)), "{error}");
    assert!(error.to_string().contains(&address), "{error}");
}

/// Accepts any evidence once the collateral is there.
struct NeedsPaper;

fn paper() -> CollateralRequest {
    CollateralRequest { kind: EvidenceKind::FakeTdx, name: "paper".to_owned() }
}

impl Verifier for NeedsPaper {
    fn collateral_needed(&self, _: &Evidence) -> Vec<CollateralRequest> {
        vec![paper()]
    }

    fn verify(&self, evidence: &Evidence, found: &Collateral, _: &ReportData, _: UnixSeconds) -> Verdict {
        let mut verdict = Verdict::new(evidence.kind());
        let outcome = if found.get(&paper()).is_some() { Outcome::Passed } else { Outcome::Failed };
        let failures = found.failures().map(|(_, reason)| reason).collect::<Vec<_>>();
        verdict.record("collateral", outcome, format!("looked for it; {}", failures.join(", ")));
        verdict
    }
}

/// Has every paper, or none.
#[derive(Default)]
struct Archive {
    has_papers: bool,
    refused: Mutex<Vec<CollateralRequest>>,
}

impl Archive {
    fn new(has_papers: bool) -> Arc<Self> {
        Arc::new(Self { has_papers, ..Self::default() })
    }
}

impl CollateralSource for Archive {
    fn fetch<'a>(&'a self, requests: &'a [CollateralRequest]) -> CollateralFuture<'a> {
        Box::pin(async move {
            let mut found = Collateral::none();
            for request in requests {
                if self.has_papers {
                    found.insert(request.clone(), b"signed".to_vec().into());
                } else {
                    found.note_failure(request.clone(), "the archive is closed".to_owned());
                }
            }
            Ok(found)
        })
    }

    fn refused(&self, requests: &[CollateralRequest]) {
        self.refused.lock().unwrap().extend_from_slice(requests);
    }
}

#[tokio::test]
async fn evidence_that_needs_collateral_is_accepted_with_it_and_refused_without() {
    let settings = |source: Option<Arc<dyn CollateralSource>>| {
        let (clock, policy) = (ManualClock::at(NOW), Policy::fake_tdx());
        TlsSettings::new(identity("none"), Arc::new(NeedsPaper), policy, source, clock).unwrap()
    };
    let dialler = node("fake_tdx", Policy::any());
    let (accepted, _) = connect(&settings(None), &dialler).await;
    let failure = cause(accepted);
    assert!(matches!(failure, ConnectFailure::Collateral(_)), "no source: {failure}");
    let (closed, open) = (Archive::new(false), Archive::new(true));
    let (accepted, _) = connect(&settings(Some(closed.clone())), &dialler).await;
    let failure = cause(accepted);
    assert_eq!(rule(&failure), Some(PolicyRule::Verification), "an empty source");
    assert!(failure.to_string().contains("the archive is closed"), "{failure}");
    assert_eq!(*closed.refused.lock().unwrap(), [paper()], "the source hears of the refusal");
    let (accepted, _) = connect(&settings(Some(open.clone())), &dialler).await;
    assert_eq!(accepted.unwrap().peer.attested_kind(), Some(EvidenceKind::FakeTdx));
    assert!(open.refused.lock().unwrap().is_empty());
}
