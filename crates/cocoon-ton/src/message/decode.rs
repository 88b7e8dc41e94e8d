//! Reading bodies.

use super::{Body, ClientCounters, ClientRequest, MAX_COMMENT_BYTES, RootChange, WorkerPayout, op};
use crate::cell::{Cell, CellError, Reader};
use crate::contracts::ContractStatus;
use crate::payment::{SignedPayment, SignedProxyClose};

impl Body {
    /// Reads a body. It is known only if nothing is missing, left over or out of range; see [`Body::Unknown`].
    pub fn parse(cell: &Cell) -> Self {
        let Ok(mut reader) = Reader::new(cell, "the body") else {
            return Self::Unknown { op: None };
        };
        if reader.bits_left() == 0 && reader.references_left() == 0 {
            return Self::Empty;
        }
        let Ok(op) = reader.u32("op") else {
            return Self::Unknown { op: None };
        };
        let parsed = match op {
            op::BOUNCED => reader.u32("the bounced op").ok().map(|op| Self::BouncedOp { op }),
            op::BOUNCED_WHOLE => bounced(&mut reader),
            _ => parse_known(op, cell, reader),
        };
        parsed.unwrap_or(Self::Unknown { op: Some(op) })
    }
}

/// The body that came back, of one message: a bounced one in it is unknown.
fn bounced(reader: &mut Reader<'_>) -> Option<Body> {
    let original = reader.reference("the original body").ok()?;
    let bounced_twice = |op| matches!(op, Some(op::BOUNCED | op::BOUNCED_WHOLE));
    let first = Reader::new(&original, "the original body").ok()?.u32("op").ok();
    let body = if bounced_twice(first) { Body::Unknown { op: first } } else { Body::parse(&original) };
    Some(Body::Bounced(Box::new(body)))
}

/// `reader` stands behind the operation of `cell`.
fn parse_known(op: u32, cell: &Cell, mut reader: Reader<'_>) -> Option<Body> {
    match op {
        op::TEXT => comment(reader).map(Body::Comment),
        op::EXT_CLIENT_CHARGE_SIGNED
        | op::EXT_CLIENT_GRANT_REFUND_SIGNED
        | op::EXT_WORKER_PAYOUT_REQUEST_SIGNED
        | op::EXT_WORKER_LAST_PAYOUT_REQUEST_SIGNED => {
            SignedPayment::from_cell(cell).ok().map(Body::SignedPayment)
        }
        op::EXT_PROXY_CLOSE_REQUEST_SIGNED | op::EXT_PROXY_CLOSE_COMPLETE_REQUEST_SIGNED => {
            SignedProxyClose::parse(cell).ok().map(Body::SignedProxyClose)
        }
        _ => {
            let body = load_rest(op, &mut reader).ok().flatten()?;
            reader.end("the body").ok().map(|()| body)
        }
    }
}

/// Query id and all that follows; `None` for an unknown operation.
fn load_rest(op: u32, reader: &mut Reader<'_>) -> Result<Option<Body>, CellError> {
    const EXCESSES_TO: &str = "excesses_to";
    let query_id = reader.uint(64, "query_id")?;
    Ok(Some(match op {
        op::EXCESSES => Body::Excesses { query_id },
        op::PAYOUT => Body::Payout { query_id },
        op::DO_NOT_PROCESS => return do_not_process(query_id, reader),
        op::WORKER_PROXY_REQUEST => Body::WorkerProxyRequest {
            query_id,
            owner: reader.address("owner")?,
            status: ContractStatus::read(reader)?,
            tokens: reader.uint(64, "tokens")?,
            payout: reader.maybe_nested("payload")?.map(WorkerPayout::load).transpose()?,
        },
        op::CLIENT_PROXY_REQUEST => Body::ClientProxyRequest {
            query_id,
            owner: reader.address("owner")?,
            counters: ClientCounters::load(reader.nested("counters")?)?,
            // Its owner can put an address there that we do not know; what the contract counts is told all the same.
            request: maybe_request(reader)?,
        },
        op::PROXY_CLIENT_UNPAID => Body::RefundUnpaid {
            query_id,
            amount: reader.coins("amount")?,
            excesses_to: reader.address(EXCESSES_TO)?,
        },
        op::EXT_PROXY_INCREASE_STAKE => Body::IncreaseProxyStake {
            query_id,
            amount: reader.coins("amount")?,
            excesses_to: reader.address(EXCESSES_TO)?,
        },
        op::EXT_PROXY_PAYOUT_REQUEST => {
            Body::ProxyPayout { query_id, excesses_to: reader.address(EXCESSES_TO)? }
        }
        op::OWNER_PROXY_CLOSE => {
            Body::OwnerCloseProxy { query_id, excesses_to: reader.address(EXCESSES_TO)? }
        }
        op::OWNER_WORKER_REGISTER => {
            Body::RegisterWorker { query_id, excesses_to: reader.address(EXCESSES_TO)? }
        }
        op::EXT_CLIENT_TOP_UP => Body::TopUpClient {
            query_id,
            amount: reader.coins("amount")?,
            excesses_to: reader.address(EXCESSES_TO)?,
        },
        op::OWNER_CLIENT_REGISTER => Body::RegisterClient {
            query_id,
            nonce: reader.uint(64, "nonce")?,
            excesses_to: reader.address(EXCESSES_TO)?,
        },
        op::OWNER_CLIENT_CHANGE_SECRET_HASH => Body::ChangeSecretHash {
            query_id,
            secret_hash: reader.bytes("secret_hash")?,
            excesses_to: reader.address(EXCESSES_TO)?,
        },
        op::OWNER_CLIENT_CHANGE_SECRET_HASH_AND_TOP_UP => Body::ChangeSecretHashAndTopUp {
            query_id,
            amount: reader.coins("amount")?,
            secret_hash: reader.bytes("secret_hash")?,
            excesses_to: reader.address(EXCESSES_TO)?,
        },
        op::OWNER_CLIENT_REQUEST_REFUND => {
            Body::RequestRefund { query_id, excesses_to: reader.address(EXCESSES_TO)? }
        }
        op::OWNER_CLIENT_INCREASE_STAKE => Body::IncreaseClientStake {
            query_id,
            stake: reader.coins("stake")?,
            excesses_to: reader.address(EXCESSES_TO)?,
        },
        op::OWNER_CLIENT_WITHDRAW => {
            Body::WithdrawClient { query_id, excesses_to: reader.address(EXCESSES_TO)? }
        }
        op::OWNER_WALLET_SEND_MESSAGE => Body::WalletSend {
            query_id,
            mode: reader.u8("mode")?,
            message: reader.shallow_reference("message")?,
        },
        _ => return Ok(RootChange::load(op, reader)?.map(|change| Body::Root { query_id, change })),
    }))
}

fn do_not_process(query_id: u64, reader: &mut Reader<'_>) -> Result<Option<Body>, CellError> {
    if reader.bits_left() == 0 {
        return Ok(Some(Body::DoNotProcess { query_id }));
    }
    if reader.u32("what not to process")? != op::PROXY_SAVE_STATE {
        return Ok(None);
    }
    let (seqno, unique_hash) = (reader.u32("seqno")?, reader.bytes("unique_hash")?);
    Ok(Some(Body::SaveState { query_id, seqno, unique_hash }))
}

impl WorkerPayout {
    fn load(mut reader: Reader<'_>) -> Result<Self, CellError> {
        const WHAT: &str = "the payout request";
        if reader.u32("op")? != op::WORKER_PROXY_PAYOUT_REQUEST {
            return Err(CellError::Missing("a payout request"));
        }
        let payout = Self {
            worker_part: reader.coins("worker_part")?,
            proxy_part: reader.coins("proxy_part")?,
            excesses_to: reader.address("excesses_to")?,
        };
        reader.end(WHAT)?;
        Ok(payout)
    }
}

impl ClientCounters {
    fn load(mut reader: Reader<'_>) -> Result<Self, CellError> {
        let counters = Self {
            status: ContractStatus::read(&mut reader)?,
            balance: reader.coins("balance")?,
            stake: reader.coins_or_more("stake")?,
            tokens_used: reader.uint(64, "tokens_used")?,
            secret_hash: reader.bytes("secret_hash")?,
        };
        reader.end("the client's counters")?;
        Ok(counters)
    }
}

/// What a client contract asks for; `None` also where it is nothing that we know.
fn maybe_request(reader: &mut Reader<'_>) -> Result<Option<ClientRequest>, CellError> {
    let request = reader.maybe_reference("payload")?;
    Ok(request.and_then(|cell| ClientRequest::load(Reader::new(&cell, "the client's request").ok()?).ok()))
}

impl ClientRequest {
    fn load(mut reader: Reader<'_>) -> Result<Self, CellError> {
        let op = reader.u32("op")?;
        let request = if op == op::CLIENT_PROXY_REGISTER {
            Self::Register { nonce: reader.uint(64, "nonce")? }
        } else {
            let (amount, excesses_to) = (reader.coins("amount")?, reader.address("excesses_to")?);
            match op {
                op::CLIENT_PROXY_TOP_UP => Self::TopUp { amount, excesses_to },
                op::CLIENT_PROXY_REFUND_GRANTED => Self::RefundGranted { amount, excesses_to },
                op::CLIENT_PROXY_REFUND_FORCE => Self::RefundForced { amount, excesses_to },
                _ => return Err(CellError::Missing("a request that we know")),
            }
        };
        reader.end("the client's request")?;
        Ok(request)
    }
}

/// Whole bytes of UTF-8, going on in one reference after the other.
fn comment(mut reader: Reader<'_>) -> Option<String> {
    let mut bytes = Vec::new();
    // A cell may hold no text at all, so cells are counted too.
    for _ in 0..=MAX_COMMENT_BYTES {
        while reader.bits_left() > 0 {
            bytes.push(reader.u8("text").ok()?);
        }
        if bytes.len() > MAX_COMMENT_BYTES {
            return None;
        }
        match reader.references_left() {
            0 => return String::from_utf8(bytes).ok(),
            1 => reader = reader.nested("text").ok()?,
            _ => return None,
        }
    }
    None
}
