//! A request's body on its way from the link to the engine.
//!
//! The queue needs no limit of its own: the session lets no more come than was reported as taken, and ends a connection
//! that does not keep to it. Tiny pieces are joined, so that their number is bounded as well.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use cocoon_engine::{BodyBroken, BodyStream};
use cocoon_openai::ArrivingBody;
use futures_util::stream;
use tokio::sync::Notify;

use crate::Shared;
use crate::link::{Link, Running};

/// Pieces that wait as they came; what comes on top of them is joined.
const MAX_PIECES: usize = 64;

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    ended: bool,
}

/// What came of a body and was not passed on yet.
#[derive(Debug, Default)]
pub(crate) struct BodyQueue {
    queue: Mutex<Queue>,
    news: Notify,
}

impl BodyQueue {
    pub(crate) fn put(&self, data: Bytes, last: bool) {
        let mut queue = self.lock();
        if queue.pieces.len() < MAX_PIECES && queue.tail.is_empty() {
            queue.pieces.push_back(data);
        } else {
            queue.tail.extend_from_slice(&data);
        }
        queue.ended |= last;
        drop(queue);
        self.news.notify_one();
    }

    /// The next bytes, and whether the body ends with them.
    async fn next(&self) -> (Bytes, bool) {
        loop {
            let news = self.news.notified();
            {
                let mut queue = self.lock();
                let piece = match queue.pieces.pop_front() {
                    None if queue.tail.is_empty() => None,
                    None => Some(std::mem::take(&mut queue.tail).freeze()),
                    piece => piece,
                };
                if let Some(piece) = piece {
                    return (piece, queue.ended && queue.pieces.is_empty() && queue.tail.is_empty());
                }
            }
            news.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of one request, and what is read of it as it goes by. Whoever reads it sets its pace.
#[derive(Clone)]
pub(crate) struct Coming {
    shared: Arc<Shared>,
    link: Arc<Link>,
    running: Arc<Running>,
    request: [u8; 32],
    read: Arc<Mutex<Reading>>,
}

struct Reading {
    /// Until the answer takes it over.
    arriving: Option<ArrivingBody>,
    ended: bool,
    /// Why the request must not go on.
    refused: Option<String>,
}

/// Why a body does not go on.
pub(crate) enum Stopped {
    /// The request was cancelled.
    Cancelled,
    /// The request is at fault, in words for its caller.
    Refused(String),
}

impl Coming {
    /// A body that begins with `first`; `whole` where that is all of it. Gives what goes on at once.
    pub(crate) fn begin(
        shared: &Arc<Shared>,
        link: &Arc<Link>,
        running: &Arc<Running>,
        request: [u8; 32],
        arriving: ArrivingBody,
        first: Bytes,
        whole: bool,
    ) -> Result<(Self, Vec<Bytes>), String> {
        let reading = Reading { arriving: Some(arriving), ended: false, refused: None };
        let coming = Self {
            shared: Arc::clone(shared),
            link: Arc::clone(link),
            running: Arc::clone(running),
            request,
            read: Arc::new(Mutex::new(reading)),
        };
        let mut pieces = coming.push(Some(first))?;
        if whole {
            pieces.extend(coming.push(None)?);
        }
        Ok((coming, pieces))
    }

    /// Reads on; at the end (`None`), what goes on at last.
    fn push(&self, data: Option<Bytes>) -> Result<Vec<Bytes>, String> {
        let mut reading = self.lock();
        let Reading { arriving, ended, refused } = &mut *reading;
        let Some(arriving) = arriving else { return Ok(Vec::new()) };
        let pieces = match data {
            Some(data) => arriving.push(data),
            None => {
                *ended = true;
                arriving.finish()
            }
        };
        pieces.map_err(|error| {
            *refused = Some(error.message.clone());
            error.message
        })
    }

    /// What goes on next; `None` once everything has.
    pub(crate) async fn next(&self) -> Result<Option<Vec<Bytes>>, Stopped> {
        if self.lock().ended {
            return Ok(None);
        }
        let next = self.running.cancelled.run_until_cancelled(self.running.body.next()).await;
        let Some((data, last)) = next else { return Err(Stopped::Cancelled) };
        let bytes = data.len();
        let mut pieces = self.push(Some(data)).map_err(Stopped::Refused)?;
        // At once: an engine that knows the length asks for no more.
        if last {
            pieces.extend(self.push(None).map_err(Stopped::Refused)?);
        }
        self.link.run(&self.shared, |session, _| session.body_taken(self.request, bytes));
        Ok(Some(pieces))
    }

    /// Looks at what was read so far.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&ArrivingBody) -> R) -> Option<R> {
        self.lock().arriving.as_ref().map(look)
    }

    /// Whether all has come.
    pub(crate) fn is_whole(&self) -> bool {
        self.lock().ended
    }

    /// Why the request must not go on, where that turned out while it went by.
    pub(crate) fn refused(&self) -> Option<String> {
        self.lock().refused.clone()
    }

    /// What was read; what comes from now on goes nowhere.
    pub(crate) fn into_read(self) -> Option<ArrivingBody> {
        self.lock().arriving.take()
    }

    /// The rest for the engine, which reads it at its own pace; `length` bytes, where that is known.
    pub(crate) fn rest(&self, length: Option<u64>) -> BodyStream {
        let begin = (self.clone(), VecDeque::<Bytes>::new());
        let pieces = stream::unfold(begin, |(coming, mut pieces)| async move {
            loop {
                if let Some(piece) = pieces.pop_front() {
                    return Some((Ok(piece), (coming, pieces)));
                }
                match coming.next().await {
                    Ok(Some(more)) => pieces.extend(more),
                    Ok(None) => return None,
                    Err(_) => return Some((Err(BodyBroken), (coming, pieces))),
                }
            }
        });
        BodyStream::new(pieces, length)
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn tiny_pieces_are_joined_and_keep_their_order() {
        let queue = BodyQueue::default();
        for number in 0..1000_u32 {
            queue.put(Bytes::copy_from_slice(&number.to_be_bytes()), number == 999);
        }
        assert_eq!(queue.lock().pieces.len(), MAX_PIECES);
        let mut read = Vec::new();
        loop {
            let (piece, last) = queue.next().await;
            read.extend_from_slice(&piece);
            if last {
                break;
            }
        }
        let expected: Vec<u8> = (0..1000_u32).flat_map(u32::to_be_bytes).collect();
        assert_eq!(read, expected);
    }

    #[tokio::test]
    async fn who_waits_hears_of_what_comes() {
        let queue = Arc::new(BodyQueue::default());
        let reader = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.next().await }
        });
        tokio::task::yield_now().await;
        queue.put(Bytes::from_static(b"x"), true);
        assert_eq!(reader.await.unwrap(), (Bytes::from_static(b"x"), true));
    }
}
