//! From the opening until requests may come: who the proxy is, and whether its counters went back.

use std::time::Duration;

use bytes::Bytes;
use cocoon_ledger::PeerCounters;
use cocoon_wire::codec::from_boxed;
use cocoon_wire::tl::{ProtoRange, ext, worker};

use super::{STATUS, Stage, WorkerEvent, WorkerSession};
use crate::outbox::Outbox;
use crate::terms::{ProxyClaims, check_proxy};
use crate::{MAX_PROTO_VERSION, MIN_PROTO_VERSION, Time, Violation};

const ANSWER_WITHIN: Duration = Duration::from_secs(30);

const CONNECT: &str = "worker.connectToProxy";
const COMPARE: &str = "worker.compareBalanceWithProxy";
const COMPARE_FURTHER: &str = "worker.extendedCompareBalanceWithProxy";
const COMPLETE: &str = "worker.proxyHandshakeComplete";

impl WorkerSession {
    pub(super) fn connect(&mut self, now: Time) -> Result<(), Violation> {
        self.stage = Stage::Connecting;
        self.told_coefficient = self.settings.coefficient;
        let settings = &self.settings;
        let natural = |number: u32| i32::try_from(number).unwrap_or(i32::MAX).max(1);
        let message = worker::ConnectToProxy {
            params: worker::Params {
                ext_flags: if settings.extensions { ext::EXT_V1 } else { 0 },
                worker_owner_address: settings.owner.to_wire_string(settings.is_testnet).into(),
                model: settings.model.clone().into(),
                coefficient: i32::try_from(settings.coefficient).unwrap_or(i32::MAX),
                limits: Some(worker::Limits {
                    is_test: settings.is_test,
                    proxy_cnt: natural(settings.proxies),
                    max_active_requests: natural(settings.max_active),
                }),
                proto: Some(ProtoRange { min: MIN_PROTO_VERSION, max: MAX_PROTO_VERSION }),
            },
        };
        self.link.query(CONNECT, &message, now, ANSWER_WITHIN)
    }

    pub(super) fn on_answer(&mut self, what: &'static str, data: Bytes, now: Time) -> Result<(), Violation> {
        match (what, &self.stage) {
            (CONNECT, Stage::Connecting) => self.on_connected(data),
            (COMPARE, Stage::Comparing(_)) => self.on_compared(data, now),
            (COMPARE_FURTHER, Stage::Comparing(_)) => {
                let answer: worker::ExtendedCompareBalanceWithProxyResult =
                    from_boxed(data).map_err(Violation::message("comparison answer"))?;
                if answer.error_code != 0 {
                    return Err(Violation::Mismatch("the proxy cannot reconcile its books with ours".into()));
                }
                self.complete(now)
            }
            (COMPLETE, Stage::Completing(terms)) => {
                let _: worker::ProxyHandshakeCompleted =
                    from_boxed(data).map_err(Violation::message("handshake answer"))?;
                self.outbox = Outbox::new(terms.extensions);
                self.stage = Stage::Ready(terms.clone());
                self.events.push_back(WorkerEvent::Ready);
                // What changed during the handshake.
                let (coefficient, paused) = (self.settings.coefficient, self.settings.paused);
                if coefficient != self.told_coefficient {
                    self.set_coefficient(coefficient);
                }
                if paused != self.told_paused {
                    self.set_paused(paused);
                }
                self.tell_abilities();
                Ok(())
            }
            (STATUS, Stage::Ready(_)) => {
                let status: worker::PaymentStatus =
                    from_boxed(data).map_err(Violation::message("payment status"))?;
                self.on_payment(None, status.db_tokens, status.max_tokens, status.signed_payment)
            }
            _ => Err(Violation::Unexpected("answer")),
        }
    }

    fn on_connected(&mut self, data: Bytes) -> Result<(), Violation> {
        let answer: worker::ConnectedToProxy =
            from_boxed(data).map_err(Violation::message("handshake answer"))?;
        let settings = &self.settings;
        let claims = ProxyClaims { params: &answer.params, pair_contract: &answer.worker_sc_address };
        let terms = check_proxy(
            &claims,
            &settings.root,
            &settings.root_address,
            settings.is_test,
            settings.extensions,
            |params, proxy, key| cocoon_ton::contracts::worker_address(params, &settings.owner, proxy, key),
        )?;
        self.stage = Stage::Comparing(Box::new(terms.clone()));
        self.events.push_back(WorkerEvent::Compare(terms));
        Ok(())
    }

    /// Goes on with the handshake, knowing what the proxy showed in earlier connections.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn compare(&mut self, known: PeerCounters, now: Time) -> Result<(), Violation> {
        self.known = known;
        self.known.begin_connection();
        // A published proxy aborts where these are larger than its own, so they are held against its answer here.
        let message = worker::CompareBalanceWithProxy {
            tokens_committed_to_blockchain: 0,
            tokens_committed_to_db: 0,
            max_tokens: i64::try_from(self.known.max()).unwrap_or(i64::MAX),
        };
        self.link.query(COMPARE, &message, now, ANSWER_WITHIN)
    }

    fn on_compared(&mut self, data: Bytes, now: Time) -> Result<(), Violation> {
        let result: worker::CompareBalanceWithProxyResult =
            from_boxed(data).map_err(Violation::message("comparison answer"))?;
        let tokens_committed_to_db = result.tokens_committed_to_db;
        self.on_payment(None, tokens_committed_to_db, result.max_tokens, result.signed_payment)?;
        if result.error_code == 0 {
            return self.complete(now);
        }
        let message = worker::ExtendedCompareBalanceWithProxy { tokens_committed_to_db, other: Bytes::new() };
        self.link.query(COMPARE_FURTHER, &message, now, ANSWER_WITHIN)
    }

    fn complete(&mut self, now: Time) -> Result<(), Violation> {
        let Stage::Comparing(terms) = &self.stage else { return Err(Violation::Unexpected("answer")) };
        self.stage = Stage::Completing(terms.clone());
        self.told_paused = self.settings.paused;
        let message = worker::ProxyHandshakeComplete { is_disabled: self.settings.paused };
        self.link.query(COMPLETE, &message, now, ANSWER_WITHIN)
    }
}
