//! The gateway's side of one connection to a proxy.
//!
//! Life: opening, `client.connectToProxy`, authorisation, ready. Then requests go out with [`ClientSession::submit`] and
//! their answers come as events. With a proxy of ours, answers are held back by credit: the caller's reading
//! ([`ClientSession::consumed`]) grants more. With a published proxy at most [`MAX_HELD_BYTES`] are held per request.
//!
//! A proxy of ours tells which workers it has ([`ClientEvent::Workers`]) and passes on what they showed of themselves
//! ([`ClientSession::want_evidence`]). A client that restricts its workers names those that may see its requests
//! ([`ClientSession::allow_workers`]); none may before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_ton::address::Address;
use cocoon_ton::root::RootConfig;
use cocoon_wire::codec::{ByteStr, from_boxed};
use cocoon_wire::frame::MAX_FRAME_PAYLOAD;
use cocoon_wire::tl::{self, ProtoRange, ProxyToClient, client, ext, http};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::answer::{ERROR_HEADER, OWN_HEADERS, TIME_SHARE, fits, sanitize, take_worker};
use crate::body::join_body;
use crate::link::{Link, LinkEvent, Side};
use crate::market::Walk;
use crate::options::Options;
use crate::outbox::Outbox;
use crate::terms::{ProxyClaims, check_proxy, words};
use crate::workers::{Progress, Workers};
use crate::{
    AllowError, ErrorCode, FinalInfo, INITIAL_CREDIT_BYTES, KnownMarket, MAX_HELD_BYTES, MAX_PROTO_VERSION,
    MIN_PROTO_VERSION, PaymentCounters, Preference, ProxyTerms, RequestFailure, Time, Violation,
    WorkerEvidence, WorkerList,
};

/// Largest encoded `http.request` that fits a frame with what is around it.
pub const MAX_QUERY_BYTES: usize = MAX_FRAME_PAYLOAD - 4096;
/// Requests under way on one connection.
pub const MAX_REQUESTS: usize = 16_384;

const CONNECT_WITHIN: Duration = Duration::from_secs(30);
const AUTHORIZE_WITHIN: Duration = Duration::from_secs(300);
/// For what is asked now and then: its answer may wait behind much data, and silence has its own limit.
const STATUS_WITHIN: Duration = Duration::from_secs(60);
/// How often the payment status is compared.
const STATUS_EVERY: Duration = Duration::from_secs(15);
/// How often offers and workers are asked for without being told to.
const MODELS_EVERY: Duration = Duration::from_secs(1);

/// Why a proxy is not used that might give requests to any worker.
const NO_CHOICE: &str = "the proxy knows no extension set 1, so it cannot be told which workers may see our requests; \
     we demand evidence of workers";

const CONNECT: &str = "client.connectToProxy";
const AUTHORIZE: &str = "client.authorizeWithProxy";
const STATUS: &str = "client.updatePaymentStatus";
const MODELS: &str = "client.getWorkerTypesV2";
const REFUND: &str = "client.requestRefund";
const WORKERS: &str = "cocoon.getWorkers";
const EVIDENCE: &str = "cocoon.getEvidence";
const MARKET: &str = "cocoon.getMarket";

/// Who the client is, and what it works with.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// The client's wallet, by which proxies know it.
    pub wallet: Address,
    /// Whether the network is a test network.
    pub is_test: bool,
    /// Whether addresses are written in the testnet form.
    pub is_testnet: bool,
    /// Proves to a proxy, by its hash on chain, that we are this client.
    pub secret: ClientSecret,
    /// Root configuration to work with.
    pub root: Arc<RootConfig>,
    /// Address of the root contract.
    pub root_address: Address,
    /// Whether to offer extension set 1.
    pub extensions: bool,
    /// Whether only workers that were allowed may see requests. A proxy that cannot be told so is not used.
    pub restrict_workers: bool,
}

/// What proves to a proxy, by its hash on chain, that we are this client.
#[derive(Clone)]
pub enum ClientSecret {
    /// The same for every proxy, as published nodes have it.
    Shared(Zeroizing<Vec<u8>>),
    /// Another one for each proxy contract, derived from this: what one proxy has heard opens nothing at another.
    PerProxy(Zeroizing<Vec<u8>>),
}

impl std::fmt::Debug for ClientSecret {
    /// Not the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shared(_) => "Shared(..)",
            Self::PerProxy(_) => "PerProxy(..)",
        })
    }
}

impl ClientSecret {
    /// What the proxy with this contract is told.
    #[must_use]
    pub fn for_proxy(&self, proxy: &Address) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Shared(secret) => secret.clone(),
            Self::PerProxy(secret) => {
                let derived = Sha256::new()
                    .chain_update(b"cocoon client secret")
                    .chain_update(Sha256::digest(secret))
                    .chain_update(proxy.workchain().to_be_bytes())
                    .chain_update(proxy.hash())
                    .finalize();
                Zeroizing::new(derived.to_vec())
            }
        }
    }

    /// The hash that stands on chain for it.
    #[must_use]
    pub fn hash_for_proxy(&self, proxy: &Address) -> [u8; 32] {
        Sha256::digest(self.for_proxy(proxy).as_slice()).into()
    }
}

/// A request on its way in.
#[derive(Debug, Clone)]
pub struct Submission {
    /// 256 random bits.
    pub id: [u8; 32],
    /// Model name without `@...`.
    pub model: String,
    /// The boxed `http.request`, at most [`MAX_QUERY_BYTES`].
    pub query: Bytes,
    /// The bytes of the body that follow those in the query, as [`split_body`](crate::split_body) has them; none where
    /// the query holds all. A published proxy gets them in the query all the same.
    pub body: Bytes,
    /// Highest price accepted, in 1/1000.
    pub max_coefficient: i32,
    /// Limit of completion tokens, all choices together.
    pub max_tokens: i32,
    /// Time that is left.
    pub timeout: Duration,
    /// Ask all hops for timings.
    pub enable_debug: bool,
    /// What its worker must be able to do: bits of [`ability`](crate::ability). This and what follows is told to
    /// proxies of ours only; a published one goes by the model alone.
    pub needs: u32,
    /// Which of the workers that can serve it.
    pub preference: Preference,
    /// Hashes of growing prefixes of the prompt, shortest first, at most [`MAX_AFFINITY`](crate::MAX_AFFINITY): the
    /// proxy likes to give prompts that begin alike to the same worker.
    pub affinity: Vec<u64>,
    /// A W3C `traceparent`, at most [`MAX_TRACE_BYTES`](crate::MAX_TRACE_BYTES).
    pub trace: Option<String>,
}

/// One worker's offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Price in 1/1000 of the base price.
    pub coefficient: u32,
    /// Requests under way.
    pub active: u32,
    /// Most requests at a time.
    pub limit: u32,
}

/// A model and its offers, cheapest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelOffers {
    /// Model name without `@...`.
    pub name: String,
    /// The offers of workers that are ready.
    pub offers: Vec<Offer>,
}

/// What happened on the connection.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientEvent {
    /// Requests can be submitted.
    Ready(ProxyTerms),
    /// The proxy waits to see our registration with this nonce on chain.
    RegistrationNeeded {
        /// The nonce to register.
        nonce: i64,
        /// The client contract to send it to.
        contract: Address,
        /// What the proxy said of itself. It has not authorised us yet.
        terms: ProxyTerms,
    },
    /// The head of an answer: a sane status, and headers without those that frame the body. Its payload is empty.
    Head {
        /// Which request.
        request: [u8; 32],
        /// The worker that answers, by the fingerprint of its certificate, as a proxy of ours names it. `None` where
        /// there was no worker, or where the proxy is a published one.
        worker: Option<[u8; 32]>,
        /// Status and headers.
        head: http::Response,
    },
    /// Body bytes of an answer.
    Data {
        /// Which request.
        request: [u8; 32],
        /// The bytes.
        data: Bytes,
    },
    /// The answer is complete.
    Completed {
        /// Which request.
        request: [u8; 32],
        /// What it used.
        info: FinalInfo,
        /// Debug information of worker and proxy, JSON, where asked for.
        debug: Option<(ByteStr, ByteStr)>,
    },
    /// The answer will not be complete.
    Failed {
        /// Which request.
        request: [u8; 32],
        /// Why.
        failure: RequestFailure,
        /// What it used all the same, where that is known.
        info: Option<FinalInfo>,
    },
    /// The proxy acknowledges the payment of a request, or (without a request) tells the state of the account.
    Payment {
        /// Which request, and what it cost in adjusted tokens.
        request: Option<([u8; 32], i64)>,
        /// The counters now.
        counters: PaymentCounters,
    },
    /// What is on offer.
    Models(Vec<ModelOffers>),
    /// Which workers are connected to the proxy: the whole list, at first and each time that it has changed.
    Workers(Arc<WorkerList>),
    /// What a worker showed of itself.
    Evidence {
        /// The worker, as asked for.
        fingerprint: [u8; 32],
        /// `None`: the proxy does not know it, or no longer.
        evidence: Option<WorkerEvidence>,
    },
    /// What is on offer, as asked for by [`ClientSession::ask_market`].
    Market(Arc<KnownMarket>),
    /// The account is closed for good. This signed order makes the client contract pay back what is left; it is not
    /// verified here.
    RefundGranted {
        /// The order, as bytes on the wire.
        order: Bytes,
    },
    /// No refund now.
    RefundRejected {
        /// How many requests the proxy still works on; 0 where it gives another reason.
        active_queries: i64,
    },
}

#[derive(Debug)]
enum Stage {
    Opening,
    Connecting,
    Authorizing(Box<ProxyTerms>),
    Ready(Box<ProxyTerms>),
}

#[derive(Debug)]
struct Running {
    deadline: Time,
    answering: bool,
    held: usize,
    grant: usize,
}

/// One connection to a proxy.
#[derive(Debug)]
pub struct ClientSession {
    settings: ClientSettings,
    link: Link,
    stage: Stage,
    requests: BTreeMap<[u8; 32], Running>,
    deadlines: BTreeSet<(Time, [u8; 32])>,
    events: VecDeque<ClientEvent>,
    next_status: Time,
    next_models: Time,
    /// The offers were asked for, and the answer is not there yet.
    models_asked: bool,
    refund_asked: bool,
    workers: Workers,
    /// As `models_asked`.
    workers_asked: bool,
    /// Bodies of requests that are not all out yet.
    bodies: Outbox<[u8; 32], (), ()>,
    market: Walk,
}

impl ClientSession {
    /// A connection that was just made. `random` seeds ids.
    #[must_use]
    pub fn new(settings: ClientSettings, now: Time, random: u64) -> Self {
        Self {
            settings,
            link: Link::new(Side::Dialler, now, random),
            stage: Stage::Opening,
            requests: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            events: VecDeque::new(),
            next_status: now.plus(STATUS_EVERY),
            next_models: now,
            models_asked: false,
            refund_asked: false,
            workers: Workers::default(),
            workers_asked: false,
            bodies: Outbox::new(true),
            market: Walk::default(),
        }
    }

    /// Takes in what was received; leaves an incomplete frame in `received`.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn receive(&mut self, received: &mut BytesMut, now: Time) -> Result<(), Violation> {
        while let Some(event) = self.link.receive(received, now)? {
            match event {
                LinkEvent::Opened => self.connect(now)?,
                LinkEvent::Packet(data) => self.on_packet(data)?,
                LinkEvent::Query { id, .. } => {
                    self.link.refuse(id, ErrorCode::PROTOCOL, "a client takes no queries")
                }
                LinkEvent::Answer { what, data } => self.on_answer(what, data, now)?,
                LinkEvent::Refused { what: MODELS, .. } => self.models_asked = false,
                LinkEvent::Refused { what: WORKERS, .. } => self.workers_asked = false,
                LinkEvent::Refused { what: STATUS, .. } => {}
                LinkEvent::Refused { what: MARKET, .. } => self.market.refused(),
                LinkEvent::Refused { what: REFUND, .. } => {
                    self.refund_asked = false;
                    self.events.push_back(ClientEvent::RefundRejected { active_queries: 0 });
                }
                LinkEvent::Refused { code, message, .. } => return Err(Violation::Refused { code, message }),
            }
        }
        Ok(())
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Bytes to send, about `capacity` of them.
    pub fn transmit(&mut self, capacity: usize) -> Option<Bytes> {
        while self.link.unsent() < capacity
            && let Some(chunk) = self.bodies.next_chunk()
        {
            let (request_id, data, last) = (chunk.key, chunk.data, chunk.end.is_some());
            self.link.packet(&ext::BodyPart { request_id, data, last });
        }
        self.link.take_output()
    }

    /// Bytes of requests' bodies that wait for the proxy to take them.
    #[must_use]
    pub fn unsent_body_bytes(&self) -> usize {
        self.bodies.total_queued()
    }

    /// The proxy's terms once the connection is ready.
    #[must_use]
    pub fn terms(&self) -> Option<&ProxyTerms> {
        match &self.stage {
            Stage::Ready(terms) => Some(terms),
            _ => None,
        }
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.requests.len()
    }

    fn connect(&mut self, now: Time) -> Result<(), Violation> {
        self.stage = Stage::Connecting;
        let settings = &self.settings;
        let ext_flags = match (settings.extensions, settings.restrict_workers) {
            (false, _) => 0,
            (true, false) => ext::EXT_V1,
            (true, true) => ext::EXT_V1 | ext::EXT_ALLOWS_WORKERS,
        };
        let message = client::ConnectToProxy {
            params: client::Params {
                ext_flags,
                client_owner_address: settings.wallet.to_wire_string(settings.is_testnet).into(),
                is_test: Some(settings.is_test),
                proto: Some(ProtoRange { min: MIN_PROTO_VERSION, max: MAX_PROTO_VERSION }),
            },
            min_config_version: settings.root.version.cast_signed(),
        };
        self.link.query(CONNECT, &message, now, CONNECT_WITHIN)
    }

    fn on_answer(&mut self, what: &'static str, data: Bytes, now: Time) -> Result<(), Violation> {
        match (what, &self.stage) {
            (CONNECT, Stage::Connecting) => self.on_connected(data, now),
            (AUTHORIZE, Stage::Authorizing(terms)) => {
                let terms = terms.clone();
                self.on_authorized(data, terms)
            }
            (STATUS, Stage::Ready(_)) => {
                let status: client::PaymentStatus =
                    from_boxed(data).map_err(Violation::message("payment status"))?;
                let counters =
                    PaymentCounters::new(status.db_tokens, status.max_tokens, status.signed_payment);
                self.events.push_back(ClientEvent::Payment { request: None, counters });
                Ok(())
            }
            (MODELS, Stage::Ready(_)) => self.on_models(data),
            (WORKERS, Stage::Ready(_)) => self.on_workers(data, now),
            (EVIDENCE, Stage::Ready(_)) => self.on_evidence(data, now),
            (MARKET, Stage::Ready(_)) => self.on_market(data, now),
            (REFUND, Stage::Ready(_)) => {
                self.refund_asked = false;
                let answer = from_boxed(data).map_err(Violation::message("refund answer"))?;
                self.events.push_back(match answer {
                    client::Refund::Refund { data } => ClientEvent::RefundGranted { order: data },
                    client::Refund::Rejected { active_queries } => {
                        ClientEvent::RefundRejected { active_queries: active_queries.max(0) }
                    }
                });
                Ok(())
            }
            _ => Err(Violation::Unexpected("answer")),
        }
    }

    fn on_connected(&mut self, data: Bytes, now: Time) -> Result<(), Violation> {
        let answer: client::ConnectedToProxy =
            from_boxed(data).map_err(Violation::message("handshake answer"))?;
        let settings = &self.settings;
        let claims = ProxyClaims { params: &answer.params, pair_contract: &answer.client_sc_address };
        let terms = check_proxy(
            &claims,
            &settings.root,
            &settings.root_address,
            settings.is_test,
            settings.extensions,
            |params, proxy, key| cocoon_ton::contracts::client_address(params, &settings.wallet, proxy, key),
        )?;
        if settings.restrict_workers && !terms.extensions {
            return Err(Violation::Mismatch(NO_CHOICE.into()));
        }
        match answer.auth {
            client::ProxyConnectionAuth::Short { secret_hash, .. }
                if settings.secret.hash_for_proxy(&terms.contract) == secret_hash =>
            {
                let data = Bytes::copy_from_slice(&settings.secret.for_proxy(&terms.contract));
                let message = client::AuthorizeWithProxyShort { data };
                self.link.query(AUTHORIZE, &message, now, AUTHORIZE_WITHIN)?;
            }
            client::ProxyConnectionAuth::Short { nonce, .. }
            | client::ProxyConnectionAuth::Long { nonce } => {
                let contract = terms.pair_contract;
                let event = ClientEvent::RegistrationNeeded { nonce, contract, terms: terms.clone() };
                self.events.push_back(event);
                self.link.query(AUTHORIZE, &client::AuthorizeWithProxyLong {}, now, AUTHORIZE_WITHIN)?;
            }
        }
        self.stage = Stage::Authorizing(Box::new(terms));
        Ok(())
    }

    fn on_authorized(&mut self, data: Bytes, terms: Box<ProxyTerms>) -> Result<(), Violation> {
        match from_boxed(data).map_err(Violation::message("authorisation answer"))? {
            client::AuthorizationWithProxy::Success {
                signed_payment,
                tokens_committed_to_db,
                max_tokens,
            } => {
                self.events.push_back(ClientEvent::Ready(terms.as_ref().clone()));
                let counters = PaymentCounters::new(tokens_committed_to_db, max_tokens, signed_payment);
                self.events.push_back(ClientEvent::Payment { request: None, counters });
                self.stage = Stage::Ready(terms);
                Ok(())
            }
            client::AuthorizationWithProxy::Failed { error_code, error } => {
                Err(Violation::Refused { code: error_code, message: words(&error) })
            }
        }
    }

    fn on_models(&mut self, data: Bytes) -> Result<(), Violation> {
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

    fn on_workers(&mut self, data: Bytes, now: Time) -> Result<(), Violation> {
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

    fn on_evidence(&mut self, data: Bytes, now: Time) -> Result<(), Violation> {
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

    fn on_market(&mut self, data: Bytes, now: Time) -> Result<(), Violation> {
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

    /// Asks the proxy to close our account and to order the refund of what is left; the answer comes as an event. Our
    /// requests must be over, and their answers read. Nothing happens before the connection is ready, and while
    /// an answer is awaited.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn request_refund(&mut self, now: Time) -> Result<(), Violation> {
        if matches!(self.stage, Stage::Ready(_)) && !std::mem::replace(&mut self.refund_asked, true) {
            self.link.query(REFUND, &client::RequestRefund {}, now, STATUS_WITHIN)?;
        }
        Ok(())
    }

    /// Sends a request.
    ///
    /// # Errors
    /// Says why it cannot be sent; nothing was sent then.
    pub fn submit(&mut self, request: &Submission, now: Time) -> Result<(), RequestFailure> {
        let refuse = |message: &str| Err(RequestFailure::new(ErrorCode::NOT_READY, message));
        if !matches!(self.stage, Stage::Ready(_)) {
            return refuse("the connection to the proxy is not ready");
        }
        if self.requests.len() >= MAX_REQUESTS || self.link.unsent() > MAX_FRAME_PAYLOAD {
            return refuse("too many requests are under way to this proxy");
        }
        let extensions = self.extensions();
        let streams = extensions && !request.body.is_empty();
        let query = if streams || request.body.is_empty() {
            Some(request.query.clone())
        } else {
            // Not joined in vain.
            let fits = request.query.len() + request.body.len() <= MAX_QUERY_BYTES;
            fits.then(|| join_body(&request.query, &request.body)).flatten()
        };
        let Some(query) = query.filter(|query| query.len() <= MAX_QUERY_BYTES) else {
            return Err(RequestFailure::new(ErrorCode::PROTOCOL, "the request is too large for this proxy"));
        };
        if self.requests.contains_key(&request.id) {
            return Err(RequestFailure::new(ErrorCode::PROTOCOL, "the request's id is in use"));
        }
        if extensions {
            let options = Options {
                needs: request.needs,
                preference: request.preference,
                affinity: request.affinity.clone(),
                trace: request.trace.clone(),
                body_bytes: streams.then_some(request.body.len() as u64),
            };
            self.link.packet(&options.to_wire(request.id));
        }
        self.link.packet(&client::RunQueryEx {
            model_name: request.model.clone().into(),
            query,
            max_coefficient: request.max_coefficient,
            max_tokens: request.max_tokens,
            timeout: request.timeout.as_secs_f64() * TIME_SHARE,
            request_id: request.id,
            min_config_version: self.settings.root.version.cast_signed(),
            enable_debug: Some(request.enable_debug),
        });
        // The proxy and the worker time out before us and say so; this is for those that do not.
        let deadline = now.plus(request.timeout);
        self.requests.insert(request.id, Running { deadline, answering: false, held: 0, grant: 0 });
        self.deadlines.insert((deadline, request.id));
        if streams {
            self.bodies.open(request.id);
            self.bodies.data(request.id, request.body.clone());
            self.bodies.end(request.id, ());
        }
        Ok(())
    }

    /// Gives a request up: no more events come for it, and a proxy of ours stops the work.
    pub fn cancel(&mut self, request: [u8; 32]) {
        if self.forget(&request).is_some() && self.extensions() {
            self.link.packet(&ext::Cancel { request_id: request });
        }
    }

    /// Notes that `bytes` of an answer were passed on to the caller.
    pub fn consumed(&mut self, request: [u8; 32], bytes: usize) {
        let extensions = self.extensions();
        let Some(running) = self.requests.get_mut(&request) else { return };
        running.held = running.held.saturating_sub(bytes);
        running.grant += bytes;
        if extensions && running.grant >= INITIAL_CREDIT_BYTES / 4 {
            let bytes = i64::try_from(std::mem::take(&mut running.grant)).unwrap_or(0);
            self.link.packet(&ext::Credit { request_id: request, bytes });
        }
    }

    fn extensions(&self) -> bool {
        self.terms().is_some_and(|terms| terms.extensions)
    }

    fn forget(&mut self, request: &[u8; 32]) -> Option<Running> {
        let running = self.requests.remove(request)?;
        self.deadlines.remove(&(running.deadline, *request));
        // Whatever of its body is not out yet, nobody waits for.
        self.bodies.close(*request);
        Some(running)
    }

    fn on_packet(&mut self, data: Bytes) -> Result<(), Violation> {
        if !matches!(self.stage, Stage::Ready(_)) {
            return Err(Violation::Unexpected("packet before the handshake is done"));
        }
        let packet = <ProxyToClient as cocoon_wire::codec::Message>::decode_boxed(data)
            .map_err(Violation::message("packet from proxy"))?;
        match packet {
            ProxyToClient::QueryAnswerEx(m) => self.on_head(m.request_id, m.answer, m.final_info.map(ending)),
            ProxyToClient::QueryAnswerPartEx(m) => {
                self.on_part(m.request_id, m.answer, m.final_info.map(ending))
            }
            ProxyToClient::QueryAnswerErrorEx(m) => {
                self.on_error(m.request_id, m.error_code, &m.error, m.final_info.map(|info| ending(info).0));
                Ok(())
            }
            ProxyToClient::QueryAnswer(m) => {
                let end = m.is_completed.then(|| old_ending(m.request_tokens_used));
                self.on_head(m.request_id, m.answer, end)
            }
            ProxyToClient::QueryAnswerPart(m) => {
                let end = m.is_completed.then(|| old_ending(m.request_tokens_used));
                self.on_part(m.request_id, m.answer, end)
            }
            ProxyToClient::QueryAnswerError(m) => {
                let info = Some(old_ending(m.request_tokens_used).0);
                self.on_error(m.request_id, m.error_code, &m.error, info);
                Ok(())
            }
            ProxyToClient::QueryAnswerPartError(m) => {
                let info = Some(old_ending(m.request_tokens_used).0);
                self.on_error(m.request_id, m.error_code, &m.error, info);
                Ok(())
            }
            ProxyToClient::BodyCredit(m) => {
                let bytes = usize::try_from(m.bytes).map_err(|_| Violation::Unexpected("negative credit"))?;
                self.bodies.grant(m.request_id, bytes);
                Ok(())
            }
            ProxyToClient::ClientRequestPayment(m) => {
                let counters = PaymentCounters::new(m.db_tokens, m.max_tokens, m.signed_payment);
                let request = Some((m.request_id, m.request_tokens));
                self.events.push_back(ClientEvent::Payment { request, counters });
                Ok(())
            }
        }
    }

    fn on_head(&mut self, request: [u8; 32], answer: Bytes, end: Option<Ending>) -> Result<(), Violation> {
        let Some(running) = self.requests.get_mut(&request) else { return Ok(()) };
        if std::mem::replace(&mut running.answering, true) {
            return Err(Violation::Unexpected("second head of an answer"));
        }
        let mut head: http::Response = from_boxed(answer).map_err(Violation::message("http.response"))?;
        let data = std::mem::take(&mut head.payload);
        // A published proxy passes on what a worker says of itself.
        let worker = take_worker(&mut head).filter(|_| self.extensions());
        if self.settings.restrict_workers {
            self.check_worker(&head, worker)?;
        }
        // Published workers leave a stale `Content-Length` in, and a proxy passes on what a worker says.
        let Some(head) = Some(head).filter(|head| fits(&head.headers, OWN_HEADERS)).and_then(sanitize) else {
            let failure = RequestFailure::new(ErrorCode::ERROR, "the answer is no HTTP");
            self.cancel(request);
            self.events.push_back(ClientEvent::Failed { request, failure, info: None });
            return Ok(());
        };
        self.events.push_back(ClientEvent::Head { request, worker, head });
        self.on_body(request, data, end);
        Ok(())
    }

    /// The proxy is at fault where a worker answers that we have not allowed.
    fn check_worker(&self, head: &http::Response, worker: Option<[u8; 32]>) -> Result<(), Violation> {
        let is_error =
            |header: &http::Header| header.name.as_bytes().eq_ignore_ascii_case(ERROR_HEADER.as_bytes());
        match worker {
            Some(worker) if self.workers.may_have(&worker) => Ok(()),
            Some(_) => {
                Err(Violation::Mismatch("the proxy gave a request to a worker that we do not allow".into()))
            }
            None if head.headers.iter().any(is_error) => Ok(()),
            None => Err(Violation::Unexpected("answer without the name of its worker")),
        }
    }

    fn on_part(&mut self, request: [u8; 32], data: Bytes, end: Option<Ending>) -> Result<(), Violation> {
        match self.requests.get(&request) {
            None => return Ok(()),
            Some(running) if !running.answering => return Err(Violation::Unexpected("part before the head")),
            Some(_) => self.on_body(request, data, end),
        }
        Ok(())
    }

    fn on_body(&mut self, request: [u8; 32], data: Bytes, end: Option<Ending>) {
        let Some(running) = self.requests.get_mut(&request) else { return };
        running.held += data.len();
        if running.held > MAX_HELD_BYTES {
            let failure = RequestFailure::new(ErrorCode::ERROR, "the caller reads too slowly");
            self.cancel(request);
            self.events.push_back(ClientEvent::Failed { request, failure, info: None });
            return;
        }
        if !data.is_empty() {
            self.events.push_back(ClientEvent::Data { request, data });
        }
        if let Some((info, debug)) = end {
            self.forget(&request);
            self.events.push_back(ClientEvent::Completed { request, info, debug });
        }
    }

    fn on_error(&mut self, request: [u8; 32], code: i32, message: &ByteStr, info: Option<FinalInfo>) {
        if self.forget(&request).is_some() {
            let message = words(message);
            let failure = RequestFailure::new(ErrorCode(code), message);
            self.events.push_back(ClientEvent::Failed { request, failure, info });
        }
    }

    /// Does what is due. Call at least every 100 ms.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn on_time(&mut self, now: Time) -> Result<(), Violation> {
        self.link.on_time(now)?;
        while let Some(&(deadline, request)) = self.deadlines.first()
            && deadline <= now
        {
            self.cancel(request);
            let failure = RequestFailure::new(ErrorCode::TIMEOUT, "the proxy did not answer in time");
            self.events.push_back(ClientEvent::Failed { request, failure, info: None });
        }
        if matches!(self.stage, Stage::Ready(_)) {
            if now >= self.next_models {
                self.refresh_models(now)?;
                self.refresh_workers(now)?;
            }
            if now >= self.next_status {
                self.next_status = now.plus(STATUS_EVERY);
                self.link.query(STATUS, &client::UpdatePaymentStatus {}, now, STATUS_WITHIN)?;
            }
        }
        Ok(())
    }

    /// The connection is gone: every request under way fails. Returns the events that were left, too.
    pub fn close(mut self, why: &str) -> Vec<ClientEvent> {
        let failure =
            RequestFailure::new(ErrorCode::NOT_READY, format!("connection to the proxy lost: {why}"));
        let lost = self.requests.keys().map(|&request| ClientEvent::Failed {
            request,
            failure: failure.clone(),
            info: None,
        });
        self.events.extend(lost.collect::<Vec<_>>());
        self.events.into()
    }
}

type Ending = (FinalInfo, Option<(ByteStr, ByteStr)>);

fn ending(info: client::QueryFinalInfo) -> Ending {
    let mut result = FinalInfo { tokens: info.tokens_used, ..FinalInfo::default() };
    if let Some(timings) = info.timings {
        result.worker_start = timings.worker_start_time;
        result.worker_end = timings.worker_end_time;
        result.proxy_start = timings.proxy_start_time;
        result.proxy_end = timings.proxy_end_time;
    }
    (result, info.debug.map(|debug| (debug.worker_debug, debug.proxy_debug)))
}

fn old_ending(tokens: tl::TokensUsed) -> Ending {
    (FinalInfo { tokens, ..FinalInfo::default() }, None)
}
