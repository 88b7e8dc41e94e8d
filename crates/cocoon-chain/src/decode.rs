//! Transactions and messages, from TON's layout to the one that nodes read.

use cocoon_ton::{Address, Cell};
use tycho_types::cell::{CellBuilder, CellSlice, Load as _};
use tycho_types::error::Error;
use tycho_types::models::{
    ComputePhase, ComputePhaseSkipReason, CurrencyCollection, IntAddr, Transaction as RawTransaction, TxInfo,
};
use tycho_types::num::Tokens;

use crate::types::{Compute, Message, SkipReason, Transaction, TransactionId};

/// A transaction, and the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedTransaction {
    /// What the transaction's own cell says; its hash is the cell's.
    pub transaction: Transaction,
    /// The account's transaction before it; `None` where it is the first one.
    pub previous: Option<TransactionId>,
}

/// Why a cell is not a transaction of an account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The cell does not have a transaction's layout.
    #[error("it is not a transaction: {0}")]
    Malformed(String),
    /// It is a transaction of another account.
    #[error("it is a transaction of another account than {0}")]
    OtherAccount(Address),
}

impl From<Error> for DecodeError {
    fn from(error: Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// Reads a transaction of `account` from its cell, trusting nothing but the cell.
///
/// A transaction names its account without the workchain; that is checked by the messages, which name both.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_transaction(account: Address, cell: &Cell) -> Result<DecodedTransaction, DecodeError> {
    let raw: RawTransaction = cell.parse()?;
    let compute = match raw.load_info()? {
        TxInfo::Ordinary(info) => compute(&info.compute_phase),
        TxInfo::TickTock(info) => compute(&info.compute_phase),
    };
    let in_message = raw.in_msg.as_ref().map(decode_message).transpose()?;
    let out_messages: Vec<Message> =
        raw.out_msgs.values().map(|cell| decode_message(&cell?)).collect::<Result<_, Error>>()?;
    let other = |named: Option<Address>| named.is_some_and(|named| named != account);
    if raw.account.0 != *account.hash()
        || in_message.as_ref().is_some_and(|message| other(message.destination))
        || out_messages.iter().any(|message| other(message.source))
    {
        return Err(DecodeError::OtherAccount(account));
    }
    let previous = (raw.prev_trans_lt != 0)
        .then_some(TransactionId { lt: raw.prev_trans_lt, hash: raw.prev_trans_hash.0 });
    let transaction = Transaction {
        account,
        id: TransactionId { lt: raw.lt, hash: cell.repr_hash().0 },
        unix_time: u64::from(raw.now),
        compute,
        in_message,
        out_messages,
        fee_nanoton: u64::try_from(raw.total_fees.tokens.into_inner()).map_err(|_| Error::IntOverflow)?,
    };
    Ok(DecodedTransaction { transaction, previous })
}

fn compute(phase: &ComputePhase) -> Compute {
    match phase {
        ComputePhase::Skipped(skipped) => Compute::Skipped(match skipped.reason {
            ComputePhaseSkipReason::NoState => SkipReason::NoState,
            ComputePhaseSkipReason::BadState => SkipReason::BadState,
            ComputePhaseSkipReason::NoGas => SkipReason::NoGas,
            ComputePhaseSkipReason::Suspended => SkipReason::Suspended,
        }),
        ComputePhase::Executed(ran) => {
            Compute::Ran { exit_code: ran.exit_code, gas_used: ran.gas_used.into_inner() }
        }
    }
}

/// A message as far as nodes look at it. Anybody can send anything to anybody's account, and it stays in the history:
/// nothing that the chain let pass may make that history unreadable. So a contract that comes along is skipped, not
/// taken apart, flags are not judged, and a body that is no ordinary cell counts as an empty one.
fn decode_message(cell: &Cell) -> Result<Message, Error> {
    let mut slice = cell.as_slice()?;
    let mut message = Message {
        source: None,
        destination: None,
        value_nanoton: 0,
        bounced: false,
        created_lt: 0,
        body: Cell::default(),
    };
    if !slice.load_bit()? {
        let _ihr_disabled_and_bounce = slice.load_small_uint(2)?;
        message.bounced = slice.load_bit()?;
        message.source = named(&IntAddr::load_from(&mut slice)?);
        message.destination = named(&IntAddr::load_from(&mut slice)?);
        let value = CurrencyCollection::load_from(&mut slice)?;
        message.value_nanoton = u64::try_from(value.tokens.into_inner()).map_err(|_| Error::IntOverflow)?;
        let (_extra_flags, _forward_fee) = (Tokens::load_from(&mut slice)?, Tokens::load_from(&mut slice)?);
        message.created_lt = slice.load_u64()?;
        let _created_at = slice.load_u32()?;
    } else if slice.load_bit()? {
        message.source = named(&IntAddr::load_from(&mut slice)?);
        skip_outside(&mut slice)?;
        message.created_lt = slice.load_u64()?;
        let _created_at = slice.load_u32()?;
    } else {
        skip_outside(&mut slice)?;
        message.destination = named(&IntAddr::load_from(&mut slice)?);
        let _import_fee = Tokens::load_from(&mut slice)?;
    }
    skip_init(&mut slice)?;
    message.body = if slice.load_bit()? {
        let body = slice.load_reference_cloned()?;
        if body.is_exotic() { Cell::default() } else { body }
    } else {
        let mut body = CellBuilder::new();
        body.store_slice(slice)?;
        body.build()?
    };
    Ok(message)
}

/// Passes over an address outside the chain, or none.
fn skip_outside(slice: &mut CellSlice<'_>) -> Result<(), Error> {
    match slice.load_small_uint(2)? {
        0 => Ok(()),
        1 => {
            let bits = slice.load_uint(9)?;
            slice.skip_first(u16::try_from(bits).map_err(|_| Error::IntOverflow)?, 0)
        }
        _ => Err(Error::InvalidTag),
    }
}

/// Passes over the contract that a message may bring along.
fn skip_init(slice: &mut CellSlice<'_>) -> Result<(), Error> {
    if !slice.load_bit()? {
        return Ok(());
    }
    if slice.load_bit()? {
        return slice.load_reference().map(drop);
    }
    // A prefix of an address, whether the account is a special one, then code, data and libraries.
    for bits in [5, 2] {
        if slice.load_bit()? {
            slice.skip_first(bits, 0)?;
        }
    }
    for _ in 0..3 {
        if slice.load_bit()? {
            slice.skip_first(0, 1)?;
        }
    }
    Ok(())
}

fn named(address: &IntAddr) -> Option<Address> {
    match address {
        IntAddr::Std(standard) if standard.anycast.is_none() => {
            Address::new(standard.workchain, standard.address.0).ok()
        }
        IntAddr::Std(_) | IntAddr::Var(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tycho_types::boc::Boc;
    use tycho_types::cell::{CellFamily as _, HashBytes, Store as _};
    use tycho_types::models::{
        ExtInMsgInfo, ExtOutMsgInfo, IntMsgInfo, MsgInfo, OwnedMessage, StateInit, StdAddr,
    };

    use super::*;

    const TO: StdAddr = StdAddr::new(0, HashBytes([2; 32]));
    const FROM: StdAddr = StdAddr::new(-1, HashBytes([1; 32]));

    fn body() -> Cell {
        let mut body = CellBuilder::new();
        body.store_u32(0x1234_5678).unwrap();
        body.build().unwrap()
    }

    /// An internal message up to what it brings along; `flags` is where fees for a faster way once stood.
    fn internal(flags: u128) -> CellBuilder {
        let mut message = CellBuilder::new();
        message.store_small_uint(0b0111, 4).unwrap();
        let context = Cell::empty_context();
        for address in [FROM, TO] {
            IntAddr::Std(address).store_into(&mut message, context).unwrap();
        }
        CurrencyCollection::new(77).store_into(&mut message, context).unwrap();
        for number in [Tokens::new(flags), Tokens::ZERO] {
            number.store_into(&mut message, context).unwrap();
        }
        message.store_u64(9).unwrap();
        message.store_u32(0).unwrap();
        message
    }

    fn expected(body: Cell) -> Message {
        Message {
            source: Some(Address::new(-1, [1; 32]).unwrap()),
            destination: Some(Address::basechain([2; 32])),
            value_nanoton: 77,
            bounced: true,
            created_lt: 9,
            body,
        }
    }

    #[test]
    fn what_strangers_send_does_not_make_a_history_unreadable() {
        // A contract with a prefix of no bits, all of it inside the message.
        let mut odd_init = internal(3);
        odd_init.store_small_uint(0b101, 3).unwrap();
        odd_init.store_zeros(5 + 1 + 3).unwrap();
        odd_init.store_bit_one().unwrap();
        odd_init.store_reference(body()).unwrap();
        assert_eq!(decode_message(&odd_init.build().unwrap()), Ok(expected(body())));

        // Something in the contract's place that is none.
        let mut no_init = internal(0);
        no_init.store_small_uint(0b111, 3).unwrap();
        no_init.store_reference(Cell::default()).unwrap();
        no_init.store_reference(body()).unwrap();
        assert_eq!(decode_message(&no_init.build().unwrap()), Ok(expected(body())));

        // A fee for a faster way, as messages could have it before that place got another meaning.
        let mut old_fee = internal(1_000_000);
        old_fee.store_small_uint(0b01, 2).unwrap();
        old_fee.store_reference(body()).unwrap();
        assert_eq!(decode_message(&old_fee.build().unwrap()), Ok(expected(body())));

        // A body that is a reference to a library.
        let mut library = CellBuilder::new();
        library.set_exotic(true);
        library.store_u8(2).unwrap();
        library.store_u256(&HashBytes([3; 32])).unwrap();
        let mut message = internal(3);
        message.store_small_uint(0b01, 2).unwrap();
        message.store_reference(library.build().unwrap()).unwrap();
        assert_eq!(decode_message(&message.build().unwrap()), Ok(expected(Cell::default())));
    }

    #[test]
    fn every_kind_of_message_is_read_as_it_was_written() {
        let init = StateInit { code: Some(body()), data: Some(body()), ..StateInit::default() };
        let inside = MsgInfo::Int(IntMsgInfo {
            bounced: true,
            src: FROM.into(),
            dst: TO.into(),
            value: CurrencyCollection::new(77),
            created_lt: 9,
            ..IntMsgInfo::default()
        });
        let coming = MsgInfo::ExtIn(ExtInMsgInfo { dst: TO.into(), ..ExtInMsgInfo::default() });
        let going =
            MsgInfo::ExtOut(ExtOutMsgInfo { src: FROM.into(), created_lt: 9, ..ExtOutMsgInfo::default() });
        let whole = expected(body());
        let outside = Message { value_nanoton: 0, bounced: false, ..whole.clone() };
        for (info, read) in [
            (inside, whole),
            (coming, Message { source: None, created_lt: 0, ..outside.clone() }),
            (going, Message { destination: None, ..outside }),
        ] {
            for init in [None, Some(init.clone())] {
                let message = OwnedMessage { info: info.clone(), init, body: body().into(), layout: None };
                let cell = CellBuilder::build_from(&message).unwrap();
                let bytes = Boc::encode(&cell);
                assert_eq!(decode_message(&Boc::decode(bytes).unwrap()), Ok(read.clone()));
            }
        }
    }
}
