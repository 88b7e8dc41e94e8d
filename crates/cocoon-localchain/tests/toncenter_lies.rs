//! The client of toncenter's API against servers that fail, stall and lie: every error is clear and comes in time.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/liar.rs"]
mod liar;
#[path = "support/network.rs"]
mod network;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_chain::{Chain as _, ChainError, ToncenterChain, ToncenterOptions};
use cocoon_ton::cell::encode_boc;
use cocoon_ton::{Address, RootConfig, StructVersion};
use liar::{Liar, Reply};
use network::{Network, PRICE, deploy_root, root_config};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::*;
use tokio::time::{Instant, sleep, timeout};

const WHO: Address = Address::basechain([0xaa; 32]);
/// No call may take longer, whatever the server does.
const IN_TIME: Duration = Duration::from_secs(20);

struct World {
    network: Network,
    liar: Arc<Liar>,
    client: ToncenterChain,
    address: SocketAddr,
}

impl World {
    /// A client that has read the root through a server which is honest so far, and polls no more.
    async fn start() -> Self {
        let network = Network::start().await;
        let (liar, address) = Liar::start(network.api).await;
        let client = ToncenterChain::open(quiet(&network, address)).await.unwrap();
        Self { network, liar, client, address }
    }

    async fn open(&self, options: ToncenterOptions) -> ChainError {
        timeout(IN_TIME, ToncenterChain::open(options)).await.unwrap().unwrap_err()
    }

    async fn state_error(&self) -> ChainError {
        timeout(IN_TIME, self.client.account_state(WHO)).await.unwrap().unwrap_err()
    }

    async fn history_error(&self) -> ChainError {
        timeout(IN_TIME, self.client.transactions_since(WHO, 0, 100)).await.unwrap().unwrap_err()
    }
}

/// Asks for nothing by itself, so that the tests can count.
fn quiet(network: &Network, address: SocketAddr) -> ToncenterOptions {
    ToncenterOptions {
        poll_every: Duration::from_secs(3600),
        timeout: Duration::from_millis(300),
        deadline: Duration::from_secs(10),
        max_answer_bytes: 1 << 20,
        ..network.options(address)
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_in_time() {
    let world = World::start().await;
    world.liar.behave(|_, _, _| Reply::Stall);
    let began = Instant::now();
    let error = world.state_error().await;
    assert!(matches!(error, ChainError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("no answer within 0.3 s"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(8));
    let closed =
        ToncenterOptions { url: "http://127.0.0.1:1".to_owned(), ..quiet(&world.network, world.address) };
    assert!(matches!(world.open(closed).await, ChainError::Unavailable { .. }));
}

#[tokio::test]
async fn failures_that_pass_are_tried_again_and_others_are_not() {
    let world = World::start().await;
    let mut left = vec![
        Reply::Error(429, Some(0), "Ratelimit exceed"),
        Reply::Error(500, None, "LITE_SERVER_NOTREADY"),
        Reply::Error(542, None, "LITE_SERVER_NETWORK"),
    ];
    world.liar.behave(move |_, _, _| left.pop().unwrap_or(Reply::Truth));
    world.client.account_state(WHO).await.unwrap();
    assert_eq!(world.liar.asked("getAddressInformation"), 4);

    for (status, words) in
        [(422, "it does not take the request"), (403, "check the API key"), (404, "check that the URL")]
    {
        world.liar.behave(move |_, _, _| Reply::Error(status, None, "no"));
        let error = world.state_error().await.to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(world.liar.asked("getAddressInformation"), 1);
    }
}

#[tokio::test]
async fn a_server_that_is_always_busy_is_not_stormed() {
    let world = World::start().await;
    world.liar.behave(|_, _, _| Reply::Error(429, None, "Ratelimit exceed"));
    let error = world.state_error().await;
    assert!(matches!(error, ChainError::Unavailable { .. }), "{error}");
    assert_eq!(world.liar.asked("getAddressInformation"), 5);

    world.liar.behave(|_, _, _| Reply::Error(429, Some(3600), "Ratelimit exceed"));
    let began = Instant::now();
    let ChainError::Unavailable { retry_after, .. } = world.state_error().await else { panic!() };
    assert_eq!(retry_after, Some(Duration::from_secs(3600)));
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn an_answer_without_end_or_sense_is_refused() {
    let world = World::start().await;
    world.liar.behave(|_, _, _| Reply::Endless);
    let error = world.state_error().await;
    assert!(matches!(error, ChainError::BadAnswer(_)), "{error}");
    assert!(error.to_string().contains("over 1048576 bytes"), "{error}");
    let deep = [b"{\"ok\":true,\"result\":".to_vec(), b"[".repeat(500_000)].concat();
    for bytes in
        [b"".to_vec(), b"<html>".to_vec(), b"{\"ok\":true,\"result\":5}".to_vec(), vec![0xff; 99], deep]
    {
        let before = bytes.clone();
        world.liar.behave(move |_, _, _| Reply::Bytes(bytes.clone()));
        let error = world.state_error().await;
        assert!(matches!(error, ChainError::BadAnswer(_)), "{error}: {}", before.len());
    }
}

#[tokio::test]
async fn a_history_with_something_left_out_put_in_or_changed_is_refused() {
    let world = World::start().await;
    for _ in 0..5 {
        world.network.local.grant(WHO, 1).await.unwrap();
    }
    let ask = json!({ "address": WHO.to_raw_string(), "limit": 100 });
    let truth = world.liar.result("getTransactions", ask).await;
    let probe = json!({ "address": world.network.probe.address.to_raw_string() });
    let others = world.liar.result("getTransactions", probe).await;
    let lie = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut list = truth.as_array().unwrap().clone();
        change(&mut list);
        Value::Array(list)
    };
    let boc = |bytes: &[u8]| STANDARD.encode(bytes);
    let lies = [
        (lie(&|list| drop(list.remove(2))), "does not hang together"),
        (lie(&|list| list.swap(1, 2)), "does not hang together"),
        (lie(&|list| list.insert(2, list[2].clone())), "does not hang together"),
        (lie(&|list| list.insert(2, others[0].clone())), "another account"),
        (lie(&|list| list[0] = others[0].clone()), "another account"),
        (lie(&|list| list[1]["data"] = json!("!")), "not base64"),
        (lie(&|list| list[1]["data"] = json!(boc(b"none"))), "not a bag of cells"),
        (lie(&|list| list[1]["data"] = json!(boc(&encode_boc(&empty_cell())))), "not a transaction"),
        (lie(&|list| list[1]["data"] = list[2]["data"].clone()), "wrong name"),
        (lie(&|list| list[0]["transaction_id"]["hash"] = json!(boc(&[7; 32]))), "wrong name"),
        (lie(&|list| list[0]["transaction_id"]["lt"] = json!("1")), "wrong name"),
        (lie(&|list| list[0]["transaction_id"]["hash"] = json!("short")), "32 bytes"),
        (json!({}), "form of this method"),
    ];
    for (list, words) in lies {
        world.liar.behave(move |method, _, _| match method {
            "getTransactions" => Reply::Result(list.clone()),
            _ => Reply::Truth,
        });
        let error = world.history_error().await;
        assert!(matches!(error, ChainError::BadAnswer(_)), "{words}: {error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    world.liar.behave(|_, _, _| Reply::Truth);
    assert_eq!(world.client.transactions_since(WHO, 0, 100).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_history_that_ends_too_early_is_asked_for_in_full_and_then_refused() {
    let world = World::start().await;
    for _ in 0..5 {
        world.network.local.grant(WHO, 1).await.unwrap();
    }
    let ask = json!({ "address": WHO.to_raw_string(), "limit": 100 });
    let truth = world.liar.result("getTransactions", ask).await;
    let newest = Value::Array(truth.as_array().unwrap()[..2].to_vec());
    let only_newest = newest.clone();
    world.liar.behave(move |_, params, _| match params.get("lt") {
        None => Reply::Result(only_newest.clone()),
        Some(_) => Reply::Error(500, None, "LITE_SERVER_UNKNOWN: cannot find block: lt not in db"),
    });
    let error = world.history_error().await;
    assert!(matches!(error, ChainError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("use a server with the full history"), "{error}");
    let silent = newest.clone();
    world.liar.behave(move |_, params, _| match params.get("lt") {
        None => Reply::Result(silent.clone()),
        Some(_) => Reply::Result(json!([])),
    });
    assert!(world.history_error().await.to_string().contains("names it"));

    // An archive helps.
    world.liar.behave(move |_, params, _| match (params.get("lt"), params["archival"] == true) {
        (None, _) => Reply::Result(newest.clone()),
        (_, true) => Reply::Truth,
        (_, false) => Reply::Error(500, None, "LITE_SERVER_UNKNOWN: cannot find block: lt not in db"),
    });
    assert_eq!(world.client.transactions_since(WHO, 0, 100).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_history_too_long_for_one_call_is_read_in_several() {
    const ALL: usize = 900;
    let world = World::start().await;
    for _ in 0..ALL {
        world.network.local.grant(WHO, 1).await.unwrap();
    }
    let ids = |list: &[cocoon_chain::Transaction]| list.iter().map(|one| one.id).collect::<Vec<_>>();
    let whole = ids(&world.client.transactions_since(WHO, 0, 256).await.unwrap());

    // A few at a time, a call reads 400 at most. Meanwhile more come.
    let client = ToncenterChain::open(quiet(&world.network, world.address)).await.unwrap();
    world.liar.behave(|_, params, _| {
        let mut params = params.clone();
        params["limit"] = json!(4);
        Reply::TruthAbout(params)
    });
    let (mut read, mut tries) = (Vec::new(), 0);
    while read.len() < ALL + 10 {
        let after_lt = read.last().map_or(0, |last: &cocoon_chain::TransactionId| last.lt);
        match client.transactions_since(WHO, after_lt, 50).await {
            Ok(page) => {
                assert!(!page.is_empty());
                read.extend(ids(&page));
            }
            Err(ChainError::Unavailable { reason, .. }) => {
                assert!(reason.contains("the next call goes on from there"), "{reason}");
                tries += 1;
                if tries <= 2 {
                    for _ in 0..5 {
                        world.network.local.grant(WHO, 1).await.unwrap();
                    }
                }
            }
            Err(error) => panic!("{error}"),
        }
        assert!(tries <= 10);
    }
    assert!(tries >= 2, "{tries}");
    assert_eq!(read[..whole.len()], whole);
    assert!(read.is_sorted_by(|a, b| a.lt < b.lt));
    assert_eq!(client.transactions_since(WHO, read[read.len() - 1].lt, 50).await.unwrap(), []);
    // Reading all of it from the top for each page would take over two thousand requests.
    assert!(world.liar.asked("getTransactions") < 1500, "{}", world.liar.asked("getTransactions"));
}

#[tokio::test]
async fn an_account_that_some_servers_know_nothing_of_has_no_transactions() {
    let world = World::start().await;
    world.liar.behave(|method, _, _| match method {
        "getTransactions" => {
            Reply::Error(500, None, "LITE_SERVER_UNKNOWN: cannot compute block: lt not in db")
        }
        _ => Reply::Truth,
    });
    assert_eq!(world.client.transactions_since(WHO, 0, 100).await.unwrap(), []);
}

#[tokio::test]
async fn the_twin_in_the_other_workchain_is_another_account() {
    let world = World::start().await;
    let twin = Address::new(-1, *WHO.hash()).unwrap();
    world.network.local.grant(twin, 1).await.unwrap();
    world.liar.behave(move |_, params, _| {
        let mut params = params.clone();
        params["address"] = json!(twin.to_raw_string());
        Reply::TruthAbout(params)
    });
    let error = world.history_error().await;
    assert!(error.to_string().contains("another account"), "{error}");
    world.liar.behave(|_, _, _| Reply::Truth);
    assert_eq!(world.client.transactions_since(twin, 0, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn time_does_not_go_back() {
    let world = World::start().await;
    world.network.local.grant(WHO, 1).await.unwrap();
    let ask = json!({ "address": WHO.to_raw_string() });
    let state = world.liar.result("getAddressInformation", ask.clone()).await;
    let list = world.liar.result("getTransactions", ask).await;
    world.network.local.grant(WHO, 1).await.unwrap();
    let newest = world.client.account_state(WHO).await.unwrap();

    // A server that lags behind is asked again until it, or another one, has caught up.
    let (mut old_state, mut old_list) = (Some(state.clone()), Some(list.clone()));
    world.liar.behave(move |method, _, _| match method {
        "getAddressInformation" => old_state.take().map_or(Reply::Truth, Reply::Result),
        _ => old_list.take().map_or(Reply::Truth, Reply::Result),
    });
    assert_eq!(world.client.account_state(WHO).await.unwrap(), newest);
    assert_eq!(world.client.transactions_since(WHO, 0, 9).await.unwrap().len(), 2);

    world.liar.behave(move |method, _, _| match method {
        "getAddressInformation" => Reply::Result(state.clone()),
        _ => Reply::Result(list.clone()),
    });
    let (state, history) = tokio::join!(world.state_error(), world.history_error());
    for error in [state, history] {
        assert!(matches!(error, ChainError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("went back in time"), "{error}");
    }
    world.liar.behave(|_, _, _| Reply::Result(json!([])));
    assert!(world.history_error().await.to_string().contains("went back in time"));
}

#[tokio::test]
async fn a_message_is_refused_only_when_it_surely_did_not_work() {
    let world = World::start().await;
    let boc = encode_boc(world.network.probe.external(1, &[]).cell());
    const REFUSED: &str = "LITE_SERVER_UNKNOWN: cannot apply external message to current state : no";
    world.liar.behave(|_, _, _| Reply::Error(500, None, REFUSED));
    let refused = world.client.send(boc.clone()).await.unwrap_err();
    assert!(matches!(refused, ChainError::Refused { .. }), "{refused}");
    assert_eq!(world.liar.asked("sendBocReturnHash"), 1);

    let mut failed = false;
    world.liar.behave(move |_, _, _| match std::mem::replace(&mut failed, true) {
        false => Reply::Error(504, None, "Liteserver timeout"),
        true => Reply::Error(500, None, REFUSED),
    });
    let unknown = world.client.send(boc.clone()).await.unwrap_err();
    assert!(matches!(unknown, ChainError::Unavailable { .. }), "{unknown}");
    assert!(unknown.to_string().contains("may have worked"), "{unknown}");

    world.liar.behave(|_, _, _| Reply::Error(500, None, "LITE_SERVER_UNKNOWN: duplicate message"));
    world.client.send(boc.clone()).await.unwrap();

    // An older server, without the newer method.
    world.liar.behave(|method, _, _| match method {
        "sendBocReturnHash" => Reply::Error(422, None, "Unknown method"),
        _ => Reply::Truth,
    });
    world.client.send(boc).await.unwrap();
    let boc = encode_boc(world.network.probe.external(2, &[]).cell());
    world.client.send(boc).await.unwrap();
    assert_eq!((world.liar.asked("sendBocReturnHash"), world.liar.asked("sendBoc")), (1, 2));
}

#[tokio::test]
async fn roots_that_cannot_be_used_are_refused_at_the_start() {
    let world = World::start().await;
    let owner = world.network.probe.address;
    let (mut main, mut dear) = (root_config(owner), root_config(owner));
    main.params.is_test = false;
    dear.params.worker_fee_per_token_nanoton = PRICE + 1;
    for (seqno, config) in [(1, &main), (2, &dear)] {
        let (root, deploy) = deploy_root(config);
        world.network.local.submit(world.network.probe.external(seqno, &[(1, deploy)])).await.unwrap();
        let error = world.open(ToncenterOptions { root, ..quiet(&world.network, world.address) }).await;
        match seqno {
            1 => assert!(error.to_string().contains("belongs to a main network"), "{error}"),
            _ => assert!(matches!(error, ChainError::FeeOverPrice { .. }), "{error}"),
        }
    }
    let missing = world.open(ToncenterOptions { root: WHO, ..quiet(&world.network, world.address) }).await;
    assert!(matches!(missing, ChainError::NotFound(_)), "{missing}");
    let none = world.open(ToncenterOptions { root: owner, ..quiet(&world.network, world.address) }).await;
    assert!(matches!(none, ChainError::Root { .. }), "{none}");
}

#[tokio::test]
async fn a_root_of_another_network_does_not_replace_the_one_in_force() {
    let world = World::start().await;
    let options =
        ToncenterOptions { poll_every: Duration::from_millis(20), ..quiet(&world.network, world.address) };
    let client = ToncenterChain::open(options).await.unwrap();
    let mut configs = client.subscribe_root();
    let owner = world.network.probe.address;
    let change = |change: &dyn Fn(&mut RootConfig)| {
        let mut config = root_config(owner);
        config.params.price_per_token_nanoton = 99;
        change(&mut config);
        STANDARD.encode(encode_boc(&config.to_state_data()))
    };
    let ask = json!({ "address": world.network.root.to_raw_string() });
    let truth = world.liar.result("getAddressInformation", ask).await;
    let with = |data: String| {
        let mut state = truth.clone();
        state["data"] = json!(data);
        move |_: &str, _: &Value, _: &HeaderMap| Reply::Result(state.clone())
    };
    for lie in [
        change(&|config| config.owner = WHO),
        change(&|config| config.params.unique_id += 1),
        change(&|config| config.params.is_test = false),
        change(&|config| config.params.worker_fee_per_token_nanoton = 100),
        STANDARD.encode(encode_boc(&empty_cell())),
    ] {
        world.liar.behave(with(lie));
        while world.liar.asked("getAddressInformation") < 3 {
            sleep(Duration::from_millis(10)).await;
        }
        assert!(!configs.has_changed().unwrap());
    }
    world.liar.behave(with(change(&|_| ())));
    timeout(IN_TIME, configs.changed()).await.unwrap().unwrap();
    assert_eq!(configs.borrow().params.price_per_token_nanoton, 99);
    assert_eq!(configs.borrow().params.struct_version, StructVersion::V3);
}

#[tokio::test]
async fn the_api_key_is_sent_as_a_header_and_told_to_nobody() {
    let world = World::start().await;
    let key = "0123456789abcdef";
    let options =
        ToncenterOptions { api_key: Some(key.to_owned().into()), ..quiet(&world.network, world.address) };
    assert!(!format!("{options:?}").contains(key));
    world.liar.behave(move |_, _, headers| {
        assert_eq!(headers["x-api-key"], key);
        Reply::Error(403, None, "the key 0123456789abcdef is not known")
    });
    let error = world.open(options.clone()).await.to_string();
    assert!(error.contains("<the API key>") && !error.contains(key), "{error}");
    let open_way = ToncenterOptions { url: "http://192.0.2.1:8081".to_owned(), ..options };
    let error = world.open(open_way).await;
    assert!(matches!(error, ChainError::Unsupported { .. }), "{error}");
}

#[tokio::test]
async fn requests_keep_the_pace_that_was_set() {
    let world = World::start().await;
    let slow = ToncenterOptions { requests_per_second: Some(10.0), ..quiet(&world.network, world.address) };
    let client = ToncenterChain::open(slow).await.unwrap();
    world.liar.behave(|_, _, _| Reply::Truth);
    let began = Instant::now();
    let calls = (0..8).map(|_| client.account_state(WHO));
    for state in futures_util::future::join_all(calls).await {
        state.unwrap();
    }
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
}

#[tokio::test]
async fn polling_ends_with_the_last_handle() {
    let world = World::start().await;
    let options =
        ToncenterOptions { poll_every: Duration::from_millis(20), ..quiet(&world.network, world.address) };
    let client = ToncenterChain::open(options).await.unwrap();
    let another = client.clone();
    let mut heard = client.subscribe(WHO).unwrap();
    drop(client);
    world.network.local.grant(WHO, 1).await.unwrap();
    timeout(IN_TIME, heard.changed()).await.unwrap().unwrap();
    drop(another);
    assert!(timeout(IN_TIME, heard.changed()).await.unwrap().is_err());
    sleep(Duration::from_millis(100)).await;
    world.liar.behave(|_, _, _| Reply::Truth);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(world.liar.asked("getAddressInformation"), 0);
}

/// Values that might stand in an answer.
fn strange() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
        Just(json!("te6ccgEBAQEAAgAAAA==")),
        Just(json!("active")),
        Just(json!("0x11")),
        Just(json!(STANDARD.encode([1; 32]))),
    ];
    const NAMES: [&str; 16] = [
        "balance",
        "code",
        "data",
        "state",
        "last_transaction_id",
        "lt",
        "hash",
        "block_id",
        "seqno",
        "sync_utime",
        "stack",
        "exit_code",
        "transaction_id",
        "elements",
        "number",
        "bytes",
    ];
    leaf.prop_recursive(4, 64, 10, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..10).prop_map(Value::Array),
            prop::collection::hash_map(prop::sample::select(&NAMES[..]), inner, 0..10).prop_map(|fields| {
                Value::from_iter(fields.into_iter().map(|(name, value)| (name.to_owned(), value)))
            }),
        ]
    })
}

#[test]
fn whatever_is_answered_the_client_goes_on() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let world = runtime.block_on(World::start());
    proptest!(ProptestConfig::with_cases(200), |(result in strange(), pick in 0..3)| {
        world.liar.behave(move |_, _, _| Reply::Result(result.clone()));
        runtime.block_on(async {
            // Some of it makes sense by chance; nothing may hang or panic.
            let call = async {
                match pick {
                    0 => drop(world.client.account_state(WHO).await),
                    1 => drop(world.client.transactions_since(WHO, 0, 9).await),
                    _ => drop(world.client.run_get_method(WHO, "x", vec![]).await),
                }
            };
            timeout(IN_TIME, call).await.unwrap();
        });
    });
    world.liar.behave(|_, _, _| Reply::Truth);
    let probe = world.network.probe.address;
    assert!(runtime.block_on(world.client.account_state(probe)).unwrap().code.is_some());
}
