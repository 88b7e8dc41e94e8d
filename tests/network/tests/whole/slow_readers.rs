//! Callers that do not read what they asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cocoon_network_tests::{
    Answering, Ask, Log, MODEL, Network, Options, ScriptedEngine, delta, ready_client, ready_worker, until,
    usage_event, within, worker_params,
};
use cocoon_session::MAX_HELD_BYTES;
use cocoon_wire::codec::{from_boxed, to_boxed};
use cocoon_wire::tl::{client, http, proxy, tcp::Packet};

/// Bytes of one piece, and how many pieces a long answer has: 16 MiB in all.
const PIECE: usize = 32 * 1024;
const PIECES: usize = 512;

/// Writes a long answer as fast as it is taken; counts the pieces taken.
fn write_long(body: Answering) -> Arc<AtomicUsize> {
    let taken = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&taken);
    tokio::spawn(async move {
        let piece = delta(&"x".repeat(PIECE));
        for _ in 0..PIECES {
            // Unlike elsewhere, waiting here is the point.
            if !body.send_slowly(piece.clone()).await {
                return;
            }
            counting.fetch_add(1, Ordering::Relaxed);
        }
        body.send_slowly(usage_event(10, 5)).await;
    });
    taken
}

#[tokio::test]
async fn an_answer_that_is_not_read_stalls_neither_its_neighbours_nor_fills_memory() {
    let network = Network::start().await;
    let (engine, mut calls) = ScriptedEngine::new();
    let worker = network.worker(1, engine).await;
    let client = network.client(11).await;
    let unread = client.submit(&Ask { max_tokens: 10_000, ..Ask::streamed() });
    let taken = write_long(within("the call", calls.recv()).await.unwrap().stream());
    until("the long answer to begin", || taken.load(Ordering::Relaxed) > 8).await;
    for _ in 0..20 {
        let quick = client.submit(&Ask::default());
        within("the call", calls.recv()).await.unwrap().answer("quick");
        assert_eq!(quick.finish().await.status, 200);
    }
    let held = taken.load(Ordering::Relaxed) * PIECE;
    assert!(held < 2 << 20, "{held} bytes of an unread answer are held");
    let answer = unread.finish().await;
    assert!(answer.end.is_ok(), "{:?}", answer.end);
    assert!(answer.body.len() > PIECES * PIECE, "all of it comes once it is read");
    network.assert_balances(&[&client], &[&worker]).await;
}

#[tokio::test]
async fn among_published_nodes_only_the_request_that_is_not_read_ends() {
    let network = Network::with(Options { extensions: false, ..Options::default() }).await;
    let (engine, mut calls) = ScriptedEngine::new();
    let worker = network.worker(1, engine).await;
    let client = network.client(11).await;
    let unread = client.submit(&Ask { max_tokens: 10_000, ..Ask::streamed() });
    let taken = write_long(within("the call", calls.recv()).await.unwrap().stream());
    until("the limit to be passed", || taken.load(Ordering::Relaxed) * PIECE > MAX_HELD_BYTES).await;
    for _ in 0..5 {
        let quick = client.submit(&Ask::default());
        within("the call", calls.recv()).await.unwrap().answer("quick");
        assert_eq!(quick.finish().await.status, 200);
    }
    let answer = unread.finish().await;
    let failure = answer.end.expect_err("never presented as complete");
    assert!(failure.message.contains("too slowly"), "{failure:?}");
    assert!(client.is_up(), "the connection stays");
    let _ = worker;
}

#[tokio::test]
async fn large_queries_wait_for_a_slow_worker_and_do_not_cost_it_its_connection() {
    const LARGE: usize = 14 << 20;
    let network = Network::start().await;
    let mut slow = ready_worker(network.proxy.workers_addr(), worker_params(9, 1000)).await;
    let mut client = ready_client(network.proxy.clients_addr(), 12, true).await;
    let large = |number: u8| client::RunQueryEx {
        model_name: MODEL.to_owned().into(),
        query: vec![number; LARGE].into(),
        max_coefficient: 1000,
        max_tokens: 1,
        timeout: 60.0,
        request_id: [number; 32],
        min_config_version: 0,
        enable_debug: None,
    };
    // The worker does not read meanwhile, as one behind a thin line.
    for number in 0..7 {
        client.packet(&large(number)).await;
    }
    let refused: client::QueryAnswerEx = client.recv_message().await;
    let head: http::Response = from_boxed(refused.answer).unwrap();
    assert_eq!(head.status_code, 429, "what has no room on the line is refused, not forced on it");
    for number in 0..refused.request_id[0] {
        let query: proxy::RunQueryEx = slow.recv_message().await;
        assert_eq!((query.query.len(), query.query[0]), (LARGE, number), "what was taken reaches the worker");
    }
}

#[tokio::test]
async fn a_published_client_that_stops_reading_its_socket_loses_that_request_only() {
    let log = Log::capture();
    let network = Network::with(Options { extensions: false, ..Options::default() }).await;
    let (engine, mut calls) = ScriptedEngine::new();
    let worker = network.worker(1, engine).await;
    let other = network.client(11).await;
    let mut lazy = ready_client(network.proxy.clients_addr(), 12, false).await;
    let query = |number: u8, ask: Ask| client::RunQueryEx {
        model_name: ask.model.clone().into(),
        query: to_boxed(&cocoon_network_tests::http_request(&ask.body)),
        max_coefficient: 1000,
        max_tokens: 100,
        timeout: 60.0,
        request_id: [number; 32],
        min_config_version: 0,
        enable_debug: None,
    };
    lazy.packet(&query(1, Ask::streamed())).await;
    let taken = write_long(within("the call", calls.recv()).await.unwrap().stream());
    until("the engine to be done", || taken.load(Ordering::Relaxed) == PIECES).await;
    let quick = other.submit(&Ask::default());
    within("the call", calls.recv()).await.unwrap().answer("quick");
    assert_eq!(quick.finish().await.status, 200, "another client is served meanwhile");
    // Now it reads: its request has failed, and its connection is as good as new.
    let failed = loop {
        let Some(Packet::Packet { data }) = lazy.recv().await else { panic!("the connection ended") };
        if let Ok(error) = from_boxed::<client::QueryAnswerErrorEx>(data) {
            break error;
        }
    };
    assert_eq!(failed.request_id, [1; 32]);
    assert!(failed.error.to_lossy().contains("too slowly"));
    assert!(failed.final_info.is_some(), "published clients die without it");
    lazy.packet(&query(2, Ask::default())).await;
    within("the call", calls.recv()).await.unwrap().answer("as good as new");
    let answer: client::QueryAnswerEx = lazy.recv_message().await;
    assert_eq!(answer.request_id, [2; 32]);
    let _ = worker;
    log.assert_no_errors();
}
