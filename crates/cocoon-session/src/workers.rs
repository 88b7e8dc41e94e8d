//! What a client knows of its proxy's workers: who is connected, whose evidence it waits for, and whom it allows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::ext;
use sha2::{Digest as _, Sha256};

use crate::proxy::{MAX_CERTIFICATE_BYTES, MAX_LISTED_WORKERS, MAX_MODELS_PER_WORKER, MAX_VERDICT_BYTES};
use crate::{MAX_ALLOWED_WORKERS, MAX_REQUEST_TIME, Time, Violation};

/// Workers whose evidence is asked for at a time; further ones wait.
const MAX_EVIDENCE_IN_FLIGHT: usize = 8;
/// Fingerprints in one `cocoon.allowWorkers`.
const MAX_IN_ONE_PACKET: usize = 16_384;
/// Longest name of a model, in bytes.
const MAX_MODEL_NAME: usize = 512;
/// Names of all workers' models, in bytes: twice what the most workers with one model each can need.
const MAX_NAME_BYTES: usize = 2 * MAX_LISTED_WORKERS * MAX_MODEL_NAME;
/// Pages of the list that are asked for at once, one after the other; then it is the clock's turn.
const MAX_PAGES_IN_A_ROW: usize = 256;

/// The workers that are connected to a proxy: the models of each, in full, by its certificate's fingerprint.
pub type WorkerList = BTreeMap<[u8; 32], Arc<[String]>>;

/// What a worker showed of itself, as its proxy passes it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerEvidence {
    /// Its certificate in DER; the fingerprint has been checked, nothing else.
    pub certificate: Bytes,
    /// The proxy's verdict, JSON by its word; unread.
    pub verdict: Bytes,
}

/// Why workers were not allowed; nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AllowError {
    /// The session was not set up to choose its workers.
    #[error("this client has not offered to choose its workers")]
    NotRestricting,
    /// Requests cannot be sent yet, either.
    #[error("the connection to the proxy is not ready")]
    NotReady,
    /// More than [`MAX_ALLOWED_WORKERS`].
    #[error("{0} workers are more than can be allowed at a time")]
    TooMany(usize),
}

/// What a part of the list came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Ask for more now.
    More,
    /// The list is complete, or goes on later.
    Rest,
}

#[derive(Debug, Default)]
pub(crate) struct Workers {
    list: Arc<WorkerList>,
    name_bytes: usize,
    begun: i64,
    seen: i64,
    newest: i64,
    pages_in_a_row: usize,
    complete: bool,
    /// Something is new since the list was handed out.
    changed: bool,
    wanted: VecDeque<[u8; 32]>,
    /// Those in `wanted`, and those asked for.
    pending: BTreeSet<[u8; 32]>,
    in_flight: BTreeSet<[u8; 32]>,
    allowed: BTreeSet<[u8; 32]>,
    /// No longer allowed; requests that they had already may still be answered. Oldest first.
    past: VecDeque<(Time, [u8; 32])>,
}

impl Workers {
    pub(crate) fn begin_walk(&mut self) -> ext::GetWorkers {
        self.pages_in_a_row = 0;
        self.query()
    }

    pub(crate) fn query(&self) -> ext::GetWorkers {
        ext::GetWorkers { begun: self.begun, seen: self.seen }
    }

    /// Takes in a part of the list.
    pub(crate) fn take(&mut self, page: ext::Workers) -> Result<Progress, Violation> {
        let (seen, newest) = if page.reset { (0, 0) } else { (self.seen, self.newest) };
        let more = page.seen < page.newest;
        let goes_on = page.seen > seen || (page.seen == seen && !more && page.workers.is_empty());
        if !goes_on || page.newest < newest || page.newest < page.seen {
            return Err(Violation::Unexpected("list of workers that goes back"));
        }
        if page.reset {
            self.changed |= !self.list.is_empty();
            (self.list, self.name_bytes) = Default::default();
            self.begun = page.newest;
        }
        self.changed |= !page.workers.is_empty();
        if !page.workers.is_empty() {
            let list = Arc::make_mut(&mut self.list);
            for worker in page.workers {
                let models = names(&worker.models)?;
                self.name_bytes += models.iter().map(String::len).sum::<usize>();
                let old = match models.is_empty() {
                    true => list.remove(&worker.fingerprint),
                    false => list.insert(worker.fingerprint, models),
                };
                self.name_bytes -=
                    old.iter().flat_map(|models| models.iter()).map(String::len).sum::<usize>();
            }
            if list.len() > MAX_LISTED_WORKERS || self.name_bytes > MAX_NAME_BYTES {
                return Err(Violation::Unexpected("list of workers over the limit"));
            }
        }
        (self.seen, self.newest) = (page.seen, page.newest);
        self.pages_in_a_row += 1;
        if more {
            return Ok(if self.pages_in_a_row < MAX_PAGES_IN_A_ROW {
                Progress::More
            } else {
                Progress::Rest
            });
        }
        self.begun = page.newest;
        self.changed |= !std::mem::replace(&mut self.complete, true);
        Ok(Progress::Rest)
    }

    /// The list, where it is complete and has changed since it was taken last.
    pub(crate) fn take_changed(&mut self) -> Option<Arc<WorkerList>> {
        let whole = self.complete && self.seen == self.newest;
        (whole && std::mem::take(&mut self.changed)).then(|| Arc::clone(&self.list))
    }

    /// Notes that evidence is wanted. `false` where so much is waited for that this has to be said again later.
    pub(crate) fn want(&mut self, fingerprint: [u8; 32]) -> bool {
        if self.pending.contains(&fingerprint) {
            return true;
        }
        if self.pending.len() >= MAX_LISTED_WORKERS {
            return false;
        }
        self.pending.insert(fingerprint);
        self.wanted.push_back(fingerprint);
        true
    }

    /// Whose evidence to ask for now.
    pub(crate) fn next_wanted(&mut self) -> Option<[u8; 32]> {
        if self.in_flight.len() >= MAX_EVIDENCE_IN_FLIGHT {
            return None;
        }
        let fingerprint = self.wanted.pop_front()?;
        self.in_flight.insert(fingerprint);
        Some(fingerprint)
    }

    /// Takes in evidence; `None` where the proxy has none.
    pub(crate) fn take_evidence(
        &mut self,
        answer: ext::Evidence,
    ) -> Result<([u8; 32], Option<WorkerEvidence>), Violation> {
        let (fingerprint, evidence) = match answer {
            ext::Evidence::Unknown { fingerprint } => (fingerprint, None),
            ext::Evidence::Known { fingerprint, certificate, verdict } => {
                if certificate.len() > MAX_CERTIFICATE_BYTES || verdict.len() > MAX_VERDICT_BYTES {
                    return Err(Violation::Unexpected("evidence over the limit"));
                }
                if fingerprint != <[u8; 32]>::from(Sha256::digest(&certificate)) {
                    return Err(Violation::Mismatch(
                        "the proxy passed on a worker's certificate that has another fingerprint".into(),
                    ));
                }
                // Copies, because these outlive the frame that they came in.
                let copy = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
                let (certificate, verdict) = (copy(certificate), copy(verdict));
                (fingerprint, Some(WorkerEvidence { certificate, verdict }))
            }
        };
        if !self.in_flight.remove(&fingerprint) {
            return Err(Violation::Unexpected("evidence that was not asked for"));
        }
        self.pending.remove(&fingerprint);
        Ok((fingerprint, evidence))
    }

    /// What to send so that exactly the `wanted` are allowed; `busy`: requests are under way.
    pub(crate) fn allow(
        &mut self,
        wanted: &BTreeSet<[u8; 32]>,
        busy: bool,
        now: Time,
    ) -> Result<Vec<ext::AllowWorkers>, AllowError> {
        if wanted.len() > MAX_ALLOWED_WORKERS {
            return Err(AllowError::TooMany(wanted.len()));
        }
        let disallow: Vec<_> = self.allowed.difference(wanted).copied().collect();
        let allow: Vec<_> = wanted.difference(&self.allowed).copied().collect();
        if busy {
            self.past.extend(disallow.iter().map(|&fingerprint| (now, fingerprint)));
        } else {
            self.past.clear();
        }
        while self.past.len() > MAX_ALLOWED_WORKERS
            || self.past.front().is_some_and(|(since, _)| now.since(*since) > MAX_REQUEST_TIME)
        {
            self.past.pop_front();
        }
        self.allowed.clone_from(wanted);
        // What goes goes first, so that the proxy never counts more than there may be.
        let packet = |allow: &[_], disallow: &[_]| ext::AllowWorkers {
            allow: allow.to_vec(),
            disallow: disallow.to_vec(),
        };
        let going = disallow.chunks(MAX_IN_ONE_PACKET).map(|some| packet(&[], some));
        Ok(going.chain(allow.chunks(MAX_IN_ONE_PACKET).map(|some| packet(some, &[]))).collect())
    }

    /// Whether a request of ours may be with this worker: it is allowed, or was when the request was given to it.
    pub(crate) fn may_have(&self, worker: &[u8; 32]) -> bool {
        self.allowed.contains(worker) || self.past.iter().any(|(_, past)| past == worker)
    }
}

fn names(models: &[ByteStr]) -> Result<Arc<[String]>, Violation> {
    let fits = |name: &&ByteStr| !name.as_bytes().is_empty() && name.as_bytes().len() <= MAX_MODEL_NAME;
    if models.len() > MAX_MODELS_PER_WORKER || !models.iter().all(|name| fits(&name)) {
        return Err(Violation::Unexpected("models of a worker"));
    }
    Ok(models.iter().map(|name| name.to_lossy().into_owned()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn page(reset: bool, seen: i64, newest: i64, workers: &[(u8, &[&'static str])]) -> ext::Workers {
        let workers = workers.iter().map(|&(id, models)| ext::Worker {
            fingerprint: [id; 32],
            models: models.iter().map(|model| ByteStr::from_static(model)).collect(),
        });
        ext::Workers { reset, seen, newest, workers: workers.collect() }
    }

    #[test]
    fn a_list_in_parts_is_handed_out_once_it_is_whole() {
        let mut workers = Workers::default();
        assert_eq!(workers.take(page(true, 3, 5, &[(1, &["a"])])), Ok(Progress::More));
        assert_eq!(workers.take_changed(), None);
        assert_eq!(workers.query(), ext::GetWorkers { begun: 5, seen: 3 });
        assert_eq!(workers.take(page(false, 6, 6, &[(2, &["a", "b"])])), Ok(Progress::Rest));
        assert_eq!(workers.take_changed().unwrap().len(), 2);
        assert_eq!(workers.query(), ext::GetWorkers { begun: 6, seen: 6 });
        assert_eq!(workers.take(page(false, 6, 6, &[])), Ok(Progress::Rest));
        assert_eq!(workers.take_changed(), None, "nothing is new");
        workers.take(page(false, 7, 7, &[(1, &[])])).unwrap();
        assert_eq!(workers.take_changed().unwrap().keys().next(), Some(&[2; 32]));
    }

    #[test]
    fn an_empty_list_is_handed_out_once() {
        let mut workers = Workers::default();
        for expected in [Some(0), None, None] {
            workers.take(page(true, 0, 0, &[])).unwrap();
            assert_eq!(workers.take_changed().map(|list| list.len()), expected);
        }
    }

    #[test]
    fn a_list_that_goes_back_or_nowhere_is_a_violation() {
        let known = || {
            let mut workers = Workers::default();
            workers.take(page(true, 5, 5, &[(1, &["a"])])).unwrap();
            workers
        };
        for bad in [
            page(false, 4, 5, &[]),
            page(false, 5, 4, &[]),
            page(false, 5, 6, &[]),
            page(false, 5, 5, &[(1, &["b"])]),
            page(true, 0, 9, &[]),
            page(true, 9, 8, &[]),
            page(true, i64::MIN, i64::MAX, &[]),
            page(true, -1, -1, &[]),
        ] {
            assert!(known().take(bad.clone()).is_err(), "{bad:?} passes");
        }
    }

    #[test]
    fn a_list_over_its_limits_is_a_violation() {
        let name: &'static str = Box::leak("x".repeat(MAX_MODEL_NAME + 1).into_boxed_str());
        let many = vec!["a"; MAX_MODELS_PER_WORKER + 1];
        for models in [&[""][..], &[name], &many] {
            assert!(Workers::default().take(page(true, 1, 1, &[(1, models)])).is_err(), "{models:?} pass");
        }
        let mut workers = Workers::default();
        let mut take = |from: u32, count: u32| {
            let items = (from..from + count).map(|number| {
                let mut fingerprint = [0; 32];
                fingerprint[..4].copy_from_slice(&number.to_le_bytes());
                ext::Worker { fingerprint, models: vec![ByteStr::from_static("a")] }
            });
            let seen = i64::from(from + count);
            workers.take(ext::Workers { reset: from == 0, seen, newest: seen, workers: items.collect() })
        };
        let limit = u32::try_from(MAX_LISTED_WORKERS).unwrap();
        assert!(take(0, limit).is_ok());
        assert!(take(limit, 1).is_err(), "one more than the limit passes");
    }

    #[test]
    fn evidence_is_asked_for_a_few_at_a_time_and_each_once() {
        let mut workers = Workers::default();
        for id in 0..20 {
            assert!(workers.want([id; 32]) && workers.want([id; 32]));
        }
        let asked: Vec<_> = std::iter::from_fn(|| workers.next_wanted()).collect();
        assert_eq!(asked.len(), MAX_EVIDENCE_IN_FLIGHT);
        let unknown = ext::Evidence::Unknown { fingerprint: asked[0] };
        assert_eq!(workers.take_evidence(unknown.clone()), Ok((asked[0], None)));
        assert!(workers.next_wanted().is_some() && workers.next_wanted().is_none());
        assert!(workers.take_evidence(unknown).is_err(), "a second answer passes");
    }

    #[test]
    fn only_changes_are_sent_and_who_was_allowed_may_still_answer() {
        let mut workers = Workers::default();
        let set = |ids: &[u8]| ids.iter().map(|&id| [id; 32]).collect::<BTreeSet<_>>();
        let (now, later) = (Time(1_000_000), Time(1_000_000).plus(MAX_REQUEST_TIME).plus(MAX_REQUEST_TIME));
        let sent = workers.allow(&set(&[1, 2]), true, now).unwrap();
        assert_eq!(sent, [ext::AllowWorkers { allow: vec![[1; 32], [2; 32]], disallow: vec![] }]);
        let sent = workers.allow(&set(&[2, 3]), true, now).unwrap();
        assert_eq!(
            sent,
            [
                ext::AllowWorkers { allow: vec![], disallow: vec![[1; 32]] },
                ext::AllowWorkers { allow: vec![[3; 32]], disallow: vec![] },
            ]
        );
        assert_eq!(workers.allow(&set(&[2, 3]), true, now), Ok(vec![]));
        assert!(workers.may_have(&[1; 32]) && workers.may_have(&[3; 32]) && !workers.may_have(&[4; 32]));
        workers.allow(&set(&[2, 3]), true, later).unwrap();
        assert!(!workers.may_have(&[1; 32]), "no request is that old");
        workers.allow(&set(&[]), false, later).unwrap();
        assert!(!workers.may_have(&[2; 32]), "no request is under way");
        let many = (0..=u32::try_from(MAX_ALLOWED_WORKERS).unwrap()).map(|number| {
            let mut fingerprint = [0; 32];
            fingerprint[..4].copy_from_slice(&number.to_le_bytes());
            fingerprint
        });
        let many: BTreeSet<_> = many.collect();
        assert_eq!(workers.allow(&many, false, now), Err(AllowError::TooMany(many.len())));
    }
}
