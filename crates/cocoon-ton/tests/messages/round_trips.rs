//! Whatever is written reads back.

use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::message::{Body, ClientCounters, ClientRequest, MAX_COMMENT_BYTES, RootChange, WorkerPayout};
use cocoon_ton::payment::{ProxyCloseKind, SignedProxyClose};
use cocoon_ton::{
    Address, ContractCode, OrderKind, PaymentOrder, PaymentVerifyError, ProxyEndpoints, SigningKey, code,
};
use proptest::prelude::*;
use std::net::SocketAddrV4;

fn any_address() -> impl Strategy<Value = Address> {
    (any::<bool>(), any::<[u8; 32]>())
        .prop_map(|(masterchain, hash)| Address::new(if masterchain { -1 } else { 0 }, hash).unwrap())
}

fn any_status() -> impl Strategy<Value = ContractStatus> {
    prop_oneof![Just(ContractStatus::Open), Just(ContractStatus::Closing), Just(ContractStatus::Closed)]
}

fn any_code() -> impl Strategy<Value = ContractCode> {
    prop_oneof![
        Just(ContractCode::empty()),
        Just(code::root().clone()),
        Just(code::proxy().clone()),
        Just(code::wallet().clone()),
    ]
}

fn any_endpoints() -> impl Strategy<Value = ProxyEndpoints> {
    any::<([u8; 4], u16, [u8; 4], u16)>().prop_map(|(workers_ip, workers, clients_ip, clients)| {
        ProxyEndpoints {
            for_workers: SocketAddrV4::new(workers_ip.into(), workers.max(1)),
            for_clients: SocketAddrV4::new(clients_ip.into(), clients.max(1)),
        }
    })
}

fn any_client_request() -> impl Strategy<Value = ClientRequest> {
    (any::<u64>(), any_address()).prop_flat_map(|(amount, excesses_to)| {
        prop_oneof![
            Just(ClientRequest::TopUp { amount, excesses_to }),
            Just(ClientRequest::Register { nonce: amount }),
            Just(ClientRequest::RefundGranted { amount, excesses_to }),
            Just(ClientRequest::RefundForced { amount, excesses_to }),
        ]
    })
}

fn any_root_change() -> impl Strategy<Value = RootChange> {
    let numbers = any::<([u8; 32], [u32; 3], [u64; 4])>();
    let codes = (any_code(), any_code(), any_code());
    (numbers, codes, any_endpoints(), any_address()).prop_flat_map(
        |((hash, [seqno, proxy_delay, client_delay], amounts), (proxy, worker, client), endpoints, owner)| {
            let [price, worker_fee, min_proxy_stake, min_client_stake] = amounts;
            let params = RootChange::ChangeParams {
                price,
                worker_fee,
                proxy_delay,
                client_delay,
                min_proxy_stake,
                min_client_stake,
            };
            proptest::sample::select(vec![
                RootChange::AddWorkerImage(hash),
                RootChange::DelWorkerImage(hash),
                RootChange::AddModel(hash),
                RootChange::DelModel(hash),
                RootChange::AddProxyImage(hash),
                RootChange::DelProxyImage(hash),
                RootChange::RegisterProxy(endpoints),
                RootChange::UnregisterProxy(seqno),
                RootChange::UpdateProxy { seqno, endpoints },
                RootChange::ChangePrices { price, worker_fee },
                params,
                RootChange::UpgradeCode(proxy.clone()),
                RootChange::UpgradeFull { data: proxy.cell().clone(), code: worker.clone() },
                RootChange::UpgradeContracts { proxy, worker, client },
                RootChange::Reset,
                RootChange::ChangeOwner(owner),
            ])
        },
    )
}

fn any_signed() -> impl Strategy<Value = Body> {
    let kinds =
        [OrderKind::ChargeClient, OrderKind::RefundClient, OrderKind::PayWorker, OrderKind::PayWorkerLast];
    let closes = [ProxyCloseKind::Close, ProxyCloseKind::Complete];
    (any::<(u64, u64, [u8; 32])>(), any_address(), any_address()).prop_flat_map(
        move |((query_id, tokens, seed), contract, excesses_to)| {
            let key = SigningKey::from_bytes(&seed);
            let payments = kinds.map(|kind| {
                Body::SignedPayment(PaymentOrder { kind, contract, query_id, tokens, excesses_to }.sign(&key))
            });
            let closes = closes.map(|kind| {
                Body::SignedProxyClose(SignedProxyClose::sign(&key, kind, contract, query_id, excesses_to))
            });
            proptest::sample::select([&payments[..], &closes[..]].concat())
        },
    )
}

fn any_event() -> impl Strategy<Value = Body> {
    let worker =
        (any::<u64>(), any_address(), any_status(), any::<u64>(), any::<Option<(u64, u64)>>(), any_address())
            .prop_map(|(query_id, owner, status, tokens, parts, excesses_to)| Body::WorkerProxyRequest {
                query_id,
                owner,
                status,
                tokens,
                payout: parts.map(|(worker_part, proxy_part)| WorkerPayout {
                    worker_part,
                    proxy_part,
                    excesses_to,
                }),
            });
    let counters = (any_status(), any::<([u64; 3], [u8; 32])>()).prop_map(
        |(status, ([balance, stake, tokens_used], secret_hash))| ClientCounters {
            status,
            balance,
            stake,
            tokens_used,
            secret_hash,
        },
    );
    let client = (any::<u64>(), any_address(), counters, proptest::option::of(any_client_request()))
        .prop_map(|(query_id, owner, counters, request)| Body::ClientProxyRequest {
            query_id,
            owner,
            counters,
            request,
        });
    prop_oneof![worker, client]
}

fn any_plain() -> impl Strategy<Value = Body> {
    (any::<([u64; 2], u32, [u8; 32], u8)>(), any_address(), any_code(), any_root_change()).prop_flat_map(
        |(([query_id, amount], seqno, hash, mode), excesses_to, code, change)| {
            proptest::sample::select(vec![
                Body::Empty,
                Body::Excesses { query_id },
                Body::Payout { query_id },
                Body::DoNotProcess { query_id },
                Body::SaveState { query_id, seqno, unique_hash: hash },
                Body::RefundUnpaid { query_id, amount, excesses_to },
                Body::IncreaseProxyStake { query_id, amount, excesses_to },
                Body::ProxyPayout { query_id, excesses_to },
                Body::OwnerCloseProxy { query_id, excesses_to },
                Body::RegisterWorker { query_id, excesses_to },
                Body::TopUpClient { query_id, amount, excesses_to },
                Body::RegisterClient { query_id, nonce: amount, excesses_to },
                Body::ChangeSecretHash { query_id, secret_hash: hash, excesses_to },
                Body::ChangeSecretHashAndTopUp { query_id, amount, secret_hash: hash, excesses_to },
                Body::RequestRefund { query_id, excesses_to },
                Body::IncreaseClientStake { query_id, stake: amount, excesses_to },
                Body::WithdrawClient { query_id, excesses_to },
                Body::WalletSend { query_id, mode, message: code.cell().clone() },
                Body::Root { query_id, change: change.clone() },
                Body::Root { query_id, change },
                Body::BouncedOp { op: seqno },
                Body::Unknown { op: Some(1) },
            ])
        },
    )
}

fn any_comment() -> impl Strategy<Value = Body> {
    any::<String>()
        .prop_filter("within the limit", |text| text.len() <= MAX_COMMENT_BYTES)
        .prop_map(Body::Comment)
}

pub(crate) fn any_body() -> impl Strategy<Value = Body> {
    prop_oneof![4 => any_plain(), 2 => any_event(), 2 => any_signed(), 1 => any_comment()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_body_reads_back(body in any_body()) {
        prop_assert_eq!(Body::parse(&body.to_cell()), body.clone());
        if !matches!(body, Body::BouncedOp { .. }) {
            let bounced = Body::Bounced(Box::new(body));
            prop_assert_eq!(Body::parse(&bounced.to_cell()), bounced);
        }
    }

    #[test]
    fn every_body_has_its_name_and_its_query_id(body in any_body()) {
        let named = !matches!(body, Body::Unknown { .. });
        prop_assert_eq!(body.name() != "unknown", named);
        let read = Body::parse(&body.to_cell());
        prop_assert_eq!((read.op(), read.query_id()), (body.op(), body.query_id()));
    }

    #[test]
    fn an_order_to_close_holds_for_its_proxy_alone(
        seed: [u8; 32], other: [u8; 32], contract in any_address(), query_id: u64, excesses_to in any_address(),
    ) {
        prop_assume!(seed != other);
        let key = SigningKey::from_bytes(&seed);
        let close = SignedProxyClose::sign(&key, ProxyCloseKind::Close, contract, query_id, excesses_to);
        let key = key.verifying_key();
        prop_assert_eq!(close.verify(&key, &contract), Ok(()));
        prop_assert_eq!(SignedProxyClose::parse(&close.to_cell()), Ok(close));
        let another = Address::basechain(other);
        if another != contract {
            let refused = PaymentVerifyError::Contract { expected: another, found: contract };
            prop_assert_eq!(close.verify(&key, &another), Err(refused));
        }
        for changed in [
            SignedProxyClose { kind: ProxyCloseKind::Complete, ..close },
            SignedProxyClose { query_id: query_id ^ 1, ..close },
        ] {
            prop_assert_eq!(changed.verify(&key, &contract), Err(PaymentVerifyError::Signature));
        }
        let stranger = SigningKey::from_bytes(&other).verifying_key();
        prop_assert_eq!(close.verify(&stranger, &contract), Err(PaymentVerifyError::Signature));
    }
}

#[test]
fn texts_of_every_length_read_back_and_longer_ones_are_cut_between_characters() {
    for length in 0..=MAX_COMMENT_BYTES {
        let body = Body::Comment("x".repeat(length));
        assert_eq!(Body::parse(&body.to_cell()), body, "{length}");
    }
    let long = Body::Comment(format!("{}ü", "x".repeat(MAX_COMMENT_BYTES - 1)));
    assert_eq!(Body::parse(&long.to_cell()), Body::Comment("x".repeat(MAX_COMMENT_BYTES - 1)));
}
