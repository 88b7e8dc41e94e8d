//! Request bodies that stream: from the client's parts to the worker's, at the worker's pace.
//!
//! What a client may send is granted as it leaves for the worker, so at most [`INITIAL_CREDIT_BYTES`] of a body wait
//! here. A body of at most [`MAX_KEPT_BODY_BYTES`] is kept beside that until its request's end, for another worker; of a
//! larger one nothing is, and where its worker fails before the first byte the client is told that sending anew is
//! worth while ([`RESEND_HEADER`](crate::RESEND_HEADER)). A worker without extensions gets a body whole once it is
//! complete, so that is kept, too.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_wire::frame::MAX_FRAME_PAYLOAD;
use cocoon_wire::tl::ext;

use super::request::Request;
use super::{ConnId, Proxy, RequestKey};
use crate::body::{Incoming, join_body};
use crate::outbox::Chunk;
use crate::{ErrorCode, INITIAL_CREDIT_BYTES, RequestFailure, Time, Violation};

/// Largest body that streams and is kept all the same, in bytes, so that another worker can be tried.
pub const MAX_KEPT_BODY_BYTES: u64 = 1024 * 1024;
/// A body of which nothing comes for this long, though it may, ends its request: it would keep a worker's place.
pub const BODY_STALL: Duration = Duration::from_secs(30);
/// Largest query that a worker can be sent in a frame, in bytes. A worker without extensions gets the body in it.
pub(super) const MAX_WHOLE_QUERY: u64 = MAX_FRAME_PAYLOAD as u64 - 4096;

/// The part of a request's body that follows its query.
#[derive(Debug)]
pub(super) struct Upload {
    /// Bytes in all.
    bytes: u64,
    incoming: Incoming,
    /// What came so far; `None` where it is passed on only.
    kept: Option<BytesMut>,
    /// Bytes that left for the worker that has the request now.
    passed: u64,
    /// The most that ever left for a worker: the client was granted that much again.
    granted_for: u64,
    /// The worker has no extensions and gets the request once its body is complete.
    waits: bool,
    last_came: Time,
}

impl Upload {
    /// A body of which `bytes` follow the query.
    pub(super) fn new(bytes: u64, kept: bool, now: Time) -> Self {
        Self {
            bytes,
            incoming: Incoming::new(bytes),
            kept: kept.then(BytesMut::new),
            passed: 0,
            granted_for: 0,
            waits: false,
            last_came: now,
        }
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) const fn is_complete(&self) -> bool {
        self.incoming.is_complete()
    }

    /// Whether the worker does not know of the request yet.
    pub(super) const fn waits(&self) -> bool {
        self.waits
    }

    /// Whether its worker has all that the client could send so far.
    pub(super) const fn waits_for_worker(&self) -> bool {
        !self.waits && !self.incoming.awaits()
    }

    /// Whether the body can be sent from its beginning.
    const fn can_begin_again(&self) -> bool {
        self.kept.is_some() || self.incoming.left() == self.bytes
    }
}

/// Whether a body is kept here until the end of its request.
pub(super) fn is_kept(body_bytes: u64, worker_extensions: bool) -> bool {
    body_bytes <= MAX_KEPT_BODY_BYTES || !worker_extensions
}

/// The most bytes that are held of a request: of a body that is kept, again as much may wait for its second worker.
pub(super) fn most_held(query: usize, body_bytes: Option<u64>, kept: bool) -> usize {
    let body = match body_bytes {
        None => 0,
        Some(bytes) if kept => usize::try_from(bytes).unwrap_or(usize::MAX).saturating_mul(2),
        Some(_) => INITIAL_CREDIT_BYTES,
    };
    query.saturating_add(body)
}

/// Whether a worker can be given a query with so many bytes of body behind it.
pub(super) fn can_take(worker_extensions: bool, query: usize, body_bytes: Option<u64>) -> bool {
    worker_extensions
        || body_bytes.is_none_or(|bytes| (query as u64).saturating_add(bytes) <= MAX_WHOLE_QUERY)
}

impl Request {
    /// Bytes of query and body, whether they are here or not.
    pub(super) fn asked_bytes(&self) -> u64 {
        let body = self.upload.as_ref().map_or(0, Upload::bytes);
        (self.query.len() as u64).saturating_add(body)
    }

    /// What it takes in one frame.
    fn whole_bytes(&self) -> usize {
        usize::try_from(self.asked_bytes()).unwrap_or(usize::MAX)
    }

    /// Whether another worker can be given this request from here.
    pub(super) fn can_begin_again(&self) -> bool {
        self.upload.as_ref().is_none_or(Upload::can_begin_again)
    }
}

impl Proxy {
    /// Begins to pass a body on to the worker that was just given its request, or to wait for all of it where that worker
    /// knows no parts. Gives the query to send now, if any.
    pub(super) fn begin_upload(
        &mut self,
        key: RequestKey,
        conn: ConnId,
        worker_extensions: bool,
    ) -> Option<Bytes> {
        let request = self.requests.get_mut(&key)?;
        let (attempt, query) = (request.attempt, request.query.clone());
        let Some(upload) = &mut request.upload else { return Some(query) };
        upload.passed = 0;
        upload.waits = false;
        if !worker_extensions {
            if upload.is_complete() {
                // What is no request is for the worker to refuse.
                return join_body(&query, upload.kept.as_ref()?).or(Some(query));
            }
            upload.waits = true;
            // Where it was not kept, nothing of it has come yet.
            upload.kept.get_or_insert_default();
            let held = most_held(query.len(), Some(upload.bytes), true);
            let whole = request.whole_bytes();
            if let Some(worker) = self.worker_mut(conn) {
                worker.awaited = worker.awaited.saturating_add(whole);
            }
            self.note_held(key, held);
            self.tell_market(conn);
            return None;
        }
        let came = upload.kept.as_ref().map(|kept| Bytes::copy_from_slice(kept)).unwrap_or_default();
        let complete = upload.is_complete();
        if let Some(worker) = self.worker_mut(conn) {
            worker.bodies.open(attempt);
            worker.bodies.data(attempt, came);
            if complete {
                worker.bodies.end(attempt, ());
            }
        }
        Some(query)
    }

    pub(super) fn on_body_part(
        &mut self,
        conn: ConnId,
        part: ext::BodyPart,
        now: Time,
    ) -> Result<(), Violation> {
        let ext::BodyPart { request_id, data, last } = part;
        // What comes for a request that was refused, or is over, was under way.
        let Some(&key) = self.client(conn).and_then(|client| client.requests.get(&request_id)) else {
            return Ok(());
        };
        let Some(request) = self.requests.get_mut(&key) else { return Ok(()) };
        let Some(upload) = &mut request.upload else {
            return Err(Violation::Unexpected("part of a body that was whole"));
        };
        upload.incoming.part(data.len(), last)?;
        upload.last_came = now;
        if let Some(kept) = &mut upload.kept {
            kept.extend_from_slice(&data);
        }
        request.moved = now;
        if last {
            self.uploads.remove(&key);
            // Until now the worker had nothing to answer.
            request.asked = now;
        }
        let (worker, attempt, bytes) = (request.worker, request.attempt, data.len());
        if upload.waits {
            if last {
                self.end_waiting(key);
                self.send_query(key, now);
            } else {
                self.grant_client(key, bytes);
            }
            return Ok(());
        }
        if let Some(worker) = self.worker_mut(worker) {
            worker.bodies.data(attempt, data);
            if last {
                worker.bodies.end(attempt, ());
            }
        }
        self.woken.insert(worker);
        Ok(())
    }

    /// A body is waited for no more: it is here, or its worker does not get it.
    pub(super) fn end_waiting(&mut self, key: RequestKey) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let (conn, whole) = (request.worker, request.whole_bytes());
        let waited = request.upload.as_mut().is_some_and(|upload| std::mem::take(&mut upload.waits));
        if waited && let Some(worker) = self.worker_mut(conn) {
            worker.awaited = worker.awaited.saturating_sub(whole);
        }
    }

    /// Encodes one part for a worker, and gives the client credit for it.
    pub(super) fn send_body_chunk(&mut self, conn: ConnId, chunk: Chunk<[u8; 32], (), ()>) {
        let Chunk { key: request_id, data, end, .. } = chunk;
        let bytes = data.len();
        if let Some(link) = self.link_mut(conn) {
            link.packet(&ext::BodyPart { request_id, data, last: end.is_some() });
        }
        let Some(&key) = self.worker(conn).and_then(|worker| worker.work.get(&request_id)) else { return };
        self.grant_client(key, bytes);
    }

    /// Lets the client send on for what was passed on. What goes to a second worker was granted for before.
    fn grant_client(&mut self, key: RequestKey, bytes: usize) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let Some(upload) = &mut request.upload else { return };
        upload.passed += bytes as u64;
        let fresh = upload.passed.saturating_sub(upload.granted_for);
        upload.granted_for += fresh;
        let grant = upload.incoming.taken(usize::try_from(fresh).unwrap_or(0));
        let (conn, request_id) = (request.client, request.client_request);
        if let Some(bytes) = grant
            && let Some(link) = self.link_mut(conn)
        {
            link.packet(&ext::BodyCredit { request_id, bytes });
        }
    }

    /// Ends requests whose clients have stopped sending their bodies.
    pub(super) fn end_stalled_uploads(&mut self, now: Time) {
        let mut stalled = Vec::new();
        for key in &self.uploads {
            let upload = self.requests.get_mut(key).and_then(|request| request.upload.as_mut());
            match upload {
                Some(upload) if !upload.incoming.awaits() => upload.last_came = now,
                Some(upload) if now.since(upload.last_came) < BODY_STALL => {}
                _ => stalled.push(*key),
            }
        }
        for key in stalled {
            let failure = RequestFailure::new(ErrorCode::TIMEOUT, "the request's body did not come in time");
            self.give_up(key, failure, now);
        }
    }

    /// Keeps account of what is held of a request.
    pub(super) fn note_held(&mut self, key: RequestKey, held: usize) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let (account, before) = (request.account, std::mem::replace(&mut request.held, held));
        self.held = self.held + held - before;
        self.shares.change(account, |share| share.held = share.held + held - before);
    }

    /// Whatever of a body is here or comes, nobody waits for.
    pub(super) fn drop_upload(&mut self, key: RequestKey) {
        self.uploads.remove(&key);
        let Some(request) = self.requests.get_mut(&key) else { return };
        let (conn, attempt) = (request.worker, request.attempt);
        if let Some(upload) = &mut request.upload {
            upload.kept = None;
        }
        if let Some(worker) = self.worker_mut(conn) {
            worker.bodies.close(attempt);
        }
    }
}
