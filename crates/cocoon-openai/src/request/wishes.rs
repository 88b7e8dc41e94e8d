//! What a caller wishes of the network and not of the engine: price, time, preference.
//!
//! A wish is a header (any endpoint) or a field of the body; fields are taken out before the body goes on. Where both
//! name one, the stricter binds: the lower price, the shorter time. Of two preferences or names, the body's counts.

use std::borrow::Cow;
use std::time::Duration;

use super::error::RequestError;
use super::{HIGHEST_COEFFICIENT, MAX_TIMEOUT_SECONDS, read_whole, to_i32};
use crate::object::{RawObject, string_of};

/// Longest name that a caller gives a request, in bytes.
const MAX_GUID_BYTES: usize = 1024;
/// What wishes' headers begin with, in small letters.
const HEADER_PREFIX: &str = "x-cocoon-";

/// What a caller prefers among the workers that it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preference {
    /// Cheap and fast, weighed against each other.
    #[default]
    Balanced,
    /// The lowest price.
    Cheapest,
    /// The shortest time.
    Fastest,
}

impl Preference {
    /// Its name, as callers write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::Cheapest => "cheapest",
            Self::Fastest => "fastest",
        }
    }
}

/// What a caller wishes; all of it may be left open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// Highest price coefficient, in thousandths.
    pub max_coefficient: Option<i32>,
    /// Highest price, in nanoton per million completion tokens.
    pub max_price: Option<u64>,
    /// Deadline; above zero, at most [`MAX_TIMEOUT_SECONDS`].
    pub timeout: Option<Duration>,
    /// What is preferred among workers.
    pub preference: Option<Preference>,
    /// After how long without an answer a second worker may be asked, too.
    pub hedge: Option<Duration>,
    /// Whether debugging data are asked for.
    pub enable_debug: bool,
    /// The caller's own name for the request.
    pub request_guid: Option<String>,
}

/// One of the wishes, by its name in a body and in headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    MaxCoefficient,
    MaxPrice,
    Timeout,
    Preference,
    Hedge,
    EnableDebug,
    RequestGuid,
}

impl Wish {
    const ALL: [Self; 7] = [
        Self::MaxCoefficient,
        Self::MaxPrice,
        Self::Timeout,
        Self::Preference,
        Self::Hedge,
        Self::EnableDebug,
        Self::RequestGuid,
    ];

    /// The wish that a field of a body is.
    pub(crate) fn of_field(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|wish| wish.field() == Some(name))
    }

    fn field(self) -> Option<&'static str> {
        match self {
            Self::MaxCoefficient => Some("max_coefficient"),
            Self::MaxPrice => Some("max_price"),
            Self::Timeout => Some("timeout"),
            Self::Preference => Some("preference"),
            Self::Hedge => None,
            Self::EnableDebug => Some("enable_debug"),
            Self::RequestGuid => Some("request_guid"),
        }
    }

    fn header(self) -> &'static str {
        match self {
            Self::MaxCoefficient => "X-Cocoon-Max-Coefficient",
            Self::MaxPrice => "X-Cocoon-Max-Price",
            Self::Timeout => "X-Cocoon-Timeout",
            Self::Preference => "X-Cocoon-Preference",
            Self::Hedge => "X-Cocoon-Hedge",
            Self::EnableDebug => "X-Cocoon-Enable-Debug",
            Self::RequestGuid => "X-Cocoon-Request-Guid",
        }
    }

    /// Whether its value in JSON is a string.
    fn is_text(self) -> bool {
        matches!(self, Self::Preference | Self::RequestGuid)
    }
}

impl Wishes {
    /// Reads the wishes among a request's headers, given as names and values; other headers are not looked at.
    ///
    /// # Errors
    /// [`RequestError`] where a wish is given twice or makes no sense.
    pub fn from_headers<'a>(
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, RequestError> {
        let mut wishes = Self::default();
        let mut seen = [false; Wish::ALL.len()];
        for (name, value) in headers {
            let is_ours = name
                .get(..HEADER_PREFIX.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(HEADER_PREFIX));
            if !is_ours {
                continue;
            }
            let Some(at) = Wish::ALL.iter().position(|wish| wish.header().eq_ignore_ascii_case(name)) else {
                continue;
            };
            let wish = Wish::ALL[at];
            if std::mem::replace(&mut seen[at], true) {
                return Err(RequestError::duplicate(wish.header().to_owned()));
            }
            let text = std::str::from_utf8(value)
                .map_err(|_| RequestError::wrong_type(wish.header(), "plain text"))?;
            wishes.set(wish, wish.header(), text.trim())?;
        }
        Ok(wishes)
    }

    /// Takes the wishes out of a JSON body; `null` is no wish.
    pub(crate) fn take(object: &mut RawObject<'_>) -> Result<Self, RequestError> {
        let mut wishes = Self::default();
        for wish in Wish::ALL {
            let Some(field) = wish.field() else { continue };
            let Some(json) = object.remove(field).filter(|json| json != "null") else { continue };
            let text = match (wish.is_text(), string_of(&json)) {
                (true, Some(text)) => text,
                (true, None) => return Err(RequestError::wrong_type(field, "a string")),
                (false, _) => Cow::Borrowed(json.as_ref()),
            };
            wishes.set(wish, field, &text)?;
        }
        Ok(wishes)
    }

    /// Takes a wish from a field of a form.
    pub(crate) fn set_field(&mut self, wish: Wish, text: &str) -> Result<(), RequestError> {
        match wish.field() {
            Some(field) => self.set(wish, field, text),
            None => Ok(()),
        }
    }

    fn set(&mut self, wish: Wish, name: &'static str, text: &str) -> Result<(), RequestError> {
        match wish {
            Wish::MaxCoefficient => {
                let cap = read_whole(text)
                    .ok_or_else(|| RequestError::wrong_type(name, "a non-negative integer"))?;
                self.max_coefficient = Some(to_i32(cap).min(HIGHEST_COEFFICIENT));
            }
            Wish::MaxPrice => {
                let expected = "a non-negative integer: nanoton per million completion tokens";
                let price = read_whole(text).ok_or_else(|| RequestError::wrong_type(name, expected))?;
                self.max_price = Some(price);
            }
            Wish::Timeout => self.timeout = Some(read_timeout(name, text)?),
            Wish::Preference => {
                let known = [Preference::Balanced, Preference::Cheapest, Preference::Fastest];
                let found = known.into_iter().find(|preference| preference.name() == text);
                let expected = "'balanced', 'cheapest' or 'fastest'";
                self.preference = Some(found.ok_or_else(|| RequestError::wrong_value(name, expected))?);
            }
            Wish::Hedge => {
                let millis = read_whole(text)
                    .ok_or_else(|| RequestError::wrong_type(name, "a number of milliseconds"))?;
                self.hedge = Some(Duration::from_millis(millis));
            }
            Wish::EnableDebug => {
                self.enable_debug = match text {
                    "true" => true,
                    "false" => false,
                    _ => return Err(RequestError::wrong_type(name, "a boolean")),
                };
            }
            Wish::RequestGuid => {
                if text.len() > MAX_GUID_BYTES {
                    return Err(RequestError::wrong_value(name, "at most 1024 bytes"));
                }
                self.request_guid = Some(text.to_owned());
            }
        }
        Ok(())
    }

    /// What binds where the body and the headers (`self` and `headers`) both wish.
    pub(crate) fn and(self, headers: Self) -> Self {
        fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            match (one, other) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            }
        }
        Self {
            max_coefficient: least(self.max_coefficient, headers.max_coefficient),
            max_price: least(self.max_price, headers.max_price),
            timeout: least(self.timeout, headers.timeout),
            preference: self.preference.or(headers.preference),
            hedge: self.hedge.or(headers.hedge),
            enable_debug: self.enable_debug || headers.enable_debug,
            request_guid: self.request_guid.or(headers.request_guid),
        }
    }
}

fn read_timeout(name: &'static str, text: &str) -> Result<Duration, RequestError> {
    let seconds: f64 =
        serde_json::from_str(text).map_err(|_| RequestError::wrong_type(name, "a number of seconds"))?;
    Duration::try_from_secs_f64(seconds.min(MAX_TIMEOUT_SECONDS))
        .ok()
        .filter(|timeout| !timeout.is_zero())
        .ok_or_else(|| RequestError::wrong_value(name, "a number of seconds above 0"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Result<Wishes, RequestError> {
        Wishes::from_headers(pairs.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    #[test]
    fn headers_say_what_fields_say() {
        let wishes = headers(&[
            ("x-cocoon-max-coefficient", "1500"),
            ("X-Cocoon-Max-Price", "7000"),
            ("x-cocoon-timeout", " 2.5 "),
            ("x-cocoon-preference", "fastest"),
            ("x-cocoon-hedge", "250"),
            ("x-cocoon-enable-debug", "true"),
            ("x-cocoon-request-guid", "g"),
            ("x-cocoon-unknown", "\u{fe}"),
            ("accept", "text/plain"),
        ])
        .unwrap();
        let expected = Wishes {
            max_coefficient: Some(1500),
            max_price: Some(7000),
            timeout: Some(Duration::from_millis(2500)),
            preference: Some(Preference::Fastest),
            hedge: Some(Duration::from_millis(250)),
            enable_debug: true,
            request_guid: Some("g".to_owned()),
        };
        assert_eq!(wishes, expected);
        let body = br#"{"a":1,"max_coefficient":1500,"max_price":7000,"timeout":2.5,"preference":"fastest",
            "enable_debug":true,"request_guid":"g","b":2}"#;
        let mut object = RawObject::parse(body).unwrap();
        assert_eq!(Wishes::take(&mut object).unwrap(), Wishes { hedge: None, ..expected });
        assert_eq!(object.to_json(), r#"{"a":1,"b":2}"#);
    }

    #[test]
    fn the_stricter_of_two_wishes_binds() {
        let low = Wishes {
            max_coefficient: Some(5),
            timeout: Some(Duration::from_secs(9)),
            preference: Some(Preference::Cheapest),
            ..Wishes::default()
        };
        let high = Wishes {
            max_coefficient: Some(7),
            max_price: Some(1),
            timeout: Some(Duration::from_secs(3)),
            preference: Some(Preference::Fastest),
            ..Wishes::default()
        };
        let both = low.clone().and(high.clone());
        assert_eq!((both.max_coefficient, both.max_price), (Some(5), Some(1)));
        assert_eq!(
            (both.timeout, both.preference),
            (Some(Duration::from_secs(3)), Some(Preference::Cheapest))
        );
        assert_eq!(high.and(low).preference, Some(Preference::Fastest));
    }

    #[test]
    fn a_wish_that_makes_no_sense_is_refused_by_its_name() {
        for (name, value) in [
            ("X-Cocoon-Max-Coefficient", "-1"),
            ("X-Cocoon-Max-Price", "1.5"),
            ("X-Cocoon-Timeout", "0"),
            ("X-Cocoon-Timeout", "soon"),
            ("X-Cocoon-Preference", "Cheapest"),
            ("X-Cocoon-Hedge", ""),
            ("X-Cocoon-Enable-Debug", "1"),
        ] {
            let error = headers(&[(name, value)]).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(name), "{value}");
        }
        let twice = headers(&[("x-cocoon-timeout", "1"), ("X-Cocoon-Timeout", "2")]).unwrap_err();
        assert_eq!(twice.code, "duplicate_parameter");
        for body in [r#"{"preference":1}"#, r#"{"max_price":"5"}"#, r#"{"enable_debug":"true"}"#] {
            let mut object = RawObject::parse(body.as_bytes()).unwrap();
            assert_eq!(Wishes::take(&mut object).unwrap_err().code, "invalid_type", "{body}");
        }
    }
}
