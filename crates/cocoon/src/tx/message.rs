//! Whole messages: where they go, what they bring, and what they say. Also what a wallet is told to send.

use cocoon_ton::message::Body;
use cocoon_ton::{Address, Cell};
use tycho_types::cell::{CellBuilder, CellSlice, Load};
use tycho_types::error::Error;
use tycho_types::models::{
    CurrencyCollection, IntAddr, Message, MsgInfo, RelaxedMessage, RelaxedMsgInfo, StateInit,
};

use super::body::{Known, MAX_NESTING, describe};
use super::kinds::kind_of;
use crate::record::{Record, Value};

/// `auth_signed_external` of a v5r1 wallet.
const V5R1_OP_SIGNED: u32 = 0x7369_676e;
/// `action_send_msg`.
const ACTION_SEND_MESSAGE: u32 = 0x0ec3_c86d;
/// Most messages that a wallet sends at once, of all wallets.
const MAX_ORDERS: usize = 255;

/// A message as it is in a transaction or comes from outside; `None` where the cell is none.
pub(super) fn describe_sent(cell: &Cell, known: Known) -> Option<Record> {
    let message: Message<'_> = whole(cell)?;
    let body = own_cell(message.body).ok()?;
    let record = match &message.info {
        MsgInfo::Int(info) => {
            let words = if info.bounced { "message that came back" } else { "message" };
            let record = Record::new("message", "", words)
                .with("from", address(&info.src))
                .with("to", address(&info.dst))
                .with("value", coins(&info.value)?)
                .with("bounce", Value::Flag(info.bounce))
                .with_some("bounced", info.bounced.then_some(Value::Flag(true)))
                .with("forward_fee", Value::Coins(u64::try_from(info.fwd_fee.into_inner()).ok()?))
                .with("created_lt", Value::Number(info.created_lt));
            with_body(with_init(record, message.init.as_ref()), &body, known)
        }
        MsgInfo::ExtIn(info) => {
            let record = Record::new("message", "", "message from outside").with("to", address(&info.dst));
            let record = with_init(record, message.init.as_ref());
            with_any_body(record, &body, true, known)
        }
        MsgInfo::ExtOut(info) => {
            let record = Record::new("message", "", "message to outside").with("from", address(&info.src));
            with_body(record, &body, known)
        }
    };
    Some(record.with("hash", Value::Hash(cell.repr_hash().0)))
}

/// A message as a wallet's key or owner orders it: the sender is not filled in yet.
pub(super) fn describe_order(cell: &Cell, known: Known) -> Record {
    let order = || {
        let message: RelaxedMessage<'_> = whole(cell)?;
        let body = own_cell(message.body).ok()?;
        let RelaxedMsgInfo::Int(info) = &message.info else { return None };
        let record = Record::new("message", "", "message to be sent")
            .with("to", address(&info.dst))
            .with("value", coins(&info.value)?)
            .with("bounce", Value::Flag(info.bounce));
        Some(with_body(with_init(record, message.init.as_ref()), &body, known))
    };
    order().unwrap_or_else(|| {
        Record::new("message", "", "a cell that is no message").with("hash", Value::Hash(cell.repr_hash().0))
    })
}

/// The cell as a `T` with nothing after it.
fn whole<'a, T: Load<'a>>(cell: &'a Cell) -> Option<T> {
    let mut slice = cell.as_slice().ok()?;
    let loaded = T::load_from(&mut slice).ok()?;
    slice.is_empty().then_some(loaded)
}

fn own_cell(slice: CellSlice<'_>) -> Result<Cell, Error> {
    let mut builder = CellBuilder::new();
    builder.store_slice(slice)?;
    builder.build()
}

fn with_body(record: Record, body: &Cell, known: Known) -> Record {
    let told = if known.nesting >= MAX_NESTING {
        Record::new("body", "", "messages are nested deeper than is shown")
    } else {
        describe(&Body::parse(body), known)
    };
    record.with("body", Value::Part(told))
}

/// With a body that may be a wallet's order, if it came from outside.
pub(super) fn with_any_body(record: Record, body: &Cell, from_outside: bool, known: Known) -> Record {
    match wallet_order(body, known).filter(|_| from_outside) {
        Some(order) => record.with("body", Value::Part(order)),
        None => with_body(record, body, known),
    }
}

fn with_init(record: Record, init: Option<&StateInit>) -> Record {
    let Some(init) = init else { return record };
    let code = init.code.as_ref();
    let name = code.map_or("a contract without code", |code| kind_of(code).unwrap_or("a contract"));
    let hash = code.map(|code| Value::Hash(code.repr_hash().0));
    record.with("deploys", Value::Part(Record::new("contract", name, "").with_some("code_hash", hash)))
}

fn address(address: &IntAddr) -> Value {
    if let IntAddr::Std(standard) = address
        && standard.anycast.is_none()
        && let Ok(address) = Address::new(standard.workchain, standard.address.0)
    {
        return Value::Address(address);
    }
    Value::Text("an address that is no standard one".to_owned())
}

fn coins(value: &CurrencyCollection) -> Option<Value> {
    u64::try_from(value.tokens.into_inner()).ok().map(Value::Coins)
}

/// What the key of a wallet signed for it; `None` where the body is laid out for no wallet that we know.
fn wallet_order(body: &Cell, known: Known) -> Option<Record> {
    let slice = body.as_slice().ok()?;
    signed_for_v5r1(slice).or_else(|| signed_for_older(slice)).map(|order| order.describe(known))
}

struct WalletOrder {
    wallet: &'static str,
    wallet_id: u32,
    valid_until: u32,
    seqno: u32,
    /// Modes and messages.
    messages: Vec<(u8, Cell)>,
}

impl WalletOrder {
    fn describe(&self, known: Known) -> Record {
        let record =
            Record::new("wallet_order", self.wallet, "signed by the wallet's key: send these messages")
                .with("wallet_id", Value::Small(self.wallet_id.into()))
                .with("seqno", Value::Small(self.seqno.into()))
                .with("valid_until", Value::Time(self.valid_until.into()));
        let messages = self.messages.iter().map(|(mode, message)| {
            describe_order(message, known.deeper()).with("mode", Value::Small((*mode).into()))
        });
        record.with("messages", Value::Parts(messages.collect()))
    }
}

fn signed_for_v5r1(mut body: CellSlice<'_>) -> Option<WalletOrder> {
    if body.load_u32().ok()? != V5R1_OP_SIGNED {
        return None;
    }
    let (wallet_id, valid_until, seqno) =
        (body.load_u32().ok()?, body.load_u32().ok()?, body.load_u32().ok()?);
    let mut action = if body.load_bit().ok()? { Some(body.load_reference_cloned().ok()?) } else { None };
    let mut messages = Vec::new();
    // The last action comes first, and refers to the one before; the list ends with an empty cell.
    while let Some(cell) = action {
        let mut slice = cell.as_slice().ok()?;
        if slice.is_empty() {
            break;
        }
        action = Some(slice.load_reference_cloned().ok()?);
        if messages.len() >= MAX_ORDERS || slice.load_u32().ok()? != ACTION_SEND_MESSAGE {
            return None;
        }
        messages.push((slice.load_u8().ok()?, slice.load_reference_cloned().ok()?));
    }
    messages.reverse();
    Some(WalletOrder { wallet: "wallet v5r1", wallet_id, valid_until, seqno, messages })
}

/// For a v4r2 wallet or a node wallet: after signature and numbers a mode and a message each, before them in v4r2 a
/// byte that says to plainly send.
fn signed_for_older(mut body: CellSlice<'_>) -> Option<WalletOrder> {
    body.skip_first(512, 0).ok()?;
    let (wallet_id, valid_until, seqno) =
        (body.load_u32().ok()?, body.load_u32().ok()?, body.load_u32().ok()?);
    let modes = 8 * u16::from(body.size_refs());
    let wallet = if body.size_bits() == modes {
        "node wallet"
    } else if body.size_bits() == modes + 8 && body.load_u8().ok()? == 0 {
        "wallet v4r2"
    } else {
        return None;
    };
    let mut messages = Vec::new();
    while body.size_refs() > 0 {
        messages.push((body.load_u8().ok()?, body.load_reference_cloned().ok()?));
    }
    Some(WalletOrder { wallet, wallet_id, valid_until, seqno, messages })
}

/// The code of a contract that we know, as it stands in its account.
pub(super) fn describe_code(cell: &Cell) -> Option<Record> {
    kind_of(cell).map(|name| {
        Record::new("code", name, "the code of a contract").with("hash", Value::Hash(cell.repr_hash().0))
    })
}
