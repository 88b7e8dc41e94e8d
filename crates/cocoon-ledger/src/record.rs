//! What a ledger writes to its log: one record per change of a balance.

use crate::codec::{DecodeError, Reader};
use crate::ids::{ClientId, RequestId, WorkerId};
use crate::tariff::Rates;
use crate::units::{AdjustedTokens, Nanoton, PricePerToken};

/// Version of the encoding; the first byte of every record.
const VERSION: u8 = 1;
const KIND_FUNDS: u8 = 1;
const KIND_CHARGE: u8 = 2;
const KIND_CLOSE_CLIENT: u8 = 3;
const KIND_CLOSE_WORKER: u8 = 4;

/// A change with its place in the ledger's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its place: the first change of a ledger has position 1, and there are no gaps.
    pub position: u64,
    /// What changed.
    pub change: Change,
}

/// A change of a balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The chain shows these lifetime funds of a client.
    ClientFunds {
        /// Whose funds.
        client: ClientId,
        /// The absolute amount; see [`Ledger::set_client_funds`](crate::Ledger::set_client_funds).
        funds: Nanoton,
    },
    /// A request was settled: the client owes and the worker earned `tokens` more.
    Charge {
        /// The settled request.
        request: RequestId,
        /// Who pays.
        client: ClientId,
        /// Who earns.
        worker: WorkerId,
        /// By how much both counters rose.
        tokens: AdjustedTokens,
        /// At which price and fee.
        rates: Rates,
        /// The client's counter afterwards; a replay that arrives at another number is refused.
        client_total: AdjustedTokens,
        /// The worker's counter afterwards; checked likewise.
        worker_total: AdjustedTokens,
    },
    /// A client's account is closed for good: nothing is charged to it any more.
    CloseClient {
        /// Whose account.
        client: ClientId,
        /// What it was charged in all; a replay that arrives at another number is refused.
        client_total: AdjustedTokens,
    },
    /// A worker's account is closed for good: it earns nothing more.
    CloseWorker {
        /// Whose account.
        worker: WorkerId,
        /// What it earned in all; checked likewise.
        worker_total: AdjustedTokens,
    },
}

impl Record {
    /// The binary form, at most 146 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(146);
        out.push(VERSION);
        match &self.change {
            Change::ClientFunds { client, funds } => {
                out.push(KIND_FUNDS);
                out.extend_from_slice(&self.position.to_le_bytes());
                out.extend_from_slice(&client.0);
                out.extend_from_slice(&funds.0.to_le_bytes());
            }
            Change::Charge { request, client, worker, tokens, rates, client_total, worker_total } => {
                out.push(KIND_CHARGE);
                out.extend_from_slice(&self.position.to_le_bytes());
                out.extend_from_slice(&request.0);
                out.extend_from_slice(&client.0);
                out.extend_from_slice(&worker.0);
                for number in
                    [tokens.0, rates.price().0, rates.worker_fee().0, client_total.0, worker_total.0]
                {
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
            Change::CloseClient { client, client_total } => {
                out.push(KIND_CLOSE_CLIENT);
                out.extend_from_slice(&self.position.to_le_bytes());
                out.extend_from_slice(&client.0);
                out.extend_from_slice(&client_total.0.to_le_bytes());
            }
            Change::CloseWorker { worker, worker_total } => {
                out.push(KIND_CLOSE_WORKER);
                out.extend_from_slice(&self.position.to_le_bytes());
                out.extend_from_slice(&worker.0);
                out.extend_from_slice(&worker_total.0.to_le_bytes());
            }
        }
        out
    }

    /// Reads exactly one record.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Record::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let kind = reader.u8()?;
        let position = reader.u64()?;
        let change = match kind {
            KIND_FUNDS => {
                Change::ClientFunds { client: ClientId(reader.array()?), funds: Nanoton(reader.u64()?) }
            }
            KIND_CHARGE => decode_charge(&mut reader)?,
            KIND_CLOSE_CLIENT => Change::CloseClient {
                client: ClientId(reader.array()?),
                client_total: AdjustedTokens(reader.u64()?),
            },
            KIND_CLOSE_WORKER => Change::CloseWorker {
                worker: WorkerId(reader.array()?),
                worker_total: AdjustedTokens(reader.u64()?),
            },
            other => return Err(DecodeError::Kind(other)),
        };
        reader.end()?;
        Ok(Self { position, change })
    }
}

fn decode_charge(reader: &mut Reader<'_>) -> Result<Change, DecodeError> {
    let request = RequestId(reader.array()?);
    let client = ClientId(reader.array()?);
    let worker = WorkerId(reader.array()?);
    let tokens = AdjustedTokens(reader.u64()?);
    let (price, worker_fee) = (PricePerToken(reader.u64()?), PricePerToken(reader.u64()?));
    if worker_fee > price {
        return Err(DecodeError::Contradiction("the worker's fee exceeds the price"));
    }
    let client_total = AdjustedTokens(reader.u64()?);
    let worker_total = AdjustedTokens(reader.u64()?);
    let rates = Rates::new(price, worker_fee);
    Ok(Change::Charge { request, client, worker, tokens, rates, client_total, worker_total })
}
