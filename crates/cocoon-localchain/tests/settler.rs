//! Carrying plans out: what a contract refuses is not sent again and again.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/network.rs"]
mod network;
mod support;

use std::sync::Arc;

use cocoon_chain::settler::Settler;
use cocoon_settle::{Plan, Purpose, Transfer};
use cocoon_ton::message::Body;
use cocoon_ton::{Address, SigningKey, Wallet};
use network::Network;
use support::TON;

fn asking(to: Address, body: Body) -> Plan {
    let transfer = Transfer { to, value_nanoton: TON / 10, init: None, body, purpose: Purpose::Register };
    Plan { transfers: vec![transfer], ..Plan::default() }
}

#[tokio::test]
async fn what_a_contract_refuses_is_not_paid_for_again_at_once() {
    let network = Network::start().await;
    let key = SigningKey::from_bytes(&[7; 32]);
    let wallet = Wallet::cocoon(key.verifying_key().to_bytes(), Address::basechain([8; 32]));
    network.local.grant(wallet.address(), 10 * TON).await.unwrap();
    network.local.settle().await.unwrap();
    let settler = Settler::new(Arc::new(network.rooted.clone()), wallet, key);

    // The root obeys its owner alone.
    let excesses_to = settler.address();
    let refused = || asking(network.root, Body::ProxyPayout { query_id: 0, excesses_to });
    let view = settler.settled().await.unwrap();
    let steps = settler.carry_out(&view, refused()).await.unwrap();
    assert!(steps[0].is_refused(), "{steps:?}");
    let view = settler.settled().await.unwrap();
    assert!(settler.carry_out(&view, refused()).await.unwrap().is_empty());
    assert_eq!(settler.settled().await.unwrap().seqno, view.seqno, "nothing was sent");

    // Other things for the same contract go on.
    let steps =
        settler.carry_out(&view, asking(network.root, Body::DoNotProcess { query_id: 0 })).await.unwrap();
    assert!(!steps[0].is_refused(), "{steps:?}");
}
