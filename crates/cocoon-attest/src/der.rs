//! A small strict DER reader: definite, minimal lengths and one-byte tags, which is all a certificate needs.
//!
//! Ours, because general X.509 parsers refuse the version-1-with-extensions certificates that published nodes
//! send, and because what little of X.509 is read here is easier to judge than what a general parser accepts.

/// The universal and context tags that certificates use.
pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const CONTEXT_0: u8 = 0xa0;
    pub(crate) const CONTEXT_3: u8 = 0xa3;
}

/// The bytes are not the DER that was expected; names the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// One tag-length-value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    /// The value only.
    pub(crate) content: &'a [u8],
    /// Tag, length and value.
    pub(crate) whole: &'a [u8],
}

/// Reads elements from front to back.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next element, whatever its tag.
    pub(crate) fn any(&mut self, what: &'static str) -> Result<Element<'a>, Malformed> {
        let malformed = Malformed(what);
        let (&tag, after_tag) = self.rest.split_first().ok_or(malformed)?;
        // Tag numbers over 30 take more bytes and do not occur in certificates.
        if tag & 0x1f == 0x1f {
            return Err(malformed);
        }
        let (&first, after_first) = after_tag.split_first().ok_or(malformed)?;
        let (length, after_length) = match first {
            0..=0x7f => (usize::from(first), after_first),
            0x81..=0x83 => {
                let (digits, after) =
                    after_first.split_at_checked(usize::from(first & 0x7f)).ok_or(malformed)?;
                let length = digits.iter().fold(0_usize, |sum, &byte| (sum << 8) | usize::from(byte));
                // DER has one encoding per length: the shortest.
                let shortest = if digits.len() == 1 { length >= 0x80 } else { digits[0] != 0 };
                if !shortest {
                    return Err(malformed);
                }
                (length, after)
            }
            _ => return Err(malformed),
        };
        let (content, rest) = after_length.split_at_checked(length).ok_or(malformed)?;
        let whole = &self.rest[..self.rest.len() - rest.len()];
        self.rest = rest;
        Ok(Element { tag, content, whole })
    }

    /// The next element, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8, what: &'static str) -> Result<Element<'a>, Malformed> {
        let element = self.any(what)?;
        if element.tag == tag { Ok(element) } else { Err(Malformed(what)) }
    }

    /// The next element if it has this tag; otherwise nothing is consumed.
    pub(crate) fn optional(&mut self, tag: u8, what: &'static str) -> Result<Option<Element<'a>>, Malformed> {
        if self.rest.first() == Some(&tag) { self.any(what).map(Some) } else { Ok(None) }
    }

    /// A BOOLEAN if one comes next; `false` where it is left out, the default everywhere in certificates.
    pub(crate) fn boolean_or_false(&mut self, what: &'static str) -> Result<bool, Malformed> {
        match self.optional(tag::BOOLEAN, what)?.map(|element| element.content) {
            None | Some([0]) => Ok(false),
            Some([0xff]) => Ok(true),
            Some(_) => Err(Malformed(what)),
        }
    }

    /// Nothing may follow.
    pub(crate) fn finish(&self, what: &'static str) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed(what)) }
    }
}

/// A BIT STRING's bytes; only whole bytes where `padded` is false.
pub(crate) fn bit_string<'a>(
    element: Element<'a>,
    padded: bool,
    what: &'static str,
) -> Result<&'a [u8], Malformed> {
    match element.content.split_first() {
        Some((&unused, bytes)) if unused == 0 || (padded && unused < 8 && !bytes.is_empty()) => Ok(bytes),
        _ => Err(Malformed(what)),
    }
}

/// UTCTime or GeneralizedTime as RFC 5280 §4.1.2.5 allows them (to the second, in UTC), as seconds since 1970;
/// earlier times are 0.
pub(crate) fn time(element: Element<'_>, what: &'static str) -> Result<u64, Malformed> {
    let malformed = Malformed(what);
    let digits = element.content.strip_suffix(b"Z").ok_or(malformed)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed);
    }
    let pair = |at: usize| -> Option<u64> {
        let two = digits.get(at..at + 2)?;
        Some(u64::from(two[0] - b'0') * 10 + u64::from(two[1] - b'0'))
    };
    let (year, rest) = match (element.tag, digits.len()) {
        (tag::UTC_TIME, 12) => {
            let short = pair(0).ok_or(malformed)?;
            (if short < 50 { 2000 + short } else { 1900 + short }, 2)
        }
        (tag::GENERALIZED_TIME, 14) => (pair(0).ok_or(malformed)? * 100 + pair(2).ok_or(malformed)?, 4),
        _ => return Err(malformed),
    };
    let field = |index: usize| pair(rest + 2 * index).ok_or(malformed);
    let (month, day, hour, minute, second) = (field(0)?, field(1)?, field(2)?, field(3)?, field(4)?);
    let in_range = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !in_range {
        return Err(malformed);
    }
    if year < 1970 {
        return Ok(0);
    }
    Ok(((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// An object identifier in dotted form, for people to read.
pub(crate) fn dotted(oid: &[u8]) -> String {
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc = 0_u64;
    for &byte in oid {
        arc = (arc << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (arc / 40).min(2);
                arcs.push(first);
                arc -= first * 40;
            }
            arcs.push(arc);
            arc = 0;
        }
    }
    arcs.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Years run to 9999, so counting them one by one stays cheap and needs no calendar trick.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let months: u64 = (1..month).map(|month| days_in_month(year, month)).sum();
    years + months + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_time(tag: u8, text: &str) -> Result<u64, Malformed> {
        time(Element { tag, content: text.as_bytes(), whole: &[] }, "time")
    }

    #[test]
    fn times_are_seconds_since_1970() {
        assert_eq!(read_time(tag::UTC_TIME, "700101000000Z"), Ok(0));
        assert_eq!(read_time(tag::UTC_TIME, "261121024127Z"), Ok(1_795_228_887));
        assert_eq!(read_time(tag::GENERALIZED_TIME, "20000301000000Z"), Ok(951_868_800));
        assert_eq!(read_time(tag::GENERALIZED_TIME, "99991231235959Z"), Ok(253_402_300_799));
        assert_eq!(read_time(tag::UTC_TIME, "500101000000Z"), Ok(0), "1950 is before the epoch");
    }

    #[test]
    fn times_outside_the_calendar_or_without_zone_are_refused() {
        for text in [
            "261321024127Z",
            "260229000000Z",
            "260101240000Z",
            "2601010000Z",
            "260101000000",
            "26010100000\u{e9}",
        ] {
            assert_eq!(read_time(tag::UTC_TIME, text), Err(Malformed("time")), "{text}");
        }
    }

    #[test]
    fn lengths_must_be_the_shortest_encoding() {
        for bytes in
            [&[0x04, 0x81, 0x01, 0x00][..], &[0x04, 0x82, 0x00, 0x80], &[0x04, 0x80], &[0x04, 0x02, 0x00]]
        {
            assert!(Reader::new(bytes).any("element").is_err(), "{bytes:02x?}");
        }
        assert!(Reader::new(&[0x04, 0x01, 0x00]).any("element").is_ok());
    }

    #[test]
    fn object_identifiers_are_shown_dotted() {
        assert_eq!(dotted(&[0x2b, 0x06, 0x01, 0x04, 0x01, 0xe0, 0x39, 0x01]), "1.3.6.1.4.1.12345.1");
        assert_eq!(dotted(&[0x55, 0x1d, 0x0f]), "2.5.29.15");
    }
}
