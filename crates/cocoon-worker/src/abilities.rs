//! What the engine can do: found out when the worker starts, when the engine is back, and now and then, and told to proxies.

use std::sync::Arc;
use std::time::Duration;

use cocoon_openai::ability;
use tokio::time::Instant;

use crate::Shared;

/// How often the engine is asked anew.
const EXPLORE_EVERY: Duration = Duration::from_secs(600);
/// How often it is looked whether it is there.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Keeps what proxies are told up to date.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut explored: Option<Instant> = None;
    loop {
        if !shared.engine.probe().await.ready {
            // It may come back as another one.
            explored = None;
        } else if explored.is_none_or(|then| then.elapsed() >= EXPLORE_EVERY) {
            explore(&shared).await;
            explored = Some(Instant::now());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn explore(shared: &Shared) {
    let before = shared.abilities();
    let found = shared.engine.explore(shared.model(), before.unwrap_or(ability::UNTOLD)).await;
    if found == 0 {
        // A worker that says so would get no requests at all, and nobody would see the engine's own words about why.
        tracing::warn!("the engine does nothing of what it was asked for; is the model's name right?");
        return;
    }
    if before != Some(found) {
        let names: Vec<_> = ability::names(found).collect();
        tracing::info!(abilities = names.join(", "), "what the engine can do");
        shared.set_abilities(found);
    }
}
