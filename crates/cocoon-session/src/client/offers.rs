//! What a proxy tells of its workers: their offers, who they are, what they showed, how they have done; and which of them
//! may see requests.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use cocoon_wire::codec::from_boxed;
use cocoon_wire::tl::{self, client, ext};

use super::{
    ClientEvent, ClientSession, EVIDENCE, MARKET, MODELS, ModelOffers, Offer, STATUS_WITHIN, Stage, WORKERS,
};
use crate::workers::Progress;
use crate::{AllowError, Time, Violation};

/// How often offers and workers are asked for without being told to.
const MODELS_EVERY: Duration = Duration::from_secs(1);

impl ClientSession {
    pub(super) fn on_models(&mut self, data: Bytes) -> Result<(), Violation> {
        self.models_asked = false;
        let answer: client::WorkerTypesV2 = from_boxed(data).map_err(Violation::message("worker types"))?;
        let natural = |number: i32| u32::try_from(number).unwrap_or(0);
        let models = answer.types.into_iter().map(|model| {
            let mut offers: Vec<_> = model
                .workers
                .iter()
                .map(|worker| Offer {
                    coefficient: natural(worker.coefficient),
                    active: natural(worker.active_requests),
                    limit: natural(worker.max_active_requests),
                })
                .collect();
            offers.sort_by_key(|offer| offer.coefficient);
            ModelOffers { name: model.name.to_lossy().into_owned(), offers }
        });
        self.events.push_back(ClientEvent::Models(models.collect()));
        Ok(())
    }

    /// Asks for the offers now.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn refresh_models(&mut self, now: Time) -> Result<(), Violation> {
        if matches!(self.stage, Stage::Ready(_)) {
            self.next_models = now.plus(MODELS_EVERY);
            if !std::mem::replace(&mut self.models_asked, true) {
                self.link.query(MODELS, &client::GetWorkerTypesV2 {}, now, STATUS_WITHIN)?;
            }
        }
        Ok(())
    }

    pub(super) fn on_workers(&mut self, data: Bytes, now: Time) -> Result<(), Violation> {
        let page: ext::Workers = from_boxed(data).map_err(Violation::message("list of workers"))?;
        match self.workers.take(page)? {
            Progress::More => {
                let query = self.workers.query();
                self.link.query(WORKERS, &query, now, STATUS_WITHIN)?;
            }
            Progress::Rest => self.workers_asked = false,
        }
        self.events.extend(self.workers.take_changed().map(ClientEvent::Workers));
        Ok(())
    }

    pub(super) fn on_evidence(&mut self, data: Bytes, now: Time) -> Result<(), Violation> {
        let answer: ext::Evidence = from_boxed(data).map_err(Violation::message("evidence of a worker"))?;
        let (fingerprint, evidence) = self.workers.take_evidence(answer)?;
        self.events.push_back(ClientEvent::Evidence { fingerprint, evidence });
        self.ask_for_evidence(now)
    }

    fn ask_for_evidence(&mut self, now: Time) -> Result<(), Violation> {
        while let Some(fingerprint) = self.workers.next_wanted() {
            self.link.query(EVIDENCE, &ext::GetEvidence { fingerprint }, now, STATUS_WITHIN)?;
        }
        Ok(())
    }

    /// Asks a proxy of ours now which workers have come and gone; a change comes as an event.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn refresh_workers(&mut self, now: Time) -> Result<(), Violation> {
        if self.extensions() && !std::mem::replace(&mut self.workers_asked, true) {
            let query = self.workers.begin_walk();
            self.link.query(WORKERS, &query, now, STATUS_WITHIN)?;
        }
        Ok(())
    }

    pub(super) fn on_market(&mut self, data: Bytes, now: Time) -> Result<(), Violation> {
        let page: tl::market::Market = from_boxed(data).map_err(Violation::message("market"))?;
        match self.market.take(page) {
            Ok(next) => self.link.query(MARKET, &next, now, STATUS_WITHIN)?,
            Err(known) => self.events.push_back(ClientEvent::Market(known)),
        }
        Ok(())
    }

    /// Asks a proxy of ours what is on offer, with how its workers have done; it comes as an event. A published proxy is
    /// not asked, nor one that was asked and has not answered.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn ask_market(&mut self, now: Time) -> Result<(), Violation> {
        if self.extensions()
            && let Some(query) = self.market.begin()
        {
            self.link.query(MARKET, &query, now, STATUS_WITHIN)?;
        }
        Ok(())
    }

    /// Asks a proxy of ours for what this worker showed; it comes as an event, once, however often it was asked for
    /// until then. `false` where it will not: the connection is not ready, the proxy is a published one, or too
    /// much is asked for already.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn want_evidence(&mut self, fingerprint: [u8; 32], now: Time) -> Result<bool, Violation> {
        let wanted = self.extensions() && self.workers.want(fingerprint);
        self.ask_for_evidence(now)?;
        Ok(wanted)
    }

    /// Lets exactly these workers see requests from now on. Requests that a worker has already stay with it.
    ///
    /// # Errors
    /// Says why it cannot be; nothing changes then.
    pub fn allow_workers(&mut self, workers: &BTreeSet<[u8; 32]>, now: Time) -> Result<(), AllowError> {
        if !self.settings.restrict_workers {
            return Err(AllowError::NotRestricting);
        }
        if !self.extensions() {
            return Err(AllowError::NotReady);
        }
        for packet in self.workers.allow(workers, !self.requests.is_empty(), now)? {
            self.link.packet(&packet);
        }
        Ok(())
    }
}
