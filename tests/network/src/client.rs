//! A client of the network that behaves well: the gateway's side of the protocol, and nothing around it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_net::{DialOptions, Endpoint, MonotonicClock, TlsSettings, dial, pump};
use cocoon_session::client::{
    ClientEvent, ClientSecret, ClientSession, ClientSettings, ModelOffers, Offer, Submission,
};
use cocoon_session::{FinalInfo, PaymentCounters, Preference, ProxyTerms, RequestFailure, Time};
use cocoon_ton::{Address, RootConfig};
use cocoon_wire::codec::to_boxed;
use cocoon_wire::tl::http;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use zeroize::Zeroizing;

use crate::network::SECRET;
use crate::raw::{MODEL, http_request};
use crate::within;

/// A request, ordinary unless said otherwise.
#[derive(Clone)]
pub struct Ask {
    pub model: String,
    pub body: serde_json::Value,
    pub max_coefficient: i32,
    pub max_tokens: i32,
    pub timeout: Duration,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            model: MODEL.to_owned(),
            body: serde_json::json!({"model": MODEL, "messages": [{"role": "user", "content": "Hello?"}]}),
            max_coefficient: 4000,
            max_tokens: 100,
            timeout: Duration::from_secs(60),
        }
    }
}

impl Ask {
    /// A streamed one.
    pub fn streamed() -> Self {
        let mut ask = Self::default();
        ask.body["stream"] = true.into();
        ask
    }
}

/// A payment notice, or the state of the account (without a request).
#[derive(Debug, Clone)]
pub struct Notice {
    pub request: Option<([u8; 32], i64)>,
    pub counters: PaymentCounters,
}

#[derive(Debug, Default)]
struct State {
    terms: Option<ProxyTerms>,
    notices: Vec<Notice>,
    models: Option<Vec<ModelOffers>>,
    ended: Option<String>,
}

struct Machine {
    session: ClientSession,
    exchanges: HashMap<[u8; 32], mpsc::UnboundedSender<ClientEvent>>,
}

struct Shared {
    machine: Mutex<Machine>,
    state: watch::Sender<State>,
    wake: Notify,
    clock: MonotonicClock,
}

/// One connection to a proxy.
pub struct TestClient {
    shared: Arc<Shared>,
    _close: DropGuard,
}

/// A request under way.
pub struct Exchange {
    pub id: [u8; 32],
    events: mpsc::UnboundedReceiver<ClientEvent>,
    shared: Arc<Shared>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub id: [u8; 32],
    pub status: i32,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub end: Result<FinalInfo, RequestFailure>,
}

impl Answer {
    /// The type of the error in the body, as OpenAI's clients see it.
    pub fn error_type(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["error"]["type"].as_str().unwrap_or("none").to_owned()
    }
}

impl TestClient {
    /// Connects and waits until requests can be sent.
    pub async fn connect(
        proxy: SocketAddr,
        tls: &TlsSettings,
        wallet: Address,
        root: Arc<RootConfig>,
        extensions: bool,
    ) -> Self {
        let client = Self::dial(proxy, tls, wallet, root, extensions).await.unwrap();
        assert!(client.let_in().await, "the client was not let in");
        client
    }

    /// Connects, and begins the handshake.
    ///
    /// # Errors
    /// The proxy cannot be reached.
    pub async fn dial(
        proxy: SocketAddr,
        tls: &TlsSettings,
        wallet: Address,
        root: Arc<RootConfig>,
        extensions: bool,
    ) -> Result<Self, cocoon_net::ConnectError> {
        let options = DialOptions { max_difficulty: 8, timeout: Duration::from_secs(10) };
        let stream = dial(&proxy.to_string(), tls, &options).await?;
        let settings = ClientSettings {
            wallet,
            is_test: true,
            is_testnet: false,
            secret: ClientSecret::Shared(Zeroizing::new(SECRET.to_vec())),
            root,
            root_address: Address::basechain([2; 32]),
            extensions,
            restrict_workers: false,
        };
        let clock = MonotonicClock::start();
        let session = ClientSession::new(settings, Time(clock.micros()), rand::random());
        let shared = Arc::new(Shared {
            machine: Mutex::new(Machine { session, exchanges: HashMap::new() }),
            state: watch::Sender::new(State::default()),
            wake: Notify::new(),
            clock,
        });
        let close = CancellationToken::new();
        tokio::spawn(run(Arc::clone(&shared), stream.io, close.clone()));
        Ok(Self { shared, _close: close.drop_guard() })
    }

    /// Waits for the end of the handshake; `false` where the connection ended instead.
    pub async fn let_in(&self) -> bool {
        let mut state = self.shared.state.subscribe();
        let done = |state: &State| state.terms.is_some() || state.ended.is_some();
        let state = within("the client's handshake", state.wait_for(done)).await.unwrap();
        state.ended.is_none()
    }

    /// The proxy's terms.
    ///
    /// # Panics
    /// The handshake is not done.
    pub fn terms(&self) -> ProxyTerms {
        self.shared.state.borrow().terms.clone().unwrap()
    }

    /// Sends a request.
    pub fn submit(&self, ask: &Ask) -> Exchange {
        let id = rand::random();
        let (sender, events) = mpsc::unbounded_channel();
        let submission = Submission {
            id,
            model: ask.model.clone(),
            query: to_boxed(&http_request(&ask.body)),
            max_coefficient: ask.max_coefficient,
            max_tokens: ask.max_tokens,
            timeout: ask.timeout,
            enable_debug: false,
            needs: 0,
            preference: Preference::Balanced,
            affinity: Vec::new(),
            trace: None,
            body: Bytes::new(),
        };
        let mut machine = self.shared.machine.lock().unwrap();
        match machine.session.submit(&submission, self.shared.now()) {
            Ok(()) => {
                machine.exchanges.insert(id, sender);
            }
            Err(failure) => {
                let _ = sender.send(ClientEvent::Failed { request: id, failure, info: None });
            }
        }
        self.shared.wake.notify_one();
        Exchange { id, events, shared: Arc::clone(&self.shared) }
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&self, ask: Ask) -> Answer {
        self.submit(&ask).finish().await
    }

    /// Gives a request up.
    pub fn cancel(&self, id: [u8; 32]) {
        self.shared.machine.lock().unwrap().session.cancel(id);
        self.shared.wake.notify_one();
    }

    /// All notices so far.
    pub fn notices(&self) -> Vec<Notice> {
        self.shared.state.borrow().notices.clone()
    }

    /// Tokens charged, durably, as the proxy last said.
    pub fn charged(&self) -> u64 {
        let state = self.shared.state.borrow();
        state.notices.last().map_or(0, |notice| notice.counters.db_tokens.cast_unsigned())
    }

    /// Waits for the notice of a request, and returns what it cost.
    pub async fn cost(&self, id: [u8; 32]) -> i64 {
        let find = |state: &State| {
            let mut requests = state.notices.iter().filter_map(|notice| notice.request);
            requests.find(|(request, _)| *request == id).map(|(_, tokens)| tokens)
        };
        let mut state = self.shared.state.subscribe();
        let state = within("a payment notice", state.wait_for(|state| find(state).is_some())).await.unwrap();
        find(&state).unwrap()
    }

    /// Asks for the offers of the tests' model until they are as wished.
    pub async fn offers(&self, wish: impl Fn(&[Offer]) -> bool) {
        let fits = |models: &[ModelOffers]| {
            let model = models.iter().find(|model| model.name == MODEL);
            wish(model.map_or(&[], |model| &model.offers))
        };
        within("the offers", async {
            // What was heard before may be out of date.
            self.shared.state.send_modify(|state| state.models = None);
            while !self.shared.state.borrow().models.as_deref().is_some_and(fits) {
                self.shared.machine.lock().unwrap().session.refresh_models(self.shared.now()).unwrap();
                self.shared.wake.notify_one();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Whether the connection is up.
    pub fn is_up(&self) -> bool {
        self.shared.state.borrow().ended.is_none()
    }

    /// Waits until the connection ends, and says why.
    pub async fn ended(&self) -> String {
        let mut state = self.shared.state.subscribe();
        let state =
            within("the connection to end", state.wait_for(|state| state.ended.is_some())).await.unwrap();
        state.ended.clone().unwrap()
    }
}

impl Exchange {
    /// The next event; reading data lets more come.
    pub async fn next(&mut self) -> ClientEvent {
        let event = within("an answer", self.events.recv()).await.expect("an answer ends with an event");
        if let ClientEvent::Data { data, .. } = &event {
            self.shared.machine.lock().unwrap().session.consumed(self.id, data.len());
            self.shared.wake.notify_one();
        }
        event
    }

    /// Whether nothing has come that was not read.
    pub fn is_quiet(&self) -> bool {
        self.events.is_empty()
    }

    /// Waits for the head and says its status.
    ///
    /// # Panics
    /// Something else comes.
    pub async fn head(&mut self) -> i32 {
        match self.next().await {
            ClientEvent::Head { head, .. } => head.status_code,
            other => panic!("not a head: {other:?}"),
        }
    }

    /// Waits for body bytes that contain `text`.
    ///
    /// # Panics
    /// Something else comes.
    pub async fn data(&mut self, text: &str) {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.next().await {
                ClientEvent::Data { data, .. } => seen.push_str(&String::from_utf8_lossy(&data)),
                other => panic!("not data: {other:?}"),
            }
        }
    }

    /// Reads to the end.
    pub async fn finish(mut self) -> Answer {
        let mut answer = Answer {
            id: self.id,
            status: 0,
            headers: Vec::new(),
            body: String::new(),
            end: Ok(FinalInfo::default()),
        };
        loop {
            match self.next().await {
                ClientEvent::Head { head, .. } => {
                    answer.status = head.status_code;
                    answer.headers = head.headers.iter().map(pair).collect();
                }
                ClientEvent::Data { data, .. } => answer.body.push_str(&String::from_utf8_lossy(&data)),
                ClientEvent::Completed { info, .. } => {
                    answer.end = Ok(info);
                    return answer;
                }
                ClientEvent::Failed { failure, .. } => {
                    answer.end = Err(failure);
                    return answer;
                }
                _ => {}
            }
        }
    }
}

fn pair(header: &http::Header) -> (String, String) {
    (header.name.to_lossy().to_lowercase(), header.value.to_lossy().into_owned())
}

impl Shared {
    fn now(&self) -> Time {
        Time(self.clock.micros())
    }

    fn step(&self, step: impl FnOnce(&mut ClientSession) -> Result<(), String>) -> Result<(), String> {
        let mut machine = self.machine.lock().unwrap();
        let outcome = step(&mut machine.session);
        while let Some(event) = machine.session.poll_event() {
            self.on_event(&mut machine.exchanges, event);
        }
        self.wake.notify_one();
        outcome
    }

    fn on_event(
        &self,
        exchanges: &mut HashMap<[u8; 32], mpsc::UnboundedSender<ClientEvent>>,
        event: ClientEvent,
    ) {
        let request = match &event {
            ClientEvent::Ready(terms) => {
                self.state.send_modify(|state| state.terms = Some(terms.clone()));
                return;
            }
            ClientEvent::RegistrationNeeded { .. }
            | ClientEvent::RefundGranted { .. }
            | ClientEvent::RefundRejected { .. }
            | ClientEvent::Workers(_)
            | ClientEvent::Market(_)
            | ClientEvent::Evidence { .. } => return,
            ClientEvent::Payment { request, counters } => {
                let notice = Notice { request: *request, counters: counters.clone() };
                self.state.send_modify(|state| state.notices.push(notice));
                return;
            }
            ClientEvent::Models(models) => {
                self.state.send_modify(|state| state.models = Some(models.clone()));
                return;
            }
            ClientEvent::Head { request, .. }
            | ClientEvent::Data { request, .. }
            | ClientEvent::Completed { request, .. }
            | ClientEvent::Failed { request, .. } => *request,
        };
        if let Some(exchange) = exchanges.get(&request) {
            let _ = exchange.send(event);
        }
    }
}

impl Endpoint for Shared {
    fn receive(&self, received: &mut BytesMut) -> Result<(), String> {
        let now = self.now();
        self.step(|session| session.receive(received, now).map_err(|violation| violation.to_string()))
    }

    fn transmit(&self, _: usize) -> Option<Bytes> {
        self.machine.lock().unwrap().session.transmit(1 << 20)
    }
}

async fn run(shared: Arc<Shared>, io: cocoon_net::SecureIo, close: CancellationToken) {
    let ticking = async {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = shared.now();
            if let Err(why) =
                shared.step(|session| session.on_time(now).map_err(|violation| violation.to_string()))
            {
                return why;
            }
        }
    };
    let why = tokio::select! {
        ended = pump(io, shared.as_ref(), &shared.wake, &close) => ended.to_string(),
        why = ticking => why,
    };
    let mut machine = shared.machine.lock().unwrap();
    let failure = RequestFailure::new(cocoon_session::ErrorCode::NOT_READY, format!("lost: {why}"));
    for (request, exchange) in machine.exchanges.drain() {
        // Exchanges that ended have nobody left who reads this.
        let _ = exchange.send(ClientEvent::Failed { request, failure: failure.clone(), info: None });
    }
    shared.state.send_modify(|state| state.ended = Some(why));
}
