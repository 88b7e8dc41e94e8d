//! Judging peers: from a certificate, by way of evidence and collateral, to the policy's decision, now and for as long
//! as a connection is up.
//!
//! Evidence is verified once per certificate; the verdict is kept, so that the next handshake costs a look. It is
//! verified anew well before its collateral runs out, and once an hour, so that what the vendor has published since
//! counts for connections that stay up; until that is done the verdict from before holds, and not a moment longer than
//! its collateral. The decision is made anew whenever the policy changes.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cocoon_attest::{
    Collateral, CollateralRequest, CollateralSource, CollateralUnavailable, Evidence, Fetched, GpuDemand,
    PeerCertificate, Policy, PolicyDecision, PolicyError, UnixSeconds, Verdict, Verifier, fetch_needed,
};
use tokio::sync::{Semaphore, watch};

use crate::{Clock, ConnectFailure};

/// How long a verdict is good for without another look, seconds; less where it runs out soon: three quarters of the time
/// until then, so that there is time left to fetch what is new.
const LOOK_AGAIN_SECONDS: u64 = 60 * 60;
/// How often a connection looks at the clock at the least, and how soon it asks again for collateral that could not be had.
const CLOCK_CHECK: Duration = Duration::from_secs(60);
/// How long nothing passes on a connection whose verdict has run out, until it is given up.
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
    /// For arithmetic about strangers: as much at a time as there are processors, or a flood of it would leave those who
    /// serve connections no time.
    places: Arc<Semaphore>,
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
    /// When to verify again.
    fn look_at(&self) -> UnixSeconds {
        let lasts = self.verdict.expires_at.map_or(u64::MAX, |end| end.0.saturating_sub(self.verified_at.0));
        self.verified_at.plus(LOOK_AGAIN_SECONDS.min(lasts / 4 * 3))
    }

    /// Whether there is no need to verify again.
    fn is_fresh(&self, now: UnixSeconds) -> bool {
        // A clock that went back proves nothing about what was verified.
        now >= self.verified_at && now < self.look_at() && self.holds(now)
    }

    /// Whether what it rests on has not run out.
    fn holds(&self, now: UnixSeconds) -> bool {
        self.verdict.expires_at.is_none_or(|end| now <= end)
    }
}

/// Whether nothing may pass on a connection for now, because what was found about its peer has run out and nothing new is
/// known yet. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Pause(Arc<AtomicBool>);

impl Pause {
    /// Whether it is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
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
        let places = std::thread::available_parallelism().map_or(1, NonZero::get);
        let places = Arc::new(Semaphore::new(places));
        let verdicts = Mutex::default();
        Self { inner: Arc::new(Inner { verifier, collateral, clock, policy, verdicts, places }) }
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

    /// Takes over the image hashes that the root contract lists now.
    ///
    /// # Errors
    /// The policy asks for no evidence, so no hash would be verified; it stays as it was.
    pub fn list_images(&self, hashes: impl IntoIterator<Item = [u8; 32]>) -> Result<(), PolicyError> {
        let mut outcome = Ok(());
        self.inner.policy.send_if_modified(|policy| {
            match policy.as_ref().clone().with_image_hashes(hashes) {
                Ok(listed) => {
                    let changed = listed != **policy;
                    *policy = Arc::new(listed);
                    changed
                }
                Err(error) => {
                    outcome = Err(error);
                    false
                }
            }
        });
        outcome
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
        let fetched = match &self.inner.collateral {
            Some(source) => fetch_needed(|at_hand| self.needed(evidence, at_hand), source.as_ref()).await,
            None if self.needed(evidence, None).await.is_empty() => Ok(Fetched::default()),
            None => Err(no_source(evidence)),
        };
        let Fetched { collateral, requests } = match (fetched, fallback.clone()) {
            (Ok(fetched), _) => fetched,
            // What was found still holds; the next look may bring what is missing.
            (Err(_), Some(verdict)) => return Ok(verdict),
            (Err(missing), None) => return Err(ConnectFailure::Collateral(missing)),
        };
        // Fetching takes a while, and what vendors sign on request is newer than the time before it.
        let now = self.now();
        let verdict = self.verify(certificate, collateral, now).await;
        let ignores_gpus = self.policy().gpus() == GpuDemand::Ignored;
        if verdict.accepted_as_a_whole() || (verdict.accepted() && ignores_gpus) {
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

    /// Work that takes milliseconds, so not among what must stay quick, and in its turn. `None` only where the runtime
    /// ends, or a verifier is broken.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Verifier) -> T + Send + 'static,
    ) -> Option<T> {
        let place = Arc::clone(&self.inner.places).acquire_owned().await.ok()?;
        let verifier = Arc::clone(&self.inner.verifier);
        let done = tokio::task::spawn_blocking(move || {
            let done = work(verifier.as_ref());
            drop(place);
            done
        });
        done.await.ok()
    }

    /// What to fetch, which takes signatures of strangers to be verified.
    async fn needed(&self, evidence: &Evidence, at_hand: Option<Collateral>) -> Vec<CollateralRequest> {
        let evidence = evidence.clone();
        let found = self.work(move |verifier| match at_hand {
            None => verifier.collateral_needed(&evidence),
            Some(at_hand) => verifier.further_collateral(&evidence, &at_hand),
        });
        // Where it fails, the verification that follows does.
        found.await.unwrap_or_default()
    }

    async fn verify(
        &self,
        certificate: &PeerCertificate,
        collateral: Collateral,
        now: UnixSeconds,
    ) -> Arc<Verdict> {
        let (evidence, binding) = (certificate.evidence().clone(), certificate.report_data());
        let kind = evidence.kind();
        let verified = self.work(move |verifier| verifier.verify(&evidence, &collateral, &binding, now));
        // Where it fails, nothing was verified.
        Arc::new(verified.await.unwrap_or_else(|| Verdict::new(kind)))
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

    /// Waits for as long as the peer with this certificate is let in, and says why it no longer is. Sets `pause` meanwhile,
    /// as it is polled.
    pub async fn until_refused(self, certificate: PeerCertificate, pause: Pause) -> String {
        let mut policy = self.changes();
        // It may have changed since the peer was let in.
        policy.mark_changed();
        loop {
            let known = self.known(&certificate);
            let look_at = known.as_ref().map_or(UnixSeconds(u64::MAX), Held::look_at);
            tokio::select! {
                // The judge lives as long as we do, so the policy cannot go.
                _ = policy.changed() => {}
                () = tokio::time::sleep(self.rest_until(look_at)) => {}
            }
            let decided = loop {
                policy.mark_unchanged();
                // What is known counts at once, before anything is waited for.
                let known = self.known(&certificate);
                if let Some(known) = &known
                    && let PolicyDecision::Refused { rule, detail } = self.policy().decide(&known.verdict)
                {
                    return ConnectFailure::Refused { rule, detail }.to_string();
                }
                tokio::select! {
                    biased;
                    // Something else is demanded while collateral is waited for.
                    _ = policy.changed() => {}
                    decided = self.decide(&certificate) => break decided,
                    () = self.lapse(known.as_ref(), &pause) => {
                        return "what its evidence rests on ran out, and nothing new was found in time".to_owned();
                    }
                }
            };
            if let Err(refusal) = decided {
                return refusal.to_string();
            }
            pause.set(false);
        }
    }

    /// What is known of the evidence in a certificate; nothing where no evidence is asked for.
    fn known(&self, certificate: &PeerCertificate) -> Option<Held> {
        let known = self.verdicts().by_certificate.get(certificate.fingerprint()).cloned();
        known.filter(|_| self.policy().needs_evidence())
    }

    /// Waits until what is known no longer holds, for ever where nothing is known; then nothing may pass, and a last while
    /// is left for what is new.
    async fn lapse(&self, known: Option<&Held>, pause: &Pause) {
        let Some((known, end)) = known.and_then(|known| Some((known, known.verdict.expires_at?))) else {
            return std::future::pending().await;
        };
        while known.holds(self.now()) {
            tokio::time::sleep(self.rest_until(end.plus(1))).await;
        }
        pause.set(true);
        tokio::time::sleep(JUDGED_WITHIN).await;
    }

    /// How long to wait for this time; the clock is not left out of sight for long, since it can be set.
    fn rest_until(&self, time: UnixSeconds) -> Duration {
        CLOCK_CHECK.min(Duration::from_secs(time.0.saturating_sub(self.now().0).max(1)))
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
