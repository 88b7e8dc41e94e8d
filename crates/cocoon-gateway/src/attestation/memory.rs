//! The certificates of proxies and workers, and what was found about them: of those that are connected, and of those that
//! answered not long ago.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cocoon_attest::{EvidenceKind, PeerCertificate, UnixSeconds, Verdict};
use cocoon_net::PeerIdentity;
use cocoon_session::WorkerEvidence;

use super::Fingerprint;
use super::demands::Judgement;

/// Workers that are remembered; as many as may be allowed at a time.
pub(super) const MAX_WORKERS: usize = cocoon_session::MAX_ALLOWED_WORKERS;
/// Certificates and verdicts of all workers that are remembered, in bytes.
pub(super) const MAX_WORKER_BYTES: usize = 512 << 20;
/// Proxies that are remembered: four certificates of each that may be dialled.
const MAX_PROXIES: usize = 1024;
/// So long room is not looked for again where there was none: it takes a look at all workers.
const CROWDED: Duration = Duration::from_secs(10);

/// A proxy, as it showed itself when it was connected to.
#[derive(Debug, Clone)]
pub(crate) struct SeenProxy {
    pub(crate) address: String,
    pub(crate) identity: Arc<PeerIdentity>,
    touched: u64,
}

/// A worker, as its proxy passed on what it showed.
#[derive(Debug, Clone)]
pub(crate) struct SeenWorker {
    pub(crate) certificate: Bytes,
    /// What the proxy says it found, as it came: read, it may take a hundred times as much memory.
    proxy_verdict: Bytes,
    /// The same, as far as it is understood.
    understood: Option<Verdict>,
    /// The kind of evidence in the certificate, verified or not.
    pub(crate) shown: EvidenceKind,
    /// The address of the proxy that told of it first.
    pub(crate) told_by: String,
    /// What we found; `None` where nothing is demanded, or it was not judged yet.
    pub(crate) judgement: Option<Arc<Judgement>>,
    bytes: usize,
    touched: u64,
}

/// A worker's attestation in few words, for answers.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Kind of the evidence that was verified, or `none`.
    pub(crate) kind: &'static str,
    /// Who verified it: `gateway`, or `proxy` by its own word.
    pub(crate) by: &'static str,
    /// Nothing was verified about hardware.
    pub(crate) insecure: bool,
    pub(crate) image_hash: Option<[u8; 32]>,
}

impl SeenWorker {
    fn new(evidence: WorkerEvidence, told_by: &str, touched: u64) -> Self {
        let parsed = PeerCertificate::parse(&evidence.certificate);
        let shown = parsed.map_or(EvidenceKind::Unrecognised, |certificate| certificate.evidence().kind());
        let understood = serde_json::from_slice(&evidence.verdict).ok();
        let bytes = evidence.certificate.len() + 5 * evidence.verdict.len() + told_by.len();
        Self {
            certificate: evidence.certificate,
            proxy_verdict: evidence.verdict,
            understood,
            shown,
            told_by: told_by.to_owned(),
            judgement: None,
            bytes,
            touched,
        }
    }

    /// What the proxy says it found, where that can be read.
    pub(crate) fn proxy_verdict(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.proxy_verdict).ok()
    }

    /// The verdict that counts, and who made it.
    fn verdict(&self) -> Option<(&Verdict, &'static str)> {
        let ours = self.judgement.as_ref().and_then(|judgement| judgement.verdict.as_ref());
        ours.map(|verdict| (verdict, "gateway"))
            .or_else(|| self.understood.as_ref().map(|verdict| (verdict, "proxy")))
    }

    /// In few words; `None` where no verdict is known.
    pub(crate) fn seen(&self) -> Option<Seen> {
        let (verdict, by) = self.verdict()?;
        let accepted = verdict.accepted();
        Some(Seen {
            kind: if accepted { verdict.kind.name() } else { EvidenceKind::None.name() },
            by,
            insecure: !accepted || verdict.simulated,
            image_hash: verdict.image_hash.filter(|_| accepted),
        })
    }
}

#[derive(Debug, Default)]
struct Nodes {
    proxies: BTreeMap<Fingerprint, SeenProxy>,
    workers: BTreeMap<Fingerprint, SeenWorker>,
    /// Of all workers.
    bytes: usize,
    /// Rises with each use.
    uses: u64,
    /// When room was looked for in vain.
    crowded: Option<Instant>,
}

/// What is known of nodes, within bounds.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Nodes>);

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Nodes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes who a proxy is that was connected to.
    pub(crate) fn note_proxy(&self, address: &str, identity: Arc<PeerIdentity>) {
        let mut nodes = self.lock();
        let touched = nodes.next_use();
        let fingerprint = identity.certificate_fingerprint;
        nodes.proxies.insert(fingerprint, SeenProxy { address: address.to_owned(), identity, touched });
        if nodes.proxies.len() > MAX_PROXIES {
            let oldest = nodes.proxies.iter().min_by_key(|(_, proxy)| proxy.touched).map(|(&key, _)| key);
            nodes.proxies.remove(&oldest.unwrap_or_default());
        }
    }

    /// Notes that a node has answered, so that it is remembered longer. `false`: nothing is known of the worker.
    pub(crate) fn note_answer(&self, proxy: &Fingerprint, worker: Option<&Fingerprint>) -> bool {
        let mut nodes = self.lock();
        let touched = nodes.next_use();
        if let Some(proxy) = nodes.proxies.get_mut(proxy) {
            proxy.touched = touched;
        }
        worker.is_none_or(|worker| match nodes.workers.get_mut(worker) {
            Some(worker) => {
                worker.touched = touched;
                true
            }
            None => false,
        })
    }

    /// Remembers what a worker showed. Where there is no room, workers go that are not `listed` anywhere, those first
    /// that were of use longest ago. `false`: there is no room even so.
    pub(super) fn note_worker(
        &self,
        fingerprint: Fingerprint,
        evidence: WorkerEvidence,
        told_by: &str,
        listed: impl FnOnce() -> BTreeSet<Fingerprint>,
    ) -> bool {
        let mut nodes = self.lock();
        let touched = nodes.next_use();
        if nodes.workers.contains_key(&fingerprint) {
            return true;
        }
        let worker = SeenWorker::new(evidence, told_by, touched);
        if nodes.is_full(worker.bytes) {
            if nodes.crowded.is_some_and(|since| since.elapsed() < CROWDED) {
                return false;
            }
            nodes.make_room(&listed());
            if nodes.is_full(worker.bytes) {
                nodes.crowded = Some(Instant::now());
                return false;
            }
        }
        nodes.bytes += worker.bytes;
        nodes.workers.insert(fingerprint, worker);
        true
    }

    /// Whether evidence of this worker is known.
    pub(crate) fn knows(&self, worker: &Fingerprint) -> bool {
        self.lock().workers.contains_key(worker)
    }

    /// Those of these workers of which nothing is known.
    pub(crate) fn unknown<'a>(&self, workers: impl Iterator<Item = &'a Fingerprint>) -> Vec<Fingerprint> {
        let nodes = self.lock();
        workers.filter(|worker| !nodes.workers.contains_key(*worker)).copied().collect()
    }

    /// Whether each of these workers has been judged, or nothing is known of it.
    pub(super) fn all_judged<'a>(&self, mut workers: impl Iterator<Item = &'a Fingerprint>) -> bool {
        let nodes = self.lock();
        workers.all(|worker| nodes.workers.get(worker).is_none_or(|worker| worker.judgement.is_some()))
    }

    pub(crate) fn proxy(&self, fingerprint: &Fingerprint) -> Option<SeenProxy> {
        self.lock().proxies.get(fingerprint).cloned()
    }

    pub(crate) fn worker(&self, fingerprint: &Fingerprint) -> Option<SeenWorker> {
        self.lock().workers.get(fingerprint).cloned()
    }

    /// A worker's attestation in few words.
    pub(crate) fn seen(&self, worker: &Fingerprint) -> Option<Seen> {
        self.lock().workers.get(worker)?.seen()
    }

    pub(super) fn certificate(&self, worker: &Fingerprint) -> Option<Bytes> {
        self.lock().workers.get(worker).map(|worker| worker.certificate.clone())
    }

    /// Keeps a judgement. One that found nothing out leaves an earlier one in force until that runs out. `None`: the
    /// worker was forgotten meanwhile.
    pub(super) fn judged(
        &self,
        worker: &Fingerprint,
        judgement: Judgement,
        now: UnixSeconds,
    ) -> Option<Arc<Judgement>> {
        let mut nodes = self.lock();
        let worker = nodes.workers.get_mut(worker)?;
        let kept = match &worker.judgement {
            Some(earlier) if judgement.open && earlier.allows(now) => {
                Arc::new(Judgement { again_at: judgement.again_at, ..earlier.as_ref().clone() })
            }
            _ => Arc::new(judgement),
        };
        worker.judgement = Some(Arc::clone(&kept));
        Some(kept)
    }

    /// All workers, and what was found about each.
    pub(super) fn judgements(&self) -> Vec<(Fingerprint, Option<Arc<Judgement>>)> {
        self.lock().workers.iter().map(|(&name, worker)| (name, worker.judgement.clone())).collect()
    }
}

impl Nodes {
    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    fn is_full(&self, more: usize) -> bool {
        self.workers.len() >= MAX_WORKERS || self.bytes + more > MAX_WORKER_BYTES
    }

    /// Forgets an eighth of the workers, if so many are not listed.
    fn make_room(&mut self, listed: &BTreeSet<Fingerprint>) {
        let unlisted = self.workers.iter().filter(|(fingerprint, _)| !listed.contains(*fingerprint));
        let mut by_use: Vec<_> =
            unlisted.map(|(&fingerprint, worker)| (worker.touched, fingerprint)).collect();
        by_use.sort_unstable();
        let goes = self.workers.len().div_ceil(8);
        for (_, fingerprint) in by_use.into_iter().take(goes) {
            if let Some(worker) = self.workers.remove(&fingerprint) {
                self.bytes -= worker.bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(bytes: usize) -> WorkerEvidence {
        WorkerEvidence { certificate: vec![0; bytes].into(), verdict: Bytes::from_static(b"{}") }
    }

    fn name(number: usize) -> Fingerprint {
        let mut name = [0; 32];
        name[..8].copy_from_slice(&number.to_le_bytes());
        name
    }

    #[test]
    fn those_go_first_that_are_not_connected_and_were_of_no_use_for_longest() {
        let memory = Memory::default();
        let mut number = 0;
        while !memory.lock().is_full(64 * 1024 + 8) {
            assert!(memory.note_worker(name(number), evidence(64 * 1024), "", BTreeSet::new));
            number += 1;
        }
        assert!(memory.note_answer(&[0; 32], Some(&name(0))));
        let listed = || BTreeSet::from([name(1)]);
        assert!(memory.note_worker(name(number), evidence(64 * 1024), "", listed));
        let known: Vec<_> = (0..4).map(|number| memory.knows(&name(number))).collect();
        assert_eq!(known, [true, true, false, false], "0 has answered, 1 is connected");
        let all: BTreeSet<_> = (0..2 * number).map(name).collect();
        let note = |more| memory.note_worker(name(more), evidence(64 * 1024), "", || all.clone());
        assert!((number + 1..2 * number).any(|more| !note(more)), "all are connected, so there is no room");
        assert!(memory.lock().bytes <= MAX_WORKER_BYTES);
    }

    #[test]
    fn what_a_proxy_calls_a_verdict_may_be_anything() {
        for verdict in ["", "{", "null", "[1]", "{\"kind\":\"tdx\"}", "\u{fffd}"] {
            let evidence = WorkerEvidence { certificate: Bytes::new(), verdict: Bytes::from(verdict) };
            assert!(SeenWorker::new(evidence, "", 0).seen().is_none(), "{verdict}");
        }
        let verdict =
            serde_json::to_vec(&Verdict::unchecked(EvidenceKind::Tdx, "for a test")).unwrap_or_default();
        let evidence = WorkerEvidence { certificate: Bytes::new(), verdict: verdict.into() };
        let seen = SeenWorker::new(evidence, "", 0).seen();
        assert!(seen.is_some_and(|seen| seen.insecure && seen.kind == "none" && seen.by == "proxy"));
    }
}
