//! Request bodies that stream: how a request is split for sending, and what the receiver of a body holds its sender to.
//!
//! A small body goes whole in the query, as in the published protocol: no credit has to go round for it, the proxy can
//! give it to another worker, and it keeps a connection busy for no longer than a few parts do. A larger one begins in
//! the query and goes on in parts, which take turns with those of other requests ([`crate::outbox`]), as far as the
//! receiver has granted credit.

use bytes::{Bytes, BytesMut};
use cocoon_wire::codec::{from_boxed, to_boxed};
use cocoon_wire::tl::http;

use crate::{INITIAL_CREDIT_BYTES, MAX_PART_BYTES, Violation};

/// Largest body that goes whole in its query, in bytes: as much as may be under way without credit.
pub const WHOLE_BODY_BYTES: usize = INITIAL_CREDIT_BYTES;
/// Bytes of a larger body that go in its query: one part's worth.
pub const FIRST_BODY_BYTES: usize = MAX_PART_BYTES;
/// Largest body of a request at a proxy or worker, unless configured otherwise, in bytes.
pub const DEFAULT_MAX_BODY_BYTES: u64 = 128 * 1024 * 1024;
/// Smaller pieces are copied where they wait, so that they do not keep the buffer that they came in.
const WORTH_SHARING: usize = 16 * 1024;

/// Splits a request into its query, boxed, and the bytes of the body that follow; none where it goes whole. The body is
/// not copied, but for what goes in the query.
#[must_use]
pub fn split_body(mut request: http::Request) -> (Bytes, Bytes) {
    let rest = if request.payload.len() > WHOLE_BODY_BYTES {
        request.payload.split_off(FIRST_BODY_BYTES)
    } else {
        Bytes::new()
    };
    (to_boxed(&request), rest)
}

/// The query with the whole body in it, for peers that know no other; `None` where it is no `http.request`.
pub(crate) fn join_body(query: &Bytes, rest: &[u8]) -> Option<Bytes> {
    let mut request: http::Request = from_boxed(query.clone()).ok()?;
    let mut payload = BytesMut::with_capacity(request.payload.len() + rest.len());
    payload.extend_from_slice(&request.payload);
    payload.extend_from_slice(rest);
    request.payload = payload.freeze();
    Some(to_boxed(&request))
}

/// Received bytes as they may wait for long.
pub(crate) fn compact(data: Bytes) -> Bytes {
    if data.len() < WORTH_SHARING { Bytes::copy_from_slice(&data) } else { data }
}

/// The receiver's end of one body.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// Bytes still to come.
    left: u64,
    /// How many of them may come now.
    credit: usize,
    /// Passed on, and not granted again yet.
    taken: usize,
}

impl Incoming {
    /// A body of which so many bytes are to come.
    pub(crate) const fn new(bytes: u64) -> Self {
        Self { left: bytes, credit: INITIAL_CREDIT_BYTES, taken: 0 }
    }

    /// Takes note of a part.
    pub(crate) fn part(&mut self, bytes: usize, last: bool) -> Result<(), Violation> {
        if bytes == 0 || bytes > MAX_PART_BYTES {
            return Err(Violation::Unexpected("size of a part of a body"));
        }
        if bytes > self.credit {
            return Err(Violation::Unexpected("part of a body beyond the credit"));
        }
        let left = self.left.checked_sub(bytes as u64);
        match left {
            None => Err(Violation::Unexpected("part beyond the end of a body")),
            Some(left) if last != (left == 0) => Err(Violation::Unexpected("end of a body")),
            Some(left) => {
                self.left = left;
                self.credit -= bytes;
                Ok(())
            }
        }
    }

    /// Notes that so many bytes were passed on, and says how much to grant for it now.
    pub(crate) fn taken(&mut self, bytes: usize) -> Option<i64> {
        self.taken += bytes;
        if self.taken < INITIAL_CREDIT_BYTES / 4 || self.left <= self.credit as u64 {
            return None;
        }
        let bytes = std::mem::take(&mut self.taken);
        self.credit += bytes;
        i64::try_from(bytes).ok()
    }

    pub(crate) const fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Bytes that are still to come.
    pub(crate) const fn left(&self) -> u64 {
        self.left
    }

    /// Whether the sender may send now.
    pub(crate) const fn awaits(&self) -> bool {
        self.left > 0 && self.credit > 0
    }
}

#[cfg(test)]
mod tests {
    use cocoon_wire::codec::ByteStr;

    use super::*;

    fn request(bytes: usize) -> http::Request {
        http::Request {
            method: ByteStr::from_static("POST"),
            url: ByteStr::from_static("/"),
            http_version: ByteStr::from_static("HTTP/1.1"),
            headers: Vec::new(),
            payload: (0..bytes).map(|number| number.to_le_bytes()[0]).collect::<Vec<u8>>().into(),
        }
    }

    #[test]
    fn a_body_up_to_the_limit_goes_whole_and_a_larger_one_is_split_and_fits_together_again() {
        let (query, rest) = split_body(request(WHOLE_BODY_BYTES));
        assert!(rest.is_empty() && query == to_boxed(&request(WHOLE_BODY_BYTES)));
        let (query, rest) = split_body(request(WHOLE_BODY_BYTES + 1));
        assert_eq!(rest.len(), WHOLE_BODY_BYTES + 1 - FIRST_BODY_BYTES);
        assert_eq!(join_body(&query, &rest), Some(to_boxed(&request(WHOLE_BODY_BYTES + 1))));
    }

    #[test]
    fn a_body_that_comes_as_announced_is_complete() {
        let mut body = Incoming::new(100);
        assert_eq!((body.part(60, false), body.is_complete()), (Ok(()), false));
        assert_eq!((body.part(40, true), body.is_complete()), (Ok(()), true));
    }

    #[test]
    fn parts_that_do_not_fit_the_announcement_are_violations() {
        let half = || {
            let mut body = Incoming::new(100);
            assert_eq!(body.part(50, false), Ok(()));
            body
        };
        assert!(half().part(49, true).is_err(), "a body that ends early");
        assert!(half().part(50, false).is_err(), "a body that should end and does not");
        assert!(half().part(51, true).is_err(), "a body that is too long");
        assert!(half().part(0, false).is_err(), "an empty part");
        let mut done = Incoming::new(1);
        assert_eq!(done.part(1, true), Ok(()));
        assert!(done.part(1, true).is_err() && done.part(0, true).is_err(), "a part after the end");
    }

    #[test]
    fn no_more_comes_than_was_granted() {
        let mut body = Incoming::new(1 << 40);
        assert!(body.part(MAX_PART_BYTES + 1, false).is_err(), "a part over the limit");
        for _ in 0..INITIAL_CREDIT_BYTES / MAX_PART_BYTES {
            assert_eq!(body.part(MAX_PART_BYTES, false), Ok(()));
        }
        assert!(!body.awaits() && body.part(1, false).is_err());
        assert_eq!(body.taken(1), None, "a step is larger");
        assert_eq!(body.taken(MAX_PART_BYTES), Some(65_537));
        assert_eq!(body.part(MAX_PART_BYTES, false), Ok(()));
        assert_eq!(body.part(1, false), Ok(()));
        assert!(body.part(1, false).is_err());
    }

    #[test]
    fn nothing_is_granted_that_is_not_needed() {
        let mut body = Incoming::new(INITIAL_CREDIT_BYTES as u64);
        assert_eq!(body.part(MAX_PART_BYTES, false), Ok(()));
        assert_eq!(body.taken(MAX_PART_BYTES), None);
    }
}
