//! Blocks, accounts and transactions in toncenter's form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_chain::{AccountState, AccountStatus, TransactionId};
use cocoon_ton::{Address, AddressFormat, Cell};
use serde_json::{Value, json};
use tycho_types::models::{CurrencyCollection, IntAddr, Message, MsgInfo, Transaction, TxInfo};

use super::ApiError;
use super::stack::base64_boc;
use crate::core::{BlockHeader, CommittedTransaction, named};
use crate::decode::slice_to_cell;

/// The one shard of either workchain: all accounts.
pub(super) const SHARD: &str = "-9223372036854775808";
/// Longest text that is taken out of a message for `message`, in bytes.
const MAX_COMMENT_BYTES: usize = 4_096;

pub(super) fn block_id(block: &BlockHeader, masterchain: bool) -> Value {
    let (root, file) = block.root_and_file_hash(masterchain);
    json!({
        "@type": "ton.blockIdExt",
        "workchain": if masterchain { -1 } else { 0 },
        "shard": SHARD,
        "seqno": block.seqno,
        "root_hash": STANDARD.encode(root),
        "file_hash": STANDARD.encode(file),
    })
}

pub(super) fn block_header(block: &BlockHeader, previous: Option<&BlockHeader>, masterchain: bool) -> Value {
    json!({
        "@type": "blocks.header",
        "id": block_id(block, masterchain),
        "global_id": crate::GLOBAL_ID,
        "version": 0,
        "flags": 0,
        "after_merge": false,
        "after_split": false,
        "before_split": false,
        "want_merge": false,
        "want_split": false,
        "validator_list_hash_short": 0,
        "catchain_seqno": 0,
        "min_ref_mc_seqno": block.seqno.saturating_sub(1),
        "is_key_block": block.seqno == 0,
        "prev_key_block_seqno": 0,
        "start_lt": block.start_lt.to_string(),
        "end_lt": block.end_lt.to_string(),
        "gen_utime": block.unix_time,
        "vert_seqno": 0,
        "prev_blocks": previous.map(|block| block_id(block, masterchain)).into_iter().collect::<Value>(),
    })
}

/// As other programs call the status.
pub(super) const fn status(status: AccountStatus) -> &'static str {
    match status {
        AccountStatus::Active => "active",
        AccountStatus::Frozen => "frozen",
        AccountStatus::NonExistent | AccountStatus::Uninitialised => "uninitialized",
    }
}

pub(super) fn transaction_id(id: Option<TransactionId>) -> Value {
    let id = id.unwrap_or(TransactionId { lt: 0, hash: [0; 32] });
    json!({
        "@type": "internal.transactionId",
        "lt": id.lt.to_string(),
        "hash": STANDARD.encode(id.hash),
    })
}

pub(super) fn account(state: &AccountState, frozen_hash: Option<[u8; 32]>, at: &BlockHeader) -> Value {
    let cell = |cell: &Option<Cell>| cell.as_ref().map(base64_boc).unwrap_or_default();
    json!({
        "@type": "raw.fullAccountState",
        "balance": state.balance_nanoton.to_string(),
        "extra_currencies": [],
        "code": cell(&state.code),
        "data": cell(&state.data),
        "last_transaction_id": transaction_id(state.last_transaction),
        "block_id": block_id(at, true),
        "frozen_hash": frozen_hash.map(|hash| STANDARD.encode(hash)).unwrap_or_default(),
        "sync_utime": state.at.unix_time,
        "state": status(state.status),
    })
}

pub(super) fn transaction(committed: &CommittedTransaction) -> Result<Value, ApiError> {
    let raw: Transaction = committed.cell.parse()?;
    let storage = match raw.load_info()? {
        TxInfo::Ordinary(info) => info.storage_phase.map(|phase| phase.storage_fees_collected),
        TxInfo::TickTock(info) => Some(info.storage_phase.storage_fees_collected),
    };
    let (fee, storage) = (raw.total_fees.tokens.into_inner(), storage.unwrap_or_default().into_inner());
    let outgoing = raw.out_msgs.values().map(|cell| message(&cell?));
    let mut shape = json!({
        "@type": "raw.transaction",
        "address": { "@type": "accountAddress", "account_address": friendly(committed.account) },
        "utime": raw.now,
        "data": base64_boc(&committed.cell),
        "transaction_id": transaction_id(Some(TransactionId { lt: committed.lt, hash: committed.hash })),
        "fee": fee.to_string(),
        "storage_fee": storage.to_string(),
        "other_fee": fee.saturating_sub(storage).to_string(),
        "out_msgs": outgoing.collect::<Result<Value, ApiError>>()?,
    });
    if let (Some(cell), Some(shape)) = (&raw.in_msg, shape.as_object_mut()) {
        shape.insert("in_msg".to_owned(), message(cell)?);
    }
    Ok(shape)
}

fn message(cell: &Cell) -> Result<Value, ApiError> {
    let message: Message<'_> = cell.parse()?;
    let address = |address: &IntAddr| named(address).map(friendly).unwrap_or_default();
    let (source, destination, value, forward_fee, created_lt) = match &message.info {
        MsgInfo::Int(info) => {
            let CurrencyCollection { tokens, .. } = info.value;
            (address(&info.src), address(&info.dst), tokens, info.fwd_fee, info.created_lt)
        }
        MsgInfo::ExtIn(info) => (String::new(), address(&info.dst), Default::default(), info.import_fee, 0),
        MsgInfo::ExtOut(info) => {
            (address(&info.src), String::new(), Default::default(), Default::default(), info.created_lt)
        }
    };
    let body = slice_to_cell(message.body)?;
    let init = message.init.as_ref().map(tycho_types::cell::CellBuilder::build_from).transpose()?;
    Ok(json!({
        "@type": "raw.message",
        "hash": STANDARD.encode(cell.repr_hash().0),
        "source": source,
        "destination": destination,
        "value": value.into_inner().to_string(),
        "extra_currencies": [],
        "fwd_fee": forward_fee.into_inner().to_string(),
        "ihr_fee": "0",
        "created_lt": created_lt.to_string(),
        "body_hash": STANDARD.encode(body.repr_hash().0),
        "msg_data": {
            "@type": "msg.dataRaw",
            "body": base64_boc(&body),
            "init_state": init.as_ref().map(base64_boc).unwrap_or_default(),
        },
        "message": comment(&body),
    }))
}

/// The text of a body that is one: 32 zero bits, then UTF-8 over a chain of cells.
fn comment(body: &Cell) -> String {
    let mut text = Vec::new();
    let mut cell = Some(body.as_ref());
    while let Some(part) = cell
        && text.len() < MAX_COMMENT_BYTES
        && part.bit_len() % 8 == 0
    {
        text.extend_from_slice(part.data());
        cell = part.reference(0);
    }
    match text.strip_prefix(&[0; 4]) {
        Some(text) => String::from_utf8_lossy(text).into_owned(),
        None => String::new(),
    }
}

fn friendly(address: Address) -> String {
    address.to_friendly_string(AddressFormat { bounceable: true, testnet: false, url_safe: true })
}
