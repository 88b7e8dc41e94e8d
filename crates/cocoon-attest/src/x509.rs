//! What is the same in the certificates of all vendors (RFC 5280).

use crate::der::{Malformed, Reader, tag};

pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SET: u8 = 0x31;

/// Bits of KeyUsage (RFC 5280 §4.2.1.3), as DER orders them in the first byte.
pub(crate) const DIGITAL_SIGNATURE: u8 = 0x80;
pub(crate) const CERT_SIGN: u8 = 0x04;

/// Whether it is an authority, and how many of them may stand below it.
pub(crate) fn basic_constraints(value: &[u8]) -> Result<(bool, Option<u8>), Malformed> {
    let what = "basic constraints";
    let mut reader = Reader::new(value);
    let mut content = Reader::new(reader.expect(tag::SEQUENCE, what)?.content);
    reader.finish(what)?;
    let authority = content.boolean_or_false(what)?;
    let path_len = match content.optional(tag::INTEGER, what)?.map(|number| number.content) {
        None => None,
        Some([number]) if *number < 0x80 => Some(*number),
        Some(_) => return Err(Malformed(what)),
    };
    content.finish(what)?;
    Ok((authority, path_len))
}

/// The common name in a distinguished name, if it has one in plain text.
pub(crate) fn common_name(name: &[u8]) -> Option<&str> {
    let mut outer = Reader::new(name);
    let mut sets = Reader::new(outer.expect(tag::SEQUENCE, "name").ok()?.content);
    while !sets.is_empty() {
        let mut set = Reader::new(sets.expect(SET, "name").ok()?.content);
        let mut attribute = Reader::new(set.expect(tag::SEQUENCE, "name").ok()?.content);
        if attribute.expect(tag::OID, "name").ok()?.content == COMMON_NAME {
            return std::str::from_utf8(attribute.any("name").ok()?.content).ok();
        }
    }
    None
}
