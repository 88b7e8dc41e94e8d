//! Which workers may see requests now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cocoon_attest::{PolicyError, UnixSeconds};
use cocoon_session::WorkerEvidence;
use cocoon_ton::RootConfig;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Fingerprint;
use super::demands::{Judgement, WorkerDemands, judge};
use super::memory::Memory;
use crate::Shared;

/// Workers that are judged at a time.
const AT_A_TIME: usize = 8;
/// How often it is looked at which judgements have run out.
const TICK: Duration = Duration::from_millis(500);

/// The workers that may see requests.
pub(crate) type Allowed = Arc<BTreeSet<Fingerprint>>;

#[derive(Debug, Default)]
struct Docket {
    /// Who is to be judged, and when.
    due: BTreeSet<(UnixSeconds, Fingerprint)>,
    due_at: BTreeMap<Fingerprint, UnixSeconds>,
    /// Who may see requests, until when.
    allowed: BTreeMap<Fingerprint, UnixSeconds>,
}

impl Docket {
    fn set_due(&mut self, worker: Fingerprint, at: Option<UnixSeconds>) {
        if let Some(before) = self.due_at.remove(&worker) {
            self.due.remove(&(before, worker));
        }
        if let Some(at) = at {
            self.due.insert((at, worker));
            self.due_at.insert(worker, at);
        }
    }

    fn take_due(&mut self, now: UnixSeconds) -> Option<Fingerprint> {
        let &(_, worker) = self.due.first().filter(|(at, _)| *at <= now)?;
        self.set_due(worker, None);
        Some(worker)
    }
}

/// What is known of nodes, and who of the workers is allowed.
#[derive(Debug)]
pub(crate) struct Vetting {
    pub(crate) memory: Memory,
    demands: Option<WorkerDemands>,
    /// How often the policy has changed.
    round: AtomicU64,
    docket: Mutex<Docket>,
    work: Notify,
    allowed: watch::Sender<Allowed>,
    /// Changes when evidence comes, is known not to come, or has been judged.
    news: watch::Sender<u64>,
}

impl Vetting {
    pub(crate) fn new(demands: Option<WorkerDemands>, root: &RootConfig) -> Result<Self, PolicyError> {
        demands.as_ref().map(|demands| demands.set_root(root)).transpose()?;
        Ok(Self {
            memory: Memory::default(),
            demands,
            round: AtomicU64::new(0),
            docket: Mutex::default(),
            work: Notify::new(),
            allowed: watch::Sender::default(),
            news: watch::Sender::new(0),
        })
    }

    /// What is demanded of workers, if anything.
    pub(crate) fn demands(&self) -> Option<&WorkerDemands> {
        self.demands.as_ref()
    }

    /// Who may see requests, now and as it changes.
    pub(crate) fn allowed(&self) -> watch::Receiver<Allowed> {
        self.allowed.subscribe()
    }

    /// Changes when evidence comes, is known not to come, or has been judged.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Takes in what a proxy passed on about a worker; `None` where it knows nothing. `listed`: the workers that are
    /// connected to any proxy.
    pub(crate) fn take(
        &self,
        fingerprint: Fingerprint,
        evidence: Option<WorkerEvidence>,
        told_by: &str,
        listed: impl FnOnce() -> BTreeSet<Fingerprint>,
    ) {
        if let Some(evidence) = evidence {
            let new = !self.memory.knows(&fingerprint);
            if !self.memory.note_worker(fingerprint, evidence, told_by, listed) {
                tracing::warn!(proxy = told_by, "there is no room for the evidence of more workers");
            } else if new && let Some(demands) = &self.demands {
                self.docket().set_due(fingerprint, Some(demands.judge.now()));
                self.work.notify_one();
            }
        }
        self.news.send_modify(|news| *news += 1);
    }

    /// Whether each of these workers has been judged, as far as their evidence is known.
    pub(crate) fn all_judged<'a>(&self, workers: impl Iterator<Item = &'a Fingerprint>) -> bool {
        // A judgement and what follows from it come together.
        let _docket = self.docket();
        self.memory.all_judged(workers)
    }

    fn docket(&self) -> MutexGuard<'_, Docket> {
        self.docket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something else is demanded: who has not what it takes goes at once, and all are judged anew.
    fn policy_changed(&self, demands: &WorkerDemands) {
        self.round.fetch_add(1, Ordering::Relaxed);
        let (policy, now) = (demands.judge.policy(), demands.judge.now());
        let mut docket = self.docket();
        for (worker, judgement) in self.memory.judgements() {
            if !judgement.is_some_and(|judgement| judgement.allows_under(&policy)) {
                docket.allowed.remove(&worker);
            }
            docket.set_due(worker, Some(now));
        }
        self.publish(&mut docket, now);
    }

    /// Begins to judge who is due; `None`: nobody is.
    fn next(&self, demands: &WorkerDemands) -> Option<impl Future<Output = Done> + Send + use<>> {
        loop {
            let mut docket = self.docket();
            let fingerprint = docket.take_due(demands.judge.now())?;
            let Some(certificate) = self.memory.certificate(&fingerprint) else {
                docket.allowed.remove(&fingerprint);
                continue;
            };
            let (round, demands) = (self.round.load(Ordering::Relaxed), demands.clone());
            return Some(async move {
                let judgement = judge(demands, certificate).await;
                Done { fingerprint, round, judgement }
            });
        }
    }

    fn finish(&self, demands: &WorkerDemands, done: Done) {
        let Done { fingerprint, round, judgement } = done;
        let now = demands.judge.now();
        let mut docket = self.docket();
        if round != self.round.load(Ordering::Relaxed) {
            docket.set_due(fingerprint, Some(now));
            return;
        }
        let before = self.memory.worker(&fingerprint).and_then(|worker| worker.judgement);
        let kept = self.memory.judged(&fingerprint, judgement, now);
        // What is demanded may have changed a moment ago, before anybody here heard of it.
        let policy = demands.judge.policy();
        docket.allowed.remove(&fingerprint);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.allows(now) && kept.allows_under(&policy)) {
            docket.allowed.insert(fingerprint, kept.expires_at);
        }
        docket.set_due(fingerprint, kept.as_ref().and_then(|kept| kept.again_at));
        self.publish(&mut docket, now);
        drop(docket);
        if let Some(kept) = kept
            && before.is_none_or(|before| before.refusal != kept.refusal)
        {
            let worker = hex::encode(fingerprint);
            match &kept.refusal {
                None => tracing::info!(worker, "a worker's evidence is accepted"),
                Some((rule, cause)) => {
                    tracing::info!(worker, rule, cause, "a worker's evidence is not accepted")
                }
            }
        }
        self.news.send_modify(|news| *news += 1);
    }

    /// Tells the connections who may see requests, where that has changed.
    fn publish(&self, docket: &mut Docket, now: UnixSeconds) {
        docket.allowed.retain(|_, until| now < *until);
        self.allowed.send_if_modified(|known| {
            let changed = !known.iter().eq(docket.allowed.keys());
            if changed {
                *known = Arc::new(docket.allowed.keys().copied().collect());
            }
            changed
        });
    }
}

struct Done {
    fingerprint: Fingerprint,
    /// How often the policy had changed when this began.
    round: u64,
    judgement: Judgement,
}

/// Judges workers, as long as the gateway runs. Nothing to do where nothing is demanded.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let vetting = &shared.vetting;
    let Some(demands) = vetting.demands.clone() else { return };
    let (mut root, mut policy) = (shared.root.clone(), demands.judge.changes());
    // It may have changed since the start.
    root.mark_changed();
    let mut chain_is_there = true;
    let mut running = JoinSet::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        while running.len() < AT_A_TIME
            && let Some(next) = vetting.next(&demands)
        {
            running.spawn(next);
        }
        vetting.publish(&mut vetting.docket(), demands.judge.now());
        tokio::select! {
            Some(done) = running.join_next() => match done {
                Ok(done) => vetting.finish(&demands, done),
                // It panicked: its worker stays as it was, and runs out.
                Err(error) => tracing::error!(%error, "judging a worker failed"),
            },
            () = vetting.work.notified() => {}
            _ = ticks.tick() => {}
            // The sender lives as long as `demands`.
            _ = policy.changed() => vetting.policy_changed(&demands),
            changed = root.changed(), if chain_is_there => match changed {
                Ok(()) => {
                    let config = Arc::clone(&root.borrow_and_update());
                    if let Err(error) = demands.set_root(&config) {
                        tracing::error!(%error, "the workers' image hashes cannot be enforced");
                    }
                }
                // The chain is gone; what it said last stands.
                Err(_) => chain_is_there = false,
            },
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use cocoon_attest::{Policy, VerifierSet};
    use cocoon_net::{Clock as _, Judge, NodeIdentity, NodeKey, SystemClock};
    use cocoon_ton::Address;
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[tokio::test]
    async fn what_was_judged_by_an_earlier_policy_allows_nobody() {
        let verifiers = Arc::new(VerifierSet::built_in());
        let judge = Judge::new(verifiers, Policy::fake_tdx(), None, Arc::new(SystemClock));
        let demands = WorkerDemands { judge, listed_images: false };
        let root = RootConfig::test_mode(Address::basechain([7; 32]));
        let vetting = Vetting::new(Some(demands.clone()), &root).unwrap();
        let machine = cocoon_tee::open("fake_tdx").unwrap();
        let worker = NodeIdentity::new(NodeKey::generate(), machine, SystemClock.now()).unwrap();
        let certificate = worker.certificate();
        let fingerprint = Sha256::digest(&certificate).into();
        let evidence = WorkerEvidence { certificate: certificate.into(), verdict: Default::default() };
        vetting.take(fingerprint, Some(evidence), "a proxy", BTreeSet::new);
        let judged = |vetting: &Vetting| vetting.next(&demands).unwrap();

        let done = judged(&vetting).await;
        vetting.finish(&demands, done);
        assert!(vetting.allowed().borrow().contains(&fingerprint));
        vetting.policy_changed(&demands);
        let done = judged(&vetting).await;
        demands.judge.set_policy(Policy::fake_tdx().with_image_hashes([]).unwrap());
        vetting.finish(&demands, done);
        assert!(!vetting.allowed().borrow().contains(&fingerprint));
    }
}
