//! What a gateway demands of workers, and the judgement of one worker by it.

use std::time::Duration;

use bytes::Bytes;
use cocoon_attest::{PeerCertificate, PeerRole, Policy, PolicyDecision, PolicyError, UnixSeconds, Verdict};
use cocoon_net::{ConnectFailure, Judge};
use cocoon_ton::RootConfig;

/// How long the evidence of one worker may take to be judged, the fetching of collateral included.
const JUDGED_WITHIN: Duration = Duration::from_secs(30);
/// When a worker whose collateral could not be had is judged anew, in seconds.
const UNAVAILABLE_RETRY_SECONDS: u64 = 30;
/// When a worker whose evidence was refused is judged anew, in seconds: what the vendors publish changes.
const REFUSED_RETRY_SECONDS: u64 = 600;
/// When a worker that is allowed is judged anew, in seconds, for the same reason.
const LOOK_AGAIN_SECONDS: u64 = 60 * 60;
/// A judgement is renewed so long before it runs out, in seconds.
const RENEW_BEFORE_SECONDS: u64 = 60;
/// A judgement that is about to run out is tried to be renewed this often, in seconds.
const RENEW_EVERY_SECONDS: u64 = 10;

/// What a gateway demands of the workers that see its requests. It judges their evidence itself, whatever proxies say.
#[derive(Debug, Clone)]
pub struct WorkerDemands {
    /// Which evidence will do, and who judges it.
    pub judge: Judge,
    /// Whether the image must be one that the root configuration lists for workers, also as that list changes. Needs a
    /// policy that asks for evidence.
    pub listed_images: bool,
}

impl WorkerDemands {
    /// Takes over the list of a root configuration.
    pub(super) fn set_root(&self, root: &RootConfig) -> Result<(), PolicyError> {
        if self.listed_images {
            self.judge.list_images(root.worker_hashes.iter().copied())?;
        }
        Ok(())
    }
}

/// What came of judging a worker.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Judgement {
    /// `None` where the certificate itself was refused, or nothing could be found out.
    pub(crate) verdict: Option<Verdict>,
    /// Why it is not allowed: the rule, and what was found. `None`: it is allowed.
    pub(crate) refusal: Option<(&'static str, String)>,
    /// Nothing could be found out: an earlier judgement stays in force.
    pub(super) open: bool,
    /// Until when it holds, this second excluded.
    pub(crate) expires_at: UnixSeconds,
    /// When to judge anew; `None`: nothing will change.
    pub(super) again_at: Option<UnixSeconds>,
}

impl Judgement {
    fn refused(rule: &'static str, detail: impl Into<String>, again_at: Option<UnixSeconds>) -> Self {
        let refusal = Some((rule, detail.into()));
        Self { verdict: None, refusal, open: false, expires_at: UnixSeconds(u64::MAX), again_at }
    }

    fn open(detail: impl Into<String>, now: UnixSeconds) -> Self {
        let again_at = Some(now.plus(UNAVAILABLE_RETRY_SECONDS));
        Self { open: true, ..Self::refused("collateral", detail, again_at) }
    }

    /// Whether the worker may see requests at this time.
    pub(crate) fn allows(&self, now: UnixSeconds) -> bool {
        self.refusal.is_none() && now < self.expires_at
    }

    /// Whether it may under this policy, by what was found before.
    pub(super) fn allows_under(&self, policy: &Policy) -> bool {
        self.verdict.as_ref().is_some_and(|verdict| policy.decide(verdict).is_allowed())
    }
}

/// Judges a worker by the certificate that it showed to a proxy.
pub(super) async fn judge(demands: WorkerDemands, der: Bytes) -> Judgement {
    let now = demands.judge.now();
    let certificate = match PeerCertificate::parse(&der) {
        Ok(certificate) => certificate,
        Err(error) => return Judgement::refused("certificate", error.to_string(), None),
    };
    if let Err(error) = certificate.check(now, PeerRole::Client) {
        let not_yet = now < certificate.validity().not_before;
        let again = not_yet.then(|| now.plus(RENEW_EVERY_SECONDS));
        return Judgement::refused("certificate", error.to_string(), again);
    }
    let policy = demands.judge.policy();
    let kind = certificate.evidence().kind();
    let verdict = if policy.needs_evidence() && policy.accepts_kind(kind) {
        match tokio::time::timeout(JUDGED_WITHIN, demands.judge.verdict(&certificate)).await {
            Ok(Ok(verdict)) => verdict.as_ref().clone(),
            Ok(Err(ConnectFailure::Collateral(missing))) => return Judgement::open(missing.to_string(), now),
            Ok(Err(other)) => return Judgement::open(other.to_string(), now),
            Err(_) => return Judgement::open("the evidence could not be judged in time", now),
        }
    } else {
        Verdict::unchecked(kind, "the policy does not ask for this evidence")
    };
    let ends = certificate.validity().not_after.plus(1);
    let expires_at = verdict.expires_at.map_or(ends, |verdict| verdict.plus(1).min(ends));
    let (refusal, again_at) = match policy.decide(&verdict) {
        PolicyDecision::Allowed => {
            let renew = UnixSeconds(expires_at.0.saturating_sub(RENEW_BEFORE_SECONDS));
            (None, renew.min(now.plus(LOOK_AGAIN_SECONDS)).max(now.plus(RENEW_EVERY_SECONDS)))
        }
        PolicyDecision::Refused { rule, detail } => {
            (Some((rule.name(), detail)), now.plus(REFUSED_RETRY_SECONDS))
        }
    };
    Judgement { verdict: Some(verdict), refusal, open: false, expires_at, again_at: Some(again_at) }
}
