//! The captured session: its addresses are recomputed and its payments verified.

#![allow(clippy::unwrap_used)]

use cocoon_ton::contracts::{WALLET_CODE_DEPTH, WALLET_CODE_HASH};
use cocoon_ton::root::model_hash;
use cocoon_ton::{
    Address, OrderKind, PaymentVerifyError, RootConfig, SignedPayment, SigningKey, StructVersion,
    VerifyingKey, client_address, proxy_address, wallet_address, worker_address,
};
use serde_json::Value;

const KEYS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/session-v2.keys.json"));
const DECODED: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/session-v2.decoded.txt"));

struct Session {
    keys: Value,
    root: RootConfig,
}

impl Session {
    fn load() -> Self {
        let keys: Value = serde_json::from_str(KEYS).unwrap();
        let root = RootConfig::from_published_json(&keys["root_config"].to_string()).unwrap();
        Self { keys, root }
    }

    fn text(&self, pointer: &str) -> &str {
        self.keys.pointer(pointer).and_then(Value::as_str).unwrap()
    }

    fn address(&self, pointer: &str) -> Address {
        self.text(pointer).parse().unwrap()
    }

    fn bytes(&self, pointer: &str) -> [u8; 32] {
        let mut bytes = [0; 32];
        hex::decode_to_slice(self.text(pointer), &mut bytes).unwrap();
        bytes
    }

    fn proxy_key(&self) -> VerifyingKey {
        VerifyingKey::from_bytes(&self.bytes("/proxy/public_key_hex")).unwrap()
    }

    /// The contract that an order of this kind must name.
    fn contract(&self, kind: OrderKind) -> Address {
        match kind {
            OrderKind::ChargeClient | OrderKind::RefundClient => self.address("/addresses/client_sc"),
            OrderKind::PayWorker | OrderKind::PayWorkerLast => self.address("/addresses/worker_sc"),
        }
    }
}

/// Every signed payment in the decoded session, in order, with repetitions.
fn captured_payments() -> Vec<Vec<u8>> {
    const MARK: &str = r#""@": "proxy.signedPayment", "data": "hex:"#;
    DECODED.split(MARK).skip(1).map(|rest| hex::decode(rest.split_once('"').unwrap().0).unwrap()).collect()
}

#[test]
fn the_three_contract_addresses_of_the_session_are_recomputed() {
    let session = Session::load();
    let params = &session.root.params;
    let (owner, key) = (session.address("/owner_address"), session.bytes("/proxy/public_key_hex"));
    let root = session.address("/root_contract_address");

    let proxy = proxy_address(params, &root, &owner, &key).unwrap();
    assert_eq!(proxy.to_string(), session.text("/addresses/proxy_sc"));
    let worker = worker_address(params, &owner, &proxy, &key).unwrap();
    assert_eq!(worker.to_string(), session.text("/addresses/worker_sc"));
    let client = client_address(params, &session.address("/client/wallet_address"), &proxy, &key).unwrap();
    assert_eq!(client.to_string(), session.text("/addresses/client_sc"));
}

#[test]
fn the_wallet_address_of_the_session_is_recomputed_from_code_hash_and_depth() {
    let session = Session::load();
    assert_eq!(session.bytes("/wallet/code_hash"), WALLET_CODE_HASH);
    assert_eq!(session.keys["wallet"]["code_depth"], WALLET_CODE_DEPTH);
    let wallet = wallet_address(
        &session.bytes("/client/wallet_public_key_hex"),
        &session.address("/client/wallet_owner_address"),
        &WALLET_CODE_HASH,
        WALLET_CODE_DEPTH,
    );
    assert_eq!(wallet.to_string(), session.text("/client/wallet_address"));
}

#[test]
fn an_address_changes_with_each_thing_it_depends_on() {
    let session = Session::load();
    let (owner, key) = (session.address("/owner_address"), session.bytes("/proxy/public_key_hex"));
    let root = session.address("/root_contract_address");
    let base = session.root.params.clone();
    let mut changed = Vec::new();
    for change in [
        |p: &mut cocoon_ton::RootParams| p.params_version += 1,
        |p: &mut cocoon_ton::RootParams| p.price_per_token_nanoton = 256,
        |p: &mut cocoon_ton::RootParams| p.is_test = false,
        |p: &mut cocoon_ton::RootParams| p.struct_version = StructVersion::V3,
        |p: &mut cocoon_ton::RootParams| p.min_client_stake_nanoton = 0,
        |p: &mut cocoon_ton::RootParams| p.client_code = None,
    ] {
        let mut params = base.clone();
        change(&mut params);
        changed.push(proxy_address(&params, &root, &owner, &key).unwrap());
    }
    changed.push(proxy_address(&base, &owner, &owner, &key).unwrap());
    changed.push(proxy_address(&base, &root, &root, &key).unwrap());
    changed.push(proxy_address(&base, &root, &owner, &[0; 32]).unwrap());
    changed.push(session.address("/addresses/proxy_sc"));
    let distinct: std::collections::BTreeSet<_> = changed.iter().collect();
    assert_eq!(distinct.len(), changed.len(), "{changed:?}");
}

#[test]
fn code_that_the_root_lacks_is_named() {
    let session = Session::load();
    let mut params = session.root.params.clone();
    params.worker_code = None;
    let (owner, key) = (session.address("/owner_address"), session.bytes("/proxy/public_key_hex"));
    let error = worker_address(&params, &owner, &owner, &key).unwrap_err();
    assert!(error.to_string().contains("worker"), "{error}");
}

#[test]
fn the_published_file_is_read_as_published_nodes_read_it() {
    let session = Session::load();
    let (root, params) = (&session.root, &session.root.params);
    let of = |name: &str| session.keys["params"][name].as_u64().unwrap();
    assert_eq!(u64::from(params.struct_version.number()), of("struct_version"));
    assert_eq!(u64::from(params.params_version), of("params_version"));
    assert_eq!(u64::from(params.unique_id), of("unique_id"));
    assert!(params.is_test);
    assert_eq!(params.price_per_token_nanoton, of("price_per_token"));
    assert_eq!(params.worker_fee_per_token_nanoton, of("worker_fee_per_token"));
    assert_eq!(u64::from(params.proxy_delay_before_close_seconds), of("proxy_delay_before_close"));
    assert_eq!(u64::from(params.client_delay_before_close_seconds), of("client_delay_before_close"));
    assert_eq!(params.min_proxy_stake_nanoton, of("min_proxy_stake"));
    assert_eq!(params.min_client_stake_nanoton, of("min_client_stake"));
    assert_eq!(params.reasoning_tokens_price_multiplier, 10_000);

    assert_eq!(root.owner, session.address("/root_config/root_owner_address"));
    assert_eq!((root.version, root.last_proxy_seqno), (3, 1));
    assert_eq!((root.proxy_hashes.len(), root.worker_hashes.len()), (1, 1));
    assert!(!root.allows_model("Qwen/Qwen3-8B"), "the file's model_names is ignored");
    let endpoints = root.registered_proxies[0].endpoints;
    assert_eq!(endpoints.for_workers.to_string(), "127.0.0.1:16001");
    assert_eq!(endpoints.for_clients.to_string(), "127.0.0.1:16002");
}

#[test]
fn what_is_written_in_the_published_form_reads_back_the_same() {
    let mut root = Session::load().root;
    root.model_hashes.insert(model_hash("Qwen/Qwen3-8B@main:00ff"));
    let written = root.to_published_json().unwrap();
    assert_eq!(RootConfig::from_published_json(&written).unwrap(), root);
}

#[test]
fn every_signed_payment_of_the_session_verifies() {
    let session = Session::load();
    let payments = captured_payments();
    assert_eq!(payments.len(), 13, "the capture holds so many signed payments");
    for bytes in payments {
        let payment = SignedPayment::parse(&bytes).unwrap();
        let kind = payment.order().kind;
        assert_eq!(payment.verify(&session.proxy_key(), kind, &session.contract(kind)), Ok(0));
        assert_eq!(payment.to_boc(), bytes, "the parsed order is serialised to the captured bytes");
    }
}

#[test]
fn no_signed_payment_survives_the_change_of_one_bit() {
    let session = Session::load();
    let mut distinct = captured_payments();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 2, "one for the client, one for the worker");
    for bytes in distinct {
        let original = SignedPayment::parse(&bytes).unwrap();
        let kind = original.order().kind;
        let mut rewritten = 0;
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let Ok(payment) = SignedPayment::parse(&changed) else { continue };
            if payment.verify(&session.proxy_key(), kind, &session.contract(kind)).is_ok() {
                // Where excess coins go is not signed: the 256 bits of that account, since another workchain that
                // exists is more than one bit away. All else must be as it was.
                assert_eq!(payment, original.with_excesses_to(payment.order().excesses_to), "bit {bit}");
                rewritten += 1;
            }
        }
        assert_eq!(rewritten, 256, "only the bits of the unsigned address may change");
    }
}

#[test]
fn a_payment_for_another_contract_or_of_another_kind_is_refused() {
    let session = Session::load();
    let key = session.proxy_key();
    let bytes = captured_payments().remove(0);
    let payment = SignedPayment::parse(&bytes).unwrap();
    let kind = payment.order().kind;
    let other = session.address("/addresses/proxy_sc");
    assert!(matches!(payment.verify(&key, kind, &other), Err(PaymentVerifyError::Contract { .. })));
    let contract = session.contract(kind);
    let refused = payment.verify(&key, OrderKind::RefundClient, &contract);
    assert!(matches!(refused, Err(PaymentVerifyError::Kind { .. })));
    let stranger = SigningKey::from_bytes(&[1; 32]).verifying_key();
    assert_eq!(payment.verify(&stranger, kind, &contract), Err(PaymentVerifyError::Signature));
}
