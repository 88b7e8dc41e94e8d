//! The probe contract, and messages to it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::sync::Arc;

use cocoon_localchain::{Block, ChainConfig, Core, ExternalMessage};
use cocoon_ton::cell::decode_boc;
use cocoon_ton::{Address, Cell};
use tycho_types::cell::{CellBuilder, CellFamily as _, HashBytes};
use tycho_types::models::{
    CurrencyCollection, ExtInMsgInfo, IntAddr, Message, MsgInfo, RelaxedIntMsgInfo, RelaxedMessage,
    RelaxedMsgInfo, StateInit, StdAddr,
};
use tycho_types::num::Tokens;

pub const START: u32 = 1_780_000_000;
pub const TON: u64 = 1_000_000_000;

pub const OP_ADD: u32 = 1;
pub const OP_FAIL: u32 = 2;
pub const OP_ECHO: u32 = 3;
pub const OP_FORWARD: u32 = 4;
pub const OP_BURN_GAS: u32 = 5;
pub const OP_RESERVE: u32 = 6;
pub const OP_DESTROY: u32 = 7;

pub fn core() -> Core {
    Core::new(Arc::new(ChainConfig::new().unwrap()), START).unwrap()
}

pub fn std_addr(address: Address) -> IntAddr {
    IntAddr::Std(StdAddr::new(address.workchain(), HashBytes(*address.hash())))
}

/// A contract that does what its messages say; see its source.
#[derive(Debug, Clone)]
pub struct Probe {
    pub address: Address,
    pub init: StateInit,
}

pub fn probe(salt: u32) -> Probe {
    let compiled: serde_json::Value = serde_json::from_str(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/localchain/contracts/probe.json"
    )))
    .unwrap();
    let code = decode_boc(&hex::decode(compiled["code"].as_str().unwrap()).unwrap(), 10_000).unwrap();
    let mut data = CellBuilder::new();
    data.store_u32(0).unwrap();
    data.store_u64(0).unwrap();
    data.store_u32(0).unwrap();
    data.store_u32(salt).unwrap();
    contract(code, data.build().unwrap())
}

pub fn contract(code: Cell, data: Cell) -> Probe {
    let init = StateInit { code: Some(code), data: Some(data), ..StateInit::default() };
    let hash = CellBuilder::build_from(&init).unwrap().repr_hash().0;
    Probe { address: Address::basechain(hash), init }
}

/// An external message with a body of one's own.
pub fn external_with(to: Address, init: Option<StateInit>, body: &Cell) -> ExternalMessage {
    let info = MsgInfo::ExtIn(ExtInMsgInfo { dst: std_addr(to), ..ExtInMsgInfo::default() });
    let body = body.as_slice_allow_exotic();
    ExternalMessage::from_cell(CellBuilder::build_from(Message { info, init, body, layout: None }).unwrap())
        .unwrap()
}

impl Probe {
    /// Has the probe send `messages`, each with its mode; brings the contract along.
    pub fn external(&self, seqno: u32, messages: &[(u8, Cell)]) -> ExternalMessage {
        let mut body = CellBuilder::new();
        body.store_u32(seqno).unwrap();
        store_list(&mut body, messages);
        external_with(self.address, Some(self.init.clone()), &body.build().unwrap())
    }
}

fn store_list(builder: &mut CellBuilder, messages: &[(u8, Cell)]) {
    let Some(((mode, message), rest)) = messages.split_first() else {
        builder.store_bit_zero().unwrap();
        return;
    };
    let mut entry = CellBuilder::new();
    entry.store_u8(*mode).unwrap();
    entry.store_reference(message.clone()).unwrap();
    store_list(&mut entry, rest);
    builder.store_bit_one().unwrap();
    builder.store_reference(entry.build().unwrap()).unwrap();
}

/// A body for the probe.
pub fn body(op: u32, number: u32, forwarded: &[(u8, Cell)]) -> Cell {
    let mut body = CellBuilder::new();
    body.store_u32(op).unwrap();
    body.store_u32(number).unwrap();
    store_list(&mut body, forwarded);
    body.build().unwrap()
}

/// A message for a contract to send.
pub fn internal(to: Address, nanoton: u64, bounce: bool, init: Option<StateInit>, body: &Cell) -> Cell {
    let info = RelaxedMsgInfo::Int(RelaxedIntMsgInfo {
        ihr_disabled: true,
        bounce,
        dst: std_addr(to),
        value: CurrencyCollection::from(Tokens::new(u128::from(nanoton))),
        ..RelaxedIntMsgInfo::default()
    });
    let body = body.as_slice_allow_exotic();
    CellBuilder::build_from(RelaxedMessage { info, init, body, layout: None }).unwrap()
}

pub fn empty_cell() -> Cell {
    Cell::empty_cell()
}

/// Grants coins, deploys the probe, and checks both.
pub fn deploy(core: &mut Core, probe: &Probe, nanoton: u64, now: u32) {
    core.grant(probe.address, nanoton).unwrap();
    block(core, now);
    core.submit(probe.external(0, &[]), now).unwrap();
    assert_eq!(block(core, now).transactions.len(), 1);
}

/// A block after which all coins are still there.
pub fn block(core: &mut Core, now: u32) -> Block {
    let block = core.produce_block(now).unwrap();
    assert_eq!(core.supply().unwrap().total_nanoton(), cocoon_localchain::SUPPLY_NANOTON);
    block
}
