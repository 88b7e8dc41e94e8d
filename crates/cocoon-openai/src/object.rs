//! A JSON object read as ordered `key -> exact text of the value`, so that what is not changed passes on untouched.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Most fields of an object that is read: in memory, each takes many times the bytes of a short one.
pub(crate) const MAX_FIELDS: usize = 4096;
/// Fields that a gateway adds to those of a request, and a worker reads beyond them.
const ADDED_FIELDS: usize = 16;

/// Why bytes are not one object with distinct fields.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ObjectError {
    Syntax { line: usize, column: usize },
    Duplicate(String),
    TooManyFields,
}

/// The fields of an object in their order; no key twice.
#[derive(Debug)]
pub(crate) struct RawObject<'a> {
    fields: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> RawObject<'a> {
    /// Reads one object; refuses a key that occurs twice, because readers disagree about which one counts.
    pub(crate) fn parse(json: &'a [u8]) -> Result<Self, ObjectError> {
        let object: Self = serde_json::from_slice(json)
            .map_err(|error| ObjectError::Syntax { line: error.line(), column: error.column() })?;
        if object.fields.len() > MAX_FIELDS + ADDED_FIELDS {
            return Err(ObjectError::TooManyFields);
        }
        let mut keys: Vec<&str> = object.fields.iter().map(|(key, _)| key.as_ref()).collect();
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(ObjectError::Duplicate(pair[0].to_owned())),
            None => Ok(object),
        }
    }

    /// The exact JSON text of a field's value.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_ref())
    }

    /// As [`Self::get`], with `null` read as absent.
    pub(crate) fn get_set(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| *value != "null")
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(name, _)| name.as_ref())
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Cow<'a, str>> {
        let at = self.fields.iter().position(|(name, _)| name == key)?;
        Some(self.fields.remove(at).1)
    }

    /// Replaces a value in its place, or adds the field at the end. `json` must be one JSON value.
    pub(crate) fn set(&mut self, key: &'a str, json: impl Into<Cow<'a, str>>) {
        match self.fields.iter_mut().find(|(name, _)| name == key) {
            Some((_, value)) => *value = json.into(),
            None => self.fields.push((Cow::Borrowed(key), json.into())),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    pub(crate) fn to_json(&self) -> String {
        let size: usize = self.fields.iter().map(|(key, value)| key.len() + value.len() + 6).sum();
        let mut out = String::with_capacity(size + 2);
        out.push('{');
        for (at, (key, value)) in self.fields.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            out.push_str(&serde_json::Value::from(key.as_ref()).to_string());
            out.push(':');
            out.push_str(value);
        }
        out.push('}');
        out
    }
}

impl<'de> Deserialize<'de> for RawObject<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = RawObject<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    if fields.len() > MAX_FIELDS + ADDED_FIELDS {
                        // It's refused; the rest is read to see that it is JSON.
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let value: &'de RawValue = map.next_value()?;
                    fields.push((key, Cow::Borrowed(value.get())));
                }
                Ok(RawObject { fields })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A key, borrowed where it holds no escapes (serde alone would copy every `Cow`).
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Hands out the elements of a JSON array one after the other, until `see` says `false`; none of what is no array. A list
/// of them would take many times the memory of the text.
pub(crate) fn each_element<'a>(json: &'a str, see: impl FnMut(&'a str) -> bool) {
    struct Elements<F>(F);
    impl<'de, F: FnMut(&'de str) -> bool> Visitor<'de> for Elements<F> {
        type Value = ();

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a JSON array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
            while let Some(element) = elements.next_element::<&'de RawValue>()? {
                if !(self.0)(element.get()) {
                    break;
                }
            }
            Ok(())
        }
    }
    // What is left unread is an error to serde, and none here.
    let _ = serde_json::Deserializer::from_str(json).deserialize_seq(Elements(see));
}

/// Whether the text of a JSON array has an element.
pub(crate) fn has_elements(array: &str) -> bool {
    array.strip_prefix('[').is_some_and(|rest| !rest.trim_ascii_start().starts_with(']'))
}

/// Where `part` lies within `whole`, if it is a slice of it.
pub(crate) fn span_of(whole: &[u8], part: &str) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (whole.get(start..end)? == part.as_bytes()).then_some(start..end)
}

/// `whole` with the bytes of `span` replaced.
pub(crate) fn splice(whole: &[u8], span: Range<usize>, new: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(whole.len() + new.len());
    out.extend_from_slice(&whole[..span.start]);
    out.extend_from_slice(new);
    out.extend_from_slice(&whole[span.end..]);
    out
}

/// The text of a JSON string; `None` where `json` is no string.
pub(crate) fn string_of(json: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Key<'_>>(json).ok().map(|Key(text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_in_order_until_they_are_enough_and_none_of_what_is_no_array() {
        let first = |json: &'static str, most: usize| {
            let mut seen = Vec::new();
            each_element(json, |element| {
                seen.push(element);
                seen.len() < most
            });
            seen
        };
        assert_eq!(first(r#"[ 1, {"a": [2]} ,"x"]"#, 9), ["1", r#"{"a": [2]}"#, "\"x\""]);
        assert_eq!(first("[1,2,3]", 2), ["1", "2"]);
        for none in ["[ ]", "{\"a\":1}", "7", "null", ""] {
            assert!(first(none, 9).is_empty() && !has_elements(none), "{none}");
        }
        assert!(has_elements("[ 1]"));
    }
}
