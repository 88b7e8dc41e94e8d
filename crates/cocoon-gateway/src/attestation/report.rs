//! `GET /v1/attestation`: who serves us, and on what evidence, for callers who want to look for themselves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_attest::{AcceptedEvidence, PeerCertificate, Policy, UnixSeconds, Verdict};
use cocoon_net::PeerIdentity;
use cocoon_session::WorkerList;
use serde::Serialize;
use serde_json::{Value, json};

use super::Fingerprint;
use super::memory::SeenWorker;
use super::vetting::Vetting;
use crate::Shared;
use crate::access::Scope;
use crate::connection::Connection;

/// Workers shown in one answer, all proxies together; others by `?model=` and by their fingerprint.
const MAX_SHOWN: usize = 256;
/// How long evidence is waited for that is not there yet.
const EVIDENCE_WITHIN: Duration = Duration::from_secs(5);

/// A proxy.
#[derive(Serialize)]
struct ProxyReport {
    role: &'static str,
    address: String,
    connected: bool,
    fingerprint: String,
    /// The key that signs payments, once the proxy has named it.
    public_key: Option<String>,
    #[serde(flatten)]
    shown: Shown,
    verdict: Verdict,
    /// Everybody whom we are connected to was let in.
    decision: &'static str,
    expires_at: Option<UnixSeconds>,
}

/// What a certificate shows.
#[derive(Serialize)]
struct Shown {
    /// Kind of the evidence, verified or not.
    evidence: &'static str,
    /// DER in base64.
    certificate: String,
}

/// A worker.
#[derive(Serialize)]
struct WorkerReport {
    role: &'static str,
    fingerprint: String,
    connected: bool,
    /// The proxy that told of it first.
    told_by: Option<String>,
    models: Vec<String>,
    /// `None` where the proxy does not tell.
    #[serde(flatten)]
    shown: Option<Shown>,
    /// Ours; `None` where nothing is demanded of workers.
    verdict: Option<Verdict>,
    /// What the proxy says.
    proxy_verdict: Option<Value>,
    /// Whose verdict counts: `gateway` or `proxy`.
    verified_by: Option<&'static str>,
    /// Whether it may see requests.
    allowed: bool,
    /// Why not.
    reason: Option<String>,
    expires_at: Option<UnixSeconds>,
}

/// All proxies, and their workers that serve a model of `scope`; those that serve `model`, where one is named.
pub(crate) async fn all(shared: &Arc<Shared>, model: Option<&str>, scope: &Scope) -> Value {
    let connections = shared.pool.all();
    let mut room = MAX_SHOWN;
    let mut shown = Vec::new();
    for connection in connections.iter() {
        let workers = connection.workers();
        let serve: Vec<_> = workers
            .iter()
            .filter(|(_, models)| {
                let wanted = |full: &String| model.is_none_or(|model| is_model(full, model));
                models.iter().any(|full| wanted(full) && scope.covers(full))
            })
            .map(|(&fingerprint, _)| fingerprint)
            .collect();
        let (total, some) = (serve.len(), serve.len().min(room));
        room -= some;
        shown.push((
            Arc::clone(connection),
            workers,
            total,
            serve.into_iter().take(some).collect::<Vec<_>>(),
        ));
    }
    for (connection, _, _, some) in &shown {
        connection.want_evidence(&shared.vetting.memory.unknown(some.iter()));
    }
    let connections: Vec<_> = connections.iter().collect();
    arrived(&shared.vetting, &connections, &shown.iter().flat_map(|(.., some)| some).copied().collect())
        .await;
    let proxies = shown.into_iter().map(|(connection, workers, total, some)| {
        let reports: Vec<_> =
            some.iter().map(|worker| worker_report(&shared.vetting, worker, Some(&workers))).collect();
        let mut report = json!(proxy_report(&connection.address, &connection.peer, Some(&connection)));
        report["workers"] = json!(reports);
        report["workers_total"] = total.into();
        report["workers_omitted"] = (total - some.len()).into();
        report
    });
    let proxies: Vec<_> = proxies.collect();
    let demands = shared.vetting.demands();
    json!({
        "policy": {
            "proxies": describe(&shared.proxy_policy(), shared.check_proxy_hashes),
            "workers": demands.map(|demands| describe(&demands.judge.policy(), demands.listed_images)),
        },
        "proxies": proxies,
    })
}

/// One proxy or worker, connected or remembered.
pub(crate) async fn one(shared: &Arc<Shared>, fingerprint: &Fingerprint) -> Option<Value> {
    let connections = shared.pool.all();
    let connected = connections.iter().find(|one| one.peer.certificate_fingerprint == *fingerprint);
    if let Some(proxy) = shared.vetting.memory.proxy(fingerprint) {
        let connection = connected.map(Arc::as_ref);
        return Some(json!(proxy_report(&proxy.address, &proxy.identity, connection)));
    }
    if !shared.vetting.memory.knows(fingerprint) {
        // Any proxy may know a worker that was there not long ago.
        connections.iter().for_each(|connection| connection.want_evidence(&[*fingerprint]));
        arrived(&shared.vetting, &connections.iter().collect::<Vec<_>>(), &[*fingerprint].into()).await;
    }
    let list = connections.iter().map(|connection| connection.workers());
    let list = list.into_iter().find(|workers| workers.contains_key(fingerprint));
    if list.is_none() && !shared.vetting.memory.knows(fingerprint) {
        return None;
    }
    Some(json!(worker_report(&shared.vetting, fingerprint, list.as_deref())))
}

/// Waits until all evidence has come that may.
async fn arrived(vetting: &Vetting, connections: &[&Arc<Connection>], workers: &BTreeSet<Fingerprint>) {
    let mut news = vetting.news();
    let waiting = async {
        loop {
            news.borrow_and_update();
            let wait = |worker: &Fingerprint| {
                let awaited = connections.iter().any(|connection| connection.awaits_evidence(worker));
                let unjudged = vetting.demands().is_some() && !vetting.all_judged(std::iter::once(worker));
                (awaited && !vetting.memory.knows(worker)) || unjudged
            };
            if !workers.iter().any(wait) || news.changed().await.is_err() {
                return;
            }
        }
    };
    // What has not come by then is shown without it.
    let _ = tokio::time::timeout(EVIDENCE_WITHIN, waiting).await;
}

/// Whether a worker's model, in full, is the one of this name, with or without `@...`.
fn is_model(full: &str, name: &str) -> bool {
    full == name || full.split('@').next() == Some(name)
}

fn proxy_report(address: &str, identity: &PeerIdentity, connection: Option<&Connection>) -> ProxyReport {
    let ends = PeerCertificate::parse(&identity.certificate).ok().map(|parsed| parsed.validity().not_after);
    let public_key = connection.and_then(Connection::terms).map(|terms| hex::encode(terms.public_key));
    ProxyReport {
        role: "proxy",
        address: address.to_owned(),
        connected: connection.is_some(),
        fingerprint: hex::encode(identity.certificate_fingerprint),
        public_key,
        shown: Shown { evidence: identity.kind.name(), certificate: STANDARD.encode(&identity.certificate) },
        verdict: identity.verdict.as_ref().clone(),
        decision: "allowed",
        expires_at: identity.verdict.expires_at.into_iter().chain(ends).min(),
    }
}

fn worker_report(vetting: &Vetting, fingerprint: &Fingerprint, list: Option<&WorkerList>) -> WorkerReport {
    let models = list.and_then(|list| list.get(fingerprint));
    let known = vetting.memory.worker(fingerprint);
    let judgement = known.as_ref().and_then(|worker| worker.judgement.clone());
    let (allowed, reason) = match (vetting.demands(), &judgement) {
        (None, _) => (true, None),
        (Some(_), None) => (false, Some("its evidence has not been judged".to_owned())),
        (Some(demands), Some(judgement)) => {
            let now = demands.judge.now();
            let reason = judgement.refusal.as_ref().map(|(rule, detail)| format!("{rule}: {detail}"));
            let late = (reason.is_none() && now >= judgement.expires_at)
                .then(|| "its verdict has run out".to_owned());
            (judgement.allows(now), reason.or(late))
        }
    };
    WorkerReport {
        role: "worker",
        fingerprint: hex::encode(fingerprint),
        connected: models.is_some(),
        told_by: known.as_ref().map(|worker| worker.told_by.clone()),
        models: models.map(|models| models.to_vec()).unwrap_or_default(),
        shown: known.as_ref().map(|worker| Shown {
            evidence: worker.shown.name(),
            certificate: STANDARD.encode(&worker.certificate),
        }),
        verdict: judgement.as_ref().and_then(|judgement| judgement.verdict.clone()),
        verified_by: known.as_ref().and_then(SeenWorker::seen).map(|seen| seen.by),
        expires_at: judgement
            .filter(|judgement| judgement.verdict.is_some())
            .map(|judgement| judgement.expires_at),
        proxy_verdict: known.and_then(|worker| worker.proxy_verdict()),
        allowed,
        reason,
    }
}

/// A policy for people.
fn describe(policy: &Policy, listed_images: bool) -> Value {
    let evidence = match policy.accepted() {
        AcceptedEvidence::Any => json!("any"),
        AcceptedEvidence::OneOf(kinds) => json!(kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>()),
    };
    let pinned = policy.pinned_images().map(|images| images.iter().map(hex::encode).collect::<Vec<_>>());
    json!({
        "evidence": evidence,
        "images_listed_by_root": listed_images,
        "pinned_images": pinned,
        "gpus": policy.gpus(),
    })
}
