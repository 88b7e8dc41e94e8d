//! How clients and workers are let in, and their queries afterwards.

use bytes::Bytes;
use cocoon_ledger::{ClientId, WorkerId};
use cocoon_ton::address::Address;
use cocoon_ton::contracts::{client_address, worker_address};
use cocoon_wire::codec::Message as _;
use cocoon_wire::tl::client::{self, ProxyConnectionAuth};
use cocoon_wire::tl::proxy::{self, SignedPayment};
use cocoon_wire::tl::{ClientQuery, ProtoRange, WorkerQuery, ext, worker};
use sha2::{Digest as _, Sha256};

use super::{ClientChainState, ClientStage, ConnId, Proxy, ProxyEvent, WorkerStage, base_name};
use crate::outbox::Outbox;
use crate::terms::parse_address;
use crate::{ErrorCode, MAX_PROTO_VERSION, MIN_PROTO_VERSION, Time, Violation};

/// Longest model name, in bytes.
pub(super) const MAX_MODEL_NAME: usize = 512;
/// Prices are below this, in 1/1000.
const COEFFICIENT_LIMIT: i32 = 1_000_000_000;

/// A refusal: told to the peer, then the connection closes.
type Refusal = (ErrorCode, String);

fn refusal<T>(code: ErrorCode, words: impl Into<String>) -> Result<T, Refusal> {
    Err((code, words.into()))
}

impl Proxy {
    pub(super) fn client_opened(&mut self, conn: ConnId) {
        if let Some(client) = self.client_mut(conn) {
            client.stage = ClientStage::Connecting;
        }
    }

    pub(super) fn worker_opened(&mut self, conn: ConnId) {
        if let Some(worker) = self.worker_mut(conn) {
            worker.stage = WorkerStage::Connecting;
        }
    }

    pub(super) fn on_client_query(&mut self, conn: ConnId, id: i64, data: Bytes) -> Result<(), Violation> {
        let query = ClientQuery::decode_boxed(data).map_err(Violation::message("query from client"))?;
        self.check_staying(conn)?;
        let now = Time(self.market.now_us());
        let Some(client) = self.client_mut(conn) else { return Ok(()) };
        let pages = match &query {
            ClientQuery::UpdatePaymentStatus(_)
            | ClientQuery::GetWorkerTypesV2(_)
            | ClientQuery::GetWorkerTypes(_) => Some(&mut client.lists),
            ClientQuery::GetWorkers(_) => Some(&mut client.worker_pages),
            ClientQuery::GetMarket(_) => Some(&mut client.market_pages),
            _ => None,
        };
        if client.stage == ClientStage::Ready && pages.is_some_and(|pages| !pages.take(now)) {
            if let Some(link) = self.link_mut(conn) {
                link.refuse(id, ErrorCode::NOT_READY, "this is asked for too often");
            }
            return Ok(());
        }
        match (query, client.stage) {
            (ClientQuery::ConnectToProxy(query), ClientStage::Connecting) => {
                let result = self.client_connects(conn, id, &query);
                self.answer_or_refuse(conn, id, result)
            }
            (ClientQuery::AuthorizeWithProxyShort(query), ClientStage::Authorizing { secret_hash, .. }) => {
                let hash: [u8; 32] = Sha256::digest(&query.data).into();
                if secret_hash == Some(hash) {
                    self.client_authorized(conn, id);
                    return Ok(());
                }
                self.answer_or_refuse(conn, id, refusal(ErrorCode::NONE, "sha256 mismatch"))
            }
            (
                ClientQuery::AuthorizeWithProxyLong(_),
                ClientStage::Authorizing { secret_hash, nonce, registered, waiting: None },
            ) => {
                if registered || self.settings.trust_long_authorization {
                    self.client_authorized(conn, id);
                } else if let Some(client) = self.client_mut(conn) {
                    let waiting = Some(id);
                    client.stage = ClientStage::Authorizing { secret_hash, nonce, registered, waiting };
                }
                Ok(())
            }
            (ClientQuery::UpdatePaymentStatus(_), ClientStage::Ready) => {
                let (db_tokens, max_tokens, signed_payment) = self.client_counters(conn);
                let status = client::PaymentStatus { signed_payment, db_tokens, max_tokens };
                self.answer(conn, id, &status);
                Ok(())
            }
            (ClientQuery::GetWorkerTypesV2(_), ClientStage::Ready) => {
                let types = self.worker_types(conn);
                self.answer(conn, id, &types);
                Ok(())
            }
            (ClientQuery::GetWorkerTypes(_), ClientStage::Ready) => {
                let types = self.old_worker_types(conn);
                self.answer(conn, id, &types);
                Ok(())
            }
            (ClientQuery::GetWorkers(query), ClientStage::Ready) if client.extensions => {
                let changes = self.roster.changes(query);
                self.answer(conn, id, &changes);
                Ok(())
            }
            (ClientQuery::GetEvidence(query), ClientStage::Ready) if client.extensions => {
                let evidence = self.roster.evidence(query.fingerprint);
                self.answer(conn, id, &evidence);
                Ok(())
            }
            (ClientQuery::GetMarket(query), ClientStage::Ready) if client.extensions => {
                self.on_get_market(conn, id, &query)
            }
            (ClientQuery::RequestRefund(_), ClientStage::Ready) => {
                self.on_refund_request(conn, id);
                Ok(())
            }
            _ => Err(Violation::Unexpected("query from client at this point")),
        }
    }

    /// A handshake goes no further on a connection that is on its way out.
    fn check_staying(&self, conn: ConnId) -> Result<(), Violation> {
        let Some(state) = self.conns.get(&conn) else { return Ok(()) };
        match (&state.leaving, state.is_ready()) {
            (Some(leaving), false) => Err(Violation::Mismatch(leaving.why.to_owned())),
            _ => Ok(()),
        }
    }

    pub(super) fn answer(&mut self, conn: ConnId, id: i64, message: &impl cocoon_wire::codec::Message) {
        if let Some(link) = self.link_mut(conn) {
            link.answer(id, message);
        }
    }

    /// Refuses towards the peer where `result` says so, and has the connection closed once that is sent.
    fn answer_or_refuse(
        &mut self,
        conn: ConnId,
        id: i64,
        result: Result<(), Refusal>,
    ) -> Result<(), Violation> {
        let Err((code, words)) = result else { return Ok(()) };
        if let Some(link) = self.link_mut(conn) {
            link.refuse(id, code, &words);
        }
        self.doomed.insert(conn, Violation::Mismatch(format!("refused: {words}")));
        Ok(())
    }

    fn client_connects(
        &mut self,
        conn: ConnId,
        id: i64,
        query: &client::ConnectToProxy,
    ) -> Result<(), Refusal> {
        let params = &query.params;
        self.check_network(params.is_test)?;
        if query.min_config_version.cast_unsigned() > self.settings.root.version {
            return refusal(ErrorCode::ERROR, "active config version is too low");
        }
        let proto_version = common_version(params.proto)?;
        let wallet = self.parse(&params.client_owner_address)?;
        let key = self.settings.key.verifying_key().to_bytes();
        let contract = client_address(&self.settings.root.params, &wallet, &self.settings.contract, &key)
            .or_else(|error| refusal(ErrorCode::NOT_READY, error.to_string()))?;
        let offers = |bit: u32| self.settings.extensions && params.ext_flags & bit != 0;
        let (extensions, restricts) = (offers(ext::EXT_V1), offers(ext::EXT_ALLOWS_WORKERS));
        if restricts && !extensions {
            return refusal(
                ErrorCode::PROTOCOL,
                "a client that chooses its workers must know extension set 1",
            );
        }
        if let Some(client) = self.client_mut(conn) {
            client.stage = ClientStage::Finding { query: id };
            client.proto_version = proto_version;
            client.extensions = extensions;
            client.allowed = restricts.then(Default::default);
            client.wallet = Some(wallet);
            client.contract = Some(contract);
            client.account = ClientId(*contract.hash());
            client.outbox = Outbox::new(extensions);
        }
        self.events.push_back(ProxyEvent::FindClient { conn, contract });
        Ok(())
    }

    /// Tells what the chain shows of the client that waits on `conn`; `None` where its contract does not exist, so that
    /// it has to register. A client whose contract is closing or closed is refused.
    pub fn client_found(&mut self, conn: ConnId, state: Option<ClientChainState>) {
        let nonce = (self.random_u64() >> 1).cast_signed();
        let Some(client) = self.client_mut(conn) else { return };
        let ClientStage::Finding { query } = client.stage else { return };
        let (account, contract) = (client.account, client.contract);
        let (proto_version, extensions) = (client.proto_version, client.extensions);
        let secret_hash = state.map(|state| state.secret_hash);
        client.stage = ClientStage::Authorizing { secret_hash, nonce, registered: false, waiting: None };
        client.chain = state;
        let Some(contract) = contract else { return };
        // Strangers leave nothing behind: who has no account yet gets one when it is let in.
        if let Some(state) = state
            && self.ledger.client(&account).is_some()
        {
            self.client_seen(&contract, state);
        }
        if self.turn_away(conn, query) {
            return;
        }
        let auth = match secret_hash {
            Some(secret_hash) => ProxyConnectionAuth::Short { secret_hash, nonce },
            None => ProxyConnectionAuth::Long { nonce },
        };
        let message = client::ConnectedToProxy {
            params: self.params(proto_version, extensions),
            client_sc_address: contract.to_wire_string(self.settings.is_testnet).into(),
            auth,
            // Signed at the end of the handshake; nothing was asked for yet.
            signed_payment: SignedPayment::Empty,
        };
        self.answer(conn, query, &message);
        self.flush_records();
    }

    /// A registration with this nonce was seen on chain, sent by this client contract. It counts for the connection that
    /// was given the nonce, also where the client has not asked for the outcome yet.
    pub fn client_registered(&mut self, contract: &Address, seen_nonce: i64, state: ClientChainState) {
        self.client_seen(contract, state);
        let mut waits = None;
        for (&conn, state) in &mut self.conns {
            let super::Peer::Client(client) = &mut state.peer else { continue };
            if let ClientStage::Authorizing { nonce, registered, waiting, .. } = &mut client.stage
                && *nonce == seen_nonce
                && client.contract.as_ref() == Some(contract)
            {
                *registered = true;
                waits = waiting.map(|query| (conn, query));
            }
        }
        if let Some((conn, query)) = waits {
            self.client_authorized(conn, query);
            self.flush_records();
        }
    }

    fn client_authorized(&mut self, conn: ConnId, query: i64) {
        // The chain may have moved since it was found.
        if self.turn_away(conn, query) {
            return;
        }
        let Some(client) = self.client_mut(conn) else { return };
        client.stage = ClientStage::Ready;
        let (account, chain) = (client.account, client.chain);
        if let Some(state) = chain
            && self.ledger.client(&account).is_none()
        {
            self.note_funds(account, state);
        }
        let (tokens_committed_to_db, max_tokens, signed_payment) = self.client_counters(conn);
        let success =
            client::AuthorizationWithProxy::Success { signed_payment, tokens_committed_to_db, max_tokens };
        self.answer(conn, query, &success);
        if let Some(link) = self.link_mut(conn) {
            link.let_in();
        }
        self.events.push_back(ProxyEvent::ClientReady { conn });
    }

    pub(super) fn on_worker_query(&mut self, conn: ConnId, id: i64, data: Bytes) -> Result<(), Violation> {
        let query = WorkerQuery::decode_boxed(data).map_err(Violation::message("query from worker"))?;
        self.check_staying(conn)?;
        let Some(worker) = self.worker_mut(conn) else { return Ok(()) };
        match (query, worker.stage) {
            (WorkerQuery::ConnectToProxy(query), WorkerStage::Connecting) => {
                let result = self.worker_connects(conn, id, &query);
                self.answer_or_refuse(conn, id, result)
            }
            (WorkerQuery::CompareBalanceWithProxy(query), WorkerStage::Comparing) => {
                // Whatever the worker believes, it is told what the books say; it decides whether to stay.
                let (tokens_committed_to_db, max_tokens, signed_payment) = self.worker_counters(conn);
                let behind = query.max_tokens > max_tokens;
                if let Some(worker) = self.worker_mut(conn) {
                    worker.stage =
                        if behind { WorkerStage::ComparingFurther } else { WorkerStage::Completing };
                }
                let error_code = i32::from(behind);
                let result = worker::CompareBalanceWithProxyResult {
                    signed_payment,
                    tokens_committed_to_db,
                    max_tokens,
                    error_code,
                };
                self.answer(conn, id, &result);
                Ok(())
            }
            (WorkerQuery::ExtendedCompareBalanceWithProxy(_), WorkerStage::ComparingFurther) => {
                worker.stage = WorkerStage::Completing;
                self.answer(conn, id, &worker::ExtendedCompareBalanceWithProxyResult { error_code: 0 });
                Ok(())
            }
            (WorkerQuery::ProxyHandshakeComplete(query), WorkerStage::Completing) => {
                worker.stage = WorkerStage::Ready;
                worker.paused = query.is_disabled;
                let (model, attested, account) =
                    (worker.model.clone(), worker.attested.clone(), worker.account);
                if let Some(state) = self.conns.get(&conn).and_then(super::Conn::market_state) {
                    self.market.join(conn, base_name(&model), *attested.fingerprint(), account.0, state);
                }
                self.roster.join(conn, &attested, &model);
                self.answer(conn, id, &worker::ProxyHandshakeCompleted {});
                if let Some(link) = self.link_mut(conn) {
                    link.let_in();
                }
                self.events.push_back(ProxyEvent::WorkerReady { conn, model });
                Ok(())
            }
            (WorkerQuery::UpdatePaymentStatus(_), WorkerStage::Ready) => {
                let (db_tokens, max_tokens, signed_payment) = self.worker_counters(conn);
                self.answer(conn, id, &worker::PaymentStatus { signed_payment, db_tokens, max_tokens });
                Ok(())
            }
            _ => Err(Violation::Unexpected("query from worker at this point")),
        }
    }

    fn worker_connects(
        &mut self,
        conn: ConnId,
        id: i64,
        query: &worker::ConnectToProxy,
    ) -> Result<(), Refusal> {
        let params = &query.params;
        let Some(limits) = params.limits else { return refusal(ErrorCode::ERROR, "too old worker") };
        self.check_network(Some(limits.is_test))?;
        let model = params.model.to_str().filter(|model| !model.is_empty() && model.len() <= MAX_MODEL_NAME);
        let Some(model) = model else { return refusal(ErrorCode::PROTOCOL, "invalid model name") };
        if base_name(model).is_empty() || model.chars().any(char::is_control) {
            return refusal(ErrorCode::PROTOCOL, "invalid model name");
        }
        let coefficient =
            u32::try_from(params.coefficient).ok().filter(|_| params.coefficient < COEFFICIENT_LIMIT);
        let Some(coefficient) = coefficient else {
            return refusal(ErrorCode::PROTOCOL, "invalid coefficient value");
        };
        let (Some(active), Some(proxies)) =
            (positive(limits.max_active_requests), positive(limits.proxy_cnt))
        else {
            return refusal(ErrorCode::PROTOCOL, "invalid max_active_requests or proxy_cnt value");
        };
        if self.settings.check_models && !self.settings.root.allows_model(model) {
            return refusal(ErrorCode::PROTOCOL, format!("invalid worker model '{model}'"));
        }
        let proto_version = common_version(params.proto)?;
        let owner = self.parse(&params.worker_owner_address)?;
        let key = self.settings.key.verifying_key().to_bytes();
        let contract = worker_address(&self.settings.root.params, &owner, &self.settings.contract, &key)
            .or_else(|error| refusal(ErrorCode::NOT_READY, error.to_string()))?;
        let account = WorkerId(*contract.hash());
        if self.closing_workers.contains(&account) || self.ledger.is_worker_closed(&account) {
            return refusal(ErrorCode::NOT_READY, "the worker's account at this proxy is closed");
        }
        let extensions = self.settings.extensions && params.ext_flags & ext::EXT_V1 != 0;
        let model = model.to_owned();
        if let Some(worker) = self.worker_mut(conn) {
            worker.stage = WorkerStage::Comparing;
            worker.extensions = extensions;
            worker.proto_version = proto_version;
            worker.contract = Some(contract);
            worker.account = account;
            worker.model = model;
            worker.coefficient = coefficient;
            worker.limit = active.div_ceil(proxies);
        }
        let message = worker::ConnectedToProxy {
            params: self.params(proto_version, extensions),
            worker_sc_address: contract.to_wire_string(self.settings.is_testnet).into(),
        };
        self.answer(conn, id, &message);
        Ok(())
    }

    fn check_network(&self, is_test: Option<bool>) -> Result<(), Refusal> {
        match is_test {
            None => refusal(ErrorCode::ERROR, "too old peer"),
            Some(is_test) if is_test != self.settings.is_test => {
                refusal(ErrorCode::ERROR, "test mode mismatch")
            }
            Some(_) => Ok(()),
        }
    }

    fn parse(&self, text: &cocoon_wire::codec::ByteStr) -> Result<Address, Refusal> {
        parse_address(text).or_else(|violation| refusal(ErrorCode::ERROR, violation.to_string()))
    }

    fn params(&self, proto_version: i32, extensions: bool) -> proxy::Params {
        let settings = &self.settings;
        proxy::Params {
            ext_flags: if extensions { ext::EXT_V1 } else { 0 },
            proxy_public_key: settings.key.verifying_key().to_bytes(),
            proxy_owner_address: settings.owner.to_wire_string(settings.is_testnet).into(),
            proxy_sc_address: settings.contract.to_wire_string(settings.is_testnet).into(),
            is_test: Some(settings.is_test),
            proto_version: Some(proto_version),
        }
    }

    /// What is on offer for this client.
    fn worker_types(&self, conn: ConnId) -> client::WorkerTypesV2 {
        let allowed = self.client(conn).and_then(|client| client.allowed.as_ref());
        let types = self.market.models().map(|name| {
            let offers = self.market.offers(name);
            let mut workers: Vec<_> = offers
                .filter(|offer| {
                    offer.state.ready && allowed.is_none_or(|allowed| allowed.contains(&offer.name))
                })
                .map(|offer| client::WorkerInstanceV2 {
                    flags: 0,
                    coefficient: offer.state.coefficient.cast_signed(),
                    active_requests: i32::try_from(offer.state.in_flight).unwrap_or(i32::MAX),
                    max_active_requests: i32::try_from(offer.state.limit).unwrap_or(i32::MAX),
                })
                .collect();
            workers.sort_by_key(|worker| worker.coefficient);
            client::WorkerTypeV2 { name: name.into(), workers }
        });
        client::WorkerTypesV2 { types: types.collect() }
    }

    fn old_worker_types(&self, conn: ConnId) -> client::WorkerTypes {
        let types = self.worker_types(conn).types.into_iter().map(|model| {
            let price = |at: Option<&client::WorkerInstanceV2>| at.map_or(0, |worker| worker.coefficient);
            client::WorkerType {
                active_workers: i32::try_from(model.workers.len()).unwrap_or(i32::MAX),
                coefficient_min: price(model.workers.first()),
                coefficient_bucket50: price(model.workers.get(model.workers.len() / 2)),
                coefficient_max: price(model.workers.last()),
                name: model.name,
            }
        });
        client::WorkerTypes { types: types.collect() }
    }
}

fn positive(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|&number| number > 0)
}

fn common_version(range: Option<ProtoRange>) -> Result<i32, Refusal> {
    let ProtoRange { min, max } = range.unwrap_or(ProtoRange { min: 0, max: 0 });
    if max < MIN_PROTO_VERSION || min > MAX_PROTO_VERSION || min > max {
        return refusal(ErrorCode::PROTOCOL, "cannot choose common protocol version");
    }
    Ok(max.min(MAX_PROTO_VERSION))
}
