//! A request's body on its way in: read within limits, and counted while it is held.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cocoon_access::KeyId;
use cocoon_openai::{ApiError, Endpoint, PreparedRequest};
use http::Request;
use http::header::{EXPECT, HeaderMap};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::Shared;
use crate::access::Pass;
use crate::failure::BUSY_RETRY_SECONDS;
use crate::room::Place;
use crate::trail::Trail;

/// Bytes over the limit that are read and dropped, so that the caller gets to read why.
const MAX_DRAINED_BYTES: usize = 64 << 20;
/// How long a body is read and dropped whose request is refused by its head, and how long the next bytes of one are
/// waited for that is too large.
const DISCARDING: Duration = Duration::from_secs(5);
/// A body may take the time for it that is configured; each so many bytes that come give a second back.
const LEAST_BYTES_PER_SECOND: usize = 64 * 1024;
/// Bodies up to this size are always read: `max_connections` of them are no burden.
const SMALL_BODY_BYTES: usize = 64 * 1024;
/// A body above this is not worked on where others would have to wait for it.
const LARGE_BODY_BYTES: usize = 256 * 1024;
/// Room is taken in steps of so many bytes.
const ROOM_STEP_BYTES: usize = 1 << 20;

/// Counts a request as under way while it lives, and keeps its place among the large ones.
pub(crate) struct InFlight {
    shared: Arc<Shared>,
    room: Option<Place>,
    /// Whose request it is.
    pass: Option<Pass>,
    trail: Arc<Trail>,
    _under_way: TaskTrackerToken,
}

impl InFlight {
    pub(crate) fn new(shared: &Arc<Shared>, trail: Arc<Trail>) -> Self {
        shared.metrics.in_flight.inc();
        let under_way = shared.under_way.token();
        Self { shared: Arc::clone(shared), room: None, pass: None, trail, _under_way: under_way }
    }

    /// The request as operators see it.
    pub(crate) fn trail(&self) -> &Trail {
        &self.trail
    }

    /// The request was let in.
    pub(crate) fn admitted(&mut self, pass: Pass) {
        self.pass = Some(pass);
    }

    /// The request is understood: whether its key may ask for this.
    pub(crate) fn start(&mut self, prepared: &PreparedRequest) -> Result<(), ApiError> {
        self.pass.as_mut().map_or(Ok(()), |pass| pass.start(prepared))
    }

    /// Whose request it is, once it was let in.
    pub(crate) fn pass(&self) -> Option<&Pass> {
        self.pass.as_ref()
    }

    /// Takes room for a body of so many bytes, on top of what it has. Without it, the body must not be kept.
    fn make_room(&mut self, bytes: usize) -> bool {
        let key = self.pass.as_ref().map_or(KeyId::NONE, Pass::key);
        let shared = &self.shared;
        self.room.get_or_insert_with(|| Place::none(&shared.room, key)).grow_to(bytes)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shared.metrics.in_flight.dec();
    }
}

/// Does work on a body of so many bytes: of a large one it takes milliseconds, on a thread for blocking work.
///
/// # Errors
/// The gateway is shutting down.
pub(crate) async fn work_on<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    if bytes <= LARGE_BODY_BYTES {
        return Ok(work());
    }
    let worked = tokio::task::spawn_blocking(work).await;
    worked.map_err(|_| ApiError::engine_failed("The gateway could not read the request."))
}

/// 413, with the limit and what it is on.
pub(crate) fn too_large(endpoint: Endpoint, limit: usize) -> ApiError {
    let message = format!("The request is larger than {limit} bytes, the limit for {}.", endpoint.path());
    ApiError::new(413, "invalid_request_error", "request_too_large", message)
}

/// Reads and drops the body of a request that is refused by its head: one that still sends when its connection closes
/// may never get to read why.
pub(crate) async fn discard(request: Request<Incoming>) {
    let (parts, mut body) = request.into_parts();
    if parts.headers.contains_key(EXPECT) {
        // It waits to hear whether it shall send.
        return;
    }
    let reading = async {
        let mut dropped = 0_usize;
        while let Some(Ok(frame)) = body.frame().await {
            dropped = dropped.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            if dropped > MAX_DRAINED_BYTES {
                return;
            }
        }
    };
    // Whoever is slower than that is answered all the same.
    let _ = tokio::time::timeout(DISCARDING, reading).await;
}

pub(crate) async fn read_body(
    in_flight: &mut InFlight,
    endpoint: Endpoint,
    headers: &HeaderMap,
    mut body: Incoming,
) -> Result<Bytes, ApiError> {
    let limits = in_flight.shared.limits;
    let limit = limits.body_bytes(endpoint);
    let mut until = Instant::now() + limits.body_timeout;
    let announced = body.size_hint().exact().map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX));
    // Room is taken for what has come, in steps: whoever announces much and sends little takes little from others.
    let most = if announced == 0 { limit } else { announced.min(limit) };
    if announced > limit && headers.contains_key(EXPECT) {
        return Err(too_large(endpoint, limit));
    }
    let mut kept = true;
    let mut first = Bytes::new();
    let mut joined: Vec<u8> = Vec::new();
    let mut received = 0_usize;
    loop {
        let within = if announced > limit { until.min(Instant::now() + DISCARDING) } else { until };
        let next = match tokio::time::timeout_at(within.into(), body.frame()).await {
            Ok(next) => next,
            // Its request fails whatever may come.
            Err(_) if !kept || announced > limit => None,
            Err(_) => return Err(slow()),
        };
        let Some(frame) = next else { break };
        let frame = frame.map_err(|_| {
            ApiError::invalid_request(None, "incomplete_body", "The request's body broke off.")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        received = received.saturating_add(data.len());
        if received > limit.saturating_add(MAX_DRAINED_BYTES) {
            break;
        }
        kept &= received <= limit
            && announced <= limit
            && (received <= SMALL_BODY_BYTES
                || in_flight.make_room(received.next_multiple_of(ROOM_STEP_BYTES).min(most)));
        if !kept {
            // What was kept so far goes, the rest is read and dropped, so that the caller gets to read why.
            (first, joined) = Default::default();
            in_flight.room = None;
            continue;
        }
        // What is kept earns time, but no more than there was at first: whoever was quick may not be idle for that.
        until += Duration::from_millis((data.len() * 1000 / LEAST_BYTES_PER_SECOND) as u64);
        until = until.min(Instant::now() + limits.body_timeout);
        if first.is_empty() && joined.is_empty() {
            first = data;
            continue;
        }
        if joined.is_empty() {
            let known = if in_flight.room.is_some() { announced } else { 0 };
            joined.reserve(known.max(received));
            joined.extend_from_slice(&std::mem::take(&mut first));
        }
        joined.extend_from_slice(&data);
    }
    if received > limit || announced > limit {
        return Err(too_large(endpoint, limit));
    }
    if !kept {
        let message = "Too many large requests are under way; try again in a moment.";
        return Err(ApiError::workers_busy(message, BUSY_RETRY_SECONDS));
    }
    Ok(if joined.is_empty() { first } else { joined.into() })
}

/// 408: the body took too long.
pub(crate) fn slow() -> ApiError {
    let message = "The request's body did not arrive in time.";
    ApiError::new(408, "invalid_request_error", "slow_request", message)
}
