//! The methods, each from its parameters to its result.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_chain::{AccountState, AccountStatus, StackItem};
use cocoon_ton::Address;
use serde_json::{Value, json};

use super::params::Params;
use super::{ApiError, shapes, stack};
use crate::core::BlockHeader;
use crate::{
    Draft, ExternalMessage, LocalChain, MAX_EXTERNAL_MESSAGE_BYTES, Moment, decode_transaction, method_id,
};

/// How many transactions are answered when a request does not say.
const DEFAULT_TRANSACTIONS: usize = 10;
/// Most transactions that one request may ask for.
const MAX_TRANSACTIONS: usize = 100;
/// How many transactions of a block are answered when a request does not say, and at most.
const DEFAULT_BLOCK_TRANSACTIONS: usize = 40;
const MAX_BLOCK_TRANSACTIONS: usize = 10_000;
/// How many times [`MAX_TRANSACTIONS`] are looked through for the one that a message made. Messages are delivered in the
/// order of their logical times, so few come before it.
const MAX_LOCATE_PAGES: usize = 100;

/// Code hashes of the standard wallets.
const WALLETS: [(&str, &str); 4] = [
    ("wallet v3 r1", "b61041a58a7980b946e8fb9e198e3c904d24799ffa36574ea4251c41a566f581"),
    ("wallet v3 r2", "84dafa449f98a6987789ba232358072bc0f76dc4524002a5d0918b9a75d2d599"),
    ("wallet v4 r2", "feb5ff6820e2ff0d9483e7e0d62c817d846789fb4ae580c878866d959dabd5c0"),
    ("wallet v5 r1", "20834b7b72b112147e1b2fb457b84e74d1a30f04f737d4f62a668e9552d2b72f"),
];

/// toncenter's methods.
pub(super) async fn call(chain: &LocalChain, method: &str, params: &Params) -> Result<Value, ApiError> {
    match method {
        "getMasterchainInfo" => masterchain_info(chain).await,
        "getAddressInformation" => address_information(chain, params).await,
        "getAddressBalance" => Ok(json!(state(chain, params).await?.balance_nanoton.to_string())),
        "getAddressState" => Ok(json!(shapes::status(state(chain, params).await?.status))),
        "getWalletInformation" => wallet_information(chain, params).await,
        "getTransactions" => transactions(chain, params).await,
        "runGetMethod" => run_get_method(chain, params).await,
        "sendBoc" => send(chain, params).await.map(|_| json!({ "@type": "ok" })),
        "sendBocReturnHash" => {
            let hash = STANDARD.encode(send(chain, params).await?);
            Ok(json!({ "@type": "raw.extMessageInfo", "hash": hash }))
        }
        "estimateFee" => estimate_fee(chain, params).await,
        "getBlockHeader" => block_header(chain, params).await,
        "lookupBlock" => look_up_block(chain, params).await,
        "tryLocateTx" | "tryLocateResultTx" => locate_result(chain, params).await,
        "tryLocateSourceTx" => locate_source(chain, params).await,
        "shards" => shards(chain, params).await,
        "getBlockTransactions" => block_transactions(chain, params).await,
        _ => Err(unknown(method)),
    }
}

/// The methods that no public network has.
pub(super) async fn control(chain: &LocalChain, method: &str, params: &Params) -> Result<Value, ApiError> {
    match method {
        "grant" => {
            let amount = params.required_number::<u64>("amount")?;
            chain.grant(params.address("address")?, amount).await?;
            Ok(json!({ "@type": "ok" }))
        }
        "advance" => {
            let head = chain.advance(params.required_number("seconds")?).await?;
            Ok(shapes::block_id(&head, true))
        }
        "settle" => {
            let blocks: Vec<u32> = chain.settle().await?.iter().map(|block| block.seqno).collect();
            Ok(json!({ "blocks": blocks }))
        }
        "now" => Ok(json!({ "now": chain.now().await? })),
        "config" => {
            let root = chain.config_root().await?;
            Ok(json!({ "bytes": root.as_ref().map(stack::base64_boc) }))
        }
        _ => Err(unknown(method)),
    }
}

fn unknown(method: &str) -> ApiError {
    let method: String = method.chars().take(64).flat_map(char::escape_default).collect();
    ApiError::new(404, format!("method '{method}' is not known here"))
}

async fn masterchain_info(chain: &LocalChain) -> Result<Value, ApiError> {
    let head = chain.head().await?;
    let first = chain.block(0).await?.unwrap_or(head);
    Ok(json!({
        "@type": "blocks.masterchainInfo",
        "last": shapes::block_id(&head, true),
        "state_root_hash": STANDARD.encode(head.hash),
        "init": shapes::block_id(&first, true),
    }))
}

async fn state(chain: &LocalChain, params: &Params) -> Result<AccountState, ApiError> {
    Ok(chain.account(params.address("address")?).await?.0)
}

/// The block that an account was read at. Blocks are never taken back, so it is there.
async fn block_of(chain: &LocalChain, state: &AccountState) -> Result<BlockHeader, ApiError> {
    chain.block(state.at.seqno).await?.ok_or_else(|| not_found(state.at.seqno))
}

fn not_found(seqno: u32) -> ApiError {
    ApiError::new(500, format!("LITE_SERVER_NOTREADY: ltdb: block not found: seqno {seqno}"))
}

async fn address_information(chain: &LocalChain, params: &Params) -> Result<Value, ApiError> {
    let (state, frozen_hash) = chain.account(params.address("address")?).await?;
    let at = block_of(chain, &state).await?;
    Ok(shapes::account(&state, frozen_hash, &at))
}

async fn wallet_information(chain: &LocalChain, params: &Params) -> Result<Value, ApiError> {
    let address = params.address("address")?;
    let state = chain.account(address).await?.0;
    let mut information = json!({
        "wallet": false,
        "balance": state.balance_nanoton.to_string(),
        "account_state": shapes::status(state.status),
        "last_transaction_id": shapes::transaction_id(state.last_transaction),
    });
    let code = state.code.filter(|_| state.status == AccountStatus::Active);
    let hash = code.map(|code| hex::encode(code.repr_hash().0));
    let Some((name, _)) = WALLETS.iter().find(|(_, known)| hash.as_deref() == Some(*known)) else {
        return Ok(information);
    };
    let answer = chain.run_get_method(address, method_id("seqno"), Vec::new()).await?;
    if let [StackItem::Int(seqno)] = &answer.stack[..] {
        information["wallet"] = json!(true);
        information["wallet_type"] = json!(name);
        information["seqno"] = json!(seqno.to_u64());
    }
    Ok(information)
}

async fn transactions(chain: &LocalChain, params: &Params) -> Result<Value, ApiError> {
    let address = params.address("address")?;
    let limit = params.number::<usize>("limit")?.unwrap_or(DEFAULT_TRANSACTIONS);
    if !(1..=MAX_TRANSACTIONS).contains(&limit) {
        return Err(ApiError::parameter("limit", format!("is not from 1 to {MAX_TRANSACTIONS}")));
    }
    let from_lt = params.number::<u64>("lt")?;
    let to_lt = params.number::<u64>("to_lt")?.unwrap_or(0);
    let found = chain.history(address, from_lt.unwrap_or(u64::MAX), to_lt, limit).await?;
    if let (Some(lt), Some(hash)) = (from_lt, params.hash("hash")?)
        && found.first().is_none_or(|first| first.lt != lt || first.hash != hash)
    {
        let reason = "LITE_SERVER_UNKNOWN: cannot locate transaction in block with specified logical time";
        return Err(ApiError::new(500, reason));
    }
    found.iter().map(shapes::transaction).collect()
}

async fn run_get_method(chain: &LocalChain, params: &Params) -> Result<Value, ApiError> {
    let address = params.address("address")?;
    let method = match params.get("method") {
        Some(Value::String(name)) => method_id(name),
        Some(_) => params.required_number("method")?,
        None => return Err(ApiError::parameter("method", "is required")),
    };
    let arguments = stack::read(params.get("stack"))?;
    let answer = chain.run_get_method(address, method, arguments).await?;
    let at = chain.block(answer.at.seqno).await?.ok_or_else(|| not_found(answer.at.seqno))?;
    Ok(json!({
        "@type": "smc.runResult",
        "gas_used": answer.gas_used,
        "stack": stack::write(&answer.stack),
        "exit_code": answer.exit_code,
        "block_id": shapes::block_id(&at, true),
    }))
}

async fn send(chain: &LocalChain, params: &Params) -> Result<[u8; 32], ApiError> {
    let boc = params.base64("boc")?;
    if boc.len() > MAX_EXTERNAL_MESSAGE_BYTES {
        let reason = format!("has {} bytes, over the limit of {MAX_EXTERNAL_MESSAGE_BYTES}", boc.len());
        return Err(ApiError::parameter("boc", reason));
    }
    let message = ExternalMessage::from_boc(&boc).map_err(|error| ApiError::parameter("boc", error))?;
    Ok(chain.submit(message).await?.0)
}

async fn estimate_fee(chain: &LocalChain, params: &Params) -> Result<Value, ApiError> {
    let init = match (params.cell("init_code")?, params.cell("init_data")?) {
        (Some(code), Some(data)) => Some((code, data)),
        (None, None) => None,
        _ => return Err(ApiError::parameter("init_code", "goes together with init_data")),
    };
    let body = params.cell("body")?.ok_or_else(|| ApiError::parameter("body", "is required"))?;
    let ignore_signatures = params.flag("ignore_chksig").unwrap_or(true);
    let destination = params.address("address")?;
    let fees = chain.estimate(Draft { destination, body, init, ignore_signatures }).await?;
    Ok(json!({
        "@type": "query.fees",
        "source_fees": {
            "@type": "fees",
            "in_fwd_fee": fees.in_forward_nanoton,
            "storage_fee": fees.storage_nanoton,
            "gas_fee": fees.gas_nanoton,
            "fwd_fee": fees.forward_nanoton,
        },
        "destination_fees": [],
    }))
}

/// Whether a request is about the masterchain.
fn in_masterchain(params: &Params) -> Result<bool, ApiError> {
    let masterchain = match params.required_number::<i32>("workchain")? {
        -1 => true,
        0 => false,
        other => return Err(ApiError::parameter("workchain", format!("{other} does not exist here"))),
    };
    // JSON numbers lose digits that shards have, so only the text is compared strictly.
    if let Some(Value::String(shard)) = params.get("shard")
        && !matches!(shard.as_str(), shapes::SHARD | "9223372036854775808" | "8000000000000000")
    {
        return Err(ApiError::parameter("shard", format!("the only shard here is {}", shapes::SHARD)));
    }
    Ok(masterchain)
}

/// The block that a request names, and whether as one of the masterchain.
async fn block(chain: &LocalChain, params: &Params) -> Result<(BlockHeader, bool), ApiError> {
    let masterchain = in_masterchain(params)?;
    let seqno = params.required_number::<u32>("seqno")?;
    let found = chain.block(seqno).await?.ok_or_else(|| not_found(seqno))?;
    Ok((found, masterchain))
}

/// By its number, or the first one that ends at a logical time or at a Unix time, or after it.
async fn look_up_block(chain: &LocalChain, params: &Params) -> Result<Value, ApiError> {
    let moment = match (params.get("seqno"), params.number("lt")?, params.number("unixtime")?) {
        (None, Some(lt), _) => Moment::Logical(lt),
        (None, None, Some(time)) => Moment::Unix(time),
        (Some(_), ..) | (None, None, None) => {
            let (block, masterchain) = block(chain, params).await?;
            return Ok(shapes::block_id(&block, masterchain));
        }
    };
    let masterchain = in_masterchain(params)?;
    let found = chain.block_from(moment).await?;
    let found = found
        .ok_or_else(|| ApiError::new(500, "LITE_SERVER_NOTREADY: ltdb: block not found: no block yet"))?;
    Ok(shapes::block_id(&found, masterchain))
}

/// The message that a request names: its source, its destination, and its logical time.
fn named_message(params: &Params) -> Result<(Address, Address, u64), ApiError> {
    let created_lt = params.required_number::<u64>("created_lt")?;
    Ok((params.address("source")?, params.address("destination")?, created_lt))
}

fn not_located() -> ApiError {
    ApiError::new(404, "no transaction with that message")
}

/// The transaction that a message made at its destination.
async fn locate_result(chain: &LocalChain, params: &Params) -> Result<Value, ApiError> {
    let (source, destination, created_lt) = named_message(params)?;
    let mut after_lt = created_lt;
    for _ in 0..MAX_LOCATE_PAGES {
        let page = chain.transactions_since(destination, after_lt, MAX_TRANSACTIONS).await?;
        let Some(last) = page.last() else { break };
        after_lt = last.id.lt;
        let made = page.iter().find(|made| {
            made.in_message
                .as_ref()
                .is_some_and(|message| message.source == Some(source) && message.created_lt == created_lt)
        });
        if let Some(made) = made {
            let lt = made.id.lt;
            let found = chain.history(destination, lt, lt.saturating_sub(1), 1).await?;
            return shapes::transaction(found.first().ok_or_else(not_located)?);
        }
    }
    Err(not_located())
}

/// The transaction that sent a message: the last one of its source before the message.
async fn locate_source(chain: &LocalChain, params: &Params) -> Result<Value, ApiError> {
    let (source, destination, created_lt) = named_message(params)?;
    let found = chain.history(source, created_lt, 0, 1).await?;
    let found = found.first().ok_or_else(not_located)?;
    let made = decode_transaction(found).map_err(|error| ApiError::new(500, error.to_string()))?;
    let sent = made
        .out_messages
        .iter()
        .any(|message| message.destination == Some(destination) && message.created_lt == created_lt);
    if sent { shapes::transaction(found) } else { Err(not_located()) }
}

async fn block_header(chain: &LocalChain, params: &Params) -> Result<Value, ApiError> {
    let (block, masterchain) = block(chain, params).await?;
    let previous = match block.seqno.checked_sub(1) {
        Some(seqno) => chain.block(seqno).await?,
        None => None,
    };
    Ok(shapes::block_header(&block, previous.as_ref(), masterchain))
}

async fn shards(chain: &LocalChain, params: &Params) -> Result<Value, ApiError> {
    let seqno = params.required_number::<u32>("seqno")?;
    let block = chain.block(seqno).await?.ok_or_else(|| not_found(seqno))?;
    Ok(json!({ "@type": "blocks.shards", "shards": [shapes::block_id(&block, false)] }))
}

async fn block_transactions(chain: &LocalChain, params: &Params) -> Result<Value, ApiError> {
    let (block, masterchain) = block(chain, params).await?;
    let count = params.number::<usize>("count")?.unwrap_or(DEFAULT_BLOCK_TRANSACTIONS);
    let count = count.clamp(1, MAX_BLOCK_TRANSACTIONS);
    let all = chain.block_transactions(block.seqno).await?;
    let mut here = all.iter().filter(|made| (made.account.workchain() == -1) == masterchain);
    let short = |made: &crate::CommittedTransaction| {
        json!({
            "@type": "blocks.shortTxId",
            "mode": 135,
            "account": made.account.to_raw_string(),
            "lt": made.lt.to_string(),
            "hash": STANDARD.encode(made.hash),
        })
    };
    let told: Vec<Value> = here.by_ref().take(count).map(short).collect();
    Ok(json!({
        "@type": "blocks.transactions",
        "id": shapes::block_id(&block, masterchain),
        "req_count": count,
        "incomplete": here.next().is_some(),
        "transactions": told,
    }))
}
