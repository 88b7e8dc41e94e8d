//! The engine behind a worker, as its configuration names it.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use cocoon_engine::builtin::ExtractiveSummary;
use cocoon_engine::upstream::{HttpEngine, HttpEngineOptions};
use cocoon_engine::{Engine, EngineHealth};
use cocoon_openai::ability;

use crate::config::{EngineFile, Present, WorkerFile};
use crate::doctor;

/// The engine that a worker's configuration names, for up to `at_once` requests at a time.
///
/// # Errors
/// It names none or both, or the URL cannot be that of an engine.
pub(crate) fn open_engine(file: &EngineFile, at_once: usize) -> anyhow::Result<Arc<dyn Engine>> {
    match (&file.url, file.builtin) {
        (Some(url), false) => open_upstream(url, at_once, file.abilities.as_deref()),
        (None, true) if file.abilities.is_some() => {
            bail!("the built-in engine says itself what it can do; engine.abilities goes with engine.url")
        }
        (None, true) => Ok(Arc::new(ExtractiveSummary::new())),
        (None, false) => bail!(
            "no engine: set engine.url to an OpenAI-style server such as http://127.0.0.1:8000, \
             or engine.builtin = true for the built-in summariser"
        ),
        (Some(_), true) => bail!("two engines: either engine.url or engine.builtin = true, not both"),
    }
}

/// An OpenAI-style server as the engine, for up to `at_once` requests at a time; what it can do is found out, unless it is
/// stated.
///
/// # Errors
/// The URL cannot be that of an engine, or there is no such ability.
pub(crate) fn open_upstream(
    url: &str,
    at_once: usize,
    abilities: Option<&[String]>,
) -> anyhow::Result<Arc<dyn Engine>> {
    let abilities = abilities.map(ability_bits).transpose()?;
    let usual = HttpEngineOptions::default();
    // A request that a worker takes must find a connection; the probe needs one beside them.
    let max_connections = usual.max_connections.max(at_once.saturating_add(1));
    let engine = HttpEngine::new(url, HttpEngineOptions { max_connections, abilities, ..usual });
    Ok(Arc::new(engine.with_context(|| format!("the engine's URL {url:?}"))?))
}

fn ability_bits(names: &[String]) -> anyhow::Result<u32> {
    if names.is_empty() {
        bail!("engine.abilities is empty: such a worker would get no requests");
    }
    names.iter().try_fold(0, |bits, name| {
        let known = ability::NAMES.iter().find(|(_, known)| known == name);
        let (bit, _) = known.with_context(|| {
            let all: Vec<_> = ability::NAMES.iter().map(|(_, name)| *name).collect();
            format!("engine.abilities: there is no ability {name:?}; there are {}", all.join(", "))
        })?;
        Ok(bits | bit)
    })
}

/// Asks an engine whether it serves a model, by its base name. What is wrong may be right soon, so it is only logged.
pub(crate) async fn warn_unless_serving(engine: &dyn Engine, model: &str) {
    let health = engine.probe().await;
    if health.ready && !health.models.is_empty() && !health.models.iter().any(|name| name == model) {
        tracing::warn!(model, lists = health.models.join(", "), "the engine does not list the model");
    }
    warn_unless_ready(health);
}

pub(crate) fn warn_unless_ready(health: EngineHealth) {
    if !health.ready {
        let detail = health.detail.unwrap_or_default();
        tracing::warn!(detail, "the engine is not ready; requests will fail until it is");
    }
}

/// A worker's evidence speaks for its own machine: an engine on another one sees every prompt, and nothing proves what it
/// is.
///
/// # Errors
/// The engine is elsewhere, and real evidence would be shown for it.
pub(super) fn engine_within(file: &WorkerFile) -> anyhow::Result<()> {
    let Some(url) = file.engine.url.as_deref().filter(|url| !doctor::is_local(url)) else { return Ok(()) };
    match file.attestation.present {
        Present::Tdx | Present::SevSnp | Present::Auto => bail!(
            "the engine at {url} is on another machine: it would see every prompt, and this machine's evidence says \
             nothing about it. Run the engine in this machine, or set attestation.present = \"none\""
        ),
        _ => tracing::warn!(
            url,
            "the engine is on another machine, which sees every prompt and proves nothing"
        ),
    }
    Ok(())
}
