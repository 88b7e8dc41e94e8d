//! A connection with the habits of TCP: bytes arrive in order, late, in pieces of any size, and at most so many are
//! under way; when it is cut, some of them never arrive.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_session::Time;

use crate::rng::Rng;
use crate::world::Node;

/// The direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToProxy,
    FromProxy,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::ToProxy, Self::FromProxy];
}

/// How good a connection is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quality {
    /// Shortest time under way, in milliseconds.
    latency_ms: u64,
    /// Most bytes under way.
    pub(crate) window: usize,
    /// Bytes per millisecond.
    rate: u64,
}

impl Quality {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        match rng.range(0, 3) {
            0 => Self { latency_ms: 0, window: 1 << 20, rate: 100_000 },
            1 => Self { latency_ms: 20, window: 64 * 1024, rate: 5_000 },
            2 => Self { latency_ms: 80, window: 256 * 1024, rate: 1_000 },
            _ => Self { latency_ms: 2, window: rng.size(3_000, 30_000), rate: 400 },
        }
    }

    pub(crate) const GOOD: Self = Self { latency_ms: 1, window: 1 << 20, rate: 100_000 };
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// Taken from the sender, not yet under way.
    pending: Bytes,
    flight: VecDeque<Bytes>,
    in_flight: usize,
    /// Nothing departs any more.
    cut: bool,
    last_arrival: Time,
    /// At the receiver: possibly an incomplete frame.
    pub(crate) received: BytesMut,
}

impl Lane {
    /// Room for bytes of the sender; zero where it has to wait.
    pub(crate) fn room(&self, window: usize) -> usize {
        let room = if self.cut { 0 } else { window.saturating_sub(self.in_flight) };
        if self.pending.is_empty() && room >= window / 4 { room } else { 0 }
    }

    pub(crate) fn offer(&mut self, bytes: Bytes) {
        self.pending = bytes;
    }

    /// Puts what fits under way; gives the times of arrival.
    pub(crate) fn depart(&mut self, quality: Quality, now: Time, rng: &mut Rng, all: bool) -> Vec<Time> {
        let mut arrivals = Vec::new();
        if self.cut {
            self.pending.clear();
        }
        while !self.pending.is_empty() {
            let room = if all { usize::MAX } else { quality.window.saturating_sub(self.in_flight) };
            // As TCP does: no crumbs while more can wait.
            if room < self.pending.len().min(quality.window / 4) {
                break;
            }
            let most = self.pending.len().min(room);
            let piece = if rng.chance(30) { rng.size(1, most) } else { most };
            let took = quality.latency_ms * 1000 + rng.range(0, quality.latency_ms * 500 + 50);
            let sending = piece as u64 * 1000 / quality.rate;
            let arrival = now.plus(Duration::from_micros(took)).max(self.last_arrival);
            let arrival = arrival.plus(Duration::from_micros(sending + 1));
            self.last_arrival = arrival;
            self.flight.push_back(self.pending.split_to(piece));
            self.in_flight += piece;
            arrivals.push(arrival);
        }
        arrivals
    }

    /// The next piece arrives.
    pub(crate) fn arrive(&mut self) -> bool {
        let Some(piece) = self.flight.pop_front() else { return false };
        self.in_flight = self.in_flight.saturating_sub(piece.len());
        self.received.extend_from_slice(&piece);
        true
    }

    pub(crate) fn last_arrival(&self) -> Time {
        self.last_arrival
    }

    /// Loses all that is under way but a random beginning, which may end within a frame. Nothing departs any more.
    fn cut(&mut self, rng: &mut Rng) {
        let kept = rng.size(0, self.flight.len());
        self.flight.truncate(kept);
        if let Some(last) = self.flight.back_mut() {
            let half = rng.size(0, last.len());
            last.truncate(half);
        }
        self.pending = Bytes::new();
        self.cut = true;
    }
}

/// One connection between a node and the proxy.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) node: Node,
    pub(crate) quality: Quality,
    pub(crate) lanes: [Lane; 2],
    pub(crate) stalled_until: Time,
    /// Whether the node still holds its end.
    pub(crate) node_end: bool,
    /// Whether the proxy still holds its end.
    pub(crate) proxy_end: bool,
    /// Slow, stalled or cut: silence on it is nobody's fault.
    pub(crate) disturbed: bool,
    /// Nothing arrives any more.
    pub(crate) broken: bool,
    /// Its client leaves, or parameters change: the ends may refuse each other.
    pub(crate) excused: bool,
}

impl Wire {
    pub(crate) fn new(node: Node, quality: Quality, now: Time) -> Self {
        Self {
            node,
            quality,
            lanes: [Lane::default(), Lane::default()],
            stalled_until: now,
            node_end: true,
            proxy_end: true,
            disturbed: quality.rate < 5_000,
            broken: false,
            excused: false,
        }
    }

    pub(crate) fn lane(&mut self, way: Way) -> &mut Lane {
        match way {
            Way::ToProxy => &mut self.lanes[0],
            Way::FromProxy => &mut self.lanes[1],
        }
    }

    pub(crate) fn cut(&mut self, rng: &mut Rng) {
        self.disturbed = true;
        self.broken = true;
        for lane in &mut self.lanes {
            lane.cut(rng);
        }
    }
}
