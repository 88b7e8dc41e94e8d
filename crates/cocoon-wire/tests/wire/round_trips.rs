//! Every message, with arbitrary contents.

use std::collections::HashSet;
use std::fmt::Debug;

use bytes::Bytes;
use cocoon_wire::{DecodeError, Message, from_boxed, to_boxed};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use crate::messages::{Arb, ForEach, Json, for_each};
use crate::scheme;

/// Runs a check on arbitrary messages of every type.
struct Check<F: FnMut(&dyn Fn(Bytes) -> Result<(), DecodeError>, &Bytes, &Value)> {
    cases: u32,
    check: F,
}

impl<F: FnMut(&dyn Fn(Bytes) -> Result<(), DecodeError>, &Bytes, &Value)> ForEach for Check<F> {
    fn with<T: Message + Arb + Json + Clone + PartialEq + Debug + 'static>(&mut self) {
        let config = Config { cases: self.cases, failure_persistence: None, ..Config::default() };
        let check = std::cell::RefCell::new(&mut self.check);
        TestRunner::new(config)
            .run(&T::arb(), |message| {
                let encoded = to_boxed(&message);
                prop_assert_eq!(encoded.len(), message.encoded_len(), "the announced length");
                prop_assert_eq!(&from_boxed::<T>(encoded.clone()), &Ok(message.clone()));
                (check.borrow_mut())(&|data| from_boxed::<T>(data).map(drop), &encoded, &message.json());
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{}: {error}", std::any::type_name::<T>()));
    }
}

#[test]
fn every_message_reads_back_as_itself_and_is_written_as_the_scheme_says() {
    for_each(&mut Check {
        cases: 128,
        check: |_, encoded, json| {
            assert_eq!(hex::encode(encoded), hex::encode(scheme::encode_boxed(json)), "{json}");
        },
    });
}

#[test]
fn every_constructor_of_the_scheme_is_known() {
    let mut seen = HashSet::new();
    let see = |value: &Value, seen: &mut HashSet<String>| {
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            match value {
                Value::Object(fields) => {
                    seen.extend(fields.get("@").map(|name| name.as_str().unwrap().to_owned()));
                    open.extend(fields.values());
                }
                Value::Array(items) => open.extend(items),
                _ => {}
            }
        }
    };
    for_each(&mut Check { cases: 128, check: |_, _, json| see(json, &mut seen) });
    let unseen: Vec<_> = scheme::names().filter(|name| !seen.contains(*name)).collect();
    assert!(unseen.is_empty(), "no type for {unseen:?}");
}

#[test]
fn a_message_cut_short_anywhere_is_refused() {
    for_each(&mut Check {
        cases: 12,
        check: |decode, encoded, _| {
            for len in 0..encoded.len() {
                let error = decode(encoded.slice(..len)).expect_err("a part is no message");
                let cut = matches!(error, DecodeError::UnexpectedEnd | DecodeError::VectorTooLong(_));
                assert!(cut, "cut at {len}: {error}");
            }
        },
    });
}

#[test]
fn bytes_after_a_message_are_refused() {
    for_each(&mut Check {
        cases: 12,
        check: |decode, encoded, _| {
            for extra in 1..9 {
                let longer = [&encoded[..], &[0; 8][..extra]].concat();
                assert_eq!(decode(longer.into()), Err(DecodeError::TrailingBytes(extra)));
            }
        },
    });
}

#[test]
fn a_message_with_any_byte_changed_never_panics() {
    for_each(&mut Check {
        cases: 6,
        check: |decode, encoded, _| {
            for at in 0..encoded.len() {
                for change in [0x01, 0x80, 0xff] {
                    let mut changed = encoded.to_vec();
                    changed[at] ^= change;
                    cocoon_wire::fuzzing::packet(&changed);
                    let _ = decode(changed.into());
                }
            }
        },
    });
}
