//! Requests to one server: in turn, again after failures that pass, and never believing an older answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_ton::Address;
use rand::Rng as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::answer::Account;
use super::endpoint::Endpoint;
use super::failure::{Failure, Kind, one_line};
use super::http::Http;
use super::marks::{Marks, Misfit};
use super::pace::Pace;
use super::trail::Trails;
use super::{MAX_SUBSCRIPTIONS, REQUESTS_PER_SECOND, ToncenterOptions};
use crate::ChainError;
use crate::types::{AccountState, TransactionId};

/// How often one request is sent before its failure is final.
const MAX_TRIES: u32 = 5;
/// How often an answer that is too old is asked for again.
const MAX_OLDER: u32 = 4;
/// First and longest pause before another try; each one is twice the one before, less up to half of it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// One server, and what was heard from it.
#[derive(Debug)]
pub(super) struct Server {
    http: Http,
    pace: Pace,
    time_for_call: Duration,
    marks: Mutex<Marks>,
    trails: Mutex<Trails>,
    listeners: Mutex<Listeners>,
    /// Somebody has begun to listen.
    pub(super) nudge: Notify,
    /// The server has no `sendBocReturnHash`.
    sends_plainly: AtomicBool,
}

#[derive(Debug, Default)]
struct Listeners {
    accounts: HashMap<Address, watch::Sender<Option<TransactionId>>>,
    /// Those that were never polled.
    fresh: Vec<Address>,
}

/// Why an answer cannot be used.
#[derive(Debug)]
pub(super) enum Wrong {
    /// It is from an earlier time, in these words.
    Older(String),
    Final(ChainError),
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Self {
        Self::Final(failure.into())
    }
}

impl From<ChainError> for Wrong {
    fn from(error: ChainError) -> Self {
        Self::Final(error)
    }
}

impl From<Misfit> for Wrong {
    fn from(misfit: Misfit) -> Self {
        match misfit {
            Misfit::Older(reason) => Self::Older(reason),
            Misfit::Contradiction(reason) => Self::Final(ChainError::BadAnswer(reason)),
        }
    }
}

/// Counts the answers that were too old.
#[derive(Debug, Default)]
pub(super) struct Patience(u32);

impl Patience {
    /// Waits before the next try; fails where it makes no sense any more.
    pub(super) async fn wait(&mut self, wrong: Wrong, deadline: Instant) -> Result<(), ChainError> {
        let reason = match wrong {
            Wrong::Older(reason) => reason,
            Wrong::Final(error) => return Err(error),
        };
        let pause = pause(self.0);
        if self.0 >= MAX_OLDER || Instant::now() + pause >= deadline {
            let reason = format!("the server {reason}; it may have lost its data, or be another one");
            return Err(ChainError::Unavailable { reason, retry_after: None });
        }
        self.0 += 1;
        sleep(pause).await;
        Ok(())
    }
}

impl Server {
    pub(super) fn new(endpoint: &Endpoint, options: &ToncenterOptions) -> Result<Self, ChainError> {
        let (without_key, with_key) = REQUESTS_PER_SECOND;
        let allowed = match options.api_key {
            _ if endpoint.is_loopback => f64::INFINITY,
            Some(_) => with_key,
            None => without_key,
        };
        let key = options.api_key.as_ref().map(|key| key.as_str());
        Ok(Self {
            http: Http::new(endpoint.uri.clone(), key, options.timeout, options.max_answer_bytes)?,
            pace: Pace::new(options.requests_per_second.unwrap_or(allowed)),
            time_for_call: options.deadline,
            marks: Mutex::default(),
            trails: Mutex::default(),
            listeners: Mutex::default(),
            nudge: Notify::new(),
            sends_plainly: AtomicBool::new(false),
        })
    }

    /// When a call that begins now must end.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.time_for_call
    }

    pub(super) fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn trails(&self) -> MutexGuard<'_, Trails> {
        self.trails.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks until there is a result or a failure that is final.
    pub(super) async fn ask(
        &self,
        deadline: Instant,
        method: &str,
        params: &Value,
    ) -> Result<Box<RawValue>, Failure> {
        let mut may_have_worked = false;
        let mut tries = 0;
        loop {
            let asked = match self.pace.turn(deadline).await {
                Ok(()) => self.http.exchange(method, params, deadline).await,
                Err(late) => Err(late),
            };
            let mut failure = match asked {
                Ok(result) => return Ok(result),
                Err(failure) => failure,
            };
            may_have_worked |= failure.may_have_worked;
            failure.may_have_worked = may_have_worked;
            let pause = failure.retry_after.unwrap_or_else(|| pause(tries));
            tries += 1;
            if !failure.may_pass() || tries >= MAX_TRIES || Instant::now() + pause >= deadline {
                return Err(failure);
            }
            if failure.kind == Kind::Busy {
                self.pace.hold_off(pause);
            }
            sleep(pause).await;
        }
    }

    /// The account, as of no earlier time than any answer about it before.
    pub(super) async fn account(&self, address: Address) -> Result<AccountState, ChainError> {
        self.account_until(address, self.deadline()).await
    }

    pub(super) async fn account_until(
        &self,
        address: Address,
        deadline: Instant,
    ) -> Result<AccountState, ChainError> {
        let params = json!({ "address": address.to_raw_string() });
        let mut patience = Patience::default();
        loop {
            let answer = self.ask(deadline, "getAddressInformation", &params).await?;
            let state = parsed::<Account>(&answer)?.read()?;
            let fits = self.marks().state(address, &state);
            match fits {
                Ok(()) => {
                    self.tell(address, state.last_transaction);
                    return Ok(state);
                }
                Err(misfit) => patience.wait(misfit.into(), deadline).await?,
            }
        }
    }

    /// Sends an external message.
    pub(super) async fn send(&self, boc: &[u8]) -> Result<(), Failure> {
        let deadline = self.deadline();
        let params = json!({ "boc": STANDARD.encode(boc) });
        if !self.sends_plainly.load(Ordering::Relaxed) {
            match self.ask(deadline, "sendBocReturnHash", &params).await {
                Err(failure) if failure.kind == Kind::UnknownMethod => {}
                sent => return sent.map(drop),
            }
        }
        self.ask(deadline, "sendBoc", &params).await?;
        self.sends_plainly.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn subscribe(
        &self,
        address: Address,
    ) -> Result<watch::Receiver<Option<TransactionId>>, ChainError> {
        let newest = self.marks().last(address);
        let mut listeners = self.listeners();
        if let Some(sender) = listeners.accounts.get(&address) {
            return Ok(sender.subscribe());
        }
        if listeners.accounts.len() >= MAX_SUBSCRIPTIONS {
            listeners.accounts.retain(|_, sender| !sender.is_closed());
        }
        if listeners.accounts.len() >= MAX_SUBSCRIPTIONS {
            let reason = format!("{MAX_SUBSCRIPTIONS} accounts are listened to already");
            return Err(ChainError::Unavailable { reason, retry_after: None });
        }
        let (sender, receiver) = watch::channel(newest);
        listeners.accounts.insert(address, sender);
        listeners.fresh.push(address);
        self.nudge.notify_one();
        Ok(receiver)
    }

    /// All accounts that somebody listens to.
    pub(super) fn listened_to(&self) -> Vec<Address> {
        let mut listeners = self.listeners();
        listeners.fresh.clear();
        listeners.accounts.retain(|_, sender| !sender.is_closed());
        listeners.accounts.keys().copied().collect()
    }

    /// Those of them that were never polled.
    pub(super) fn fresh(&self) -> Vec<Address> {
        std::mem::take(&mut self.listeners().fresh)
    }

    /// Tells the listeners what the newest transaction is.
    pub(super) fn tell(&self, address: Address, newest: Option<TransactionId>) {
        if let Some(sender) = self.listeners().accounts.get(&address) {
            sender.send_if_modified(|known| {
                let is_newer = newest > *known;
                if is_newer {
                    *known = newest;
                }
                is_newer
            });
        }
    }
}

/// The result as what it must be.
pub(super) fn parsed<'a, T: Deserialize<'a>>(result: &'a RawValue) -> Result<T, Failure> {
    serde_json::from_str(result.get()).map_err(|error| {
        Failure::nonsense(format!("it is not in the form of this method: {}", one_line(&error.to_string())))
    })
}

/// The pause after that many tries.
fn pause(tries: u32) -> Duration {
    let most = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(tries)).min(LONGEST_PAUSE);
    rand::rng().random_range(most / 2..=most)
}
