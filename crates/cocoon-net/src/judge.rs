//! Judging peers: from a certificate, by way of evidence and collateral, to the policy's decision, now and for as long
//! as a connection is up.
//!
//! Evidence is verified once per certificate; the verdict is kept, so that the next handshake costs a look. It is
//! verified anew when its collateral runs out, and once an hour, so that what the vendor has published since counts
//! for connections that stay up. The decision is made anew whenever the policy changes.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cocoon_attest::{
    Collateral, CollateralSource, CollateralUnavailable, Evidence, Fetched, PeerCertificate, Policy,
    PolicyDecision, UnixSeconds, Verdict, Verifier, fetch_all,
};
use tokio::sync::watch;

use crate::{Clock, ConnectFailure};

/// How long a verdict is good for without another look, seconds. Collateral that is fetched early counts after this.
const LOOK_AGAIN_SECONDS: u64 = 60 * 60;
/// How often a connection looks at the clock at the least, and how soon it asks again for collateral that could not be had.
const CLOCK_CHECK: Duration = Duration::from_secs(60);
/// How long a look at a connection that is up may take; then it has found nothing out.
const JUDGED_WITHIN: Duration = Duration::from_secs(30);
/// Most verdicts kept; the oldest go first.
const MAX_VERDICTS: usize = 4096;

/// What is demanded of peers, and what it takes to see whether they fulfil it. Clones share everything.
#[derive(Clone)]
pub struct Judge {
    inner: Arc<Inner>,
}

struct Inner {
    verifier: Arc<dyn Verifier>,
    collateral: Option<Arc<dyn CollateralSource>>,
    clock: Arc<dyn Clock>,
    policy: watch::Sender<Arc<Policy>>,
    verdicts: Mutex<Verdicts>,
}

/// Verdicts that accept, by the fingerprint of the certificate.
#[derive(Default)]
struct Verdicts {
    by_certificate: HashMap<[u8; 32], Held>,
    /// Oldest first; a fingerprint stands here as long as it does above.
    order: VecDeque<[u8; 32]>,
}

#[derive(Clone)]
struct Held {
    verdict: Arc<Verdict>,
    verified_at: UnixSeconds,
}

impl Held {
    /// Whether there is no need to verify again.
    fn is_fresh(&self, now: UnixSeconds) -> bool {
        // A clock that went back proves nothing about what was verified.
        now >= self.verified_at && now < self.verified_at.plus(LOOK_AGAIN_SECONDS) && self.holds(now)
    }

    /// Whether what it rests on has not run out.
    fn holds(&self, now: UnixSeconds) -> bool {
        self.verdict.expires_at.is_none_or(|end| now <= end)
    }
}

/// Whether nothing may pass on a connection for now, because what was found about its peer has run out and nothing new is
/// known yet. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pause(Arc<AtomicBool>);

impl Pause {
    pub(crate) fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }
}

impl Judge {
    /// Enforces `policy` with `verifier`. Without a source of collateral, evidence that needs any is refused.
    #[must_use]
    pub fn new(
        verifier: Arc<dyn Verifier>,
        policy: Policy,
        collateral: Option<Arc<dyn CollateralSource>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let policy = watch::Sender::new(Arc::new(policy));
        Self { inner: Arc::new(Inner { verifier, collateral, clock, policy, verdicts: Mutex::default() }) }
    }

    /// What is demanded now.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.inner.policy.borrow())
    }

    /// Replaces what is demanded. Peers that are no longer let in lose their connections at once.
    pub fn set_policy(&self, policy: Policy) {
        self.inner.policy.send_replace(Arc::new(policy));
    }

    /// Has every connection look again whether its peer is still let in, as after a change of the clock.
    pub fn look_again(&self) {
        self.inner.policy.send_modify(|_| ());
    }

    /// When what is demanded changes, or is to be looked at again.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Policy>> {
        self.inner.policy.subscribe()
    }

    /// The time by which certificates and verdicts are judged.
    #[must_use]
    pub fn now(&self) -> UnixSeconds {
        self.inner.clock.now()
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.inner.clock)
    }

    /// Whether the peer with this certificate is let in, and what its evidence is worth. The certificate itself is
    /// taken to have passed [`PeerCertificate::check`].
    ///
    /// # Errors
    /// The rule that refuses it, or the collateral that is missing.
    pub async fn decide(&self, certificate: &PeerCertificate) -> Result<Arc<Verdict>, ConnectFailure> {
        let (policy, evidence) = (self.policy(), certificate.evidence());
        let verdict = if !policy.needs_evidence() {
            Arc::new(Verdict::unchecked(evidence.kind(), "the policy asks for no evidence"))
        } else if !policy.accepts_kind(evidence.kind()) {
            Arc::new(Verdict::unchecked(evidence.kind(), "the policy does not accept this kind"))
        } else {
            self.verdict(certificate).await?
        };
        match policy.decide(&verdict) {
            PolicyDecision::Allowed => Ok(verdict),
            PolicyDecision::Refused { rule, detail } => Err(ConnectFailure::Refused { rule, detail }),
        }
    }

    /// What the evidence in a certificate is worth, whatever the policy says of it: kept from before, or found out now.
    ///
    /// # Errors
    /// Collateral is missing, and no verdict from before still holds.
    pub async fn verdict(&self, certificate: &PeerCertificate) -> Result<Arc<Verdict>, ConnectFailure> {
        let now = self.now();
        let held = self.verdicts().by_certificate.get(certificate.fingerprint()).cloned();
        if let Some(held) = held.as_ref().filter(|held| held.is_fresh(now)) {
            return Ok(Arc::clone(&held.verdict));
        }
        let fallback = held.filter(|held| held.holds(now)).map(|held| held.verdict);
        let evidence = certificate.evidence();
        let verifier = self.inner.verifier.as_ref();
        let fetched = match &self.inner.collateral {
            Some(source) => fetch_all(verifier, source.as_ref(), evidence).await,
            None if verifier.collateral_needed(evidence).is_empty() => Ok(Fetched::default()),
            None => Err(no_source(evidence)),
        };
        let Fetched { collateral, requests } = match (fetched, fallback.clone()) {
            (Ok(fetched), _) => fetched,
            // What was found still holds; the next look may bring what is missing.
            (Err(_), Some(verdict)) => return Ok(verdict),
            (Err(missing), None) => return Err(ConnectFailure::Collateral(missing)),
        };
        let verdict = self.verify(certificate, collateral, now).await;
        if verdict.accepted_as_a_whole() {
            self.keep(certificate, &verdict, now);
        } else {
            if let Some(source) = &self.inner.collateral {
                source.refused(&requests);
            }
            match fallback {
                Some(verdict_before) if verdict.lacks_collateral() => return Ok(verdict_before),
                _ => self.forget(certificate.fingerprint()),
            }
        }
        Ok(verdict)
    }

    /// Milliseconds of arithmetic, so not among what must stay quick.
    async fn verify(
        &self,
        certificate: &PeerCertificate,
        collateral: Collateral,
        now: UnixSeconds,
    ) -> Arc<Verdict> {
        let (verifier, evidence) = (Arc::clone(&self.inner.verifier), certificate.evidence().clone());
        let (binding, kind) = (certificate.report_data(), evidence.kind());
        let verified = tokio::task::spawn_blocking(move || {
            let mut verdict = verifier.verify(&evidence, &collateral, &binding, now);
            if !verdict.accepted() {
                verdict.explain(&collateral);
            }
            verdict
        });
        // It fails only where the runtime ends, or a verifier is broken: either way nothing was verified.
        Arc::new(verified.await.unwrap_or_else(|_| Verdict::new(kind)))
    }

    fn keep(&self, certificate: &PeerCertificate, verdict: &Arc<Verdict>, now: UnixSeconds) {
        let mut verdicts = self.verdicts();
        let fingerprint = *certificate.fingerprint();
        let held = Held { verdict: Arc::clone(verdict), verified_at: now };
        if verdicts.by_certificate.insert(fingerprint, held).is_none() {
            verdicts.order.push_back(fingerprint);
        }
        while verdicts.order.len() > MAX_VERDICTS {
            if let Some(oldest) = verdicts.order.pop_front() {
                verdicts.by_certificate.remove(&oldest);
            }
        }
    }

    fn forget(&self, fingerprint: &[u8; 32]) {
        let mut verdicts = self.verdicts();
        if verdicts.by_certificate.remove(fingerprint).is_some() {
            verdicts.order.retain(|kept| kept != fingerprint);
        }
    }

    fn verdicts(&self) -> std::sync::MutexGuard<'_, Verdicts> {
        self.inner.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for as long as the peer with this certificate is let in, and says why it no longer is. What it was let in on
    /// holds until `holds_until`. Sets `pause` meanwhile, as it is polled.
    pub(crate) async fn until_refused(
        self,
        certificate: PeerCertificate,
        mut holds_until: Option<UnixSeconds>,
        pause: Pause,
    ) -> String {
        let mut policy = self.changes();
        // It may have changed since the peer was let in.
        policy.mark_changed();
        let mut rest = CLOCK_CHECK;
        loop {
            tokio::select! {
                // The judge lives as long as we do, so the policy cannot go.
                _ = policy.changed() => {}
                () = tokio::time::sleep(rest) => {}
            }
            policy.mark_unchanged();
            // What is known counts at once, before anything is waited for.
            let known = self.verdicts().by_certificate.get(certificate.fingerprint()).cloned();
            if let Some(known) = &known
                && let PolicyDecision::Refused { rule, detail } = self.policy().decide(&known.verdict)
            {
                return ConnectFailure::Refused { rule, detail }.to_string();
            }
            rest = match self.look(&certificate, holds_until, &pause).await {
                Some(Ok(verdict)) => {
                    holds_until = verdict.expires_at;
                    self.rest(&verdict)
                }
                Some(Err(refusal)) => return refusal.to_string(),
                // The next look may bring more.
                None if known.is_some_and(|known| known.holds(self.now())) => CLOCK_CHECK,
                None => return "the evidence could not be judged in time".to_owned(),
            };
            pause.set(false);
        }
    }

    /// Decides anew, with a pause from when the verdict before runs out; `None`: not in time.
    async fn look(
        &self,
        certificate: &PeerCertificate,
        holds_until: Option<UnixSeconds>,
        pause: &Pause,
    ) -> Option<Result<Arc<Verdict>, ConnectFailure>> {
        let deciding = tokio::time::timeout(JUDGED_WITHIN, self.decide(certificate));
        tokio::pin!(deciding);
        let now = self.now();
        let left = holds_until.map_or(JUDGED_WITHIN, |end| {
            Duration::from_secs(end.plus(1).0.saturating_sub(now.0)).min(JUDGED_WITHIN)
        });
        pause.set(left.is_zero());
        let decided = tokio::select! {
            biased;
            decided = &mut deciding => decided,
            () = tokio::time::sleep(left), if !left.is_zero() && left < JUDGED_WITHIN => {
                pause.set(true);
                deciding.await
            }
        };
        decided.ok()
    }

    /// How long until the verdict must be looked at again: no longer than the clock may be left out of sight.
    fn rest(&self, verdict: &Verdict) -> Duration {
        let left = verdict.expires_at.map_or(u64::MAX, |end| end.0.saturating_sub(self.now().0));
        CLOCK_CHECK.min(Duration::from_secs(left.saturating_add(1)))
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("policy", &self.policy()).finish_non_exhaustive()
    }
}

fn no_source(evidence: &Evidence) -> CollateralUnavailable {
    CollateralUnavailable { kind: evidence.kind(), reason: "no source is configured".to_owned() }
}
