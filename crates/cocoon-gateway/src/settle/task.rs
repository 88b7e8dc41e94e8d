//! When to look at the chain again.

use std::sync::Arc;
use std::time::Duration;

use cocoon_chain::settler::RETRY_AFTER;
use tokio_util::sync::CancellationToken;

use super::Settlement;
use super::round::{Round, RoundError};
use crate::Shared;

/// How long to wait after a round, and whether something new may cut that short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) time: Duration,
    pub(super) wakeable: bool,
}

/// Settles until `stop`.
pub(crate) async fn run(shared: Arc<Shared>, settlement: Arc<Settlement>, stop: CancellationToken) {
    let mut wallet_news = settlement.chain.subscribe(settlement.settler.address()).ok();
    loop {
        if let Some(news) = &mut wallet_news {
            news.mark_unchanged();
        }
        // A round that is broken off is made good by the next, in this process or another.
        let outcome = tokio::select! {
            outcome = settlement.round(&shared.book) => outcome,
            () = stop.cancelled() => return,
        };
        // A channel that is being left takes no requests.
        shared.pool.changed();
        let wait = settlement.wait_after(&outcome);
        let sleeping = async {
            if !wait.wakeable {
                tokio::time::sleep(wait.time).await;
                return;
            }
            tokio::time::sleep(settlement.pause).await;
            let news = async {
                // Coins have come, perhaps those that were lacking.
                if let Some(news) = &mut wallet_news
                    && news.changed().await.is_ok()
                {
                    return;
                }
                std::future::pending().await
            };
            tokio::select! {
                () = tokio::time::sleep(wait.time) => {}
                () = settlement.wake.notified() => {}
                () = news => {}
            }
        };
        tokio::select! {
            () = sleeping => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Settlement {
    /// What a contract refuses makes no difference: the settler does not repeat it soon, and no other channel must wait
    /// for it.
    pub(super) fn wait_after(&self, outcome: &Result<Round, RoundError>) -> Wait {
        let round = match outcome {
            Ok(round) => round,
            Err(error) => {
                let time = error.retry_after().unwrap_or_default().max(RETRY_AFTER).max(self.pause);
                return Wait { time, wakeable: false };
            }
        };
        // What was sent has changed what there is to see.
        if round.more || !round.steps.is_empty() {
            return Wait { time: Duration::ZERO, wakeable: true };
        }
        let until = round.again_at.map(|at| Duration::from_secs(at.saturating_sub(round.now)));
        Wait { time: until.map_or(self.poll, |until| until.min(self.poll)).max(self.pause), wakeable: true }
    }
}
