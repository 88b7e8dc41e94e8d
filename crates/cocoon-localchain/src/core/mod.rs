//! The chain as a state machine: accounts, a queue of messages, and blocks.
//!
//! A block first delivers what earlier blocks left in the queue, then takes the pending inputs (grants and external
//! messages) in the order of their arrival, then delivers the messages that came of all that, in the order of their
//! logical times, until the queue is empty or the block is full. The rest waits for the next block.

mod account;
mod block;
mod error;
mod estimate;
mod getter;
mod stack;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use cocoon_chain::{AccountState, BlockRef, TransactionId};
use cocoon_ton::{Address, Cell};
use sha2::{Digest as _, Sha256};
use tycho_executor::{Executor, ExecutorInspector, ExecutorParams, TxError};
use tycho_types::cell::{CellBuilder, CellFamily as _, HashBytes, Lazy};
use tycho_types::error::Error;
use tycho_types::models::{
    CurrencyCollection, IntAddr, IntMsgInfo, Message, MsgInfo, OwnedMessage, ShardAccount,
};
use tycho_types::num::Tokens;

use crate::{ChainConfig, ExternalMessage};

use block::QueueKey;
pub use block::{Block, BlockHeader, CommittedTransaction, Refusal, RefusedInput};
pub use error::{BlockError, GrantError, RestoreError, SubmitError};
pub use estimate::{Draft, Fees};
pub use getter::{GETTER_GAS_LIMIT, GetterError, method_id};
pub use stack::{MAX_STACK_DEPTH, MAX_STACK_ITEMS};

pub(crate) use account::{named, to_cell};

/// All coins there are, in nanoton: five billion TON. Fits 63 bits.
pub const SUPPLY_NANOTON: u64 = 5_000_000_000 * cocoon_ton::NANOTON_PER_TON;
/// Basechain account that holds the coins nobody was granted yet: the text "cocoon localchain faucet" and zeros. No
/// contract's address, so nobody can deploy one there; coins sent to it go back to the faucet.
pub const FAUCET_HASH: [u8; 32] = *b"cocoon localchain faucet\0\0\0\0\0\0\0\0";
/// Most transactions of one block; further messages wait for the next.
pub const MAX_TRANSACTIONS_PER_BLOCK: usize = 10_000;
/// Most inputs that wait for a block.
pub const MAX_PENDING_INPUTS: usize = 10_000;

/// The chain: its accounts, its queue, and its newest block.
#[derive(Debug)]
pub struct Core {
    config: Arc<ChainConfig>,
    head: BlockHeader,
    accounts: HashMap<Address, ShardAccount>,
    queue: BTreeMap<QueueKey, Cell>,
    inputs: VecDeque<Input>,
    /// Hashes of the external messages among the inputs.
    pending: HashSet<[u8; 32]>,
    /// Sum of the grants among the inputs.
    promised_nanoton: u64,
    collected_nanoton: u64,
}

#[derive(Debug)]
enum Input {
    Message(ExternalMessage),
    Grant { to: Address, nanoton: u64 },
}

/// What a chain continues from.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) head: BlockHeader,
    pub(crate) collected_nanoton: u64,
    pub(crate) accounts: Vec<(Address, Cell)>,
    pub(crate) queue: Vec<(QueueKey, Cell)>,
}

/// Where all coins are, in nanoton. The three add up to [`SUPPLY_NANOTON`] after every block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supply {
    /// On accounts, the faucet's included.
    pub accounts_nanoton: u64,
    /// In messages under way: their values, and what is left of their forwarding fees.
    pub queue_nanoton: u64,
    /// Fees that were paid.
    pub collected_nanoton: u64,
}

impl Supply {
    /// The sum of all parts.
    pub const fn total_nanoton(&self) -> u64 {
        self.accounts_nanoton + self.queue_nanoton + self.collected_nanoton
    }
}

impl Core {
    /// A chain whose coins are all with the faucet.
    ///
    /// # Errors
    /// [`RestoreError`], which would be a mistake in this crate.
    pub fn new(config: Arc<ChainConfig>, unix_time: u32) -> Result<Self, RestoreError> {
        let faucet = account::with_coins(faucet(), SUPPLY_NANOTON, unix_time)?;
        Ok(Self {
            config,
            head: BlockHeader::first(unix_time),
            accounts: HashMap::from([(self::faucet(), faucet)]),
            queue: BTreeMap::new(),
            inputs: VecDeque::new(),
            pending: HashSet::new(),
            promised_nanoton: 0,
            collected_nanoton: 0,
        })
    }

    /// A chain as it was stored.
    pub(crate) fn restore(config: Arc<ChainConfig>, from: Restored) -> Result<Self, RestoreError> {
        let accounts = from
            .accounts
            .into_iter()
            .map(|(address, cell)| Ok((address, cell.parse::<ShardAccount>()?)))
            .collect::<Result<_, RestoreError>>()?;
        let core = Self {
            config,
            head: from.head,
            accounts,
            queue: from.queue.into_iter().collect(),
            inputs: VecDeque::new(),
            pending: HashSet::new(),
            promised_nanoton: 0,
            collected_nanoton: from.collected_nanoton,
        };
        match core.supply()?.total_nanoton() {
            SUPPLY_NANOTON => Ok(core),
            total => Err(RestoreError::Unbalanced(total)),
        }
    }

    /// The newest block.
    pub const fn head(&self) -> &BlockHeader {
        &self.head
    }

    /// The configuration that the chain runs under.
    pub fn config(&self) -> &ChainConfig {
        &self.config
    }

    /// Fees that were paid since the first block, in nanoton.
    pub const fn collected_nanoton(&self) -> u64 {
        self.collected_nanoton
    }

    /// The account at `address`.
    ///
    /// # Errors
    /// [`RestoreError::Cells`] where the stored account is broken.
    pub fn account(&self, address: Address) -> Result<AccountState, RestoreError> {
        let at: BlockRef = self.head.block_ref();
        Ok(account::view(&self.account_or_empty(address)?, at)?)
    }

    /// The hash of the contract that a frozen account had; `None` where the account is not frozen.
    pub fn frozen_hash(&self, address: Address) -> Option<[u8; 32]> {
        account::frozen_hash(self.accounts.get(&address)?)
    }

    /// Where all coins are. Looks at every account.
    ///
    /// # Errors
    /// [`RestoreError::Cells`] where a stored account or message is broken.
    pub fn supply(&self) -> Result<Supply, RestoreError> {
        let sum = |total: u64, nanoton: u64| total.checked_add(nanoton).ok_or(RestoreError::Overflow);
        let accounts_nanoton =
            self.accounts.values().try_fold(0, |total, state| sum(total, account::balance(state)?))?;
        let queue_nanoton = self.queue.values().try_fold(0, |total, cell| {
            let carried = Internal::read(cell)?;
            sum(sum(total, carried.value_nanoton)?, carried.forward_fee_nanoton)
        })?;
        Ok(Supply { accounts_nanoton, queue_nanoton, collected_nanoton: self.collected_nanoton })
    }

    /// The newest transaction of each account that has one.
    pub(crate) fn newest_transactions(&self) -> impl Iterator<Item = (Address, TransactionId)> {
        let named =
            |state: &ShardAccount| TransactionId { lt: state.last_trans_lt, hash: state.last_trans_hash.0 };
        self.accounts
            .iter()
            .filter(|(_, state)| state.last_trans_lt != 0)
            .map(move |(address, state)| (*address, named(state)))
    }

    /// Whether inputs or messages wait for a block.
    pub fn has_work(&self) -> bool {
        !self.inputs.is_empty() || !self.queue.is_empty()
    }

    /// Takes an external message for the next block, if the contract accepts it as things stand at `now`. A message
    /// that waits already is not taken twice.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn submit(&mut self, message: ExternalMessage, now: u32) -> Result<[u8; 32], SubmitError> {
        let hash = message.hash();
        if self.pending.contains(&hash) {
            return Ok(hash);
        }
        if self.inputs.len() >= MAX_PENDING_INPUTS {
            return Err(SubmitError::Overloaded);
        }
        self.check(&message, now)?;
        self.pending.insert(hash);
        self.inputs.push_back(Input::Message(message));
        Ok(hash)
    }

    /// Has the faucet send coins to `to` in the next block, in a message that does not bounce.
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn grant(&mut self, to: Address, nanoton: u64) -> Result<(), GrantError> {
        if self.inputs.len() >= MAX_PENDING_INPUTS {
            return Err(GrantError::Overloaded);
        }
        let held = self.accounts.get(&faucet()).map_or(Ok(0), account::balance).unwrap_or(0);
        let left = held.saturating_sub(self.promised_nanoton);
        if nanoton == 0 || nanoton > left {
            return Err(GrantError::Amount { left_nanoton: left });
        }
        self.promised_nanoton += nanoton;
        self.inputs.push_back(Input::Grant { to, nanoton });
        Ok(())
    }

    /// Runs everything that waits, as one block at the time `now`.
    ///
    /// # Errors
    /// [`BlockError`]; the chain is then as before, apart from [`BlockError::Broken`], after which it must not be used.
    pub fn produce_block(&mut self, now: u32) -> Result<Block, BlockError> {
        if now < self.head.unix_time {
            return Err(BlockError::TimeWentBack { now, last: self.head.unix_time });
        }
        let header = self.head.next(now).ok_or(BlockError::Exhausted)?;
        let mut open = OpenBlock {
            params: self.params(&header),
            header,
            next_lt: HashMap::new(),
            transactions: Vec::new(),
            refused: Vec::new(),
            delivered: Vec::new(),
        };
        self.deliver(&mut open, header.start_lt)?;
        while !open.is_full() {
            match self.inputs.pop_front() {
                Some(input) => self.take_in(&mut open, input)?,
                None => break,
            }
        }
        self.deliver(&mut open, u64::MAX)?;
        Ok(self.close(open))
    }

    fn account_or_empty(&self, address: Address) -> Result<ShardAccount, Error> {
        self.accounts.get(&address).map_or_else(account::empty, |state| Ok(state.clone()))
    }

    fn params(&self, header: &BlockHeader) -> ExecutorParams {
        let seed = Sha256::new_with_prefix(b"cocoon localchain randomness")
            .chain_update(header.previous)
            .chain_update(header.unix_time.to_be_bytes());
        ExecutorParams {
            rand_seed: HashBytes(seed.finalize().into()),
            block_unixtime: header.unix_time,
            block_lt: header.start_lt,
            prev_mc_block_id: Some(self.head.masterchain_id()),
            // The public network's rules of its version 12.
            charge_action_fees_on_fail: false,
            full_body_in_bounced: false,
            strict_extra_currency: true,
            ..ExecutorParams::default()
        }
    }

    /// Asks the contract whether it would accept the message now.
    fn check(&self, message: &ExternalMessage, now: u32) -> Result<(), SubmitError> {
        let now = now.max(self.head.unix_time);
        let header = self.head.next(now).ok_or(SubmitError::Overloaded)?;
        let state = self.accounts.get(&message.destination()).ok_or(Refusal::NoAccount)?;
        let params = self.params(&header);
        let mut inspector = ExecutorInspector::default();
        let checked = guarded(|| {
            Executor::new(&params, self.config.parsed()).with_min_lt(header.start_lt + 1).check_ordinary_ext(
                &account::standard(message.destination()),
                message.cell().clone(),
                state,
                Some(&mut inspector),
            )
        });
        checked.map_err(|failure| refusal(&failure, &inspector).into())
    }

    /// Delivers messages from the queue that are older than `before_lt`, and what comes of them if that is older too.
    fn deliver(&mut self, open: &mut OpenBlock, before_lt: u64) -> Result<(), BlockError> {
        while !open.is_full() {
            match self.queue.first_entry() {
                Some(entry) if entry.key().0 < before_lt => {
                    let (key, message) = entry.remove_entry();
                    if key.0 < open.header.start_lt {
                        open.delivered.push(key);
                    }
                    self.deliver_one(open, message)?;
                }
                Some(_) | None => break,
            }
        }
        Ok(())
    }

    fn deliver_one(&mut self, open: &mut OpenBlock, message: Cell) -> Result<(), BlockError> {
        let carried = Internal::read(&message)?;
        // The sender paid for the way; from here on it is the network's.
        self.collected_nanoton += carried.forward_fee_nanoton;
        if let Err(failure) = self.execute(open, carried.destination, false, message) {
            // Cannot happen by the rules of the executor, which checks messages when they are sent. Should it happen,
            // the coins are counted rather than lost.
            tracing::error!(destination = %carried.destination, ?failure, "a message cannot be delivered");
            self.collected_nanoton += carried.value_nanoton;
        }
        Ok(())
    }

    fn take_in(&mut self, open: &mut OpenBlock, input: Input) -> Result<(), BlockError> {
        match input {
            Input::Grant { to, nanoton } => {
                self.promised_nanoton = self.promised_nanoton.saturating_sub(nanoton);
                self.pay_out(open, to, nanoton)
            }
            Input::Message(message) => {
                let (hash, destination) = (message.hash(), message.destination());
                self.pending.remove(&hash);
                if let Err(reason) = self.execute(open, destination, true, message.cell().clone()) {
                    open.refused.push(RefusedInput::Message { hash, destination, reason });
                }
                Ok(())
            }
        }
    }

    /// Moves coins from the faucet into a message.
    fn pay_out(&mut self, open: &mut OpenBlock, to: Address, nanoton: u64) -> Result<(), BlockError> {
        let Some(left) = account::withdraw(&self.account_or_empty(faucet())?, nanoton)? else {
            open.refused.push(RefusedInput::Grant { to, nanoton });
            return Ok(());
        };
        self.accounts.insert(faucet(), left);
        open.next_lt.entry(faucet()).or_insert(open.header.start_lt + 1);
        open.header.end_lt += 1;
        let created_lt = open.header.end_lt;
        let message = grant_message(to, nanoton, created_lt, open.header.unix_time)?;
        self.queue.insert((created_lt, message.repr_hash().0), message);
        Ok(())
    }

    fn execute(
        &mut self,
        open: &mut OpenBlock,
        address: Address,
        external: bool,
        message: Cell,
    ) -> Result<(), Refusal> {
        let broken = |_| Refusal::NotRun;
        let state = self.account_or_empty(address).map_err(broken)?;
        let min_lt = open.next_lt.get(&address).copied().unwrap_or(open.header.start_lt + 1);
        let mut inspector = ExecutorInspector::default();
        let executed = guarded(|| {
            let executor = Executor::new(&open.params, self.config.parsed()).with_min_lt(min_lt);
            let standard = account::standard(address);
            let begun =
                executor.begin_ordinary_ext(&standard, external, message, &state, Some(&mut inspector))?;
            Ok(begun.commit()?)
        });
        let output = executed.map_err(|failure| refusal(&failure, &inspector))?;
        let meta = output.transaction_meta;
        let outgoing = outgoing(&meta.out_msgs).map_err(broken)?;
        let fees = [meta.total_fees, output.burned].map(|tokens| u64::try_from(tokens.into_inner()));
        let [Ok(fees), Ok(burned)] = fees else { return Err(Refusal::NotRun) };

        self.collected_nanoton += fees + burned;
        self.queue.extend(outgoing);
        open.next_lt.insert(address, meta.next_lt);
        open.header.end_lt = open.header.end_lt.max(meta.next_lt);
        open.transactions.push(CommittedTransaction {
            account: address,
            lt: output.new_state.last_trans_lt,
            hash: output.new_state.last_trans_hash.0,
            cell: output.transaction.into_inner(),
        });
        self.accounts.insert(address, output.new_state);
        Ok(())
    }

    fn close(&mut self, open: OpenBlock) -> Block {
        let OpenBlock { mut header, transactions, refused, delivered, next_lt, .. } = open;
        header.transactions = u32::try_from(transactions.len()).unwrap_or(u32::MAX);
        header.seal(&transactions);
        self.head = header;
        let queued = self.queue.range((header.start_lt, [0; 32])..);
        let queued = queued.map(|(key, cell)| (*key, cell.clone())).collect();
        let mut changed: Vec<Address> = next_lt.into_keys().collect();
        changed.sort_unstable();
        Block { header, transactions, refused, changed, delivered, queued }
    }

    /// The account's cell, for the disk.
    pub(crate) fn account_cell(&self, address: Address) -> Result<Cell, RestoreError> {
        Ok(to_cell(&self.account_or_empty(address)?)?)
    }
}

/// Where the coins come from.
pub(crate) const fn faucet() -> Address {
    Address::basechain(FAUCET_HASH)
}

/// A block in the making.
struct OpenBlock {
    params: ExecutorParams,
    header: BlockHeader,
    /// Of each account that had its turn: the least logical time of its next transaction.
    next_lt: HashMap<Address, u64>,
    transactions: Vec<CommittedTransaction>,
    refused: Vec<RefusedInput>,
    delivered: Vec<QueueKey>,
}

impl OpenBlock {
    fn is_full(&self) -> bool {
        self.transactions.len() + self.refused.len() >= MAX_TRANSACTIONS_PER_BLOCK
    }
}

/// What the chain must know of a message inside it.
struct Internal {
    destination: Address,
    value_nanoton: u64,
    forward_fee_nanoton: u64,
}

impl Internal {
    fn read(cell: &Cell) -> Result<Self, Error> {
        let MsgInfo::Int(info) = cell.parse::<MsgInfo>()? else {
            return Err(Error::InvalidData);
        };
        let nanoton = |tokens: Tokens| u64::try_from(tokens.into_inner()).map_err(|_| Error::IntOverflow);
        Ok(Self {
            destination: named(&info.dst).ok_or(Error::InvalidData)?,
            value_nanoton: nanoton(info.value.tokens)?,
            forward_fee_nanoton: nanoton(info.fwd_fee)?,
        })
    }
}

/// The messages that go on inside the chain. Those to the outside are in the transaction and go nowhere.
fn outgoing(messages: &[Lazy<OwnedMessage>]) -> Result<Vec<(QueueKey, Cell)>, Error> {
    let mut outgoing = Vec::with_capacity(messages.len());
    for message in messages {
        let cell = message.inner();
        if let MsgInfo::Int(info) = cell.parse::<MsgInfo>()? {
            Internal::read(cell)?;
            outgoing.push(((info.created_lt, cell.repr_hash().0), cell.clone()));
        }
    }
    Ok(outgoing)
}

fn grant_message(to: Address, nanoton: u64, created_lt: u64, created_at: u32) -> Result<Cell, Error> {
    CellBuilder::build_from(Message {
        info: MsgInfo::Int(IntMsgInfo {
            src: IntAddr::Std(account::standard(faucet())),
            dst: IntAddr::Std(account::standard(to)),
            value: CurrencyCollection::from(Tokens::new(u128::from(nanoton))),
            created_lt,
            created_at,
            ..IntMsgInfo::default()
        }),
        init: None,
        body: Cell::empty_cell_ref().as_slice_allow_exotic(),
        layout: None,
    })
}

/// Runs the executor so that a contract which finds a mistake in it cannot end the process.
fn guarded<T>(run: impl FnOnce() -> Result<T, TxError>) -> Result<T, TxError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|_| {
        tracing::error!("the executor panicked; the message is treated as one that it refused");
        Err(TxError::Skipped)
    })
}

fn refusal(failure: &TxError, inspector: &ExecutorInspector<'_>) -> Refusal {
    if let TxError::Fatal(error) = failure {
        tracing::warn!(%error, "the executor cannot run a message");
    }
    match inspector.exit_code {
        Some(exit_code) => Refusal::NotAccepted { exit_code, gas_used: inspector.total_gas_used },
        None => Refusal::NotRun,
    }
}
