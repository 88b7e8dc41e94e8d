//! A proxy may say anything to our client and our worker: the connection is closed with a reason, or nothing happens.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_ledger::PeerCounters;
use cocoon_session::client::{ClientEvent, ClientSession, ClientSettings};
use cocoon_session::worker::WorkerSession;
use cocoon_session::{ErrorCode, Violation};
use cocoon_wire::codec::{ByteStr, Message, to_boxed};
use cocoon_wire::tl::proxy::{ClientRequestPayment, SignedPayment, WorkerRequestPayment};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{client, ext, http, proxy};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use support::*;

/// Our client after an honest handshake; from now on the test speaks for the proxy.
struct LostClient {
    session: ClientSession,
    proxy: Raw,
}

impl LostClient {
    fn new() -> Self {
        Self::with(client_settings())
    }

    fn with(settings: ClientSettings) -> Self {
        let mut net = Net::new(proxy_settings());
        let mut client = OurClient::dial(&mut net, settings);
        let events = client.talk(&mut net).unwrap();
        assert!(events.iter().any(|event| matches!(event, ClientEvent::Ready(_))), "{events:?}");
        let mut lost = Self { session: client.session, proxy: Raw::new(client.conn) };
        // Three frames were used up: the opening and two answers.
        for _ in 0..3 {
            lost.proxy.frame(&Packet::Ping { id: 0 });
        }
        lost
    }

    fn submit(&mut self, id: u8) {
        self.session.submit(&submission(id), START).unwrap();
    }

    /// The number of the newest query of this kind.
    fn asked<Q: Message>(&mut self) -> (i64, Q) {
        self.asks().unwrap()
    }

    fn asks<Q: Message>(&mut self) -> Option<(i64, Q)> {
        let said = self.session.transmit(1 << 20).unwrap_or_default();
        let mut rest = said.as_ref();
        let mut found = None;
        while let Some((length, more)) = rest.split_first_chunk::<4>() {
            let (frame, later) = more[4..].split_at(usize::try_from(u32::from_le_bytes(*length)).unwrap());
            if let Ok(Packet::Query { id, data }) = Packet::decode_boxed(Bytes::copy_from_slice(frame))
                && let Ok(query) = Q::decode_boxed(data)
            {
                found = Some((id, query));
            }
            rest = later;
        }
        found
    }

    fn answers(&mut self, id: i64, message: &impl Message) -> Result<Vec<ClientEvent>, Violation> {
        let answer = Packet::QueryAnswer { id, data: to_boxed(message) };
        let mut frame = BytesMut::from(self.proxy.frame(&answer).as_ref());
        self.session.receive(&mut frame, START)?;
        Ok(std::iter::from_fn(|| self.session.poll_event()).collect())
    }

    fn hears_bytes(&mut self, data: Bytes) -> Result<Vec<ClientEvent>, Violation> {
        let mut frame = BytesMut::from(self.proxy.frame(&Packet::Packet { data }).as_ref());
        self.session.receive(&mut frame, START)?;
        Ok(std::iter::from_fn(|| self.session.poll_event()).collect())
    }

    fn hears(&mut self, message: &impl cocoon_wire::codec::Message) -> Result<Vec<ClientEvent>, Violation> {
        self.hears_bytes(to_boxed(message))
    }
}

fn answer(status: i32) -> client::QueryAnswerEx {
    client::QueryAnswerEx { request_id: [1; 32], answer: http_head(status), final_info: None }
}

fn more(bytes: usize) -> client::QueryAnswerPartEx {
    client::QueryAnswerPartEx { request_id: [1; 32], answer: vec![b'x'; bytes].into(), final_info: None }
}

#[test]
fn a_client_closes_on_answers_out_of_order() {
    let mut client = LostClient::new();
    client.submit(1);
    assert_eq!(client.hears(&more(1)), Err(Violation::Unexpected("part before the head")));

    let mut client = LostClient::new();
    client.submit(1);
    client.hears(&answer(200)).unwrap();
    assert_eq!(client.hears(&answer(200)), Err(Violation::Unexpected("second head of an answer")));

    let mut client = LostClient::new();
    client.submit(1);
    let junk = client::QueryAnswerEx { answer: Bytes::from_static(b"junk"), ..answer(200) };
    assert!(matches!(client.hears(&junk), Err(Violation::Message { .. })));
}

#[test]
fn a_client_fails_one_request_where_its_answer_is_no_http_or_too_long() {
    let mut client = LostClient::new();
    client.submit(1);
    client.submit(2);
    let events = client.hears(&answer(42)).unwrap();
    assert!(
        matches!(events.as_slice(), [ClientEvent::Failed { request, .. }] if *request == [1; 32]),
        "{events:?}"
    );
    client.submit(1);
    client.hears(&answer(200)).unwrap();
    let ended = (0..9).find_map(|_| {
        client.hears(&more(1 << 20)).unwrap().pop().filter(
            |event| matches!(event, ClientEvent::Failed { failure, .. } if failure.code == ErrorCode::ERROR),
        )
    });
    assert!(ended.is_some(), "a reader that takes nothing ends its own request");
    assert_eq!(client.session.in_flight(), 1, "the other lives on");
}

#[test]
fn a_client_ignores_words_about_requests_that_it_does_not_have() {
    let mut client = LostClient::new();
    assert_eq!(client.hears(&answer(200)), Ok(Vec::new()));
    assert_eq!(client.hears(&more(5)), Ok(Vec::new()));
    let error = client::QueryAnswerErrorEx {
        request_id: [1; 32],
        error_code: i32::MIN,
        error: ByteStr::default(),
        final_info: None,
    };
    assert_eq!(client.hears(&error), Ok(Vec::new()));
    client.submit(1);
    let events = client.hears(&error).unwrap();
    assert!(
        matches!(events.as_slice(), [ClientEvent::Failed { info: None, .. }]),
        "an error without final info"
    );
}

#[test]
fn a_client_hands_figures_on_that_its_counters_refuse() {
    let mut client = LostClient::new();
    let mut known = PeerCounters::default();
    let mut show = |db_tokens, max_tokens| {
        let notice = ClientRequestPayment {
            request_id: [1; 32],
            signed_payment: SignedPayment::Empty,
            db_tokens,
            max_tokens,
            request_tokens: i64::MIN,
        };
        let events = client.hears(&notice).unwrap();
        let [ClientEvent::Payment { counters, .. }] = events.as_slice() else { panic!("{events:?}") };
        known.observe(counters.db_tokens, counters.max_tokens, None).is_ok()
    };
    assert!(show(5, 10));
    assert!(!show(4, 10) && !show(5, 9) && !show(-1, 10) && !show(i64::MAX, i64::MIN));
    assert!(show(10, 10));
}

fn ready_worker() -> (WorkerSession, Raw) {
    let mut net = Net::new(proxy_settings());
    let mut worker = OurWorker::dial(&mut net, worker_settings());
    worker.talk(&mut net).unwrap();
    assert_eq!(net.proxy.workers().len(), 1);
    let mut proxy = Raw::new(worker.conn);
    // Four frames were used up: the opening and three answers.
    for _ in 0..4 {
        proxy.frame(&Packet::Ping { id: 0 });
    }
    (worker.session, proxy)
}

fn tell(worker: &mut (WorkerSession, Raw), data: Bytes) -> Result<(), Violation> {
    let mut frame = BytesMut::from(worker.1.frame(&Packet::Packet { data }).as_ref());
    worker.0.receive(&mut frame, START)
}

fn work(id: u8, timeout: f64) -> Bytes {
    to_boxed(&proxy::RunQueryEx {
        query: query(id).query,
        signed_payment: SignedPayment::Empty,
        coefficient: i64::MIN,
        timeout,
        request_id: [id; 32],
        enable_debug: None,
    })
}

#[test]
fn a_worker_refuses_a_proxy_whose_counters_go_back() {
    let notice = |db_tokens, max_tokens| {
        to_boxed(&WorkerRequestPayment {
            request_id: [1; 32],
            signed_payment: SignedPayment::Empty,
            db_tokens,
            max_tokens,
            request_tokens: -5,
            request_client_owner: ByteStr::default(),
        })
    };
    for (db, max) in [(4, 10), (5, 9), (-1, 10), (11, 10), (i64::MIN, i64::MAX)] {
        let mut worker = ready_worker();
        tell(&mut worker, notice(5, 10)).unwrap();
        let result = tell(&mut worker, notice(db, max));
        assert!(matches!(result, Err(Violation::Mismatch(_))), "{db} of {max} passes: {result:?}");
    }
}

#[test]
fn a_worker_bears_senseless_times_and_closes_on_an_id_in_use() {
    let mut worker = ready_worker();
    for (id, timeout) in (1_u8..).zip([f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300, f64::MIN_POSITIVE]) {
        tell(&mut worker, work(id, timeout)).unwrap();
    }
    worker.0.on_time(START.plus(Duration::from_millis(100))).unwrap();
    assert!(matches!(tell(&mut worker, work(1, 1.0)), Err(Violation::Unexpected(_))));
}

#[test]
fn a_worker_closes_on_a_proxy_that_knows_no_limit() {
    let mut worker = ready_worker();
    let mut taken = 0_usize;
    let violation = loop {
        let mut request_id = [0; 32];
        request_id[..8].copy_from_slice(&taken.to_le_bytes());
        let request = proxy::RunQueryEx {
            query: query(1).query,
            signed_payment: SignedPayment::Empty,
            coefficient: 1000,
            timeout: 1.0,
            request_id,
            enable_debug: None,
        };
        match tell(&mut worker, to_boxed(&request)) {
            Ok(()) => taken += 1,
            Err(violation) => break violation,
        }
    };
    assert_eq!(taken, cocoon_session::worker::MAX_REQUESTS, "{violation}");
}

#[test]
fn a_worker_closes_on_negative_credit_and_ignores_unknown_requests() {
    let mut worker = ready_worker();
    tell(&mut worker, to_boxed(&ext::Credit { request_id: [1; 32], bytes: i64::MAX })).unwrap();
    tell(&mut worker, to_boxed(&ext::Cancel { request_id: [1; 32] })).unwrap();
    let result = tell(&mut worker, to_boxed(&ext::Credit { request_id: [1; 32], bytes: -1 }));
    assert_eq!(result, Err(Violation::Unexpected("negative credit")));
}

#[test]
fn a_peer_that_never_answers_is_given_up() {
    let mut client = ClientSession::new(client_settings(), START, 1);
    client.on_time(START.plus(Duration::from_secs(9))).unwrap();
    assert!(client.on_time(START.plus(Duration::from_secs(10))).is_err(), "the opening");
    let mut client = LostClient::new();
    let mut failed = None;
    for second in 1..=20 {
        failed = client.session.on_time(START.plus(Duration::from_secs(second))).err();
    }
    assert_eq!(failed, Some(Violation::Silent(20)));
}

#[test]
fn a_list_of_models_that_comes_late_is_asked_for_once_and_costs_no_connection() {
    let mut client = LostClient::new();
    let mut asked = 0;
    let question = to_boxed(&client::GetWorkerTypesV2 {});
    for second in 0..55 {
        let now = START.plus(Duration::from_secs(second));
        let mut alive = BytesMut::from(client.proxy.frame(&Packet::Ping { id: 0 }).as_ref());
        client.session.receive(&mut alive, now).unwrap();
        client.session.on_time(now).unwrap();
        client.session.refresh_models(now).unwrap();
        let said = client.session.transmit(1 << 20).unwrap_or_default();
        asked += said.windows(4).filter(|id| *id == question.as_ref()).count();
    }
    assert_eq!(asked, 1);
}

/// A client that waits for the evidence of a worker; the number of its query.
fn waits_for_evidence(fingerprint: [u8; 32]) -> (LostClient, i64) {
    let mut client = LostClient::new();
    assert_eq!(client.session.want_evidence(fingerprint, START), Ok(true));
    let (id, query) = client.asked::<ext::GetEvidence>();
    assert_eq!(query.fingerprint, fingerprint);
    (client, id)
}

#[test]
fn a_client_closes_on_evidence_that_is_not_what_it_asked_for() {
    let certificate = Bytes::from_static(b"certificate");
    let fingerprint: [u8; 32] = Sha256::digest(&certificate).into();
    let verdict = Bytes::new();
    let good =
        ext::Evidence::Known { fingerprint, certificate: certificate.clone(), verdict: verdict.clone() };
    let (mut client, id) = waits_for_evidence(fingerprint);
    assert!(matches!(client.answers(id, &good).unwrap().as_slice(), [ClientEvent::Evidence { .. }]));

    let (mut client, id) = waits_for_evidence([7; 32]);
    let forged = ext::Evidence::Known { fingerprint: [7; 32], certificate, verdict: verdict.clone() };
    assert!(matches!(client.answers(id, &forged), Err(Violation::Mismatch(_))), "another certificate");
    let (mut client, id) = waits_for_evidence([7; 32]);
    assert!(matches!(client.answers(id, &good), Err(Violation::Unexpected(_))), "of another worker");
    let (mut client, id) = waits_for_evidence([7; 32]);
    let unknown = ext::Evidence::Unknown { fingerprint: [8; 32] };
    assert!(client.answers(id, &unknown).is_err(), "unknown, but another");

    let large = Bytes::from(vec![0; 64 * 1024 + 1]);
    let fingerprint: [u8; 32] = Sha256::digest(&large).into();
    let (mut client, id) = waits_for_evidence(fingerprint);
    let large = ext::Evidence::Known { fingerprint, certificate: large, verdict };
    assert!(matches!(client.answers(id, &large), Err(Violation::Unexpected(_))), "a large certificate");
}

#[test]
fn a_client_closes_on_a_list_of_workers_that_makes_no_sense() {
    let page = |seen, newest| ext::Workers { reset: true, seen, newest, workers: Vec::new() };
    for bad in [page(2, 1), page(0, 9), page(-5, -5), page(i64::MIN, i64::MAX)] {
        let mut client = LostClient::new();
        client.session.refresh_workers(START).unwrap();
        let (id, _) = client.asked::<ext::GetWorkers>();
        assert!(matches!(client.answers(id, &bad), Err(Violation::Unexpected(_))), "{bad:?} passes");
    }
}

#[test]
fn a_proxy_whose_list_never_ends_is_asked_at_the_pace_of_the_clock() {
    let mut client = LostClient::new();
    client.session.refresh_workers(START).unwrap();
    let mut asked = 0;
    while let Some((id, _)) = client.asks::<ext::GetWorkers>() {
        asked += 1;
        let page = ext::Workers { reset: asked == 1, seen: asked, newest: i64::MAX, workers: Vec::new() };
        assert_eq!(client.answers(id, &page), Ok(Vec::new()));
    }
    assert!((2..1000).contains(&asked), "{asked}");
}

#[test]
fn a_client_that_chooses_its_workers_closes_on_the_answer_of_another() {
    let head = |headers: &[(&'static str, &str)]| {
        let headers = headers
            .iter()
            .map(|&(name, value)| http::Header { name: ByteStr::from_static(name), value: value.into() });
        let response = http::Response {
            http_version: ByteStr::from_static("HTTP/1.1"),
            status_code: 200,
            reason: ByteStr::from_static("OK"),
            headers: headers.collect(),
            payload: Bytes::new(),
        };
        client::QueryAnswerEx { answer: to_boxed(&response), ..answer(200) }
    };
    let (good, bad) = ("07".repeat(32), "08".repeat(32));
    let choosing = || {
        let mut client = LostClient::with(ClientSettings { restrict_workers: true, ..client_settings() });
        client.session.allow_workers(&[[7; 32]].into(), START).unwrap();
        client.submit(1);
        client
    };
    let events = choosing().hears(&head(&[("X-Cocoon-Worker", &good)])).unwrap();
    assert!(matches!(events.as_slice(), [ClientEvent::Head { worker: Some([7, ..]), .. }, ..]), "{events:?}");
    assert!(choosing().hears(&head(&[("X-Cocoon-Error", "timeout")])).is_ok(), "a failure before any worker");
    for lie in [
        &[("X-Cocoon-Worker", bad.as_str())][..],
        &[("X-Cocoon-Worker", &bad), ("X-Cocoon-Error", "timeout")],
        &[("X-Cocoon-Worker", &good), ("x-cocoon-worker", &bad)],
        &[("X-Cocoon-Worker", &good[..62])],
        &[("X-Cocoon-Worker", "")],
        &[],
    ] {
        let result = choosing().hears(&head(lie));
        assert!(
            matches!(result, Err(Violation::Mismatch(_) | Violation::Unexpected(_))),
            "{lie:?}: {result:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_make_a_client_or_worker_panic(
        garbage in prop::collection::vec(any::<u8>(), 0..200), asking: bool,
    ) {
        let mut client = LostClient::new();
        client.submit(1);
        if asking {
            client.hears(&answer(200)).unwrap();
        }
        let data = Bytes::from(garbage);
        let _ = client.hears_bytes(data.clone());
        let mut worker = ready_worker();
        if asking {
            tell(&mut worker, work(1, 1.0)).unwrap();
        }
        let _ = tell(&mut worker, data.clone());
        let _ = worker.0.receive(&mut BytesMut::from(data.as_ref()), START);
        let _ = worker.0.on_time(START.plus(Duration::from_secs(1)));
    }
}
