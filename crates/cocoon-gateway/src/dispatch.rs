//! Finds a proxy that answers a request: carries out what `attempts` decides.
//!
//! Until the caller has seen a byte, whatever breaks is tried elsewhere. An attempt that is given up is cancelled at its
//! proxy; what its worker claims all the same is disputed, since nothing was delivered.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cocoon_ledger::{Adjusted, AdjustedTokens, Coefficient, Dispute, DisputeReason, RequestId, clamp_claim};
use cocoon_openai::{BodyKind, PreparedRequest};
use cocoon_session::client::Submission;
use cocoon_session::{FinalInfo, Preference, tariff};
use cocoon_wire::tl::http as wire;

use crate::Shared;
use crate::answer::claim_of;
use crate::attempts::{Plan, RetryBudget, Step, Why};
use crate::charged::End;
use crate::connection::Connection;
use crate::exchange::{Ending, Event, Exchange};
use crate::failure::{Failure, Kind, engine_is_unwell, refusal, retry_after, words_of};
use crate::intake::InFlight;
use crate::price::Order;

/// Bytes of a refusal that are read for its words.
const MAX_REFUSAL_BYTES: usize = 16 * 1024;
/// So long after the last proxy was lost a request waits for one to come back.
const AWAITED_AFTER_LOSS: Duration = Duration::from_secs(60);
/// How long a request waits at least where all workers are strangers, until a proxy has told of those that came just now.
const LISTED_WITHIN: Duration = Duration::from_secs(1);
/// Requests that waited for the same news ask within this time.
const AFTER_NEWS: Duration = Duration::from_millis(50);
/// How often it is looked whether a proxy that owes an answer is silent.
const LOOK_FOR_SILENCE: Duration = Duration::from_millis(250);

/// A request that was understood.
pub(crate) struct Asked<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) prepared: PreparedRequest,
    pub(crate) query: Bytes,
    /// The bytes of a large body that follow the query.
    pub(crate) body: Bytes,
    /// The model's name without `@...`.
    pub(crate) model: String,
    pub(crate) started: Instant,
    /// When it is sent a second time.
    pub(crate) hedge: Option<Duration>,
    /// Hashes of how it begins, growing.
    pub(crate) affinity: Vec<u64>,
    pub(crate) in_flight: InFlight,
}

/// An answer that has begun.
pub(crate) struct Answered {
    pub(crate) exchange: Exchange,
    pub(crate) head: wire::Response,
    /// When it was asked for.
    pub(crate) sent: Instant,
    /// It is the word of an engine that is unwell, and its attempt is written down as one that failed.
    pub(crate) told: bool,
}

/// An attempt without an answer to pass on, or with one that another attempt may better.
struct Missed {
    failure: Failure,
    /// The engine's own word that it is unwell.
    answer: Option<Box<Answered>>,
}

impl From<Failure> for Missed {
    fn from(failure: Failure) -> Self {
        Self { failure, answer: None }
    }
}

impl Asked<'_> {
    /// Why no proxy takes the request.
    fn no_proxy(&self) -> Failure {
        let status = self.shared.settlement.as_ref().map(|settlement| settlement.status());
        match status.map(|status| (status.needs, status.hold)) {
            Some((Some(needs), _)) => Failure::new(Kind::Funds, &needs.to_string()),
            Some((None, Some(hold))) => Failure::new(Kind::Proxy, &hold),
            _ => {
                let failure = self.shared.pool.failure().map_or_else(String::new, |why| format!(" ({why})"));
                Failure::new(Kind::NoProxy, &format!("no proxy is connected{failure}; see /health"))
            }
        }
    }

    /// Finds a proxy that answers, one after the other and anew after a while, as far as [`Plan`] lets it.
    pub(crate) async fn send(&self) -> Result<Answered, Failure> {
        let (pool, retry) = (&self.shared.pool, &self.shared.limits.retry);
        self.budget().request();
        let mut plan = Plan::new(self.started, self.prepared.timeout, retry.patience, retry.max_attempts);
        let mut news = pool.news();
        let mut round: Vec<Arc<Connection>> = Vec::new();
        let (mut worst, mut kept, mut again): (Option<Failure>, Option<Answered>, bool) = (None, None, false);
        loop {
            // What changes from here on is news.
            news.mark_unchanged();
            let left = plan.left(Instant::now());
            if left.is_zero() {
                worst.get_or_insert_with(|| Failure::new(Kind::TimedOut, "no proxy answered"));
                break;
            }
            let (why, failure) = match self.choose(&round) {
                Some(connection) => {
                    if std::mem::replace(&mut again, true) {
                        self.shared.metrics.retries.inc();
                    }
                    match self.race(Arc::clone(&connection), &mut round, left).await {
                        Ok(answered) => return Ok(answered),
                        Err(Missed { failure, answer }) => {
                            kept = answer.map(|answer| *answer).or(kept);
                            let soon = match failure.kind {
                                Kind::NoAttestedWorker => self.judges_still(&connection),
                                _ => pool.knows(&self.model),
                            };
                            (failure.why(soon), failure)
                        }
                    }
                }
                None => {
                    let failure = self.no_proxy();
                    // One that was here not long ago comes back; otherwise there is nothing to wait for.
                    let waits = failure.kind == Kind::NoProxy && pool.was_ready_within(AWAITED_AFTER_LOSS);
                    (if waits { Why::NoProxy } else { Why::Final }, failure)
                }
            };
            worst = Some(match worst {
                Some(worst) => worst.or_worse(failure),
                None => failure,
            });
            let others = self.choose(&round).is_some();
            match plan.after(why, others, Instant::now(), || self.take(RetryBudget::take), rand::random()) {
                Step::Elsewhere => {}
                Step::GiveUp => break,
                Step::Wait(wait) => {
                    round.clear();
                    let changed = async {
                        match why {
                            Why::NotNow | Why::NoProxy | Why::Lost => {
                                // The sender lives as long as the pool.
                                let _ = news.changed().await;
                                // Not all that wait at the same moment.
                                tokio::time::sleep(AFTER_NEWS.mul_f64(rand::random())).await;
                            }
                            _ => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = changed => {}
                    }
                }
            }
        }
        match (kept, worst) {
            // An engine's own words are better than ours about it.
            (Some(answered), Some(Failure { kind: Kind::Engine, .. })) => Ok(answered),
            (_, Some(failure)) => Err(failure),
            (_, None) => Err(self.no_proxy()),
        }
    }

    /// Whether this proxy, which had nobody whom we allow, may have somebody in a moment.
    fn judges_still(&self, connection: &Connection) -> bool {
        // A worker that came this moment is not on our list yet.
        connection.ask_for_workers();
        self.started.elapsed() < LISTED_WITHIN || connection.is_judging(&self.model)
    }

    fn choose(&self, tried: &[Arc<Connection>]) -> Option<Arc<Connection>> {
        let cap = self.prepared.max_coefficient.unsigned_abs();
        let served = self.shared.served.find(&self.affinity);
        self.shared.pool.choose(&self.model, cap, served.as_deref(), tried)
    }

    fn budget(&self) -> MutexGuard<'_, RetryBudget> {
        self.shared.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more second attempt may be made now, as the budget is asked.
    fn take(&self, ask: fn(&mut RetryBudget, Instant) -> bool) -> bool {
        let granted = ask(&mut self.budget(), Instant::now());
        if !granted {
            self.shared.metrics.budget_refusals.inc();
        }
        granted
    }

    /// Asks a proxy, and, where that takes long and the caller or the operator wants it, a second time beside it: the first
    /// answer counts, and the other attempt is cancelled.
    async fn race(
        &self,
        connection: Arc<Connection>,
        round: &mut Vec<Arc<Connection>>,
        left: Duration,
    ) -> Result<Answered, Missed> {
        round.push(Arc::clone(&connection));
        let first = self.attempt(&connection, left);
        tokio::pin!(first);
        let Some(after) = self.hedge.filter(|after| *after < left) else { return first.await };
        tokio::select! {
            answered = &mut first => return answered,
            () = tokio::time::sleep(after) => {}
        }
        // Without another proxy the same one is asked again: it prefers a worker that has less to do.
        let beside = self.choose(round).unwrap_or_else(|| Arc::clone(&connection));
        if !beside.takes_requests() || !self.take(RetryBudget::take_spare) {
            return first.await;
        }
        self.shared.metrics.hedges.inc();
        if !Arc::ptr_eq(&beside, &connection) {
            round.push(Arc::clone(&beside));
        }
        let second = self.attempt(&beside, left.saturating_sub(after));
        tokio::pin!(second);
        tokio::select! {
            answered = &mut first => match answered {
                Ok(answered) => Ok(answered),
                Err(_) => second.await,
            },
            answered = &mut second => match answered {
                Ok(answered) => {
                    self.shared.metrics.hedges_won.inc();
                    Ok(answered)
                }
                Err(_) => first.await,
            },
        }
    }

    /// Asks one proxy, up to what the caller gets to see first, and notes how the proxy did.
    async fn attempt(&self, connection: &Arc<Connection>, timeout: Duration) -> Result<Answered, Missed> {
        let (pool, proxy, model) = (&self.shared.pool, connection.address.as_str(), self.model.as_str());
        pool.breakers().begin(proxy, model, Instant::now());
        let submission = self.submission(timeout);
        let attempting = self.in_flight.trail().attempting(self.shared, model, submission.id);
        let answered = self.ask(connection, &submission).await;
        let missed = answered.as_ref().err().map(|missed| missed.failure.kind);
        let (mut breakers, now) = (pool.breakers(), Instant::now());
        let opened = match missed {
            None => {
                breakers.succeeded(proxy, model, now);
                None
            }
            Some(Kind::Lost | Kind::Proxy) => {
                breakers.proxy_failed(proxy, model, now, rand::random()).then_some("proxy")
            }
            Some(Kind::Engine) => {
                breakers.workers_failed(proxy, model, now, rand::random()).then_some("workers")
            }
            Some(_) => {
                breakers.let_go(proxy, model);
                None
            }
        };
        drop(breakers);
        if let Some(part) = opened {
            self.shared.metrics.breaker_opened(part);
            tracing::warn!(
                proxy,
                model,
                part,
                "requests go elsewhere for a while: what was sent here failed"
            );
        }
        match missed {
            None => attempting.answered(),
            Some(kind) => attempting.missed(kind),
        }
        answered
    }

    async fn ask(&self, connection: &Arc<Connection>, submission: &Submission) -> Result<Answered, Missed> {
        let at_most = self.order(connection).at_most().map_or(i64::MAX, AdjustedTokens::to_wire);
        let access = &self.shared.access;
        if let Some(pass) = self.in_flight.pass() {
            pass.hold(submission.id, &self.order(connection))?;
        }
        let sent = Instant::now();
        let mut exchange = connection
            .submit(submission, at_most)
            .inspect_err(|_| access.release(&submission.id))
            .map_err(|failure| Failure::from(&failure))?;
        let head = loop {
            match self.unless_silent(connection, exchange.next()).await? {
                Event::Head(head, _) => break head,
                Event::Data(_) => {}
                Event::End(Ending::Failed { failure, info }) => {
                    self.dispute_claim(connection, submission.id, &info.unwrap_or_default());
                    return Err(Failure::from(&failure).into());
                }
                Event::End(Ending::Completed { info, .. }) => {
                    self.dispute_claim(connection, submission.id, &info);
                    return Err(Failure::new(Kind::Engine, "an answer without a head").into());
                }
            }
        };
        if let Some(kind) = refusal(&head) {
            let words = self.refusal_words(&mut exchange, connection, submission.id).await?;
            return Err(Failure::refused(kind, &words).again_after(retry_after(&head)).into());
        }
        self.look_ahead(connection, &mut exchange, &head).await?;
        let unwell = engine_is_unwell(&head);
        let answered = Answered { exchange, head, sent, told: unwell };
        if unwell {
            let words = format!("its engine answered {}", answered.head.status_code);
            let failure = Failure::new(Kind::Engine, &words);
            return Err(Missed { failure, answer: Some(Box::new(answered)) });
        }
        if answered.head.status_code < 300 {
            self.shared.served.note(&self.affinity, &connection.address);
        }
        Ok(answered)
    }

    fn submission(&self, timeout: Duration) -> Submission {
        let id = rand::random();
        let trace = self.in_flight.trail().told(self.shared, &id);
        Submission {
            id,
            model: self.model.clone(),
            query: self.query.clone(),
            body: self.body.clone(),
            max_coefficient: self.prepared.max_coefficient,
            max_tokens: self.prepared.completion_bound,
            timeout,
            enable_debug: self.prepared.enable_debug,
            needs: self.prepared.needs,
            preference: preferred(self.prepared.preference),
            affinity: self.affinity.clone(),
            trace,
        }
    }

    /// What comes of `future`, unless the proxy falls silent while another one could be asked.
    async fn unless_silent<T>(
        &self,
        connection: &Arc<Connection>,
        future: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        tokio::pin!(future);
        loop {
            tokio::select! {
                biased;
                value = &mut future => return Ok(value),
                () = tokio::time::sleep(LOOK_FOR_SILENCE) => {}
            }
            if connection.is_silent() && self.shared.pool.has_other(connection) {
                return Err(Failure::new(Kind::Lost, "the proxy fell silent"));
            }
        }
    }

    /// Waits for what the caller gets to see first: an answer that breaks before that can still come from elsewhere. That is
    /// the first byte of an answer that is passed on as it comes, and the last of one that is collected.
    async fn look_ahead(
        &self,
        connection: &Arc<Connection>,
        exchange: &mut Exchange,
        head: &wire::Response,
    ) -> Result<(), Failure> {
        let success = (200..300).contains(&head.status_code);
        let streamed = self.prepared.stream && success;
        let collected = !success || BodyKind::detect(content_type(head).as_deref(), streamed).is_whole();
        let enough = if collected { self.shared.limits.max_answer_bytes } else { 1 };
        let mut seen = 0;
        while seen < enough {
            match self.unless_silent(connection, exchange.look_ahead()).await? {
                Ok(bytes) => seen += bytes,
                Err(Ending::Completed { .. }) => break,
                Err(Ending::Failed { failure, info }) => {
                    if seen == 0 {
                        self.dispute_claim(connection, *exchange.request(), &info.unwrap_or_default());
                    }
                    self.shared.metrics.ended(End::Broken, self.started.elapsed());
                    return Err(Failure::from(&failure));
                }
            }
        }
        Ok(())
    }

    /// The words of a node of the network that refuses.
    async fn refusal_words(
        &self,
        exchange: &mut Exchange,
        connection: &Arc<Connection>,
        request: [u8; 32],
    ) -> Result<String, Failure> {
        let mut body = Vec::new();
        let info = loop {
            match self.unless_silent(connection, exchange.next()).await? {
                Event::Data(data) if body.len() + data.len() <= MAX_REFUSAL_BYTES => {
                    body.extend_from_slice(&data);
                }
                Event::End(Ending::Completed { info, .. }) => break info,
                Event::End(Ending::Failed { info, .. }) => break info.unwrap_or_default(),
                _ => {}
            }
        };
        self.dispute_claim(connection, request, &info);
        Ok(words_of(&body))
    }

    /// Where nothing was delivered, nothing may be claimed.
    fn dispute_claim(&self, connection: &Connection, request: [u8; 32], info: &FinalInfo) {
        let claimed = clamp_claim(&claim_of(info));
        if let Some(terms) = connection.terms()
            && claimed.total() > AdjustedTokens::ZERO
        {
            let (expected, reason) = (Adjusted::ZERO, DisputeReason::NoAnswer);
            let dispute = Dispute { request: RequestId(request), expected, claimed, reason };
            self.shared.dispute(&dispute, &terms.public_key, &self.model);
        }
    }

    pub(crate) fn order(&self, connection: &Connection) -> Order {
        Order {
            query_bytes: (self.query.len() + self.body.len()) as u64,
            max_tokens: u64::try_from(self.prepared.completion_bound).unwrap_or(0),
            max_coefficient: Coefficient::from_wire(self.prepared.max_coefficient.into())
                .unwrap_or(Coefficient::MAX),
            tariff: tariff(&self.shared.root.borrow()),
            limit_binds: connection.terms().is_some_and(|terms| terms.extensions),
        }
    }
}

/// What a caller prefers, as the network is told.
fn preferred(preference: cocoon_openai::Preference) -> Preference {
    match preference {
        cocoon_openai::Preference::Balanced => Preference::Balanced,
        cocoon_openai::Preference::Cheapest => Preference::Cheapest,
        cocoon_openai::Preference::Fastest => Preference::Fastest,
    }
}

/// The content type that a head names.
fn content_type(head: &wire::Response) -> Option<String> {
    let is_it = |header: &&wire::Header| header.name.as_bytes().eq_ignore_ascii_case(b"content-type");
    head.headers.iter().find(is_it).map(|header| header.value.to_lossy().into_owned())
}
