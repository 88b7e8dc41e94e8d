//! Callers that go away before the end.

use std::time::{Duration, Instant};

use cocoon_network_tests::{
    Answering, Ask, Call, Exchange, Network, Options, ScriptedEngine, delta, ready_client, until,
    usage_event, within,
};
use cocoon_openai::{Endpoint, estimate_prompt_tokens};
use tokio::sync::mpsc;

/// A stream of which three tokens were delivered.
async fn three_tokens(exchange: &mut Exchange, calls: &mut mpsc::UnboundedReceiver<Call>) -> Answering {
    let body = within("the call", calls.recv()).await.unwrap().stream();
    for text in ["one", "two", "three"] {
        assert!(body.send(delta(text)).await);
        if text == "one" {
            assert_eq!(exchange.head().await, 200);
        }
        exchange.data(text).await;
    }
    body
}

fn prompt_tokens(ask: &Ask) -> i64 {
    estimate_prompt_tokens(Endpoint::Chat, ask.body.to_string().as_bytes())
}

#[tokio::test]
async fn a_cancelled_stream_stops_the_engine_at_once_and_costs_what_was_delivered() {
    // Room for one reservation, so that the next request shows that it was given back.
    let network = Network::with(Options { balance_nanoton: 2 * 900, ..Options::default() }).await;
    let (engine, mut calls) = ScriptedEngine::new();
    let worker = network.worker(1, engine).await;
    let client = network.client(11).await;
    let ask = Ask { max_coefficient: 1000, max_tokens: 500, ..Ask::streamed() };
    let mut exchange = client.submit(&ask);
    let body = three_tokens(&mut exchange, &mut calls).await;
    let second = client.ask(ask.clone()).await;
    assert_eq!(second.status, 402, "one reservation is all that the account has room for");
    let began = Instant::now();
    client.cancel(exchange.id);
    body.dropped().await;
    assert!(began.elapsed() < Duration::from_secs(1), "it took {:?}", began.elapsed());
    assert_eq!(client.cost(exchange.id).await, prompt_tokens(&ask) + 3);
    let next = client.submit(&ask);
    within("the call", calls.recv()).await.unwrap().answer("there is room again");
    assert_eq!(next.finish().await.status, 200);
    network.assert_balances(&[&client], &[&worker]).await;
}

#[tokio::test]
async fn a_client_that_disconnects_stops_the_engine_and_pays_for_what_was_delivered() {
    let network = Network::start().await;
    let (engine, mut calls) = ScriptedEngine::new();
    let worker = network.worker(1, engine).await;
    let client = network.client(11).await;
    let ask = Ask::streamed();
    let mut exchange = client.submit(&ask);
    let body = three_tokens(&mut exchange, &mut calls).await;
    drop(client);
    body.dropped().await;
    let due = (prompt_tokens(&ask) + 3).cast_unsigned();
    until("the worker's notice", || worker.earned().tokens.get() == due).await;
    assert_eq!(network.proxy.books().charged.get(), due);
    // The account knows it when the client comes back.
    let client = network.client(11).await;
    until("the state of the account", || client.charged() == due).await;
}

#[tokio::test]
async fn cancelling_before_the_first_byte_stops_the_engine_and_costs_nothing() {
    let network = Network::start().await;
    let (engine, mut calls) = ScriptedEngine::new();
    let worker = network.worker(1, engine).await;
    let client = network.client(11).await;
    let exchange = client.submit(&Ask::streamed());
    let call = within("the call", calls.recv()).await.unwrap();
    client.cancel(exchange.id);
    call.given_up().await;
    assert_eq!(client.cost(exchange.id).await, 0);
    network.assert_balances(&[&client], &[&worker]).await;
}

#[tokio::test]
async fn cancelling_just_before_the_end_is_no_cheaper_than_what_was_delivered() {
    let network = Network::start().await;
    let (engine, mut calls) = ScriptedEngine::new();
    let worker = network.worker(1, engine).await;
    let client = network.client(11).await;
    let ask = Ask::streamed();
    let prompt = prompt_tokens(&ask);

    let mut whole = client.submit(&ask);
    let body = three_tokens(&mut whole, &mut calls).await;
    assert!(body.send(usage_event(prompt.cast_unsigned(), 3)).await);
    drop(body);
    let whole = whole.finish().await;
    assert!(whole.end.is_ok());

    let mut cut = client.submit(&ask);
    let body = three_tokens(&mut cut, &mut calls).await;
    client.cancel(cut.id);
    body.dropped().await;
    assert_eq!(client.cost(cut.id).await, client.cost(whole.id).await);
    network.assert_balances(&[&client], &[&worker]).await;
}

#[tokio::test]
async fn a_request_whose_time_is_up_is_stopped_and_answered() {
    let network = Network::start().await;
    let (engine, mut calls) = ScriptedEngine::new();
    let worker = network.worker(1, engine).await;
    let client = network.client(11).await;
    let ask = Ask { timeout: Duration::from_millis(600), ..Ask::default() };
    let exchange = client.submit(&ask);
    let call = within("the call", calls.recv()).await.unwrap();
    let answer = exchange.finish().await;
    call.given_up().await;
    assert_eq!(answer.status, 504, "{}", answer.body);
    assert_eq!(client.cost(answer.id).await, 0);
    network.assert_balances(&[&client], &[&worker]).await;
}

#[tokio::test]
async fn a_published_client_that_drops_its_connection_stops_the_engine_too() {
    let network = Network::start().await;
    let (engine, mut calls) = ScriptedEngine::new();
    let worker = network.worker(1, engine).await;
    let mut published = ready_client(network.proxy.clients_addr(), 12, false).await;
    let ask = Ask::streamed();
    published
        .packet(&cocoon_wire::tl::client::RunQuery {
            model_name: ask.model.clone().into(),
            query: cocoon_wire::codec::to_boxed(&cocoon_network_tests::http_request(&ask.body)),
            max_coefficient: 1000,
            max_tokens: 100,
            timeout: 10.0,
            request_id: [1; 32],
            min_config_version: 0,
        })
        .await;
    let body = within("the call", calls.recv()).await.unwrap().stream();
    assert!(body.send(delta("one")).await);
    drop(published);
    body.dropped().await;
    until("the worker's notice", || worker.earned().tokens.get() > 0).await;
}
