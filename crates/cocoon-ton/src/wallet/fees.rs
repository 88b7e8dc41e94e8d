//! What it costs at most to have a wallet send messages.
//!
//! Prices are those of the basechain in 2026 (configuration parameters 21 and 25 of the public network, which the
//! embedded chain has too). Should they rise, nothing is lost by an estimate that is too low: the wallet leaves out what
//! it cannot pay for.

use std::collections::HashSet;

use super::{OutMessage, SignError, Wallet, WalletKind};
use crate::cell::Cell;

/// Price of a unit of gas, in nanoton.
pub const GAS_NANOTON: u64 = 400;
/// Price of a message's way, whatever it carries, in nanoton.
pub const MESSAGE_NANOTON: u64 = 400_000;
/// Price of each bit that a message carries outside its first cell, in nanoton.
pub const BIT_NANOTON: u64 = 400;
/// Price of each cell that a message carries besides its first, in nanoton.
pub const CELL_NANOTON: u64 = 40_000;
/// What a wallet owes for some weeks of storage, in nanoton.
const STORAGE_NANOTON: u64 = 300_000;
/// Bits by which a message grows when the chain fills in its sender (265) and its fees.
const FILLED_IN_BITS: u16 = 265 + 2 * 64;

impl WalletKind {
    /// Most gas that the wallet uses, as measured with some room: in any case, and for each message.
    const fn gas(self) -> (u64, u64) {
        match self {
            Self::Cocoon => (2_400, 750),
            Self::Published => (3_000, 700),
            Self::V4R2 => (2_900, 700),
            Self::V5R1 => (4_700, 800),
        }
    }
}

/// Coins that leave the wallet besides the values of `messages`, at most, in nanoton: its own transaction and the
/// messages' way. `deployed` says whether the contract is there already. What the receivers' contracts take comes out
/// of the values.
///
/// # Errors
/// [`SignError`] for messages that the wallet cannot send.
pub fn estimate(wallet: &Wallet, deployed: bool, messages: &[OutMessage]) -> Result<u64, SignError> {
    let seqno = u32::from(deployed);
    let external = wallet.external(seqno, &wallet.body(|_| [0; 64], seqno, 0, messages)?)?;
    let (gas, gas_per_message) = wallet.kind().gas();
    let count = u64::try_from(messages.len()).unwrap_or(u64::MAX);
    let computing = gas_per_message.saturating_mul(count).saturating_add(gas).saturating_mul(GAS_NANOTON);
    let mut total = STORAGE_NANOTON.saturating_add(computing).saturating_add(way(&external));
    for message in messages {
        let cell = message.to_cell().map_err(|source| SignError::Message { to: message.to, source })?;
        total = total.saturating_add(way(&cell));
        let body = message.body.as_ref().map_or(0, |body| body.bit_len());
        if cell.bit_len().saturating_add(FILLED_IN_BITS) > 1023 {
            // No room is left for the body in the first cell, so it gets one of its own.
            total = total.saturating_add(CELL_NANOTON + BIT_NANOTON * u64::from(body));
        }
    }
    Ok(total)
}

/// Price of a message's way: of each different cell below its first one.
fn way(message: &Cell) -> u64 {
    let mut seen = HashSet::new();
    let mut waiting: Vec<Cell> = references(message);
    let mut total = MESSAGE_NANOTON;
    while let Some(cell) = waiting.pop() {
        if seen.insert(*cell.repr_hash()) {
            total = total.saturating_add(CELL_NANOTON + BIT_NANOTON * u64::from(cell.bit_len()));
            waiting.extend(references(&cell));
        }
    }
    total
}

fn references(cell: &Cell) -> Vec<Cell> {
    (0..cell.reference_count()).filter_map(|index| cell.reference_cloned(index)).collect()
}
