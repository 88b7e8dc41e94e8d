//! One request on its way: the queue between a proxy connection's task and the task of the caller.
//!
//! The queue needs no limit of its own: the session counts what it handed out and was not yet told to be consumed, and
//! ends a request over its bound. Many tiny pieces are joined, so that their number is bounded as well.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use cocoon_session::{FinalInfo, RequestFailure};
use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::http;

use crate::attestation::Fingerprint;
use crate::connection::Connection;

/// Pieces that wait as they came; what comes on top of them is joined.
const MAX_PIECES: usize = 64;
/// Bytes taken before the session is told.
const REPORT_BYTES: usize = 32 * 1024;

/// What comes of a request, in this order: a head, data, an end. An end may come at any time.
#[derive(Debug)]
pub(crate) enum Event {
    /// With the worker that answers, where the proxy names it.
    Head(http::Response, Option<Fingerprint>),
    Data(Bytes),
    End(Ending),
}

/// How an answer ended.
#[derive(Debug, Clone)]
pub(crate) enum Ending {
    Completed { info: FinalInfo, debug: Option<(ByteStr, ByteStr)> },
    Failed { failure: RequestFailure, info: Option<FinalInfo> },
}

#[derive(Debug, Default)]
struct State {
    head: Option<(http::Response, Option<Fingerprint>)>,
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    end: Option<Ending>,
    waker: Option<Waker>,
}

/// The connection's end of an exchange.
#[derive(Debug, Default)]
pub(crate) struct AnswerQueue(Mutex<State>);

impl AnswerQueue {
    pub(crate) fn put(&self, event: Event) {
        let waker = {
            let mut state = self.lock();
            match event {
                Event::Head(head, worker) => state.head = Some((head, worker)),
                Event::Data(data) if state.pieces.len() < MAX_PIECES && state.tail.is_empty() => {
                    state.pieces.push_back(data);
                }
                Event::Data(data) => state.tail.extend_from_slice(&data),
                Event::End(end) => state.end = Some(end),
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Event> {
        let mut state = self.lock();
        if let Some((head, worker)) = state.head.take() {
            return Poll::Ready(Event::Head(head, worker));
        }
        if let Some(data) = state.pieces.pop_front() {
            return Poll::Ready(Event::Data(data));
        }
        if !state.tail.is_empty() {
            return Poll::Ready(Event::Data(std::mem::take(&mut state.tail).freeze()));
        }
        if let Some(end) = state.end.clone() {
            return Poll::Ready(Event::End(end));
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The caller's end of an exchange. Dropping it before the end cancels the request.
#[derive(Debug)]
pub(crate) struct Exchange {
    connection: Arc<Connection>,
    request: [u8; 32],
    queue: Arc<AnswerQueue>,
    /// The most that the request can cost, in adjusted tokens: what is expected at most where no end comes.
    at_most: i64,
    unreported: usize,
    ended: bool,
    /// What was looked at before it is passed on.
    ahead: VecDeque<Event>,
    /// Once the head is there.
    worker: Option<Fingerprint>,
}

impl Exchange {
    pub(crate) fn new(
        connection: Arc<Connection>,
        request: [u8; 32],
        queue: Arc<AnswerQueue>,
        at_most: i64,
    ) -> Self {
        connection.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            connection,
            request,
            queue,
            at_most,
            unreported: 0,
            ended: false,
            ahead: VecDeque::new(),
            worker: None,
        }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(crate) fn request(&self) -> &[u8; 32] {
        &self.request
    }

    /// The worker that answers, where the proxy has named it.
    pub(crate) fn worker(&self) -> Option<&Fingerprint> {
        self.worker.as_ref()
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match self.ahead.pop_front() {
            Some(event) => Poll::Ready(event),
            None => self.poll_queue(cx),
        }
    }

    fn poll_queue(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let polled = self.queue.poll(cx);
        match &polled {
            Poll::Ready(Event::Data(data)) => {
                self.unreported += data.len();
                if self.unreported >= REPORT_BYTES {
                    self.connection.consumed(self.request, std::mem::take(&mut self.unreported));
                }
            }
            Poll::Ready(Event::Head(_, worker)) => self.worker = *worker,
            Poll::Ready(Event::End(_)) => self.ended = true,
            _ => {}
        }
        polled
    }

    pub(crate) async fn next(&mut self) -> Event {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Waits for the next event and keeps it for [`Self::poll_next`]: how many bytes of the body it brought, or how the
    /// answer ended.
    pub(crate) async fn look_ahead(&mut self) -> Result<usize, Ending> {
        let event = poll_fn(|cx| self.poll_queue(cx)).await;
        let seen = match &event {
            Event::Head(..) => Ok(0),
            Event::Data(data) => Ok(data.len()),
            Event::End(ending) => Err(ending.clone()),
        };
        self.ahead.push_back(event);
        seen
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.ended {
            self.connection.cancel(self.request, self.at_most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_pieces_are_joined_and_keep_their_order() {
        let queue = AnswerQueue::default();
        for number in 0..1000_u32 {
            queue.put(Event::Data(Bytes::copy_from_slice(&number.to_be_bytes())));
        }
        queue.put(Event::End(Ending::Completed { info: FinalInfo::default(), debug: None }));
        assert_eq!(queue.lock().pieces.len(), MAX_PIECES);
        let mut context = Context::from_waker(Waker::noop());
        let mut joined = Vec::new();
        while let Poll::Ready(Event::Data(data)) = queue.poll(&mut context) {
            joined.extend_from_slice(&data);
        }
        let expected: Vec<u8> = (0..1000_u32).flat_map(u32::to_be_bytes).collect();
        assert_eq!(joined, expected);
        assert!(matches!(queue.poll(&mut context), Poll::Ready(Event::End(Ending::Completed { .. }))));
    }
}
