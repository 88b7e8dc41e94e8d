//! Debug information of the newest requests that asked for it under a name of their own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Requests remembered.
const MAX_ENTRIES: usize = 1024;
/// Longest name that is remembered, in bytes.
const MAX_GUID_BYTES: usize = 256;

#[derive(Debug, Default)]
struct Entries {
    texts: HashMap<String, String>,
    order: VecDeque<String>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct DebugLog(Mutex<Entries>);

impl DebugLog {
    pub(crate) fn put(&self, guid: &str, text: String) {
        if guid.is_empty() || guid.len() > MAX_GUID_BYTES {
            return;
        }
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.texts.insert(guid.to_owned(), text).is_some() {
            return;
        }
        entries.order.push_back(guid.to_owned());
        if entries.order.len() > MAX_ENTRIES
            && let Some(oldest) = entries.order.pop_front()
        {
            entries.texts.remove(&oldest);
        }
    }

    pub(crate) fn get(&self, guid: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).texts.get(guid).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_remembered() {
        let log = DebugLog::default();
        for number in 0..=MAX_ENTRIES {
            log.put(&number.to_string(), "{}".to_owned());
        }
        assert_eq!(log.get("0"), None);
        assert_eq!(log.get("1").as_deref(), Some("{}"));
        log.put(&"x".repeat(MAX_GUID_BYTES + 1), String::new());
        assert_eq!(log.get(&"x".repeat(MAX_GUID_BYTES + 1)), None);
    }
}
