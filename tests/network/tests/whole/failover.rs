//! Workers that die, go silent, pause, change their price or are full.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cocoon_network_tests::{
    Ask, FixedEngine, Fleet, Log, Mode, Network, Options, ScriptedEngine, Streaming, delta, ready_worker,
    usage_event, within, worker_params,
};
use cocoon_wire::tl::proxy;

#[tokio::test]
async fn a_worker_that_dies_before_the_first_byte_is_replaced_without_the_client_noticing() {
    let log = Log::capture();
    let network = Network::start().await;
    let mut dying = ready_worker(network.proxy.workers_addr(), worker_params(9, 500)).await;
    let worker = network.worker(1, FixedEngine("from the second".into())).await;
    let client = network.client(11).await;
    let exchange = client.submit(&Ask::default());
    let _: proxy::RunQueryEx = dying.recv_message().await;
    drop(dying);
    let answer = exchange.finish().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.contains("from the second"));
    assert_eq!(client.cost(answer.id).await, 15);
    network.assert_balances(&[&client], &[&worker]).await;
    log.assert_no_errors();
}

#[tokio::test]
async fn a_worker_that_dies_after_the_first_byte_ends_the_request_at_once_and_for_nothing() {
    let network = Network::start().await;
    let (engine, mut calls) = ScriptedEngine::new();
    let mut config = network.worker_config(9);
    config.coefficient = 500;
    let dying = network.worker_with(config, engine).await;
    let worker = network.worker(1, FixedEngine("from the second".into())).await;
    let client = network.client(11).await;
    let mut exchange = client.submit(&Ask::streamed());
    let body = within("the call", calls.recv()).await.unwrap().stream();
    assert!(body.send(delta("one")).await);
    assert_eq!(exchange.head().await, 200);
    exchange.data("one").await;
    let began = Instant::now();
    drop(dying);
    let answer = exchange.finish().await;
    assert!(answer.end.is_err(), "never presented as complete");
    assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
    assert_eq!(client.cost(answer.id).await, 0);
    body.dropped().await;
    network.assert_serves(&client).await;
    network.assert_balances(&[&client], &[&worker]).await;
}

#[tokio::test]
async fn a_worker_that_falls_silent_with_work_leaves_routing_and_its_work_is_given_to_another() {
    let network = Network::start().await;
    let mut silent = ready_worker(network.proxy.workers_addr(), worker_params(9, 500)).await;
    let worker = network.worker(1, FixedEngine("from the second".into())).await;
    let client = network.client(11).await;
    let exchange = client.submit(&Ask::default());
    let _: proxy::RunQueryEx = silent.recv_message().await;
    // From here on its socket is open, and nobody reads or writes.
    let began = Instant::now();
    let answer = exchange.finish().await;
    let took = began.elapsed();
    assert!(answer.body.contains("from the second"), "{}", answer.body);
    assert!((Duration::from_millis(1900)..Duration::from_secs(4)).contains(&took), "it took {took:?}");
    // It is cheaper, and still gets nothing more.
    for _ in 0..3 {
        network.assert_serves(&client).await;
    }
    network.assert_balances(&[&client], &[&worker]).await;
    // Once it speaks again, it is asked again, where the one that never failed takes nothing.
    silent.send(&cocoon_wire::tl::tcp::Packet::Ping { id: 1 }).await;
    client.offers(|offers| offers.len() == 2).await;
    worker.set_paused(true);
    client.offers(|offers| offers.len() == 1).await;
    let exchange = client.submit(&Ask::default());
    let again: proxy::RunQueryEx = silent.recv_message().await;
    worker.set_paused(false);
    client.offers(|offers| offers.len() == 2).await;
    drop(silent);
    assert_ne!(again.request_id, [0; 32]);
    assert_eq!(exchange.finish().await.status, 200);
}

#[tokio::test]
async fn an_answer_whose_proxy_falls_silent_ends_with_an_error_long_before_its_time() {
    let (engine, mut calls) = ScriptedEngine::new();
    let fleet = Fleet::start(1, vec![Arc::new(engine)], |_| ()).await;
    let ask = Ask::streamed();
    let mut stream = Streaming::post(fleet.gateway.http_addr(), &ask.body).await;
    let body = within("the call", calls.recv()).await.unwrap().stream();
    assert!(body.send(delta("one")).await);
    stream.until("one").await;
    // Its socket stays open, and nothing comes any more.
    fleet.gateway_links[0].set(Mode::Stall);
    let began = Instant::now();
    let reply = stream.finish().await;
    let took = began.elapsed();
    assert!(reply.body.contains("data: {\"error\":"), "{reply:?}");
    assert!((Duration::from_secs(9)..Duration::from_secs(15)).contains(&took), "it took {took:?}");
}

#[tokio::test]
async fn a_worker_busy_with_a_long_prompt_stays_in_routing_because_it_answers_pings() {
    let network = Network::start().await;
    let (engine, mut calls) = ScriptedEngine::new();
    let worker = network.worker(1, engine).await;
    let client = network.client(11).await;
    let exchange = client.submit(&Ask::default());
    let call = within("the call", calls.recv()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2600)).await;
    call.answer("thought about it");
    assert_eq!(exchange.finish().await.status, 200);
    network.assert_balances(&[&client], &[&worker]).await;
}

#[tokio::test]
async fn a_failing_engine_is_replaced_by_another_workers() {
    let network = Network::start().await;
    let (engine, mut calls) = ScriptedEngine::new();
    let mut config = network.worker_config(9);
    config.coefficient = 500;
    let failing = network.worker_with(config, engine).await;
    let worker = network.worker(1, FixedEngine("from the second".into())).await;
    let client = network.client(11).await;
    let exchange = client.submit(&Ask::default());
    within("the call", calls.recv()).await.unwrap().fail();
    let answer = exchange.finish().await;
    assert!(answer.body.contains("from the second"), "{}", answer.body);
    network.assert_balances(&[&client], &[&worker, &failing]).await;
}

#[tokio::test]
async fn cheap_workers_that_always_fail_do_not_keep_requests_from_one_that_works() {
    let network = Network::start().await;
    let mut broken = Vec::new();
    for number in 2..6 {
        let (engine, mut calls) = ScriptedEngine::new();
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                call.fail();
            }
        });
        let mut config = network.worker_config(number);
        config.coefficient = 500 + 250 * u32::from(number % 3);
        broken.push(network.worker_with(config, engine).await);
    }
    let worker = network.worker(1, FixedEngine("from the honest one".into())).await;
    let client = network.client(11).await;
    let mut failed = 0;
    for _ in 0..10 {
        failed += usize::from(client.ask(Ask::default()).await.status != 200);
    }
    // Each of the four is believed three times, and each request tries three.
    assert!(failed <= 4, "{failed} of the first ten failed");
    for _ in 0..20 {
        network.assert_serves(&client).await;
    }
    network.assert_balances(&[&client], &[&worker]).await;
}

#[tokio::test]
async fn a_worker_that_takes_everything_and_answers_nothing_gets_little() {
    let network = Network::start().await;
    let worker = network.worker(1, FixedEngine("from the honest one".into())).await;
    let mut hole = ready_worker(network.proxy.workers_addr(), worker_params(9, 1000)).await;
    let swallowing = tokio::spawn(async move {
        // Pings are answered by reading.
        let mut swallowed = 0;
        while let Some(packet) = hole.recv_patiently().await {
            swallowed += usize::from(matches!(packet, cocoon_wire::tl::tcp::Packet::Packet { .. }));
            if swallowed > 5 {
                return;
            }
        }
    });
    let client = network.client(11).await;
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let exchange = client.submit(&Ask::default());
        tokio::select! {
            answer = exchange.finish() => assert_eq!(answer.status, 200),
            () = tokio::time::sleep(Duration::from_millis(300)) => waiting.push(()),
        }
    }
    assert!(waiting.len() <= 3, "{} of 50 requests wait for a worker that never answers", waiting.len());
    assert!(!swallowing.is_finished());
    let _ = worker;
}

#[tokio::test]
async fn traffic_follows_the_price_and_a_paused_worker_gets_none() {
    let network = Network::start().await;
    let first = network.worker(1, FixedEngine("first".into())).await;
    let mut config = network.worker_config(2);
    config.coefficient = 900;
    let second = network.worker_with(config, FixedEngine("second".into())).await;
    let client = network.client(11).await;
    let who = async || client.ask(Ask::default()).await.body;
    assert!(who().await.contains("second"), "the cheaper one is asked");
    first.set_coefficient(800).unwrap();
    client.offers(|offers| offers.iter().any(|offer| offer.coefficient == 800)).await;
    assert!(who().await.contains("first"), "the one that became cheaper is asked");
    first.set_paused(true);
    client.offers(|offers| offers.len() == 1).await;
    assert!(who().await.contains("second"), "a paused worker is not asked");
    second.set_paused(true);
    client.offers(|offers| offers.is_empty()).await;
    let refused = client.ask(Ask::default()).await;
    assert_eq!((refused.status, refused.error_type().as_str()), (503, "service_unavailable"));
    first.set_paused(false);
    client.offers(|offers| offers.len() == 1).await;
    assert!(who().await.contains("first"), "a worker that resumed is asked");
    network.assert_balances(&[&client], &[&first, &second]).await;
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_with_the_right_status_and_costs_nothing() {
    let network = Network::with(Options { balance_nanoton: 3000, ..Options::default() }).await;
    let (engine, mut calls) = ScriptedEngine::new();
    let mut config = network.worker_config(1);
    config.max_active = 1;
    let worker = network.worker_with(config, engine).await;
    let client = network.client(11).await;
    let small = Ask { max_tokens: 10, max_coefficient: 1000, ..Ask::default() };
    let first = client.submit(&small);
    let call = within("the call", calls.recv()).await.unwrap();
    let busy = client.ask(small.clone()).await;
    assert_eq!((busy.status, busy.error_type().as_str()), (429, "rate_limit_exceeded"));
    call.answer("done");
    assert_eq!(first.finish().await.status, 200);
    let unknown = client.ask(Ask { model: "no/such".into(), ..small.clone() }).await;
    assert_eq!((unknown.status, unknown.error_type().as_str()), (404, "model_not_found"));
    let dear = client.ask(Ask { max_coefficient: 999, ..small.clone() }).await;
    assert_eq!((dear.status, dear.error_type().as_str()), (503, "price_cap_too_low"));
    assert!(dear.body.contains("coefficient=1000"), "{}", dear.body);
    let poor = client.ask(Ask { max_tokens: 2000, ..small.clone() }).await;
    assert_eq!((poor.status, poor.error_type().as_str()), (402, "insufficient_balance"));
    network.assert_balances(&[&client], &[&worker]).await;
    assert_eq!(client.charged(), 15);
}

#[tokio::test]
async fn an_overrun_is_the_workers_and_never_the_clients() {
    let network = Network::with(Options { balance_nanoton: 1000, ..Options::default() }).await;
    let (engine, mut calls) = ScriptedEngine::new();
    let worker = network.worker(1, engine).await;
    let client = network.client(11).await;
    let ask = Ask { max_tokens: 20, max_coefficient: 1000, ..Ask::streamed() };
    let exchange = client.submit(&ask);
    let body = within("the call", calls.recv()).await.unwrap().stream();
    assert!(body.send(delta("much")).await);
    assert!(body.send(usage_event(10, 5000)).await);
    drop(body);
    let answer = exchange.finish().await;
    assert!(answer.end.is_ok(), "{:?}", answer.end);
    assert_eq!(client.cost(answer.id).await, 10 + 20, "the limit binds");
    network.assert_balances(&[&client], &[&worker]).await;
}
