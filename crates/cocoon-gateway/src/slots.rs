//! Places for HTTP connections. When all are taken, the connection that has idled longest makes room: one whose caller
//! waits for nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default)]
struct Idle {
    next: u64,
    /// Somebody waits for a place, and nobody idled.
    wanted: bool,
    /// By the time since when they idle.
    waiting: BTreeMap<u64, CancellationToken>,
}

/// All places.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

impl Slots {
    pub(crate) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { free: Arc::new(Semaphore::new(places)), idle: Mutex::default() })
    }

    /// A place, once there is one.
    pub(crate) async fn take(self: &Arc<Self>) -> Arc<Slot> {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                if !self.make_room() {
                    self.idle().wanted = true;
                }
                // The semaphore is never closed.
                let permit = Arc::clone(&self.free).acquire_owned().await.ok();
                // Or the next that idles would be sent away for nobody.
                self.idle().wanted = false;
                permit
            }
        };
        let left = CancellationToken::new();
        let since = Mutex::new(None);
        let (heard, requests) = (AtomicBool::new(false), AtomicU64::new(0));
        Arc::new(Slot { slots: Arc::clone(self), since, heard, requests, left, _permit: permit })
    }

    /// Ends the connection that has idled longest; `false` where none idles.
    pub(crate) fn make_room(&self) -> bool {
        let Some((_, longest)) = self.idle().waiting.pop_first() else { return false };
        longest.cancel();
        true
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    /// Its number among those that idle.
    since: Mutex<Option<u64>>,
    heard: AtomicBool,
    requests: AtomicU64,
    left: CancellationToken,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Slot {
    /// Ends when the connection has to make room.
    pub(crate) fn left(&self) -> &CancellationToken {
        &self.left
    }

    /// A request is under way on this connection until what is given back is dropped.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.works();
        self.heard.store(false, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// The whole request under way has been read.
    pub(crate) fn heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Whether a request is under way that has been read.
    pub(crate) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed) && self.is_busy()
    }

    /// Whether a request is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.since().is_none()
    }

    /// How many requests there were, with the one under way.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn works(&self) {
        let since = self.since().take();
        if let Some(since) = since {
            self.slots.idle().waiting.remove(&since);
        }
    }

    /// The connection is there and waits for a request; also after one has ended.
    pub(crate) fn idles(&self) {
        let mut idle = self.slots.idle();
        let number = idle.next;
        idle.next += 1;
        idle.waiting.insert(number, self.left.clone());
        let wanted = std::mem::take(&mut idle.wanted);
        drop(idle);
        *self.since() = Some(number);
        if wanted {
            self.slots.make_room();
        }
    }

    fn since(&self) -> MutexGuard<'_, Option<u64>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.works();
    }
}

/// A request under way on a connection.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Slot>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idles();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_longest_idle_connection_makes_room_and_one_at_work_never() {
        let slots = Slots::new(3);
        let (first, second, third) = (slots.take().await, slots.take().await, slots.take().await);
        for slot in [&first, &second, &third] {
            slot.idles();
        }
        let work = first.busy();
        let taking = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.take().await }
        });
        second.left().cancelled().await;
        assert!(!first.left().is_cancelled() && !third.left().is_cancelled());
        drop(second);
        let fourth = taking.await.unwrap();
        fourth.idles();
        drop(work);
        // The first idles since a moment ago only.
        slots.make_room();
        assert!(third.left().is_cancelled() && !first.left().is_cancelled() && !fourth.left().is_cancelled());
    }

    #[tokio::test]
    async fn who_waits_for_a_place_gets_that_of_the_next_that_idles() {
        let slots = Slots::new(1);
        let only = slots.take().await;
        let work = only.busy();
        let taking = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.take().await }
        });
        while !slots.idle().wanted {
            tokio::task::yield_now().await;
        }
        drop(work);
        only.left().cancelled().await;
        drop(only);
        taking.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_makes_room_for_one_who_has_a_place_by_now() {
        let slots = Slots::new(1);
        let only = slots.take().await;
        let taking = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.take().await }
        });
        while !slots.idle().wanted {
            tokio::task::yield_now().await;
        }
        // Without having idled.
        drop(only);
        let second = taking.await.unwrap();
        second.idles();
        assert!(!second.left().is_cancelled());
    }

    #[tokio::test]
    async fn who_is_gone_is_not_asked_to_make_room() {
        let slots = Slots::new(2);
        drop(slots.take().await);
        let second = slots.take().await;
        second.idles();
        drop(second.busy());
        slots.make_room();
        assert!(second.left().is_cancelled());
        assert!(slots.idle().waiting.is_empty());
    }
}
