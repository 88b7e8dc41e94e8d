//! Answers on their way out of one connection, shared fairly between its requests.
//!
//! Each request has a queue of body bytes. [`Outbox::next_chunk`] serves the requests in turn, at most
//! [`MAX_PART_BYTES`] each time, and only as far as the receiver granted credit: one slow or
//! greedy request never stalls the others. Small pieces that wait together leave together.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use crate::body::compact;
use crate::{INITIAL_CREDIT_BYTES, MAX_PART_BYTES};

/// Pieces of one answer that wait as they came; what comes on top of them is joined, so that many tiny ones take no more
/// memory than their bytes.
const MAX_PIECES: usize = 64;

/// What to send next for one request.
#[derive(Debug, PartialEq)]
pub struct Chunk<K, H, E> {
    /// Which request.
    pub key: K,
    /// The head of the answer, with its first chunk.
    pub head: Option<H>,
    /// Body bytes, possibly none.
    pub data: Bytes,
    /// How the answer ends, with its last chunk.
    pub end: Option<E>,
}

#[derive(Debug)]
struct Stream<H, E> {
    head: Option<H>,
    head_bytes: usize,
    queue: VecDeque<Bytes>,
    /// Follows the queue.
    tail: BytesMut,
    queued: usize,
    /// `None`: the receiver knows no credit.
    credit: Option<usize>,
    end: Option<E>,
    in_turn: bool,
    /// Its end waited when [`Outbox::sweep`] last looked.
    swept: bool,
}

impl<H, E> Stream<H, E> {
    fn has_chunk(&self) -> bool {
        self.head.is_some()
            || (self.queued > 0 && self.credit != Some(0))
            || (self.queued == 0 && self.end.is_some())
    }

    fn take_data(&mut self) -> Bytes {
        let room = self.credit.unwrap_or(MAX_PART_BYTES).min(MAX_PART_BYTES);
        if self.queue.is_empty() && !self.tail.is_empty() {
            self.queue.push_back(std::mem::take(&mut self.tail).freeze());
        }
        let Some(mut first) = self.queue.pop_front() else { return Bytes::new() };
        if first.len() > room {
            let rest = first.split_off(room);
            self.queue.push_front(rest);
        }
        let mut joined = None::<BytesMut>;
        let mut taken = first.len();
        while let Some(next) = self.queue.front() {
            if taken + next.len() > room {
                break;
            }
            let joined = joined.get_or_insert_with(|| BytesMut::from(first.as_ref()));
            joined.extend_from_slice(next);
            taken += next.len();
            self.queue.pop_front();
        }
        self.queued -= taken;
        if let Some(credit) = &mut self.credit {
            *credit -= taken;
        }
        joined.map_or(first, BytesMut::freeze)
    }
}

/// The outgoing answers of one connection.
#[derive(Debug)]
pub struct Outbox<K, H, E> {
    streams: BTreeMap<K, Stream<H, E>>,
    turn: VecDeque<K>,
    /// Bytes of heads and bodies that wait, all requests together.
    total: usize,
    with_credit: bool,
}

impl<K: Ord + Copy, H, E> Outbox<K, H, E> {
    /// An empty outbox; `with_credit` where the receiver grants credit per request.
    #[must_use]
    pub fn new(with_credit: bool) -> Self {
        Self { streams: BTreeMap::new(), turn: VecDeque::new(), total: 0, with_credit }
    }

    /// Begins the answer of request `key`.
    pub fn open(&mut self, key: K) {
        let credit = self.with_credit.then_some(INITIAL_CREDIT_BYTES);
        self.streams.entry(key).or_insert(Stream {
            head: None,
            head_bytes: 0,
            queue: VecDeque::new(),
            tail: BytesMut::new(),
            queued: 0,
            credit,
            end: None,
            in_turn: false,
            swept: false,
        });
    }

    /// Queues the head, of so many bytes. Nothing happens for a request that is not open (any more); so for the others
    /// below.
    pub fn head(&mut self, key: K, head: H, bytes: usize) {
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.head = Some(head);
            self.total = self.total + bytes - std::mem::replace(&mut stream.head_bytes, bytes);
        }
        self.enqueue(key);
    }

    /// Queues body bytes.
    pub fn data(&mut self, key: K, data: Bytes) {
        if let Some(stream) = self.streams.get_mut(&key)
            && !data.is_empty()
        {
            stream.queued += data.len();
            self.total += data.len();
            if stream.queue.len() < MAX_PIECES && stream.tail.is_empty() {
                stream.queue.push_back(compact(data));
            } else {
                stream.tail.extend_from_slice(&data);
            }
        }
        self.enqueue(key);
    }

    /// Says how the answer ends once its bytes are out.
    pub fn end(&mut self, key: K, end: E) {
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.end = Some(end);
        }
        self.enqueue(key);
    }

    /// Drops the bytes that wait, so that the end comes next.
    pub fn discard_data(&mut self, key: K) {
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.queue.clear();
            stream.tail = BytesMut::new();
            self.total -= std::mem::take(&mut stream.queued);
        }
        self.enqueue(key);
    }

    /// Forgets a request.
    pub fn close(&mut self, key: K) {
        if let Some(stream) = self.streams.remove(&key) {
            self.total -= stream.queued + stream.head_bytes;
        }
    }

    /// The receiver grants `bytes` more for a request.
    pub fn grant(&mut self, key: K, bytes: usize) {
        if let Some(stream) = self.streams.get_mut(&key)
            && let Some(credit) = &mut stream.credit
        {
            *credit = credit.saturating_add(bytes);
        }
        self.enqueue(key);
    }

    /// The requests with bytes that wait whose end waited at the last sweep already.
    pub fn sweep(&mut self) -> Vec<K> {
        let ended = self.streams.iter_mut().filter(|(_, stream)| stream.end.is_some() && stream.queued > 0);
        ended.filter_map(|(key, stream)| std::mem::replace(&mut stream.swept, true).then_some(*key)).collect()
    }

    /// Whether the answer of a request is not all out yet.
    #[must_use]
    pub fn contains(&self, key: K) -> bool {
        self.streams.contains_key(&key)
    }

    /// Whether every answer is all out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Body bytes that wait for a request.
    #[must_use]
    pub fn queued(&self, key: K) -> usize {
        self.streams.get(&key).map_or(0, |stream| stream.queued)
    }

    /// Bytes of heads and bodies that wait, all requests together.
    #[must_use]
    pub fn total_queued(&self) -> usize {
        self.total
    }

    /// Requests whose answers are not all out yet.
    #[must_use]
    pub fn open_answers(&self) -> usize {
        self.streams.len()
    }

    /// Whether [`Outbox::next_chunk`] would give something.
    #[must_use]
    pub fn has_chunk(&self) -> bool {
        self.turn.iter().any(|key| self.streams.get(key).is_some_and(Stream::has_chunk))
    }

    fn enqueue(&mut self, key: K) {
        if let Some(stream) = self.streams.get_mut(&key)
            && !stream.in_turn
            && stream.has_chunk()
        {
            stream.in_turn = true;
            self.turn.push_back(key);
        }
    }

    /// The next chunk in turn. A request whose end was given is forgotten.
    pub fn next_chunk(&mut self) -> Option<Chunk<K, H, E>> {
        while let Some(key) = self.turn.pop_front() {
            let Some(stream) = self.streams.get_mut(&key) else { continue };
            stream.in_turn = false;
            if !stream.has_chunk() {
                continue;
            }
            let head = stream.head.take();
            let data = stream.take_data();
            self.total -= data.len() + std::mem::take(&mut stream.head_bytes);
            let end = if stream.queued == 0 { stream.end.take() } else { None };
            if end.is_some() {
                self.streams.remove(&key);
            } else {
                self.enqueue(key);
            }
            return Some(Chunk { key, head, data, end });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Plain = Outbox<u8, &'static str, &'static str>;

    #[test]
    fn requests_take_turns_in_parts_of_bounded_size() {
        let mut outbox = Plain::new(false);
        for key in [1, 2] {
            outbox.open(key);
            outbox.data(key, Bytes::from(vec![key; MAX_PART_BYTES + 10]));
        }
        let order: Vec<_> =
            std::iter::from_fn(|| outbox.next_chunk()).map(|chunk| (chunk.key, chunk.data.len())).collect();
        assert_eq!(order, [(1, MAX_PART_BYTES), (2, MAX_PART_BYTES), (1, 10), (2, 10)]);
    }

    #[test]
    fn without_credit_only_that_request_waits() {
        let mut outbox = Plain::new(true);
        outbox.open(1);
        outbox.open(2);
        outbox.data(1, Bytes::from(vec![1; INITIAL_CREDIT_BYTES + 5]));
        let mut sent = 0;
        while let Some(chunk) = outbox.next_chunk() {
            sent += chunk.data.len();
        }
        assert_eq!(sent, INITIAL_CREDIT_BYTES);
        outbox.data(2, Bytes::from_static(b"x"));
        assert_eq!(outbox.next_chunk().map(|chunk| chunk.key), Some(2));
        outbox.grant(1, 100);
        assert_eq!(outbox.next_chunk().map(|chunk| chunk.data.len()), Some(5));
        assert!(!outbox.has_chunk());
    }

    #[test]
    fn all_that_waits_is_counted_however_it_goes() {
        let mut outbox = Plain::new(true);
        for key in [1, 2, 3] {
            outbox.open(key);
            outbox.data(key, Bytes::from(vec![key; INITIAL_CREDIT_BYTES + 100]));
        }
        assert_eq!((outbox.total_queued(), outbox.open_answers()), (3 * (INITIAL_CREDIT_BYTES + 100), 3));
        while outbox.next_chunk().is_some() {}
        assert_eq!(outbox.total_queued(), 300);
        outbox.close(1);
        outbox.discard_data(2);
        assert_eq!(outbox.total_queued(), 100);
        outbox.end(2, "end");
        outbox.grant(3, 100);
        while outbox.next_chunk().is_some() {}
        assert_eq!((outbox.total_queued(), outbox.open_answers()), (0, 1));
        outbox.open(4);
        for (key, bytes) in [(3, 50), (4, 60), (4, 70)] {
            outbox.head(key, "head", bytes);
        }
        assert_eq!(outbox.total_queued(), 120);
        outbox.close(4);
        assert_eq!(outbox.total_queued(), 50);
        while outbox.next_chunk().is_some() {}
        assert_eq!(outbox.total_queued(), 0);
    }

    #[test]
    fn tiny_pieces_that_wait_are_joined_and_keep_their_order() {
        let mut outbox = Plain::new(false);
        outbox.open(1);
        let written: Vec<u8> = (0..200_000_u32).flat_map(u32::to_be_bytes).collect();
        for piece in written.chunks(4) {
            outbox.data(1, Bytes::copy_from_slice(piece));
        }
        outbox.end(1, "end");
        assert_eq!(outbox.streams[&1].queue.len(), MAX_PIECES);
        let (mut read, mut ended) = (Vec::new(), false);
        while let Some(chunk) = outbox.next_chunk() {
            assert!(chunk.data.len() <= MAX_PART_BYTES && !ended);
            read.extend_from_slice(&chunk.data);
            ended = chunk.end.is_some();
        }
        assert!(ended && read == written);
        assert_eq!(outbox.total_queued(), 0);
    }

    #[test]
    fn head_small_pieces_and_end_leave_together() {
        let mut outbox = Plain::new(true);
        outbox.open(1);
        outbox.head(1, "head", 4);
        outbox.data(1, Bytes::from_static(b"ab"));
        outbox.data(1, Bytes::from_static(b"cd"));
        outbox.end(1, "end");
        let chunk = outbox.next_chunk().unwrap();
        assert_eq!(
            (chunk.head, chunk.data.as_ref(), chunk.end),
            (Some("head"), b"abcd".as_slice(), Some("end"))
        );
        assert!(outbox.next_chunk().is_none());
        outbox.data(1, Bytes::from_static(b"late"));
        assert!(outbox.next_chunk().is_none(), "an ended request is forgotten");
    }
}
