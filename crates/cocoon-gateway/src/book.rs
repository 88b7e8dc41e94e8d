//! What the gateway remembers of each proxy: counters that never fall, what was spent, and what is disputed.
//!
//! Notices are taken in memory and written to the store in groups ([`FLUSH_EVERY`]): an answer never waits for them.
//! A crash may lose the newest group; the counters are then lower than the proxy's, which is harmless.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cocoon_ledger::{AdjustedTokens, CounterError, Dispute, Nanoton, PeerCounters, PricePerToken};
use cocoon_store::{Change, SqliteStore, Store, StoreError, Written};
use cocoon_ton::Address;
use serde::{Deserialize, Serialize};

use crate::settle::Records;

/// How often changes are written.
pub(crate) const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// Proxies remembered. Each costs about 250 bytes of the store's largest value.
const MAX_PEERS: usize = 2048;
/// Disputes remembered, newest first to stay.
const MAX_DISPUTES: usize = 1000;
/// Longest model name that is kept with a dispute, in bytes.
const MAX_MODEL_BYTES: usize = 200;

const PEERS_KEY: &str = "gateway/peers";
const DISPUTES_KEY: &str = "gateway/disputes";
const CHANNELS_KEY: &str = "gateway/channels";

/// A proxy as far as money goes: its key, and the contract between it and us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PeerKey {
    pub(crate) proxy: [u8; 32],
    pub(crate) contract: Address,
}

/// What was spent, over all proxies, as acknowledged by their payment notices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Adjusted tokens that the proxies have made durable.
    pub tokens: AdjustedTokens,
    /// What they cost, at the prices of their time.
    pub nanoton: Nanoton,
}

/// A proxy's notice cannot be accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BookError {
    #[error(transparent)]
    Counter(#[from] CounterError),
    #[error("over {MAX_PEERS} proxies are remembered; use a fresh store")]
    TooManyPeers,
}

/// The store holds something that this program did not write.
#[derive(Debug, thiserror::Error)]
pub enum BookLoadError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its content makes no sense.
    #[error(
        "what the gateway's store holds under {key} cannot be read ({detail}); restore it, or begin a new file"
    )]
    Content {
        /// Which value.
        key: &'static str,
        /// What is wrong with it.
        detail: String,
    },
}

#[derive(Debug, Default)]
struct Peer {
    counters: PeerCounters,
    nanoton: u64,
}

/// A peer as stored.
#[derive(Serialize, Deserialize)]
struct PeerRecord {
    proxy: String,
    contract: String,
    counters: String,
    nanoton: u64,
}

/// A dispute as stored and shown. Tokens are adjusted: prompt, cached, completion, reasoning.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DisputeRecord {
    at_unix_seconds: u64,
    request_id: String,
    proxy: String,
    model: String,
    reason: String,
    expected: [u64; 4],
    claimed: [u64; 4],
}

#[derive(Debug, Default)]
struct Inner {
    peers: BTreeMap<PeerKey, Peer>,
    peers_changed: bool,
    disputes: VecDeque<DisputeRecord>,
    disputes_changed: bool,
}

/// What is being written.
#[derive(Debug, Clone, Copy)]
struct Changed {
    peers: bool,
    disputes: bool,
}

#[derive(Debug)]
pub(crate) struct Book {
    store: SqliteStore,
    inner: Mutex<Inner>,
}

impl Book {
    /// Reads what is stored. Waits for the disk.
    pub(crate) fn open(path: &std::path::Path) -> Result<Self, BookLoadError> {
        let store = SqliteStore::open(path)?;
        let mut inner = Inner::default();
        for record in load::<PeerRecord>(&store, PEERS_KEY)? {
            let (key, peer) = read_peer(&record)
                .ok_or_else(|| BookLoadError::Content { key: PEERS_KEY, detail: "a bad entry".to_owned() })?;
            inner.peers.insert(key, peer);
        }
        inner.disputes = load::<DisputeRecord>(&store, DISPUTES_KEY)?.into();
        Ok(Self { store, inner: Mutex::new(inner) })
    }

    /// A connection to this proxy begins. `forgetful`: it answers notices before they are durable.
    pub(crate) fn begin_connection(&self, key: PeerKey, forgetful: bool) {
        if forgetful && let Some(peer) = self.lock().peers.get_mut(&key) {
            peer.counters.begin_connection();
        }
    }

    /// Takes a notice.
    pub(crate) fn observe(
        &self,
        key: PeerKey,
        db_tokens: i64,
        max_tokens: i64,
        signed: Option<u64>,
        price: PricePerToken,
    ) -> Result<(), BookError> {
        let mut inner = self.lock();
        if inner.peers.len() >= MAX_PEERS && !inner.peers.contains_key(&key) {
            return Err(BookError::TooManyPeers);
        }
        let peer = inner.peers.entry(key).or_default();
        let before = peer.counters;
        let change = peer.counters.observe(db_tokens, max_tokens, signed)?;
        peer.nanoton = peer.nanoton.saturating_add(change.db.saturating_mul(price.get()));
        let changed = before != peer.counters;
        inner.peers_changed |= changed;
        Ok(())
    }

    pub(crate) fn spent(&self) -> Spent {
        let inner = self.lock();
        let sum = |of: fn(&Peer) -> u64| inner.peers.values().map(of).fold(0_u64, u64::saturating_add);
        Spent {
            tokens: AdjustedTokens(sum(|peer| peer.counters.db())),
            nanoton: Nanoton(sum(|peer| peer.nanoton)),
        }
    }

    pub(crate) fn counters(&self, key: &PeerKey) -> PeerCounters {
        self.lock().peers.get(key).map(|peer| peer.counters).unwrap_or_default()
    }

    /// Keeps a dispute.
    pub(crate) fn dispute(&self, dispute: &Dispute, proxy: &[u8; 32], model: &str) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut end = model.len().min(MAX_MODEL_BYTES);
        while !model.is_char_boundary(end) {
            end -= 1;
        }
        let record = DisputeRecord {
            at_unix_seconds: since_1970.as_secs(),
            request_id: dispute.request.to_string(),
            proxy: hex::encode(proxy),
            model: model[..end].to_owned(),
            reason: dispute.reason.name().to_owned(),
            expected: dispute.expected.classes().map(AdjustedTokens::get),
            claimed: dispute.claimed.classes().map(AdjustedTokens::get),
        };
        let mut inner = self.lock();
        if inner.disputes.len() >= MAX_DISPUTES {
            inner.disputes.pop_front();
        }
        inner.disputes.push_back(record);
        inner.disputes_changed = true;
    }

    /// The newest disputes, at most `limit`, newest first.
    pub(crate) fn disputes(&self, limit: usize) -> Vec<DisputeRecord> {
        self.lock().disputes.iter().rev().take(limit).cloned().collect()
    }

    /// Writes what has changed, and waits until it is durable. What could not be written counts as changed still.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let Some((queued, changed)) = self.queue_changes()? else { return Ok(()) };
        let outcome = queued.await;
        if outcome.is_err() {
            let mut inner = self.lock();
            inner.peers_changed |= changed.peers;
            inner.disputes_changed |= changed.disputes;
        }
        outcome
    }

    /// Under the lock, so that what is newer is also written later.
    fn queue_changes(&self) -> Result<Option<(Written, Changed)>, StoreError> {
        let mut inner = self.lock();
        let changed = Changed { peers: inner.peers_changed, disputes: inner.disputes_changed };
        let peers = changed.peers.then(|| {
            let records = inner.peers.iter().map(|(key, peer)| PeerRecord {
                proxy: hex::encode(key.proxy),
                contract: key.contract.to_raw_string(),
                counters: hex::encode(peer.counters.encode()),
                nanoton: peer.nanoton,
            });
            Change::Put(PEERS_KEY.to_owned(), to_json(&records.collect::<Vec<_>>()))
        });
        let disputes =
            changed.disputes.then(|| Change::Put(DISPUTES_KEY.to_owned(), to_json(&inner.disputes)));
        let changes: Vec<_> = peers.into_iter().chain(disputes).collect();
        if changes.is_empty() {
            return Ok(None);
        }
        let queued = self.store.write(changes)?;
        (inner.peers_changed, inner.disputes_changed) = (false, false);
        Ok(Some((queued, changed)))
    }

    /// What is remembered of the channels on chain. Waits for the disk.
    pub(crate) fn load_channels(&self) -> Result<Records, BookLoadError> {
        let Some(bytes) = self.store.get(CHANNELS_KEY)? else { return Ok(Records::default()) };
        Records::from_json(&bytes).map_err(|detail| BookLoadError::Content { key: CHANNELS_KEY, detail })
    }

    /// Writes that, and waits until it is durable.
    pub(crate) async fn store_channels(&self, records: &Records) -> Result<(), StoreError> {
        self.store.put(CHANNELS_KEY, records.to_json().into())?.await
    }

    /// Waits until nothing more can be written, and says why.
    pub(crate) async fn ended(&self) -> StoreError {
        cocoon_store::ended(&self.store).await
    }

    /// Writes what has changed, and stops writing. Waits for the disk, but not for room on it.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        let queued = self.queue_changes().map(drop);
        self.store.close().and(queued)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn to_json(value: &impl Serialize) -> Bytes {
    // Strings and numbers only: serialising them cannot fail.
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn load<T: serde::de::DeserializeOwned>(
    store: &SqliteStore,
    key: &'static str,
) -> Result<Vec<T>, BookLoadError> {
    let Some(bytes) = store.get(key)? else { return Ok(Vec::new()) };
    serde_json::from_slice(&bytes).map_err(|error| BookLoadError::Content { key, detail: error.to_string() })
}

fn read_peer(record: &PeerRecord) -> Option<(PeerKey, Peer)> {
    let proxy = hex::decode(&record.proxy).ok()?.try_into().ok()?;
    let (contract, _) = Address::parse(&record.contract).ok()?;
    let counters = PeerCounters::decode(&hex::decode(&record.counters).ok()?).ok()?;
    Some((PeerKey { proxy, contract }, Peer { counters, nanoton: record.nanoton }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cocoon_ledger::{Adjusted, DisputeReason, RequestId};

    use super::*;

    fn key() -> PeerKey {
        PeerKey { proxy: [7; 32], contract: Address::new(0, [9; 32]).unwrap() }
    }

    #[tokio::test]
    async fn counters_and_disputes_survive_a_restart_and_never_fall() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.sqlite");
        let book = Book::open(&path).unwrap();
        book.observe(key(), 100, 110, Some(90), PricePerToken(3)).unwrap();
        book.observe(key(), 150, 150, None, PricePerToken(2)).unwrap();
        let dispute = Dispute {
            request: RequestId([1; 32]),
            expected: Adjusted::ZERO,
            claimed: Adjusted::saturating([AdjustedTokens(5); 4]),
            reason: DisputeReason::UsageDiffers,
        };
        book.dispute(&dispute, &[7; 32], &"ж".repeat(300));
        book.flush().await.unwrap();
        drop(book);

        let book = Book::open(&path).unwrap();
        let expected = Spent { tokens: AdjustedTokens(150), nanoton: Nanoton(100 * 3 + 50 * 2) };
        assert_eq!(book.spent(), expected);
        assert_eq!(book.counters(&key()).signed(), 90);
        assert_eq!(book.disputes(10)[0].claimed, [5; 4]);
        assert!(matches!(
            book.observe(key(), 149, 150, None, PricePerToken(2)),
            Err(BookError::Counter(CounterError::WentBack { .. }))
        ));
        assert_eq!(book.spent(), expected);
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_not_taken_for_written() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(&dir.path().join("gateway.sqlite")).unwrap();
        book.close().unwrap();
        book.observe(key(), 100, 100, None, PricePerToken(1)).unwrap();
        for _ in 0..2 {
            book.flush().await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn a_published_proxy_may_forget_what_it_had_not_stored() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(&dir.path().join("gateway.sqlite")).unwrap();
        book.observe(key(), 100, 500, None, PricePerToken(1)).unwrap();
        book.begin_connection(key(), false);
        assert!(book.observe(key(), 100, 200, None, PricePerToken(1)).is_err());
        book.begin_connection(key(), true);
        book.observe(key(), 100, 200, None, PricePerToken(1)).unwrap();
    }
}
