//! Writes the DER that certificates and revocation lists are made of.

use cocoon_attest::UnixSeconds;

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
pub(super) const CONTEXT_0: u8 = 0xa0;
pub(super) const CONTEXT_3: u8 = 0xa3;

/// Tag, length and value.
pub(super) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len().to_be_bytes();
    let digits = &len[len.iter().take_while(|byte| **byte == 0).count()..];
    let mut element = vec![tag];
    match digits {
        [] => element.push(0),
        [short] if *short < 0x80 => element.push(*short),
        long => {
            // At most 8 digits, so the sum stays within a byte.
            element.push(0x80 | u8::try_from(long.len()).unwrap_or(8));
            element.extend(long);
        }
    }
    element.extend(content);
    element
}

pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

/// A number without sign, from big-endian bytes.
pub(super) fn integer(digits: &[u8]) -> Vec<u8> {
    let start = digits.iter().take_while(|byte| **byte == 0).count();
    let mut content = digits[start..].to_vec();
    if content.first().is_none_or(|first| *first >= 0x80) {
        content.insert(0, 0);
    }
    tlv(INTEGER, &content)
}

pub(super) fn bit_string(bytes: &[u8], unused: u8) -> Vec<u8> {
    tlv(BIT_STRING, &[&[unused], bytes].concat())
}

/// Years 1970 to 2049.
pub(super) fn utc_time(at: UnixSeconds) -> Vec<u8> {
    let [year, month, day, hour, minute, second] = calendar(at);
    let text = format!("{:02}{month:02}{day:02}{hour:02}{minute:02}{second:02}Z", year % 100);
    tlv(UTC_TIME, text.as_bytes())
}

/// As JSON has it: `2026-11-21T02:41:27Z`.
pub(super) fn json_time(at: UnixSeconds) -> String {
    let [year, month, day, hour, minute, second] = calendar(at);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month, day, hour, minute and second in UTC.
fn calendar(at: UnixSeconds) -> [u64; 6] {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Beyond the year 9999 nothing is written, and counting years one by one must end.
    let seconds = at.0.min(253_402_300_799);
    let (mut days, rest) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for len in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < len {
            break;
        }
        days -= len;
        month += 1;
    }
    [year, month, days + 1, rest / 3600, rest / 60 % 60, rest % 60]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        assert_eq!(json_time(UnixSeconds(0)), "1970-01-01T00:00:00Z");
        assert_eq!(json_time(UnixSeconds(1_795_228_887)), "2026-11-21T02:41:27Z");
        assert_eq!(json_time(UnixSeconds(951_782_400)), "2000-02-29T00:00:00Z");
        assert_eq!(json_time(UnixSeconds(1_735_689_599)), "2024-12-31T23:59:59Z");
        assert_eq!(utc_time(UnixSeconds(1_795_228_887))[2..], *b"261121024127Z");
    }

    #[test]
    fn lengths_and_numbers_take_their_shortest_form() {
        assert_eq!(tlv(4, &[]), [4, 0]);
        assert_eq!(tlv(4, &[7; 127])[..2], [4, 127]);
        assert_eq!(tlv(4, &[7; 128])[..3], [4, 0x81, 128]);
        assert_eq!(tlv(4, &[7; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(integer(&[0, 0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0]), [2, 1, 0]);
    }
}
