//! Debug information of the newest requests that asked for it under a name of their own. Each key has names of its own;
//! callers without one share theirs.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use cocoon_access::KeyId;

/// Requests remembered.
const MAX_ENTRIES: usize = 1024;
/// Longest name that is remembered, in bytes.
const MAX_GUID_BYTES: usize = 256;

#[derive(Debug, Default)]
struct Entries {
    texts: HashMap<(KeyId, String), String>,
    order: VecDeque<(KeyId, String)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct DebugLog(Mutex<Entries>);

impl DebugLog {
    pub(crate) fn put(&self, caller: KeyId, guid: &str, text: String) {
        if guid.is_empty() || guid.len() > MAX_GUID_BYTES {
            return;
        }
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (caller, guid.to_owned());
        if entries.texts.insert(name.clone(), text).is_some() {
            return;
        }
        entries.order.push_back(name);
        if entries.order.len() > MAX_ENTRIES
            && let Some(oldest) = entries.order.pop_front()
        {
            entries.texts.remove(&oldest);
        }
    }

    pub(crate) fn get(&self, caller: KeyId, guid: &str) -> Option<String> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.texts.get(&(caller, guid.to_owned())).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_remembered() {
        let log = DebugLog::default();
        for number in 0..=MAX_ENTRIES {
            log.put(KeyId::NONE, &number.to_string(), "{}".to_owned());
        }
        assert_eq!(log.get(KeyId::NONE, "0"), None);
        assert_eq!(log.get(KeyId::NONE, "1").as_deref(), Some("{}"));
        log.put(KeyId::NONE, &"x".repeat(MAX_GUID_BYTES + 1), String::new());
        assert_eq!(log.get(KeyId::NONE, &"x".repeat(MAX_GUID_BYTES + 1)), None);
    }
}
