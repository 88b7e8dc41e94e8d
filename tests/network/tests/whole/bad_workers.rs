//! What a worker can do once it was let in.

use std::cell::Cell;

use cocoon_network_tests::{
    Answer, Ask, Exchange, FixedEngine, Log, Network, RawPeer, TestClient, ready_worker, until, worker_params,
};
use cocoon_wire::codec::{ByteStr, Message, to_boxed};
use cocoon_wire::tl::{self, http, proxy, worker};
use cocoon_worker::Worker;

/// A proxy, a client, an honest worker, and a bad one that is cheaper and therefore asked first.
struct Town {
    log: Log,
    network: Network,
    worker: Worker,
    client: TestClient,
    /// Each bad worker is another one: who comes back after it failed is not asked first.
    next_bad: Cell<u8>,
}

impl Town {
    async fn start() -> Self {
        let log = Log::capture();
        let network = Network::start().await;
        let worker = network.worker(1, FixedEngine("from the honest one".into())).await;
        let client = network.client(11).await;
        Self { log, network, worker, client, next_bad: Cell::new(9) }
    }

    /// The bad worker, and the request that it was asked.
    async fn asked(&self) -> (RawPeer, [u8; 32], Exchange) {
        let number = self.next_bad.get();
        self.next_bad.set(number + 1);
        let mut bad = ready_worker(self.network.proxy.workers_addr(), worker_params(number, 500)).await;
        let exchange = self.client.submit(&Ask::default());
        let query: proxy::RunQueryEx = bad.recv_message().await;
        (bad, query.request_id, exchange)
    }

    /// What the client gets where the bad worker says this in answer to its request.
    async fn says(&self, cause: &str, words: &[Word<'_>]) -> Answer {
        let (mut bad, id, exchange) = self.asked().await;
        for word in words {
            bad.send(&tl::tcp::Packet::Packet { data: word(id).into() }).await;
        }
        bad.closed().await;
        let line = self.log.closed(bad.local, cause).await;
        assert_eq!(line.field("role"), "Worker");
        exchange.finish().await
    }

    /// Checks the books where the bad worker earned something, too.
    async fn earned_beside(&self, bad: i64) {
        let books = || self.network.proxy.books();
        let earned = || self.worker.earned().tokens.get() + bad.cast_unsigned();
        until("the honest worker's notices", || earned() == books().charged.get()).await;
        until("the client's notices", || self.client.charged() == books().charged.get()).await;
        assert_eq!(books().paid.nano(), 2 * books().charged.get());
        assert_eq!(books().earned.nano(), earned());
    }

    async fn still_works(&self) {
        self.network.assert_serves(&self.client).await;
        self.log.assert_no_errors();
    }
}

/// A message about the request of this id.
type Word<'a> = &'a dyn Fn([u8; 32]) -> Vec<u8>;

fn boxed(message: &impl Message) -> Vec<u8> {
    to_boxed(message).to_vec()
}

fn response(status_code: i32, headers: Vec<http::Header>) -> http::Response {
    http::Response {
        http_version: ByteStr::from_static("HTTP/1.1"),
        status_code,
        reason: ByteStr::from_static("OK"),
        headers,
        payload: b"{\"from\":\"bad\"}".to_vec().into(),
    }
}

fn head(request_id: [u8; 32]) -> Vec<u8> {
    let answer = to_boxed(&response(200, Vec::new()));
    boxed(&proxy::QueryAnswerEx { request_id, answer, final_info: None })
}

fn part(request_id: [u8; 32]) -> Vec<u8> {
    boxed(&proxy::QueryAnswerPartEx { request_id, answer: b"more".to_vec().into(), final_info: None })
}

fn complete(
    request_id: [u8; 32],
    answer: &http::Response,
    tokens: [i64; 5],
    debug: &str,
) -> proxy::QueryAnswerEx {
    let [prompt, cached, completion, reasoning, total] = tokens;
    proxy::QueryAnswerEx {
        request_id,
        answer: to_boxed(answer),
        final_info: Some(proxy::QueryFinalInfo {
            tokens_used: tl::TokensUsed {
                prompt_tokens_used: prompt,
                cached_tokens_used: cached,
                completion_tokens_used: completion,
                reasoning_tokens_used: reasoning,
                total_tokens_used: total,
            },
            worker_debug: Some(debug.to_owned().into()),
            timings: Some(proxy::WorkerTimings {
                worker_start_time: f64::NAN,
                worker_end_time: f64::NEG_INFINITY,
            }),
        }),
    }
}

#[tokio::test]
async fn words_that_break_the_protocol_before_the_first_byte_lead_to_another_worker() {
    let town = Town::start().await;
    let undecodable = |request_id| {
        boxed(&proxy::QueryAnswerEx { request_id, answer: b"no TL at all".to_vec().into(), final_info: None })
    };
    let no_http = |request_id| {
        let answer = to_boxed(&response(42, Vec::new()));
        boxed(&proxy::QueryAnswerEx { request_id, answer, final_info: None })
    };
    let price = |new_coefficient| move |_: [u8; 32]| boxed(&worker::NewCoefficient { new_coefficient });
    let cases: [(&str, Word<'_>); 7] = [
        ("part before the head", &part),
        ("bad http.response", &undecodable),
        ("answer that is no HTTP", &no_http),
        ("coefficient out of range", &price(-1)),
        ("coefficient out of range", &price(i32::MAX)),
        ("bad packet from worker", &|_| vec![0xff; 12]),
        ("bad packet from worker", &|id| [head(id), vec![0; 4]].concat()),
    ];
    for (cause, word) in cases {
        let answer = town.says(cause, &[word]).await;
        assert_eq!(answer.status, 200, "{cause}: {}", answer.body);
        assert!(answer.body.contains("from the honest one"), "{cause}: {}", answer.body);
        assert_eq!(town.client.cost(answer.id).await, 15, "{cause}");
        town.still_works().await;
    }
    town.network.assert_balances(&[&town.client], &[&town.worker]).await;
}

#[tokio::test]
async fn words_that_break_the_protocol_after_the_first_byte_end_the_request_at_once_for_nothing() {
    let town = Town::start().await;
    let answer = town.says("second head", &[&head, &head]).await;
    assert_eq!(answer.status, 200);
    assert!(answer.end.is_err(), "never presented as complete");
    assert_eq!(town.client.cost(answer.id).await, 0);
    let answer = town.says("bad packet from worker", &[&head, &part, &|_| vec![1; 4]]).await;
    assert!(answer.end.is_err());
    assert_eq!(town.client.cost(answer.id).await, 0);
    town.still_works().await;
    town.network.assert_balances(&[&town.client], &[&town.worker]).await;
}

#[tokio::test]
async fn negative_claims_are_worth_nothing_and_reach_nobody() {
    let town = Town::start().await;
    for tokens in [[-5; 5], [i64::MIN; 5], [-5, 0, 0, 0, 5], [i64::MIN, i64::MAX, i64::MIN, -1, 0]] {
        let (mut bad, id, exchange) = town.asked().await;
        bad.packet(&complete(id, &response(200, Vec::new()), tokens, "not JSON")).await;
        let answer = exchange.finish().await;
        let info = answer.end.expect("a complete answer");
        for shown in [
            info.tokens.prompt_tokens_used,
            info.tokens.cached_tokens_used,
            info.tokens.completion_tokens_used,
            info.tokens.reasoning_tokens_used,
            info.tokens.total_tokens_used,
        ] {
            assert!(shown >= 0, "{tokens:?} were passed on as {shown}");
        }
        assert!(info.worker_start.is_finite() && info.worker_end.is_finite(), "{info:?}");
        let cost = town.client.cost(answer.id).await;
        assert!(cost >= 0, "{tokens:?} cost {cost}");
        let notice: proxy::WorkerRequestPayment = bad.recv_message().await;
        assert_eq!(notice.request_tokens, cost, "what the client pays is what the worker gets");
        town.still_works().await;
    }
}

#[tokio::test]
async fn huge_claims_are_held_to_what_was_reserved_and_are_shown_in_the_log() {
    let town = Town::start().await;
    let (mut bad, id, exchange) = town.asked().await;
    bad.packet(&complete(id, &response(200, Vec::new()), [i64::MAX; 5], "{}")).await;
    let answer = exchange.finish().await;
    assert!(answer.end.is_ok());
    let cost = town.client.cost(answer.id).await;
    // The query is under 300 bytes, its limit is 100 tokens, the cap is 4000.
    assert!(cost <= (300 + 100) * 4, "{cost} is over the reservation");
    let notice: proxy::WorkerRequestPayment = bad.recv_message().await;
    assert_eq!((notice.request_tokens, notice.db_tokens), (cost, cost));
    town.log.wait("the overrun", |line| line.message.contains("claimed more tokens")).await;
    town.still_works().await;
    town.earned_beside(notice.db_tokens).await;
}

#[tokio::test]
async fn headers_that_would_break_a_client_are_left_out() {
    let town = Town::start().await;
    let (mut bad, id, exchange) = town.asked().await;
    let header = |name: &str, value: &str| http::Header {
        name: name.to_owned().into(),
        value: value.to_owned().into(),
    };
    let headers = vec![
        header("X-Evil", "a\r\nSet-Cookie: stolen"),
        header("X-Evil\r\nX-Two", "b"),
        header("Content-Length", "99999"),
        header("Transfer-Encoding", "gzip"),
        header("", "nameless"),
        header("X-Good", "yes"),
    ];
    bad.packet(&complete(id, &response(200, headers), [1, 0, 1, 0, 2], "{}")).await;
    let answer = exchange.finish().await;
    let named = |name: &str| answer.headers.iter().filter(|(found, _)| found.contains(name)).count();
    assert_eq!((named("evil"), named("two"), named("x-good")), (0, 0, 1), "{:?}", answer.headers);
    assert!(answer.headers.iter().all(|(_, value)| !value.contains("99999") && !value.contains("gzip")));
    assert_eq!(answer.body, "{\"from\":\"bad\"}");
    town.still_works().await;
}

#[tokio::test]
async fn errors_in_any_words_reach_the_client_as_one_clean_line() {
    let town = Town::start().await;
    let (mut bad, id, exchange) = town.asked().await;
    bad.packet(&proxy::QueryAnswerErrorEx {
        request_id: id,
        error_code: 621,
        error: format!("bad\r\n\0{}", "x".repeat(100_000)).into(),
        final_info: None,
    })
    .await;
    let answer = exchange.finish().await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.len() < 1000, "{} bytes", answer.body.len());
    let error: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert!(!error["error"]["message"].as_str().unwrap().contains(char::is_control));
    assert_eq!(town.client.cost(answer.id).await, 0);
    town.still_works().await;
}

#[tokio::test]
async fn answers_to_questions_that_were_never_asked_change_nothing() {
    let town = Town::start().await;
    let (mut bad, id, exchange) = town.asked().await;
    for stranger in [[0; 32], [7; 32]] {
        bad.packet(&complete(stranger, &response(200, Vec::new()), [9; 5], "{}")).await;
    }
    bad.packet(&complete(id, &response(200, Vec::new()), [1, 0, 1, 0, 2], "{}")).await;
    // And a second end of the same.
    bad.packet(&complete(id, &response(200, Vec::new()), [100, 0, 50, 0, 150], "{}")).await;
    let answer = exchange.finish().await;
    assert_eq!(town.client.cost(answer.id).await, 2);
    town.still_works().await;
    town.earned_beside(2).await;
}
