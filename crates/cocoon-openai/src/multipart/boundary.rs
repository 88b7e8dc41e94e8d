//! The boundary of a form, as its `Content-Type` names it.

use crate::request::RequestError;

use super::head::Parameters;

/// Longest boundary, in bytes (RFC 2046 §5.1.1).
const MAX_BOUNDARY_BYTES: usize = 70;

/// A boundary that every reader reads alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boundary(String);

impl Boundary {
    /// The boundary that a `Content-Type` names; `None` where the type is not `multipart/form-data`.
    ///
    /// # Errors
    /// [`RequestError`] where it names none, two, or one that readers may read differently, or where it says that the fields
    /// are not in UTF-8.
    pub fn from_content_type(content_type: &str) -> Result<Option<Self>, RequestError> {
        let (media, rest) = content_type.split_once(';').unwrap_or((content_type, ""));
        if !media.trim().eq_ignore_ascii_case("multipart/form-data") {
            return Ok(None);
        }
        let malformed = || {
            RequestError::form(
                "The Content-Type can't be read; it should be 'multipart/form-data; boundary=...'.",
            )
        };
        let mut boundary = None;
        let rest = rest.trim();
        for parameter in Parameters::new(rest.strip_suffix(';').unwrap_or(rest)) {
            let (name, value) = parameter.ok_or_else(malformed)?;
            match name.to_ascii_lowercase().as_str() {
                "boundary" if boundary.is_some() => {
                    return Err(RequestError::form("The Content-Type names two boundaries."));
                }
                "boundary" => boundary = Some(value),
                "charset" if !value.eq_ignore_ascii_case("utf-8") => {
                    return Err(RequestError::form("The fields of a form must be in UTF-8."));
                }
                _ => {}
            }
        }
        let boundary = boundary.ok_or_else(|| RequestError::form("The Content-Type names no boundary."))?;
        // As RFC 2046, without the space, which readers trim or not.
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
        if boundary.is_empty() || boundary.len() > MAX_BOUNDARY_BYTES || !boundary.bytes().all(usual) {
            let message = format!(
                "The boundary must be 1 to {MAX_BOUNDARY_BYTES} letters, digits, or characters of '()+_,-./:=?"
            );
            return Err(RequestError::form(message));
        }
        Ok(Some(Self(boundary.to_owned())))
    }

    /// The `Content-Type` of a form with this boundary.
    #[must_use]
    pub fn content_type(&self) -> String {
        let plain = self.0.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"'+_-.".contains(&byte));
        let quote = if plain { "" } else { "\"" };
        format!("multipart/form-data; boundary={quote}{}{quote}", self.0)
    }

    /// As it stands in the `Content-Type`, without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn delimiter(&self) -> Vec<u8> {
        [b"--", self.0.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_boundary_is_found_and_written_again() {
        for (given, written) in [
            ("multipart/form-data; boundary=abc", "multipart/form-data; boundary=abc"),
            ("Multipart/Form-Data;Boundary=\"a:b\"", "multipart/form-data; boundary=\"a:b\""),
            ("multipart/form-data ; charset=UTF-8; boundary=----x ;", "multipart/form-data; boundary=----x"),
        ] {
            let boundary = Boundary::from_content_type(given).unwrap().unwrap();
            assert_eq!(boundary.content_type(), written);
            assert_eq!(Boundary::from_content_type(written), Ok(Some(boundary)));
        }
        for other in
            ["application/json", "", "multipart/mixed; boundary=a", "multipart/form-data-x; boundary=a"]
        {
            assert_eq!(Boundary::from_content_type(other), Ok(None), "{other}");
        }
    }

    #[test]
    fn a_type_that_readers_may_read_differently_is_refused() {
        for given in [
            "multipart/form-data",
            "multipart/form-data; boundary",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"\"",
            "multipart/form-data; boundary=\"a",
            "multipart/form-data; boundary=\"a\"b",
            "multipart/form-data; boundary=a b",
            "multipart/form-data; boundary=\"a b\"",
            "multipart/form-data; boundary=\"a\\b\"",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=a; Boundary=a",
            "multipart/form-data; boundary=a; charset=utf-16",
            "multipart/form-data; boundary=a;; x=y",
            "multipart/form-data; boundary=a, multipart/form-data; boundary=b",
            &format!("multipart/form-data; boundary={}", "a".repeat(71)),
        ] {
            assert!(Boundary::from_content_type(given).is_err(), "{given}");
        }
    }
}
