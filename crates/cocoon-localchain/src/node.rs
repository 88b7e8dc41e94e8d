//! The running chain: state machine, file, clock and listeners, all on one thread.
//!
//! The thread has a stack of its own size, because contracts decide how deep the machine recurses.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cocoon_chain::{ChainError, TransactionId};
use cocoon_ton::{Address, RootConfig};
use tokio::sync::watch;

use crate::core::{Block, BlockError, BlockHeader, Core, RestoreError};
use crate::store::{Store, StoreError};
use crate::{ChainConfig, ConfigError};

/// Stack of the chain's thread.
const STACK_BYTES: usize = 64 * 1024 * 1024;
/// Most calls that wait for the chain's thread.
pub(crate) const MAX_WAITING_CALLS: usize = 1_024;
/// Most blocks that are made before other calls get their turn.
pub const MAX_BLOCKS_TO_SETTLE: usize = 16;
/// Most bytes of a chain's file, unless said otherwise: some 30 million transactions.
pub const DEFAULT_MAX_FILE_BYTES: u64 = 64 << 30;
/// How long a chain waits before it tries again to store what the disk had no room for.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Shortest time between two blocks that come at an interval.
pub const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Most accounts that are listened to at once.
pub const MAX_SUBSCRIPTIONS: usize = 100_000;

/// How a chain is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its file; `None` for a chain that ends with the process.
    pub path: Option<PathBuf>,
    /// When there is a new block.
    pub production: Production,
    /// What time it is.
    pub time: TimeSource,
    /// Most bytes that the chain's file may have; past them the chain waits, as on a full disk.
    pub max_file_bytes: u64,
}

/// A chain that ends with the process, in the computer's time, with a block after each message.
impl Default for Options {
    fn default() -> Self {
        Self {
            path: None,
            production: Production::OnMessage,
            time: TimeSource::System,
            max_file_bytes: DEFAULT_MAX_FILE_BYTES,
        }
    }
}

/// When there is a new block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Production {
    /// When it is asked for.
    Manual,
    /// As soon as a message or a grant was taken.
    OnMessage,
    /// Each time so much time has passed, at least [`MIN_INTERVAL`], whether or not there is something for it.
    Every(Duration),
}

/// What time it is, before it is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeSource {
    /// The computer's clock.
    System,
    /// Always this moment, in Unix seconds: for tests.
    Fixed(u32),
}

/// Something for the chain's thread to do.
pub(crate) type Call = Box<dyn FnOnce(&mut Node) + Send>;

/// What the thread owns.
pub(crate) struct Node {
    pub(crate) core: Core,
    pub(crate) store: Store,
    time: TimeSource,
    /// Seconds that the clock was moved by.
    moved: u32,
    production: Production,
    /// The newest block, where the disk has no room for it now: nobody may be told of it yet.
    unstored: Option<Block>,
    /// Why the chain cannot go on: its memory is ahead of its file. Dropped after the file is closed.
    failed: watch::Sender<Option<String>>,
    /// Whether somebody has closed it.
    closed: bool,
    news: Arc<News>,
}

/// Why a chain cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its file.
    #[error("{path}: {source}", path = path.as_ref().map_or_else(|| "(in memory)".to_owned(), |path| path.display().to_string()))]
    Store {
        /// The file.
        path: Option<PathBuf>,
        /// What is wrong.
        source: StoreError,
    },
    /// What is in its file.
    #[error("the stored chain cannot be continued: {0}")]
    Restore(#[from] RestoreError),
    /// The configuration cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The operating system gave no thread.
    #[error("the chain's thread cannot be started: {0}")]
    Thread(std::io::Error),
}

/// What handles have of a running chain.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) calls: SyncSender<Call>,
    pub(crate) news: Arc<News>,
    /// Why the chain cannot go on. Loses its sender once the file is closed.
    pub(crate) failed: watch::Receiver<Option<String>>,
}

/// Opens the chain on a thread of its own. The thread ends when all senders are gone, or when it is closed.
pub(crate) fn start(options: &Options) -> Result<Running, OpenError> {
    let node = Node::open(options)?;
    let (news, failed) = (Arc::clone(&node.news), node.failed.subscribe());
    let (calls, receiver) = sync_channel(MAX_WAITING_CALLS);
    std::thread::Builder::new()
        .name("localchain".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || node.run(&receiver))
        .map_err(OpenError::Thread)?;
    Ok(Running { calls, news, failed })
}

impl Node {
    fn open(options: &Options) -> Result<Self, OpenError> {
        let in_store = |source| OpenError::Store { path: options.path.clone(), source };
        let config = Arc::new(ChainConfig::new()?);
        let opened = Store::open(options.path.as_deref(), options.max_file_bytes);
        let (mut store, restored) = opened.map_err(in_store)?;
        let base = base_time(options.time);
        let core = match restored {
            Some(restored) => Core::restore(config, restored)?,
            None => {
                let core = Core::new(config, base)?;
                store.begin(&core).map_err(in_store)?;
                core
            }
        };
        // A clock that was moved stays moved: the chain's time never falls.
        let moved = core.head().unix_time.saturating_sub(base);
        let news = Arc::new(News::new(&core));
        let time = options.time;
        let production = match options.production {
            Production::Every(interval) => Production::Every(interval.max(MIN_INTERVAL)),
            other => other,
        };
        let failed = watch::Sender::new(None);
        Ok(Self { core, store, time, moved, production, unstored: None, failed, closed: false, news })
    }

    fn run(mut self, calls: &Receiver<Call>) {
        let mut last_block = Instant::now();
        loop {
            match self.next_call(calls, last_block) {
                Ok(call) => call(&mut self),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.closed {
                self.news.end();
                return;
            }
            let due = match self.production {
                Production::Every(interval) => last_block.elapsed() >= interval,
                // What one block had no room for.
                Production::OnMessage => self.core.has_work(),
                Production::Manual => false,
            };
            if let Some(block) = self.unstored.take_if(|_| last_block.elapsed() >= RETRY_AFTER) {
                last_block = Instant::now();
                // It says itself what is the matter.
                let _ = self.store(block, true);
            } else if due && self.alive().is_ok() {
                last_block = Instant::now();
                if let Err(error) = self.produce() {
                    tracing::error!(%error, "no new block");
                }
            }
        }
    }

    /// The next call; a timeout where a block comes first.
    fn next_call(&self, calls: &Receiver<Call>, last_block: Instant) -> Result<Call, RecvTimeoutError> {
        if self.unstored.is_some() {
            return calls.recv_timeout(RETRY_AFTER.saturating_sub(last_block.elapsed()));
        }
        match self.production {
            Production::Every(interval) => calls.recv_timeout(interval.saturating_sub(last_block.elapsed())),
            Production::OnMessage if self.core.has_work() && self.failed.borrow().is_none() => {
                calls.recv_timeout(Duration::ZERO)
            }
            Production::Manual | Production::OnMessage => {
                calls.recv().map_err(|_| RecvTimeoutError::Disconnected)
            }
        }
    }

    /// Whether the chain can go on.
    pub(crate) fn alive(&self) -> Result<(), ChainError> {
        match &*self.failed.borrow() {
            Some(reason) => Err(ChainError::Unavailable { reason: reason.clone(), retry_after: None }),
            None if self.unstored.is_some() => Err(no_room()),
            None => Ok(()),
        }
    }

    /// The time now, in Unix seconds; not before the newest block's.
    pub(crate) fn now(&self) -> u32 {
        base_time(self.time).saturating_add(self.moved).max(self.core.head().unix_time)
    }

    /// Has the thread end after the call that it is in.
    pub(crate) const fn close(&mut self) {
        self.closed = true;
    }

    pub(crate) fn move_clock(&mut self, seconds: u32) {
        self.moved = self.moved.saturating_add(seconds);
    }

    /// A block, if there is to be one after each message.
    pub(crate) fn after_input(&mut self) -> Result<(), ChainError> {
        match self.production {
            Production::OnMessage => self.produce().map(|_| ()),
            Production::Manual | Production::Every(_) => Ok(()),
        }
    }

    /// Blocks until nothing waits for one, at most [`MAX_BLOCKS_TO_SETTLE`].
    pub(crate) fn settle(&mut self) -> Result<Vec<BlockHeader>, ChainError> {
        let mut blocks = Vec::new();
        while self.core.has_work() && blocks.len() < MAX_BLOCKS_TO_SETTLE {
            blocks.push(self.produce()?);
        }
        Ok(blocks)
    }

    /// Makes a block, stores it, and then tells of it.
    pub(crate) fn produce(&mut self) -> Result<BlockHeader, ChainError> {
        let now = self.now();
        let block = match self.core.produce_block(now) {
            Ok(block) => block,
            Err(error @ BlockError::Broken(_)) => return Err(self.fail(error.to_string())),
            Err(error) => {
                return Err(ChainError::Unavailable { reason: error.to_string(), retry_after: None });
            }
        };
        self.store(block, false)
    }

    /// Stores the newest block, and then tells of it. Where the disk is full it waits, and everybody with it.
    fn store(&mut self, block: Block, again: bool) -> Result<BlockHeader, ChainError> {
        match self.store.commit(&block, &self.core) {
            Ok(()) => {
                self.news.tell(&block, &self.core);
                Ok(block.header)
            }
            Err(error) if error.is_full() => {
                if !again {
                    tracing::warn!(block = block.header.seqno, "the chain waits for room on the disk");
                }
                self.unstored = Some(block);
                Err(no_room())
            }
            Err(error) => Err(self.fail(format!("block {} cannot be stored: {error}", block.header.seqno))),
        }
    }

    /// From here on the chain answers nothing, because what it would answer is not what a restart will find.
    fn fail(&mut self, reason: String) -> ChainError {
        tracing::error!(reason, "the chain has stopped");
        let reason = format!("the chain has stopped: {reason}; mend that and start it again");
        self.failed.send_replace(Some(reason.clone()));
        ChainError::Unavailable { reason, retry_after: None }
    }
}

fn no_room() -> ChainError {
    let reason = "the disk has no room for the chain's newest block: make room".to_owned();
    ChainError::Unavailable { reason, retry_after: Some(RETRY_AFTER) }
}

pub(crate) fn ended() -> ChainError {
    ChainError::Unavailable { reason: "the embedded chain has ended".to_owned(), retry_after: None }
}

fn base_time(source: TimeSource) -> u32 {
    match source {
        TimeSource::Fixed(now) => now,
        TimeSource::System => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX)),
    }
}

/// Who listens to what.
#[derive(Debug)]
pub(crate) struct News(Mutex<Listeners>);

#[derive(Debug)]
struct Listeners {
    newest: HashMap<Address, TransactionId>,
    accounts: HashMap<Address, watch::Sender<Option<TransactionId>>>,
    roots: HashMap<Address, watch::Sender<Arc<RootConfig>>>,
    ended: bool,
}

impl News {
    fn new(core: &Core) -> Self {
        let newest = core.newest_transactions().collect();
        let (accounts, roots) = (HashMap::new(), HashMap::new());
        Self(Mutex::new(Listeners { newest, accounts, roots, ended: false }))
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest transaction of the account, and each newer one.
    pub(crate) fn subscribe(
        &self,
        address: Address,
    ) -> Result<watch::Receiver<Option<TransactionId>>, ChainError> {
        let mut listeners = self.lock();
        if listeners.ended {
            return Err(ended());
        }
        if listeners.accounts.len() >= MAX_SUBSCRIPTIONS {
            listeners.accounts.retain(|_, sender| !sender.is_closed());
        }
        if listeners.accounts.len() >= MAX_SUBSCRIPTIONS {
            let reason = format!("{MAX_SUBSCRIPTIONS} accounts are listened to already");
            return Err(ChainError::Unavailable { reason, retry_after: None });
        }
        let newest = listeners.newest.get(&address).copied();
        let sender = listeners.accounts.entry(address).or_insert_with(|| watch::Sender::new(newest));
        Ok(sender.subscribe())
    }

    /// The root configuration at that address, and each newer one.
    pub(crate) fn follow_root(&self, address: Address, now: RootConfig) -> watch::Receiver<Arc<RootConfig>> {
        let mut listeners = self.lock();
        listeners.roots.entry(address).or_insert_with(|| watch::Sender::new(Arc::new(now))).subscribe()
    }

    /// Listeners learn that there will be nothing more.
    fn end(&self) {
        let mut listeners = self.lock();
        listeners.ended = true;
        listeners.accounts.clear();
        listeners.roots.clear();
    }

    fn tell(&self, block: &Block, core: &Core) {
        let mut listeners = self.lock();
        for made in &block.transactions {
            let id = TransactionId { lt: made.lt, hash: made.hash };
            listeners.newest.insert(made.account, id);
        }
        for address in &block.changed {
            let newest = listeners.newest.get(address).copied();
            if let Some(sender) = listeners.accounts.get(address) {
                sender.send_if_modified(|known| std::mem::replace(known, newest) != newest);
            }
            if let Some(sender) = listeners.roots.get(address) {
                tell_root(sender, *address, core);
            }
        }
    }
}

/// A root that cannot be read leaves the last one that could in force.
fn tell_root(sender: &watch::Sender<Arc<RootConfig>>, address: Address, core: &Core) {
    match read_root(address, core) {
        Ok(config) => {
            sender.send_if_modified(|known| {
                let changed = **known != config;
                if changed {
                    *known = Arc::new(config);
                }
                changed
            });
        }
        Err(error) => tracing::warn!(%address, %error, "the root contract's new state cannot be used"),
    }
}

/// The root configuration in the data of the account at `address`.
pub(crate) fn read_root(address: Address, core: &Core) -> Result<RootConfig, ChainError> {
    let account = core.account(address).map_err(|error| ChainError::BadAnswer(error.to_string()))?;
    cocoon_chain::read_root(address, account.data.as_ref())
}
