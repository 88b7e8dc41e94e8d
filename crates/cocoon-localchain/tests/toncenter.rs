//! toncenter's API over real connections, asked well and badly.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_localchain::{LocalChain, Options, TimeSource, toncenter};
use cocoon_ton::Address;
use cocoon_ton::cell::{decode_boc, encode_boc};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

struct Server {
    chain: LocalChain,
    address: std::net::SocketAddr,
}

impl Server {
    async fn start() -> Self {
        let time = TimeSource::Fixed(START);
        let options = Options { time, ..Options::default() };
        let chain = LocalChain::open(&options).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = toncenter::routes(chain.clone()).merge(toncenter::control_routes(chain.clone()));
        tokio::spawn(axum::serve(listener, routes).into_future());
        Self { chain, address }
    }

    async fn ask(&self, head: &str, body: &[u8]) -> (u16, Value) {
        let (head, body) = self.exchange(head, body).await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(&body).unwrap())
    }

    /// The answer's head, in small letters, and its body.
    async fn exchange(&self, head: &str, body: &[u8]) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}{}\r\n\r\n",
            head.lines().next().unwrap(),
            body.len(),
            head.lines().skip(1).map(|line| format!("\r\n{line}")).collect::<String>()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that refuses early does not read the rest.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(&format!("GET /api/v2/{path}"), b"").await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask(&format!("POST /api/v2/{path}"), body.to_string().as_bytes()).await
    }
}

#[tokio::test]
async fn the_three_ways_to_ask_give_the_same_answer() {
    let server = Server::start().await;
    let probe = probe(1);
    server.chain.grant(probe.address, 5 * TON).await.unwrap();
    let address = probe.address.to_raw_string();
    let by_query = server.get(&format!("getAddressInformation?address={address}")).await;
    let by_body = server.post("getAddressInformation", &json!({ "address": address })).await;
    let call = json!({ "id": 1, "jsonrpc": "2.0", "method": "getAddressInformation", "params": { "address": address } });
    let by_rpc = server.post("jsonRPC", &call).await;
    assert_eq!(by_query, by_body);
    assert_eq!(by_query.1["result"], by_rpc.1["result"]);
    assert_eq!(by_query.1["result"]["balance"], "5000000000");
    assert_eq!(by_query.1["result"]["state"], "uninitialized");
    assert_eq!((by_rpc.0, &by_rpc.1["id"]), (200, &json!(1)));
    let encoded = address.replace(':', "%3A");
    assert_eq!(server.get(&format!("getAddressBalance?address={encoded}")).await.1["result"], "5000000000");
}

#[tokio::test]
async fn a_message_is_taken_and_its_transactions_are_told() {
    let server = Server::start().await;
    let (probe, receiver) = (probe(1), Address::basechain([3; 32]));
    server.chain.grant(probe.address, 5 * TON).await.unwrap();
    let mut text = tycho_types::cell::CellBuilder::new();
    text.store_u32(0).unwrap();
    text.store_raw(b"thanks", 48).unwrap();
    let thanks = internal(receiver, TON, false, None, &text.build().unwrap());
    let message = probe.external(0, &[(1, thanks)]);
    let boc = STANDARD.encode(encode_boc(message.cell()));
    let sent = server.post("sendBocReturnHash", &json!({ "boc": boc })).await.1;
    assert_eq!(sent["result"]["hash"], STANDARD.encode(message.hash()));
    let refused = server.post("sendBoc", &json!({ "boc": boc })).await;
    assert_eq!(refused.0, 500);
    assert!(refused.1["error"].as_str().unwrap().contains("exit code 33"));

    let path = format!("getTransactions?address={}&limit=5", probe.address.to_raw_string());
    let told = server.get(&path).await.1["result"].clone();
    assert_eq!(told.as_array().unwrap().len(), 2);
    assert_eq!(told[0]["out_msgs"][0]["message"], "thanks");
    assert_eq!(told[0]["out_msgs"][0]["value"], "1000000000");
    let number = |name: &str| told[0][name].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(number("fee"), number("storage_fee") + number("other_fee"));
    let cell = decode_boc(&STANDARD.decode(told[0]["data"].as_str().unwrap()).unwrap(), 10_000).unwrap();
    assert_eq!(STANDARD.encode(cell.repr_hash().0), told[0]["transaction_id"]["hash"].as_str().unwrap());
    let (lt, hash) = (&told[0]["transaction_id"]["lt"], &told[0]["transaction_id"]["hash"]);
    let params = json!({ "address": probe.address.to_raw_string(), "lt": lt, "hash": hash, "limit": 1 });
    assert_eq!(server.post("getTransactions", &params).await.1["result"][0], told[0]);
    let params =
        json!({ "address": probe.address.to_raw_string(), "to_lt": told[1]["transaction_id"]["lt"] });
    assert_eq!(server.post("getTransactions", &params).await.1["result"], json!([told[0]]));
}

#[tokio::test]
async fn a_message_leads_to_the_transactions_that_sent_and_received_it() {
    let server = Server::start().await;
    let (probe, receiver) = (probe(1), Address::basechain([3; 32]));
    server.chain.grant(probe.address, 50 * TON).await.unwrap();
    // Many before it and after it.
    for seqno in 0..5 {
        let send = |nanoton| (1, internal(receiver, nanoton, false, None, &empty_cell()));
        server.chain.submit(probe.external(seqno, &[send(1), send(2), send(3)])).await.unwrap();
    }
    let address = |address: Address| address.to_raw_string();
    let path = format!("getTransactions?address={}&limit=10", address(probe.address));
    let sent = server.get(&path).await.1["result"][2].clone();
    let message = &sent["out_msgs"][1];
    assert_eq!(message["value"], "2");
    let params = json!({
        "source": address(probe.address), "destination": address(receiver), "created_lt": message["created_lt"],
    });
    assert_eq!(server.post("tryLocateSourceTx", &params).await.1["result"], sent);
    let received = server.post("tryLocateResultTx", &params).await.1["result"].clone();
    assert_eq!(received["in_msg"], *message);
    assert_eq!(server.post("tryLocateTx", &params).await.1["result"], received);

    let mut wrong = params.clone();
    wrong["destination"] = json!(address(probe.address));
    for method in ["tryLocateTx", "tryLocateSourceTx"] {
        assert_eq!(server.post(method, &wrong).await.0, 404, "{method}");
        assert_eq!(server.post(method, &json!({ "source": params["source"] })).await.0, 422, "{method}");
    }
    let mut never = params;
    never["created_lt"] = json!("9000000000000000000");
    assert_eq!(server.post("tryLocateResultTx", &never).await.0, 404);
}

#[tokio::test]
async fn a_block_is_found_by_its_number_and_by_either_time() {
    let server = Server::start().await;
    let receiver = Address::basechain([3; 32]);
    for _ in 0..20 {
        server.chain.grant(receiver, TON).await.unwrap();
        server.chain.advance(10).await.unwrap();
    }
    let head = server.chain.head().await.unwrap();
    let look_up = async |query: String| {
        let (status, answer) = server.get(&format!("lookupBlock?workchain=0&{query}")).await;
        (status == 200).then(|| u32::try_from(answer["result"]["seqno"].as_u64().unwrap()).unwrap())
    };
    for seqno in 0..=head.seqno {
        let block = server.chain.block(seqno).await.unwrap().unwrap();
        assert_eq!(look_up(format!("seqno={seqno}")).await, Some(seqno));
        for lt in [block.start_lt, block.end_lt] {
            assert_eq!(look_up(format!("lt={lt}")).await, Some(seqno));
        }
        let after = look_up(format!("lt={}", block.end_lt + 1)).await;
        assert_eq!(after, (seqno < head.seqno).then_some(seqno + 1));
        let at_its_time = look_up(format!("unixtime={}", block.unix_time)).await.unwrap();
        let first = server.chain.block(at_its_time).await.unwrap().unwrap();
        assert!(at_its_time <= seqno && first.unix_time == block.unix_time);
    }
    assert_eq!(look_up("unixtime=0".to_owned()).await, Some(0));
    assert_eq!(look_up(format!("unixtime={}", head.unix_time + 1)).await, None);
    assert_eq!(look_up(String::new()).await, None);
}

#[tokio::test]
async fn a_page_of_any_site_may_ask_the_api_and_no_page_the_faucet() {
    let server = Server::start().await;
    let (head, _) = server.exchange("GET /api/v2/getMasterchainInfo\norigin: https://x.example", b"").await;
    assert!(head.contains("access-control-allow-origin: *"), "{head}");
    let (head, _) = server.exchange("GET /api/v2/noSuchMethod", b"").await;
    assert!(head.starts_with("http/1.1 404") && head.contains("access-control-allow-origin: *"), "{head}");
    let ask = "access-control-request-method: POST\naccess-control-request-headers: content-type,x-ton-client-version\n\
               access-control-request-private-network: true\norigin: https://x.example";
    let (head, body) = server.exchange(&format!("OPTIONS /api/v2/jsonRPC\n{ask}"), b"").await;
    assert!(head.starts_with("http/1.1 204") && body.is_empty(), "{head}");
    for words in [
        "allow-headers: content-type",
        "x-ton-client-version",
        "allow-methods: get, post",
        "allow-private-network: true",
    ] {
        assert!(head.contains(words), "{head}");
    }
    let (head, _) = server.exchange(&format!("OPTIONS /localchain/grant\n{ask}"), b"").await;
    assert!(!head.contains("access-control"), "{head}");
}

#[tokio::test]
async fn requests_over_the_limit_are_refused_before_they_are_read() {
    let server = Server::start().await;
    let (status, answer) = server.ask("POST /api/v2/sendBoc", &vec![b'x'; 10_000_000]).await;
    assert_eq!((status, &answer["ok"], &answer["code"]), (413, &json!(false), &json!(413)));
    let nested = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(server.ask("POST /api/v2/jsonRPC", nested.as_bytes()).await.0, 422);
    let stack: Vec<_> = (0..20_000).map(|_| json!(["num", "1"])).collect();
    let params = json!({ "address": format!("0:{}", "00".repeat(32)), "method": "x", "stack": stack });
    assert_eq!(server.post("runGetMethod", &params).await.0, 422);
}

fn strange() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
        Just(json!(format!("0:{}", "11".repeat(32)))),
        Just(json!([["num", "0x11"], ["tvm.Cell", "te6ccgEBAQEAAgAAAA=="]])),
        Just(json!("te6ccgEBAQEAAgAAAA==")),
        Just(json!("0")),
        Just(json!("-1")),
    ]
}

#[test]
fn whatever_is_asked_there_is_an_answer_and_the_chain_goes_on() {
    const METHODS: [&str; 18] = [
        "getMasterchainInfo",
        "getAddressInformation",
        "getAddressBalance",
        "getAddressState",
        "getWalletInformation",
        "getTransactions",
        "runGetMethod",
        "sendBoc",
        "sendBocReturnHash",
        "getBlockHeader",
        "lookupBlock",
        "tryLocateTx",
        "tryLocateSourceTx",
        "shards",
        "getBlockTransactions",
        "estimateFee",
        "jsonRPC",
        "other",
    ];
    const NAMES: [&str; 21] = [
        "address",
        "limit",
        "lt",
        "hash",
        "to_lt",
        "method",
        "stack",
        "boc",
        "workchain",
        "shard",
        "seqno",
        "count",
        "params",
        "id",
        "body",
        "init_code",
        "init_data",
        "unixtime",
        "source",
        "destination",
        "created_lt",
    ];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(Server::start());
    let config = ProptestConfig::with_cases(300);
    proptest!(config, |(
        method in prop::sample::select(&METHODS[..]),
        params in prop::collection::hash_map(prop::sample::select(&NAMES[..]), strange(), 0..10),
    )| {
        let params = Value::from_iter(params.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let (status, answer) = runtime.block_on(server.post(method, &params));
        prop_assert_eq!(status == 200, answer["ok"] == true);
        prop_assert!(status == 200 || answer["error"].as_str().is_some_and(|error| !error.is_empty()));
    });
    let (status, answer) = runtime.block_on(server.get("getMasterchainInfo"));
    assert_eq!((status, &answer["result"]["last"]["seqno"]), (200, &json!(0)));
}
