//! Room for the large bodies of all requests under way, and how much of it each key has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cocoon_access::KeyId;

/// Room for so many bytes.
#[derive(Debug)]
pub(crate) struct Room {
    bytes: usize,
    /// The most of it that one key may have.
    of_a_key: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    /// Of those that hold any.
    by_key: HashMap<KeyId, usize>,
}

impl Room {
    pub(crate) fn new(bytes: usize, of_a_key: usize) -> Arc<Self> {
        Arc::new(Self { bytes, of_a_key, held: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most that one key may hold. Callers without one cannot be told apart.
    fn most(&self, key: KeyId) -> usize {
        if key == KeyId::NONE { self.bytes } else { self.of_a_key }
    }
}

/// What one request holds of it; given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    room: Arc<Room>,
    key: KeyId,
    bytes: usize,
}

impl Place {
    pub(crate) fn none(room: &Arc<Room>, key: KeyId) -> Self {
        Self { room: Arc::clone(room), key, bytes: 0 }
    }

    pub(crate) const fn is_none(&self) -> bool {
        self.bytes == 0
    }

    /// Makes it so many bytes, if there is room; it never shrinks.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else { return true };
        let mut held = self.room.held();
        let of_key = held.by_key.get(&self.key).copied().unwrap_or(0).saturating_add(more);
        let all = held.bytes.saturating_add(more);
        if all > self.room.bytes || of_key > self.room.most(self.key) {
            return false;
        }
        held.bytes = all;
        held.by_key.insert(self.key, of_key);
        self.bytes = bytes;
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_none() {
            return;
        }
        let mut held = self.room.held();
        // All that a place has was added to both sums when it got it, and is taken away here alone.
        held.bytes -= self.bytes;
        if let Some(of_key) = held.by_key.get_mut(&self.key) {
            *of_key -= self.bytes;
            if *of_key == 0 {
                held.by_key.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_leaves_room_to_others_and_all_of_it_comes_back() {
        let room = Room::new(100, 50);
        let [one, other] = [1, 2].map(|number| KeyId::from_random([number; 8]));
        let mut first = Place::none(&room, one);
        assert!(first.grow_to(30) && first.grow_to(10) && first.grow_to(40));
        let mut second = Place::none(&room, one);
        assert!(!second.grow_to(11) && second.grow_to(10));
        let mut others = Place::none(&room, other);
        assert!(!others.grow_to(51) && others.grow_to(50));
        let mut nobodys = Place::none(&room, KeyId::NONE);
        assert!(!nobodys.grow_to(1));
        drop(first);
        assert!(nobodys.grow_to(40) && !nobodys.grow_to(41));
        drop((second, others, nobodys));
        let held = room.held();
        assert!(held.bytes == 0 && held.by_key.is_empty(), "{held:?}");
        drop(held);
        let mut alone = Place::none(&room, KeyId::NONE);
        assert!(alone.grow_to(100));
    }
}
