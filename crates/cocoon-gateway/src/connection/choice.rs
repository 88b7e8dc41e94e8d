//! Which of a proxy's workers may see requests, where workers must show evidence.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cocoon_session::{AllowError, Time};

use super::Connection;
use crate::attestation::Fingerprint;

/// How long a new connection waits at most until all its workers have been judged; then those count that have been.
const JUDGED_WITHIN: Duration = Duration::from_secs(10);
/// When evidence is asked for again that did not come, or that there was no room for.
const EVIDENCE_EVERY: Duration = Duration::from_secs(60);

/// How far the choice of this proxy's workers is, where they must show evidence.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Requests can be sent: the workers that were there at first have been judged.
    pub(super) made: AtomicBool,
    /// Whose evidence was asked for and has not come.
    awaited: Mutex<BTreeSet<Fingerprint>>,
    /// When to look for workers whose evidence is missing, in microseconds since 1970.
    next_look: Mutex<Time>,
    /// Until when the first judgements are waited for.
    waits_until: OnceLock<Time>,
}

impl Connection {
    /// Asks the proxy for what these workers showed. Nothing happens where it does not tell.
    pub(crate) fn want_evidence(&self, workers: &[Fingerprint]) {
        if workers.is_empty() {
            return;
        }
        let now = self.now();
        self.ask(|session| {
            for worker in workers {
                if session.want_evidence(*worker, now)? {
                    self.awaited().insert(*worker);
                }
            }
            Ok(())
        });
    }

    /// Whether this worker's evidence was asked for and may still come.
    pub(crate) fn awaits_evidence(&self, worker: &Fingerprint) -> bool {
        self.awaited().contains(worker)
    }

    /// Whether a worker of this proxy for this model may see requests soon: it has yet to show its evidence or to be judged by
    /// it, or the proxy has yet to hear what came of that.
    pub(crate) fn is_judging(&self, model: &str) -> bool {
        let vetting = &self.shared.vetting;
        let (allowed, now) = (Arc::clone(&vetting.allowed().borrow()), self.now());
        let unasked = *self.next_look() <= now;
        self.workers().iter().any(|(worker, models)| {
            models.iter().any(|full| full.split('@').next() == Some(model))
                && (allowed.contains(worker)
                    || match vetting.memory.knows(worker) {
                        true => !vetting.all_judged(std::iter::once(worker)),
                        false => unasked || self.awaits_evidence(worker),
                    })
        })
    }

    /// Asks the proxy now who is there, since it had nobody whom we allow.
    pub(crate) fn ask_for_workers(&self) {
        let now = self.now();
        self.ask(|session| session.refresh_workers(now));
    }

    pub(super) fn awaited(&self) -> MutexGuard<'_, BTreeSet<Fingerprint>> {
        self.choice.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the proxy which workers may see requests.
    pub(super) fn allow_workers(&self) -> Result<(), String> {
        if self.shared.vetting.demands().is_none() {
            return Ok(());
        }
        let (allowed, now) = (Arc::clone(&self.shared.vetting.allowed().borrow()), self.now());
        self.step(|session| match session.allow_workers(&allowed, now) {
            // It is told once it is ready.
            Ok(()) | Err(AllowError::NotReady) => Ok(()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Sees to it that all workers get judged, and takes requests once the first ones are.
    pub(super) fn look_at_workers(&self, now: Time) -> Result<(), String> {
        let known = self.workers.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(workers) = &known
            && *self.next_look() <= now
        {
            *self.next_look() = now.plus(EVIDENCE_EVERY);
            self.want_evidence(&self.shared.vetting.memory.unknown(workers.keys()));
        }
        if self.choice.made.load(Ordering::Relaxed) {
            return Ok(());
        }
        let waits_until = *self.choice.waits_until.get_or_init(|| now.plus(JUDGED_WITHIN));
        let judged = known.is_some_and(|workers| {
            !workers.keys().any(|worker| self.awaits_evidence(worker))
                && self.shared.vetting.all_judged(workers.keys())
        });
        if judged || now >= waits_until {
            self.allow_workers()?;
            self.step(|session| session.refresh_models(now).map_err(|violation| violation.to_string()))?;
            self.choice.made.store(true, Ordering::Relaxed);
            self.shared.pool.changed();
        }
        Ok(())
    }

    pub(super) fn next_look(&self) -> MutexGuard<'_, Time> {
        self.choice.next_look.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
