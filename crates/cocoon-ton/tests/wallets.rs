//! Wallets and mnemonics, against what the JavaScript libraries of TON make of them. `wallets.json` was made by
//! `wallets.mjs`, which says how.

#![allow(clippy::unwrap_used, missing_docs)]

use cocoon_ton::wallet::{MAINNET_ID, MODE_PAY_FEES_SEPARATELY, TESTNET_ID, external_message, fees};
use cocoon_ton::{
    Address, Cell, CellError, Mnemonic, OutMessage, SignError, SigningKey, StateInit, Wallet, WalletKind,
    wallet_address,
};
use serde::Deserialize;
use tycho_types::cell::{CellBuilder, CellFamily as _};

#[derive(Deserialize)]
struct Fixture {
    valid_until: u32,
    wallets: Vec<Described>,
}

#[derive(Deserialize)]
struct Described {
    mnemonic: String,
    public_key: String,
    v4r2: Contract,
    v5r1_mainnet: Contract,
    v5r1_testnet: Contract,
}

#[derive(Deserialize)]
struct Contract {
    address: String,
    transfers: Vec<Transfer>,
}

#[derive(Deserialize)]
struct Transfer {
    seqno: u32,
    messages: usize,
    hash: String,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("wallets.json")).unwrap()
}

fn cell(store: impl FnOnce(&mut CellBuilder)) -> Cell {
    let mut builder = CellBuilder::new();
    store(&mut builder);
    builder.build().unwrap()
}

fn init() -> StateInit {
    StateInit {
        code: cell(|code| code.store_uint(7, 9).unwrap()),
        data: cell(|data| data.store_uint(5, 3).unwrap()),
    }
}

/// The messages of `wallets.mjs`.
fn messages() -> Vec<OutMessage> {
    let to = Address::basechain([0x5a; 32]);
    let long = cell(|body| body.store_raw(&[9; 120], 960).unwrap());
    let plain = OutMessage {
        to,
        value_nanoton: 1,
        bounce: false,
        mode: MODE_PAY_FEES_SEPARATELY,
        init: None,
        body: None,
    };
    let hello = cell(|body| {
        body.store_u32(0).unwrap();
        body.store_raw(b"hello", 40).unwrap();
    });
    let nested = cell(|body| {
        body.store_u64(9).unwrap();
        body.store_reference(long.clone()).unwrap();
    });
    vec![
        plain.clone(),
        OutMessage { value_nanoton: 1_500_000_000, bounce: true, body: Some(hello), ..plain.clone() },
        OutMessage { value_nanoton: 20_000_000, init: Some(init()), body: Some(nested), ..plain.clone() },
        OutMessage { value_nanoton: 0, bounce: true, init: Some(init()), body: Some(long), ..plain },
    ]
}

fn check(wallet: &Wallet, key: &SigningKey, valid_until: u32, expected: &Contract) {
    assert_eq!(wallet.address().to_raw_string(), expected.address);
    for transfer in &expected.transfers {
        let signed = wallet.sign(key, transfer.seqno, valid_until, &messages()[..transfer.messages]).unwrap();
        let about = format!("{}: {} messages at {}", wallet.kind(), transfer.messages, transfer.seqno);
        assert_eq!(hex::encode(signed.repr_hash().0), transfer.hash, "{about}");
    }
}

#[test]
fn keys_addresses_and_signed_transfers_are_those_of_other_programs() {
    let Fixture { valid_until, wallets } = fixture();
    for described in &wallets {
        let key = Mnemonic::parse(&described.mnemonic).unwrap().signing_key();
        let public_key = key.verifying_key().to_bytes();
        assert_eq!(hex::encode(public_key), described.public_key);
        check(&Wallet::v4r2(public_key), &key, valid_until, &described.v4r2);
        check(&Wallet::v5r1(public_key, MAINNET_ID), &key, valid_until, &described.v5r1_mainnet);
        check(&Wallet::v5r1(public_key, TESTNET_ID), &key, valid_until, &described.v5r1_testnet);
    }
    assert_eq!(wallets.len(), 4);
}

const KEY: [u8; 32] = [3; 32];
const OWNER: Address = Address::basechain([8; 32]);

fn all_kinds() -> [(SigningKey, Wallet); 4] {
    let key = SigningKey::from_bytes(&KEY);
    let public_key = key.verifying_key().to_bytes();
    [
        Wallet::cocoon(public_key, OWNER),
        Wallet::published(public_key, OWNER),
        Wallet::v4r2(public_key),
        Wallet::v5r1(public_key, TESTNET_ID),
    ]
    .map(|wallet| (key.clone(), wallet))
}

#[test]
fn node_wallets_are_at_the_addresses_that_handshakes_compute() {
    for (_, wallet) in &all_kinds()[..2] {
        let code = wallet.kind().code();
        let address = wallet_address(wallet.public_key(), &OWNER, &code.hash(), code.depth());
        assert_eq!(wallet.address(), address);
        assert_eq!(wallet.owner(), Some(OWNER));
    }
}

#[test]
fn a_new_wallet_counts_from_0_and_says_so_in_its_data() {
    for (_, wallet) in all_kinds() {
        assert_eq!(wallet.seqno_from_data(&wallet.state_init().data), Ok(0), "{}", wallet.kind());
        assert!(wallet.seqno_from_data(&Cell::empty_cell()).is_err());
    }
}

#[test]
fn only_a_wallets_first_message_brings_the_contract() {
    for (key, wallet) in all_kinds() {
        let sizes = [0, 1].map(|seqno| {
            let signed = wallet.sign(&key, seqno, 100, &messages()[..1]).unwrap();
            tycho_types::boc::Boc::encode(&signed).len()
        });
        assert!(sizes[0] > sizes[1] + 200, "{}: {sizes:?}", wallet.kind());
    }
}

#[test]
fn what_a_wallet_cannot_send_is_refused_before_it_is_signed() {
    for (key, wallet) in all_kinds() {
        let (kind, most) = (wallet.kind(), wallet.max_messages());
        let many = vec![messages()[0].clone(); most + 1];
        assert!(wallet.sign(&key, 5, 100, &many[1..]).is_ok(), "{kind}");
        let refused = SignError::TooManyMessages { kind, given: most + 1 };
        assert_eq!(wallet.sign(&key, 5, 100, &many), Err(refused.clone()), "{kind}");
        assert_eq!(fees::estimate(&wallet, true, &many), Err(refused), "{kind}");

        let stranger = SigningKey::from_bytes(&[4; 32]);
        let refused = wallet.sign(&stranger, 5, 100, &many[1..]);
        assert_eq!(refused, Err(SignError::WrongKey(wallet.address())), "{kind}");

        let mut deep = Cell::empty_cell();
        for _ in 0..600 {
            deep = cell(|body| body.store_reference(deep).unwrap());
        }
        let message = OutMessage { body: Some(deep), ..messages()[0].clone() };
        let refused = wallet.sign(&key, 5, 100, std::slice::from_ref(&message));
        assert_eq!(refused, Err(SignError::Message { to: message.to, source: CellError::TooDeep(600) }));
    }
}

#[test]
fn failing_messages_never_undo_the_sequence_number() {
    // The mode stands right before the signature's end or in the action list: both ways of asking give the same bytes.
    for (key, wallet) in all_kinds() {
        let [with, without] = [3, 1].map(|mode| OutMessage { mode, ..messages()[0].clone() });
        assert_eq!(wallet.sign(&key, 5, 100, &[with]), wallet.sign(&key, 5, 100, &[without]));
    }
}

#[test]
fn a_body_with_four_references_moves_to_a_cell_of_its_own_beside_a_contract() {
    let body = cell(|body| {
        for number in 0..4u8 {
            body.store_reference(cell(|child| child.store_u8(number).unwrap())).unwrap();
        }
    });
    let alone = external_message(&OWNER, None, &body).unwrap();
    let deploying = external_message(&OWNER, Some(&init()), &body).unwrap();
    assert_eq!((alone.reference_count(), deploying.reference_count()), (4, 3));
}

#[test]
fn estimates_grow_with_messages_their_size_and_the_deployment() {
    for (_, wallet) in all_kinds() {
        let estimate =
            |deployed, messages: &[OutMessage]| fees::estimate(&wallet, deployed, messages).unwrap();
        let all = messages();
        for count in 0..4 {
            assert!(estimate(true, &all[..count]) < estimate(true, &all[..=count]));
        }
        assert!(estimate(true, &all) < estimate(false, &all));
        assert!(estimate(true, &all[..1]) < 6_000_000, "{}: a plain transfer is cheap", wallet.kind());
    }
    assert_eq!(WalletKind::ALL.map(|kind| kind.name()), ["cocoon", "published", "v4r2", "v5r1"]);
}
