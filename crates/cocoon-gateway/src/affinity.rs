//! How requests begin, as keyed hashes: so that a request goes where its beginning is still in an engine's cache, and
//! nobody on the way learns anything from it.
//!
//! The key is random, new with each start, and never leaves the process; each caller has a salt of its own, so that
//! requests of two callers never look alike. A proxy only sees that two requests of one caller begin alike, which it
//! could see from the requests themselves.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

/// Hashes of one request: as many as a proxy takes.
const MAX_HASHES: usize = cocoon_session::MAX_AFFINITY;
/// The lengths of beginnings that are hashed wherever a request is as long, in bytes: what callers put before each
/// of their requests is often longer than one of these.
const LENGTHS: [usize; 8] = [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16, 1 << 17];
/// The ends of so many messages, the last ones, are hashed, too: a conversation grows by one or two each time.
const LAST_MESSAGES: usize = MAX_HASHES - LENGTHS.len();
/// Shorter beginnings are not worth a worker's while, in bytes.
const WORTH_KEEPING: usize = LENGTHS[0];
/// Larger bodies are not looked at, in bytes: reading them a second time takes milliseconds.
const MAX_BODY_BYTES: usize = 1 << 20;
/// Beginnings of which it is known which proxy served them.
const MAX_REMEMBERED: usize = 65_536;

/// Hashes of the growing beginnings of a request, the shortest first.
///
/// What engines put first counts first: tools, the system's words, then messages, input or prompt. `body` is the JSON as it
/// is forwarded; any other body has no beginnings.
pub(crate) fn beginnings(key: &[u8; 32], salt: &[u8], model: &str, body: &[u8]) -> Vec<u64> {
    if !(WORTH_KEEPING..=MAX_BODY_BYTES).contains(&body.len()) {
        return Vec::new();
    }
    let Ok(fields) = serde_json::from_slice::<HashMap<&str, &RawValue>>(body) else { return Vec::new() };
    let mut pieces: Vec<&str> = Vec::new();
    pieces.extend(
        ["tools", "system", "instructions"].iter().filter_map(|name| fields.get(name)).map(|raw| raw.get()),
    );
    for name in ["messages", "input", "prompt"] {
        let Some(raw) = fields.get(name) else { continue };
        match serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
            Ok(items) => pieces.extend(items.iter().map(|item| item.get())),
            Err(_) => pieces.push(raw.get()),
        }
    }
    let mut hasher = Sha256::new_with_prefix(key);
    for part in [salt, model.as_bytes()] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hash(hasher, &pieces)
}

fn hash(mut hasher: Sha256, pieces: &[&str]) -> Vec<u64> {
    let word = |hasher: &Sha256| {
        let digest: [u8; 32] = hasher.clone().finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    };
    let (mut found, mut len) = (BTreeMap::new(), 0);
    let mut lengths = LENGTHS.iter().copied().peekable();
    for (number, piece) in pieces.iter().enumerate() {
        let mut rest = piece.as_bytes();
        while let Some(&next) = lengths.peek()
            && len + rest.len() >= next
        {
            let (head, tail) = rest.split_at(next - len);
            hasher.update(head);
            (rest, len) = (tail, next);
            found.insert(len, word(&hasher));
            lengths.next();
        }
        hasher.update(rest);
        len += rest.len();
        if number + LAST_MESSAGES >= pieces.len() && len >= WORTH_KEEPING {
            found.insert(len, word(&hasher));
        }
    }
    found.into_values().collect()
}

/// Which proxy served which beginning last; the one that was used longest ago is forgotten first.
#[derive(Debug, Default)]
pub(crate) struct Served(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    known: HashMap<u64, (u64, Arc<str>)>,
    used: BTreeMap<u64, u64>,
    clock: u64,
}

impl Served {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The proxy at this address served a request that begins so.
    pub(crate) fn note(&self, beginnings: &[u64], proxy: &str) {
        if beginnings.is_empty() {
            return;
        }
        let proxy: Arc<str> = proxy.into();
        let mut memory = self.lock();
        for &beginning in beginnings.iter().rev() {
            memory.clock += 1;
            let clock = memory.clock;
            if let Some((used, _)) = memory.known.insert(beginning, (clock, Arc::clone(&proxy))) {
                memory.used.remove(&used);
            }
            memory.used.insert(clock, beginning);
        }
        while memory.known.len() > MAX_REMEMBERED
            && let Some((_, oldest)) = memory.used.pop_first()
        {
            memory.known.remove(&oldest);
        }
    }

    /// The address of the proxy that served the longest of these beginnings last.
    pub(crate) fn find(&self, beginnings: &[u64]) -> Option<Arc<str>> {
        let memory = self.lock();
        beginnings
            .iter()
            .rev()
            .find_map(|beginning| memory.known.get(beginning))
            .map(|(_, proxy)| Arc::clone(proxy))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn chat(messages: &[String]) -> Vec<u64> {
        let messages: Vec<_> =
            messages.iter().map(|text| serde_json::json!({"role": "user", "content": text})).collect();
        let body = serde_json::json!({"model": "m", "temperature": 0, "messages": messages});
        beginnings(&KEY, b"caller", "m", body.to_string().as_bytes())
    }

    fn common(a: &[u64], b: &[u64]) -> usize {
        a.iter().filter(|hash| b.contains(hash)).count()
    }

    #[test]
    fn a_conversation_that_goes_on_begins_as_it_did() {
        let long = "x".repeat(1500);
        let before = chat(&[long.clone(), "a question".to_owned()]);
        let after = chat(&[long, "a question".to_owned(), "an answer".to_owned(), "another".to_owned()]);
        assert_eq!(common(&before, &after), before.len(), "{before:?} {after:?}");
        assert_eq!(before.len(), 3, "1 KiB, and both messages");
    }

    #[test]
    fn what_is_short_has_no_beginnings() {
        assert!(chat(&["hello".to_owned()]).is_empty());
        for body in ["", "[]", "{\"messages\": 5}", "--boundary", "{\"messages\": [{}, 7]}"] {
            assert!(beginnings(&KEY, b"", "m", body.as_bytes()).is_empty(), "{body}");
        }
    }

    #[test]
    fn nobody_shares_beginnings_with_another_caller_model_or_gateway() {
        let body = serde_json::json!({"prompt": "y".repeat(5000)}).to_string();
        let of = |key, salt: &str, model| beginnings(&[key; 32], salt.as_bytes(), model, body.as_bytes());
        let mine = of(1, "a", "m");
        assert_eq!(mine.len(), 4);
        for other in [of(2, "a", "m"), of(1, "b", "m"), of(1, "a", "n"), of(1, "am", "")] {
            assert_eq!(common(&mine, &other), 0);
        }
        assert_eq!(mine, of(1, "a", "m"));
    }

    #[test]
    fn the_same_words_of_the_system_make_the_same_beginning() {
        let of = |question: &str| {
            let body = serde_json::json!({
                "messages": [{"role": "user", "content": question}], "system": "s".repeat(3000), "model": "m",
            });
            beginnings(&KEY, b"", "m", body.to_string().as_bytes())
        };
        assert_eq!(common(&of("one"), &of("two")), 3, "1 KiB, 2 KiB, and all of it");
    }

    #[test]
    fn the_proxy_of_the_longest_beginning_is_found() {
        let served = Served::default();
        served.note(&[1, 2, 3], "a:1");
        served.note(&[1, 2], "b:1");
        assert_eq!(served.find(&[1, 2, 3, 4]).as_deref(), Some("a:1"));
        assert_eq!(served.find(&[1, 2, 9]).as_deref(), Some("b:1"));
        assert_eq!(served.find(&[9]), None);
        (10..MAX_REMEMBERED as u64 + 10).for_each(|hash| served.note(&[hash], "c:1"));
        assert_eq!(served.find(&[1, 2, 3]), None);
        let memory = served.lock();
        assert_eq!((memory.known.len(), memory.used.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_a_proxy_takes_and_growing_keeps_the_lengths(
            texts in prop::collection::vec(".{0,600}", 0..40),
            more in ".{0,4000}",
        ) {
            let before = chat(&texts);
            let after = chat(&[texts, vec![more]].concat());
            prop_assert!(before.len() <= MAX_HASHES && after.len() <= MAX_HASHES);
            // One message's end gives its place to the new one's.
            prop_assert!(common(&before, &after) + 1 >= before.len());
        }
    }
}
