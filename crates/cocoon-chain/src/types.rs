//! What a chain tells: blocks, accounts, transactions, and the values of get-methods.
//!
//! Amounts are in nanoton, times in Unix seconds, logical times as TON counts them.

use cocoon_ton::{Address, Cell};
use num_bigint::{BigInt, Sign};

/// A block of the masterchain, or what stands for one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockRef {
    /// Sequence number; 0 where there are no blocks.
    pub seqno: u32,
    /// When the block was made, in Unix seconds.
    pub unix_time: u64,
}

/// Life of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccountStatus {
    /// Nothing was ever sent there, or all is gone.
    NonExistent,
    /// Has coins but no contract yet.
    Uninitialised,
    /// Has a contract.
    Active,
    /// Owes storage fees and was put aside.
    Frozen,
}

/// An account at one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountState {
    /// The block that the rest is from.
    pub at: BlockRef,
    /// Whether the state was proven to be in that block, or is somebody's word.
    pub proven: bool,
    /// Coins of the account.
    pub balance_nanoton: u64,
    /// Whether there is a contract.
    pub status: AccountStatus,
    /// Code of the contract, where it is known.
    pub code: Option<Cell>,
    /// Data of the contract, where it is known.
    pub data: Option<Cell>,
    /// The transaction that left the account like this; `None` where there was none.
    pub last_transaction: Option<TransactionId>,
}

/// What one of Cocoon's contracts knows, with its account's particulars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractView<T> {
    /// The block that the rest is from.
    pub at: BlockRef,
    /// As in [`AccountState::proven`].
    pub proven: bool,
    /// Coins of the account: more than the contract counts as somebody's.
    pub balance_nanoton: u64,
    /// The contract's own state; `None` where it is not deployed, which means that nothing was ever paid or charged.
    pub state: Option<T>,
}

/// Names a transaction of one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId {
    /// Logical time: rises from transaction to transaction.
    pub lt: u64,
    /// Hash of the transaction.
    pub hash: [u8; 32],
}

/// One transaction of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The account.
    pub account: Address,
    /// Which of its transactions.
    pub id: TransactionId,
    /// When, in Unix seconds.
    pub unix_time: u64,
    /// What the contract's code did with the message.
    pub compute: Compute,
    /// The message that started it; `None` for the chain's own transactions.
    pub in_message: Option<Message>,
    /// Messages that came of it.
    pub out_messages: Vec<Message>,
    /// What validators took from the account for it: gas, storage, and what its messages paid in advance.
    pub fee_nanoton: u64,
}

/// The compute phase of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compute {
    /// The code never ran. The message is in the account's history all the same.
    Skipped(SkipReason),
    /// The code ran.
    Ran {
        /// 0 and 1 mean success.
        exit_code: i32,
        /// Gas that it took.
        gas_used: u64,
    },
}

/// Why the code never ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// The account has no contract.
    NoState,
    /// The message brought a contract that does not belong there.
    BadState,
    /// The message did not pay for any gas: the way of notices of one nanoton.
    NoGas,
    /// The account is suspended.
    Suspended,
}

/// A message inside or into the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The account that sent it; `None` for a message from outside.
    pub source: Option<Address>,
    /// The account that receives it; `None` for a message to outside.
    pub destination: Option<Address>,
    /// Coins that it carries.
    pub value_nanoton: u64,
    /// Whether it came back because its receiver could not process it.
    pub bounced: bool,
    /// Logical time at which its sender made it; with the sender it names the message. 0 for one from outside.
    pub created_lt: u64,
    /// Its body.
    pub body: Cell,
}

/// Hash of a message, by which it is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageHash(pub [u8; 32]);

/// What a get-method answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetMethodResult {
    /// The block that it ran on.
    pub at: BlockRef,
    /// 0 and 1 mean success.
    pub exit_code: i32,
    /// Gas that it took.
    pub gas_used: u64,
    /// The values, the first one first.
    pub stack: Vec<StackItem>,
}

/// A value on the stack of the TON virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StackItem {
    /// Nothing.
    Null,
    /// A number.
    Int(StackInt),
    /// A cell.
    Cell(Cell),
    /// A slice, as a cell with just its content.
    Slice(Cell),
    /// Several values.
    Tuple(Vec<StackItem>),
}

/// A number of the TON virtual machine: signed, 257 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StackInt {
    negative: bool,
    /// The low 256 bits of the two's complement, big-endian.
    low: [u8; 32],
}

impl StackInt {
    /// A number from its sign and the low 256 bits of its two's complement, big-endian.
    pub const fn from_twos_complement(negative: bool, low: [u8; 32]) -> Self {
        Self { negative, low }
    }

    /// A non-negative number of 256 bits, big-endian: a hash or a key.
    pub const fn from_unsigned(bytes: [u8; 32]) -> Self {
        Self { negative: false, low: bytes }
    }

    /// Whether the number is below zero.
    pub const fn is_negative(&self) -> bool {
        self.negative
    }

    /// The low 256 bits of the two's complement, big-endian.
    pub const fn low_bytes(&self) -> &[u8; 32] {
        &self.low
    }

    /// The number as 256 unsigned bits, big-endian; `None` where it is negative.
    pub fn to_unsigned(self) -> Option<[u8; 32]> {
        (!self.negative).then_some(self.low)
    }

    /// The number, where it is from 0 to 2^64 - 1.
    pub fn to_u64(self) -> Option<u64> {
        let (high, low) = self.low.split_last_chunk::<8>()?;
        (!self.negative && high.iter().all(|&byte| byte == 0)).then(|| u64::from_be_bytes(*low))
    }

    /// The number, where it fits 64 signed bits.
    pub fn to_i64(self) -> Option<i64> {
        let (high, low) = self.low.split_last_chunk::<8>()?;
        let number = i64::from_be_bytes(*low);
        let extension = if self.negative { 0xff } else { 0 };
        let fits = high.iter().all(|&byte| byte == extension) && (number < 0) == self.negative;
        fits.then_some(number)
    }

    /// The number as one that can be computed with and written in any base.
    pub fn to_big(&self) -> BigInt {
        let low = BigInt::from_bytes_be(Sign::Plus, &self.low);
        if self.negative { low - (BigInt::from(1) << 256_u32) } else { low }
    }

    /// The number; `None` for one that does not fit 257 signed bits.
    pub fn from_big(number: &BigInt) -> Option<Self> {
        let negative = number.sign() == Sign::Minus;
        let low = if negative { number + (BigInt::from(1) << 256_u32) } else { number.clone() };
        let (sign, bytes) = low.to_bytes_be();
        let start = 32_usize.checked_sub(bytes.len())?;
        if sign == Sign::Minus {
            return None;
        }
        let mut padded = [0; 32];
        padded[start..].copy_from_slice(&bytes);
        Some(Self { negative, low: padded })
    }
}

impl From<u64> for StackInt {
    fn from(number: u64) -> Self {
        let mut low = [0; 32];
        low[24..].copy_from_slice(&number.to_be_bytes());
        Self { negative: false, low }
    }
}

impl From<i64> for StackInt {
    fn from(number: i64) -> Self {
        let negative = number < 0;
        let mut low = if negative { [0xff; 32] } else { [0; 32] };
        low[24..].copy_from_slice(&number.to_be_bytes());
        Self { negative, low }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_64_bits_come_back_and_larger_ones_do_not_shrink() {
        for number in [0, 1, u64::MAX] {
            assert_eq!(StackInt::from(number).to_u64(), Some(number));
        }
        for number in [0, -1, i64::MIN, i64::MAX] {
            assert_eq!(StackInt::from(number).to_i64(), Some(number));
        }
        assert_eq!(StackInt::from(u64::MAX).to_i64(), None);
        assert_eq!(StackInt::from(-1_i64).to_u64(), None);
        assert_eq!(StackInt::from(-1_i64).to_unsigned(), None);
        let hash = StackInt::from_unsigned([0xff; 32]);
        assert_eq!((hash.to_u64(), hash.to_i64()), (None, None));
        assert_eq!(hash.to_unsigned(), Some([0xff; 32]));
    }

    #[test]
    fn numbers_keep_their_value_to_the_ends_of_the_range() {
        let most = StackInt::from_unsigned([0xff; 32]);
        let least = StackInt::from_twos_complement(true, [0; 32]);
        for number in [StackInt::from(0_u64), StackInt::from(-1_i64), StackInt::from(u64::MAX), most, least] {
            assert_eq!(StackInt::from_big(&number.to_big()), Some(number));
        }
        assert_eq!(StackInt::from(-5_i64).to_big(), BigInt::from(-5));
        assert_eq!(least.to_big(), -(BigInt::from(1) << 256_u32));
        assert_eq!(StackInt::from_big(&(BigInt::from(1) << 256_u32)), None);
    }

    #[test]
    fn the_most_negative_number_does_not_pass_for_minus_something_small() {
        let least = StackInt::from_twos_complement(true, [0; 32]);
        assert!(least.is_negative());
        assert_eq!((least.to_i64(), least.to_u64()), (None, None));
    }
}
