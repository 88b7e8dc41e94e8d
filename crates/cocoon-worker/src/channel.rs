//! What is known of each proxy, over restarts: its contract and ours, its counters, and its newest order, which is money.
//!
//! In the store, `channel/CONTRACT/terms` has what never changes of one worker contract, `channel/CONTRACT` has counters and
//! order, which change together, and `channels` lists the contracts. A new one is listed last, so that what is listed
//! after a crash is all there. With that an order can be turned into coins without the proxy.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cocoon_ledger::PeerCounters;
use cocoon_session::{PaymentCounters, ProxyTerms};
use cocoon_store::{SqliteStore, Store as _, StoreError};
use cocoon_ton::cell::{decode_boc, encode_boc};
use cocoon_ton::payment::{OrderKind, SignedPayment};
use cocoon_ton::{Address, RootConfig, StateInit, VerifyingKey, WorkerState, worker_state_init};
use tokio::sync::Notify;

/// Most worker contracts that a worker remembers: one for each proxy and each change of the network's parameters.
pub const MAX_CHANNELS: usize = 4096;

/// Version of the encoding of terms and books; their first byte.
const VERSION: u8 = 1;
/// Largest contract that is read back, in bytes; [`cocoon_ton::cell::MAX_CODE_BOC_BYTES`] bounds its code.
const MAX_INIT_BYTES: usize = 128 * 1024;
/// Length of encoded counters, in bytes.
const COUNTERS_BYTES: usize = 25;
const INDEX: &str = "channels";

/// What never changes of a worker contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Its address, which follows from `init`.
    pub(crate) contract: Address,
    /// Deploys it.
    pub(crate) init: StateInit,
    /// What it knows at first: the parties, the proxy's key and the fee.
    pub(crate) start: WorkerState,
    /// Hash of the proxy contract's code.
    pub(crate) proxy_code: [u8; 32],
    key: VerifyingKey,
}

impl Terms {
    fn new(init: StateInit, proxy_code: [u8; 32]) -> Result<Self, String> {
        let start = WorkerState::from_data(&init.data).map_err(|error| error.to_string())?;
        let key = VerifyingKey::from_bytes(&start.proxy_public_key)
            .map_err(|_| "the proxy's key is no Ed25519 key".to_owned())?;
        Ok(Self { contract: init.address(), init, start, proxy_code, key })
    }

    fn encode(&self) -> Bytes {
        [&[VERSION][..], &self.proxy_code, &encode_boc(&self.init.cell())].concat().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (proxy_code, init) = versioned(bytes)?.split_first_chunk().ok_or("terms end early")?;
        let cell = decode_boc(init, MAX_INIT_BYTES).map_err(|error| error.to_string())?;
        Self::new(StateInit::from_cell(&cell).map_err(|error| error.to_string())?, *proxy_code)
    }

    /// What a token is worth to the worker.
    pub(crate) fn fee_nanoton(&self) -> u64 {
        self.start.params.worker_fee_per_token_nanoton
    }

    /// An order as it comes over the wire, if this proxy has signed it for this contract.
    pub(crate) fn verify(&self, order: &[u8]) -> Result<SignedPayment, String> {
        let payment = SignedPayment::parse(order).map_err(|error| error.to_string())?;
        let kind = match payment.order().kind {
            OrderKind::PayWorkerLast => OrderKind::PayWorkerLast,
            _ => OrderKind::PayWorker,
        };
        payment
            .verify(&self.key, kind, &self.contract)
            .map_err(|error| format!("the proxy's payment order does not verify: {error}"))?;
        Ok(payment)
    }
}

/// What changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Books {
    /// What the proxy has shown.
    pub(crate) counters: PeerCounters,
    /// Its newest order, verified.
    pub(crate) order: Option<SignedPayment>,
}

impl Books {
    fn encode(&self) -> Bytes {
        let order = self.order.map(|order| order.to_boc()).unwrap_or_default();
        [&[VERSION][..], &self.counters.encode(), &order].concat().into()
    }

    fn decode(bytes: &[u8], terms: &Terms) -> Result<Self, String> {
        let (counters, order) =
            versioned(bytes)?.split_at_checked(COUNTERS_BYTES).ok_or("the counters end early")?;
        let counters = PeerCounters::decode(counters).map_err(|error| error.to_string())?;
        let order = if order.is_empty() { None } else { Some(terms.verify(order)?) };
        if order.is_some_and(|order| order.order().tokens != counters.signed()) {
            return Err("the order is not the newest that was signed".to_owned());
        }
        Ok(Self { counters, order })
    }

    /// These books after a notice of the proxy. An order gives way to one for more, or to a last one for as much.
    fn after(mut self, counters: &PaymentCounters, order: Option<SignedPayment>) -> Result<Self, String> {
        // The session checked the counters already, and lets `max` fall back where a new connection begins.
        self.counters.begin_connection();
        let signed = order.map(|order| order.order().tokens);
        self.counters
            .observe(counters.db_tokens, counters.max_tokens, signed)
            .map_err(|error| format!("the proxy's books went back: {error}"))?;
        let rank =
            |order: &SignedPayment| (order.order().tokens, order.order().kind == OrderKind::PayWorkerLast);
        if let Some(order) = order
            && self.order.is_none_or(|known| rank(&order) > rank(&known))
        {
            self.order = Some(order);
        }
        Ok(self)
    }

    /// Tokens that the proxy has said it owes for, signed or not.
    pub(crate) fn owed(&self) -> u64 {
        self.signed().max(self.counters.db())
    }

    /// Tokens that the newest order is for.
    pub(crate) fn signed(&self) -> u64 {
        self.order.map_or(0, |order| order.order().tokens)
    }
}

fn versioned(bytes: &[u8]) -> Result<&[u8], String> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => Ok(rest),
        Some((version, _)) => Err(format!("unknown format version {version}: written by a newer program?")),
        None => Err("nothing where there must be something".to_owned()),
    }
}

/// One proxy, as long as network parameters and owner stay the same.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) terms: Terms,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    books: Books,
    /// Whether the store lacks something of it.
    unsaved: bool,
    /// Whether the index lists it.
    listed: bool,
    /// An order for so many tokens is worth a look at the chain.
    due_at: u64,
    /// Whether the chain shows that the worker contract pays nothing any more.
    closed: bool,
}

impl Channel {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn books(&self) -> Books {
        self.lock().books
    }

    /// Keeps what the chain showed: from how many tokens on an order is worth a look, and whether all is over.
    /// `due_at` is given the newest order's tokens.
    pub(crate) fn note_chain(&self, closed: bool, due_at: impl FnOnce(u64) -> u64) {
        let mut state = self.lock();
        state.closed = closed;
        state.due_at = due_at(state.books.signed());
    }

    /// Why no work should be done for this proxy.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.lock().closed.then(|| {
            format!(
                "the worker contract {} at this proxy is closed: nothing would be paid",
                self.terms.contract
            )
        })
    }
}

/// All proxies that a worker ever earned something at.
#[derive(Debug)]
pub(crate) struct Channels {
    store: Arc<SqliteStore>,
    all: Mutex<BTreeMap<Address, Arc<Channel>>>,
    index: Mutex<Vec<Address>>,
    /// Told when an order has become due.
    pub(crate) due: Notify,
}

impl Channels {
    /// Reads what is stored. Waits for the disk.
    pub(crate) fn load(store: Arc<SqliteStore>, path: &Path) -> Result<Self, StoreError> {
        let corrupt = |detail: String| StoreError::Corrupt { path: path.to_owned(), detail };
        let index = decode_index(&store.get(INDEX)?.unwrap_or_default()).map_err(corrupt)?;
        let mut all = BTreeMap::new();
        for contract in &index {
            let channel = read_channel(&store, *contract)?.map_err(|detail| {
                corrupt(format!("what it says of the worker contract {contract}: {detail}"))
            })?;
            all.insert(*contract, Arc::new(channel));
        }
        Ok(Self { store, all: Mutex::new(all), index: Mutex::new(index), due: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Address, Arc<Channel>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The channel at a proxy that has shown its terms, which were checked against `root`.
    pub(crate) fn at(
        &self,
        proxy: &ProxyTerms,
        root: &RootConfig,
        owner: &Address,
    ) -> Result<Arc<Channel>, String> {
        let mut all = self.lock();
        if let Some(known) = all.get(&proxy.pair_contract) {
            return Ok(Arc::clone(known));
        }
        if all.len() >= MAX_CHANNELS {
            return Err(format!("{MAX_CHANNELS} worker contracts are known already"));
        }
        let init = worker_state_init(&root.params, owner, &proxy.contract, &proxy.public_key)
            .map_err(|error| error.to_string())?;
        let code = root.params.proxy_code.as_ref().ok_or("the root configuration holds no proxy code")?;
        let terms = Terms::new(init, code.hash())?;
        if terms.contract != proxy.pair_contract {
            return Err(format!("the worker contract is {}, not {}", terms.contract, proxy.pair_contract));
        }
        let channel = Arc::new(Channel { terms, state: Mutex::default() });
        all.insert(channel.terms.contract, Arc::clone(&channel));
        Ok(channel)
    }

    /// All of them.
    pub(crate) fn list(&self) -> Vec<Arc<Channel>> {
        self.lock().values().cloned().collect()
    }

    /// Keeps what a proxy says it owes us; `order` is verified. Tells the settlement where that has become due.
    pub(crate) fn note(
        &self,
        channel: &Channel,
        counters: &PaymentCounters,
        order: Option<SignedPayment>,
    ) -> Result<(), String> {
        let mut state = channel.lock();
        let books = state.books.after(counters, order)?;
        if books == state.books && !state.unsaved {
            return Ok(());
        }
        let ordered_more = books.signed() > state.books.signed();
        state.books = books;
        state.unsaved = true;
        self.save(channel, &mut state);
        if ordered_more && books.signed() >= state.due_at {
            self.due.notify_one();
        }
        Ok(())
    }

    /// Writes what the disk had no room for before.
    pub(crate) fn flush(&self) {
        for channel in self.list() {
            let mut state = channel.lock();
            if state.unsaved {
                self.save(&channel, &mut state);
            }
        }
    }

    fn save(&self, channel: &Channel, state: &mut State) {
        match self.try_save(channel, state) {
            Ok(()) => state.unsaved = false,
            // The disk does not keep up: with the next notice, or the next round of the settlement.
            Err(StoreError::QueueFull) => {}
            Err(error) => {
                tracing::error!(%error, "a proxy's counters and order cannot be stored; after a restart it is believed anew");
            }
        }
    }

    fn try_save(&self, channel: &Channel, state: &mut State) -> Result<(), StoreError> {
        let contract = channel.terms.contract;
        if !state.listed {
            self.store.put(&terms_key(&contract), channel.terms.encode())?;
            self.store.put(&books_key(&contract), state.books.encode())?;
            let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
            index.push(contract);
            if let Err(error) = self.store.put(INDEX, encode_index(&index)) {
                index.pop();
                return Err(error);
            }
            state.listed = true;
            return Ok(());
        }
        self.store.put(&books_key(&contract), state.books.encode()).map(drop)
    }
}

fn read_channel(store: &SqliteStore, contract: Address) -> Result<Result<Channel, String>, StoreError> {
    let (terms, books) = (store.get(&terms_key(&contract))?, store.get(&books_key(&contract))?);
    let (Some(terms), Some(books)) = (terms, books) else {
        return Ok(Err("it is listed, but not there".to_owned()));
    };
    Ok(Terms::decode(&terms).and_then(|terms| {
        if terms.contract != contract {
            return Err(format!("it is of the contract {}", terms.contract));
        }
        let books = Books::decode(&books, &terms)?;
        Ok(Channel { terms, state: Mutex::new(State { books, listed: true, ..State::default() }) })
    }))
}

fn terms_key(contract: &Address) -> String {
    format!("channel/{}/terms", contract.to_raw_string())
}

fn books_key(contract: &Address) -> String {
    format!("channel/{}", contract.to_raw_string())
}

fn encode_index(contracts: &[Address]) -> Bytes {
    let mut bytes = vec![VERSION];
    contracts.iter().for_each(|contract| bytes.extend_from_slice(contract.hash()));
    bytes.into()
}

/// The worker contracts of the index; all are in the basechain.
fn decode_index(bytes: &[u8]) -> Result<Vec<Address>, String> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let (hashes, rest) = versioned(bytes)?.as_chunks::<32>();
    if !rest.is_empty() || hashes.len() > MAX_CHANNELS {
        return Err("the list of worker contracts has the wrong length".to_owned());
    }
    Ok(hashes.iter().map(|hash| Address::basechain(*hash)).collect())
}
