//! What a block is, and what went into it or was refused.

use cocoon_chain::BlockRef;
use cocoon_ton::{Address, Cell};
use sha2::{Digest as _, Sha256};
use tycho_types::cell::HashBytes;
use tycho_types::models::{BlockId, ShardIdent};

/// Blocks begin at multiples of this logical time, as in TON.
const LT_ALIGNMENT: u64 = 1_000_000;

/// Identity and extent of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    /// Sequence number; the first block, which only holds the faucet's coins, has 0.
    pub seqno: u32,
    /// When it was made, in Unix seconds. Never falls.
    pub unix_time: u32,
    /// Logical time at which it begins; its transactions have larger ones.
    pub start_lt: u64,
    /// No logical time in it is larger.
    pub end_lt: u64,
    /// How many transactions it has.
    pub transactions: u32,
    /// Hash of the block before it; zeros in the first.
    pub previous: [u8; 32],
    /// Commits to all of the above and to the transactions.
    pub hash: [u8; 32],
}

impl BlockHeader {
    /// The block before all others.
    pub(super) fn first(unix_time: u32) -> Self {
        let mut header = Self {
            seqno: 0,
            unix_time,
            start_lt: 0,
            end_lt: 0,
            transactions: 0,
            previous: [0; 32],
            hash: [0; 32],
        };
        header.seal(&[]);
        header
    }

    /// An empty block on top of this one.
    pub(super) fn next(&self, unix_time: u32) -> Option<Self> {
        let start_lt = (self.end_lt / LT_ALIGNMENT + 1) * LT_ALIGNMENT;
        Some(Self {
            seqno: self.seqno.checked_add(1)?,
            unix_time,
            start_lt,
            end_lt: start_lt,
            transactions: 0,
            previous: self.hash,
            hash: [0; 32],
        })
    }

    pub(super) fn seal(&mut self, transactions: &[CommittedTransaction]) {
        let mut hasher = Sha256::new_with_prefix(b"cocoon localchain block");
        hasher.update(self.previous);
        hasher.update(self.seqno.to_be_bytes());
        hasher.update(self.unix_time.to_be_bytes());
        hasher.update(self.start_lt.to_be_bytes());
        hasher.update(self.end_lt.to_be_bytes());
        hasher.update(self.transactions.to_be_bytes());
        for transaction in transactions {
            hasher.update(transaction.hash);
        }
        self.hash = hasher.finalize().into();
    }

    /// As nodes name it.
    pub fn block_ref(&self) -> BlockRef {
        BlockRef { seqno: self.seqno, unix_time: u64::from(self.unix_time) }
    }

    /// The two hashes that TON names a block by, of its root cell and of its file; here both are made from
    /// [`Self::hash`].
    pub fn root_and_file_hash(&self, masterchain: bool) -> ([u8; 32], [u8; 32]) {
        let derived = |kind: &[u8]| {
            let chain: &[u8] = if masterchain { b"masterchain" } else { b"basechain" };
            Sha256::new_with_prefix(self.hash).chain_update(chain).chain_update(kind).finalize().into()
        };
        (derived(b"root"), derived(b"file"))
    }

    /// What contracts see as the last masterchain block.
    pub(super) fn masterchain_id(&self) -> BlockId {
        let (root, file) = self.root_and_file_hash(true);
        BlockId {
            shard: ShardIdent::MASTERCHAIN,
            seqno: self.seqno,
            root_hash: HashBytes(root),
            file_hash: HashBytes(file),
        }
    }
}

/// One transaction of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedTransaction {
    /// The account.
    pub account: Address,
    /// Logical time: rises from transaction to transaction of an account.
    pub lt: u64,
    /// Hash of the cell.
    pub hash: [u8; 32],
    /// The transaction, in TON's own layout.
    pub cell: Cell,
}

/// Names a message in the queue; messages are delivered in this order.
pub(crate) type QueueKey = (u64, [u8; 32]);

/// A block and what it changed.
#[derive(Debug, Clone)]
pub struct Block {
    /// Identity and extent.
    pub header: BlockHeader,
    /// All transactions, in the order of execution.
    pub transactions: Vec<CommittedTransaction>,
    /// Inputs that came to nothing.
    pub refused: Vec<RefusedInput>,
    /// Accounts that are not as before, without repetition.
    pub(crate) changed: Vec<Address>,
    /// Messages of earlier blocks that were delivered.
    pub(crate) delivered: Vec<QueueKey>,
    /// Messages of this block that wait for the next one.
    pub(crate) queued: Vec<(QueueKey, Cell)>,
}

/// An input that came to nothing in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusedInput {
    /// An external message that the contract, asked again at its turn, did not accept.
    Message {
        /// Hash of the message.
        hash: [u8; 32],
        /// The account that it was for.
        destination: Address,
        /// Why.
        reason: Refusal,
    },
    /// A grant that the faucet could not pay.
    Grant {
        /// Who would have got it.
        to: Address,
        /// How much.
        nanoton: u64,
    },
}

/// Why an external message was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The contract ended without accepting it.
    #[error(
        "the contract ended with exit code {exit_code} before it accepted the message (gas used: {gas_used})"
    )]
    NotAccepted {
        /// What the contract ended with.
        exit_code: i32,
        /// Gas that it took to say so.
        gas_used: u64,
    },
    /// Nothing was ever sent to the account.
    #[error("the account does not exist: send it coins first")]
    NoAccount,
    /// The contract never ran: no contract, none that fits the address, or too few coins for the message's fee.
    #[error(
        "the contract did not run: it is not deployed and the message does not bring it, or its coins do not \
         cover the fee for taking in the message"
    )]
    NotRun,
}
