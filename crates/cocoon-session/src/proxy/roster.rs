//! What workers showed of themselves, for clients: who is connected, what has changed, and the evidence of those that
//! left not long ago.
//!
//! Opaque here: what a certificate proves is for others to say. A worker is known by its fingerprint, the SHA-256 of
//! its certificate; one that comes back with another certificate is another worker.
//!
//! Every change of a worker's models has a number. Of each worker only the newest change is kept, so the list of
//! changes is never longer than the list of workers, and a client that has seen change N is told those after N.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::ext;
use sha2::{Digest as _, Sha256};

use super::ConnId;
use crate::{MAX_REQUEST_TIME, Time};

/// Longest certificate of a worker, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;
/// Longest verdict about a worker, in bytes.
pub const MAX_VERDICT_BYTES: usize = 64 * 1024;
/// Workers that clients are told of at a time. Clients that choose their workers do not meet further ones.
pub const MAX_LISTED_WORKERS: usize = 65_536;
/// Certificates and verdicts of all workers that clients are told of, in bytes; beyond it, as beyond
/// [`MAX_LISTED_WORKERS`].
pub const MAX_LISTED_BYTES: usize = 1 << 30;
/// Workers that are gone and whose evidence is still known.
pub const MAX_GONE_WORKERS: usize = 4096;
/// Certificates and verdicts of workers that are gone, in bytes.
pub const MAX_GONE_BYTES: usize = 64 << 20;
/// Models told of one worker; its further connections are not listed.
pub const MAX_MODELS_PER_WORKER: usize = 64;
/// So long before its certificate runs out a worker gets no new requests and is let go once it is idle: the longest that
/// a request may take.
pub const RENEW_BEFORE: Duration = MAX_REQUEST_TIME;
/// One answer to `cocoon.getWorkers` ends with the worker that reaches this many bytes.
const PAGE_BYTES: usize = 256 * 1024;

/// What a worker showed when it connected, and what the proxy made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    fingerprint: [u8; 32],
    certificate: Bytes,
    verdict: Bytes,
    valid_until: Option<Time>,
}

/// Evidence that is too large to be kept and passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} has {len} bytes, more than {limit}")]
pub struct EvidenceTooLarge {
    /// Which part.
    pub what: &'static str,
    /// Its length, in bytes.
    pub len: usize,
    /// The most, in bytes.
    pub limit: usize,
}

impl Attested {
    /// A worker's certificate in DER, exactly as shown in TLS, and the proxy's own verdict about it as JSON.
    ///
    /// # Errors
    /// One of them is larger than [`MAX_CERTIFICATE_BYTES`] or [`MAX_VERDICT_BYTES`].
    pub fn new(certificate: Bytes, verdict: Bytes) -> Result<Self, EvidenceTooLarge> {
        let check = |what, bytes: &Bytes, limit| match bytes.len() {
            len if len > limit => Err(EvidenceTooLarge { what, len, limit }),
            _ => Ok(()),
        };
        check("the certificate", &certificate, MAX_CERTIFICATE_BYTES)?;
        check("the verdict", &verdict, MAX_VERDICT_BYTES)?;
        let fingerprint = Sha256::digest(&certificate).into();
        Ok(Self { fingerprint, certificate, verdict, valid_until: None })
    }

    /// The certificate runs out then. The connection ends before, so that the worker comes back with a new one: nobody
    /// else who asks for its evidence would take the old one.
    #[must_use]
    pub fn until(self, end: Time) -> Self {
        Self { valid_until: Some(end), ..self }
    }

    /// When a connection that began at `since` is to end, requests under way excepted. A worker that came with a
    /// certificate which is about to run out has no other yet, so it may stay for a while.
    pub(super) fn renew_at(&self, since: Time) -> Option<Time> {
        let end = self.valid_until?;
        let before = u64::try_from(RENEW_BEFORE.as_micros()).unwrap_or(u64::MAX);
        Some(Time(end.0.saturating_sub(before)).max(since.plus(RENEW_BEFORE)))
    }

    /// SHA-256 of the certificate.
    #[must_use]
    pub const fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    fn bytes(&self) -> usize {
        self.certificate.len() + self.verdict.len()
    }
}

#[derive(Debug)]
struct Entry {
    attested: Attested,
    /// What each of its connections serves, in full. Empty: it is gone.
    connections: BTreeMap<ConnId, String>,
    /// The number of its newest change.
    changed: i64,
}

impl Entry {
    fn models(&self) -> Vec<ByteStr> {
        let mut models: Vec<&String> = self.connections.values().collect();
        models.sort();
        models.dedup();
        models.into_iter().map(|model| ByteStr::from(model.as_str())).collect()
    }
}

/// Certificates and verdicts that are kept: how many, and how large together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Held {
    workers: usize,
    bytes: usize,
}

impl Held {
    fn add(&mut self, bytes: usize) {
        self.workers += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.workers -= 1;
        self.bytes -= bytes;
    }
}

#[derive(Debug, Default)]
pub(super) struct Roster {
    workers: BTreeMap<[u8; 32], Entry>,
    /// Each worker once, by its newest change.
    changes: BTreeMap<i64, [u8; 32]>,
    newest: i64,
    /// Those that are gone, by the change with which they went.
    gone: BTreeMap<i64, [u8; 32]>,
    /// The newest departure that is no longer known.
    forgotten: i64,
    listed: Held,
    held_of_gone: Held,
}

impl Roster {
    /// A worker's connection is ready to work.
    pub(super) fn join(&mut self, conn: ConnId, attested: &Attested, model: &str) {
        let fingerprint = attested.fingerprint;
        let bytes = attested.bytes();
        let present = self.workers.get(&fingerprint).is_some_and(|entry| !entry.connections.is_empty());
        let room = self.listed.workers < MAX_LISTED_WORKERS && self.listed.bytes + bytes <= MAX_LISTED_BYTES;
        if !present && !room {
            return;
        }
        if !present && let Some(old) = self.workers.remove(&fingerprint) {
            self.gone.remove(&old.changed);
            self.changes.remove(&old.changed);
            self.held_of_gone.remove(old.attested.bytes());
        }
        let entry = self.workers.entry(fingerprint).or_insert_with(|| {
            self.listed.add(bytes);
            Entry { attested: attested.clone(), connections: BTreeMap::new(), changed: 0 }
        });
        if entry.connections.len() < MAX_MODELS_PER_WORKER {
            entry.connections.insert(conn, model.to_owned());
        }
        self.touch(fingerprint);
    }

    /// A worker's connection is gone, whether it was ever ready or not.
    pub(super) fn leave(&mut self, conn: ConnId, fingerprint: &[u8; 32]) {
        let Some(entry) = self.workers.get_mut(fingerprint) else { return };
        if entry.connections.remove(&conn).is_none() {
            return;
        }
        let (left, bytes) = (!entry.connections.is_empty(), entry.attested.bytes());
        self.touch(*fingerprint);
        if left {
            return;
        }
        self.listed.remove(bytes);
        self.held_of_gone.add(bytes);
        self.gone.insert(self.newest, *fingerprint);
        while (self.held_of_gone.workers > MAX_GONE_WORKERS || self.held_of_gone.bytes > MAX_GONE_BYTES)
            && let Some((change, fingerprint)) = self.gone.pop_first()
        {
            self.changes.remove(&change);
            self.forgotten = change;
            if let Some(entry) = self.workers.remove(&fingerprint) {
                self.held_of_gone.remove(entry.attested.bytes());
            }
        }
    }

    fn touch(&mut self, fingerprint: [u8; 32]) {
        let Some(entry) = self.workers.get_mut(&fingerprint) else { return };
        self.newest += 1;
        self.changes.remove(&entry.changed);
        self.changes.insert(self.newest, fingerprint);
        entry.changed = self.newest;
    }

    /// What changed since.
    pub(super) fn changes(&self, query: ext::GetWorkers) -> ext::Workers {
        let known = 0..=self.newest;
        // A departure that it has not seen may be forgotten by now.
        let reset = query.seen <= 0
            || query.begun < self.forgotten
            || !known.contains(&query.begun)
            || !known.contains(&query.seen);
        let after = if reset { 0 } else { query.seen };
        let mut page = ext::Workers { reset, seen: self.newest, newest: self.newest, workers: Vec::new() };
        let mut bytes = 0;
        for (&change, fingerprint) in self.changes.range(after.saturating_add(1)..) {
            if bytes >= PAGE_BYTES {
                break;
            }
            page.seen = change;
            let Some(entry) = self.workers.get(fingerprint) else { continue };
            let models = entry.models();
            // Who knows nothing yet need not hear who is gone.
            if models.is_empty() && after == 0 {
                continue;
            }
            bytes += 40 + models.iter().map(|model| model.as_bytes().len() + 4).sum::<usize>();
            page.workers.push(ext::Worker { fingerprint: *fingerprint, models });
        }
        if bytes < PAGE_BYTES {
            page.seen = self.newest;
        }
        page
    }

    /// What a worker showed.
    pub(super) fn evidence(&self, fingerprint: [u8; 32]) -> ext::Evidence {
        match self.workers.get(&fingerprint) {
            Some(Entry { attested, .. }) => ext::Evidence::Known {
                fingerprint,
                certificate: attested.certificate.clone(),
                verdict: attested.verdict.clone(),
            },
            None => ext::Evidence::Unknown { fingerprint },
        }
    }
}
