//! A JSON object read as ordered `key -> exact text of the value`, so that what is not changed passes on untouched.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Why bytes are not one object with distinct fields.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ObjectError {
    Syntax { line: usize, column: usize },
    Duplicate(String),
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
