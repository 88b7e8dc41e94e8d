//! `cocoon attest verify`: the judgement that nodes make of one another, for people.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cocoon_attest::{
    Collateral, CollateralSource, EvidenceKind, Outcome, PeerRole, Policy, PolicyDecision, ReportData,
    TestRoots, UnixSeconds, Verdict, Verifier as _, VerifierSet, fetch_all,
};
use cocoon_collateral::{Bundle, Fetcher, FixedCollateral, MAX_BUNDLE_LEN};
use cocoon_net::{Clock as _, SystemClock};
use cocoon_tee::simulated::Vendors;
use serde_json::{Value, json};

use super::input::{self, Found, What};
use crate::attest_report;
use crate::calendar;
use crate::cli::{PeerKind, VerifyEvidence};
use crate::config::{CollateralFile, read_policy};
use crate::dir::write_whole;
use crate::keys;
use crate::terminal::{self, Style};

/// How long collateral is waited for. No peer waits with us, so it is longer than what nodes allow themselves.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a verification rests on.
struct Court {
    verifiers: VerifierSet,
    source: Arc<dyn CollateralSource>,
    policies: [Policy; 3],
    now: UnixSeconds,
}

/// What came of one node's evidence.
struct Judged<'a> {
    found: &'a Found,
    verdict: Verdict,
    decision: PolicyDecision,
    used: Collateral,
}

pub(super) async fn run(options: &VerifyEvidence) -> anyhow::Result<ExitCode> {
    let court = Court::open(options)?;
    let found = input::read(&options.source, options.api_key_file.as_deref()).await?;
    let mut used = Collateral::none();
    let mut all = Vec::new();
    for item in &found {
        let judged = court.judge(item, options).await?;
        for (request, answer) in judged.used.iter() {
            used.insert(request.clone(), answer.clone());
        }
        all.push(judged);
    }
    if let Some(path) = &options.save_collateral {
        let bundle = Bundle { gathered_at: court.now, answers: used };
        let json = bundle.to_json().with_context(|| path.display().to_string())?;
        write_whole(path, &String::from_utf8_lossy(&json))?;
    }
    let good = all.iter().all(Judged::holds);
    if options.json {
        let nodes: Vec<_> = all.iter().map(Judged::json).collect();
        let report = json!({ "verified": good, "judged_as_of": court.now, "evidence": nodes });
        terminal::print(&format!("{report:#}\n"))?;
    } else {
        print(&all, court.now)?;
        if !good && options.simulated_seed.is_none() {
            terminal::print(
                "Nodes of `cocoon up` are simulated; their evidence verifies with --simulated-seed DIR/simulated-seed.hex.\n",
            )?;
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(all: &[Judged<'_>], now: UnixSeconds) -> anyhow::Result<()> {
    let style = Style::stdout();
    for judged in all {
        terminal::print(&format!("{}\n", style.bold(&judged.found.name)))?;
        terminal::print(&identity(judged.found))?;
        let report = attest_report::text(&judged.verdict, Some(&judged.decision), now, style);
        terminal::print(&format!("{report}\n"))?;
    }
    terminal::print("The root contract's lists were not consulted; --image says which image it must be.\n")?;
    if all.len() > 1 {
        let good = all.iter().filter(|judged| judged.holds()).count();
        terminal::print(&format!("{good} of {} nodes: evidence holds and is let in\n", all.len()))?;
    }
    Ok(())
}

impl Court {
    fn open(options: &VerifyEvidence) -> anyhow::Result<Self> {
        let mut operator = read_policy(options.policy.as_deref())?;
        let seed = options.simulated_seed.as_deref().map(keys::load_key).transpose()?;
        let vendors = seed.map(|seed| Vendors::from_seed(&seed));
        let roots = vendors.as_ref().map_or_else(TestRoots::default, Vendors::test_roots);
        for demands in [&mut operator.proxy, &mut operator.worker, &mut operator.client] {
            if !options.images.is_empty() {
                demands.images = Some(options.images.iter().copied().collect());
            }
        }
        let policies = [operator.proxy.policy()?, operator.worker.policy()?, operator.client.policy()?];
        let now = options.at.map_or_else(|| SystemClock.now(), UnixSeconds);
        let source = source(options, vendors, now)?;
        Ok(Self { verifiers: operator.verifiers(&roots)?, source, policies, now })
    }

    async fn judge<'a>(&self, found: &'a Found, options: &VerifyEvidence) -> anyhow::Result<Judged<'a>> {
        let evidence = found.evidence();
        let fetched = fetch_all(&self.verifiers, self.source.as_ref(), evidence).await;
        let used = fetched.context("fetching collateral")?.collateral;
        let binding = match &found.what {
            What::Certificate(certificate) => Some(certificate.report_data()),
            What::Bare(_) => {
                options.key.map(|key| ReportData::for_key(&key)).or(options.report_data.map(ReportData))
            }
        };
        let own = reported(evidence);
        let asked = binding.or(own).unwrap_or(ReportData([0; ReportData::LEN]));
        let mut verdict = self.verifiers.verify(evidence, &used, &asked, self.now);
        if binding.is_none()
            && let Some(check) = verdict.checks.iter_mut().find(|check| check.name == "binding")
        {
            check.outcome = Outcome::Skipped;
            "no key was named that it should be bound to; give --key or --report-data"
                .clone_into(&mut check.detail);
        }
        if let What::Certificate(certificate) = &found.what {
            // Workers and clients dial; proxies are dialled.
            let role = match options.role.or(found.role) {
                Some(PeerKind::Worker | PeerKind::Client) => PeerRole::Client,
                Some(PeerKind::Proxy) | None => PeerRole::Server,
            };
            judge_certificate(&mut verdict, certificate, role, self.now);
        }
        let decision = self.policy(found, options).decide(&verdict);
        Ok(Judged { found, verdict, decision, used })
    }

    fn policy(&self, found: &Found, options: &VerifyEvidence) -> &Policy {
        let [proxy, worker, client] = &self.policies;
        match options.role.or(found.role) {
            Some(PeerKind::Worker) => worker,
            Some(PeerKind::Client) => client,
            Some(PeerKind::Proxy) | None => proxy,
        }
    }
}

/// The certificate by itself, as the first check of all: who holds it, and when.
fn judge_certificate(
    verdict: &mut Verdict,
    certificate: &cocoon_attest::PeerCertificate,
    role: PeerRole,
    now: UnixSeconds,
) {
    let validity = certificate.validity();
    let (outcome, detail) = match certificate.check(now, role) {
        Ok(()) => {
            let until = calendar::utc(validity.not_after.0);
            (Outcome::Passed, format!("signed by its own key, valid until {until}"))
        }
        Err(error) => (Outcome::Failed, error.to_string()),
    };
    verdict.record("certificate", outcome, detail);
    verdict.checks.rotate_right(1);
}

fn source(
    options: &VerifyEvidence,
    vendors: Option<Vendors>,
    now: UnixSeconds,
) -> anyhow::Result<Arc<dyn CollateralSource>> {
    if let Some(path) = &options.collateral {
        let failed = || format!("cannot read {}", path.display());
        let limit = MAX_BUNDLE_LEN as u64;
        let json = crate::config::read_text(path, limit).with_context(failed)?;
        let bundle = Bundle::from_json(json.as_bytes()).with_context(|| path.display().to_string())?;
        return Ok(Arc::new(FixedCollateral::new(bundle.answers)));
    }
    if let Some(vendors) = vendors {
        return Ok(Arc::new(FixedCollateral::answering(move |request| vendors.answer(request, now))));
    }
    let file = CollateralFile {
        pccs_any_certificate: options.pccs_any_certificate,
        offline: options.offline,
        ..CollateralFile::default()
    };
    let mut fetching = file.options(options.cache_dir.clone())?;
    fetching.patience = PATIENCE;
    if let Some(url) = &options.pccs_url {
        fetching.pccs_url.clone_from(url);
    }
    Ok(Arc::new(Fetcher::new(&fetching, Arc::new(|| SystemClock.now()))?))
}

/// The report data that evidence itself names.
fn reported(evidence: &cocoon_attest::Evidence) -> Option<ReportData> {
    match evidence.kind() {
        EvidenceKind::Tdx => {
            cocoon_attest::TdxQuote::parse(evidence.bytes()).ok().map(|quote| quote.report_data)
        }
        EvidenceKind::SevSnp => {
            let parsed = cocoon_attest::snp::SnpEvidence::parse(evidence.bytes()).ok()?;
            Some(parsed.report.report_data)
        }
        EvidenceKind::FakeTdx => evidence.bytes()[..].try_into().ok().map(ReportData),
        _ => None,
    }
}

impl Judged<'_> {
    fn holds(&self) -> bool {
        self.verdict.accepted() && self.decision.is_allowed()
    }

    fn json(&self) -> Value {
        let mut value = described(self.found);
        value["verdict"] = json!(self.verdict);
        value["decision"] = json!(self.decision);
        value["holds"] = json!(self.holds());
        value
    }
}

/// What is known of a node without verifying anything.
pub(super) fn described(found: &Found) -> Value {
    let evidence = found.evidence();
    let mut value = json!({
        "name": found.name,
        "kind": evidence.kind(),
        "bytes": evidence.bytes().len(),
        "gpu_bytes": evidence.gpus().map(|gpus| gpus.len()),
        "report_data": reported(evidence),
        "claims": claims(evidence),
    });
    if let What::Certificate(certificate) = &found.what {
        value["public_key"] = json!(hex::encode(certificate.public_key()));
        value["fingerprint"] = json!(hex::encode(certificate.fingerprint()));
        value["not_before"] = json!(certificate.validity().not_before);
        value["not_after"] = json!(certificate.validity().not_after);
    }
    value
}

/// What the evidence says of itself, in the form of a verdict that nobody has reached.
fn claims(evidence: &cocoon_attest::Evidence) -> Verdict {
    // A verifier reads as far as it can; what it concludes without collateral is left out.
    let all = cocoon_attest::OperatorPolicy::default().verifiers(&TestRoots::default()).unwrap_or_default();
    let binding = ReportData([0; ReportData::LEN]);
    let mut read = all.verify(evidence, &Collateral::none(), &binding, UnixSeconds(0));
    read.checks.clear();
    if let Some(gpu) = &mut read.gpu {
        gpu.checks.clear();
    }
    read.record("evidence", Outcome::Skipped, "shown, not verified");
    read.expires_at = None;
    read
}

/// The same for people.
pub(super) fn shown(found: &Found, style: Style) -> String {
    let report = attest_report::claims(&claims(found.evidence()), style);
    format!("{}\n{}{report}\n", style.bold(&found.name), identity(found))
}

fn identity(found: &Found) -> String {
    let What::Certificate(certificate) = &found.what else { return String::new() };
    let validity = certificate.validity();
    format!(
        "  TLS key               {}\n  fingerprint           {}\n  certificate           {} to {}\n",
        hex::encode(certificate.public_key()),
        hex::encode(certificate.fingerprint()),
        calendar::utc(validity.not_before.0),
        calendar::utc(validity.not_after.0)
    )
}
