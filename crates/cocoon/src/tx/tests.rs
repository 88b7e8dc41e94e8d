//! What decoding makes of good, damaged and hostile cells.

use cocoon_localchain::{ExternalMessage, LocalChain, Options, TimeSource};
use cocoon_ton::cell::encode_boc;
use cocoon_ton::message::{RootChange, WorkerPayout};
use cocoon_ton::payment::{ProxyCloseKind, SignedProxyClose};
use cocoon_ton::{Address, OrderKind, OutMessage, PaymentOrder, SigningKey, Wallet, WalletKind};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tycho_types::cell::{CellBuilder, CellFamily as _, Store as _};
use tycho_types::models::{IntMsgInfo, MsgInfo, OwnedMessage, StdAddr};

use super::*;

const TON: u64 = 1_000_000_000;
/// An arbitrary moment of the chain.
const NOW: u32 = 1_800_000_000;

fn address(byte: u8) -> Address {
    Address::basechain([byte; 32])
}

fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32])
}

fn payment() -> cocoon_ton::SignedPayment {
    let order = PaymentOrder {
        kind: OrderKind::ChargeClient,
        contract: address(7),
        query_id: 5,
        tokens: 1_000,
        excesses_to: address(8),
    };
    order.sign(&key(1))
}

fn bodies() -> Vec<Body> {
    let (query_id, excesses_to) = (u64::MAX, address(3));
    let payout = WorkerPayout { worker_part: TON, proxy_part: 5, excesses_to };
    let status = cocoon_ton::contracts::ContractStatus::Closing;
    vec![
        Body::Empty,
        Body::Comment("w".to_owned()),
        Body::Excesses { query_id },
        Body::TopUpClient { query_id, amount: 3 * TON / 2, excesses_to },
        Body::ChangeSecretHash { query_id, secret_hash: [9; 32], excesses_to },
        Body::WorkerProxyRequest { query_id, owner: address(4), status, tokens: 6, payout: Some(payout) },
        Body::SignedPayment(payment()),
        Body::SignedProxyClose(SignedProxyClose::sign(
            &key(1),
            ProxyCloseKind::Close,
            address(7),
            query_id,
            excesses_to,
        )),
        Body::Root { query_id, change: RootChange::ChangePrices { price: 20, worker_fee: 18 } },
        Body::Root { query_id, change: RootChange::ChangeOwner(address(4)) },
        Body::WalletSend {
            query_id,
            mode: 3,
            message: transfer(Body::Excesses { query_id }).to_cell().unwrap(),
        },
        Body::Bounced(Box::new(Body::RequestRefund { query_id, excesses_to })),
        Body::BouncedOp { op: 0x2565_934c },
        Body::Unknown { op: Some(0x1234_5678) },
    ]
}

fn transfer(body: Body) -> OutMessage {
    OutMessage {
        to: address(2),
        value_nanoton: 3 * TON / 2,
        bounce: true,
        mode: 1,
        init: None,
        body: Some(body.to_cell()),
    }
}

fn wallets() -> Vec<Wallet> {
    let public = key(2).verifying_key().to_bytes();
    vec![
        Wallet::cocoon(public, address(4)),
        Wallet::published(public, address(4)),
        Wallet::v4r2(public),
        Wallet::v5r1(public, cocoon_ton::wallet::TESTNET_ID),
    ]
}

fn told(cell: &Cell, known: Known) -> Json {
    let telling = Telling { testnet: false, style: Style::plain() };
    let record = describe(cell, known);
    assert!(!record.to_text(telling).is_empty());
    record.to_json(telling)
}

fn telling_of(body: &Body) -> Json {
    told(&body.to_cell(), Known::default())
}

#[test]
fn every_body_is_told_by_its_name_with_its_amounts() {
    for body in bodies() {
        let told = telling_of(&body);
        assert_eq!(told["kind"], "body");
        assert_eq!(told["name"], body.name());
        assert_eq!(told["query_id"].as_str().map(str::to_owned), body.query_id().map(|id| id.to_string()));
    }
    let told = telling_of(&bodies()[3]);
    assert_eq!(told["amount"], json!({"nanoton": "1500000000", "ton": "1.5 TON"}));
    assert_eq!(told["excesses_to"], address(3).to_string());
}

#[test]
fn a_signed_order_shows_what_is_signed_and_whether_by_that_key() {
    let cell = payment().to_cell();
    let verified = |byte: u8| {
        let known = Known { proxy_key: Some(key(byte).verifying_key()), nesting: 0 };
        told(&cell, known)["signature"].as_str().unwrap().to_owned()
    };
    assert!(verified(1).starts_with("valid"));
    assert!(verified(2).starts_with("NOT VALID"));
    let told = told(&cell, Known::default());
    assert!(told["signature"].as_str().unwrap().contains("not checked"), "{told}");
    assert_eq!(told["order"]["tokens_in_all"], "1000");
    assert_eq!(told["order"]["contract"], address(7).to_string());
}

#[test]
fn what_a_wallet_is_told_to_send_is_shown_for_every_kind_of_wallet() {
    for wallet in wallets() {
        let first = transfer(Body::TopUpClient { query_id: 1, amount: TON, excesses_to: address(3) });
        let second = OutMessage { value_nanoton: TON, ..transfer(Body::Comment("hello".to_owned())) };
        let message = wallet.sign(&key(2), 0, NOW, &[first, second]).unwrap();
        let told = told(&message, Known::default());
        assert_eq!(told["to"], wallet.address().to_string(), "{told}");
        let code = match wallet.kind() {
            WalletKind::Cocoon => "Cocoon node wallet",
            WalletKind::Published => "published Cocoon node wallet",
            WalletKind::V4R2 => "wallet v4r2",
            WalletKind::V5R1 => "wallet v5r1",
        };
        assert_eq!(told["deploys"]["name"], code);
        let order = &told["body"];
        assert!(code.ends_with(order["name"].as_str().unwrap()), "{told}");
        assert_eq!((&order["seqno"], &order["valid_until"]["unix"]), (&json!(0), &json!(NOW)));
        let names: Vec<&Json> =
            order["messages"].as_array().unwrap().iter().map(|message| &message["body"]["name"]).collect();
        assert_eq!(names, ["ext_client_top_up", "text"]);
        assert_eq!(order["messages"][0]["value"]["nanoton"], "1500000000");
    }
}

/// A wallet's first transactions on a real chain: coins come, the wallet is deployed and sends two messages.
async fn transactions() -> (Wallet, Vec<Cell>) {
    let time = TimeSource::Fixed(NOW);
    let chain = LocalChain::open(&Options { time, ..Options::default() }).unwrap();
    let wallet = wallets().remove(0);
    chain.grant(wallet.address(), 10 * TON).await.unwrap();
    chain.settle().await.unwrap();
    let sent = [transfer(Body::Comment("hello".to_owned())), transfer(Body::Excesses { query_id: 6 })];
    let message = wallet.sign(&key(2), 0, NOW + 60, &sent).unwrap();
    chain.submit(ExternalMessage::from_cell(message).unwrap()).await.unwrap();
    chain.settle().await.unwrap();
    let history = chain.history(wallet.address(), u64::MAX, 0, 10).await.unwrap();
    (wallet, history.into_iter().map(|made| made.cell).rev().collect())
}

#[tokio::test]
async fn real_transactions_are_told_with_outcome_messages_and_fees() {
    let (wallet, cells) = transactions().await;
    let [granted, sent, bounced, ..] = &cells[..] else { panic!("{} transactions", cells.len()) };
    let granted = told(granted, Known::default());
    assert_eq!(granted["in_message"]["value"]["nanoton"], "10000000000");
    assert!(granted["outcome"].as_str().unwrap().contains("nothing ran"), "{granted}");
    let sent = told(sent, Known::default());
    assert_eq!(sent["account_hash"], hex::encode(wallet.address().hash()));
    assert_eq!((&sent["outcome"], &sent["exit_code"]), (&json!("done"), &json!(0)));
    assert_eq!(sent["time"]["unix"], NOW);
    assert!(sent["now"].as_str().unwrap().contains("deployed"), "{sent}");
    assert!(sent["fees_in_all"]["nanoton"].as_str().unwrap().parse::<u64>().unwrap() > 100_000);
    let names: Vec<&Json> =
        sent["out_messages"].as_array().unwrap().iter().map(|message| &message["body"]["name"]).collect();
    assert_eq!(names, ["text", "excesses"]);
    // Nobody is at home there, so the coins come back.
    let bounced = told(bounced, Known::default());
    assert_eq!(bounced["in_message"]["bounced"], true, "{bounced}");
}

#[test]
fn messages_within_messages_are_shown_to_a_depth_and_no_further() {
    let mut body = Body::Comment("the innermost".to_owned());
    for _ in 0..60 {
        body = Body::WalletSend { query_id: 1, mode: 3, message: transfer(body).to_cell().unwrap() };
    }
    let text = telling_of(&body).to_string();
    assert!(text.contains("nested deeper") && !text.contains("innermost"), "{text}");
}

#[test]
fn an_operation_that_is_laid_out_wrongly_is_still_named() {
    let mut builder = CellBuilder::new();
    builder.store_u32(0xf172_e6c2).unwrap();
    let told = told(&builder.build().unwrap(), Known::default());
    assert_eq!(told["name"], "unknown");
    assert_eq!(told["operation"], "0xf172e6c2 (ext_client_top_up)");
}

fn line_of_cells(depth: u16) -> Cell {
    (0..depth).fold(Cell::default(), |below, _| {
        let mut builder = CellBuilder::new();
        builder.store_reference(below).unwrap();
        builder.build().unwrap()
    })
}

#[test]
fn what_is_no_bag_of_cells_is_refused_with_the_reason() {
    let good = encode_boc(&payment().to_cell());
    assert!(input::cells(&good).is_ok());
    for length in [0, 3, 4, 10, good.len() - 1] {
        assert!(input::cells(&good[..length]).is_err(), "{length} of {} bytes", good.len());
    }
    let large = [&good[..4], &vec![0; 3 * 1024 * 1024]].concat();
    assert!(matches!(input::cells(&large), Err(Undecodable::TooLarge)));
    assert!(matches!(input::cells(b"not at all"), Err(Undecodable::NoCells)));
    let deep = encode_boc(&line_of_cells(1000));
    assert_eq!(told(&input::cells(&deep).unwrap(), Known::default())["kind"], "body");
}

#[test]
fn an_internal_message_with_two_formats_of_bounce_is_told() {
    let old = Body::BouncedOp { op: 0xf172_e6c2 };
    let whole = Body::Bounced(Box::new(bodies().remove(3)));
    for (body, words) in [(old, "ext_client_top_up"), (whole, "\"ext_client_top_up\"")] {
        let std = |address: Address| StdAddr::new(0, (*address.hash()).into()).into();
        let info =
            IntMsgInfo { bounced: true, src: std(address(1)), dst: std(address(2)), ..IntMsgInfo::default() };
        let message =
            OwnedMessage { info: MsgInfo::Int(info), init: None, body: body.to_cell().into(), layout: None };
        let mut builder = CellBuilder::new();
        message.store_into(&mut builder, Cell::empty_context()).unwrap();
        let told = told(&builder.build().unwrap(), Known::default());
        assert_eq!(told["words"], "message that came back", "{told}");
        assert!(told["body"].to_string().contains(words), "{told}");
    }
}

/// Bags of cells of everything that is decoded.
fn samples() -> Vec<Vec<u8>> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_, transactions) = runtime.block_on(transactions());
    let orders = wallets().into_iter().map(|wallet| {
        let seqno = u32::from(wallet.kind() == WalletKind::V4R2);
        wallet.sign(&key(2), seqno, NOW, &[transfer(Body::Empty)]).unwrap()
    });
    let cells = bodies().into_iter().map(|body| body.to_cell()).chain(orders).chain(transactions);
    cells.map(|cell| encode_boc(&cell)).collect()
}

#[test]
fn damage_anywhere_makes_neither_the_reader_nor_the_telling_panic() {
    let samples = samples();
    let known = Known { proxy_key: Some(key(1).verifying_key()), nesting: 0 };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(4_000));
    let damage = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6);
    let strategy = (0..samples.len(), damage, any::<bool>());
    let decoded = std::cell::Cell::new(0_u32);
    let outcome = runner.run(&strategy, |(sample, damage, cut)| {
        let mut bytes = samples[sample].clone();
        for (index, byte) in &damage {
            let at = index.index(bytes.len());
            bytes[at] = *byte;
        }
        if cut {
            bytes.truncate(damage[0].0.index(bytes.len()));
        }
        if let Ok(cell) = input::cells(&bytes) {
            decoded.set(decoded.get() + 1);
            told(&cell, known);
        }
        Ok(())
    });
    outcome.unwrap();
    assert!(decoded.get() > 500, "only {} of the damaged bags were bags still", decoded.get());
}

proptest! {
    #[test]
    fn random_bytes_are_told_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let with_magic = [&[0xb5, 0xee, 0x9c, 0x72][..], &bytes].concat();
        for bytes in [bytes, with_magic] {
            if let Ok(cell) = input::cells(&bytes) {
                told(&cell, Known::default());
            }
        }
    }

    #[test]
    fn random_cells_are_told(data in proptest::collection::vec(any::<u8>(), 0..127), op in 0..40_usize) {
        // Behind a real operation code, so that its fields are read.
        let mut builder = CellBuilder::new();
        let known = bodies();
        if let Some(op) = known.get(op).and_then(Body::op) {
            builder.store_u32(op).unwrap();
        }
        let room = usize::from(builder.spare_capacity_bits() / 8);
        builder.store_raw(&data[..data.len().min(room)], u16::try_from(data.len().min(room) * 8).unwrap()).unwrap();
        builder.store_reference(payment().to_cell()).unwrap();
        told(&builder.build().unwrap(), Known::default());
    }
}
