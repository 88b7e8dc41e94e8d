//! How many transactions a second the embedded chain makes: standard wallets (v4r2, so with a signature check each) send
//! coins to each other, four transfers per message, first on the state machine alone, then with a file.
//!
//! `cargo run --release -p cocoon-localchain --example throughput [WALLETS] [ROUNDS]`

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use cocoon_localchain::{
    ChainConfig, Core, ExternalMessage, LocalChain, Options, Production, SUPPLY_NANOTON, TimeSource,
};
use cocoon_ton::cell::decode_boc;
use cocoon_ton::{Address, Cell, NANOTON_PER_TON, SigningKey};
use ed25519_dalek::Signer as _;
use tycho_types::cell::{CellBuilder, CellFamily as _, HashBytes};
use tycho_types::models::{
    CurrencyCollection, ExtInMsgInfo, IntAddr, Message, MsgInfo, RelaxedIntMsgInfo, RelaxedMessage,
    RelaxedMsgInfo, StateInit, StdAddr,
};
use tycho_types::num::Tokens;

const START: u32 = 1_780_000_000;
const WALLET_ID: u32 = 698_983_191;
/// Transfers per message, the most that this wallet can.
const TRANSFERS: usize = 4;
/// Code of the standard wallet, version 4 revision 2.
const WALLET_CODE: &str = "\
    b5ee9c72010214010002d4000114ff00f4a413f4bcf2c80b01020120020f020148030602e6d001d0d3032171b0925f04e022\
    d749c120925f04e002d31f218210706c7567bd22821064737472bdb0925f05e003fa403020fa4401c8ca07cbffc9d0ed44d0\
    810140d721f404305c810108f40a6fa131b3925f07e005d33fc8258210706c7567ba923830e30d03821064737472ba925f06\
    e30d0405007801fa00f40430f8276f2230500aa121bef2e0508210706c7567831eb17080185004cb0526cf1658fa0219f400\
    cb6917cb1f5260cb3f20c98040fb0006008a5004810108f45930ed44d0810140d720c801cf16f400c9ed540172b08e238210\
    64737472831eb17080185005cb055003cf1623fa0213cb6acb1fcb3fc98040fb00925f03e2020120070e020120080d020158\
    090a003db29dfb513420405035c87d010c00b23281f2fff274006040423d029be84c600201200b0c0019adce76a26840206b\
    90eb85ffc00019af1df6a26840106b90eb858fc00011b8c97ed44d0d70b1f80059bd242b6f6a2684080a06b90fa0218470d4\
    080847a4937d29910ce6903e9ff9837812801b7810148987159f318404f8f28308d71820d31fd31fd31f02f823bbf264ed44\
    d0d31fd31fd3fff404d15143baf2a15151baf2a205f901541064f910f2a3f80024a4c8cb1f5240cb1f5230cbff5210f400c9\
    ed54f80f01d30721c0009f6c519320d74a96d307d402fb00e830e021c001e30021c002e30001c0039130e30d03a4c8cb1f12\
    cb1fcbff10111213006ed207fa00d4d422f90005c8ca0715cbffc9d077748018c8cb05cb0222cf165005fa0214cb6b12cccc\
    c973fb00c84014810108f451f2a7020070810108d718fa00d33fc8542047810108f451f2a782106e6f746570748018c8cb05\
    cb025006cf165004fa0214cb6a12cb1fcb3fc973fb0002006c810108d718fa00d33f305224810108f459f2a7821064737472\
    70748018c8cb05cb025005cf165003fa0213cb6acb1f12cb3fc973fb00000af400c9ed54";

struct Wallet {
    key: SigningKey,
    address: Address,
    init: StateInit,
}

impl Wallet {
    fn new(number: u32) -> Self {
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        let key = SigningKey::from_bytes(&seed);
        let mut data = CellBuilder::new();
        data.store_u32(0).unwrap();
        data.store_u32(WALLET_ID).unwrap();
        data.store_u256(&HashBytes(key.verifying_key().to_bytes())).unwrap();
        data.store_bit_zero().unwrap();
        let code = decode_boc(&hex::decode(WALLET_CODE).unwrap(), 10_000).unwrap();
        let init = StateInit { code: Some(code), data: Some(data.build().unwrap()), ..StateInit::default() };
        let hash = CellBuilder::build_from(&init).unwrap().repr_hash().0;
        Self { key, address: Address::basechain(hash), init }
    }

    fn message(&self, seqno: u32, transfers: &[Cell]) -> ExternalMessage {
        let mut order = CellBuilder::new();
        order.store_u32(WALLET_ID).unwrap();
        order.store_u32(u32::MAX).unwrap();
        order.store_u32(seqno).unwrap();
        order.store_u8(0).unwrap();
        for transfer in transfers {
            order.store_u8(3).unwrap();
            order.store_reference(transfer.clone()).unwrap();
        }
        let signature = self.key.sign(&order.clone().build().unwrap().repr_hash().0);
        let mut body = CellBuilder::new();
        body.store_raw(&signature.to_bytes(), 512).unwrap();
        body.store_builder(&order).unwrap();
        let body = body.build().unwrap();
        let info = MsgInfo::ExtIn(ExtInMsgInfo { dst: standard(self.address), ..ExtInMsgInfo::default() });
        let init = (seqno == 0).then(|| self.init.clone());
        let message = Message { info, init, body: body.as_slice_allow_exotic(), layout: None };
        ExternalMessage::from_cell(CellBuilder::build_from(message).unwrap()).unwrap()
    }
}

fn standard(address: Address) -> IntAddr {
    IntAddr::Std(StdAddr::new(address.workchain(), HashBytes(*address.hash())))
}

fn transfer(to: Address) -> Cell {
    let info = RelaxedMsgInfo::Int(RelaxedIntMsgInfo {
        ihr_disabled: true,
        dst: standard(to),
        value: CurrencyCollection::from(Tokens::new(u128::from(NANOTON_PER_TON / 100))),
        ..RelaxedIntMsgInfo::default()
    });
    let body = Cell::empty_cell_ref().as_slice_allow_exotic();
    CellBuilder::build_from(RelaxedMessage { info, init: None, body, layout: None }).unwrap()
}

/// The messages of each round. The first one deploys.
fn rounds(wallets: &[Wallet], rounds: u32) -> Vec<Vec<ExternalMessage>> {
    let message = |number: usize, seqno: u32| {
        let receiver = |step: usize| transfer(wallets[(number + step * 7) % wallets.len()].address);
        let transfers: Vec<Cell> = (1..=TRANSFERS).map(receiver).collect();
        wallets[number].message(seqno, &transfers)
    };
    (0..=rounds).map(|seqno| (0..wallets.len()).map(|number| message(number, seqno)).collect()).collect()
}

fn report(what: &str, transactions: usize, took: Duration) {
    let rate = transactions as f64 / took.as_secs_f64();
    println!("{what}: {transactions} transactions in {:.2} s, {rate:.0} a second", took.as_secs_f64());
}

fn state_machine(wallets: &[Wallet], rounds: &[Vec<ExternalMessage>]) {
    let mut core = Core::new(Arc::new(ChainConfig::new().unwrap()), START).unwrap();
    for wallet in wallets {
        core.grant(wallet.address, 100 * NANOTON_PER_TON).unwrap();
    }
    core.produce_block(START).unwrap();
    let (mut transactions, mut took) = (0, Duration::ZERO);
    for (now, round) in (START..).zip(rounds) {
        let messages = round.clone();
        let begun = Instant::now();
        for message in messages {
            core.submit(message, now).unwrap();
        }
        let made = core.produce_block(now).unwrap().transactions.len();
        // The first round deploys.
        if now > START {
            took += begun.elapsed();
            transactions += made;
        }
        assert_eq!(made, wallets.len() * (1 + TRANSFERS));
    }
    report("state machine alone", transactions, took);
    assert_eq!(core.supply().unwrap().total_nanoton(), SUPPLY_NANOTON);
}

async fn with_file(wallets: &[Wallet], rounds: &[Vec<ExternalMessage>], production: Production) {
    let directory = tempfile::tempdir().unwrap();
    let path = Some(directory.path().join("chain"));
    let chain =
        LocalChain::open(&Options { path, production, time: TimeSource::Fixed(START), ..Options::default() })
            .unwrap();
    for wallet in wallets {
        chain.grant(wallet.address, 100 * NANOTON_PER_TON).await.unwrap();
    }
    chain.produce_block().await.unwrap();
    let (mut transactions, mut took) = (0, Duration::ZERO);
    for (number, round) in rounds.iter().enumerate() {
        let messages = round.clone();
        let begun = Instant::now();
        for message in messages {
            chain.submit(message).await.unwrap();
        }
        if production == Production::Manual {
            chain.produce_block().await.unwrap();
        }
        if number > 0 {
            took += begun.elapsed();
            transactions += wallets.len() * (1 + TRANSFERS);
        }
    }
    report(&format!("with a file, {production:?} blocks"), transactions, took);
    assert_eq!(chain.supply().await.unwrap().total_nanoton(), SUPPLY_NANOTON);
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u32>().unwrap());
    let count = arguments.next().unwrap_or(1_000);
    let wallets: Vec<Wallet> = (0..count).map(Wallet::new).collect();
    let rounds = rounds(&wallets, arguments.next().unwrap_or(10));
    state_machine(&wallets, &rounds);
    with_file(&wallets, &rounds, Production::Manual).await;
    with_file(&wallets, &rounds, Production::OnMessage).await;
}
