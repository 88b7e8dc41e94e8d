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
    /// Somebody waits for a place.
    wanted: bool,
    /// One was asked to make room, and is still there.
    leaving: bool,
    /// By the time since when they idle.
    waiting: BTreeMap<u64, CancellationToken>,
}

impl Idle {
    /// Asks the one that has idled longest to make room; `false` where none idles.
    fn ask(&mut self) -> bool {
        let Some((_, longest)) = self.waiting.pop_first() else { return false };
        self.leaving = true;
        longest.cancel();
        true
    }

    /// Asks one where a place is wanted, and nobody is about to free one.
    fn ask_if_wanted(&mut self) {
        if self.wanted && !self.leaving {
            self.ask();
        }
    }
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
                {
                    let mut idle = self.idle();
                    idle.wanted = true;
                    idle.ask_if_wanted();
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
        self.idle().ask()
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
        if self.stops_idling() {
            // It was asked to leave, and stays for this request: another has to.
            self.slots.idle().ask_if_wanted();
        }
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

    /// Whether it had been asked to leave.
    fn stops_idling(&self) -> bool {
        let Some(since) = self.since().take() else { return false };
        let mut idle = self.slots.idle();
        let asked = idle.waiting.remove(&since).is_none();
        if asked {
            idle.leaving = false;
        }
        asked
    }

    /// The connection is there and waits for a request; also after one has ended.
    pub(crate) fn idles(&self) {
        if self.left.is_cancelled() {
            // It ends with the answer that it was given last.
            return;
        }
        let mut idle = self.slots.idle();
        let number = idle.next;
        idle.next += 1;
        idle.waiting.insert(number, self.left.clone());
        *self.since() = Some(number);
        idle.ask_if_wanted();
    }

    fn since(&self) -> MutexGuard<'_, Option<u64>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Whoever waits gets this place.
        self.stops_idling();
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
    async fn where_one_that_was_asked_to_leave_begins_to_work_another_leaves() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take().await, slots.take().await);
        first.idles();
        second.idles();
        let taking = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.take().await }
        });
        first.left().cancelled().await;
        assert!(!second.left().is_cancelled(), "one place is enough");
        let _work = first.busy();
        second.left().cancelled().await;
        drop(second);
        taking.await.unwrap();
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
