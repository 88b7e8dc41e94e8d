//! Bodies that other programs made: `bodies.json`, written by `bodies.mts`.

use cocoon_ton::cell::decode_boc;
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::message::{Body, ClientCounters, ClientRequest, RootChange, WorkerPayout, op};
use cocoon_ton::payment::{ProxyCloseKind, SignedProxyClose};
use cocoon_ton::{
    Address, Cell, ContractCode, NANOTON_PER_TON, OrderKind, PaymentOrder, RootConfig, RootParams,
    SigningKey, client_address, proxy_address, root_state_init, worker_address,
};
use serde_json::Value;

const TON: u64 = NANOTON_PER_TON;

struct Fixture(Value);

impl Fixture {
    fn load() -> Self {
        Self(serde_json::from_str(include_str!("../bodies.json")).unwrap())
    }

    fn address(&self, name: &str) -> Address {
        self.0["addresses"][name].as_str().unwrap().parse().unwrap()
    }

    fn key(&self) -> SigningKey {
        let mut seed = [0; 32];
        hex::decode_to_slice(self.0["proxy_seed"].as_str().unwrap(), &mut seed).unwrap();
        SigningKey::from_bytes(&seed)
    }

    /// What followed from the message of this name, in order.
    fn sent(&self, of: &str) -> Vec<Body> {
        let entry = self.0["sent"].as_array().unwrap().iter().find(|entry| entry["of"] == of).unwrap();
        entry["bodies"].as_array().unwrap().iter().map(|boc| Body::parse(&cell(boc))).collect()
    }
}

fn cell(boc: &Value) -> Cell {
    decode_boc(&hex::decode(boc.as_str().unwrap()).unwrap(), 64 * 1024).unwrap()
}

fn number(bytes: u8) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[31] = bytes;
    hash
}

/// The body that the contracts' tests mean by each name.
fn expected(fixture: &Fixture) -> Vec<(&'static str, Body)> {
    let query_id = 7;
    let excesses_to = fixture.address("excess");
    let (key, proxy) = (fixture.key(), fixture.address("proxy"));
    let payment = |kind, contract| {
        let order = PaymentOrder { kind, contract, query_id, tokens: 100, excesses_to };
        Body::SignedPayment(order.sign(&key))
    };
    let close =
        |kind| Body::SignedProxyClose(SignedProxyClose::sign(&key, kind, proxy, query_id, excesses_to));
    let (client, worker) = (fixture.address("client"), fixture.address("worker"));
    let secret_hash = number(11);
    let mut expected = vec![
        ("empty", Body::Empty),
        ("withdraw_command", Body::Comment("w".into())),
        ("long_text", Body::Comment("0123456789".repeat(40))),
        ("excesses", Body::Excesses { query_id }),
        ("payout", Body::Payout { query_id }),
        ("do_not_process", Body::DoNotProcess { query_id }),
        ("save_state", Body::SaveState { query_id, seqno: 5, unique_hash: number(11) }),
        ("increase_proxy_stake", Body::IncreaseProxyStake { query_id, amount: 3 * TON, excesses_to }),
        ("proxy_payout", Body::ProxyPayout { query_id, excesses_to }),
        ("owner_close_proxy", Body::OwnerCloseProxy { query_id, excesses_to }),
        ("proxy_close_signed", close(ProxyCloseKind::Close)),
        ("proxy_close_complete_signed", close(ProxyCloseKind::Complete)),
        ("worker_payout_signed", payment(OrderKind::PayWorker, worker)),
        ("worker_last_payout_signed", payment(OrderKind::PayWorkerLast, worker)),
        ("client_charge_signed", payment(OrderKind::ChargeClient, client)),
        ("client_grant_refund_signed", payment(OrderKind::RefundClient, client)),
        ("register_worker", Body::RegisterWorker { query_id, excesses_to }),
        ("top_up_client", Body::TopUpClient { query_id, amount: 5 * TON, excesses_to }),
        ("register_client", Body::RegisterClient { query_id, nonce: 99, excesses_to }),
        ("change_secret_hash", Body::ChangeSecretHash { query_id, secret_hash, excesses_to }),
        (
            "change_secret_hash_and_top_up",
            Body::ChangeSecretHashAndTopUp { query_id, amount: 5 * TON, secret_hash, excesses_to },
        ),
        ("request_refund", Body::RequestRefund { query_id, excesses_to }),
        ("increase_client_stake", Body::IncreaseClientStake { query_id, stake: 3 * TON, excesses_to }),
        ("withdraw_client", Body::WithdrawClient { query_id, excesses_to }),
        (
            "wallet_send",
            Body::WalletSend { query_id, mode: 3, message: one_byte_code(fixture).cell().clone() },
        ),
    ];
    let changes = root_changes(fixture, excesses_to);
    expected.extend(changes.into_iter().map(|(name, change)| (name, Body::Root { query_id, change })));
    expected
}

fn root_changes(fixture: &Fixture, owner: Address) -> Vec<(&'static str, RootChange)> {
    let hash = number(11);
    let endpoints = "10.0.0.2:1 10.0.0.2:2".parse().unwrap();
    let upgrade = Body::parse(&cell(&fixture.0["built"]["root_upgrade_contracts"]));
    let Body::Root { change: RootChange::UpgradeContracts { proxy, worker, client }, .. } = upgrade else {
        panic!("{upgrade:?}");
    };
    let params = RootChange::ChangeParams {
        price: 51,
        worker_fee: 41,
        proxy_delay: 600,
        client_delay: 300,
        min_proxy_stake: 5,
        min_client_stake: 6,
    };
    let full = RootChange::UpgradeFull { data: proxy.cell().clone(), code: worker.clone() };
    vec![
        ("root_add_worker_type", RootChange::AddWorkerImage(hash)),
        ("root_del_worker_type", RootChange::DelWorkerImage(hash)),
        ("root_add_model_type", RootChange::AddModel(hash)),
        ("root_del_model_type", RootChange::DelModel(hash)),
        ("root_add_proxy_type", RootChange::AddProxyImage(hash)),
        ("root_del_proxy_type", RootChange::DelProxyImage(hash)),
        ("root_register_proxy", RootChange::RegisterProxy(endpoints)),
        ("root_unregister_proxy", RootChange::UnregisterProxy(2)),
        ("root_update_proxy", RootChange::UpdateProxy { seqno: 2, endpoints }),
        ("root_change_price", RootChange::ChangePrices { price: 50, worker_fee: 40 }),
        ("root_change_params", params),
        ("root_upgrade", RootChange::UpgradeCode(proxy.clone())),
        ("root_upgrade_contracts", RootChange::UpgradeContracts { proxy, worker, client }),
        ("root_reset", RootChange::Reset),
        ("root_upgrade_full", full),
        ("root_change_owner", RootChange::ChangeOwner(owner)),
    ]
}

/// The cell with the one byte 1, which the fixture uses as code.
fn one_byte_code(fixture: &Fixture) -> ContractCode {
    let Body::Root { change: RootChange::UpgradeCode(code), .. } =
        Body::parse(&cell(&fixture.0["built"]["root_upgrade"]))
    else {
        panic!("not an upgrade");
    };
    assert_eq!(hex::encode(code.to_boc()), "b5ee9c7201010101000300000201");
    code
}

#[test]
fn every_body_of_the_contracts_tests_is_written_bit_for_bit_and_read() {
    let fixture = Fixture::load();
    let expected = expected(&fixture);
    assert_eq!(expected.len(), fixture.0["built"].as_object().unwrap().len(), "all of them");
    for (name, body) in expected {
        let theirs = cell(&fixture.0["built"][name]);
        assert_eq!(body.to_cell(), theirs, "{name}");
        assert_eq!(Body::parse(&theirs), body, "{name}");
        if name.starts_with("root_") {
            assert_eq!(body.name(), name);
        }
    }
}

#[test]
fn every_body_that_the_contracts_send_is_known_and_written_the_same_again() {
    let fixture = Fixture::load();
    for entry in fixture.0["sent"].as_array().unwrap() {
        for boc in entry["bodies"].as_array().unwrap() {
            let theirs = cell(boc);
            match Body::parse(&theirs) {
                // Of these, what the chain adds is not kept.
                Body::Bounced(body) => assert!(matches!(*body, Body::ClientProxyRequest { .. }), "{body:?}"),
                Body::BouncedOp { op } => assert_eq!(op, op::OWNER_WORKER_REGISTER),
                Body::Unknown { op } => panic!("{}: {op:?}", entry["of"]),
                body => assert_eq!(body.to_cell(), theirs, "{}: {body:?}", entry["of"]),
            }
        }
    }
}

#[test]
fn a_client_contract_tells_its_counters_and_what_it_wants() {
    let fixture = Fixture::load();
    let (owner, excesses_to) = (fixture.address("client_owner"), fixture.address("excess"));
    let counters = ClientCounters {
        status: ContractStatus::Open,
        balance: 5 * TON,
        stake: 2 * TON,
        tokens_used: 0,
        secret_hash: [0; 32],
    };
    let said = |counters, request| Body::ClientProxyRequest { query_id: 7, owner, counters, request };
    let excesses = Body::Excesses { query_id: 7 };
    let top_up = ClientRequest::TopUp { amount: 5 * TON, excesses_to };
    assert_eq!(fixture.sent("top_up_client"), [said(counters, Some(top_up)), excesses.clone()]);
    let register = ClientRequest::Register { nonce: 99 };
    assert_eq!(fixture.sent("register_client"), [said(counters, Some(register)), excesses.clone()]);
    let secret = ClientCounters { secret_hash: number(11), ..counters };
    assert_eq!(fixture.sent("change_secret_hash"), [said(secret, None), excesses.clone()]);
    // 100 tokens at 1,000,000 nanoton each.
    let charged = ClientCounters { balance: 5 * TON - 100_000_000, tokens_used: 100, ..secret };
    assert_eq!(fixture.sent("client_charge_signed"), [said(charged, None), excesses.clone()]);
    let withdrawn = ClientCounters { balance: 2 * TON, ..charged };
    let refund = ClientRequest::RefundGranted { amount: 3 * TON - 100_000_000, excesses_to };
    let payout = Body::Payout { query_id: 7 };
    assert_eq!(fixture.sent("withdraw_client"), [said(withdrawn, Some(refund)), payout, excesses]);
    let forced = &fixture.sent("force_refund")[0];
    assert!(
        matches!(
            forced,
            Body::ClientProxyRequest { request: Some(ClientRequest::RefundForced { amount: 0, .. }), .. }
        ),
        "{forced:?}"
    );
}

#[test]
fn a_worker_contract_asks_for_its_owner_s_part_and_the_proxy_s() {
    let fixture = Fixture::load();
    let (owner, excesses_to) = (fixture.address("worker_owner"), fixture.address("excess"));
    let said = |tokens, payout| Body::WorkerProxyRequest {
        query_id: 7,
        owner,
        status: ContractStatus::Open,
        tokens,
        payout,
    };
    assert_eq!(fixture.sent("register_worker"), [said(0, None), Body::Excesses { query_id: 7 }]);
    let payout = WorkerPayout { worker_part: 60_000_000, proxy_part: 40_000_000, excesses_to };
    assert_eq!(fixture.sent("worker_payout_signed")[0], said(100, Some(payout)));
}

#[test]
fn a_top_up_of_a_closed_proxy_comes_back_whole() {
    let fixture = Fixture::load();
    let sent = fixture.sent("top_up_after_close");
    assert_eq!(sent[1], Body::Bounced(Box::new(sent[0].clone())));
    assert_eq!(fixture.sent("refused"), [Body::BouncedOp { op: op::OWNER_WORKER_REGISTER }]);
}

#[test]
fn a_whole_network_has_the_addresses_that_the_contracts_tests_compute() {
    let fixture = Fixture::load();
    let params = RootParams::from_cell(&cell(&fixture.0["params"])).unwrap();
    let data = cell(&fixture.0["root_data"]);
    let config = RootConfig::from_state(&data).unwrap();
    assert_eq!(config.to_state_data(), data);
    assert_eq!(config.params, params);
    let root = root_state_init(&config).address();
    assert_eq!(root, fixture.address("root"));
    let key = fixture.key().verifying_key().to_bytes();
    let proxy = proxy_address(&params, &root, &fixture.address("proxy_owner"), &key).unwrap();
    assert_eq!(proxy, fixture.address("proxy"));
    let client = client_address(&params, &fixture.address("client_owner"), &proxy, &key).unwrap();
    assert_eq!(client, fixture.address("client"));
    let worker = worker_address(&params, &fixture.address("worker_owner"), &proxy, &key).unwrap();
    assert_eq!(worker, fixture.address("worker"));
}
