//! What a request wishes, beside what the published messages have fields for.

use bytes::Bytes;
use cocoon_market::Preference;
use cocoon_wire::tl::ext::{self, MAX_AFFINITY, MAX_TRACE_BYTES};

use crate::Violation;

/// A preference as it is sent.
const fn preference_to_wire(preference: Preference) -> i32 {
    match preference {
        Preference::Balanced => 0,
        Preference::Cheapest => 1,
        Preference::Fastest => 2,
    }
}

/// A preference as it was sent. One that we do not know is none.
const fn preference_from_wire(number: i32) -> Preference {
    match number {
        1 => Preference::Cheapest,
        2 => Preference::Fastest,
        _ => Preference::Balanced,
    }
}

/// The options of a request, checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Options {
    /// Bits of [`ext::ability`].
    pub(crate) needs: u32,
    pub(crate) preference: Preference,
    /// Hashes of growing prefixes, shortest first.
    pub(crate) affinity: Vec<u64>,
    /// A W3C `traceparent`.
    pub(crate) trace: Option<String>,
    /// Body bytes that follow the query; `None`: the query holds all of them.
    pub(crate) body_bytes: Option<u64>,
}

impl Options {
    pub(crate) fn to_wire(&self, request_id: [u8; 32]) -> ext::RequestOptions {
        let affinity = self.affinity.iter().take(MAX_AFFINITY).map(|hash| hash.cast_signed());
        let trace = self.trace.as_deref().filter(|trace| is_trace(trace.as_bytes()));
        ext::RequestOptions {
            request_id,
            needs: self.needs.cast_signed(),
            preference: preference_to_wire(self.preference),
            affinity: affinity.collect(),
            trace: trace.map_or_else(Bytes::new, |trace| Bytes::copy_from_slice(trace.as_bytes())),
            body_bytes: self.body_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        }
    }

    pub(crate) fn from_wire(message: ext::RequestOptions) -> Result<Self, Violation> {
        if message.affinity.len() > MAX_AFFINITY {
            return Err(Violation::Unexpected("number of hashes for affinity"));
        }
        if !message.trace.is_empty() && !is_trace(&message.trace) {
            return Err(Violation::Unexpected("trace of a request"));
        }
        let body_bytes = match message.body_bytes {
            -1 => None,
            bytes => Some(u64::try_from(bytes).map_err(|_| Violation::Unexpected("length of a body"))?),
        };
        let trace = String::from_utf8_lossy(&message.trace).into_owned();
        Ok(Self {
            needs: message.needs.cast_unsigned(),
            preference: preference_from_wire(message.preference),
            affinity: message.affinity.into_iter().map(i64::cast_unsigned).collect(),
            trace: Some(trace).filter(|trace| !trace.is_empty()),
            body_bytes,
        })
    }
}

/// Whether this can be a `traceparent`; what it says is for those who keep traces.
fn is_trace(text: &[u8]) -> bool {
    !text.is_empty() && text.len() <= MAX_TRACE_BYTES && text.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            needs: ext::ability::CHAT | 1 << 31,
            preference: Preference::Fastest,
            affinity: vec![1, u64::MAX],
            trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
            body_bytes: Some(7),
        }
    }

    #[test]
    fn options_arrive_as_they_were_sent() {
        for options in [options(), Options::default()] {
            assert_eq!(Options::from_wire(options.to_wire([1; 32])), Ok(options));
        }
    }

    #[test]
    fn what_is_over_a_limit_is_not_sent_and_is_a_violation_where_it_comes() {
        let sent = Options { affinity: vec![5; MAX_AFFINITY + 1], ..options() }.to_wire([1; 32]);
        assert_eq!(sent.affinity.len(), MAX_AFFINITY);
        let sent = Options { trace: Some("a b".to_owned()), ..options() }.to_wire([1; 32]);
        assert!(sent.trace.is_empty());
        let good = options().to_wire([1; 32]);
        let long = Bytes::from(vec![b'0'; MAX_TRACE_BYTES + 1]);
        for bad in [
            ext::RequestOptions { affinity: vec![5; MAX_AFFINITY + 1], ..good.clone() },
            ext::RequestOptions { trace: long, ..good.clone() },
            ext::RequestOptions { trace: Bytes::from_static(b"a\r\nb"), ..good.clone() },
            ext::RequestOptions { trace: Bytes::from_static(b"\xff"), ..good.clone() },
            ext::RequestOptions { body_bytes: -2, ..good.clone() },
        ] {
            assert!(Options::from_wire(bad.clone()).is_err(), "{bad:?} passes");
        }
    }

    #[test]
    fn an_unknown_preference_is_none() {
        assert_eq!(preference_from_wire(77), Preference::Balanced);
        for preference in Preference::ALL {
            assert_eq!(preference_from_wire(preference_to_wire(preference)), preference);
        }
    }
}
